//! What is wrong here and now, by the place where it is: a slot, a folder. Decides nothing. Invariants:
//! a place that fails again and again is told to wait longer each time, up to `WAIT_MAX`; what fails
//! the same way `EQUAL_TRIES` times is lasting, and is somebody's to mend.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use crate::clock;
use crate::error::{Error, Kind};
use crate::layout::SlotId;
use crate::limits::{EQUAL_TRIES, TROUBLE_WAIT, TROUBLE_WAIT_MAX};
use crate::status::TroubleStatus;
use crate::text::{class_of, one_line};

#[derive(Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<String, Trouble>>);

struct Trouble {
    why: String,
    /// `why` without what differs from one try to the next.
    class: String,
    tries: u32,
    since: String,
    /// Before this nothing is tried again there.
    next: Instant,
    /// Whether it may end by itself, however long it takes (a full disk).
    passes: bool,
}

impl Trouble {
    fn is_lasting(&self) -> bool {
        self.tries >= EQUAL_TRIES && !self.passes
    }
}

impl Troubles {
    /// A try failed there. Returns how long to wait before the next one.
    pub(crate) fn met(&self, place: &str, e: &Error) -> Duration {
        let (why, now) = (one_line(&e.to_string()), clock::instant());
        let class = class_of(&why);
        let mut all = lock(&self.0);
        let tries = match all.get(place) {
            Some(before) if before.class == class => before.tries.saturating_add(1),
            _ => 1,
        };
        let since = match all.remove(place) {
            Some(before) => before.since,
            None => clock::now_iso(),
        };
        let wait = wait_after(tries);
        let trouble = Trouble {
            why,
            class,
            tries,
            since,
            next: now + wait,
            passes: e.kind() == Kind::Temporary && e.is_of_host(),
        };
        all.insert(place.to_owned(), trouble);
        wait
    }

    /// Whether something is wrong there.
    pub(crate) fn is_met(&self, place: &str) -> bool {
        lock(&self.0).contains_key(place)
    }

    pub(crate) fn over(&self, place: &str) {
        lock(&self.0).remove(place);
    }

    /// Whether something failed there a moment ago.
    pub(crate) fn is_too_soon(&self, place: &str) -> bool {
        let all = lock(&self.0);
        all.get(place).is_some_and(|t| clock::instant() < t.next)
    }

    /// Whether it failed there in the same way again and again, and will not end by itself.
    pub(crate) fn is_lasting(&self, place: &str) -> bool {
        self.why_lasting(place).is_some()
    }

    /// The reason of a lasting trouble.
    pub(crate) fn why_lasting(&self, place: &str) -> Option<String> {
        let all = lock(&self.0);
        let lasting = all.get(place).filter(|t| t.is_lasting());
        lasting.map(|t| t.why.clone())
    }

    /// The slots in trouble: why, and whether it is lasting.
    pub(crate) fn of_slots(&self) -> BTreeMap<SlotId, (String, bool)> {
        let all = lock(&self.0);
        let of = |(place, t): (&String, &Trouble)| {
            let slot = SlotId::parse(place.as_ref())?;
            Some((slot, (t.why.clone(), t.is_lasting())))
        };
        all.iter().filter_map(of).collect()
    }

    /// The slots whose trouble is lasting.
    pub(crate) fn lasting_slots(&self) -> BTreeSet<SlotId> {
        let all = self.of_slots().into_iter();
        all.filter(|(_, (_, lasting))| *lasting)
            .map(|(slot, _)| slot)
            .collect()
    }

    /// For `status.json`: all but those of slots, which stand there with the slot.
    pub(crate) fn shown(&self) -> Vec<TroubleStatus> {
        let all = lock(&self.0);
        let shown = |(place, t): (&String, &Trouble)| TroubleStatus {
            place: place.clone(),
            reason: t.why.clone(),
            since: t.since.clone(),
            tries: t.tries,
        };
        all.iter()
            .filter(|(place, _)| SlotId::parse(place.as_ref()).is_none())
            .map(shown)
            .collect()
    }
}

/// How long to wait after so many equal tries.
fn wait_after(tries: u32) -> Duration {
    clock::doubled(TROUBLE_WAIT, tries.saturating_sub(1), TROUBLE_WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_in_the_same_way_waits_longer_and_becomes_lasting() {
        let troubles = Troubles::default();
        let failed = |n: u32| Error::permanent("cannot move", format!("/r/{n}-a{n}.tmp is odd"));
        let waits: Vec<u64> = (0..EQUAL_TRIES + 3)
            .map(|n| {
                assert_eq!(troubles.is_lasting("agent-1"), n >= EQUAL_TRIES);
                troubles.met("agent-1", &failed(n)).as_secs()
            })
            .collect();
        assert_eq!(waits[..4], [1, 2, 4, 8]);
        assert_eq!(waits[6..], [10, 10]);
        assert!(troubles.is_too_soon("agent-1") && !troubles.is_too_soon("agent-2"));
        assert!(troubles.shown().is_empty());
        troubles.met("queue/pending", &failed(1));
        assert_eq!(troubles.shown()[0].tries, 1);
        assert_eq!(troubles.lasting_slots(), BTreeSet::from([SlotId(1)]));
        // Another cause begins anew, and a full disk ends by itself.
        troubles.met("agent-1", &Error::permanent("cannot read", "it is a fifo"));
        assert!(!troubles.is_lasting("agent-1"));
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        for _ in 0..EQUAL_TRIES * 2 {
            troubles.met("agent-1", &Error::io("x", std::path::Path::new("/"), &full));
        }
        assert!(!troubles.is_lasting("agent-1"));
        troubles.over("queue/pending");
        assert!(troubles.shown().is_empty());
    }
}
