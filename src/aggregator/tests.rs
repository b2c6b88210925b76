//! The aggregator on real trees: odd files, dead and living lock holders, and readers that never
//! see half a file.

mod exported;
mod figures;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::counts::Recount;
use super::*;
use crate::layout::SlotId;
use crate::limits::SETTLE;
use crate::status::HarnessStatus;

fn tree() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    for (path, private) in root.dirs() {
        atomic::make_dir(&path, private).unwrap();
    }
    (dir, root)
}

fn put(path: &Path, content: &[u8]) -> File {
    if let Some(parent) = path.parent() {
        atomic::make_dir(parent, true).unwrap();
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(content).unwrap();
    file
}

fn lock(file: &File) {
    fs2::FileExt::try_lock_exclusive(file).unwrap();
}

#[test]
fn counts_follow_events_and_a_recount_mends_them() {
    let (_dir, root) = tree();
    for name in ["a", "b", "a.~1~", ".gitignore", "x.tmp"] {
        put(&root.place(Place::Done).join(name), b"");
    }
    symlink("nowhere", root.place(Place::Parked).join("refused")).unwrap();
    let counts = EndedCounts::default();
    counts.recount(&root).unwrap();
    let both = || (counts.get(Place::Done), counts.get(Place::Parked));
    assert_eq!(both(), (2, 1));
    counts.event(Place::Done, 1);
    counts.event(Place::Parked, -1);
    counts.event(Place::Parked, -1);
    counts.event(Place::Pending, 5);
    assert_eq!(both(), (3, 0));
    assert_eq!(counts.get(Place::Pending), 0);
    counts.recount(&root).unwrap();
    assert_eq!(both(), (2, 1));
}

#[test]
fn a_quiet_folder_is_counted_again_and_missed_events_are_mended() {
    let (_dir, root) = tree();
    put(&root.place(Place::Done).join("a"), b"");
    let counts = EndedCounts::default();
    counts.event(Place::Done, 7);
    let mut check = Recount::new();
    let start = clock::instant();
    let step = |check: &mut Recount, s: Duration| check.step(&root, &counts, start + s);
    step(&mut check, Duration::ZERO);
    step(&mut check, SETTLE / 2);
    assert_eq!(
        counts.get(Place::Done),
        7,
        "events may still be on their way"
    );
    put(&root.place(Place::Done).join("b"), b"");
    step(&mut check, SETTLE);
    step(&mut check, SETTLE * 3 / 2);
    assert_eq!(counts.get(Place::Done), 7, "it has just changed");
    step(&mut check, SETTLE * 4);
    assert_eq!(counts.get(Place::Done), 2);
    counts.event(Place::Done, 1);
    step(&mut check, SETTLE * 8);
    assert_eq!(
        counts.get(Place::Done),
        3,
        "an unchanged folder is not counted twice"
    );
}

/// A tree with odd files in every folder.
fn odd_tree(root: &Root) {
    let old = clock::now_ns() - 60_000_000_000;
    for name in ["due", "-x\n", ".hidden", "half.part"] {
        let path = root.place(Place::Pending).join(name);
        put(&path, b"x");
        atomic::set_mtime(&path, old).unwrap();
    }
    let tomorrow = root.place(Place::Pending).join("tomorrow");
    put(&tomorrow, b"x");
    atomic::set_mtime(&tomorrow, clock::now_ns() + 86_400_000_000_000).unwrap();
    put(
        &root.interrupts().join("agent-1.interrupt"),
        b"\n  look \xff here\nmore\n",
    );
    put(&root.interrupts().join("all.interrupt"), b"");
    put(&root.interrupts().join("notes.txt"), b"no");
    put(&root.control().join("pause"), b"");
    put(&root.control().join("workers"), b"3");
    put(&root.harnesses().join("77-dead.json"), b"{\"pid\":77}");
    put(&root.agents().join("agent-01/lease"), b"");
    put(&root.agents().join("stray file"), b"");
    put(&root.ledger().join("2026-01-27.jsonl/oops"), b"");
    for slot in 1..=4 {
        put(&root.agent(SlotId(slot)).join("lease"), b"");
    }
    put(
        &root.agent(SlotId(2)).join("status.json"),
        br#"{"state":"working","turns":3,"pid":9,"item":"left\\u{1b}.md"}"#,
    );
    put(
        &root.agent(SlotId(3)).join("status.json"),
        b"{\"state\":\"wor",
    );
    put(&root.claimed(SlotId(2)).join("left\x1b.md"), b"x");
    put(&root.claimed(SlotId(2)).join(".marker"), b"x");
    put(&root.claimed(SlotId(9)).join("no agent folder"), b"x");
}

#[test]
fn rebuild_makes_sense_of_an_odd_tree_and_changes_nothing() {
    let (_dir, root) = tree();
    odd_tree(&root);
    let held = File::open(root.agent(SlotId(3)).join("lease")).unwrap();
    lock(&held);
    let list = || -> Vec<_> {
        let all = walkdir::WalkDir::new(root.path()).sort_by_file_name();
        all.into_iter().map(|e| e.unwrap().into_path()).collect()
    };
    let tree_before = list();
    let listed = PendingCounts {
        pending: 2,
        scheduled: 1,
        blocked: 0,
    };
    let s = rebuild(&root, listed).unwrap();
    assert_eq!(list(), tree_before);
    let want = WorkQueue {
        total: 5,
        pending: 2,
        scheduled: 1,
        claimed: 2,
        ..WorkQueue::default()
    };
    assert_eq!(s.work_queue, want);
    assert!(s.harnesses.is_empty());
    assert_eq!(s.control, ["pause"]);
    let ids: Vec<_> = s.agents.iter().map(|a| (a.id.as_str(), a.health)).collect();
    let dead = Health::Dead;
    assert_eq!(
        ids,
        [
            ("agent-2", dead),
            ("agent-3", Health::Healthy),
            ("agent-9", dead)
        ]
    );
    assert_eq!(s.agents[0].turns, 3);
    assert_eq!(s.agents[0].item.as_deref(), Some("left\\u{1b}.md"));
    assert_eq!((s.metrics.agents_active, s.metrics.agents_idle), (1, 1));
    let reasons: Vec<_> = s
        .interrupts
        .iter()
        .map(|i| (i.slot.as_str(), i.reason.as_str()))
        .collect();
    assert_eq!(reasons, [("agent-1", "look \u{fffd} here"), ("all", "")]);
    let odd: Vec<_> = s.troubles.iter().map(|t| t.place.as_str()).collect();
    assert_eq!(odd, ["state/interrupts/notes.txt"]);
    let given = PendingCounts {
        pending: 1,
        scheduled: 2,
        blocked: 3,
    };
    assert_eq!(rebuild(&root, given).unwrap().work_queue.total, 8);
    assert!(
        rebuild(&Root::new("/nonexistent/root"), given)
            .unwrap()
            .agents
            .is_empty()
    );
}

#[test]
fn files_of_dead_harnesses_go_and_those_of_the_living_stay() {
    let (_dir, root) = tree();
    let dir = root.harnesses();
    let living = put(
        &dir.join("10-a.json"),
        b"{\"pid\":10,\"workers\":2,\"started_at\":\"2026-01-01T00:00:00Z\"}",
    );
    lock(&living);
    let odd = put(&dir.join("11-b.json"), b"{\"pid\":");
    lock(&odd);
    let dying = put(&dir.join("12-c.json"), b"{\"pid\":12}");
    lock(&dying);
    put(&dir.join("13-d.json"), b"{\"pid\":13}");
    assert!(any_harness_alive(&root).unwrap());
    let mut aggregator = Aggregator::try_become(&root).unwrap().unwrap();
    let mut pids = || -> Vec<u32> {
        aggregator
            .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), false)
            .unwrap();
        read(&root)
            .unwrap()
            .unwrap()
            .harnesses
            .iter()
            .map(|h: &HarnessStatus| h.pid)
            .collect()
    };
    assert_eq!(pids(), [11, 12, 10]);
    drop(dying);
    assert_eq!(pids(), [11, 10]);
    assert!(atomic::exists(&dir.join("10-a.json")) && atomic::exists(&dir.join("11-b.json")));
    assert!(!atomic::exists(&dir.join("12-c.json")) && !atomic::exists(&dir.join("13-d.json")));
    // A check must not disturb the lock of a living process.
    let again = File::open(dir.join("10-a.json")).unwrap();
    assert!(fs2::FileExt::try_lock_shared(&again).is_err());
    // A half-written file keeps its last known content.
    living.set_len(3).unwrap();
    assert_eq!(pids(), [11, 10]);
    drop((living, odd));
    assert!(!any_harness_alive(&root).unwrap());
}

