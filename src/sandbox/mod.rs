//! What an agent or a gate may write, read and reach: made from the configuration (`plan`), applied by
//! the keeper right before the start (`kernel`); what it refused is explained (`denied`).
//!
//! Landlock refuses whatever is not granted. Writing is granted by a list. Reading is granted for all
//! but a list of secrets, by granting what lies beside them (`readable`). Knows nothing of items.
//!
//! Invariants: no grant is reached through a symlink that an agent could have put there (`resolve`); no
//! grant holds the queue, the state of others or the user's checkout (`plan`); what is weaker than it
//! was asked to be is said.

mod asked;
mod connection;
mod denied;
mod environment;
mod kernel;
mod places;
mod plan;
mod readable;
mod resolve;
mod temp;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use asked::{Asked, Who, why_refused};
pub(crate) use denied::{explained, tells_of_refusal};
pub(crate) use environment::{Env, value_of};
pub(crate) use kernel::{Strength, enforce, strength};
pub(crate) use places::path_of;
pub(crate) use plan::{Grant, Planned, plan};
pub(crate) use temp::{
    clear_temp, folder_of_all as temp_folders, make_temp, path as temp_path, remove_temp,
};

use crate::config::Network;

/// What the keeper applies. All paths are absolute and hold no symlink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Trees and files that may be written, read and executed.
    pub write: Vec<PathBuf>,
    /// Trees and files that may be read and executed, although they lie below one in `deny`.
    pub read: Vec<PathBuf>,
    /// Trees and files whose content may not be read. Everything else may.
    pub deny: Vec<PathBuf>,
    pub network: Network,
}

/// Something that the sandbox refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What the program printed of it: a path, or a line about a connection.
    pub(crate) printed: String,
    /// What it refused, and which key would allow it.
    pub(crate) text: String,
}

/// What a session's file says of its sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Said {
    /// `on` or `off`.
    pub mode: String,
    /// What the kernel holds of it: `files`, `truncation`, `network`, `devices`, `signals`.
    pub holds: Vec<String>,
    /// The version of Landlock in the kernel; 0: none.
    pub landlock: u32,
    /// What it may connect to and listen on.
    pub network: Network,
    /// Why it is off, or weaker than was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
