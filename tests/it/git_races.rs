//! Sixteen `harness run` set worktrees up and tear them down on one repository, while harnesses,
//! keepers and gits are killed at random, and while the repository's user works in it. Nothing of
//! it may fail, and his repository must end as a twin does in which he does the same with no
//! harness about. Over every git of the machine. `HARNESS_SOAK_SEED` repeats the choices,
//! `HARNESS_RACES_SECONDS` is the time of killing for each git.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::gits::{self, Git, User, locks};
use crate::support::{Over, Root, Running, files_below, git, kill};

const PROCESSES: usize = 16;
/// Items that wait at any time.
const STOCK: usize = 24;
/// Where hooks say that they ran for anybody but the user.
const TOLD: &str = "hooks-ran";

/// What the n-th item does, as a script. Whatever it commits by itself may fail where its git is
/// killed: harness commits what is left.
fn script(n: usize) -> String {
    let work = format!("echo {n} > file-{n}");
    let keep = "git add -A; git -c user.name=a -c user.email=a@b commit -qm work";
    let body = match n % 12 {
        0 => ":".into(),
        1 | 2 => work,
        3 => format!("{work}; {keep}; echo more > more-{n}"),
        4 => format!("{work}; {keep}; git pack-refs --all"),
        5 => format!("{work}; git gc --quiet; git config harness.n{n} 1"),
        6 => format!("{work}; {keep}; git branch side-{n}; git branch -D side-{n}"),
        // Broken, the worktree is made again for the next item.
        7 | 8 => format!("{work}; {keep}; rm .git"),
        // What a `git worktree add` of its own leaves when it is killed: git fails at it for all.
        9 => format!("{work}; mkdir \"$(git rev-parse --git-common-dir)/worktrees/half-{n}\""),
        10 => format!("{work}; {keep} || exit 1; git checkout -q main; git stash -u"),
        _ => format!("{work}; : > \"$(git rev-parse --git-dir)/index.lock\""),
    };
    format!("#!/bin/sh\n#harness retries: 50\n{body}\nexit 0\n")
}

fn changes_nothing(n: usize) -> bool {
    n.is_multiple_of(12)
}

/// Items that a person takes away while they are at work or just after.
fn is_taken_away(n: usize) -> bool {
    n % 10 == 9
}

/// The user's repository with a remote, hooks that fail for all but him, a stash, packed refs.
fn make_repo(user: &User<'_>) {
    let top = user.repo.parent().unwrap().to_owned();
    fs::create_dir_all(&user.repo).unwrap();
    user.git_at(
        &top,
        &["init", "-q", "--bare", "-b", "main", "upstream.git"],
    );
    user.git(&["init", "-q", "-b", "main"]);
    for (key, value) in [
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("user.signingKey", "no\"ne"),
    ] {
        user.git(&["config", key, value]);
    }
    user.git(&["remote", "add", "origin", "../upstream.git"]);
    user.write("README", "hello\n");
    user.git(&["add", "."]);
    user.git(&["commit", "-q", "-m", "one"]);
    user.git(&["push", "-q", "origin", "main"]);
    user.git(&["tag", "-a", "-m", "first", "v1"]);
    user.git(&["pack-refs", "--all"]);
    user.write("README", "put away\n");
    user.git(&["stash", "-q"]);
    user.write("untracked", "mine\n");
    user.make_hooks(&user.git_dir().join("hooks"), &top.join(TOLD));
}

