//! The bounds of the index of `pending/`: what is left out comes in its turn.

use std::collections::{BTreeSet, HashSet};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use harness::atomic;
use harness::clock;
use harness::layout::{Name, Place, Root, SlotId};
use harness::ready::{ClaimReport, Ready};
use harness::waker::Waker;

use crate::support::{Root as Tree, Running, skipped};

fn root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    for (dir, private) in root.dirs() {
        atomic::make_dir(&dir, private).unwrap();
    }
    (dir, root)
}

fn drop_item(root: &Root, name: &str, fields: &str, mtime: i64) -> Name {
    let name = Name::new(name);
    let path = root.item(Place::Pending, &name);
    let text = format!("#!/bin/sh\n#harness {fields}\n");
    drop(atomic::create(&path, text.as_bytes(), 0o755).unwrap());
    atomic::set_mtime(&path, mtime * 1_000_000_000).unwrap();
    name
}

/// Takes one as a worker does and finishes it.
fn take(root: &Root, ready: &Ready, waker: &Arc<Waker>) -> Option<Name> {
    ready.turn().unwrap();
    let candidate = ready.pop(waker, SlotId(1), None)?;
    let place = |p| root.item(p, &candidate.name);
    atomic::rename_over(&place(Place::Pending), &place(Place::Done)).unwrap();
    ready.tried(&candidate, ClaimReport::Gone);
    ready.ended(candidate.name.as_os_str());
    Some(candidate.name)
}

