//! Races: several harness processes, and people who drop, move, remove and order things all at
//! once, while processes are killed. What people did and saw, what the scripts did, and what the
//! records say must have happened in some order that an item's life allows (`life`, `linear`), name
//! by name. `HARNESS_SOAK_SEED` repeats the choices, `HARNESS_RACES_ROUNDS` makes it longer.

mod life;
mod linear;
mod spec;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::Value;

use crate::dice::Dice;
use crate::support::{Root, Running, files_below, git, skipped};
use life::{How, Life, Next, Number, Op, Place};
use linear::Call;

const PROCESSES: usize = 3;
const WORKERS: &str = "2";
const PEOPLE: usize = 2;
const DEEDS: usize = 10;
const NAMES: usize = 3;
/// Records tell time in whole milliseconds.
const MILLISECOND: i64 = 1_000_000;

fn now() -> i64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

/// What is shared by the people, the scripts and the one who judges.
struct World {
    root: Root,
    repo: bool,
    log: tempfile::TempDir,
    next: AtomicU32,
    calls: Mutex<BTreeMap<String, Vec<Call<Op>>>>,
}

impl World {
    fn new(repo: bool) -> World {
        let (root, path) = match repo {
            true => (Root::with_repo(), "repo"),
            false => (Root::plain(), "none"),
        };
        root.config(&format!("interrupt_on = []\n[repo]\npath = {path:?}\n"));
        World {
            root,
            repo,
            log: tempfile::tempdir().unwrap(),
            next: AtomicU32::new(0),
            calls: Mutex::default(),
        }
    }

    fn log(&self) -> PathBuf {
        self.log.path().join("log")
    }

    fn note(&self, name: &str, op: Op, begin: i64, end: i64) {
        // A command may first have made room for the file.
        let backup = matches!(op, Op::Cancel(_)).then_some(Op::Backup(Place::Parked));
        let mut calls = self.calls.lock().unwrap();
        let calls = calls.entry(name.to_owned()).or_default();
        let call = |op| Call { op, begin, end };
        calls.extend([Some(op), backup].into_iter().flatten().map(call));
    }

    /// A person does something to a name.
    fn call(&self, name: &str, deed: impl FnOnce() -> Op) {
        let begin = now();
        let op = deed();
        self.note(name, op, begin, now());
    }

    fn at(&self, place: Place, name: &str) -> PathBuf {
        let dir = match place {
            Place::Pending => "queue/pending".to_owned(),
            Place::Claimed(n) => format!("queue/claimed/agent-{n}"),
            Place::Done => "queue/done".to_owned(),
            Place::Parked => "queue/parked".to_owned(),
        };
        self.root.at(dir).join(name)
    }

