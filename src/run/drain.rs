//! With `--drain`: whether nothing is left to do, in this process or any other, and what is said of
//! items that stay. Invariant: the process does not end while an item could still be claimed by it.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Main;
use super::threads::pending_changed_at;
use crate::atomic;
use crate::clock;
use crate::layout::{Name, Root, SlotId};
use crate::lease;
use crate::missing::waited_for;
use crate::recovery;
use crate::runtime::Level;

/// A shorter wait for a scheduled item is not worth a message.
const WAIT_SAID: Duration = Duration::from_secs(2);

impl Main {
    pub(super) fn end_when_drained(&mut self) {
        if !self.rt.lifecycle.drains() || self.rt.slots.busy() > 0 {
            return;
        }
        if !self.rt.ready.is_exhausted() {
            return self.say_what_it_waits_for();
        }
        if !self.is_drained() {
            return;
        }
        self.say_what_stays();
        self.rt.lifecycle.raise(Level::Finishing);
    }

    /// Nothing is claimed by anybody, and `pending/` holds nothing that could start: listed anew,
    /// and unchanged while this was found out.
    fn is_drained(&self) -> bool {
        let (root, ready) = (&self.rt.root, &self.rt.ready);
        let before = pending_changed_at(&self.rt);
        // A claim without a file is half made or half given up; or its holder died, and a git that
        // it started holds the slot's lease for a moment more.
        let others_work = !nothing_claimed(root) || !lease::holders(root).is_empty();
        self.news.others_end.store(others_work, Ordering::SeqCst);
        if others_work || ready.rescan().is_err() {
            return false;
        }
        ready.look_at_blocked();
        ready.is_exhausted()
            && nothing_claimed(root)
            && pending_changed_at(&self.rt) == before
            && recovery::orphans(root, &self.own()).is_empty()
    }

    /// Items that wait for what nobody is going to do.
    fn say_what_stays(&self) {
        let (console, ready) = (&self.rt.console, &self.rt.ready);
        let more = ready.more_blocked();
        if more > 0 {
            console.warn(&format!("{more} more items stay in pending/"));
        }
        for (name, after) in ready.blocked() {
            let after: Vec<String> = after.iter().map(|n| waited_for(&self.rt.root, n)).collect();
            console.warn(&match after.is_empty() {
                true => format!(
                    "{name} stays in pending/: its agent is held until a person has mended it (state/holds/)"
                ),
                false => format!(
                    "{name} stays in pending/: it waits for {}, which nobody is going to finish",
                    after.join(", ")
                ),
            });
        }
    }

    fn say_what_it_waits_for(&mut self) {
        if self.said_waiting {
            return;
        }
        let Some((name, due)) = self.rt.ready.next_scheduled() else {
            return;
        };
        let wait = Duration::from_nanos((due - clock::now_ns()).max(0).unsigned_abs());
        if wait > WAIT_SAID && self.rt.ready.tally().pending == 0 {
            self.said_waiting = true;
            let wait = clock::human(wait);
            self.rt.console.say(&format!("waiting {wait} for {name}"));
        }
    }
}

/// Whether no slot's folder in `claimed/` holds an item. A folder that cannot be read counts as one
/// that does.
fn nothing_claimed(root: &Root) -> bool {
    let slots = std::fs::read_dir(root.claimed_root())
        .into_iter()
        .flatten()
        .flatten();
    // Files that are no items (an editor's `.x.swp`) are nobody's work.
    let is_item = |f: std::io::Result<std::fs::DirEntry>| {
        f.map_or(true, |f| !Name::is_ignored(&f.file_name()))
    };
    slots
        .filter(|e| SlotId::parse(&e.file_name()).is_some() && atomic::is_own_dir(&e.path()))
        .all(|e| match std::fs::read_dir(e.path()) {
            Ok(mut files) => !files.any(is_item),
            Err(e) => matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        })
}