fn take_all(root: &Root, ready: &Ready, most: usize) -> Vec<String> {
    let waker = Arc::new(Waker::new().unwrap());
    let mut taken = Vec::new();
    let end = clock::instant() + Duration::from_secs(20);
    while clock::instant() < end {
        let Some(name) = take(root, ready, &waker) else {
            if ready.more_blocked() == 0 {
                break;
            }
            // The next listing is not due yet.
            ready.waker.wait(Duration::from_millis(1));
            continue;
        };
        taken.push(name.shown());
        assert!(taken.len() <= most, "{taken:?}");
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However few the index holds, the next to start is the first of the whole folder, also while
    /// more are dropped.
    #[test]
    fn a_small_index_starts_items_in_the_order_of_the_whole(
        cap in 1usize..12,
        items in proptest::collection::vec((0u8..10, 0i64..50), 1..40),
        there in 1usize..40,
    ) {
        let (_dir, root) = root();
        // Of a listing in pieces, workers take what is listed so far: here they wait for all of it.
        let ready = Ready::with_room_for(&root, cap).unwrap().in_pieces_of(Duration::MAX);
        let mut waiting = BTreeSet::new();
        let mut to_drop = items.iter().enumerate().map(|(n, (priority, mtime))| {
            let fields = format!("priority: {priority}");
            let name = drop_item(&root, &format!("i{n:02}"), &fields, *mtime);
            (9 - priority, *mtime, name)
        });
        waiting.extend(to_drop.by_ref().take(there));
        ready.ask_rescan();
        ready.turn().unwrap();
        prop_assert_eq!(ready.tally().pending, waiting.len() as u64);
        let waker = Arc::new(Waker::new().unwrap());
        while let Some(name) = take(&root, &ready, &waker) {
            prop_assert_eq!(Some(name), waiting.pop_first().map(|(_, _, name)| name));
            if let Some(new) = to_drop.next() {
                ready.note(new.2.as_os_str());
                waiting.insert(new);
            }
        }
        prop_assert!(waiting.is_empty());
        prop_assert!(ready.is_exhausted());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A listing that goes on piece by piece while items are taken, dropped and removed loses none,
    /// and nothing is thought to be used up before all is known.
    #[test]
    fn a_listing_in_pieces_finds_everything(
        cap in 1usize..12,
        steps in proptest::collection::vec(0u8..6, 1..120),
        there in 1usize..30,
    ) {
        let (_dir, root) = root();
        let ready = Ready::with_room_for(&root, cap).unwrap().in_pieces_of(Duration::ZERO);
        let pending = |name: &Name| root.item(Place::Pending, name);
        let mut waiting: BTreeSet<Name> = (0..there)
            .map(|n| drop_item(&root, &format!("i{n:02}"), &format!("priority: {}", n % 3), 7))
            .collect();
        let waker = Arc::new(Waker::new().unwrap());
        let take = |waiting: &mut BTreeSet<Name>| {
            let Some(candidate) = ready.pop(&waker, SlotId(1), None) else {
                return;
            };
            std::fs::remove_file(pending(&candidate.name)).unwrap();
            ready.tried(&candidate, ClaimReport::Gone);
            assert!(waiting.remove(&candidate.name));
        };
        ready.ask_rescan();
        for (n, step) in steps.iter().enumerate() {
            match step {
                0 => take(&mut waiting),
                1 => {
                    let name = drop_item(&root, &format!("n{n:03}"), "", 3);
                    ready.note(name.as_os_str());
                    waiting.insert(name);
                }
                2 => if let Some(name) = waiting.pop_last() {
                    std::fs::remove_file(pending(&name)).unwrap();
                    ready.gone(&name);
                },
                3 => ready.ask_rescan(),
                _ => drop(ready.turn().unwrap()),
            }
            prop_assert!(waiting.is_empty() || !ready.is_exhausted());
        }
        let end = clock::instant() + Duration::from_secs(20);
        while !ready.is_exhausted() && clock::instant() < end {
            let _wait = ready.turn().unwrap();
            take(&mut waiting);
        }
        prop_assert!(ready.is_exhausted());
        prop_assert!(waiting.is_empty(), "{:?}", waiting);
    }
}

#[test]
fn chains_longer_than_the_index_come_to_their_end() {
    let (_dir, root) = root();
    for n in 0..20 {
        // Those that wait sort before what they wait for.
        let after = if n < 19 {
            format!("after: [c{:02}]", n + 1)
        } else {
            String::new()
        };
        drop_item(&root, &format!("c{n:02}"), &after, n);
    }
    let ready = Ready::with_room_for(&root, 3).unwrap();
    ready.ask_rescan();
    let taken = take_all(&root, &ready, 20);
    assert_eq!(taken.len(), 20);
    assert_eq!((taken[0].as_str(), taken[19].as_str()), ("c19", "c00"));
}

#[test]
fn what_waits_for_its_time_is_brought_up_when_it_was_left_out() {
    let (_dir, root) = root();
    let soon = clock::now_ns() / 1_000_000_000 + 1;
    for n in 0..12 {
        drop_item(&root, &format!("t{n:02}"), "", soon);
    }
    let ready = Ready::with_room_for(&root, 2).unwrap();
    ready.ask_rescan();
    ready.turn().unwrap();
    assert_eq!(ready.tally().scheduled, 12);
    assert_eq!(ready.standing().len(), 2);
    assert!(!ready.is_exhausted());
    let waker = Arc::new(Waker::new().unwrap());
    let end = clock::instant() + Duration::from_secs(20);
    let mut taken = HashSet::new();
    while taken.len() < 12 && clock::instant() < end {
        match take(&root, &ready, &waker) {
            Some(name) => assert!(taken.insert(name)),
            None => drop(ready.waker.wait(Duration::from_millis(10))),
        }
    }
    assert_eq!(taken.len(), 12);
}

/// A limit of a user namespace of its own leaves harness without any event of the kernel.
#[test]
fn without_events_of_the_kernel_looking_finds_items_and_orders() {
    const NO_EVENTS: &str = "echo 0 > /proc/sys/user/max_inotify_instances";
    let unshare = ["--user", "--map-root-user", "sh", "-c"];
    let tried = Command::new("unshare")
        .args(unshare)
        .arg(NO_EVENTS)
        .output();
    if !tried.is_ok_and(|out| out.status.success()) {
        skipped("unshare is missing, or may not make user namespaces here");
        return;
    }
    let root = Tree::plain();
    let run = format!("{NO_EVENTS} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(unshare).args([&run, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_harness"));
    command.arg("--root").arg(root.path()).arg("run");
    let log = root.at("run-1.log");
    let file = std::fs::File::create(&log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    let child = command.spawn().unwrap();
    let mut running = Running { child, log };
    root.wait_until("it says that it goes on without events", || {
        running.said().contains("without events")
    });
    root.script("x", ":");
    root.wait_until("the item is found and done", || root.is_done("x"));
    std::fs::write(root.at("state/control/stop"), "").unwrap();
    assert_eq!(running.wait(), Some(0), "{}", running.said());
}
