//! Merges the branches of a batch onto each other, in the hub: no worktree, no ref.
//!
//! Invariant: each commit's first parent is the one before it, and the first one's is the tip of the
//! base that was read.

use super::Candidate;
use crate::config::How;
use crate::error::{Kind, Result};
use crate::git::{Hub, Merged};
use crate::session::WorkerContext;
use crate::text::one_line;

/// A commit that stands for one branch, on top of those before it.
pub(super) struct Link {
    /// Which of the candidates.
    pub(super) at: usize,
    pub(super) commit: String,
    pub(super) tree: String,
}

/// What cannot be in a batch.
pub(super) enum Left {
    /// It conflicts with the base itself.
    Conflict {
        files: Vec<String>,
        ours: Vec<String>,
        theirs: Vec<String>,
    },
    /// It conflicts with, or is contained in, another one of the batch: its turn comes after that.
    Later,
    /// The base has all of it.
    Contained,
    /// It cannot be merged into the base at all, for this reason.
    Cannot(String),
}

/// The chain, and what is not in it.
pub(super) type Built = (Vec<Link>, Vec<(usize, Left)>);

pub(super) fn build(
    ctx: &WorkerContext,
    hub: &Hub,
    onto: &str,
    how: How,
    candidates: &[Candidate],
) -> Result<Built> {
    let (mut chain, mut left): (Vec<Link>, _) = (Vec::new(), Vec::new());
    let tree = ctx.retry_temporary(|| hub.tree_of(onto))?;
    for (at, candidate) in candidates.iter().enumerate() {
        let last = chain.last();
        let tip = last.map_or((onto, &*tree), |link| (&*link.commit, &*link.tree));
        let mut merged = merge(ctx, hub, tip, how, candidate)?;
        if let Ok(Merged::Clean { commit, tree }) = merged {
            chain.push(Link { at, commit, tree });
            continue;
        }
        if !chain.is_empty() && !matches!(merged, Ok(Merged::Contained)) {
            // With the base, or only with one before it?
            merged = merge(ctx, hub, (onto, &tree), how, candidate)?;
        }
        let why = match merged {
            Ok(Merged::Contained) if chain.is_empty() => Left::Contained,
            Ok(Merged::Contained | Merged::Clean { .. }) => Left::Later,
            Ok(Merged::Conflict {
                files,
                ours,
                theirs,
            }) => Left::Conflict {
                files,
                ours,
                theirs,
            },
            Err(why) => Left::Cannot(why),
        };
        left.push((at, why));
    }
    Ok((chain, left))
}

/// One branch on top of a commit, given with its tree. Inner error: why that branch cannot be merged there. It holds up no
/// other.
pub(super) fn merge(
    ctx: &WorkerContext,
    hub: &Hub,
    (onto, tree): (&str, &str),
    how: How,
    candidate: &Candidate,
) -> Result<std::result::Result<Merged, String>> {
    let message = candidate.message(how);
    match ctx.retry_temporary(|| hub.merge_onto(onto, tree, &candidate.head, how, &message)) {
        Ok(merged) => Ok(Ok(merged)),
        // Where git does not even read what is merged onto, no branch is to blame.
        Err(e)
            if e.kind() == Kind::Temporary
                || e.is_of_host()
                || e.is_barred()
                || hub.tree_of(onto).is_err() =>
        {
            Err(e)
        }
        Err(e) => Ok(Err(one_line(&e.to_string()))),
    }
}
