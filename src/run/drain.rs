//! With `--drain`: whether nothing is left to do, in this process or any other, and what is said of
//! items that stay, and of what the drain waits for. Invariants: the process does not end while an
//! item could still be claimed by it; it does end where only a person can change anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Main;
use super::staff::SLOTS;
use super::threads::{PENDING, pending_changed_at};
use crate::agents;
use crate::atomic;
use crate::clock;
use crate::hold;
use crate::layout::{Name, Root, SlotId};
use crate::lease;
use crate::merge;
use crate::missing::waited_for;
use crate::ready::Wait;
use crate::record;
use crate::recovery;
use crate::runtime::Level;
use crate::spool;
use crate::status::{SlotState, SlotStatus};
use crate::text::class_of;

/// A shorter wait is not worth a message.
const WAIT_SAID: Duration = Duration::from_secs(2);

/// What a drain waits for.
pub(super) struct Waits {
    /// What tells it from another cause.
    cause: String,
    since: std::time::Instant,
    said: bool,
}

impl Main {
    pub(super) fn end_when_drained(&mut self) {
        if !self.rt.lifecycle.drains() {
            return;
        }
        if self.rt.slots.busy() > 0 {
            return self.say_what_it_waits_for();
        }
        let stuck = self.stuck_slots();
        let all_stuck = !self.workers.is_empty() && self.own().iter().all(|s| stuck.contains(s));
        let unlisted = self.rt.troubles.why_lasting(PENDING);
        let slotless = self.rt.troubles.why_lasting(SLOTS);
        let slotless = slotless.filter(|_| self.workers.is_empty());
        let is_stuck = slotless.is_some() || unlisted.is_some() || all_stuck;
        if !is_stuck && !self.is_drained(&stuck) || self.idle_goes_first() {
            return self.say_what_it_waits_for();
        }
        if let Some(why) = &slotless {
            self.say_stays(&format!("no slot can be taken: {why}"));
        }
        if let Some(why) = unlisted {
            self.say_stays(&format!("what is in {PENDING} stays there: {why}"));
        }
        self.end_unneeded();
        self.say_what_stays();
        self.rt.lifecycle.raise(Level::Finishing);
    }

    /// Slots whose trouble only a person ends.
    pub(super) fn stuck_slots(&self) -> BTreeSet<SlotId> {
        self.rt.troubles.lasting_slots()
    }

    /// Nothing is claimed by anybody but `stuck` slots, and `pending/` holds nothing that could start:
    /// listed anew, and unchanged while this was found out.
    pub(super) fn is_drained(&self, stuck: &BTreeSet<SlotId>) -> bool {
        let (root, ready) = (&self.rt.root, &self.rt.ready);
        // What rests there waits for a person.
        let to_merge = || {
            let mut waiting = merge::waiting(&self.rt).into_iter();
            waiting.any(|waiting| !self.rt.merges.rests(&waiting.name))
        };
        if !ready.is_exhausted() || to_merge() {
            return false;
        }
        let before = pending_changed_at(&self.rt);
        // A claim without a file is half made or half given up; or its holder died, and a git that
        // it started holds the slot's lease for a moment more.
        let holders = lease::holders(root);
        let others_work =
            claimed(root, stuck).is_some() || holders.iter().any(|s| !stuck.contains(s));
        self.news.others_end.store(others_work, Ordering::SeqCst);
        if others_work || ready.rescan().is_err() {
            return false;
        }
        ready.look_at_blocked();
        let mut ours = self.own();
        ours.extend(stuck);
        ready.is_exhausted()
            && !to_merge()
            && claimed(root, stuck).is_none()
            && pending_changed_at(&self.rt) == before
            && recovery::orphans(root, &ours).is_empty()
    }

    pub(super) fn say_stays(&self, text: &str) {
        self.rt.console.warn(text);
        self.rt.results.left_with_trouble();
    }

    /// At the end of a run: slots in trouble, and the items that stay with them for the next run.
    pub(super) fn say_what_is_left(&self) {
        let root = &self.rt.root;
        for (slot, (why, lasting)) in self.rt.troubles.of_slots() {
            let items = spool::claimed_in(root, slot).unwrap_or_default();
            if items.is_empty() && !lasting {
                continue;
            }
            let shown: Vec<String> = items.iter().take(3).map(Name::shown).collect();
            let stays = match shown.join(", ") {
                names if names.is_empty() => String::new(),
                names => {
                    format!("; {names} stays in queue/claimed/{slot}/ for the next `harness run`")
                }
            };
            self.say_stays(&format!("{slot} stays as it is: {why}{stays}"));
            for name in items {
                let attempt = record::history(root, &name).attempts;
                let why = format!("stays in queue/claimed/{slot}/: {why}");
                self.rt.results.stays(name, attempt, why);
            }
        }
    }

