//! Worktrees that `[harness] worktrees` puts outside of ROOT: on another disk, or away from tools that
//! search a checkout.
//!
//! Knows nothing of what is in them. Invariants: no two ROOTs use one folder, where the slots of one
//! would take those of the other for their own; and the folder does not change while an item is worked
//! on, since its work lies there.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::find;
use crate::aggregator;
use crate::atomic;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::layout::{Root, shown};
use crate::local;

const HINT: &str = "name a folder of its own as `worktrees` in harness.toml";

/// ROOT with its worktrees where the configuration has them, for who only looks.
pub(super) fn placed(root: &Root, config: &Config) -> Root {
    match &config.harness.worktrees {
        Some(dir) => {
            let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
            root.clone().with_worktrees(&dir)
        }
        None => root.clone(),
    }
}

/// ROOT with its worktrees where the configuration wants them; the folder is made.
///
/// # Errors
/// Permanent: the folder is another ROOT's or a part of this one, or items are worked on in the folder
/// of before. I/O.
pub(super) fn settle(root: &Root, config: &Config) -> Result<Root> {
    let last = local::path_in(&record(root)).unwrap_or_else(|| root.worktrees());
    let placed = match &config.harness.worktrees {
        None => root.clone(),
        Some(dir) => {
            atomic::make_dir(dir, false)?;
            let dir = fs::canonicalize(dir).or_fail("cannot find the folder", dir)?;
            local::own(root, &dir, HINT)?;
            root.clone().with_worktrees(&dir)
        }
    };
    if placed.worktrees() == last {
        return Ok(placed);
    }
    if aggregator::any_harness_alive(root)? || !find::claimed(root).is_empty() {
        let why = format!("items are worked on in {}", shown(last.as_os_str()));
        return Err(Error::permanent("cannot use other worktrees now", why)
            .at_path(&placed.worktrees())
            .hint("take `worktrees` back in harness.toml, let `harness run --drain` end, then change it"));
    }
    match config.harness.worktrees {
        Some(_) => {
            let path = placed.worktrees();
            atomic::replace(&record(root), path.as_os_str().as_bytes(), true)?;
        }
        // Without it ROOT can be moved.
        None => drop(atomic::remove(&record(root))?),
    }
    Ok(placed)
}

/// Where they were in the last run, unless in ROOT.
fn record(root: &Root) -> PathBuf {
    root.state().join("worktrees")
}