/// The n-th thing that the user does. Every command must succeed and say nothing bad.
fn user_works(user: &mut User<'_>, n: u64, dice: u64) {
    user.now += 1;
    let top = user.repo.parent().unwrap().to_owned();
    let git = |args: &[&str]| user.git(args);
    let name = format!("n{n}");
    let commit = |file: &str| {
        user.write(file, &format!("{n}\n"));
        git(&["add", file]);
        git(&["commit", "-q", "-m", &name]);
    };
    match dice % 12 {
        0 | 1 => commit(&format!("mine-{}", n % 9)),
        2 => {
            git(&["switch", "-q", "-c", &name]);
            commit(&name);
            git(&["switch", "-q", "main"]);
            if dice & 64 != 0 {
                git(&["branch", "-q", "-D", &name]);
            }
        }
        3 => {
            user.write("README", &format!("stash {n}\n"));
            git(&["stash", "-q"]);
            if dice & 64 != 0 {
                git(&["stash", "pop", "-q"]);
                git(&["checkout", "-q", "--", "README"]);
            }
        }
        4 => drop(git(&["pack-refs", "--all"])),
        5 => drop(git(&["gc", "--quiet"])),
        6 => drop(git(&["repack", "-adq"])),
        7 => {
            let place = format!("../tree-{n}");
            git(&["worktree", "add", "-q", "-b", &name, &place]);
            user.git_at(
                &top.join(format!("tree-{n}")),
                &["commit", "-q", "--allow-empty", "-m", &name],
            );
            if dice & 64 != 0 {
                git(&["worktree", "remove", &place]);
            }
        }
        8 => {
            let up = top.join("upstream.git");
            let tree = user.git_at(&up, &["rev-parse", "main^{tree}"]);
            let tip = user.git_at(&up, &["rev-parse", "main"]);
            let args = ["commit-tree", tree.trim(), "-p", tip.trim(), "-m", &name];
            let new = user.git_at(&up, &args);
            user.git_at(
                &up,
                &["update-ref", "refs/heads/main", new.trim(), tip.trim()],
            );
            git(&["fetch", "-q", "origin"]);
            git(&["rebase", "-q", "origin/main"]);
        }
        9 => {
            git(&["switch", "-q", "--detach"]);
            commit(&name);
            git(&["switch", "-q", "main"]);
        }
        10 => {
            git(&["tag", &name]);
            git(&["push", "-q", "-f", "origin", "main", &name]);
        }
        _ => {
            git(&["log", "--oneline", "--all", "-n20"]);
            git(&["status", "--porcelain"]);
            git(&["branch", "-v", "--list"]);
            git(&["worktree", "list"]);
        }
    }
}

/// What must be equal in the repository and in its twin. How refs are stored is git's affair: it
/// may depend on how many there are.
fn picture(user: &User<'_>, top: &Path) -> BTreeMap<String, String> {
    let git_dir = user.git_dir();
    let mut all = BTreeMap::new();
    let stored = [
        "git/packed-refs",
        "git/refs/",
        "git/info/refs",
        "git/index",
        "git/ORIG_HEAD",
    ];
    for (name, bytes) in user.bytes() {
        let text = String::from_utf8_lossy(&bytes).replace(&*top.to_string_lossy(), "TOP");
        let by_value = stored.iter().any(|s| name.starts_with(s)) || name.ends_with("/index");
        if !by_value && !name.ends_with(".lock") {
            all.insert(name, text);
        }
    }
    all.insert("index".into(), user.git(&["ls-files", "--stage"]));
    all.insert(
        "status".into(),
        user.git(&["status", "--porcelain", "--branch"]),
    );
    all.insert("stash".into(), user.git(&["stash", "list", "-p"]));
    all.insert(
        "hooks".into(),
        format!("{:?}", files_below(&git_dir.join("hooks")).len()),
    );
    all
}

