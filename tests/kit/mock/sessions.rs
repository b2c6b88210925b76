//! Which sessions exist: files below `$MOCK_HOME/sessions/CLI/`. The real CLIs keep them apart by
//! working directory; the mock is stricter and knows one set for each CLI.
//!
//! Keeps: an id is taken by exactly one process, however many ask at once.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a session has used so far, its resumed runs included.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Used {
    pub runs: u64,
    pub turns: u64,
    pub input: u64,
    pub output: u64,
    pub cost: f64,
}

fn path(cli: &str, id: &str) -> Option<PathBuf> {
    let home = std::env::var_os("MOCK_HOME")?;
    let dir = PathBuf::from(home).join("sessions").join(cli);
    fs::create_dir_all(&dir).expect("MOCK_HOME can be written");
    Some(dir.join(id))
}

/// Takes a new id. `false`: it is in use.
pub fn create(cli: &str, id: &str) -> bool {
    let Some(path) = path(cli, id) else {
        return true;
    };
    match fs::File::create_new(path) {
        Ok(_) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(e) => panic!("MOCK_HOME: {e}"),
    }
}

/// What a known session has used; `None`: there is none of this id.
pub fn known(cli: &str, id: &str) -> Option<Used> {
    let bytes = fs::read(path(cli, id)?).ok()?;
    // Empty: its first run was killed before it could write anything.
    Some(serde_json::from_slice(&bytes).unwrap_or_default())
}

pub fn save(cli: &str, id: &str, used: &Used) {
    if let Some(path) = path(cli, id) {
        let text = serde_json::to_vec(used).expect("figures are JSON");
        fs::write(path, text).expect("MOCK_HOME can be written");
    }
}
