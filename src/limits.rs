//! Every bound, with its unit in the name and its reason beside it.

use std::time::Duration;

/// An item is a prompt or a script, not a payload: a larger one is refused.
pub const ITEM_BYTES_MAX: u64 = 1 << 20;
/// Longest item name. Leaves room for `.jsonl`, `.~12~` and a ref's `.lock` within a file name's 255.
pub const NAME_BYTES_MAX: usize = 200;
/// Longest file name that Linux file systems take (`NAME_MAX`).
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// Names an item may wait for.
pub const AFTER_MAX: usize = 1_000;
/// Slots one process holds at most; each is a thread, a keeper and a worktree.
pub const WORKERS_MAX: usize = 1_024;
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
/// A worktree's index: about 100 bytes a file, so some ten million.
pub const INDEX_BYTES_MAX: u64 = 1 << 30;
/// A message between harness and keeper: argv and environment of one agent (Linux allows 2 MiB).
pub const KEEPER_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A record file (`items/NAME.jsonl`) that is read whole at a claim: thousands of attempts.
pub const RECORD_BYTES_MAX: u64 = 16 << 20;
/// Where no read lease can be had (another owner, NFS), and for empty files and directories: a
/// file that nobody changed for this long is taken to be whole.
pub const SETTLE: Duration = Duration::from_secs(2);
/// A name that another holder has (same name in flight, or an exclusive key) is looked at again.
pub const RECHECK: Duration = Duration::from_millis(100);
/// So much later for each other name that is looked at again, and at most so much.
pub const RECHECK_EACH: Duration = Duration::from_millis(2);
pub const RECHECK_MAX: Duration = Duration::from_secs(10);
/// An item that could not be claimed because of an error is left alone for this long.
pub const AFTER_TROUBLE: Duration = Duration::from_secs(10);
/// Control files are seen within 200 ms even where the kernel sends no events.
pub const CONTROL_TICK: Duration = Duration::from_millis(150);
/// Of twice so many running agents and more, each is looked at more seldom.
pub const LOOKERS: usize = 8;
/// Never more seldom than this many times. A look at an agent costs as much as to read some thirty
/// of its events.
pub const PACE_MAX: u32 = 8;
/// The longest time between two looks, and between two pulses: status.json is never older than 2 s.
pub const BEAT_MAX: Duration = Duration::from_millis(1_900);
/// How often agents' status files are brought up to date while something goes on, and while nothing
/// does (a slot that changes its state wakes it).
pub const PULSE: Duration = Duration::from_millis(250);
pub const PULSE_AT_REST: Duration = Duration::from_secs(1);
/// Agents are looked at together, and then shown: what they said is in `status.json` after so long.
pub const AFTER_LOOKS: Duration = Duration::from_millis(50);
/// Turns, tokens and cost of a slot are written this often; its state, at the next pulse.
pub const FIGURES: Duration = Duration::from_secs(1);
/// The same where the process that aggregates has them in memory, and many: then nobody but a person
/// who looks at this very file can tell.
pub const FIGURES_AT_HAND: Duration = Duration::from_secs(20);
/// A status.json in which nothing is new is written again at the pulse at which it has this age, or
/// is about to.
pub const STATUS_AGE_MAX: Duration = Duration::from_secs(1);
/// Other processes' leases are looked at this often where no event told of a death.
pub const ORPHAN_TICK: Duration = Duration::from_secs(5);
/// The pending folder is listed again this often if it changed and no event said what.
pub const RESCAN_TICK: Duration = Duration::from_secs(30);
/// A heartbeat file is touched this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Strays of an item that ended (daemonised children) get this long between SIGTERM and SIGKILL.
pub const STRAY_GRACE: Duration = Duration::from_secs(2);
/// Entries of a worktree that are looked at for signs of life: a look at so many takes 0.1 s.
pub const TREE_LOOK_ENTRIES_MAX: usize = 20_000;
/// How long a keeper may take to answer: it does nothing but wait and spawn.
pub const KEEPER_ANSWER: Duration = Duration::from_secs(30);
/// A git command that takes longer than this hangs (a prompt, a dead mount).
pub const GIT_TIMEOUT: Duration = Duration::from_secs(1_800);
/// Items of `pending/` that the index knows in each of its sets (could start, wait for a time, wait
/// for others): about 170 bytes each. What does not fit is listed again when there is room.
pub const INDEX_MAX: usize = 65_536;
/// Backups `NAME.~K~` tried before giving up.
pub const BACKUPS_MAX: u32 = 100_000;
