//! Two hundred items by `cp` while four harness processes run and are killed and started again at
//! random; then the books are checked. `HARNESS_SOAK_SEED` repeats a run's choices, and
//! `HARNESS_SOAK_SECONDS` lets the killing go on for longer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dice::Dice;
use crate::journal::Journal;
use crate::processes::Mark;
use crate::support::{Over, Root, Running, describe, files_below, git};

const ITEMS: usize = 200;
const PROCESSES: usize = 4;

/// Fields and body of the n-th item, and whether it can end in `done/`.
fn item(n: usize, mark: &Mark) -> (String, String, bool) {
    let work = format!("echo {n} > file-{n}");
    let keep = "git add -A && git -c user.name=a -c user.email=a@b commit -qm work";
    match n % 10 {
        0 => (String::new(), format!("{work}; sleep 0.4; {keep}"), true),
        1 => (
            "#harness retries: 0".into(),
            format!("{work}; exit 3"),
            false,
        ),
        2 => (
            "#harness retries: 3".into(),
            format!("{work}; [ $HARNESS_ATTEMPT -ge 2 ] || exit 4"),
            true,
        ),
        3 => (
            String::new(),
            format!(
                "setsid {0} & ( env -i sh -c 'exec {0}' & ); {work}",
                mark.sleep()
            ),
            true,
        ),
        4 => (format!("#harness after: [item-{}]", n - 4), work, true),
        5 => (
            "#harness exclusive: one".into(),
            format!("{work}; {keep}"),
            true,
        ),
        6 => ("#harness priority: high".into(), ":".into(), true),
        _ => (String::new(), format!("{work}; sleep 0.0{}", n % 7), true),
    }
}

fn checkout(repo: &Path) -> Vec<(String, Vec<u8>)> {
    let kept = |p: &Path| {
        let inside = p.strip_prefix(repo).unwrap().to_string_lossy().into_owned();
        let ours = [
            "objects/",
            "refs/heads/harness/",
            "logs/refs/heads/harness/",
        ];
        let ours = ours
            .iter()
            .any(|o| inside.starts_with(&format!(".git/{o}")));
        (!ours).then_some(inside)
    };
    let mut all: Vec<_> = files_below(repo)
        .iter()
        .filter_map(|p| Some((kept(p)?, fs::read(p).unwrap())))
        .collect();
    all.sort();
    all
}

/// Reads status.json until told to stop; how often it was there.
fn read_status(root: &Root, over: &AtomicBool) -> u64 {
    let mut whole = 0;
    while !over.load(Ordering::SeqCst) {
        if let Ok(text) = fs::read(root.at("state/status.json")) {
            let status: Value = serde_json::from_slice(&text).expect("status.json is whole");
            assert_eq!(status["version"], 1);
            whole += 1;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    whole
}

/// Drops all items by `cp`, several at a time, while processes are killed and started.
fn drop_and_kill(root: &Root, source: &Path, dice: &mut Dice) {
    let seconds = std::env::var("HARNESS_SOAK_SECONDS").ok();
    let seconds = seconds.and_then(|s| s.parse().ok()).unwrap_or(12);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut runs: Vec<Running> = Vec::new();
    let mut next = 0;
    let mut kills = 0;
    while next < ITEMS || Instant::now() < until {
        while runs.len() < PROCESSES {
            runs.push(root.start(&["--workers", "2"]));
        }
        let some = (ITEMS - next).min(dice.below(14) as usize);
        if some > 0 {
            let files = (next..next + some).map(|n| source.join(format!("item-{n}")));
            let out = Command::new("cp")
                .args(files)
                .arg(root.at("queue/pending"))
                .output();
            let out = out.unwrap();
            assert!(out.status.success(), "{}", describe(&out));
            next += some;
        }
        std::thread::park_timeout(Duration::from_millis(dice.below(300)));
        // Slots that met five failures in a row wait for a person.
        root.ok(&["resume"]);
        for _ in 0..=dice.below(3) {
            if !runs.is_empty() {
                let victim = dice.below(runs.len() as u64) as usize;
                runs.swap_remove(victim).kill9();
                kills += 1;
            }
        }
    }
    println!("{kills} kills");
    for run in runs {
        run.kill9();
    }
}

#[test]
fn soak() {
    let mut dice = Dice::new();
    let (root, journal, mark) = (Root::with_repo(), Journal::new(), Mark::new());
    let repo = root.repo();
    fs::write(repo.join("dirty"), "mine").unwrap();
    git(&repo, &["add", "dirty"]);
    fs::write(repo.join("README"), "edited\n").unwrap();
    let before = checkout(&repo);
    let source = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..ITEMS).map(|n| format!("item-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let (head, body, _) = item(n, &mark);
        let path = source.path().join(name);
        fs::write(&path, journal.text(&head, &body)).unwrap();
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let reader = s.spawn(|| read_status(&root, &over));
        let _even_after_a_panic = Over(&over);
        drop_and_kill(&root, source.path(), &mut dice);
        let mut last = root.start(&["--drain", "--workers", "4"]);
        // The deadline is for one step, not for all: machines differ.
        let mut ended = false;
        while !ended {
            let steps = journal.lines().len();
            root.wait_until("everything has ended, or something happens", || {
                root.ok(&["resume"]);
                ended = last.child.try_wait().unwrap().is_some();
                ended || journal.lines().len() > steps
            });
        }
        assert!(matches!(last.wait(), Some(0 | 1)), "{}", last.said());
        over.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0);
    });
    root.assert_nothing_left();
    assert_eq!(mark.alive(), Vec::<u32>::new());
    journal.assert_books(&root, &names);
    let mut published = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let show = root.show(name);
        assert_eq!(root.is_done(name), item(n, &mark).2, "{name}: {show:#}");
        let changes = n % 10 != 6;
        match show["branch"].as_str() {
            Some(branch) => {
                assert_eq!(show["outcome"], "succeeded", "{show:#}");
                let text = git(&repo, &["show", &format!("{branch}:file-{n}")]);
                assert_eq!(text, format!("{n}\n"), "{name}");
                let files = git(&repo, &["diff", "--name-only", "main", branch]);
                assert_eq!(files, format!("file-{n}\n"), "{name}: others' files in it");
                published.push(branch.to_owned());
            }
            None => assert!(!root.is_done(name) || !changes, "{show:#}"),
        }
    }
    let listed = git(&repo, &["branch", "--format=%(refname:short)"]);
    let mut listed: Vec<&str> = listed.lines().filter(|b| *b != "main").collect();
    listed.sort_unstable();
    published.sort_unstable();
    assert_eq!(listed, published, "branches exactly for what succeeded");
    assert_eq!(checkout(&repo), before, "the user's checkout");
    let hub = root.at("state/repos/default.git");
    for git_dir in [&repo, &hub] {
        git(git_dir, &["fsck", "--full", "--strict"]);
    }
    let stale: Vec<_> = files_below(&hub)
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "lock"))
        .collect();
    println!("stale lock files in the hub: {stale:?}");
}
