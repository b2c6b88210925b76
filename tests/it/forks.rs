//! The server that forks keepers: it may die at any time, and nothing but the next start hears of it.

use std::fs;

use harness::process::cgroup;

use crate::journal::Journal;
use crate::support::{Root, is_alive, kill};

fn server(root: &Root) -> Option<u32> {
    let mut found = root.processes().into_iter();
    let server = found.find(|(_, command)| command.contains(harness::keeper::FORK_SERVER));
    server.map(|(pid, _)| pid)
}

fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:"));
    parent.unwrap().trim().parse().unwrap()
}

#[test]
fn a_server_that_is_killed_between_two_starts_is_replaced() {
    let (root, journal) = (Root::plain(), Journal::new());
    let mut run = root.start(&["--workers", "3"]);
    let mut servers = Vec::new();
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        journal.drop_script(&root, name, "", &journal.wait_for("go"));
        journal.wait_for_start(&root, name, 1);
        let server = server(&root).expect("a server");
        assert_eq!(parent(server), run.pid());
        assert!(!servers.contains(&server));
        servers.push(server);
        let keepers = root.processes().into_iter();
        let keepers = keepers.filter(|(_, c)| c.contains(" keeper ") && c.contains("/agent-"));
        let keepers: Vec<u32> = keepers.map(|(pid, _)| pid).collect();
        assert_eq!(keepers.len(), n + 1);
        // Its children they are not, nor do they go with it.
        assert!(keepers.iter().all(|&k| parent(k) == run.pid()));
        for keeper in keepers {
            let name = fs::read_to_string(format!("/proc/{keeper}/comm")).unwrap();
            assert!(name.starts_with("keeper agent-"), "{name}");
        }
        kill(server, "KILL");
        // A zombie has no command line. It is waited for when the next one is needed.
        root.wait_until("the server is dead", || {
            crate::forks::server(&root).is_none()
        });
    }
    journal.open("go");
    root.wait_until("all are done", || {
        ["a", "b", "c"].iter().all(|name| root.is_done(name))
    });
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert!(!run.said().contains("keeper"), "{}", run.said());
    root.assert_nothing_left();
}

#[test]
fn keepers_outlive_harness_and_server_and_leave_neither_process_nor_cgroup() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    journal.drop_script(&root, "y", "", &journal.wait_for("go"));
    let run = root.start(&["--workers", "2"]);
    let agents = ["x", "y"].map(|name| journal.wait_for_start(&root, name, 1));
    let keepers = ["agent-1", "agent-2"].map(|slot| root.keeper(slot));
    let of_keeper = fs::read_to_string(format!("/proc/{}/cgroup", keepers[0])).unwrap();
    kill(server(&root).expect("a server"), "KILL");
    run.kill9();
    root.wait_until("the server is dead", || server(&root).is_none());
    assert!(agents.into_iter().chain(keepers).all(is_alive));
    journal.open("go");
    assert_eq!(root.drain().status.code(), Some(0));
    assert!(root.is_done("x") && root.is_done("y"));
    journal.assert_books(&root, &["x".into(), "y".into()]);
    root.assert_nothing_left();
    assert_no_cgroup_left(&root, &of_keeper);
}

#[test]
fn nothing_is_left_of_a_run_that_ended() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let mut run = root.start(&["--drain", "--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    let keeper = root.keeper("agent-1");
    let of_keeper = fs::read_to_string(format!("/proc/{keeper}/cgroup")).unwrap();
    assert!(server(&root).is_some());
    journal.open("go");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    root.assert_nothing_left();
    // At once: who dismissed the keeper has removed it.
    let gone = cgroup_of(&root, &of_keeper).is_none_or(|dir| !dir.exists());
    assert!(gone, "{of_keeper}");
}

/// Where the slot's cgroup is, or would be; `None`: this host has none for us.
fn cgroup_of(root: &Root, of_keeper: &str) -> Option<std::path::PathBuf> {
    let slot = fs::canonicalize(root.path())
        .unwrap()
        .join("state/agents/agent-1");
    let name = cgroup::name_of(&slot).unwrap();
    let own = cgroup::own().ok()?;
    of_keeper.contains(&name).then(|| own.join(name))
}

fn assert_no_cgroup_left(root: &Root, of_keeper: &str) {
    if let Some(dir) = cgroup_of(root, of_keeper) {
        // A keeper without a harness takes a moment longer to leave its own.
        root.wait_until("its cgroup is removed", || !dir.exists());
    }
}
