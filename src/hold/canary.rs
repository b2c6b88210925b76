//! When a hold is over, one slot of all processes tries first, and the others of that agent wait until it
//! has been answered: what all would meet again is met once. `state/holds/NAME.canary` says which slot.
//!
//! Invariant: a hold that is over stays until its canary was answered, so that there is no moment in
//! which a second one could start. Whoever makes the canary's file is it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BUDGET, Hold, is_past, path, read, remove_if};
use crate::atomic::{self, Moved, Nameless};
use crate::clock;
use crate::error::{Error, Result};
use crate::layout::{Root, SlotId};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;
use crate::text;

const ENDING: &str = ".canary";
/// How long the others wait for a canary that is not answered: then another one tries as well. It decides
/// of nobody's life.
const TIME: Duration = Duration::from_secs(600);
/// The class of what the others see.
const CLASS: &str = "canary";
/// How often it is tried to become the canary where others do, too.
const TRIES: usize = 3;

/// Whether a slot may start an agent.
#[derive(Debug)]
pub(crate) enum Admitted {
    Yes,
    /// Its hold is over, and this slot is the one that tries first.
    AsCanary,
    No(Hold),
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Canary {
    /// The agent of the hold.
    agent: String,
    /// The slot that tries first.
    slot: String,
    /// Since when it tries.
    #[serde(with = "crate::text::or_null")]
    #[schemars(with = "Option<String>")]
    since: String,
    /// The others wait no longer than that.
    until: Option<String>,
}

impl Canary {
    /// One whose end cannot be read is over, and one from before the clock was set back.
    fn is_over(&self) -> bool {
        self.until.as_deref().is_none_or(is_past) || clock::is_ahead(&self.since)
    }

