//! The index of `queue/pending/` that each process keeps in memory: what could start now, in order
//! (priority, modification time, name), and what waits for a time, for another item, or for a name or
//! key that is in flight.
//!
//! It decides nothing. Events and listings put names in; a claim reads the file again and may find it
//! gone, changed or taken. The indexes of several processes need not agree.
//! Invariant: a name in `pending/` is in exactly one of the sets, or with a worker that is trying to
//! claim it and will report the result (`tried`), or it was left out because the sets are bounded
//! (`overflow`), and then it comes after everything in them.

mod listing;
mod overflow;
mod peek;
mod rank;
mod sets;
mod start;
mod turn;
mod view;
mod workers;

use std::ffi::OsStr;
use std::fs::Metadata;
use std::sync::{Arc, LazyLock, PoisonError};
use std::time::Duration;

use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::item::QueueFields;
use crate::layout::{Name, Place, Root};
use crate::limits::{AFTER_TROUBLE, INDEX_MAX};
use crate::spool;
use crate::waker::{Mutex, MutexGuard, Waker};
use listing::{FIRST_PIECE, Listing};
pub use peek::peek;
use sets::{IndexSet, Known, Sets};
pub use view::{Standing, Wait};

pub struct Ready {
    root: Root,
    sets: Mutex<Sets>,
    /// The listing under way.
    listing: Mutex<Option<Listing>>,
    /// The length of its first piece.
    first_piece: Duration,
    /// Woken when the index thread has something to do: a rescan, a new timer.
    pub waker: Waker,
}

/// A name handed to a worker; `tried` gives it back.
#[derive(Clone)]
pub struct Candidate {
    pub name: Name,
    pub refuse: Option<String>,
    ticket: u64,
}

/// How a worker's claim ended, as far as the index must know.
pub enum ClaimReport {
    /// Not in `pending/` any more.
    Gone,
    /// Look again in a moment.
    Later,
    /// It can start, by another worker or later by the same.
    Untried,
    /// It must wait; these are its fields.
    Waits(QueueFields),
    /// Its agent is held; the agent's name.
    Held(String),
    /// The host is in trouble. Not tried again at once: it would keep every worker busy.
    Trouble,
}

impl Ready {
    pub fn new(root: &Root) -> Result<Ready> {
        Ready::with_room_for(root, INDEX_MAX)
    }

    /// For a caller that wants to see all of `pending/` at once.
    pub fn unbounded(root: &Root) -> Result<Ready> {
        Ready::with_room_for(root, usize::MAX)
    }

    /// With at most `cap` names in each set.
    pub fn with_room_for(root: &Root, cap: usize) -> Result<Ready> {
        Ok(Ready {
            root: root.clone(),
            sets: Mutex::new(Sets::new(cap)),
            listing: Mutex::default(),
            first_piece: FIRST_PIECE,
            waker: Waker::new()?,
        })
    }

    /// With a first piece of a listing that is so long (for tests; with zero, each piece is a name).
    pub fn in_pieces_of(mut self, first: Duration) -> Ready {
        self.first_piece = first;
        self
    }

    fn lock(&self) -> MutexGuard<'_, Sets> {
        // A panic with the lock held leaves no change half-made that matters.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker reports how its claim ended. Ignored if the name is no longer with that worker.
    pub fn tried(&self, candidate: &Candidate, report: ClaimReport) {
        let mut sets = self.lock();
        let name = &candidate.name;
        match sets.known.get(name) {
            Some(k) if k.place == IndexSet::Worker(candidate.ticket) => {}
            _ => return,
        }
        match report {
            ClaimReport::Gone => {
                sets.remove(name);
                return;
            }
            ClaimReport::Later => sets.recheck(name),
            ClaimReport::Untried => sets.make_ready(name),
            ClaimReport::Held(agent) => {
                let (fields, mtime) = match sets.known.get_mut(name) {
                    Some(known) => {
                        known.held = Some(agent.into());
                        (known.fields.clone(), known.mtime)
                    }
                    None => return,
                };
                drop(sets);
                // `put` checks the hold once more: it may just have ended.
                self.put(name, fields, mtime);
                return;
            }
            ClaimReport::Trouble => {
                let ns = AFTER_TROUBLE.as_nanos() as i64;
                sets.schedule(name, clock::now_ns() + ns);
            }
            ClaimReport::Waits(fields) => {
                let mtime = sets.known.get(name).map_or(0, |k| k.mtime);
                drop(sets);
                self.put(name, shared(fields), mtime);
                return;
            }
        }
        self.look_at_timers(sets);
    }

