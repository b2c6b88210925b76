//! The sets of the index: a pending name is in exactly one of them, or with a worker. Plain data
//! and moves between sets; reads no file.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::Candidate;
use crate::clock;
use crate::item::Order;
use crate::layout::{Name, SlotId};
use crate::limits::{RECHECK, RECHECK_EACH, RECHECK_MAX};
use crate::waker::Waker;

use super::beyond::Beyond;

pub(super) struct Inner {
    /// How many names each set holds at most.
    pub(super) cap: usize,
    /// What was left out because of `cap`.
    pub(super) beyond: Beyond,
    pub(super) ready: BTreeSet<Rank>,
    pub(super) scheduled: BTreeSet<(i64, Name)>,
    /// Names in flight or unsettled, by the instant at which to look again.
    pub(super) later: BTreeSet<(Instant, Name)>,
    /// Which blocked items wait for a name.
    pub(super) dependents: HashMap<Name, Vec<Name>>,
    pub(super) known: HashMap<Name, Known>,
    pub(super) blocked: usize,
    pub(super) with_workers: usize,
    pub(super) idle: Vec<Idle>,
    /// Candidates handed to a worker that waited, until it asks: by its waker.
    pub(super) handed: Vec<(Arc<Waker>, Candidate)>,
    pub(super) rescan: bool,
    pub(super) open: bool,
    pub(super) next_ticket: u64,
    /// When the index thread looked last, by both clocks.
    pub(super) turn: Option<(Instant, i64)>,
    /// Until when it waits now, if nobody wakes it. `None`: it has not looked yet.
    pub(super) wakes_at: Option<Instant>,
}

/// A worker that waits for a candidate.
pub(super) struct Idle {
    pub(super) waker: Arc<Waker>,
    pub(super) slot: SlotId,
    /// The repository it last worked in, whose files are warm in its worktree.
    pub(super) repo: Option<String>,
}

/// Sorts as the queue does: larger priority, older file, smaller name first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) after_nine: u8,
    pub(super) mtime: i64,
    pub(super) name: Name,
}

pub(super) struct Known {
    /// One that says nothing special is shared by all of them.
    pub(super) order: Arc<Order>,
    pub(super) mtime: i64,
    pub(super) place: Where,
    /// The number of the last listing that saw it.
    pub(super) seen: u64,
    /// Its agent, where a claim found that held.
    pub(super) held: Option<Box<str>>,
    /// A reason to refuse it that its file alone does not show.
    pub(super) refuse: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    Ready,
    Scheduled(i64),
    Later(Instant),
    Blocked,
    Worker(u64),
}

impl Inner {
    pub(super) fn new(cap: usize) -> Inner {
        Inner {
            cap,
            beyond: Beyond::default(),
            ready: BTreeSet::new(),
            scheduled: BTreeSet::new(),
            later: BTreeSet::new(),
            dependents: HashMap::new(),
            known: HashMap::new(),
            blocked: 0,
            with_workers: 0,
            idle: Vec::new(),
            handed: Vec::new(),
            rescan: false,
            open: false,
            next_ticket: 0,
            turn: None,
            wakes_at: None,
        }
    }

    /// Takes the name out of the set it was in.
    fn leave(&mut self, name: &Name, was: Where, order: &Order, mtime: i64) {
        match was {
            Where::Ready => {
                self.ready.remove(&rank(name, order, mtime));
            }
            Where::Scheduled(at) => {
                self.scheduled.remove(&(at, name.clone()));
            }
            Where::Later(at) => {
                self.later.remove(&(at, name.clone()));
            }
            Where::Blocked => {
                self.blocked -= 1;
                for dep in &order.after {
                    if let Some(list) = self.dependents.get_mut(dep) {
                        list.retain(|n| n != name);
                        if list.is_empty() {
                            self.dependents.remove(dep);
                        }
                    }
                }
            }
            Where::Worker(_) => self.with_workers -= 1,
        }
    }

    pub(super) fn remove(&mut self, name: &Name) -> Option<Known> {
        let known = self.known.remove(name)?;
        self.leave(name, known.place, &known.order, known.mtime);
        Some(known)
    }

    /// Records what is known of a name, out of all sets: the caller places it at once. What was
    /// found of the same file, beyond its fields, is still known.
    pub(super) fn learn(&mut self, name: &Name, order: Arc<Order>, mtime: i64) -> &Known {
        let before = self.remove(name).filter(|k| k.order == order);
        self.with_workers += 1;
        let is_same = before.as_ref().is_some_and(|k| k.mtime == mtime);
        let (held, refuse) = before.map_or((None, None), |k| (k.held, k.refuse));
        let known = Known {
            order,
            mtime,
            place: Where::Worker(0),
            seen: self.beyond.listing,
            held: held.filter(|_| is_same),
            // Part of a cycle whose other members may be refused, and gone, by now.
            refuse,
        };
        self.known
            .entry(name.clone())
            .insert_entry(known)
            .into_mut()
    }

    /// Its rank, where it is known.
    pub(super) fn place(&mut self, name: &Name, place: Where) -> Option<Rank> {
        let known = self.known.get_mut(name)?;
        let was = std::mem::replace(&mut known.place, place);
        let (order, mtime) = (known.order.clone(), known.mtime);
        self.leave(name, was, &order, mtime);
        Some(rank(name, &order, mtime))
    }

