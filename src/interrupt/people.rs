//! What people type, and files that they drop by hand: whom a name is for, what was probably meant by
//! one that is for nobody, and the commands that end an interrupt.
//!
//! Invariant: only `agent-N` and `all`, spelled out, are for anybody.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;

use super::{ALL, ENDING, look};
use crate::folder::Folder;
use crate::layout::{Name, Root, SlotId, shown};
use crate::quote;

/// The stem of the interrupt that is meant by exactly this: `agent-N` or `all`.
pub fn stem_of(typed: &OsStr) -> Option<String> {
    match SlotId::parse(typed) {
        Some(slot) => Some(slot.to_string()),
        None => (typed == ALL).then(|| ALL.to_owned()),
    }
}

/// The stem that was probably meant: `agent2`, `Agent-2`, `2`, `slot_2`, `All`.
pub fn meant(typed: &OsStr) -> Option<String> {
    let text = typed.to_str()?.trim().to_ascii_lowercase();
    let text = text.strip_suffix(ENDING).unwrap_or(&text);
    if ["all", "*", "everybody", "everyone", "every"].contains(&text) {
        return Some(ALL.to_owned());
    }
    let word = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: usize = text[word.len()..].parse().ok()?;
    let word = word.trim_end_matches(|c: char| !c.is_alphanumeric());
    let is_known = ["", "a", "slot", "worker", "agents"].contains(&word)
        || strsim::osa_distance(word, "agent") <= 2;
    (is_known && number > 0).then(|| SlotId(number).to_string())
}

/// The stem of an interrupt's file, if it is for anybody.
pub(super) fn stem_of_file(file: &OsStr) -> Option<String> {
    let stem = file.as_bytes().strip_suffix(ENDING.as_bytes())?;
    stem_of(OsStr::from_bytes(stem))
}

/// Files in the folder that look like interrupts and are for nobody: each with what is wrong with it.
pub fn odd(root: &Root, known: &Mutex<Folder>) -> Vec<(String, String)> {
    let mut odd = look(root, known, odd_of).unwrap_or_default();
    odd.sort();
    odd
}

fn odd_of(files: &[OsString]) -> Vec<(String, String)> {
    let is_odd = |f: &&OsString| !Name::is_ignored(f) && stem_of_file(f).is_none();
    let odd = files.iter().filter(is_odd).map(|file| {
        let stem = Path::new(file).file_stem().unwrap_or(file);
        let right = meant(file)
            .or_else(|| stem_of(stem))
            .or_else(|| meant(stem));
        let right = right.unwrap_or_else(|| "agent-N".to_owned());
        let why = format!(
            "it holds nobody back: an interrupt is called agent-N{ENDING} or {ALL}{ENDING}; \
             rename it to {right}{ENDING}, or remove it"
        );
        (format!("state/interrupts/{}", shown(file)), why)
    });
    odd.collect()
}

/// What to type about an interrupt, the likeliest first. `harness`: the beginning of the command.
/// `item`: the item of the agent that waits for its end; `None`: no agent does.
pub fn ways(harness: &str, stem: &str, item: Option<&Name>) -> String {
    if stem == ALL {
        return format!("`{harness} resume {ALL}` lets them go on");
    }
    let Some(item) = item else {
        return format!("`{harness} resume {stem}` ends it");
    };
    format!(
        "`{harness} resume {stem} --answer '…'` answers it, `{harness} resume {stem}` just lets it go on, \
         `{harness} cancel {}` gives the item up",
        quote::item(item)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slot_and_all_are_for_anybody_and_near_misses_are_understood() {
        let of = |typed: &str| {
            let typed = OsStr::new(typed);
            (stem_of(typed), meant(typed))
        };
        for (typed, right) in [
            ("agent2", "agent-2"),
            ("Agent-2", "agent-2"),
            ("agent_2", "agent-2"),
            ("agent-02", "agent-2"),
            ("agnet-2", "agent-2"),
            ("slot 2", "agent-2"),
            ("2", "agent-2"),
            ("All", "all"),
            ("ALL", "all"),
        ] {
            assert_eq!(of(typed), (None, Some(right.to_owned())), "{typed}");
        }
        for typed in [
            "agent-", "agent", "agent-0", "fix.md", "", "agent-2x", "allow", "\u{661}",
        ] {
            assert_eq!(of(typed), (None, None), "{typed}");
        }
        assert_eq!(of("agent-12").0.as_deref(), Some("agent-12"));
        assert_eq!(of("all").0.as_deref(), Some("all"));
    }

    #[test]
    fn files_that_hold_nobody_are_named_with_the_right_name() {
        let names = [
            "agent-1.interrupt",
            "all.interrupt",
            ".agent-1.seen",
            "agent-1.interrupt~",
            "agent2.interrupt",
            "All.interrupt",
            "agent-3",
            "agent-4.md",
            "why.interrupt",
        ];
        let odd = odd_of(&names.map(OsString::from));
        let rights: Vec<&str> = odd
            .iter()
            .map(|(_, why)| why.split("rename it to ").nth(1).unwrap())
            .map(|right| right.split(',').next().unwrap())
            .collect();
        let want = ["agent-2", "all", "agent-3", "agent-4", "agent-N"];
        assert_eq!(rights, want.map(|stem| format!("{stem}.interrupt")));
        assert!(odd[0].0.ends_with("interrupts/agent2.interrupt"));
    }
}
