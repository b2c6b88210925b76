//! A gate on a tree: what is to be run, under which name, and where its output and its end are.
//!
//! Runs nothing. Invariant: the name of a run has the gate, the tree and which run it is, so that an end
//! is taken for that of one run alone.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::agents::Facts;
use crate::config::{GateTable, Moment};
use crate::error::Result;
use crate::keeper::ExitRecord;
use crate::layout::{GATE_LOGS, join};
use crate::session::supervised::read_end;

const EXIT: &str = "exit.json";

/// How often it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tries {
    /// What is not green is tried once more on the same tree.
    UntilSure,
    /// To find the one of many that makes a known red one.
    One,
}

/// A gate on a tree.
pub(crate) struct Job<'a> {
    pub(crate) gate: &'a str,
    pub(crate) table: &'a GateTable,
    pub(crate) moment: Moment,
    /// The session whose folder, `dir`, gets the output.
    pub(crate) session: &'a str,
    pub(crate) dir: &'a Path,
    /// The worktree, in which `tree` is checked out.
    pub(crate) cwd: &'a Path,
    /// Makes the worktree have exactly `tree`, before each run: the run before may have written there.
    pub(crate) prepare: &'a dyn Fn() -> Result<()>,
    pub(crate) tree: &'a str,
    pub(crate) facts: &'a Facts,
    pub(crate) env: &'a [(OsString, Option<OsString>)],
    /// What tells this run from others of this session and gate; empty for the only one.
    pub(crate) number: &'a str,
    pub(crate) tries: Tries,
    /// A dead harness may have begun it. Otherwise an end that lies there is not believed.
    pub(crate) recovered: bool,
    /// `false`: nobody wants to know any more.
    pub(crate) is_wanted: &'a dyn Fn() -> bool,
}

impl Job<'_> {
    /// The name of its log, without ending.
    pub(super) fn stem(&self) -> String {
        let moment = match self.moment {
            Moment::After => String::new(),
            moment => format!("{}-", moment.as_str()),
        };
        let number = match self.number {
            "" => String::new(),
            number => format!("-{number}"),
        };
        format!("{moment}{}{number}", self.gate)
    }

    /// The name under which the keeper runs it, and records its end. Another tree's run has another.
    pub(super) fn id(&self, run: Run) -> String {
        let run = match run {
            Run::First => "first",
            Run::Second => "second",
        };
        let prefix = gate_prefix(self.session);
        format!("{prefix}{}@{}#{run}", self.stem(), self.tree)
    }

    pub(super) fn exit(&self) -> PathBuf {
        join(self.dir, GATE_LOGS).join(EXIT)
    }

    pub(super) fn log(&self) -> PathBuf {
        join(self.dir, GATE_LOGS).join(format!("{}.log", self.stem()))
    }

    /// How this run ended, as its keeper recorded it.
    pub(super) fn read_end(&self, id: &str) -> Option<ExitRecord> {
        read_end(&self.exit(), id)
    }
}

/// A gate that is not green runs once more on the same tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    First,
    Second,
}

/// What the keeper's names of a session's gates begin with.
pub(crate) fn gate_prefix(session: &str) -> String {
    format!("{session}#")
}
