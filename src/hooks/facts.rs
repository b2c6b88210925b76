//! What a hook is told: a JSON object on its standard input, and the same in its environment, each key
//! as `HARNESS_KEY`.
//!
//! Invariant: every key is always there, `null` or empty where nothing is known.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Event, nameless};
use crate::layout::Name;
use crate::runtime::Runtime;
use crate::text::{self, message};

/// What is known of an event.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub(crate) struct Facts {
    #[serde(skip)]
    pub(crate) name: Option<Name>,
    /// As it is shown, where the name itself is not at hand.
    pub(crate) item: Option<String>,
    /// The slot, or `all`.
    pub(crate) slot: Option<String>,
    pub(crate) agent: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) attempt: Option<u32>,
    /// Where the item is then.
    pub(crate) state: Option<String>,
    pub(crate) outcome: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) repo: Option<String>,
    pub(crate) base: Option<String>,
    pub(crate) base_oid: Option<String>,
    pub(crate) branch: Option<String>,
    /// The last commit of the branch, or of the landing.
    pub(crate) commit: Option<String>,
    pub(crate) worktree: Option<String>,
    pub(crate) commits: Option<u64>,
    pub(crate) files_changed: Option<u64>,
    pub(crate) exit_status: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) claimed_at: Option<String>,
    pub(crate) started_at: Option<String>,
    pub(crate) ended_at: Option<String>,
    pub(crate) seconds: Option<f64>,
    pub(crate) input_tokens: Option<u64>,
    pub(crate) output_tokens: Option<u64>,
    pub(crate) cost_usd: Option<f64>,
    /// The branch that it was merged into.
    pub(crate) into: Option<String>,
    /// The tip of `into` before.
    pub(crate) onto: Option<String>,
    /// The items that landed together.
    pub(crate) batch: Option<Vec<String>>,
    /// The interrupt's file.
    pub(crate) interrupt: Option<String>,
    /// Commands to paste, where there is something to do.
    pub(crate) what_to_do: Option<String>,
}

/// What a hook finds on its standard input. What is not known is `null`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OnStdin {
    /// The name of the hook: its moment.
    event: &'static str,
    /// The directory with harness.toml, queue/ and state/.
    root: String,
    /// The session's folder.
    session_dir: Option<String>,
    #[serde(flatten)]
    facts: Facts,
}

/// The facts of one event, in the forms in which programs get them.
pub(crate) struct Told {
    json: Vec<u8>,
    pub(crate) env: Vec<(OsString, OsString)>,
}

impl Facts {
    /// In the forms in which programs get them.
    pub(crate) fn of(&self, rt: &Runtime, event: Event) -> Told {
        let root = rt.root.path();
        let session_dir = self.session.as_ref().map(|sid| rt.root.session(sid));
        let dir = session_dir.as_ref().map(|dir| dir.to_string_lossy());
        let shown = self.name.as_ref().map(Name::shown);
        let told = OnStdin {
            event: event.as_str(),
            root: root.to_string_lossy().into_owned(),
            session_dir: dir.map(std::borrow::Cow::into_owned),
            facts: Facts {
                item: shown.or_else(|| self.item.clone()),
                ..self.clone()
            },
        };
        let all = match serde_json::to_value(&told) {
            Ok(Value::Object(all)) => all,
            _ => Map::new(),
        };
        let mut env: Vec<(OsString, OsString)> = all.iter().filter_map(variable).collect();
        // As they are, to the byte.
        env.push(("HARNESS_ROOT".into(), root.into()));
        env.extend(session_dir.map(|dir| ("HARNESS_SESSION_DIR".into(), dir.into())));
        let name = self.name.as_ref().map(|name| name.as_os_str().to_owned());
        env.extend(name.map(|name| ("HARNESS_ITEM".into(), name)));
        let mut json = text::json(&all).unwrap_or_default();
        json.push(b'\n');
        Told { json, env }
    }
}

fn variable((key, value): (&String, &Value)) -> Option<(OsString, OsString)> {
    let value = match value {
        Value::Null => String::new(),
        Value::String(text) => message(text),
        Value::Array(_) | Value::Object(_) => return None,
        plain => plain.to_string(),
    };
    let name = format!("HARNESS_{}", key.to_ascii_uppercase());
    Some((name.into(), value.into()))
}

impl Told {
    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }

    /// As a file, from its beginning: whoever never reads it holds nobody up.
    pub(super) fn on_stdin(&self) -> Option<File> {
        let mut file = nameless()?;
        file.write_all(&self.json).ok()?;
        file.rewind().ok()?;
        Some(file)
    }
}
