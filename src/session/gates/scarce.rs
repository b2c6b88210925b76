//! Waits for the tokens that a gate needs.
//!
//! Invariant: they are taken in the order of their names, so that no two gates wait for each other; while
//! it waits, its slot says for what, and the gate's own time has not begun.

use std::collections::BTreeSet;
use std::time::Duration;

use super::job::Job;
use crate::config::GateTable;
use crate::error::{Error, Result};
use crate::runtime::Level;
use crate::session::WorkerContext;
use crate::tokens::{self, Token};

/// How often it is tried: as often as by `harness with`, so that neither goes before the other.
const LOOK: Duration = Duration::from_millis(100);

/// The names of a gate's tokens, in the order in which they are taken.
fn names(table: &GateTable) -> BTreeSet<&str> {
    table.tokens.iter().map(String::as_str).collect()
}

/// `None`: the gate is not wanted any more.
///
/// # Errors
/// There is no such token. Temporary: this process is stopping.
pub(super) fn take(ctx: &WorkerContext, job: &Job<'_>) -> Result<Option<Vec<Token>>> {
    let mut taken = Vec::new();
    for name in names(job.table) {
        match wait(ctx, job, name)? {
            Some(token) => taken.push(token),
            None => return Ok(None),
        }
    }
    if !taken.is_empty() {
        ctx.show_reason(Some(format!("gate {} runs", job.gate)));
    }
    Ok(Some(taken))
}

fn wait(ctx: &WorkerContext, job: &Job<'_>, name: &str) -> Result<Option<Token>> {
    let root = &ctx.rt.root;
    loop {
        if let Some(token) = ctx.retry_temporary(|| tokens::try_take(root, name))? {
            return Ok(Some(token));
        }
        if ctx.rt.lifecycle.level() >= Level::Stopping {
            let why = format!("harness was told to stop while gate {} waited", job.gate);
            return Err(Error::temporary("a gate was not begun", why));
        }
        if !(job.is_wanted)() {
            return Ok(None);
        }
        ctx.show_reason(Some(format!(
            "gate {} waits: {}",
            job.gate,
            tokens::all_held(root, name)
        )));
        ctx.waker.wait(LOOK);
    }
}