/// Processes: pid, parent, name.
fn processes() -> Vec<(u32, u32, String)> {
    let stat = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = text.split_once('(')?.1.rsplit_once(") ")?;
        let parent = rest.split(' ').nth(1)?.parse().ok()?;
        Some((pid, parent, name.to_owned()))
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|e| stat(e.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Gits that these harnesses run, and the gits that those run.
fn gits_of(harnesses: &[u32]) -> Vec<u32> {
    let all = processes();
    let mut family: BTreeSet<u32> = harnesses.iter().copied().collect();
    let mut found = Vec::new();
    let mut grown = true;
    while grown {
        grown = false;
        for (pid, parent, name) in &all {
            if name.starts_with("git") && family.contains(parent) && family.insert(*pid) {
                found.push(*pid);
                grown = true;
            }
        }
    }
    found
}

/// They live for milliseconds: looks until there is one.
fn kill_a_git(harnesses: &[u32], dice: &mut Dice) -> bool {
    let until = Instant::now() + Duration::from_millis(50);
    while Instant::now() < until {
        let found = gits_of(harnesses);
        if !found.is_empty() {
            let pid = found[dice.below(found.len() as u64) as usize];
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            return nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).is_ok();
        }
    }
    false
}

#[derive(Default, Debug)]
struct Killed {
    harnesses: u32,
    keepers: u32,
    gits: u32,
    agents_gits: u32,
    taken_away: u32,
}

/// What is said where something was killed.
const EXPLAINED: [&str; 9] = [
    "a signal ended git",
    "died of signal",
    "its keeper died",
    "cannot start the keeper",
    "the keeper of",
    "hung up unexpectedly",
    "invalid index-pack output",
    "early EOF",
    "Could not read from remote repository",
];

/// Keeps sixteen harnesses and a stock of items there, and kills, until the time is over. How many
/// items there were.
fn run_and_kill(root: &Root, seconds: u64, dice: &mut Dice, killed: &mut Killed) -> usize {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut runs: Vec<Running> = Vec::new();
    let mut items = 0;
    while Instant::now() < until {
        while runs.len() < PROCESSES {
            let workers = if dice.below(8) == 0 { "2" } else { "1" };
            runs.push(root.start(&["--workers", workers]));
        }
        while files_below(&root.at("queue/pending")).len() < STOCK {
            let name = format!("item-{items}");
            root.drop_file(name, script(items).as_bytes(), 0o755);
            items += 1;
        }
        let pids: Vec<u32> = runs.iter().map(Running::pid).collect();
        match dice.below(16) {
            0 => {
                let victim = dice.below(runs.len() as u64) as usize;
                runs.swap_remove(victim).kill9();
                killed.harnesses += 1;
            }
            1 => {
                let found = root.processes().into_iter();
                let keepers: Vec<u32> = found
                    .filter(|p| p.1.contains(" keeper "))
                    .map(|p| p.0)
                    .collect();
                if !keepers.is_empty() {
                    kill(keepers[dice.below(keepers.len() as u64) as usize], "KILL");
                    killed.keepers += 1;
                }
            }
            2 => {
                let found = root.processes().into_iter();
                let theirs: Vec<u32> = found
                    .filter(|p| p.1.starts_with("git "))
                    .map(|p| p.0)
                    .collect();
                if !theirs.is_empty() {
                    kill(theirs[dice.below(theirs.len() as u64) as usize], "KILL");
                    killed.agents_gits += 1;
                }
            }
            3 => {
                for file in files_below(&root.at("queue/claimed")) {
                    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
                    let n = name.strip_prefix("item-").and_then(|n| n.parse().ok());
                    let gone = || fs::rename(&file, root.at("queue/parked").join(&name));
                    if n.is_some_and(is_taken_away) && gone().is_ok() {
                        killed.taken_away += 1;
                    }
                }
            }
            _ => killed.gits += u32::from(kill_a_git(&pids, dice)),
        }
        std::thread::park_timeout(Duration::from_millis(dice.below(10)));
    }
    for run in runs {
        run.kill9();
        killed.harnesses += 1;
    }
    items
}

/// Lets everything come to its end, undisturbed. The deadline is for one step, not for all.
fn drain(root: &Root) {
    let mut last = root.start(&["--drain", "--workers", "4"]);
    let steps = || {
        let all =
            files_below(&root.at("queue/done")).len() + files_below(&root.at("queue/parked")).len();
        all + files_below(&root.at("state/sessions")).len()
    };
    let mut ended = false;
    while !ended {
        let before = steps();
        root.wait_until("everything has ended, or something happens", || {
            ended = last.child.try_wait().unwrap().is_some();
            ended || steps() != before
        });
    }
    assert!(matches!(last.wait(), Some(0 | 1)), "{}", last.said());
}

/// What harnesses complained of, and how often, but for what the death of a git explains.
fn complaints(root: &Root) -> BTreeMap<String, u32> {
    let mut all = BTreeMap::new();
    for log in (1..)
        .map(|n| root.at(format!("run-{n}.log")))
        .take_while(|p| p.exists())
    {
        let text = fs::read_to_string(log).unwrap();
        for line in text.lines().filter(|l| l.starts_with("! ")) {
            let no_digits = |c: char| if c.is_ascii_digit() { '#' } else { c };
            let line: String = line.chars().map(no_digits).collect();
            let line = line.replace(&*root.path().to_string_lossy(), "ROOT");
            if !EXPLAINED.iter().any(|e| line.contains(e)) {
                *all.entry(line).or_default() += 1;
            }
        }
    }
    all
}

fn race(git: &Git, seconds: u64, dice: &mut Dice) {
    let mut root = Root::plain();
    root.config("interrupt_on = []\n[repo]\npath = \"repo\"\n");
    let home = root.at("home");
    fs::create_dir(&home).unwrap();
    git.lead(&mut root, &home);
    let yesterday = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs()
        - 86_400;
    let told = root.at(TOLD);
    let user_in = |top: PathBuf| User {
        git,
        repo: top.join("repo"),
        home: home.clone(),
        now: yesterday,
    };
    let mut user = user_in(root.path().to_owned());
    make_repo(&user);
    let seed = dice.below(u64::MAX);
    let over = AtomicBool::new(false);
    let mut killed = Killed::default();
    let (mut items, mut deeds) = (0, 0);
    std::thread::scope(|s| {
        let at_work = s.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                user_works(
                    &mut user,
                    deeds,
                    seed.rotate_left(deeds as u32 * 7) ^ (deeds * 37),
                );
                deeds += 1;
            }
        });
        let _even_after_a_panic = Over(&over);
        items = run_and_kill(&root, seconds, dice, &mut killed);
        drain(&root);
        over.store(true, Ordering::SeqCst);
        at_work.join().expect("the user sees no error");
    });
    println!("  {items} items, the user did {deeds} things, {killed:?}");
    root.assert_nothing_left();
    check_items(&root, &user, items);
    assert!(
        !told.exists(),
        "hooks ran: {}",
        fs::read_to_string(&told).unwrap()
    );
    let hub = root.at("state/repos/default.git");
    for dir in [&user.repo, &hub] {
        user.assert_sound(dir);
    }
    let stale = locks(&user.git_dir());
    println!(
        "  left by killed gits: {stale:?} and in the hub {:?}",
        locks(&hub)
    );
    let ours = user.git_dir().join("refs/heads/harness");
    assert!(stale.iter().all(|l| l.starts_with(&ours)), "{stale:?}");

    let top = root.at("twin");
    let mut twin = user_in(top.clone());
    fs::create_dir(&top).unwrap();
    make_repo(&twin);
    for n in 0..deeds {
        user_works(&mut twin, n, seed.rotate_left(n as u32 * 7) ^ (n * 37));
    }
    let (mine, its) = (picture(&user, root.path()), picture(&twin, &top));
    for name in mine.keys().chain(its.keys()) {
        assert_eq!(mine.get(name), its.get(name), "{name}, after {deeds} deeds");
    }
    // What was said and got over all the same: nothing ended wrongly, as was seen above. In the long
    // run each has to be explained; here a new way in which a killed git shows must not stop a build.
    let complaints = complaints(&root);
    if complaints.is_empty() {
        return;
    }
    println!("  complaints: {complaints:#?}");
    assert!(given_seconds().is_none(), "not explained: see above");
}

