//! Branches that change by which programs harness runs something as its user: where ROOT lies in a
//! checkout of the repository, a landing would put them there.
//!
//! Only looks. Invariant: nothing that an agent committed becomes a hook, a gate or `notify` without a
//! person who merges it.

use super::Batch;
use super::chain::Link;
use super::fate::Fate;
use crate::error::Result;
use crate::outcome::Outcome;
use crate::session::WorkerContext;

/// What of ROOT decides what is run.
const DECIDING: [&str; 2] = ["harness.toml", "hooks"];

/// The first link that changes any of it, and what becomes of its item.
pub(super) fn first_change(
    ctx: &WorkerContext,
    batch: &Batch,
    onto: &str,
    links: &[Link],
) -> Result<Option<(usize, Fate)>> {
    let hub = &batch.hub;
    let (Some(last), Some(inside)) = (links.last(), hub.prefix_of(ctx.rt.root.path())) else {
        return Ok(None);
    };
    let paths = DECIDING.map(|name| inside.join(name));
    let touched = |from: &str, to: &str| ctx.retry_temporary(|| hub.touched(from, to, &paths));
    if touched(onto, &last.commit)?.is_none() {
        return Ok(None);
    }
    let mut before = onto;
    for link in links {
        if let Some(files) = touched(before, &link.commit)? {
            let branch = &batch.candidates[link.at].branch;
            let reason = format!(
                "{files}, by which harness runs programs as you: look at it, and merge it yourself (`git merge {branch}`)"
            );
            return Ok(Some((link.at, Fate::parked(Outcome::Refused, reason))));
        }
        before = &link.commit;
    }
    Ok(None)
}