    /// A script with a number of its own: it says when it ran, takes its time, and may fail.
    fn script(&self, dice: &mut Dice) -> (Number, PathBuf) {
        let number = self.next.fetch_add(1, Ordering::SeqCst) + 1;
        let log = self.log();
        let say = format!(
            "echo $HARNESS_ITEM $HARNESS_SESSION {number} $(date +%s%N) >>'{}'",
            log.display()
        );
        let exit = usize::from(dice.below(4) == 0);
        let text = format!(
            "#!/bin/sh\n#harness retries: {}\n{say}\necho {number} $HARNESS_ATTEMPT > made\n\
             sleep 0.0{}\n{say}\nexit {exit}\n# number {number}\n",
            dice.below(2),
            dice.below(8),
        );
        let path = self.log.path().join(format!("script-{number}"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (number, path)
    }

    /// `mv -n`.
    fn mv(&self, from: &Path, to: &Path) -> How {
        match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => How::Moved,
            Err(Errno::ENOENT) => How::Gone,
            Err(Errno::EEXIST) => How::Taken,
            Err(e) => panic!("mv {} {}: {e}", from.display(), to.display()),
        }
    }

    /// The slot in whose folder the name is seen.
    fn seen_claimed(&self, name: &str) -> Option<Place> {
        let folders = fs::read_dir(self.root.at("queue/claimed"))
            .unwrap()
            .flatten();
        let slots =
            folders.filter_map(|f| f.file_name().to_str()?.strip_prefix("agent-")?.parse().ok());
        slots
            .map(Place::Claimed)
            .find(|&place| self.at(place, name).exists())
    }

    fn deed(&self, name: &str, dice: &mut Dice) {
        let mv = |from, to| {
            self.call(name, || {
                let how = self.mv(&self.at(from, name), &self.at(to, name));
                Op::Move(from, to, how)
            });
        };
        let command = |word: &str, op: fn(bool) -> Op| {
            self.call(name, || {
                op(self.root.harness(&[word, name]).status.success())
            });
        };
        match dice.below(20) {
            0..=5 => {
                let (number, script) = self.script(dice);
                self.call(name, || {
                    let how = self.mv(&script, &self.at(Place::Pending, name));
                    Op::Drop(number, how)
                });
            }
            6..=9 => {
                let to = [Place::Parked, Place::Pending, Place::Done][dice.below(3) as usize];
                if let Some(from) = self.seen_claimed(name) {
                    mv(from, to);
                }
            }
            10..=11 => mv(Place::Parked, Place::Pending),
            12 => mv(Place::Done, Place::Pending),
            13 => self.call(name, || {
                let how = match fs::remove_file(self.at(Place::Pending, name)) {
                    Ok(()) => How::Moved,
                    Err(_) => How::Gone,
                };
                Op::Remove(Place::Pending, how)
            }),
            14 => command("cancel", Op::Cancel),
            15 => command("retry", Op::Retry),
            16 => command("release", Op::Release),
            17 => {
                let (number, script) = self.script(dice);
                let begin = now();
                let script = script.to_str().unwrap();
                let said = self.root.ok(&["add", "--name", name, script]);
                let (said, end) = (said.trim(), now());
                // Under another name where this one waits already.
                if said != name {
                    self.note(name, Op::Drop(number, How::Taken), begin, end);
                }
                self.note(said, Op::Drop(number, How::Moved), begin, end);
            }
            _ => self.order(dice),
        }
    }

    /// Orders to everybody, and their end.
    fn order(&self, dice: &mut Dice) {
        let (file, text) =
            [("pause", ""), ("workers", "1\n"), ("workers", "6\n")][dice.below(3) as usize];
        let path = self.root.at("state/control").join(file);
        fs::write(&path, text).unwrap();
        pause(dice.below(20));
        let _gone = fs::remove_file(&path);
    }

    fn person(&self, names: &[String], mut dice: Dice) {
        for _ in 0..DEEDS * NAMES / PEOPLE {
            let name = &names[dice.below(names.len() as u64) as usize];
            self.deed(name, &mut dice);
            pause(dice.below(25));
        }
    }

    fn is_quiet(&self) -> bool {
        let empty = |dir: &str| {
            let files = files_below(&self.root.at(dir));
            files.iter().all(|f| f.ends_with(".gitignore"))
        };
        empty("queue/pending") && empty("queue/claimed") && empty("state/claims")
    }
}

fn pause(ms: u64) {
    std::thread::park_timeout(Duration::from_millis(ms));
}

/// The number in a dropped file.
fn number_of(path: &Path) -> Number {
    let text = fs::read_to_string(path).unwrap();
    text.trim_end().rsplit(' ').next().unwrap().parse().unwrap()
}

/// What the record and the scripts tell of a name, as calls.
fn told(world: &World, name: &str, end: i64) -> Vec<Call<Op>> {
    let mut calls = Vec::new();
    let log = fs::read_to_string(world.log()).unwrap_or_default();
    let ran: Vec<(String, Number, i64)> = log
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .filter(|w| w[0] == name)
        .map(|w| {
            (
                w[1].to_owned(),
                w[2].parse().unwrap(),
                w[3].parse().unwrap(),
            )
        })
        .collect();
    for (session, number, at) in &ran {
        let op = Op::Runs(session.clone(), *number);
        calls.push(Call {
            op,
            begin: *at,
            end: *at,
        });
    }
    let record = world.root.at(format!("state/items/{name}.jsonl"));
    let record = fs::read_to_string(record).unwrap_or_default();
    let events: Vec<Value> = record
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let at = |e: &Value| {
        let at: jiff::Timestamp = e["at"].as_str().unwrap().parse().unwrap();
        i64::try_from(at.as_nanosecond()).unwrap()
    };
    for (n, claimed) in events.iter().enumerate() {
        if claimed["event"] != "claimed" {
            continue;
        }
        let session = claimed["session"].as_str().unwrap().to_owned();
        let slot = claimed["slot"].as_str().unwrap()["agent-".len()..]
            .parse()
            .unwrap();
        let ended = events[n..].iter().find(|e| {
            e["session"] == session && (e["event"] == "finished" || e["event"] == "requeued")
        });
        let ended = ended.unwrap_or_else(|| panic!("{name}: {session} has no end\n{record}"));
        // The name's next holder says so after this one has let go.
        let next = events[n + 1..].iter().find(|e| e["event"] == "claimed");
        let over = next.map_or(end, |e| at(e) + MILLISECOND);
        let starts = ran
            .iter()
            .filter(|(s, ..)| *s == session)
            .map(|(.., at)| *at);
        let first = starts.clone().min();
        assert!(starts.count() <= 2, "{name}: {session} ran twice\n{log}");
        let (begin, end) = (at(claimed) - MILLISECOND, at(ended) + MILLISECOND);
        let mut call = |op, begin, end| calls.push(Call { op, begin, end });
        if ended["event"] == "requeued" {
            assert!(
                first.is_none(),
                "{name}: {session} ran and was put back\n{record}{log}"
            );
            call(Op::TryTake(session.clone(), slot), begin, end);
            call(Op::PutBack(session), begin, over);
            continue;
        }
        call(Op::Take(session.clone(), slot), begin, first.unwrap_or(end));
        let next = match ended["next"].as_str().unwrap() {
            "done" => Next::Done,
            "retry" | "pending" => Next::Pending,
            _ => Next::Parked,
        };
        let begin = end - 2 * MILLISECOND;
        call(Op::Finish(session, next), begin, over);
        let older = if next == Next::Done {
            Place::Done
        } else {
            Place::Parked
        };
        call(Op::Backup(older), begin, over);
    }
    calls
}

/// Everything of this name in the queue, and whose work is in the repository.
fn seen(world: &World, name: &str) -> Op {
    let mut files = Vec::new();
    for place in [Place::Pending, Place::Done, Place::Parked] {
        let folder = world.at(place, "");
        for path in files_below(&folder) {
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            if file == name || file.starts_with(&format!("{name}.~")) {
                files.push((place, number_of(&path)));
            }
        }
    }
    files.sort_unstable();
    let published = world.repo.then(|| {
        let repo = world.root.repo();
        let refs = format!("refs/heads/harness/{name}/");
        let branches = git(&repo, &["for-each-ref", "--format=%(refname)", &refs]);
        let made = branches
            .lines()
            .map(|b| git(&repo, &["show", &format!("{b}:made")]));
        let mut all: Vec<Number> = made
            .map(|text| text.split(' ').next().unwrap().parse().unwrap())
            .collect();
        all.sort_unstable();
        all
    });
    Op::See(files, published)
}

fn judge(world: &World, name: &str, mut calls: Vec<Call<Op>>) {
    let end = now();
    calls.extend(told(world, name, end));
    let op = seen(world, name);
    calls.push(Call {
        op,
        begin: end,
        end,
    });
    calls.sort_by_key(|c| (c.begin, c.end));
    if let Err(longest) = linear::check(&Life::default(), &calls) {
        let start = calls[0].begin;
        let mut story = String::new();
        for (n, c) in calls.iter().enumerate() {
            let in_order = longest.iter().position(|&l| l == n);
            let in_order = in_order.map_or("-".to_owned(), |o| o.to_string());
            let (begin, end) = ((c.begin - start) / 1000, (c.end - start) / 1000);
            story += &format!("{in_order:>4} {begin:>9} {end:>9} us {:?}\n", c.op);
        }
        let record = fs::read_to_string(world.root.at(format!("state/items/{name}.jsonl")));
        panic!(
            "{name}: no order of these explains them all (first column: the longest that was \
             found)\n{story}\n{}\n{}",
            record.unwrap_or_default(),
            world.root.picture()
        );
    }
}

/// A file system without a rename that replaces nothing (tests/kit/steps_shim.c). `None`, and said aloud:
/// there is no C compiler.
fn steps(dir: &Path) -> Option<PathBuf> {
    let shim = dir.join("steps.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kit/steps_shim.c");
    let mut cc = Command::new("cc");
    let built = cc.args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(source);
    if !built.output().is_ok_and(|o| o.status.success()) {
        skipped("no C compiler for tests/kit/steps_shim.c");
        return None;
    }
    Some(shim)
}

fn race(repo: bool, rounds: usize) {
    race_in(World::new(repo), repo, rounds);
}

fn race_in(world: World, repo: bool, rounds: usize) {
    let rounds = std::env::var("HARNESS_RACES_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(rounds);
    let mut dice = Dice::new();
    let mut runs: Vec<Running> = Vec::new();
    let (mut calls, mut kills) = (0, 0);
    for round in 0..rounds {
        let names: Vec<String> = (0..NAMES).map(|n| format!("r{round}-{n}")).collect();
        let until = dice.below(if repo { 900 } else { 400 });
        std::thread::scope(|s| {
            for _ in 0..PEOPLE {
                let dice = dice.another();
                let (world, names) = (&world, &names);
                s.spawn(move || world.person(names, dice));
            }
            while runs.len() < PROCESSES {
                runs.push(world.root.start(&["--workers", WORKERS]));
            }
            if round % 2 == 1 {
                pause(until);
                runs.swap_remove(dice.below(PROCESSES as u64) as usize)
                    .kill9();
                kills += 1;
            }
        });
        // All of them end, and leave a drain to itself, every third time.
        if round % 3 == 2 {
            world.root.ok(&["drain"]);
            for mut run in runs.drain(..) {
                assert!(matches!(run.wait(), Some(0 | 1)), "{}", run.said());
            }
            world.root.ok(&["resume"]);
            world.root.drain();
        }
        world.root.wait_until("all is quiet", || world.is_quiet());
        let done = std::mem::take(&mut *world.calls.lock().unwrap());
        for (name, deeds) in done {
            calls += deeds.len();
            judge(&world, &name, deeds);
        }
    }
    for run in &mut runs {
        run.signal("INT");
        assert!(matches!(run.wait(), Some(0 | 1)), "{}", run.said());
    }
    world.root.assert_nothing_left();
    let ran = fs::read_to_string(world.log()).unwrap_or_default();
    let ran = ran.lines().count() / 2;
    println!("{rounds} rounds, {kills} kills, {calls} deeds, {ran} attempts ran to their end");
    assert!(
        calls > rounds && ran > rounds / 2,
        "hardly anything happened"
    );
}

#[test]
fn what_people_and_processes_do_at_once_has_an_order() {
    race(false, 9);
}

#[test]
fn where_a_rename_takes_steps_the_same_order_holds() {
    let mut world = World::new(false);
    let Some(shim) = steps(world.log.path()) else {
        return;
    };
    world.root.env.push(("LD_PRELOAD", shim.into()));
    race_in(world, false, 9);
}

#[test]
fn what_is_published_follows_the_same_order() {
    race(true, 3);
}