    /// What the others see.
    fn hold(self) -> Hold {
        Hold {
            reason: format!(
                "its hold is over, and {} tries first: the others follow when that is answered",
                self.slot
            ),
            agent: self.agent,
            until: self.until,
            class: CLASS.to_owned(),
            session: String::new(),
            since: self.since,
        }
    }
}

fn place(root: &Root, agent: &str) -> PathBuf {
    root.hold(&[agent, ENDING].concat())
}

fn parsed(bytes: &[u8]) -> Canary {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn find(root: &Root, agent: &str) -> Option<Canary> {
    let path = place(root, agent);
    if atomic::is_gone(&path) {
        return None;
    }
    let bytes = atomic::read_small(&path, STATE_FILE_BYTES_MAX).unwrap_or_default();
    Some(Canary {
        agent: agent.to_owned(),
        ..parsed(&bytes)
    })
}

/// Whether the end of a hold is tried first: a budget's end is known, and a person who ended one knows.
pub(super) fn follows(hold: &Hold) -> bool {
    hold.class != BUDGET
}

/// What the others see of an agent whose hold is over: `None` where nobody tries yet.
pub(super) fn standing(root: &Root, agent: &str) -> Option<Hold> {
    let canary = find(root, agent).filter(|canary| !canary.is_over())?;
    Some(canary.hold())
}

/// Whether this slot may start the agent now. Asked again, the canary has its time anew.
pub(crate) fn admit(root: &Root, agent: &str, slot: SlotId) -> Result<Admitted> {
    for _ in 0..TRIES {
        let Some(hold) = read(root, agent) else {
            return Ok(Admitted::Yes);
        };
        if !hold.is_over() {
            return Ok(Admitted::No(hold));
        }
        if !follows(&hold) {
            remove_if(&path(root, agent), super::is_over);
            continue;
        }
        let at = place(root, agent);
        match find(root, agent) {
            Some(canary) if canary.slot == slot.to_string() && !canary.is_over() => {
                atomic::replace(&at, &content(agent, slot)?, false)?;
                return Ok(Admitted::AsCanary);
            }
            Some(canary) if !canary.is_over() && !planted("every-slot-is-first") => {
                return Ok(Admitted::No(canary.hold()));
            }
            Some(_) => remove_if(&at, |bytes| parsed(bytes).is_over()),
            None => {}
        }
        if elect(&at, &content(agent, slot)?)? {
            // Another one may have been answered in between.
            match read(root, agent) {
                Some(hold) if hold.is_over() => return Ok(Admitted::AsCanary),
                _ => give_back(root, agent, slot),
            }
        }
    }
    // Others are faster: they are seen at the next look.
    let other = Canary {
        agent: agent.to_owned(),
        ..Canary::default()
    };
    Ok(Admitted::No(other.hold()))
}

fn elect(at: &Path, content: &[u8]) -> Result<bool> {
    let file = Nameless::new(at, content, 0o600, false)?;
    Ok(file.link(at)? == Moved::Done || planted("every-slot-is-first"))
}

fn content(agent: &str, slot: SlotId) -> Result<Vec<u8>> {
    let until = clock::now().checked_add(TIME).ok().map(clock::iso);
    let canary = Canary {
        agent: agent.to_owned(),
        slot: slot.to_string(),
        since: clock::now_iso(),
        until,
    };
    let mut text = text::pretty_json(&canary)
        .map_err(|e| Error::permanent("cannot write who tries first", e.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

/// Whether this slot tries first for this agent.
pub(crate) fn is_canary(root: &Root, agent: &str, slot: SlotId) -> bool {
    find(root, agent).is_some_and(|canary| canary.slot == slot.to_string())
}

/// The canary was answered: the others may follow. `false`: it was another one's, or a new hold stands.
pub(crate) fn answered(root: &Root, agent: &str, slot: SlotId) -> bool {
    let lifts = is_canary(root, agent, slot);
    if lifts {
        remove_if(&path(root, agent), super::is_over);
    }
    give_back(root, agent, slot);
    lifts && read(root, agent).is_none()
}

/// This slot is not the canary any more; where its hold is over still, another one tries.
pub(crate) fn give_back(root: &Root, agent: &str, slot: SlotId) {
    let slot = slot.to_string();
    if find(root, agent).is_some_and(|canary| canary.slot == slot) {
        remove_if(&place(root, agent), |bytes| parsed(bytes).slot == slot);
    }
}

/// What this slot's last holder left.
pub(crate) fn give_back_all(root: &Root, slot: SlotId) {
    let entries = std::fs::read_dir(root.holds()).into_iter().flatten();
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    for name in names {
        if let Some(agent) = name.strip_suffix(ENDING) {
            give_back(root, agent, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{all, of, raise};
    use super::*;

    fn over(class: &str) -> Hold {
        Hold {
            agent: "a".into(),
            until: Some("2026-01-01T00:00:00Z".into()),
            class: class.into(),
            ..Hold::default()
        }
    }

    fn admitted(root: &Root, slot: usize) -> &'static str {
        match admit(root, "a", SlotId(slot)).unwrap() {
            Admitted::Yes => "yes",
            Admitted::AsCanary => "first",
            Admitted::No(hold) if hold.class == CLASS => "waits",
            Admitted::No(_) => "no",
        }
    }

    #[test]
    fn one_of_many_is_first_and_the_others_follow_when_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for dir in [root.state(), root.holds()] {
            atomic::make_dir(&dir, true).unwrap();
        }
        assert_eq!(admitted(&root, 1), "yes");
        assert!(raise(&root, &over("usage_limit")).unwrap());
        assert!(of(&root, "a").is_none() && all(&root).is_empty());
        let firsts = std::thread::scope(|scope| {
            let asks: Vec<_> = (1..=16)
                .map(|slot| {
                    scope.spawn({
                        let root = root.clone();
                        move || (slot, admitted(&root, slot))
                    })
                })
                .collect();
            let all = asks.into_iter().map(|ask| ask.join().unwrap());
            all.filter(|(_, how)| *how == "first")
                .map(|(slot, _)| slot)
                .collect::<Vec<_>>()
        });
        let [first] = firsts[..] else {
            panic!("{firsts:?}");
        };
        let other = first % 16 + 1;
        assert_eq!(
            (admitted(&root, first), admitted(&root, other)),
            ("first", "waits")
        );
        assert_eq!(all(&root)[0].class, CLASS);
        // Not answered: another one.
        give_back(&root, "a", SlotId(other));
        assert_eq!(admitted(&root, other), "waits");
        give_back_all(&root, SlotId(first));
        assert_eq!(
            (admitted(&root, other), admitted(&root, first)),
            ("first", "waits")
        );
        assert!(!answered(&root, "a", SlotId(first)));
        assert_eq!(admitted(&root, first), "waits");
        // Met again.
        let again = Hold {
            until: None,
            ..over("auth")
        };
        assert!(raise(&root, &again).unwrap());
        assert!(!answered(&root, "a", SlotId(other)));
        assert_eq!(
            (admitted(&root, other), admitted(&root, first)),
            ("no", "no")
        );
        super::super::end(&root, "a").unwrap();
        assert!(raise(&root, &over("rate_limit")).unwrap());
        assert_eq!(admitted(&root, first), "first");
        assert!(answered(&root, "a", SlotId(first)));
        assert_eq!(
            (admitted(&root, other), admitted(&root, first)),
            ("yes", "yes")
        );
        assert_eq!(std::fs::read_dir(root.holds()).unwrap().count(), 0);
        // A budget's end needs none, and one whose time is over stands in nobody's way.
        assert!(raise(&root, &over(BUDGET)).unwrap());
        assert_eq!(admitted(&root, first), "yes");
        assert!(raise(&root, &over("rate_limit")).unwrap());
        drop(atomic::create(&place(&root, "a"), b"garbage", 0o600).unwrap());
        assert_eq!(
            (admitted(&root, other), admitted(&root, first)),
            ("first", "waits")
        );
    }
}
