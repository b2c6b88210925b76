//! Whether an item may start now, and what it waits for: a time, other items, or a name or key in flight.

use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;

use super::Ready;
use super::sets::cycle_text;
use crate::atomic;
use crate::clock;
use crate::hold;
use crate::item::QueueFields;
use crate::layout::{Name, Place};
use crate::lease;
use crate::record;

impl Ready {
    /// Puts a name into the set where it belongs now.
    pub(super) fn put(&self, name: &Name, fields: Arc<QueueFields>, mtime: i64) {
        let claimed = atomic::exists(&self.root.claim(name));
        self.place(name, fields, mtime, claimed);
    }

    pub(super) fn place(&self, name: &Name, fields: Arc<QueueFields>, mtime: i64, claimed: bool) {
        let due = self.due(name, &fields, mtime);
        let waits = fields.after.iter().map(|dep| self.dependency(dep)).max();
        let key = fields.exclusive.as_ref().map(|k| self.root.exclusive(k));
        let in_flight = claimed && !lease::is_foreign(&self.root.claim(name))
            || key.is_some_and(|k| is_held(&k));
        let mut sets = self.lock();
        let known = sets.learn(name, fields, mtime);
        let refused = known.refuse.is_some();
        let held = known.held.clone();
        if due > clock::now_ns() {
            sets.schedule(name, due);
            return self.look_at_timers(sets);
        }
        if sets.wait_after_failing(name) {
            return self.look_at_timers(sets);
        }
        let held = held.and_then(|agent| hold::of(&self.root, &agent));
        match waits {
            // A claim would find the same hold again, as long as the file stays the same.
            None | Some(Dependency::Met) if held.is_some() && !refused => {
                match held.and_then(|h| h.ends_at_ns()) {
                    Some(at) => sets.schedule(name, at),
                    None => sets.block(name),
                }
            }
            _ if refused => sets.make_ready(name),
            Some(Dependency::Unmet) => {
                sets.block(name);
                let cycle = sets.cycle_of(name);
                for member in &cycle {
                    sets.refuse(member, cycle_text(&cycle));
                }
            }
            Some(Dependency::Soon) => sets.recheck(name),
            _ if in_flight => sets.recheck(name),
            _ => sets.make_ready(name),
        }
        self.look_at_timers(sets);
    }

    /// The earliest time at which it may start (ns since 1970): the later of its file's time and
    /// its `not_before`, which `harness release` overrides.
    fn due(&self, name: &Name, fields: &QueueFields, mtime: i64) -> i64 {
        let mtime = match mtime > clock::now_ns() {
            true => self.postponed(name),
            false => mtime,
        };
        match fields.not_before {
            Some(at) if at > clock::now_ns() && !record::is_released(&self.root, name, at) => {
                mtime.max(at)
            }
            _ => mtime,
        }
    }

    /// Until when its file's time postpones it (ns since 1970); 0: not at all. If the clock was set
    /// back, a retry's backoff counts as over, as what is left of it is unknown.
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
        } else if is_held(&self.root.claim(dep)) {
            // It was added again and is in flight, or its claim is just being given up.
            Dependency::Soon
        } else {
            Dependency::Met
        }
    }

    /// Whether an item with these fields may start now. Asked by a claim, which has read the whole file.
    pub fn may_start(&self, name: &Name, fields: &QueueFields, meta: &Metadata) -> bool {
        self.due(name, fields, clock::mtime_ns(meta)) <= clock::now_ns()
            && fields
                .after
                .iter()
                .all(|dep| self.dependency(dep) == Dependency::Met)
    }
}

/// Whether somebody holds this claim or key. What is no slot's is not waited for: nobody removes it.
fn is_held(link: &Path) -> bool {
    atomic::exists(link) && !lease::is_foreign(link)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dependency {
    Met,
    Soon,
    Unmet,
}
