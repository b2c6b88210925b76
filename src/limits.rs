//! Every bound, with its unit in the name and its reason beside it.

use std::time::Duration;

/// An item is a prompt or a script, not a payload: a larger one is refused.
pub const ITEM_BYTES_MAX: u64 = 1 << 20;
/// Longest item name. Leaves room for `.jsonl`, `.~12~` and a ref's `.lock` within a file name's 255.
pub const NAME_BYTES_MAX: usize = 200;
/// Longest file name that Linux file systems take (`NAME_MAX`).
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// What a person writes about a branch, for the next attempt's prompt.
pub const COMMENT_BYTES_MAX: usize = 64 << 10;
/// Names an item may wait for.
pub const AFTER_MAX: usize = 1_000;
/// Slots one process holds at most; each is a thread, a keeper and a worktree.
pub const WORKERS_MAX: usize = 1_024;
/// Names that a shell is offered at one Tab: more are not looked through, but typed further.
pub const OFFERED_MAX: usize = 100;
/// A configuration is read by people: 1 MiB is generous.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Front matter is read by people, and parsed at every look: 64 KiB is generous.
pub const FIELDS_BYTES_MAX: usize = 64 << 10;
/// Values in it, with what its aliases repeat.
pub const FIELDS_NODES_MAX: usize = 10_000;
/// How far a script is read for `#harness` lines.
pub const SCRIPT_HEAD_BYTES: usize = 8 << 10;
/// A file of ours in `state/` but a record: an order, a reason, a session. Larger is none of ours.
pub const STATE_FILE_BYTES_MAX: u64 = 1 << 20;
/// A repository's `packed-refs`: about 70 bytes a ref, so some three million.
pub const PACKED_REFS_BYTES_MAX: u64 = 256 << 20;
/// Refs of a slot's repository that are looked at: an agent makes a few; a user may have as many tags.
pub const SLOT_REFS_MAX: usize = 65_536;
/// A worktree's index: about 100 bytes a file, so some ten million.
pub const INDEX_BYTES_MAX: u64 = 1 << 30;
/// A file that git calls changed in a fresh checkout and that is compared as a whole: texts, mostly.
pub const UNCLEAN_BYTES_MAX: u64 = 64 << 20;
/// A file that Git LFS keeps: larger than any that a host takes.
pub const LFS_BYTES_MAX: u64 = 1 << 40;
/// A line of a listing in which pointers to LFS objects are looked for: theirs have 76 bytes.
pub const LFS_LINE_BYTES_MAX: u64 = 1 << 16;
/// What one run of a gate may print: the whole output of a large test suite, with its debug lines.
pub const GATE_LOG_BYTES_MAX: u64 = 256 << 20;
/// Tokens that one gate may need. Linux sends at most 253 descriptors at once, and a token may have two.
pub const GATE_TOKENS_MAX: usize = 64;
/// A message between harness and keeper: argv and environment of one agent (Linux allows 2 MiB).
pub const KEEPER_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A record file (`items/NAME.jsonl`) that is read whole at a claim: thousands of attempts.
pub const RECORD_BYTES_MAX: u64 = 16 << 20;
/// A file that nobody changed for this long is taken to be whole, where the kernel grants no read lease
/// on it (another owner, NFS), and for empty files and directories.
pub const SETTLE: Duration = Duration::from_secs(2);
/// A name whose claim or exclusive key somebody else has is looked at again after this long.
pub const RECHECK: Duration = Duration::from_millis(100);
/// Extra delay per name already waiting, capped at `RECHECK_MAX`.
pub const RECHECK_EACH: Duration = Duration::from_millis(2);
pub const RECHECK_MAX: Duration = Duration::from_secs(10);
/// An item that could not be claimed because of an error is not tried again for this long.
pub const AFTER_TROUBLE: Duration = Duration::from_secs(10);
/// A thread that met trouble tries again after this long; the time doubles up to `TROUBLE_WAIT_MAX`.
pub const TROUBLE_WAIT: Duration = Duration::from_secs(1);
pub const TROUBLE_WAIT_MAX: Duration = Duration::from_secs(10);
/// What failed this often in the same way will not mend itself.
pub const EQUAL_TRIES: u32 = 5;
/// An item that could not be claimed because of the item itself is tried this often in a row, after
/// these times; then it stays, with the reason, and is tried at long intervals.
pub const ITEM_TRIES: u32 = 3;
pub const ITEM_TRY_AGAIN: Duration = Duration::from_secs(2);
pub const ITEM_STAYS: Duration = Duration::from_secs(60);
pub const ITEM_STAYS_MAX: Duration = Duration::from_secs(3_600);
/// Attempts in a row that could not be started (a fetch that fails) before the item is parked. With
/// the growing time between them that takes some four minutes.
pub const STARTS_MAX: u32 = 8;
/// How often control files are looked at: without events of the kernel they are seen within 200 ms.
pub const CONTROL_TICK: Duration = Duration::from_millis(150);
/// With twice this many running agents and more, each is polled less often.
pub const LOOKERS: usize = 8;
/// The largest factor by which the poll interval grows. One look at an agent costs as much as reading
/// about thirty of its events.
pub const PACE_MAX: u32 = 8;
/// The longest interval between two looks at an agent, and between two turns of the status thread:
/// status.json is never older than 2 s.
pub const BEAT_MAX: Duration = Duration::from_millis(1_900);
/// The interval of the status thread while agents run, and while none does. A slot that changes its
/// state wakes it.
pub const PULSE: Duration = Duration::from_millis(250);
pub const PULSE_AT_REST: Duration = Duration::from_secs(1);
/// The status thread runs this long after the workers have looked at their agents.
pub const AFTER_LOOKS: Duration = Duration::from_millis(50);
/// How often turns, tokens and cost of a slot are written. A changed state is written at once.
pub const FIGURES: Duration = Duration::from_secs(1);
/// The same in the aggregator's process with many agents: `status.json` has them from memory, so this
/// is only about the slot's own file.
pub const FIGURES_AT_HAND: Duration = Duration::from_secs(20);
/// A status.json in which nothing is new is written again before it is older than this.
pub const STATUS_AGE_MAX: Duration = Duration::from_secs(1);
/// metrics.prom is for a collector that looks every 15 s or more seldom.
pub const METRICS_EVERY: Duration = Duration::from_secs(10);
/// How often other processes' leases are looked at without an event of a death.
pub const ORPHAN_TICK: Duration = Duration::from_secs(5);
/// How often the pending folder is listed again if it has changed.
pub const RESCAN_TICK: Duration = Duration::from_secs(30);
/// The same where other hosts share ROOT: no event comes from them.
pub const SHARED_TICK: Duration = Duration::from_secs(2);
/// A service manager hears this many times within its patience that harness lives: one datagram may be lost,
/// and one turn be late.
pub const WATCHDOG_SHARE: u32 = 4;
/// It gets a new line for people no more often than this.
pub const STATUS_TOLD: Duration = Duration::from_secs(1);
/// A heartbeat file is touched this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// `state/budget/budget.json`: about 200 bytes for each slot at work, and a few kB for each agent.
pub const BUDGET_BYTES_MAX: u64 = 4 << 20;
/// Somebody else reserves or charges: milliseconds. Whoever takes longer is stopped (Ctrl-Z), or its disk
/// hangs.
pub const BUDGET_PATIENCE: Duration = Duration::from_secs(20);
/// Strays of an item that ended (daemonised children) get this long between SIGTERM and SIGKILL.
pub const STRAY_GRACE: Duration = Duration::from_secs(2);
/// Entries of a worktree that are looked at for signs of life: a look at so many takes 0.1 s.
pub const TREE_LOOK_ENTRIES_MAX: usize = 20_000;
/// Entries of a worktree that are looked at for what holds git up: a second or two.
pub const TREE_ENTRIES_MAX: usize = 2_000_000;
/// How long a keeper may take to answer: it does nothing but wait and spawn.
pub const KEEPER_ANSWER: Duration = Duration::from_secs(30);
/// A wait for git, or for a lock of its set-up, is shown with its cause after this long.
pub const WAIT_SHOWN: Duration = Duration::from_secs(5);
/// A git command that takes longer than this hangs (a prompt, a dead mount).
pub const GIT_TIMEOUT: Duration = Duration::from_secs(1_800);
/// A stop lets slots go that have not ended so long after their agents' `kill_grace`: a git of theirs
/// is ended after 20 s, and one that follows it, too.
pub const STOP_MAX: Duration = Duration::from_secs(60);
/// An end that waits for hooks says so after this long.
pub const HOOKS_SAID: Duration = Duration::from_secs(1);
/// Half-written objects that no git touched for this long are a killed git's.
pub const DEBRIS_AGE: Duration = Duration::from_secs(3_600);
/// Names in each set of the index of `pending/` (ready, scheduled, waiting): about 170 bytes each. The
/// rest is listed again when there is room.
pub const INDEX_MAX: usize = 65_536;
/// Backups `NAME.~K~` tried before giving up.
pub const BACKUPS_MAX: u32 = 100_000;
/// What is copied into a worktree (`copy`): entries and bytes of one path. A large `target` has a hundred
/// thousand files and some ten GB.
pub const COPY_ENTRIES_MAX: u64 = 2_000_000;
pub const COPY_BYTES_MAX: u64 = 256 << 30;
/// Folders below each other in it. Each is two open files.
pub const COPY_DEPTH_MAX: usize = 64;
/// A file that is compared with the user's for its time; a larger one counts as another.
pub const COPY_COMPARED_BYTES_MAX: u64 = 64 << 20;
/// Files and folders that are brought into one worktree; each is copied whole.
pub const COPY_PATHS_MAX: usize = 10_000;
