//! The sets of the index: a pending name is in exactly one of them, or with a worker. Holds data and
//! moves names between sets; reads no file.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::Candidate;
use super::overflow::Overflow;
use super::rank::Rank;
use crate::clock;
use crate::item::QueueFields;
use crate::layout::{Name, SlotId};
use crate::limits::{
    ITEM_STAYS, ITEM_STAYS_MAX, ITEM_TRIES, ITEM_TRY_AGAIN, RECHECK, RECHECK_EACH, RECHECK_MAX,
};
use crate::waker::Waker;

pub(super) struct Sets {
    /// How many names each set holds at most.
    pub(super) cap: usize,
    /// Names that were left out because of `cap`.
    pub(super) overflow: Overflow,
    pub(super) ready: BTreeSet<Rank>,
    pub(super) scheduled: BTreeSet<(i64, Name)>,
    /// Names that are in flight or still being written, by the instant at which to look again.
    pub(super) later: BTreeSet<(Instant, Name)>,
    /// The blocked items that wait for a name.
    pub(super) dependents: HashMap<Name, Vec<Name>>,
    pub(super) known: HashMap<Name, Known>,
    pub(super) blocked: usize,
    pub(super) with_workers: usize,
    pub(super) idle: Vec<Idle>,
    /// Candidates handed to a waiting worker, until it asks; by its waker.
    pub(super) handed: Vec<(Arc<Waker>, Candidate)>,
    pub(super) rescan: bool,
    /// Set after a listing that failed.
    pub(super) no_listing_before: Option<Instant>,
    pub(super) open: bool,
    pub(super) next_ticket: u64,
    /// When the index thread last looked: monotonic, and wall clock (ns since 1970).
    pub(super) turn: Option<(Instant, i64)>,
    /// When its current wait ends by itself. `None`: it has not looked yet.
    pub(super) wakes_at: Option<Instant>,
}

/// A worker that waits for a candidate.
pub(super) struct Idle {
    pub(super) waker: Arc<Waker>,
    pub(super) slot: SlotId,
    /// The repository it last worked in: its worktree has these files already.
    pub(super) repo: Option<String>,
    /// It waits for its turn to start a prompt.
    pub(super) only_scripts: bool,
}

pub(super) struct Known {
    /// All items without fields share one value.
    pub(super) fields: Arc<QueueFields>,
    pub(super) mtime: i64,
    pub(super) place: IndexSet,
    /// The number of the last listing that saw it.
    pub(super) seen: u64,
    /// Its agent, if a claim found that it is held.
    pub(super) held: Option<Box<str>>,
    /// Set if it could not be claimed.
    pub(super) failed: Option<Box<Failed>>,
    /// Why to refuse it, where its file alone does not show that (a dependency cycle).
    pub(super) refuse: Option<Box<str>>,
}

/// Claims of one item that failed in a row.
pub(super) struct Failed {
    pub(super) why: String,
    pub(super) tries: u32,
    /// Not tried again before.
    pub(super) again: Instant,
}

impl Known {
    /// Whether it stays where it is until somebody has mended what is wrong.
    pub(super) fn stays(&self) -> bool {
        self.failed.as_ref().is_some_and(|f| f.tries >= ITEM_TRIES)
    }

