//! Planted faults: what the proofs of docs/reliability.md must notice, each behind a name.
//! Without the cargo feature `mutants` nothing of this is in the program. With it, the environment
//! variable `HARNESS_MUTANT` (names, separated by commas) says which faults a run has;
//! `tests/mutants.py` runs every proof against its faults and demands that it fails.

/// Every planted fault: its name, and what it breaks.
pub const ALL: &[(&str, &str)] = &[
    (
        "slot-not-given-up",
        "the items of a lost host are moved back, and its slot stays as it was",
    ),
    (
        "late-goes-on",
        "a process that was taken for gone goes on working",
    ),
    (
        "working-is-silent",
        "an engine is asked about slots that work, and what it does not know of them counts",
    ),
    (
        "lost-outlives",
        "what a person said of a process counts for the slot's next one",
    ),
    (
        "node-is-here",
        "a node of an engine's counts as this host where the disk is this host's own",
    ),
    (
        "lack-of-host-holds",
        "an agent that one host of an engine's lacks is held on all",
    ),
    (
        "bad-host-goes-on",
        "a host of an engine's on which all fails at once takes the whole queue",
    ),
    (
        "unknown-is-over",
        "a state of Slurm's that nobody knows says that a job is over",
    ),
    (
        "parked-is-failure",
        "a run of Slurm's after which items are parked counts as failed",
    ),
    (
        "job-by-prefix",
        "records of runs that have ended stay for those of a longer number",
    ),
    (
        "moved-by-link",
        "where a rename cannot spare a name, a file is linked to the new one and the old one unlinked",
    ),
    (
        "move-not-ended",
        "a file stays on its way where its mover died",
    ),
    (
        "kept-on-host-only",
        "what is kept of an attempt goes with the disk of the host that made it",
    ),
    (
        "recovered-elsewhere",
        "a slot is recovered in another folder than the one in which its agent worked",
    ),
    (
        "hub-left-broken",
        "a copy of a repository of which a part was removed on a host's disk is used as it is",
    ),
    (
        "disks-not-told-apart",
        "a folder of the same path on another host's disk is taken for the one in which an agent worked",
    ),
    (
        "name-leads-out",
        "a name on record leads to another folder than its own",
    ),
    ("output-not-counted", "what an agent prints has no end"),
    ("worktree-not-measured", "a worktree grows without end"),
    (
        "disk-not-watched",
        "whoever writes while the disk is nearly full fills it",
    ),
    (
        "unwatched-at-its-end",
        "what is being stopped is held to no limit meanwhile",
    ),
    (
        "disk-filled-by-git",
        "what an agent left is committed though the disk cannot take it",
    ),
    ("tool-not-ended", "what uses too much memory is not ended"),
    (
        "agent-before-tool",
        "of an agent and its tools the agent is ended first",
    ),
    ("crowd-not-thinned", "a tool starts processes without end"),
    (
        "agents-not-first",
        "the kernel ends harness as soon as its agents",
    ),
    (
        "short-of-nothing",
        "claiming goes on though the machine is short of something",
    ),
    (
        "place-not-kept",
        "an agent gives up its place on the host when it has begun",
    ),
    (
        "charged-twice",
        "whoever ends an attempt that was charged already charges it again",
    ),
    (
        "reserved-after-spawn",
        "an attempt reserves what it may cost when its agent runs",
    ),
    (
        "records-not-counted",
        "what was used is forgotten where the file of budgets and the ledger are removed",
    ),
    (
        "unpaid-on-record-first",
        "an item that has used up its budget has it again where harness dies while it parks it",
    ),
    (
        "copied-in-place",
        "ignored files are copied under their own names, so that a death leaves half of them",
    ),
    (
        "copied-times-not-set",
        "what was built from other files counts as built from the worktree's",
    ),
    (
        "copied-though-not-ignored",
        "an ignored file is brought into a worktree where git does not ignore it",
    ),
    (
        "gate-on-leftovers",
        "a gate runs on what the gate before it left",
    ),
    (
        "gate-end-forgotten",
        "a gate that ended while no harness lived runs again",
    ),
    (
        "gating-collected",
        "what a gate wrote is collected where the item was taken away",
    ),
    (
        "unmerged-is-work",
        "a merge that an agent left with conflicts is committed as its work",
    ),
    (
        "red-once-is-red",
        "a gate that is red runs no second time on the same tree",
    ),
    (
        "publish-unsaid",
        "a branch appears before the record says that it will",
    ),
    (
        "approve-by-name",
        "an approval is for whatever the branch is by then, not for the commit that was looked at",
    ),
    (
        "git-closed-is-tried",
        "a file that cannot be read is tried to be committed",
    ),
    (
        "git-unclean-is-work",
        "what git calls changed in a fresh checkout is committed as work",
    ),
    (
        "brought-unheld-again",
        "commits that are in the user's repository on no ref get their ref before they are brought again",
    ),
    (
        "copied-unkept",
        "a pack of merged commits is not kept from a `git gc` before a ref holds it",
    ),
    (
        "landed-unlooked",
        "a branch moves to a merge of which nobody looked whether all is there",
    ),
    (
        "gate-leftovers-kept",
        "what a gate of a merge wrote into the worktree is kept as somebody's work",
    ),
    (
        "brought-unheld",
        "commits are copied into the user's repository, and no ref holds them",
    ),
    (
        "held-for-ever",
        "the ref that holds commits while their branch is made is never removed",
    ),
    (
        "end-unflushed",
        "the data of a file that is written durably is left to the kernel",
    ),
    (
        "end-unsynced",
        "an item is moved before its recorded end is on disk",
    ),
    (
        "claim-without-election",
        "a name whose claim is taken is claimed all the same",
    ),
    (
        "publish-unfenced",
        "what a person took away is finished and published all the same",
    ),
    (
        "return-overwrites",
        "what goes back to pending/ is renamed over what was dropped meanwhile",
    ),
    (
        "idle-late",
        "a worker that found nothing is on the list of those to wake a moment later",
    ),
    ("lease-not-locked", "a slot is taken without its lock"),
    (
        "started-is-requeued",
        "recovery puts back what had started, where nobody watches it",
    ),
    (
        "wake-up-kept",
        "a worker that leaves was woken for an item, and nobody is in its place",
    ),
    (
        "move-before-record",
        "an item is moved before its end is on record",
    ),
    (
        "claim-not-recorded",
        "an item is taken without a line in its record",
    ),
    (
        "forget-then-remove",
        "a session is forgotten before its folder is removed",
    ),
    (
        "reset-without-salvage",
        "a worktree is reset before its uncommitted work is kept",
    ),
    (
        "clean-before-salvage",
        "untracked files are removed before they are kept",
    ),
    ("trouble-is-final", "an error of the host's parks its item"),
    (
        "not-given-back-on-record",
        "what could not be started goes back, and its record does not say so",
    ),
    (
        "unread-end-is-unknown",
        "an end that cannot be read counts as unknown",
    ),
    (
        "disk-floor-sunk",
        "claiming does not stop while the disk is nearly full",
    ),
    (
        "git-stale-lock-stays",
        "a lock that a killed git left in harness's own repository is not cleared",
    ),
    (
        "git-debris-stays",
        "a worktree's administration that a killed git left is not moved away",
    ),
    (
        "slot-kept",
        "an item finds the repository that the last one left in its slot",
    ),
    (
        "hub-by-name",
        "a copy of a repository is used for any other of that name",
    ),
    (
        "slot-settings-believed",
        "harness's git in a worktree has the settings that its agent left",
    ),
    (
        "git-asks-in-links",
        "harness's `git add` runs another git in what an agent linked into its tree",
    ),
    (
        "slot-leads-out",
        "a symlink on the way to what a slot's repository has is followed",
    ),
    (
        "slot-unread-is-empty",
        "what of a slot's repository cannot be read counts as nothing",
    ),
    (
        "filters-in-worktree",
        "a filter of the user's runs in the worktree, where its program may be the agent's",
    ),
    (
        "hub-settings-stay",
        "what an agent wrote into harness's own repository of settings is believed",
    ),
    (
        "gate-settings-stay",
        "a gate finds what the agent, or the gate before it, set in its git",
    ),
    (
        "module-by-name",
        "a submodule is published into whatever the user has under its name",
    ),
    (
        "session-file-believed",
        "branch, base and repository of an attempt are what its session's folder says",
    ),
    (
        "slot-not-brought",
        "what an agent left in its slot's repository is not brought from there",
    ),
    (
        "git-waits-at-fifos",
        "a git of harness's waits at a fifo that an agent left in its worktree",
    ),
    (
        "git-sparse-is-work",
        "what an agent's sparse checkout left out counts as deleted",
    ),
    (
        "slot-modules-left",
        "a slot's repository is made anew without those of its submodules",
    ),
    (
        "foreign-removed-first",
        "another user's file is removed before the copy of ours has its name",
    ),
    (
        "git-strangers-stay",
        "what git could not remove from a worktree is not looked for",
    ),
    (
        "git-publish-without-swap",
        "a branch is published over one of its name",
    ),
    (
        "land-without-swap",
        "a branch of the user's is moved wherever it is by now",
    ),
    (
        "merged-behind",
        "branches are merged onto the commit before the tip, and that tree is put upon the tip",
    ),
    (
        "gate-on-branch",
        "gates run on the branch as it is, not on what would land",
    ),
    (
        "tree-not-asserted",
        "what lands is not compared with what was gated",
    ),
    (
        "approval-by-name",
        "a branch is merged though it has moved since it was approved",
    ),
    (
        "landing-unsaid",
        "a branch is moved before the record says that it will",
    ),
    (
        "git-writes-user-config",
        "a setting is written into the user's repository",
    ),
    (
        "git-environment-kept",
        "git is run with GIT_DIR and the like as harness found them",
    ),
    (
        "grant-too-many",
        "a sandbox may be told to open the queue, the home folder or the user's repository",
    ),
    (
        "grant-follows-links",
        "a grant is opened through a symlink that an agent put there",
    ),
    (
        "confined-too-late",
        "an agent is confined after it was started",
    ),
    (
        "every-slot-is-first",
        "when a hold is over, every slot takes itself for the one that tries first",
    ),
    (
        "token-not-handed-on",
        "a token is held by the process that took it alone, not by what works under it",
    ),
    (
        "hook-of-anybody",
        "a hook is run that an agent or another user could have put there",
    ),
    (
        "hook-changed-believed",
        "a hook is run that came or changed while agents ran",
    ),
    (
        "hook-left-is-work",
        "what a hook leaves in a worktree is committed as its agent's",
    ),
    (
        "hook-without-end",
        "a hook that hangs is not ended at its time",
    ),
    (
        "hook-untold-stays",
        "an end that a killed harness told no hook of is told by nobody",
    ),
    (
        "set-up-once-for-all",
        "a worktree that was set up for one base counts as set up for every other",
    ),
    (
        "ports-not-held",
        "the ports of a slot are given to others, too",
    ),
    (
        "ports-in-use",
        "a slot is given ports that somebody else uses",
    ),
    (
        "variable-is-a-token",
        "what a command left running counts as under its token for ever",
    ),
    (
        "git-hooks-run",
        "the hooks of the user's repository run for commands of ours",
    ),
    (
        "echild-not-waited-for",
        "a keeper calls an item's end when its agent has ended, whatever that left behind",
    ),
    (
        "cgroup-not-killed",
        "recovery does not kill a dead keeper's cgroup",
    ),
    (
        "mark-not-looked-for",
        "recovery does not look for the session's mark in environments",
    ),
    (
        "forks-not-chased",
        "recovery looks for what a killed keeper left at all processes only, not for new ones",
    ),
    (
        "unseen-is-dead",
        "recovery takes an agent for dead whose output is still held where it cannot be seen",
    ),
    (
        "a-copy-is-the-original",
        "recovery takes the agents of the ROOT that this one is a copy of for its own",
    ),
    (
        "set-back-not-seen",
        "an item whose file's time is ahead since the clock was set back waits for the clock",
    ),
    (
        "wall-clock-for-timeouts",
        "the time that an agent runs is told by the wall clock",
    ),
    (
        "pid-proves-life",
        "a harness is taken for alive while any process has its number",
    ),
    (
        "recorded-pid-killed",
        "recovery kills whatever process has the number that the agent had",
    ),
    (
        "claim-not-let-go",
        "spool: an ended item keeps its claim until its slot is recovered",
    ),
    (
        "retry-not-counted",
        "record: an item that always fails is tried for ever",
    ),
    (
        "line-without-bound",
        "session/stream: a line of an agent's output is kept whole, however long",
    ),
    (
        "symlink-followed",
        "atomic: a slot's or session's folder may be a symlink out of ROOT",
    ),
    (
        "git-odd-files-stay",
        "git: a fifo, device or symlink in the place of a file of git's stays there",
    ),
    (
        "fifo-waited-for",
        "atomic: the open of a fifo waits for somebody to write into it",
    ),
    (
        "name-shown-as-it-is",
        "layout: control characters of a name reach the terminal",
    ),
    (
        "terminal-kept",
        "the live view does not give the terminal back",
    ),
    (
        "top-panics",
        "the key ! ends the live view by a panic, for the test of that",
    ),
    (
        "percent-not-escaped",
        "layout: two names can have the same ref and the same key",
    ),
];

/// Whether this run has the planted fault of that name, which must be in [`ALL`].
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_name: &str) -> bool {
    false
}

/// Whether this run has the planted fault of that name, which must be in [`ALL`].
#[cfg(feature = "mutants")]
#[expect(
    clippy::panic,
    reason = "a fault that is misspelt would make a proof look as if it could not fail"
)]
pub fn planted(name: &str) -> bool {
    static CHOSEN: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        let chosen = std::env::var("HARNESS_MUTANT").unwrap_or_default();
        let chosen: Vec<_> = chosen
            .split(',')
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect();
        for name in &chosen {
            if !ALL.iter().any(|(known, _)| known == name) {
                panic!("HARNESS_MUTANT: no planted fault is called {name:?}");
            }
        }
        chosen
    });
    if !ALL.iter().any(|(known, _)| *known == name) {
        panic!("the planted fault {name:?} is not in mutant::ALL");
    }
    CHOSEN.iter().any(|c| c == name)
}