    /// Items that wait for what nobody is going to do.
    fn say_what_stays(&self) {
        let (console, ready) = (&self.rt.console, &self.rt.ready);
        let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for waiting in merge::waiting(&self.rt) {
            let why = waiting.why.unwrap_or_default();
            self.say_stays(&format!("{} stays in merge/: {why}", waiting.name));
        }
        let more = ready.more_blocked();
        if more > 0 {
            console.warn(&format!("{more} more items stay in pending/"));
        }
        for (name, wait) in ready.blocked() {
            match wait {
                Wait::Failed(why) => self.say_stays(&format!("{name} stays in pending/: {why}")),
                Wait::After(after) if !after.is_empty() => {
                    let after: Vec<String> =
                        after.iter().map(|n| waited_for(&self.rt.root, n)).collect();
                    console.warn(&format!(
                        "{name} stays in pending/: it waits for {}, which nobody is going to finish",
                        after.join(", ")
                    ));
                }
                Wait::Hold(agent) => held.entry(agent).or_default().push(name.shown()),
                _ => console.warn(&format!("{name} stays in pending/")),
            }
        }
        for (agent, names) in held {
            let hold = hold::of(&self.rt.root, &agent);
            let why = hold.map_or_else(String::new, |hold| hold.reason);
            let more = if names.len() > 3 { ", …" } else { "" };
            let held = match agent == agents::NOBODY {
                true => String::new(),
                false => format!(", {agent} is held"),
            };
            self.say_stays(&format!(
                "{} in pending/ ({}{more}){held}: {why}",
                plural_stay(names.len()),
                names[..names.len().min(3)].join(", ")
            ));
        }
    }

    /// Says each cause once, when it has stood for a while.
    fn say_what_it_waits_for(&mut self) {
        let now = clock::instant();
        if now < self.next_waits {
            return;
        }
        self.next_waits = now + WAIT_SAID / 2;
        let Some((cause, text)) = self.what_it_waits_for() else {
            self.waits = None;
            return;
        };
        match &mut self.waits {
            Some(waits) if waits.cause == cause => {
                if !waits.said && now - waits.since >= WAIT_SAID / 2 {
                    waits.said = true;
                    self.rt.console.say(&text);
                }
            }
            _ => {
                self.waits = Some(Waits {
                    cause,
                    since: now,
                    said: false,
                });
            }
        }
    }

    /// The cause of the wait, and what to say of it: slots that a person holds back, other processes'
    /// items, a time.
    fn what_it_waits_for(&self) -> Option<(String, String)> {
        let slots = self.rt.slots.statuses();
        let held = |state| {
            matches!(
                state,
                SlotState::Interrupted | SlotState::Paused | SlotState::Trouble
            )
        };
        if let Some(first) = slots.values().next()
            && slots.values().all(|s| held(s.state))
        {
            let of = |(slot, status): (&SlotId, &SlotStatus)| {
                let item = status.item.as_ref().map(|i| format!(" with {i}"));
                let why = status.reason.as_deref().unwrap_or("interrupted");
                format!("{slot}{}: {why}", item.unwrap_or_default())
            };
            let shared = slots
                .values()
                .all(|s| s.item.is_none() && s.reason == first.reason);
            let text: Vec<String> = match &first.reason {
                Some(why) if shared => vec![why.clone()],
                _ => slots.iter().take(3).map(of).collect(),
            };
            let text = format!("the drain waits: no slot may go on: {}", text.join("; "));
            return Some((class_of(&text), text));
        }
        if self.rt.slots.busy() > 0 {
            return None;
        }
        if self.idle_runs() {
            let text = "the drain waits for hooks/idle, which may add something".to_owned();
            return Some((text.clone(), text));
        }
        if self.rt.ready.tally().pending == 0
            && let Some((name, due)) = self.rt.ready.next_scheduled()
        {
            let wait = Duration::from_nanos((due - clock::now_ns()).max(0).unsigned_abs());
            let text = format!("waiting {} for {name}", clock::human(wait));
            return (wait > WAIT_SAID).then(|| ("a time".to_owned(), text));
        }
        let (slot, name) = claimed(&self.rt.root, &self.own().into_iter().collect())?;
        let other = lease::marker(&self.rt.root, slot).map(|marker| marker.host);
        let other = other.filter(|host| host.is_other(&self.rt.root));
        let of = other.map_or(String::new(), |host| format!(" of host {}", host.name));
        let text = format!("the drain waits for {slot}{of}, which has {name}");
        Some((text.clone(), text))
    }
}

/// A slot whose folder in `claimed/` holds an item, and that item; not one of `but`. A folder that
/// cannot be read counts as one that does.
fn claimed(root: &Root, but: &BTreeSet<SlotId>) -> Option<(SlotId, String)> {
    let slots = std::fs::read_dir(root.claimed_root())
        .into_iter()
        .flatten()
        .flatten();
    slots
        .filter_map(|e| Some((SlotId::parse(&e.file_name())?, e.path())))
        .filter(|(slot, path)| !but.contains(slot) && atomic::is_own_dir(path))
        .find_map(|(slot, _)| match spool::claimed_in(root, slot) {
            Ok(names) => Some((slot, names.first()?.shown())),
            Err(e) => Some((slot, format!("a folder that cannot be read: {e}"))),
        })
}

fn plural_stay(count: usize) -> String {
    match count {
        1 => "1 item stays".to_owned(),
        n => format!("{n} items stay"),
    }
}
