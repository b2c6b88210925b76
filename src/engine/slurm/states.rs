//! What Slurm's words for a job's state say of one start of it. Whoever reads a state reads it here.
//!
//! Facts of Slurm 22.05 (`job_state_string`): a job has a state and may have flags, of which `squeue` prints
//! one alone, `COMPLETING` before all others. A requeue adds one to the job's restarts in the moment in which
//! it takes the state away. `REQUEUE_FED` is a job that still runs, where another cluster of the federation
//! began it.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before a start: its first, or one more.
    Queued,
    /// It has its nodes; they begin.
    Begins,
    Runs,
    /// Its processes may still end: of this start, or of an earlier one.
    Ends,
    Over,
    /// Over, in a way that nobody wanted: why, and what to do; `None`: its exit code says why.
    Failed(Option<&'static str>),
}

use Phase::{Begins, Ends, Failed, Over, Queued, Runs};

const PHASES: &[(&str, Phase)] = &[
    ("PENDING", Queued),
    ("REQUEUED", Queued),
    ("REQUEUE_HOLD", Queued),
    ("RESV_DEL_HOLD", Queued),
    ("SPECIAL_EXIT", Queued),
    ("CONFIGURING", Begins),
    ("RUNNING", Runs),
    ("RESIZING", Runs),
    ("SIGNALING", Runs),
    ("STOPPED", Runs),
    ("SUSPENDED", Runs),
    ("COMPLETING", Ends),
    ("REQUEUE_FED", Ends),
    ("STAGE_OUT", Ends),
    ("COMPLETED", Over),
    ("CANCELLED", Over),
    ("REVOKED", Over),
    ("FAILED", Failed(None)),
    (
        "BOOT_FAIL",
        Failed(Some("its node did not boot; submit again for what is left")),
    ),
    (
        "DEADLINE",
        Failed(Some(
            "its --deadline was over; submit again for what is left",
        )),
    ),
    (
        "NODE_FAIL",
        Failed(Some("its node was lost; submit again for what is left")),
    ),
    (
        "OUT_OF_MEMORY",
        Failed(Some(
            "it used more memory than it had; submit again with more --mem or fewer --workers",
        )),
    ),
    (
        "PREEMPTED",
        Failed(Some(
            "it made room for another job; submit again for what is left",
        )),
    ),
    (
        "TIMEOUT",
        Failed(Some(
            "its time was over before it had ended; submit again with more --time",
        )),
    ),
];

/// `None`: no word of Slurm's that we know. Then nothing is known of the job.
pub(super) fn phase_of(state: &str) -> Option<Phase> {
    let known = PHASES.iter().find(|(word, _)| *word == state);
    known.map(|(_, phase)| *phase)
}
