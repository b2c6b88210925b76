//! Round after round: drop items, start processes, kill -9 them at a random instant. Whatever that
//! instant was, each script runs once. `HARNESS_SOAK_SEED` repeats a run's choices.

use std::time::Duration;

use crate::dice::Dice;
use crate::journal::Journal;
use crate::support::{Root, git};

fn rounds(root: &Root, body: &str, rounds: usize, instant_ms: u64) {
    let mut dice = Dice::new();
    let journal = Journal::new();
    let mut names = Vec::new();
    for round in 0..rounds {
        let run = root.start(&["--workers", "2"]);
        for i in 0..2 {
            let name = format!("item-{round}-{i}");
            journal.drop_script(root, &name, "", body);
            names.push(name);
        }
        // The instant is what is random here; nothing is waited for.
        let micros = dice.below(instant_ms * 1000);
        std::thread::park_timeout(Duration::from_micros(micros));
        run.kill9();
    }
    assert_eq!(root.drain().status.code(), Some(0));
    root.assert_nothing_left();
    journal.assert_books(root, &names);
    for name in &names {
        assert!(root.is_done(name), "{:#}", root.show(name));
        assert_eq!(journal.of(name).len(), 1, "{name}");
    }
}

#[test]
fn killed_at_any_instant_each_script_runs_once() {
    rounds(&Root::plain(), ":", 40, 60);
}

#[test]
fn killed_at_any_instant_of_its_git_work_each_script_becomes_one_branch() {
    let root = Root::with_repo();
    rounds(&root, "echo $HARNESS_ITEM > made", 25, 250);
    let branches = git(&root.repo(), &["branch", "--format=%(refname:short)"]);
    assert_eq!(branches.lines().count(), 50 + 1, "{branches}");
    for branch in branches.lines().filter(|b| *b != "main") {
        let item = branch.split('/').nth(1).unwrap();
        let made = git(&root.repo(), &["show", &format!("{branch}:made")]);
        assert_eq!(made, format!("{item}\n"));
        let log = git(
            &root.repo(),
            &["log", "--format=%s", &format!("main..{branch}")],
        );
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    git(&root.repo(), &["fsck", "--full", "--strict"]);
    git(
        &root.at("state/repos/default.git"),
        &["fsck", "--full", "--strict"],
    );
}
