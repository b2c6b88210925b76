//! The whole zoo for a given time: scripts and prompts of every kind in two repositories, dropped by
//! `cp`, `mv` and `add`, while processes, keepers and agents are killed at random, people cancel,
//! retry, interrupt, pause and resume, the user commits, rebases and collects garbage in one of the
//! repositories, and others read all the time; then the books are checked.
//! `HARNESS_SOAK_SECONDS` says for how long (5; a minute in CI), `HARNESS_SOAK_SEED` repeats a run's
//! choices.

mod books;
mod user;
mod zoo;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dice::Dice;
use crate::journal::Journal;
use crate::launch::{VOICES, table};
use crate::processes::Mark;
use crate::support::{Over, Root, Running, describe, git, kill};
use zoo::Animal;

/// Dropped as long as fewer than so many wait: as many as the machine can do.
const WAITING_MAX: usize = 40;
const PROCESSES: usize = 3;
/// Of one process: 17, and five for each of the six workers that an order may ask of it, and as much
/// again for what they have at hand for a moment (git's pipes, streams). It does hundreds of items.
const DESCRIPTORS_MAX: usize = 100;

/// Where it happens.
pub struct Place {
    pub root: Root,
    pub journal: Journal,
    pub mark: Mark,
}

/// By name; how often it was dropped.
pub type Animals = BTreeMap<OsString, (Animal, u32)>;