    /// A worker could not claim the item. `why`: what is wrong with the item; `None`: it is the host's
    /// trouble. Returns the reason when the item counts as one that stays from now on.
    pub fn failed(&self, candidate: &Candidate, why: Option<String>) -> Option<String> {
        let Some(why) = why else {
            self.tried(candidate, ClaimReport::Trouble);
            return None;
        };
        let mut sets = self.lock();
        let with_it = IndexSet::Worker(candidate.ticket);
        if sets.known.get(&candidate.name)?.place != with_it {
            return None;
        }
        let stays = sets.note_failed(&candidate.name, &why);
        self.look_at_timers(sets);
        stays.then_some(why)
    }

    /// A name in `pending/` came, or its file changed: what was wrong with it may be mended.
    pub fn changed(&self, name: &OsStr) {
        if let Some(known) = self.lock().known.get_mut(&Name::new(name)) {
            known.failed = None;
        }
        self.note(name);
    }

    /// Wakes the index thread if something is now due before its current wait ends.
    fn look_at_timers(&self, sets: MutexGuard<'_, Sets>) {
        let late = sets.wakes_at.is_none_or(|at| sets.is_due_before(at));
        drop(sets);
        if late {
            self.waker.wake();
        }
    }

    /// A name in `pending/` is new or changed: looks at the file and puts it into its set.
    pub fn note(&self, name: &OsStr) {
        if Name::is_ignored(name) {
            return;
        }
        let name = Name::new(name);
        let path = self.root.item(Place::Pending, &name);
        let Ok(meta) = path.symlink_metadata() else {
            return self.gone(&name);
        };
        let fields = peek(&name, &path, &meta);
        let claimed = atomic::exists(&self.root.claim(&name));
        self.sort_in(&name, fields, &meta, claimed);
    }

    /// Puts a name into its set by what its file says.
    fn sort_in(&self, name: &Name, fields: QueueFields, meta: &Metadata, claimed: bool) {
        let mtime = clock::mtime_ns(meta);
        if meta.is_file() && meta.len() == 0 && !spool::settled(meta) {
            // Perhaps being created: wait for its close event or the next look.
            let mut sets = self.lock();
            sets.learn(name, shared(QueueFields::default()), mtime);
            sets.recheck(name);
            return self.look_at_timers(sets);
        }
        self.place(name, shared(fields), mtime, claimed);
    }

    /// A file in `pending/` is being written, or its time was changed: this matters only while it is
    /// scheduled.
    pub fn touched(&self, name: &OsStr) {
        let known = Name::new(name);
        let waits = |k: &Known| matches!(k.place, IndexSet::Scheduled(_));
        if self.lock().known.get(&known).is_some_and(waits) {
            self.note(name);
        }
    }

    /// A name left `pending/`.
    pub fn gone(&self, name: &Name) {
        self.lock().remove(name);
    }

    /// A name came into `done/` or its claim ended: what waits for it may start.
    pub fn ended(&self, name: &OsStr) {
        let waiting = {
            let mut sets = self.lock();
            sets.overflow.ended = true;
            match sets.dependents.is_empty() {
                true => None,
                false => sets.dependents.get(&Name::new(name)).cloned(),
            }
        };
        for waiter in waiting.unwrap_or_default() {
            self.look_again(&waiter);
        }
    }

    /// Looks now at items that wait for a key or name in flight.
    pub fn look_at_busy(&self) {
        let names: Vec<Name> = {
            let sets = self.lock();
            sets.later.iter().map(|(_, n)| n.clone()).take(64).collect()
        };
        for name in names {
            self.note(name.as_os_str());
        }
    }

    fn look_again(&self, name: &Name) {
        let entry = {
            let sets = self.lock();
            sets.known
                .get(name)
                .filter(|k| k.place == IndexSet::Blocked)
                .map(|k| (k.fields.clone(), k.mtime))
        };
        if let Some((fields, mtime)) = entry {
            self.put(name, fields, mtime);
        }
    }

    /// How long the last listing took.
    pub fn listing_took(&self) -> Duration {
        self.lock().overflow.took
    }

    /// How many waiting items were left out, so that `blocked` does not list them.
    pub fn more_blocked(&self) -> usize {
        self.lock().overflow.waiting
    }

    /// Looks at every blocked item again: an event may have been lost or not have come yet.
    pub fn look_at_blocked(&self) {
        let names: Vec<Name> = {
            let sets = self.lock();
            let blocked = sets
                .known
                .iter()
                .filter(|(_, k)| k.place == IndexSet::Blocked);
            blocked.map(|(n, _)| n.clone()).collect()
        };
        for name in names {
            self.look_again(&name);
        }
    }
}

/// Fields that say nothing share one value, to save memory.
fn shared(fields: QueueFields) -> Arc<QueueFields> {
    static PLAIN: LazyLock<[Arc<QueueFields>; 2]> = LazyLock::new(|| {
        [false, true].map(|is_prompt| {
            Arc::new(QueueFields {
                is_prompt,
                ..QueueFields::default()
            })
        })
    });
    let plain = PLAIN.iter().find(|plain| ***plain == fields).cloned();
    plain.unwrap_or_else(|| Arc::new(fields))
}
