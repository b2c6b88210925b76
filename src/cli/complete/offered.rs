//! Names that begin with what is typed: at most so many, however many there are.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::layout::shown;
use crate::limits::OFFERED_MAX;

/// A word, and what is said of it where the shell shows that.
pub(super) type Candidate = (OsString, String);

/// The first `OFFERED_MAX` names in their order, and the last: what these begin with is what all begin
/// with, so a shell puts nothing into the line that would leave some of them out.
#[derive(Clone)]
pub(super) struct Offered<'a> {
    typed: &'a [u8],
    /// After `--` an item's name may begin with a dash.
    may_begin_with_dash: bool,
    first: BTreeMap<OsString, String>,
    last: Option<Candidate>,
}

impl<'a> Offered<'a> {
    pub(super) fn new(typed: &'a OsStr, may_begin_with_dash: bool) -> Offered<'a> {
        Offered {
            typed: typed.as_bytes(),
            may_begin_with_dash,
            first: BTreeMap::new(),
            last: None,
        }
    }

    pub(super) fn add(&mut self, name: OsString, why: &str) {
        if !name.as_bytes().starts_with(self.typed) || !self.is_word(&name) {
            return;
        }
        let is_full = self.first.len() >= OFFERED_MAX;
        if is_full
            && self
                .first
                .last_key_value()
                .is_some_and(|(last, _)| *last < name)
        {
            if self.last.as_ref().is_none_or(|(last, _)| *last < name) {
                self.last = Some((name, why.to_owned()));
            }
            return;
        }
        self.first.entry(name).or_insert_with(|| why.to_owned());
        if self.first.len() > OFFERED_MAX {
            let over = self.first.pop_last();
            let last = self.last.take();
            self.last = last.max(over);
        }
    }

    /// Whether it can stand in a list and in a command line as it is.
    fn is_word(&self, name: &OsStr) -> bool {
        let dash = name.as_bytes().starts_with(b"-");
        (!dash || self.may_begin_with_dash) && name.to_str().is_some_and(|text| shown(name) == text)
    }

    pub(super) fn all(self) -> impl Iterator<Item = Candidate> {
        self.first.into_iter().chain(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(typed: &str, names: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut offered = Offered::new(OsStr::new(typed), false);
        for name in names {
            offered.add(name.into(), "");
        }
        let names = offered.all().map(|(name, _)| name.into_string());
        names.collect::<Result<_, _>>().expect("text")
    }

    #[test]
    fn of_many_names_the_first_and_the_last_are_offered_whatever_order_they_come_in() {
        let names = |n: usize| (0..n).map(|n| format!("x{n:05}"));
        assert_eq!(offered("x", names(3)), ["x00000", "x00001", "x00002"]);
        let up = offered("x", names(5_000));
        assert_eq!(up.len(), OFFERED_MAX + 1);
        assert_eq!((&*up[0], &*up[OFFERED_MAX]), ("x00000", "x04999"));
        let down: Vec<String> = names(5_000).collect();
        assert_eq!(offered("x", down.into_iter().rev()), up);
        let twice = names(OFFERED_MAX + 1).chain(names(OFFERED_MAX + 1));
        assert_eq!(offered("x", twice).len(), OFFERED_MAX + 1);
    }

    #[test]
    fn what_cannot_be_shown_as_it_is_is_not_offered() {
        let names = ["a\nb", "a\u{1b}[2J", "-a", "a\u{202e}", "a b", "$(a)"];
        let names = names.map(str::to_owned);
        assert_eq!(offered("", names), ["$(a)", "a b"]);
    }
}
