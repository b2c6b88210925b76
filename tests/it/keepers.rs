//! Keepers: they outlive their harness, and nothing is left of them or of their cgroups in the end.

use std::fs;
use std::path::PathBuf;

use harness::process::cgroup;

use crate::journal::Journal;
use crate::support::{Root, is_alive};

#[test]
fn keepers_outlive_their_harness_and_leave_neither_process_nor_cgroup() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    journal.drop_script(&root, "y", "", &journal.wait_for("go"));
    let run = root.start(&["--workers", "2"]);
    let agents = ["x", "y"].map(|name| journal.wait_for_start(&root, name, 1));
    let keepers = ["agent-1", "agent-2"].map(|slot| root.keeper(slot));
    let of_keeper = fs::read_to_string(format!("/proc/{}/cgroup", keepers[0])).unwrap();
    for keeper in keepers {
        let name = fs::read_to_string(format!("/proc/{keeper}/comm")).unwrap();
        assert!(name.starts_with("keeper agent-"), "{name}");
    }
    run.kill9();
    assert!(agents.into_iter().chain(keepers).all(is_alive));
    journal.open("go");
    assert_eq!(root.drain().status.code(), Some(0));
    assert!(root.is_done("x") && root.is_done("y"));
    journal.assert_books(&root, &["x".into(), "y".into()]);
    root.assert_nothing_left();
    if let Some(dir) = cgroup_of(&root, &of_keeper) {
        // A keeper without a harness is waited for by nobody.
        root.wait_until("its cgroup is removed", || !dir.exists());
    }
}

#[test]
fn nothing_is_left_of_a_run_that_ended() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let mut run = root.start(&["--drain", "--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    let keeper = root.keeper("agent-1");
    let of_keeper = fs::read_to_string(format!("/proc/{keeper}/cgroup")).unwrap();
    journal.open("go");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    root.assert_nothing_left();
    // At once: the run has waited for its keeper.
    let gone = cgroup_of(&root, &of_keeper).is_none_or(|dir| !dir.exists());
    assert!(gone, "{of_keeper}");
}

/// Where the slot's cgroup is, or would be; `None`: this host has none for us.
fn cgroup_of(root: &Root, of_keeper: &str) -> Option<PathBuf> {
    let slot = fs::canonicalize(root.path())
        .unwrap()
        .join("state/agents/agent-1");
    let name = cgroup::name_of(&slot).unwrap();
    let own = cgroup::own().ok()?;
    of_keeper.contains(&name).then(|| own.join(name))
}
