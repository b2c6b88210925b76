//! Slots of other hosts: which of those hosts are gone. No silence alone says so, however long: what says it
//! is a lock that is free where locks hold between hosts, the engine that started the process, or a person.
//! And whether this process was itself taken for gone.
//!
//! Knows nothing of how items are moved back. Invariant: an engine is asked seldom, about all at once, and
//! never by the main thread; what it does not know changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Main;
use crate::clock;
use crate::engine::{self, Job, Verdict};
use crate::keeper;
use crate::layout::SlotId;
use crate::lease::{self, Marker};
use crate::mutant::planted;
use crate::quote::shell_quoted;
use crate::recovery;
use crate::runtime::{Level, Lost, Runtime};

/// How often the slots of other hosts are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// An engine is asked about a slot whose heartbeat stood still for this long: three of them are missing.
const SILENT: Duration = Duration::from_secs(15);
/// Between two questions to an engine.
const ASK: Duration = Duration::from_secs(20);
/// A file in `state/agents/agent-N/` by which a person says that the slot's host is gone.
const SAID_LOST: &str = "lost";

#[derive(Default)]
pub(super) struct OtherHosts {
    next_look: Option<Instant>,
    /// The heartbeats, and since when each has been as it is.
    beats: BTreeMap<SlotId, (Option<i64>, Instant)>,
    asked_at: Option<Instant>,
    /// What the engine said when it last answered.
    answers: Arc<Mutex<Vec<(Job, Verdict)>>>,
    /// Of which slots it was said that nothing is known.
    said: BTreeSet<SlotId>,
    /// This process was taken for gone.
    is_late: bool,
}

impl Main {
    /// Looks for slots whose host is gone, and whether this process's own were given up.
    pub(super) fn look_at_other_hosts(&mut self) {
        let now = clock::instant();
        let is_early = self.other_hosts.next_look.is_some_and(|next| now < next);
        if is_early || !self.rt.has_others {
            return;
        }
        self.other_hosts.next_look = Some(now + LOOK);
        // Who looks meanwhile does not see this process; nothing else comes of it.
        let _unseen = self.presence.beat();
        self.stop_if_late();
        if self.level() >= Level::Finishing {
            return;
        }
        let rt = self.rt.clone();
        let mut holders = lease::holders(&rt.root);
        holders.extend(lease::holders_of_keys(&rt.root));
        let entries = std::fs::read_dir(rt.root.agents());
        let slots = entries.into_iter().flatten().flatten();
        let slots = slots.filter_map(|e| SlotId::parse(&e.file_name()));
        let mut unclear = Vec::new();
        for slot in slots {
            let Some(marker) = lease::marker(&rt.root, slot) else {
                continue;
            };
            let has_items = recovery::has_items(&rt.root, slot, &holders);
            if let Some(why) = &marker.given_up {
                // Whoever gave it up has died, or its late process has claimed something since.
                if has_items {
                    let why = why.clone();
                    self.found_lost(slot, marker, why, false);
                }
            } else if marker.host.is_other(&rt.root) {
                let is_silent = self.is_silent(slot, now);
                match self.proof_of_loss(slot, &marker, is_silent) {
                    Some((why, by_lock)) => self.found_lost(slot, marker, why, by_lock),
                    None if is_silent => unclear.push((slot, marker, has_items)),
                    None => {}
                }
            }
        }
        self.hear_engine(unclear, now);
    }

    fn found_lost(&mut self, slot: SlotId, marker: Marker, why: String, by_lock: bool) {
        let lost = Lost {
            slot,
            marker,
            why,
            by_lock,
        };
        if self.rt.lost.add(lost) {
            self.rt.lifecycle.wake_all();
        }
    }

    /// Another host has given up a slot of this process: it was taken for gone, and is late.
    fn stop_if_late(&mut self) {
        if self.other_hosts.is_late || planted("late-goes-on") {
            return;
        }
        let mut own = self.own().into_iter();
        let Some(slot) = own.find(|slot| lease::is_closed(&self.rt.root, *slot)) else {
            return;
        };
        self.other_hosts.is_late = true;
        let given_up = lease::marker(&self.rt.root, slot).and_then(|marker| marker.given_up);
        let why = given_up.unwrap_or_else(|| "it is another host's now".to_owned());
        self.say_stays(&format!(
            "{slot} was given up by another host, which has moved its items back: {why}; stopping. Start \
             harness again when this host is well"
        ));
        self.rt.lifecycle.raise(Level::Stopping);
    }