#[test]
fn one_aggregator_at_a_time() {
    let (_dir, root) = tree();
    let first = Aggregator::try_become(&root).unwrap().unwrap();
    assert!(Aggregator::try_become(&root).unwrap().is_none());
    drop(first);
    assert!(Aggregator::try_become(&root).unwrap().is_some());
}

#[test]
fn readers_see_whole_files_while_everything_changes() {
    let (_dir, root) = tree();
    odd_tree(&root);
    let mut aggregator = Aggregator::try_become(&root).unwrap().unwrap();
    aggregator
        .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), false)
        .unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let bytes = std::fs::read(root.status()).unwrap();
                let status: Status = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(status.version, 2);
                reads += 1;
            }
            reads
        });
        for pending in 0..200 {
            let item = r"left\\u{1b}.md";
            let status =
                format!("{{\"state\":\"working\",\"item\":\"{item}\",\"turns\":{pending}}}");
            let file = root.agent(SlotId(2)).join("status.json");
            atomic::replace(&file, status.as_bytes(), false).unwrap();
            let counts = PendingCounts {
                pending,
                ..PendingCounts::default()
            };
            aggregator
                .refresh(counts, BTreeMap::new(), Vec::new(), false)
                .unwrap();
            let seen = read(&root).unwrap().unwrap();
            assert_eq!(seen.work_queue.pending, pending);
            assert_eq!(seen.agents[0].turns, pending);
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn nothing_new_is_not_written_and_a_deleted_file_comes_back() {
    let (_dir, root) = tree();
    let mut aggregator = Aggregator::try_become(&root).unwrap().unwrap();
    let inode = || root.status().metadata().unwrap().ino();
    aggregator
        .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), false)
        .unwrap();
    // Held open, so that its inode number is not reused.
    let (_first, first) = (File::open(root.status()).unwrap(), inode());
    aggregator.written = Some(clock::instant());
    aggregator
        .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), false)
        .unwrap();
    assert_eq!(inode(), first);
    aggregator.written = clock::instant().checked_sub(STATUS_AGE_MAX - PULSE);
    aggregator
        .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), false)
        .unwrap();
    assert_ne!(inode(), first);
    atomic::remove(&root.status()).unwrap();
    aggregator
        .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), true)
        .unwrap();
    assert!(read(&root).unwrap().is_some());
    put(&root.status(), b"junk");
    assert!(read(&root).unwrap().is_none());
}

