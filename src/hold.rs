//! Holds: while `state/holds/NAME.hold` exists, no process starts the agent `[agents.NAME]`: all
//! share its login or key. A hold ends at a given time (a usage or rate limit), or when a person
//! has fixed the cause (a refused login, no credit). Removing the file ends it. When its time is over,
//! one slot tries first (`canary`).
//!
//! Knows neither items nor why a hold is raised. Invariant: raising a hold never shortens one.

mod canary;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::atomic::{self, Moved};
use crate::clock;
use crate::error::{Error, Result};
use crate::layout::{Root, shown};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::text;

pub(crate) use canary::{Admitted, Canary, admit, answered, give_back, give_back_all, is_canary};

const ENDING: &str = ".hold";
/// The class of a hold that `budget` raises, and ends.
pub const BUDGET: &str = "budget";

/// The class of a hold for failures alike (`session/breaker`).
pub const FAILURES: &str = "failures";

/// The content of a hold. With other content, or none, it lasts until the file is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Hold {
    /// A name from `[agents.NAME]`.
    pub agent: String,
    /// RFC 3339, UTC; `None`: until a person ends it.
    pub until: Option<String>,
    /// The class of the fault behind it: `usage_limit`, `auth`, …
    pub class: String,
    /// Why, in words.
    pub reason: String,
    /// The session that met the fault.
    pub session: String,
    /// Since when.
    #[serde(with = "crate::text::or_null")]
    #[schemars(with = "Option<String>")]
    pub since: String,
}

impl Hold {
    /// Its end in seconds since 1970.
    fn ends_at(&self) -> Option<i64> {
        let until = self.until.as_ref()?.parse::<clock::Timestamp>().ok()?;
        Some(until.as_second())
    }

    /// Also where the clock was set back since: its end is as far off as the clock was wrong.
    fn is_over(&self) -> bool {
        let is_past = |at| at <= clock::now().as_second() || clock::is_ahead(&self.since);
        self.ends_at().is_some_and(is_past)
    }

    /// Its end in nanoseconds since 1970; `None`: it has none.
    pub fn ends_at_ns(&self) -> Option<i64> {
        self.ends_at().map(|s| s.saturating_mul(1_000_000_000))
    }
}

fn path(root: &Root, agent: &str) -> PathBuf {
    root.hold(&[agent, ENDING].concat())
}

/// The agent's current hold: where its time is over, that of the slot which tries first, if one does.
pub fn of(root: &Root, agent: &str) -> Option<Hold> {
    let hold = read(root, agent)?;
    if !hold.is_over() {
        return Some(hold);
    }
    if !canary::follows(&hold) {
        remove_if(&path(root, agent), is_over);
        return None;
    }
    canary::standing(root, agent)
}

/// The agent's hold whose time is over, as long as nobody was answered since.
pub(crate) fn over(root: &Root, agent: &str) -> Option<Hold> {
    read(root, agent).filter(Hold::is_over)
}

/// What the agent's file says, be it over or not.
fn read(root: &Root, agent: &str) -> Option<Hold> {
    let path = path(root, agent);
    if atomic::is_gone(&path) {
        return None;
    }
    let bytes = match atomic::read_small(&path, STATE_FILE_BYTES_MAX) {
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        read => read.unwrap_or_default(),
    };
    let hold = serde_json::from_slice::<Hold>(&bytes).unwrap_or_else(|_| Hold {
        reason: shown(OsStr::new(
            String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim(),
        )),
        ..Hold::default()
    });
    Some(Hold {
        agent: agent.to_owned(),
        ..hold
    })
}

/// What is no time is past.
fn is_past(until: &str) -> bool {
    let at = until.parse::<clock::Timestamp>();
    at.map_or(true, |at| at.as_second() <= clock::now().as_second())
}

/// Whether a file's content is a hold whose time is over.
fn is_over(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Hold>(bytes).is_ok_and(|hold| hold.is_over())
}

/// Removes a file of which this is so. Another process may have replaced it since it was read: it is
/// renamed aside and read again before.
fn remove_if(path: &Path, is_so: impl Fn(&[u8]) -> bool) {
    let aside = atomic::temp_beside(path);
    if !matches!(atomic::rename_new(path, &aside), Ok(Moved::Done)) {
        return;
    }
    let bytes = atomic::read_small(&aside, STATE_FILE_BYTES_MAX).unwrap_or_default();
    if !is_so(&bytes) && matches!(atomic::rename_new(&aside, path), Ok(Moved::Done)) {
        return;
    }
    let _stays = atomic::remove(&aside);
}

/// Raises a hold. `false`: an existing one lasts at least as long, and stays.
pub fn raise(root: &Root, hold: &Hold) -> Result<bool> {
    if let Some(old) = read(root, &hold.agent).filter(|old| !old.is_over()) {
        let longer = match (old.ends_at(), hold.ends_at()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(old), Some(new)) => old >= new,
        };
        if longer {
            return Ok(false);
        }
    }
    let mut text = text::pretty_json(hold)
        .map_err(|e| Error::permanent("cannot write the hold", e.to_string()))?;
    text.push(b'\n');
    atomic::make_dir(&root.holds(), true)?;
    atomic::replace(&path(root, &hold.agent), &text, false)?;
    Ok(true)
}

/// Every current hold, sorted by agent.
pub fn all(root: &Root) -> Vec<Hold> {
    let entries = std::fs::read_dir(root.holds())
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    let mut all: Vec<Hold> = names
        .filter_map(|n| of(root, n.strip_suffix(ENDING)?))
        .collect();
    all.sort_by(|a, b| a.agent.cmp(&b.agent));
    all
}

/// Ends an agent's hold. `false`: there is none.
pub fn end(root: &Root, agent: &str) -> Result<bool> {
    atomic::take_away(&path(root, agent))
}

/// Removes the holds without an end time; returns their agents.
pub fn end_without_end(root: &Root) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    for hold in all(root).into_iter().filter(|h| h.ends_at().is_none()) {
        if end(root, &hold.agent)? {
            ended.push(hold.agent);
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(agent: &str, seconds: Option<i64>) -> Hold {
        let at = |s| clock::Timestamp::from_second(clock::now().as_second() + s).unwrap();
        Hold {
            agent: agent.into(),
            until: seconds.map(|s| clock::iso(at(s))),
            ..Hold::default()
        }
    }

    #[test]
    fn a_hold_is_obeyed_until_its_end_and_never_shortened() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(raise(&root, &hold("a", Some(100))).unwrap());
        assert!(!raise(&root, &hold("a", Some(50))).unwrap());
        assert!(raise(&root, &hold("a", Some(200))).unwrap());
        assert!(raise(&root, &hold("b", None)).unwrap());
        assert!(!raise(&root, &hold("b", Some(50))).unwrap());
        drop(atomic::create(&path(&root, "c"), b"by hand\x1b\n", 0o600).unwrap());
        let found: Vec<(String, bool)> = all(&root)
            .into_iter()
            .map(|h| (h.agent, h.until.is_none()))
            .collect();
        assert_eq!(
            found,
            [("a", false), ("b", true), ("c", true)].map(|(a, e)| (a.to_owned(), e))
        );
        assert_eq!(end_without_end(&root).unwrap(), ["b", "c"]);
        assert!(of(&root, "a").is_some());
        atomic::remove(&path(&root, "a")).unwrap();
        raise(&root, &hold("a", Some(-1))).unwrap();
        assert!(of(&root, "a").is_none());
    }
}
