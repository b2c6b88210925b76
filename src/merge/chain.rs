//! Merges the branches of a batch onto each other, in the hub: no worktree, no ref.
//!
//! Invariant: each commit's first parent is the one before it, and the first one's is the tip of the
//! base that was read.

use super::Candidate;
use crate::config::How;
use crate::error::Result;
use crate::git::{Hub, Merged};

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
}

/// The chain, and what is not in it.
pub(super) type Built = (Vec<Link>, Vec<(usize, Left)>);

pub(super) fn build(hub: &Hub, onto: &str, how: How, candidates: &[Candidate]) -> Result<Built> {
    let (mut chain, mut left): (Vec<Link>, _) = (Vec::new(), Vec::new());
    for (at, candidate) in candidates.iter().enumerate() {
        let tip = chain.last().map_or(onto, |link| link.commit.as_str());
        match merge(hub, tip, how, candidate)? {
            Merged::Clean { commit, tree } => chain.push(Link { at, commit, tree }),
            Merged::Contained if chain.is_empty() => left.push((at, Left::Contained)),
            Merged::Contained => left.push((at, Left::Later)),
            Merged::Conflict {
                files,
                ours,
                theirs,
            } if chain.is_empty() => left.push((
                at,
                Left::Conflict {
                    files,
                    ours,
                    theirs,
                },
            )),
            // With the base, or only with one before it?
            Merged::Conflict { .. } => match merge(hub, onto, how, candidate)? {
                Merged::Conflict {
                    files,
                    ours,
                    theirs,
                } => left.push((
                    at,
                    Left::Conflict {
                        files,
                        ours,
                        theirs,
                    },
                )),
                Merged::Contained => left.push((at, Left::Contained)),
                Merged::Clean { .. } => left.push((at, Left::Later)),
            },
        }
    }
    Ok((chain, left))
}

/// One branch on top of a commit.
pub(super) fn merge(hub: &Hub, onto: &str, how: How, candidate: &Candidate) -> Result<Merged> {
    hub.merge_onto(onto, &candidate.head, how, &candidate.message(how))
}