fn given_seconds() -> Option<u64> {
    let given = std::env::var("HARNESS_RACES_SECONDS").ok();
    given.and_then(|s| s.parse().ok())
}

/// Every item has ended as it must, and every branch in the user's repository is one item's.
fn check_items(root: &Root, user: &User<'_>, items: usize) {
    let mut published = BTreeSet::new();
    for n in 0..items {
        let name = format!("item-{n}");
        let show = root.show(&name);
        let branch = show["branch"].as_str();
        if is_taken_away(n) && root.is_parked(&name) {
            // Its branch must not be there, which is seen below.
            continue;
        }
        assert!(root.is_done(&name), "{name}: {show:#}\n{}", root.picture());
        let record = || fs::read_to_string(root.at(format!("state/items/{name}.jsonl")));
        let right = branch.is_none() == changes_nothing(n);
        assert!(right, "{name}, {branch:?}: {:#?}", record());
        if let Some(branch) = branch {
            let text = user.git(&["show", &format!("{branch}:file-{n}")]);
            assert_eq!(text, format!("{n}\n"), "{name}");
            let mine = format!("file-{n}");
            let changed = user.git(&["diff", "--name-only", &format!("main...{branch}")]);
            let others = changed
                .lines()
                .filter(|f| f.starts_with("file-") && *f != mine);
            assert_eq!(others.count(), 0, "{name} has others' files: {changed}");
            published.insert(branch.to_owned());
        }
    }
    let listed = user.git(&[
        "for-each-ref",
        "--format=%(refname:short)",
        "refs/heads/harness",
    ]);
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    assert_eq!(listed, published, "branches exactly for what succeeded");
}

