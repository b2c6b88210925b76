//! The user at work in their own repository meanwhile: in a worktree of theirs they commit, amend and
//! rebase, and now and then they throw away every object that no ref holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::dice::Dice;
use crate::support::{describe, git};

/// What another git may be doing at that moment.
const BUSY: [&str; 5] = [
    ".lock",
    "gc is already running",
    "cannot lock ref",
    "failed to run repack",
    "File exists",
];

/// Makes the user's worktree, beside the repository.
pub fn desk(repo: &Path) -> PathBuf {
    let desk = repo.with_extension("desk");
    let path = desk.to_str().unwrap();
    git(repo, &["worktree", "add", "-q", "-b", "desk", path, "HEAD"]);
    desk
}

/// Works until told to stop; how often each thing was done.
pub fn work(desk: &Path, mut dice: Dice, over: &AtomicBool) -> BTreeMap<&'static str, u32> {
    let mut did = BTreeMap::new();
    let mut turn = 0;
    while !over.load(Ordering::SeqCst) {
        turn += 1;
        std::fs::write(desk.join("notes"), format!("{turn}\n")).unwrap();
        let (what, args): (_, &[&str]) = match dice.below(8) {
            0 => ("gc", &["gc", "-q", "--prune=now"]),
            1 => ("prune", &["prune", "--expire=now"]),
            2 => ("rebase", &["rebase", "-q", "--onto", "main", "HEAD~1"]),
            3 => ("amend", &["commit", "-q", "--amend", "-am", "amended"]),
            4 => ("expire", &["reflog", "expire", "--expire=now", "--all"]),
            _ => ("commit", &["commit", "-q", "-am", "notes"]),
        };
        git(desk, &["add", "-A"]);
        let out = Command::new("git")
            .arg("-C")
            .arg(desk)
            .args(["-c", "user.name=U", "-c", "user.email=u@example.com"])
            .args(["-c", "gc.auto=0"])
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        // A rebase wants a clean worktree, and one commit to move.
        let ok = out.status.success() || what == "rebase" || what == "amend";
        assert!(
            ok || BUSY.iter().any(|b| said.contains(b)),
            "{what}: {}",
            describe(&out)
        );
        for lost in ["missing", "bad object", "unable to read", "corrupt"] {
            assert!(!said.contains(lost), "{what}: {}", describe(&out));
        }
        *did.entry(what).or_default() += 1;
        std::thread::park_timeout(Duration::from_millis(dice.below(400)));
    }
    did
}
