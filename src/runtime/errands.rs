//! The user's programs that run beside the items (hooks, `notify`): how many do, and which hooks there
//! were when this process began. Runs nothing. Invariant: no more than `RUN_MAX` run at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::lock;
use crate::clock;
use crate::folder::FileStamp;
use crate::process;

/// Each is a process and a thread.
const RUN_MAX: usize = 32;
/// Between two looks for a free place.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(crate) struct Errands {
    /// The names of those that run.
    running: Mutex<Vec<&'static str>>,
    /// The hooks that are trusted, as they were.
    trusted: Mutex<BTreeMap<&'static str, FileStamp>>,
}

impl Errands {
    /// Takes a place for a program, and waits this long for one. `false`: there is none.
    pub(crate) fn enter(&self, name: &'static str, patience: Duration) -> bool {
        let end = clock::instant() + patience;
        loop {
            let mut running = lock(&self.running);
            if running.len() < RUN_MAX {
                running.push(name);
                return true;
            }
            drop(running);
            if clock::instant() >= end {
                return false;
            }
            process::pause(LOOK);
        }
    }

    pub(crate) fn are_full(&self) -> bool {
        lock(&self.running).len() >= RUN_MAX
    }

    pub(crate) fn leave(&self, name: &str) {
        let mut running = lock(&self.running);
        if let Some(at) = running.iter().position(|n| *n == name) {
            running.swap_remove(at);
        }
    }

    /// The names of those that run.
    pub(crate) fn running(&self) -> Vec<&'static str> {
        lock(&self.running).clone()
    }

    pub(crate) fn trust(&self, name: &'static str, stamp: FileStamp) {
        lock(&self.trusted).insert(name, stamp);
    }

    /// Whether a hook is as it was before this process started any agent.
    pub(crate) fn is_trusted(&self, name: &str, stamp: FileStamp) -> bool {
        lock(&self.trusted).get(name) == Some(&stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_places_and_no_more() {
        let errands = Errands::default();
        assert!((0..RUN_MAX).all(|_| errands.enter("landed", Duration::ZERO)));
        assert!(errands.are_full());
        assert!(!errands.enter("idle", Duration::from_millis(20)));
        errands.leave("landed");
        assert!(errands.enter("idle", Duration::ZERO));
        assert_eq!(errands.running().len(), RUN_MAX);
        assert!(errands.running().contains(&"idle"));
    }
}