#[test]
fn sixteen_processes_and_a_user_share_a_repository() {
    let mut dice = Dice::new();
    let gits = gits::all();
    let seconds = given_seconds().unwrap_or(4 / gits.len() as u64);
    for git in &gits {
        println!("git {}: {seconds} s", git.version);
        race(git, seconds.max(2), &mut dice);
    }
}

/// What gits that were killed leave in harness's own repository is cleared, by whoever comes next.
#[test]
fn what_killed_gits_leave_stops_nobody() {
    let root = Root::with_repo();
    root.script("first", "echo 1 > file");
    assert_eq!(root.drain().status.code(), Some(0));
    let hub = root.at("state/repos/default.git");
    git(
        &root.repo(),
        &["commit", "-q", "--allow-empty", "-m", "the base moves on"],
    );
    let pins = hub.join("refs/harness/base");
    fs::create_dir_all(&pins).unwrap();
    let pin = pins.join("refs%2Fheads%2Fmain.lock");
    let left = ["refs/heads/main.lock", "packed-refs.lock", "shallow.lock"].map(|l| hub.join(l));
    let left = [&left[..], &[pin, hub.join("slots/agent-1/index.lock")]].concat();
    for lock in &left {
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        fs::write(lock, "").unwrap();
    }
    // Half-made: the folders of slots, and the repository that one was getting.
    for n in 1..4 {
        let made = hub.join(format!("slots/agent-{n}"));
        fs::create_dir_all(&made).unwrap();
        fs::write(made.join("commondir"), "").unwrap();
        fs::create_dir_all(root.at(format!("worktrees/.agent-{n}.git.new/worktrees"))).unwrap();
    }
    root.script("changes", "git rev-parse --git-dir && echo 2 > file");
    root.script("nothing", "git rev-parse --git-dir");
    assert_eq!(root.drain().status.code(), Some(0), "{}", root.picture());
    for (name, outcome) in [("changes", "succeeded"), ("nothing", "no_change")] {
        assert_eq!(root.show(name)["outcome"], outcome, "{}", root.picture());
    }
    // What is only a convenience waits a moment for a lock; while gits are at work it is not cleared.
    let stays = || {
        let mut stays = locks(&hub);
        stays
            .retain(|l| !l.starts_with(hub.join("harness-debris")) && !l.ends_with("shallow.lock"));
        stays
    };
    for n in 0..5 {
        if stays().is_empty() {
            break;
        }
        let empty = ["commit", "-q", "--allow-empty", "-m", "on"];
        git(&root.repo(), &empty);
        // By the first slot: its lock is among these.
        root.script(format!("again-{n}"), ":");
        let out = root.harness(&["run", "--drain", "--workers", "1"]);
        assert_eq!(out.status.code(), Some(0), "{}", root.picture());
    }
    assert_eq!(stays(), Vec::<PathBuf>::new());
    git(&hub, &["fsck", "--full"]);
}
