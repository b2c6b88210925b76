//! The index of `queue/pending/` that one process keeps in memory: what could start now, in order
//! (priority, modification time, name), what waits for a time, for another item, or for a name or
//! key that is in flight.
//!
//! It decides nothing for good. Events and scans put names in, a claim reads the file again and
//! may find it gone, changed or taken. Every process has its own index and they need not agree.
//! Invariant: a name that is in `pending/` is in exactly one of the sets, or with a worker that
//! is trying to claim it and will say how that went (`tried`), or `beyond`: left out, because the
//! sets are bounded, and behind everything that is in them.

mod beyond;
mod listing;
mod peek;
mod sets;
mod view;

use std::ffi::OsStr;
use std::fs::Metadata;
use std::sync::{Arc, LazyLock, PoisonError};
use std::time::Duration;

use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::hold;
use crate::item::Order;
use crate::layout::{Name, Place, Root, SlotId};
use crate::limits::{AFTER_TROUBLE, INDEX_MAX};
use crate::mutant::planted;
use crate::record;
use crate::spool;
use crate::waker::{Mutex, MutexGuard, Waker};
use listing::{FIRST_PIECE, Listing};
pub use peek::peek;
use sets::{Idle, Inner, Known, Where, cycle_text};
pub use view::Standing;

pub struct Ready {
    root: Root,
    inner: Mutex<Inner>,
    /// The listing that is under way.
    listing: Mutex<Option<Listing>>,
    /// How long its first piece is.
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

/// How a worker's try ended, as far as the index cares.
pub enum ClaimReport {
    /// Not in `pending/` any more.
    Gone,
    /// Look again in a moment.
    Later,
    /// It must wait: its fields are these.
    Waits(Order),
    /// This agent, which it is for, is held.
    Held(String),
    /// The host, or something about this very item, is in trouble: not again at once, or one bad
    /// item at the head of the queue would keep every worker busy.
    Trouble,
}

impl Ready {
    pub fn new(root: &Root) -> Result<Ready> {
        Ready::with_room_for(root, INDEX_MAX)
    }

    /// For one who wants to see all of `pending/` at once.
    pub fn unbounded(root: &Root) -> Result<Ready> {
        Ready::with_room_for(root, usize::MAX)
    }

    /// With so many names in each of its sets.
    pub fn with_room_for(root: &Root, cap: usize) -> Result<Ready> {
        Ok(Ready {
            root: root.clone(),
            inner: Mutex::new(Inner::new(cap)),
            listing: Mutex::default(),
            first_piece: FIRST_PIECE,
            waker: Waker::new()?,
        })
    }