/// Reads status.json until told to stop; how often it was there.
fn read_status(root: &Root, over: &AtomicBool) -> u64 {
    let mut whole = 0;
    while !over.load(Ordering::SeqCst) {
        if let Ok(text) = fs::read(root.at("state/status.json")) {
            let status: Value = serde_json::from_slice(&text).expect("status.json is whole");
            assert_eq!(status["version"], 2);
            whole += 1;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    whole
}

/// Everything that only looks, all the time.
fn look_around(root: &Root, over: &AtomicBool) -> u64 {
    let mut looks = 0;
    while !over.load(Ordering::SeqCst) {
        for words in [
            &["list", "--json"][..],
            &["status"],
            &["show", "n1-commit"],
            &["session", "list"],
            &["session", "events"],
            &["session", "summary"],
            &["status", "--json"],
        ] {
            let out = root.harness(words);
            // Nothing of that name may be there yet, or no session.
            let ok = matches!(out.status.code(), Some(0 | 100));
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(
                ok && !said.contains("panicked"),
                "{words:?}: {}",
                describe(&out)
            );
            looks += 1;
            if over.load(Ordering::SeqCst) {
                break;
            }
        }
    }
    looks
}

/// Resident memory in kB and descriptors of a process.
fn size(pid: u32) -> Option<(u64, usize)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kb = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kb = kb.trim().trim_end_matches(" kB").parse().ok()?;
    Some((kb, fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
}

struct Chaos<'a> {
    place: &'a Place,
    animals: Animals,
    dice: &'a mut Dice,
    runs: Vec<Running>,
    /// One that is never killed: its size after a while, and now.
    steady: Running,
    small: Option<(u64, usize)>,
    next: usize,
    did: BTreeMap<&'static str, u32>,
}

impl Chaos<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.dice.below(n as u64) as usize
    }

    fn pick(&mut self, found: Vec<PathBuf>) -> Option<PathBuf> {
        (!found.is_empty())
            .then(|| self.below(found.len()))
            .map(|n| found[n].clone())
    }

    /// Files in a folder below ROOT of which `wanted` is true of the animal.
    fn files(&self, dir: &str, wanted: impl Fn(&Animal) -> bool) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = walkdir::WalkDir::new(self.place.root.at(dir))
            .into_iter()
            .flatten()
            .filter(|e| {
                self.animals
                    .get(e.file_name())
                    .is_some_and(|(a, _)| wanted(a))
            })
            .map(walkdir::DirEntry::into_path)
            .collect();
        found.sort();
        found
    }

    fn drop_some(&mut self) {
        let waiting = fs::read_dir(self.place.root.at("queue/pending"))
            .unwrap()
            .count();
        let some = self.below(12).min(WAITING_MAX.saturating_sub(waiting));
        for _ in 0..some {
            let animal = zoo::animal(self.next, &self.place.journal, &self.place.mark);
            self.next += 1;
            self.animals
                .insert(animal.name.clone(), (animal.clone(), 1));
            self.drop_it(&animal);
        }
    }

    fn drop_it(&mut self, animal: &Animal) {
        let (root, name) = (&self.place.root, &animal.name);
        let mode = if animal.executable { 0o755 } else { 0o644 };
        match self.dice.below(3) {
            0 if animal.can_be_added() => {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join(name);
                fs::write(&path, &animal.text).unwrap();
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                    .unwrap();
                let out = root
                    .command()
                    .args(["add", "--"])
                    .arg(&path)
                    .output()
                    .unwrap();
                assert!(out.status.success(), "{}", describe(&out));
            }
            1 if animal.executable => {
                // As `cp` does: open, write, close.
                let path = root.at("queue/pending").join(name);
                fs::write(&path, &animal.text).unwrap();
                let _gone =
                    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode));
            }
            _ => root.drop_file(name, animal.text.as_bytes(), mode),
        }
    }

    /// What befalls them.
    fn strike(&mut self) {
        let names = [
            "kill -9 harness",
            "kill -9 harness",
            "TERM",
            "INT",
            "HUP",
            "kill -9 keeper",
            "kill -9 agent",
            "kill -9 agent",
            "cancel by mv",
            "cancel",
            "retry by mv",
            "retry",
            "drop again",
            "interrupt",
            "answer",
            "pause",
            "drain",
            "workers",
            "hold",
            "release",
            "nothing",
            "nothing",
        ];
        let what = names[self.below(names.len())];
        *self.did.entry(what).or_default() += 1;
        let is_victim = |a: &Animal| a.must == zoo::Must::End;
        let root_path = self.place.root.path().to_owned();
        let queue = |dir: &str| root_path.join("queue").join(dir);
        match what {
            "kill -9 harness" if !self.runs.is_empty() => {
                let n = self.below(self.runs.len());
                self.runs.swap_remove(n).kill9();
            }
            "TERM" | "INT" | "HUP" if !self.runs.is_empty() => {
                let n = self.below(self.runs.len());
                self.runs[n].signal(what);
            }
            "kill -9 keeper" | "kill -9 agent" => {
                let wanted = what.ends_with("keeper");
                let mut all = self.place.root.processes();
                all.retain(|(_, command)| (command.contains(" keeper ")) == wanted);
                if !all.is_empty() {
                    let n = self.below(all.len());
                    kill(all[n].0, "KILL");
                }
            }
            "cancel by mv" => {
                let found = self.files("queue/claimed", is_victim);
                if let Some(path) = self.pick(found) {
                    let _gone = fs::rename(&path, queue("parked").join(path.file_name().unwrap()));
                }
            }
            "retry by mv" => {
                let found = self.files("queue/parked", is_victim);
                if let Some(path) = self.pick(found) {
                    let to = queue("pending").join(path.file_name().unwrap());
                    if !to.exists() {
                        let _gone = fs::rename(&path, to);
                    }
                }
            }
            "cancel" | "retry" | "release" => {
                let found = self.files("queue", is_victim);
                if let Some(path) = self.pick(found) {
                    let name = path.file_name().unwrap().to_owned();
                    // It may be where that makes no sense by now: then it says so.
                    let out = self
                        .place
                        .root
                        .command()
                        .args([what, "--"])
                        .arg(&name)
                        .output()
                        .unwrap();
                    assert!(
                        matches!(out.status.code(), Some(0 | 1 | 2 | 100)),
                        "{what} {name:?}: {}",
                        describe(&out)
                    );
                }
            }
            "drop again" => {
                let found = self.files("queue", |a| a.must == zoo::Must::End);
                if let Some(path) = self.pick(found) {
                    let name = path.file_name().unwrap().to_owned();
                    let known = self.animals.get_mut(&name).unwrap();
                    known.1 += 1;
                    let animal = known.0.clone();
                    self.place
                        .root
                        .drop_file(&animal.name, animal.text.as_bytes(), 0o755);
                }
            }
            "interrupt" => {
                let slot = format!("agent-{}", self.below(6) + 1);
                let _stands = self
                    .place
                    .root
                    .harness(&["interrupt", &slot, "a person looks"]);
            }
            "answer" => {
                let slot = format!("agent-{}", self.below(6) + 1);
                let _none = self
                    .place
                    .root
                    .harness(&["resume", &slot, "--answer", "the left one"]);
            }
            "pause" | "drain" => drop(self.place.root.ok(&[what])),
            "workers" => {
                let n = self.below(7);
                fs::write(
                    self.place.root.at("state/control/workers"),
                    format!("{n}\n"),
                )
                .unwrap();
            }
            "hold" => {
                let cli = VOICES[self.below(VOICES.len())];
                fs::write(
                    self.place
                        .root
                        .at("state/holds")
                        .join(format!("{cli}.hold")),
                    "a person\n",
                )
                .unwrap();
            }
            _ => {}
        }
    }

    /// As people who look after it: every slot and order goes on.
    fn look_after(&mut self) {
        let root = &self.place.root;
        root.ok(&["resume"]);
        if self.dice.below(3) == 0 {
            let _none = fs::remove_file(root.at("state/control/workers"));
        }
        self.runs
            .retain_mut(|r| r.child.try_wait().unwrap().is_none());
        if self.steady.child.try_wait().unwrap().is_some() {
            assert!(
                !self.steady.said().contains("panicked"),
                "{}",
                self.steady.said()
            );
            self.steady = root.start(&["--workers", "2"]);
            self.small = None;
        }
        while self.runs.len() < PROCESSES {
            self.runs.push(root.start(&["--workers", "2"]));
        }
    }

    fn go_on_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.look_after();
            self.drop_some();
            std::thread::park_timeout(Duration::from_millis(self.dice.below(250)));
            self.strike();
            if self.small.is_none() && begun.elapsed() > time / 4 {
                self.small = size(self.steady.pid());
            }
        }
        if let (Some(small), Some(large)) = (self.small, size(self.steady.pid())) {
            println!("the steady one: {small:?}, then {large:?} (kB, descriptors)");
            assert!(
                large.0 < small.0 + 40_000,
                "its memory grows: {small:?} {large:?}"
            );
            assert!(
                large.1 < DESCRIPTORS_MAX,
                "its descriptors grow: {small:?} {large:?}"
            );
        }
    }
}