    /// What proves that the host is gone, without its engine; and whether that is the slot's lock.
    fn proof_of_loss(
        &self,
        slot: SlotId,
        marker: &Marker,
        is_silent: bool,
    ) -> Option<(String, bool)> {
        let root = &self.rt.root;
        let written = |name: &str| {
            let meta = root.agent(slot).join(name).symlink_metadata();
            meta.ok().map(|meta| clock::mtime_ns(&meta))
        };
        // What was said of a process before is not said of this one.
        let said = written(SAID_LOST);
        let is_of_it = said > written("marker") || planted("lost-outlives");
        if said.is_some() && is_of_it {
            return Some(("a person has said so".to_owned(), false));
        }
        // Clients do not see the locks of the host that serves them the disk.
        let may_prove = is_silent || marker.host.has_own_kernel();
        let is_free = may_prove
            && marker.host.shows_locks(root)
            && !lease::is_locked(&root.agent(slot).join("lease"))
            && !keeper::is_alive(root, slot);
        // One that has just ended leaves its slot to others.
        let is_it = is_free && lease::marker(root, slot).as_ref() == Some(marker);
        is_it.then(|| ("its process has let go of the slot's lock".to_owned(), true))
    }

    fn is_silent(&mut self, slot: SlotId, now: Instant) -> bool {
        let path = self.rt.root.agent(slot).join("heartbeat");
        let beat = path.symlink_metadata().ok().map(|m| clock::mtime_ns(&m));
        let seen = self.other_hosts.beats.entry(slot).or_insert((beat, now));
        if seen.0 != beat {
            *seen = (beat, now);
        }
        now - seen.1 >= SILENT || planted("working-is-silent")
    }

    /// Takes the engine's word on slots of which nothing else is known, and asks it again.
    fn hear_engine(&mut self, unclear: Vec<(SlotId, Marker, bool)>, now: Instant) {
        let mut jobs: Vec<Job> = Vec::new();
        let answers = self.other_hosts.answers.clone();
        let answers = answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (slot, marker, has_items) in unclear {
            let Some(job) = marker.host.job.clone() else {
                // Where locks hold, the slot's lock, which is held, says that it lives.
                if !marker.host.shows_locks(&self.rt.root) {
                    self.say_unknown(slot, &marker, has_items, "no engine started it");
                }
                continue;
            };
            match answers.iter().find(|(asked, _)| *asked == job) {
                Some((_, Verdict::Over(why))) => {
                    self.found_lost(slot, marker, why.clone(), false);
                    continue;
                }
                Some((_, Verdict::Unknown(why))) => {
                    self.say_unknown(slot, &marker, has_items, why);
                }
                Some((_, Verdict::Runs)) | None => {}
            }
            if !jobs.contains(&job) {
                jobs.push(job);
            }
        }
        let is_due = self.other_hosts.asked_at.is_none_or(|at| now - at >= ASK);
        if !jobs.is_empty() && is_due {
            self.other_hosts.asked_at = Some(now);
            ask(&self.rt, jobs, self.other_hosts.answers.clone());
        }
    }

    fn say_unknown(&mut self, slot: SlotId, marker: &Marker, has_items: bool, why: &str) {
        if !has_items || !self.other_hosts.said.insert(slot) {
            return;
        }
        let host = &marker.host.name;
        let file = shell_quoted(&self.rt.root.agent(slot).join(SAID_LOST));
        self.rt.console.warn(&format!(
            "{slot} of host {host} is silent, and whether it lives is not known ({why}): its items wait; what to \
             do: see that its harness process has ended, or the host is off; then: touch {file}"
        ));
    }
}

/// Asks the engine, in a thread of its own: it may take seconds to answer.
fn ask(rt: &Arc<Runtime>, jobs: Vec<Job>, answers: Arc<Mutex<Vec<(Job, Verdict)>>>) {
    let waker = rt.clone();
    let asking = std::thread::Builder::new().name("engine".into());
    let asked = asking.spawn(move || {
        let said = engine::ask(&jobs);
        *answers.lock().unwrap_or_else(PoisonError::into_inner) =
            jobs.into_iter().zip(said).collect();
        waker.lifecycle.main().wake();
    });
    if let Err(e) = asked {
        rt.console.warn(&format!("cannot ask the engine: {e}"));
    }
}