#[test]
fn a_slot_that_is_taken_again_is_never_shown_dead_from_memory() {
    let (_dir, root) = tree();
    let slot = SlotId(1);
    put(&root.agent(slot).join("lease"), b"");
    let mut aggregator = Aggregator::try_become(&root).unwrap().unwrap();
    let mut look = |force: bool| -> Vec<Health> {
        aggregator
            .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), force)
            .unwrap();
        let status = read(&root).unwrap().unwrap();
        status.agents.iter().map(|a| a.health).collect()
    };
    assert_eq!(look(true), []);
    let held = File::open(root.agent(slot).join("lease")).unwrap();
    lock(&held);
    put(&root.claimed(slot).join("x"), b"x");
    assert_eq!(look(false), [Health::Healthy]);
    drop(held);
    assert_eq!(look(true), [Health::Dead]);
    atomic::remove(&root.claimed(slot).join("x")).unwrap();
    assert_eq!(look(false), []);
}

#[test]
fn a_slot_whose_host_is_lost_is_dead_though_its_late_process_holds_it() {
    let (_dir, root) = tree();
    let slot = SlotId(1);
    let held = put(&root.agent(slot).join("lease"), b"");
    lock(&held);
    put(&root.claimed(slot).join("x"), b"x");
    let mut aggregator = Aggregator::try_become(&root).unwrap().unwrap();
    let mut look = || -> Vec<SlotStatus> {
        aggregator
            .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), true)
            .unwrap();
        read(&root).unwrap().unwrap().agents
    };
    assert_eq!(look()[0].health, Health::Healthy);
    let marker = br#"{"host":"n3","slot":"agent-1","given_up":"Slurm says of job 1: NODE_FAIL"}"#;
    put(&root.agent(slot).join("marker"), marker);
    let [lost] = &look()[..] else {
        panic!("it has an item");
    };
    assert_eq!(lost.health, Health::Dead);
    let reason = lost.reason.as_deref().unwrap();
    assert!(reason.starts_with("its host n3 is lost: Slurm says of job 1: NODE_FAIL; the next"));
    atomic::remove(&root.claimed(slot).join("x")).unwrap();
    assert!(look().is_empty());
}

#[test]
fn of_its_own_slots_the_process_tells_what_it_knows_and_of_others_what_their_files_say() {
    let (_dir, root) = tree();
    let status = |turns| SlotStatus {
        turns,
        ..SlotStatus::default()
    };
    // Both are held; the files are old.
    let mut leases = Vec::new();
    for slot in [SlotId(1), SlotId(2)] {
        let dir = root.agent(slot);
        atomic::make_dir(&dir, true).unwrap();
        let lease = put(&dir.join("lease"), b"");
        lock(&lease);
        leases.push(lease);
        put(
            &dir.join("status.json"),
            &serde_json::to_vec(&status(5)).unwrap(),
        );
    }
    let own = BTreeMap::from([(SlotId(2), status(7)), (SlotId(3), status(9))]);
    let mut aggregator = Aggregator::try_become(&root).unwrap().unwrap();
    aggregator
        .refresh(PendingCounts::default(), own, Vec::new(), false)
        .unwrap();
    let agents = read(&root).unwrap().unwrap().agents;
    let turns: Vec<u64> = agents.iter().map(|a| a.turns).collect();
    assert_eq!(turns, [5, 7, 9]);
}