fn place(kind: &str) -> Place {
    let root = Root::with_repo();
    let second = root.at("second");
    fs::create_dir(&second).unwrap();
    git(&second, &["init", "-q", "-b", "trunk"]);
    fs::write(second.join("README"), "second\n").unwrap();
    git(&second, &["add", "."]);
    git(&second, &["commit", "-q", "-m", "one"]);
    user::desk(&root.repo());
    for repo in [&root.repo(), &second] {
        fs::write(repo.join("dirty"), "mine").unwrap();
        git(repo, &["add", "dirty"]);
        fs::write(repo.join("README"), "edited\n").unwrap();
    }
    let tables: String = VOICES.iter().map(|cli| table(&root, cli, "")).collect();
    let repos = match kind {
        "repositories" => "[repo]\npath = \"repo\"\n[repos.second]\npath = \"second\"\n",
        _ => "[repo]\npath = \"none\"\n",
    };
    root.config(&format!(
        "agent = \"claude\"\nstall = 3\nlinger = 1\n{repos}{tables}"
    ));
    Place {
        root,
        journal: Journal::new(),
        mark: Mark::new(),
    }
}

fn soak(kind: &str) {
    let mut dice = Dice::new();
    let seconds = std::env::var("HARNESS_SOAK_SECONDS").ok();
    let seconds = seconds.and_then(|s| s.parse().ok()).unwrap_or(5);
    let place = place(kind);
    let before = books::checkouts(&place.root);
    let over = AtomicBool::new(false);
    let users = dice.another();
    let animals = std::thread::scope(|s| {
        let reader = s.spawn(|| read_status(&place.root, &over));
        let walker = s.spawn(|| look_around(&place.root, &over));
        let user = s.spawn(|| user::work(&place.root.at("repo.desk"), users, &over));
        let _even_after_a_panic = Over(&over);
        let steady = place.root.start(&["--workers", "2"]);
        let mut chaos = Chaos {
            place: &place,
            animals: Animals::new(),
            dice: &mut dice,
            runs: Vec::new(),
            steady,
            small: None,
            next: 0,
            did: BTreeMap::new(),
        };
        chaos.go_on_for(Duration::from_secs(seconds));
        println!("{kind}: {} items, {:?}", chaos.next, chaos.did);
        for run in std::mem::take(&mut chaos.runs) {
            run.kill9();
        }
        chaos.steady.signal("TERM");
        chaos.steady.wait();
        let animals = std::mem::take(&mut chaos.animals);
        drop(chaos);
        drain(&place.root);
        over.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0);
        println!("{} looks", walker.join().unwrap());
        println!("the user: {:?}", user.join().unwrap());
        animals
    });
    books::check(&place, &animals, &before, kind == "repositories");
}

/// What is left, undisturbed.
fn drain(root: &Root) {
    for order in ["pause", "drain", "workers"] {
        let _none = fs::remove_file(root.at("state/control").join(order));
    }
    let mut last = root.start(&["--drain", "--workers", "4"]);
    let ended = |root: &Root| {
        ["done", "parked"].map(|d| fs::read_dir(root.at("queue").join(d)).unwrap().count())
    };
    // The deadline is for one step, not for all: machines differ.
    let mut over = false;
    while !over {
        let steps = ended(root);
        root.wait_until("everything has ended, or something happens", || {
            root.ok(&["resume"]);
            over = last.child.try_wait().unwrap().is_some();
            over || ended(root) != steps
        });
    }
    assert!(matches!(last.wait(), Some(0 | 1)), "{}", last.said());
}

#[test]
fn soak_in_repositories() {
    soak("repositories");
}

#[test]
fn soak_in_plain_directories() {
    soak("plain directories");
}

/// The name as the commands take it.
pub fn show(root: &Root, name: &OsStr) -> Value {
    let out = root
        .command()
        .args(["show", "--json", "--"])
        .arg(name)
        .output()
        .unwrap();
    assert!(out.status.success(), "{name:?}: {}", describe(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Whether a file of the user's is as they left it: not a branch that harness made, nor what their
/// own `git gc` rewrites.
pub fn is_of_the_user(inside: &Path) -> bool {
    let inside = inside.to_string_lossy();
    let changes = [
        "objects/",
        "refs/",
        "packed-refs",
        "logs/",
        "info/",
        "worktrees/",
        "gc.",
    ];
    !changes
        .iter()
        .any(|o| inside.starts_with(&format!(".git/{o}")))
}