    pub(super) fn why_failed(&self) -> &str {
        self.failed.as_ref().map_or("", |f| f.why.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexSet {
    Ready,
    Scheduled(i64),
    Later(Instant),
    Blocked,
    Worker(u64),
}

impl Sets {
    pub(super) fn new(cap: usize) -> Sets {
        Sets {
            cap,
            overflow: Overflow::default(),
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
            no_listing_before: None,
            open: false,
            next_ticket: 0,
            turn: None,
            wakes_at: None,
        }
    }

    /// Takes the name out of the set it was in.
    fn leave(&mut self, name: &Name, was: IndexSet, fields: &QueueFields, mtime: i64) {
        match was {
            IndexSet::Ready => {
                self.ready.remove(&Rank::new(name, fields, mtime));
            }
            IndexSet::Scheduled(at) => {
                self.scheduled.remove(&(at, name.clone()));
            }
            IndexSet::Later(at) => {
                self.later.remove(&(at, name.clone()));
            }
            IndexSet::Blocked => {
                self.blocked -= 1;
                for dep in &fields.after {
                    if let Some(list) = self.dependents.get_mut(dep) {
                        list.retain(|n| n != name);
                        if list.is_empty() {
                            self.dependents.remove(dep);
                        }
                    }
                }
            }
            IndexSet::Worker(_) => self.with_workers -= 1,
        }
    }

    pub(super) fn remove(&mut self, name: &Name) -> Option<Known> {
        let known = self.known.remove(name)?;
        self.leave(name, known.place, &known.fields, known.mtime);
        Some(known)
    }

    /// Records what a name's file says, taking the name out of all sets: the caller puts it into one at
    /// once. If the file is the same as before, `held`, `failed` and `refuse` stay known.
    pub(super) fn learn(&mut self, name: &Name, fields: Arc<QueueFields>, mtime: i64) -> &Known {
        let before = self.remove(name).filter(|k| k.fields == fields);
        self.with_workers += 1;
        let is_same = before.as_ref().is_some_and(|k| k.mtime == mtime);
        let (held, failed, refuse) =
            before.map_or((None, None, None), |k| (k.held, k.failed, k.refuse));
        let known = Known {
            fields,
            mtime,
            place: IndexSet::Worker(0),
            seen: self.overflow.listing,
            held: held.filter(|_| is_same),
            failed: failed.filter(|_| is_same),
            // Other members of its cycle may have been refused and be gone by now.
            refuse,
        };
        self.known
            .entry(name.clone())
            .insert_entry(known)
            .into_mut()
    }

    /// Puts a known name into a set. Returns its rank; `None`: the name is not known.
    pub(super) fn place(&mut self, name: &Name, place: IndexSet) -> Option<Rank> {
        let known = self.known.get_mut(name)?;
        let was = std::mem::replace(&mut known.place, place);
        let (fields, mtime) = (known.fields.clone(), known.mtime);
        self.leave(name, was, &fields, mtime);
        Some(Rank::new(name, &fields, mtime))
    }

    pub(super) fn make_ready(&mut self, name: &Name) {
        let Some(rank) = self.place(name, IndexSet::Ready) else {
            return;
        };
        let refused = |known: &Known| known.refuse.is_some();
        if self.overflow.would_hold(&rank) && !self.known.get(name).is_some_and(refused) {
            self.known.remove(name);
            return self.overflow.leave_out_ready(rank);
        }
        self.ready.insert(rank);
        if self.ready.len() > self.cap
            && let Some(last) = self.ready.pop_last()
        {
            self.known.remove(&last.name);
            self.overflow.leave_out_ready(last);
        }
        if self.open
            && !self.idle.is_empty()
            && let Some(idle) = self.take_idle(name)
        {
            idle.waker.wake();
        }
    }

    /// Takes the best item out of those that are ready.
    pub(super) fn take_best(&mut self, only_scripts: bool) -> Option<Rank> {
        if !only_scripts {
            return self.ready.pop_first();
        }
        let best = self.ready.iter().find(|rank| !self.needs_turn(&rank.name));
        let best = best.cloned()?;
        self.ready.take(&best)
    }

    /// Whether it starts an agent of which the first starts are staggered.
    fn needs_turn(&self, name: &Name) -> bool {
        let known = self.known.get(name);
        known.is_some_and(|k| k.fields.is_prompt && k.refuse.is_none())
    }

    /// Whether this worker may start this item.
    pub(super) fn takes(&self, idle: &Idle, name: &Name) -> bool {
        !idle.only_scripts || !self.needs_turn(name)
    }

    /// The idle worker to wake for an item: if possible one that last worked in its repository.
    pub(super) fn take_idle(&mut self, name: &Name) -> Option<Idle> {
        let wanted = self.known.get(name).and_then(|k| k.fields.repo.as_ref());
        let takes = |i: &Idle| self.takes(i, name);
        let near = |i: &Idle| takes(i) && i.repo.as_ref() == wanted;
        let at = self.idle.iter().rposition(near);
        let at = at.or_else(|| self.idle.iter().rposition(takes))?;
        Some(self.idle.remove(at))
    }

    pub(super) fn schedule(&mut self, name: &Name, due: i64) {
        self.place(name, IndexSet::Scheduled(due));
        self.scheduled.insert((due, name.clone()));
        let too_late = self.overflow.due.is_some_and(|first| due >= first);
        if too_late || self.scheduled.len() > self.cap {
            let out = match too_late {
                true => self.scheduled.take(&(due, name.clone())),
                false => self.scheduled.pop_last(),
            };
            if let Some((due, name)) = out {
                self.known.remove(&name);
                self.overflow.leave_out_scheduled(due);
            }
        }
    }

    /// Looks at the name again later. The delay grows with the number of such names, so that a
    /// thousand items for one key cost no more than a few.
    pub(super) fn recheck(&mut self, name: &Name) {
        if self.later.len() >= self.cap {
            return self.leave_out_waiting(name);
        }
        let crowd = u32::try_from(self.later.len()).unwrap_or(u32::MAX);
        let at = clock::instant() + RECHECK + RECHECK_EACH.saturating_mul(crowd).min(RECHECK_MAX);
        self.place(name, IndexSet::Later(at));
        self.later.insert((at, name.clone()));
    }

    /// Whether a name is due before this instant.
    pub(super) fn is_due_before(&self, at: Instant) -> bool {
        let later = self.later.first().is_some_and(|(first, _)| *first < at);
        let wait = at.saturating_duration_since(clock::instant());
        let wait = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
        let wall = clock::now_ns().saturating_add(wait);
        later || self.scheduled.first().is_some_and(|(due, _)| *due < wall)
    }

    fn leave_out_waiting(&mut self, name: &Name) {
        self.remove(name);
        self.overflow.waiting += 1;
    }

    pub(super) fn block(&mut self, name: &Name) {
        if self.blocked >= self.cap {
            return self.leave_out_waiting(name);
        }
        self.place(name, IndexSet::Blocked);
        self.blocked += 1;
        if let Some(known) = self.known.get(name) {
            for dep in known.fields.after.clone() {
                self.dependents.entry(dep).or_default().push(name.clone());
            }
        }
    }

    /// One more claim of it failed. `true`: from now on it counts as one that stays.
    pub(super) fn note_failed(&mut self, name: &Name, why: &str) -> bool {
        let Some(known) = self.known.get_mut(name) else {
            return false;
        };
        let tries = 1 + known.failed.as_ref().map_or(0, |f| f.tries);
        let wait = match tries < ITEM_TRIES {
            true => ITEM_TRY_AGAIN * tries,
            false => clock::doubled(ITEM_STAYS, tries - ITEM_TRIES, ITEM_STAYS_MAX),
        };
        known.failed = Some(Box::new(Failed {
            why: why.to_owned(),
            tries,
            again: clock::instant() + wait,
        }));
        self.wait_after_failing(name);
        tries == ITEM_TRIES
    }

    /// Puts a name whose claim failed where it waits for its next try. `false`: it need not wait.
    pub(super) fn wait_after_failing(&mut self, name: &Name) -> bool {
        let Some(known) = self.known.get(name) else {
            return false;
        };
        let now = clock::instant();
        let again = known.failed.as_ref().map(|f| f.again);
        match again.filter(|&again| again > now) {
            None => false,
            Some(_) if known.stays() => {
                self.block(name);
                true
            }
            Some(again) => {
                let ns = i64::try_from((again - now).as_nanos()).unwrap_or(i64::MAX);
                self.schedule(name, clock::now_ns().saturating_add(ns));
                true
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
        // Bounded depth: a chain of a million items must not overflow the stack.
        if path.len() > CYCLE_MAX {
            return false;
        }
        let Some(known) = self.known.get(at).filter(|k| k.place == IndexSet::Blocked) else {
            return false;
        };
        for dep in &known.fields.after {
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

impl Sets {
    /// Whether the ready names could soon be used up while others were left out.
    pub(super) fn runs_low(&self) -> bool {
        self.overflow.ready.is_some() && self.ready.len() <= self.cap / 4
    }

    /// Whether the name taken last made it run low, so that the index thread is woken once for it.
    pub(super) fn has_just_run_low(&self) -> bool {
        self.runs_low() && (self.ready.len() == self.cap / 4 || self.ready.is_empty())
    }

    /// When to list `pending/` again, if at all. A long listing (a million items: seconds) is not
    /// repeated at once unless nothing is left to start.
    pub(super) fn listing_due(&self, now: Instant, wall: i64) -> Option<Instant> {
        let due = self.listing_wanted(now, wall)?;
        Some(self.no_listing_before.map_or(due, |at| due.max(at)))
    }

    fn listing_wanted(&self, now: Instant, wall: i64) -> Option<Instant> {
        let overflow = &self.overflow;
        let Some(last) = overflow.ended_at else {
            return self.rescan.then_some(now);
        };
        let dry = self.ready.is_empty();
        if self.runs_low() && dry {
            return Some(last);
        }
        if self.rescan || self.runs_low() || overflow.due.is_some_and(|due| due <= wall) {
            return Some(last + overflow.took);
        }
        let waits = overflow.waiting > 0 && overflow.ended;
        waits.then(|| last + overflow.took * if dry { 1 } else { 20 })
    }
}

/// Longer cycles are not found: their items stay blocked, and are shown as such.
const CYCLE_MAX: usize = 1_000;

pub(super) fn cycle_text(cycle: &[Name]) -> String {
    let mut names: Vec<String> = cycle.iter().map(Name::shown).collect();
    names.extend(cycle.first().map(Name::shown));
    format!("a dependency cycle: {}", names.join(" waits for "))
}
