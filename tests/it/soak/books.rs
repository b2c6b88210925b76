//! What must be true when it is over.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use harness::layout::{Name, SlotId};
use serde_json::Value;

use super::zoo::{Animal, Must};
use super::{Animals, Place, is_of_the_user, show};
use crate::support::{Root, files_below, git};

/// The user's repositories, but for the branches that harness makes.
pub fn checkouts(root: &Root) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for repo in [root.repo(), root.at("second")] {
        let mine = ["for-each-ref", "--format=%(refname) %(objectname)"];
        let mine = git(
            &repo,
            &[
                &mine[..],
                &["refs/heads/main", "refs/heads/trunk", "refs/tags"],
            ]
            .concat(),
        );
        all.push((repo.join("refs"), mine.into_bytes()));
        for path in files_below(&repo) {
            if is_of_the_user(path.strip_prefix(&repo).unwrap()) {
                all.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

pub fn check(
    place: &Place,
    animals: &Animals,
    before: &[(PathBuf, Vec<u8>)],
    in_repositories: bool,
) {
    let root = &place.root;
    root.assert_nothing_left();
    assert_eq!(place.mark.alive(), Vec::<u32>::new());
    starts(place, animals);
    let mut published = BTreeSet::new();
    let (mut done, mut parked) = (0, 0);
    for (animal, drops) in animals.values() {
        let story = show(root, &animal.name);
        let told = || format!("{:?}: {story:#}\n{}", animal.name, root.picture());
        let in_done = root.at("queue/done").join(&animal.name).exists();
        let in_parked = root.at("queue/parked").join(&animal.name).exists();
        if *drops == 1 && animal.must != Must::End {
            assert_ne!(in_done, in_parked, "{}", told());
        }
        assert!(in_done || in_parked, "{}", told());
        done += usize::from(in_done);
        parked += usize::from(in_parked);
        // What asks for a repository that is not there is refused.
        let other = animal.text.contains("repo: second") && !in_repositories;
        match animal.must {
            Must::Done if !other => assert!(in_done, "{}", told()),
            Must::Done | Must::Park => assert!(in_parked, "{}", told()),
            Must::End => {}
        }
        let attempts = story["attempts"].as_array().unwrap();
        let good = attempts.iter().filter(|a| is_good(a)).count();
        if animal.must != Must::End {
            assert_eq!(good, usize::from(in_done), "{}", told());
            assert!(
                attempts.iter().rev().skip(1).all(|a| !is_good(a)),
                "it went on after its end: {}",
                told()
            );
        }
        assert!(in_parked || good >= 1, "{}", told());
        assert!(
            attempts.iter().all(|a| a["outcome"].is_string()),
            "an attempt without an end: {}",
            told()
        );
        for branch in branches(&story) {
            assert!(published.insert(branch.clone()), "{branch} twice");
            if let Some(file) = &animal.makes {
                let in_second = animal.text.contains("repo: second");
                has_its_work(root, in_second, &branch, file, animal);
            }
        }
        if in_repositories && animal.makes.is_some() && in_done {
            assert_eq!(branches(&story).len(), 1, "{}", told());
        }
    }
    println!("{done} done, {parked} parked, {} branches", published.len());
    let listed: BTreeSet<String> = [root.repo(), root.at("second")]
        .iter()
        .flat_map(|repo| {
            let all = git(
                repo,
                &[
                    "for-each-ref",
                    "--format=%(refname:short)",
                    "refs/heads/harness",
                ],
            );
            all.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(listed, published, "branches exactly for what succeeded");
    assert!(checkouts(root) == before, "the user's checkouts changed");
    if in_repositories {
        use_every_worktree(root);
        worktrees_are_clean(root);
        root.assert_nothing_left();
    }
    let hubs = fs::read_dir(root.at("state/repos"))
        .unwrap()
        .flatten()
        .map(|e| e.path());
    let hubs: Vec<PathBuf> = hubs
        .filter(|p| p.extension().is_some_and(|e| e == "git"))
        .collect();
    assert_eq!(hubs.len(), if in_repositories { 2 } else { 0 });
    for git_dir in hubs.iter().chain(&[root.repo(), root.at("second")]) {
        git(git_dir, &["fsck", "--full", "--strict"]);
    }
    status_agrees(root);
}

fn is_good(attempt: &Value) -> bool {
    matches!(attempt["outcome"].as_str(), Some("succeeded" | "no_change"))
}

/// The branches that its attempts published and that were not taken away again.
fn branches(story: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for event in story["events"].as_array().unwrap() {
        match event["event"].as_str().unwrap() {
            "finished" => found.extend(event["published"].as_str().map(str::to_owned)),
            "canceled" if event["reason"] == "its file was taken away" => drop(found.pop()),
            _ => {}
        }
    }
    found
}

fn has_its_work(root: &Root, in_second: bool, branch: &str, file: &str, animal: &Animal) {
    let (repo, base) = if in_second {
        (root.at("second"), "trunk")
    } else {
        (root.repo(), "main")
    };
    let files = git(&repo, &["diff", "--name-only", base, branch]);
    assert_eq!(
        files,
        format!("{file}\n"),
        "{:?}: others' files in it",
        animal.name
    );
}

/// Each attempt of which a script knows was started once, and is on record.
fn starts(place: &Place, animals: &Animals) {
    for (sid, ran) in place.journal.ran() {
        assert_eq!(
            ran.starts, 1,
            "{} {sid} started {} times",
            ran.item, ran.starts
        );
        assert!(ran.ends.len() <= 1, "{} {sid}: {:?}", ran.item, ran.ends);
        let record = place
            .root
            .at("state/items")
            .join(format!("{}.jsonl", ran.item));
        let record = fs::read_to_string(record).unwrap();
        assert!(
            record.contains(&sid),
            "{}: {sid} ran and no record says so",
            ran.item
        );
    }
    // Of those that ended well at most one counts, unless the keeper that knew it was killed.
    for (animal, _) in animals
        .values()
        .filter(|(a, d)| a.journaled && *d == 1 && a.must != Must::End)
    {
        let story = show(&place.root, &animal.name);
        let attempts = story["attempts"].as_array().unwrap();
        let known = |sid: &str| attempts.iter().find(|a| a["session"] == sid);
        for ran in place
            .journal
            .ran()
            .iter()
            .filter(|(_, r)| *animal.name == *r.item)
        {
            let attempt = known(ran.0).unwrap_or_else(|| panic!("{}: {story:#}", ran.0));
            let (ends, exit) = (&ran.1.ends, attempt["exit_status"].as_i64());
            if is_good(attempt) {
                assert_eq!(ends.as_slice(), [0], "{:?}: {story:#}", animal.name);
            }
            if attempt["outcome"] == "failed" && exit.is_some() {
                assert_eq!(exit, ends.first().copied(), "{:?}: {story:#}", animal.name);
            }
        }
    }
}

/// A git that was killed leaves a tree half-way, until somebody uses the slot again: so each is used
/// once more, in both repositories, by items that wait for one another.
fn use_every_worktree(root: &Root) {
    let slot_of = |tree: fs::DirEntry| {
        let name = tree.file_name().into_string().unwrap();
        SlotId::parse(name.split('@').next()?.as_ref()).map(|slot| slot.0)
    };
    let trees = fs::read_dir(root.at("worktrees")).unwrap().flatten();
    let slots = trees.filter_map(slot_of).max().unwrap_or_default();
    for (used, repo) in [("used-one", ""), ("used-other", "#harness repo: second\n")] {
        for n in 1..=slots {
            root.script(
                format!("{used}-{n}"),
                &format!(
                    "{repo}touch \"$HARNESS_ROOT/{used}-$HARNESS_SLOT\"\n\
                     while [ $(ls \"$HARNESS_ROOT\" | grep -c '^{used}-') -lt {slots} ]; do sleep 0.1; done"
                ),
            );
        }
        let mut run = root.start(&["--drain", "--workers", &slots.to_string()]);
        assert_eq!(run.wait(), Some(0), "{}", run.said());
    }
}

fn worktrees_are_clean(root: &Root) {
    for tree in fs::read_dir(root.at("worktrees")).unwrap().flatten() {
        if tree.path().join(".git").exists() {
            let left = git(&tree.path(), &["status", "--porcelain"]);
            assert!(left.is_empty(), "{:?}: {left}", tree.path());
        }
    }
}

/// The last status.json says what `ls` says.
fn status_agrees(root: &Root) {
    let count = |dir: &str| {
        let files = files_below(&root.at("queue").join(dir));
        let names = files.iter().map(|p| p.file_name().unwrap());
        names.filter(|n| !Name::is_ignored(n)).count() as u64
    };
    let kept: Value =
        serde_json::from_slice(&fs::read(root.at("state/status.json")).unwrap()).unwrap();
    let told: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
    for status in [kept, told] {
        let queue = &status["work_queue"];
        for dir in ["done", "parked", "claimed"] {
            assert_eq!(queue[dir], count(dir), "{dir}: {queue}");
        }
        assert_eq!(queue["total"], count("pending"), "{queue}");
    }
}
