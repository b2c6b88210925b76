//! Hooks of an attempt: those that are told what becomes of it (`told`), and those that it waits for
//! (`waited`).

mod told;
mod waited;

pub(super) use told::{claimed, ended};
pub(crate) use told::{facts_of, landed, look_at, refused, told_again};
pub(super) use waited::{before_start, set_up_worktree};