    /// As one of a huge folder, which is not listed in one go: a name at a time.
    pub fn in_small_pieces(mut self) -> Ready {
        self.first_piece = Duration::ZERO;
        self
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way through a change that matters; go on with what is there.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The best candidate, or one that was handed to this worker; or `None`: then the waker is used
    /// when there may be one.
    /// `repo`: the one that the worker last worked in; of several idle workers the one whose
    /// worktree is warm is woken for an item.
    pub fn pop(&self, waker: &Arc<Waker>, slot: SlotId, repo: Option<&str>) -> Option<Candidate> {
        let mut inner = self.lock();
        inner.idle.retain(|i| !Arc::ptr_eq(&i.waker, waker));
        let handed = inner.handed.iter();
        if let Some(at) = handed.clone().position(|(b, _)| Arc::ptr_eq(b, waker)) {
            return Some(inner.handed.swap_remove(at).1);
        }
        if inner.open
            && let Some(rank) = inner.ready.pop_first()
        {
            if inner.has_just_run_low() {
                self.waker.wake();
            }
            inner.next_ticket += 1;
            inner.with_workers += 1;
            let ticket = inner.next_ticket;
            let mut refuse = None;
            if let Some(known) = inner.known.get_mut(&rank.name) {
                known.place = Where::Worker(ticket);
                refuse = known.refuse.as_deref().map(str::to_owned);
            }
            return Some(Candidate {
                name: rank.name,
                refuse,
                ticket,
            });
        }
        if planted("idle-late") {
            drop(inner);
            inner = self.lock();
        }
        if inner.beyond.is_listing() {
            // It rests beside workers that have enough to do.
            self.waker.wake();
        }
        inner.idle.push(Idle {
            waker: waker.clone(),
            slot,
            repo: repo.map(str::to_owned),
        });
        None
    }

    /// Hands a candidate on to the worker of the slot that suits it best. `false`: that one is not
    /// idle here.
    pub fn hand_over(&self, candidate: &Candidate, slot: SlotId) -> bool {
        let mut inner = self.lock();
        let Some(at) = inner.idle.iter().position(|i| i.slot == slot) else {
            return false;
        };
        let idle = inner.idle.remove(at);
        idle.waker.wake();
        inner.handed.push((idle.waker, candidate.clone()));
        true
    }

    /// Whether no worker waits, and the next one that asks finds an item.
    fn keeps_workers_busy(&self) -> bool {
        let inner = self.lock();
        inner.open && inner.idle.is_empty() && !inner.ready.is_empty()
    }

    /// A worker that stops asking, for a while or for good.
    pub fn forget_waker(&self, waker: &Arc<Waker>) {
        let mut inner = self.lock();
        inner.idle.retain(|i| !Arc::ptr_eq(&i.waker, waker));
        let its = |(b, _): &(Arc<Waker>, Candidate)| Arc::ptr_eq(b, waker);
        while let Some(at) = inner.handed.iter().position(its) {
            let (_, candidate) = inner.handed.swap_remove(at);
            let known = inner.known.get(&candidate.name);
            if known.is_some_and(|k| k.place == Where::Worker(candidate.ticket)) {
                inner.make_ready(&candidate.name);
            }
        }
        // It may have been woken for an item that it does not take now.
        if inner.open
            && !inner.ready.is_empty()
            && !planted("wake-up-kept")
            && let Some(idle) = inner.idle.pop()
        {
            idle.waker.wake();
        }
    }

    /// A worker says how its try went. Ignored where news of the name came in the meantime.
    pub fn tried(&self, candidate: &Candidate, report: ClaimReport) {
        let mut inner = self.lock();
        let name = &candidate.name;
        match inner.known.get(name) {
            Some(k) if k.place == Where::Worker(candidate.ticket) => {}
            _ => return,
        }
        match report {
            ClaimReport::Gone => {
                inner.remove(name);
                return;
            }
            ClaimReport::Later => inner.recheck(name),
            ClaimReport::Held(agent) => {
                let (order, mtime) = match inner.known.get_mut(name) {
                    Some(known) => {
                        known.held = Some(agent.into());
                        (known.order.clone(), known.mtime)
                    }
                    None => return,
                };
                drop(inner);
                // The hold is looked at once more there: it may just have ended.
                self.put(name, order, mtime);
                return;
            }
            ClaimReport::Trouble => {
                let ns = AFTER_TROUBLE.as_nanos() as i64;
                inner.schedule(name, clock::now_ns() + ns);
            }
            ClaimReport::Waits(order) => {
                let mtime = inner.known.get(name).map_or(0, |k| k.mtime);
                drop(inner);
                self.put(name, shared(order), mtime);
                return;
            }
        }
        self.look_at_timers(inner);
    }

    /// Wakes the index thread where it would come too late for what was just given a time.
    fn look_at_timers(&self, inner: MutexGuard<'_, Inner>) {
        let late = inner.wakes_at.is_none_or(|at| inner.is_due_before(at));
        drop(inner);
        if late {
            self.waker.wake();
        }
    }

    /// News of a name in `pending/`: looks at the file and sorts it in.
    pub fn note(&self, name: &OsStr) {
        if Name::is_ignored(name) {
            return;
        }
        let name = Name::new(name);
        let path = self.root.item(Place::Pending, &name);
        let Ok(meta) = path.symlink_metadata() else {
            return self.gone(&name);
        };
        let order = peek(&name, &path, &meta);
        let claimed = atomic::exists(&self.root.claim(&name));
        self.sort_in(&name, order, &meta, claimed);
    }

    /// Sorts in what was seen of a file.
    fn sort_in(&self, name: &Name, order: Order, meta: &Metadata, claimed: bool) {
        let mtime = clock::mtime_ns(meta);
        if meta.is_file() && meta.len() == 0 && !spool::settled(meta) {
            // Perhaps being created: a close event or the next look will tell.
            let mut inner = self.lock();
            inner.learn(name, shared(Order::default()), mtime);
            inner.recheck(name);
            return self.look_at_timers(inner);
        }
        self.place(name, shared(order), mtime, claimed);
    }

    /// A file in `pending/` is being written, or its time was changed: of news only where it waits
    /// for its time.
    pub fn touched(&self, name: &OsStr) {
        let known = Name::new(name);
        let waits = |k: &Known| matches!(k.place, Where::Scheduled(_));
        if self.lock().known.get(&known).is_some_and(waits) {
            self.note(name);
        }
    }

    /// A name left `pending/`.
    pub fn gone(&self, name: &Name) {
        self.lock().remove(name);
    }

    /// A name came into `done/` or left its claim: what waits for it may start.
    pub fn ended(&self, name: &OsStr) {
        let waiting = {
            let mut inner = self.lock();
            inner.beyond.ended = true;
            match inner.dependents.is_empty() {
                true => None,
                false => inner.dependents.get(&Name::new(name)).cloned(),
            }
        };
        for waiter in waiting.unwrap_or_default() {
            self.look_again(&waiter);
        }
    }

    /// Looks at items that wait for a key or name in flight at once instead of a moment later.
    pub fn look_at_busy(&self) {
        let names: Vec<Name> = {
            let inner = self.lock();
            inner
                .later
                .iter()
                .map(|(_, n)| n.clone())
                .take(64)
                .collect()
        };
        for name in names {
            self.note(name.as_os_str());
        }
    }

    fn look_again(&self, name: &Name) {
        let entry = {
            let inner = self.lock();
            inner
                .known
                .get(name)
                .filter(|k| k.place == Where::Blocked)
                .map(|k| (k.order.clone(), k.mtime))
        };
        if let Some((order, mtime)) = entry {
            self.put(name, order, mtime);
        }
    }

    /// Sorts a name into the set where it belongs now.
    fn put(&self, name: &Name, order: Arc<Order>, mtime: i64) {
        let claimed = atomic::exists(&self.root.claim(name));
        self.place(name, order, mtime, claimed);
    }

    fn place(&self, name: &Name, order: Arc<Order>, mtime: i64, claimed: bool) {
        let due = self.due(name, &order, mtime);
        let waits = order.after.iter().map(|dep| self.dependency(dep)).max();
        let key = order.exclusive.as_ref().map(|k| self.root.exclusive(k));
        let in_flight = claimed || key.is_some_and(|k| atomic::exists(&k));
        let mut inner = self.lock();
        let known = inner.learn(name, order, mtime);
        let refused = known.refuse.is_some();
        let held = known.held.clone();
        if due > clock::now_ns() {
            inner.schedule(name, due);
            return self.look_at_timers(inner);
        }
        let held = held.and_then(|agent| hold::of(&self.root, &agent));
        match waits {
            // What a claim would find again, as long as nobody changes the file.
            None | Some(Dependency::Met) if held.is_some() && !refused => {
                match held.and_then(|h| h.ends_at_ns()) {
                    Some(at) => inner.schedule(name, at),
                    None => inner.block(name),
                }
            }
            _ if refused => inner.make_ready(name),
            Some(Dependency::Unmet) => {
                inner.block(name);
                let cycle = inner.cycle_of(name);
                for member in &cycle {
                    inner.refuse(member, cycle_text(&cycle));
                }
            }
            Some(Dependency::Soon) => inner.recheck(name),
            _ if in_flight => inner.recheck(name),
            _ => inner.make_ready(name),
        }
        self.look_at_timers(inner);
    }

    /// The instant before which it must not start: its file's time and its `not_before`, unless a
    /// person let it go (`harness release`) since.
    fn due(&self, name: &Name, order: &Order, mtime: i64) -> i64 {
        let mtime = match mtime > clock::now_ns() {
            true => self.postponed(name),
            false => mtime,
        };
        match order.not_before {
            Some(at) if at > clock::now_ns() && !record::is_released(&self.root, name, at) => {
                mtime.max(at)
            }
            _ => mtime,
        }
    }

    /// The instant to which its file's time postpones it; in the past where it does not. A backoff
    /// of ours is a duration: where the clock was set back since, nobody knows what is left of it,
    /// and it is over.
    fn postponed(&self, name: &Name) -> i64 {
        let meta = self.root.item(Place::Pending, name).symlink_metadata();
        let Some((at, meta)) = meta.ok().and_then(|m| Some((clock::postponed(&m)?, m))) else {
            return 0;
        };
        let backoff = clock::was_set_back_since(&meta) && record::is_backoff(&self.root, name, at);
        if backoff { 0 } else { at }
    }

    fn dependency(&self, dep: &Name) -> Dependency {
        if !atomic::exists(&self.root.item(Place::Done, dep))
            || atomic::exists(&self.root.item(Place::Pending, dep))
        {
            Dependency::Unmet
        } else if atomic::exists(&self.root.claim(dep)) {
            // A second life of it is in flight, or its claim is just being given up.
            Dependency::Soon
        } else {
            Dependency::Met
        }
    }

    /// Whether an item with these fields may start now: what a claim asks of the whole file.
    pub fn may_start(&self, name: &Name, order: &Order, meta: &Metadata) -> bool {
        self.due(name, order, clock::mtime_ns(meta)) <= clock::now_ns()
            && order
                .after
                .iter()
                .all(|dep| self.dependency(dep) == Dependency::Met)
    }

    pub fn ask_rescan(&self) {
        self.lock().rescan = true;
        self.waker.wake();
    }

    fn open(&self) {
        let mut inner = self.lock();
        if !inner.open {
            inner.open = true;
            for idle in inner.idle.drain(..) {
                idle.waker.wake();
            }
        }
    }

    /// One turn of the index thread: a piece of a listing where one is due, and what is due itself. Returns
    /// how long until there is something to do again.
    pub fn turn(&self) -> Result<Duration> {
        let rest = self.list_a_piece()?;
        let now = clock::instant();
        let wall = clock::now_ns();
        let due: Vec<Name> = {
            let mut inner = self.lock();
            // Set back: what waits for a time is looked at again.
            let set_back = inner.turn.replace((now, wall)).is_some_and(|(then, at)| {
                let passed = i64::try_from(now.duration_since(then).as_nanos());
                wall < at
                    .saturating_add(passed.unwrap_or(i64::MAX))
                    .saturating_sub(SET_BACK_NS)
            });
            inner.rescan |= set_back && inner.beyond.due.is_some();
            let is_due = |at: i64| at <= wall || set_back;
            let timed = inner.scheduled.iter().take_while(|(at, _)| is_due(*at));
            let later = inner.later.iter().take_while(|(at, _)| *at <= now);
            timed
                .map(|(_, n)| n.clone())
                .chain(later.map(|(_, n)| n.clone()))
                .collect()
        };
        for name in &due {
            self.note(name.as_os_str());
        }
        let mut inner = self.lock();
        let now = clock::instant();
        let timed = inner.scheduled.first().map(|(at, _)| {
            let ns = at.saturating_sub(clock::now_ns()).max(0);
            Duration::from_nanos(ns as u64)
        });
        let later = inner.later.first().map(|(at, _)| *at - now);
        let listing = inner.listing_due(now, wall).map(|at| at - now);
        // The wall clock may jump: never trust a long wait for it.
        let waits = [timed, later, rest.or(listing), Some(TURN_MAX)];
        let wait = waits.into_iter().flatten().min().unwrap_or(TURN_MAX);
        inner.wakes_at = Some(now + wait);
        Ok(wait)
    }

    /// How long the last listing took.
    pub fn listing_took(&self) -> Duration {
        self.lock().beyond.took
    }

    /// Items that wait for others and are not among `blocked`.
    pub fn more_blocked(&self) -> usize {
        self.lock().beyond.waiting
    }

    /// Whether nothing in `pending/` can ever start by itself. Items that wait for others do not
    /// count: with nothing else left, nobody will ever end what they wait for.
    pub fn is_exhausted(&self) -> bool {
        let inner = self.lock();
        inner.open
            && !inner.rescan
            && inner.ready.is_empty()
            && inner.with_workers == 0
            && inner.scheduled.is_empty()
            && inner.later.is_empty()
            && !inner.beyond.is_listing()
            && inner.beyond.ready.is_none()
            && inner.beyond.due.is_none()
    }

    /// Looks at every blocked item again: an event about what it waits for may still be under way.
    pub fn look_at_blocked(&self) {
        let names: Vec<Name> = {
            let inner = self.lock();
            let blocked = inner
                .known
                .iter()
                .filter(|(_, k)| k.place == Where::Blocked);
            blocked.map(|(n, _)| n.clone()).collect()
        };
        for name in names {
            self.look_again(&name);
        }
    }
}

/// An order that says nothing special takes no room of its own.
fn shared(order: Order) -> Arc<Order> {
    static PLAIN: LazyLock<Arc<Order>> = LazyLock::new(Arc::default);
    match order == **PLAIN {
        true => PLAIN.clone(),
        false => Arc::new(order),
    }
}

const TURN_MAX: Duration = Duration::from_secs(1);
/// A clock that is behind by so much since the last turn was set.
const SET_BACK_NS: i64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dependency {
    Met,
    Soon,
    Unmet,
}