    pub(super) fn make_ready(&mut self, name: &Name) {
        let Some(rank) = self.place(name, Where::Ready) else {
            return;
        };
        let refused = |known: &Known| known.refuse.is_some();
        if self.beyond.is_beyond(&rank) && !self.known.get(name).is_some_and(refused) {
            self.known.remove(name);
            return self.beyond.leave_out_ready(rank);
        }
        self.ready.insert(rank);
        if self.ready.len() > self.cap
            && let Some(last) = self.ready.pop_last()
        {
            self.known.remove(&last.name);
            self.beyond.leave_out_ready(last);
        }
        if self.open
            && !self.idle.is_empty()
            && let Some(idle) = self.take_idle(name)
        {
            idle.waker.wake();
        }
    }

    /// The idle worker to wake for an item: one that last worked in the item's repository, if any.
    fn take_idle(&mut self, name: &Name) -> Option<Idle> {
        let wanted = self.known.get(name).and_then(|k| k.order.repo.as_ref());
        match self.idle.iter().rposition(|i| i.repo.as_ref() == wanted) {
            Some(at) => Some(self.idle.remove(at)),
            None => self.idle.pop(),
        }
    }

    pub(super) fn schedule(&mut self, name: &Name, due: i64) {
        self.place(name, Where::Scheduled(due));
        self.scheduled.insert((due, name.clone()));
        let too_late = self.beyond.due.is_some_and(|first| due >= first);
        if too_late || self.scheduled.len() > self.cap {
            let out = match too_late {
                true => self.scheduled.take(&(due, name.clone())),
                false => self.scheduled.pop_last(),
            };
            if let Some((due, name)) = out {
                self.known.remove(&name);
                self.beyond.leave_out_scheduled(due);
            }
        }
    }

    /// Looks again in a moment; the more there are that wait so, the longer a moment, so that a
    /// thousand items for one key cost no more than a few.
    pub(super) fn recheck(&mut self, name: &Name) {
        if self.later.len() >= self.cap {
            return self.leave_out_waiting(name);
        }
        let crowd = u32::try_from(self.later.len()).unwrap_or(u32::MAX);
        let at = clock::instant() + RECHECK + RECHECK_EACH.saturating_mul(crowd).min(RECHECK_MAX);
        self.place(name, Where::Later(at));
        self.later.insert((at, name.clone()));
    }

    /// Whether something has its time before this instant.
    pub(super) fn is_due_before(&self, at: Instant) -> bool {
        let later = self.later.first().is_some_and(|(first, _)| *first < at);
        let wait = at.saturating_duration_since(clock::instant());
        let wait = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
        let wall = clock::now_ns().saturating_add(wait);
        later || self.scheduled.first().is_some_and(|(due, _)| *due < wall)
    }

    fn leave_out_waiting(&mut self, name: &Name) {
        self.remove(name);
        self.beyond.waiting += 1;
    }

    pub(super) fn block(&mut self, name: &Name) {
        if self.blocked >= self.cap {
            return self.leave_out_waiting(name);
        }
        self.place(name, Where::Blocked);
        self.blocked += 1;
        if let Some(known) = self.known.get(name) {
            for dep in known.order.after.clone() {
                self.dependents.entry(dep).or_default().push(name.clone());
            }
        }
    }

    pub(super) fn refuse(&mut self, name: &Name, why: String) {
        if let Some(known) = self.known.get_mut(name) {
            known.refuse = Some(why.into());
            self.make_ready(name);
        }
    }

    /// The items of a dependency cycle through `name`, in order; empty where there is none.
    pub(super) fn cycle_of(&self, name: &Name) -> Vec<Name> {
        let mut path = vec![name.clone()];
        let mut seen = HashSet::new();
        if self.walks_back(name, name, &mut path, &mut seen) {
            path
        } else {
            Vec::new()
        }
    }

    pub(super) fn walks_back(
        &self,
        at: &Name,
        goal: &Name,
        path: &mut Vec<Name>,
        seen: &mut HashSet<Name>,
    ) -> bool {
        // An explicit bound on depth: a chain of a million items must not overflow the stack.
        if path.len() > CYCLE_MAX {
            return false;
        }
        let Some(known) = self.known.get(at).filter(|k| k.place == Where::Blocked) else {
            return false;
        };
        for dep in &known.order.after {
            if dep == goal {
                return true;
            }
            if seen.insert(dep.clone()) {
                path.push(dep.clone());
                if self.walks_back(dep, goal, path, seen) {
                    return true;
                }
                path.pop();
            }
        }
        false
    }
}

/// Longer cycles are not recognised; their items stay blocked, visibly.
const CYCLE_MAX: usize = 1_000;

pub(super) fn rank(name: &Name, order: &Order, mtime: i64) -> Rank {
    Rank {
        after_nine: 9 - order.priority.min(9),
        mtime,
        name: name.clone(),
    }
}

pub(super) fn cycle_text(cycle: &[Name]) -> String {
    let mut names: Vec<String> = cycle.iter().map(Name::shown).collect();
    names.extend(cycle.first().map(Name::shown));
    format!("a dependency cycle: {}", names.join(" waits for "))
}
