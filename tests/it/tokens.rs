//! Tokens for what is scarce: `harness with`, gates that need one, and that no more are at work than
//! there are, whoever is killed.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::gates::{root_with, said, script, verdicts, works};
use crate::support::{DEADLINE, Root, Running, describe, is_alive, kill, run_within};

const HARNESS: &str = env!("CARGO_BIN_EXE_harness");

/// Two tokens `build`.
fn with_two() -> Root {
    let root = Root::plain();
    root.config("[repo]\npath = \"none\"\n[tokens]\nbuild = 2\n");
    root
}

fn one_token() -> Root {
    let root = Root::plain();
    root.config("[repo]\npath = \"none\"\n[tokens]\nbuild = 1\n");
    made(&root);
    root
}

fn with(root: &Root, command: &[&str]) -> Command {
    let mut c = root.command();
    c.args(["with", "build", "--"]).args(command);
    c.stdout(Stdio::piped()).stderr(Stdio::piped());
    c.process_group(0);
    c
}

fn sh(root: &Root, text: &str) -> Child {
    with(root, &["sh", "-c", text]).spawn().unwrap()
}

/// Holds a token as a shell's `flock` does.
fn held(root: &Root, number: u32) -> File {
    let file = File::open(root.at(format!("state/tokens/build/{number}"))).unwrap();
    file.try_lock().unwrap();
    file
}

fn made(root: &Root) {
    root.ok(&["with", "build", "--", "true"]);
}

fn end(child: &mut Child) -> Option<i32> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < end, "it does not end");
        crate::support::pause();
    }
}

#[test]
fn a_command_under_a_token_ends_as_it_would_without() {
    let root = with_two();
    for (text, code) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)] {
        root.exits(code, &["with", "build", "--", "sh", "-c", text]);
    }
    root.exits(127, &["with", "build", "--", "no-such-program"]);
    root.exits(126, &["with", "build", "--", "/etc/passwd"]);
    root.exits(2, &["with", "build"]);
    let out = root.exits(100, &["with", "bild", "--", "true"]);
    assert!(
        describe(&out).contains("the nearest is `build`"),
        "{}",
        describe(&out)
    );
    let mut command = with(&root, &["sh", "-c", "cat; echo \"$0 $1\"", "a b", "--x"]);
    let input = root.at("input");
    fs::write(&input, "read\n").unwrap();
    command.stdin(File::open(&input).unwrap());
    let out = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "read\na b --x\n");
}

#[test]
fn signals_reach_a_command_under_a_token() {
    let root = with_two();
    for (signal, code) in [("TERM", 3), ("HUP", 4), ("INT", 5), ("USR1", 6)] {
        let traps = "trap 'exit 3' TERM; trap 'exit 4' HUP; trap 'exit 5' INT; trap 'exit 6' USR1";
        let ready = root.at(format!("ready-{signal}"));
        let waits = format!(
            "{traps}; : >{}; while :; do sleep 0.02; done",
            ready.display()
        );
        // In a session of its own: this test's terminal is not its.
        let mut command = Command::new("setsid");
        command
            .arg("-w")
            .arg(HARNESS)
            .arg("--root")
            .arg(root.path());
        command.args(["with", "build", "--", "sh", "-c", &waits]);
        let mut child = command.spawn().unwrap();
        root.wait_until("it works", || ready.exists());
        let with = pid_of(&root, "with build").unwrap();
        kill(with, signal);
        assert_eq!(end(&mut child), Some(code), "{signal}");
    }
}

/// The pid of a `harness` of this tree with these words in its command line.
fn pid_of(root: &Root, words: &str) -> Option<u32> {
    let mine = format!("{HARNESS} --root {} {words}", root.path().display());
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .starts_with(&mine)
    })
}

#[test]
fn who_waits_says_so_once_and_a_removed_file_is_no_further_token() {
    let root = with_two();
    made(&root);
    let (one, two) = (held(&root, 1), held(&root, 2));
    let mut third = sh(&root, "exit 0");
    let log = root.at("waits.log");
    let file = File::create(&log).unwrap();
    let mut waits = with(&root, &["true"]);
    let mut waits = waits.stderr(file).spawn().unwrap();
    let text = || fs::read_to_string(&log).unwrap();
    root.wait_until("it says that it waits", || text().contains('\n'));
    // While they are held, with their names or without.
    for number in 1..=2 {
        let path = root.at(format!("state/tokens/build/{number}"));
        fs::remove_file(&path).unwrap();
        root.wait_until("it is there again", || path.exists());
    }
    assert!(third.try_wait().unwrap().is_none() && waits.try_wait().unwrap().is_none());
    assert_eq!(text().lines().count(), 1, "{}", text());
    assert!(
        text().contains("all 2 tokens `build` are taken"),
        "{}",
        text()
    );
    drop(one);
    assert_eq!((end(&mut third), end(&mut waits)), (Some(0), Some(0)));
    drop(two);
    assert_eq!(text().lines().count(), 1, "{}", text());
}

#[test]
fn a_token_is_free_when_its_command_has_ended_and_no_sooner() {
    let root = with_two();
    root.config("[repo]\npath = \"none\"\n[tokens]\nbuild = 1\n");
    made(&root);
    let is_free = || {
        let file = File::open(root.at("state/tokens/build/1")).unwrap();
        file.try_lock().is_ok()
    };
    // What it leaves running has no token.
    let pid = root.at("pid");
    let text = format!("sleep 600 >/dev/null 2>&1 & echo $! >{}", pid.display());
    assert_eq!(end(&mut sh(&root, &text)), Some(0));
    let left: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(is_alive(left) && is_free());
    kill(left, "KILL");
    // What goes on after a killed `with` still has it.
    let text = format!("echo $$ >{}.new; exec sleep 600", pid.display());
    let mut child = sh(&root, &text);
    let new = root.at("pid.new");
    root.wait_until("it works", || {
        fs::read_to_string(&new).is_ok_and(|t| t.ends_with('\n'))
    });
    let works: u32 = fs::read_to_string(&new).unwrap().trim().parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_alive(works) && !is_free());
    kill(works, "KILL");
    root.wait_until("it is free", is_free);
    // Under a token, a second one of it is not waited for.
    let inner = format!(
        "{HARNESS} --root {} with build -- echo inner",
        root.path().display()
    );
    let out = run_within(DEADLINE, with(&root, &["sh", "-c", &inner])).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "inner\n",
        "{}",
        describe(&out)
    );
}

#[test]
fn what_outlives_its_command_takes_a_token_of_its_own() {
    let root = one_token();
    let [go, had, log] = ["go", "had", "log"].map(|name| root.at(name));
    let inner = format!("{HARNESS} --root {} with build --", root.path().display());
    let text = format!(
        "(until [ -e {} ]; do sleep 0.02; done; {inner} touch {}) >/dev/null 2>{} &",
        go.display(),
        had.display(),
        log.display()
    );
    assert_eq!(end(&mut sh(&root, &text)), Some(0));
    let one = held(&root, 1);
    fs::write(&go, "").unwrap();
    let says = || fs::read_to_string(&log).is_ok_and(|text| text.contains("is taken"));
    root.wait_until("it waits or works", || says() || had.exists());
    assert!(!had.exists());
    drop(one);
    root.wait_until("it works", || had.exists());
    // Where a program closed the descriptor, the variable says it, while the token is held.
    let closes =
        format!("for n in 3 4 5 6 7 8 9; do eval \"exec $n>&-\"; done; {inner} echo inner");
    let out = run_within(DEADLINE, with(&root, &["sh", "-c", &closes])).unwrap();
    assert_eq!(
        describe(&out),
        describe(&root.harness(&["with", "build", "--", "echo", "inner"]))
    );
}

#[test]
fn a_root_with_any_name_gives_no_command_a_second_token() {
    let root = Root::plain();
    for name in ["a:b", "a b\nc"] {
        let dir = root.at(name);
        let dir = dir.to_str().unwrap();
        let inside = |args: &[&str]| {
            let mut command = Command::new(HARNESS);
            command.args(["--root", dir]).args(args);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0);
            let out = run_within(DEADLINE, command).unwrap();
            assert!(out.status.success(), "{}", describe(&out));
            out.stdout
        };
        inside(&["init"]);
        inside(&["config", "set", "tokens.build", "1"]);
        let twice = [
            "with", "build", "--", HARNESS, "--root", dir, "with", "build", "--",
        ];
        assert_eq!(
            inside(&[&twice[..], &["echo", "inner"]].concat()),
            b"inner\n"
        );
    }
}

#[test]
fn a_gate_may_need_many_tokens_and_its_own_command_no_second_one() {
    let names: Vec<String> = (0..64).map(|n| format!("t{n}")).collect();
    let body = format!("exec {HARNESS} --root \"$HARNESS_ROOT\" with t63 -- true");
    let root = root_with(&[("test", &format!("{}\ntokens = {names:?}", script(&body)))]);
    let config = fs::read_to_string(root.at("harness.toml")).unwrap();
    let counts: String = names.iter().map(|name| format!("{name} = 1\n")).collect();
    fs::write(root.at("harness.toml"), config + "[tokens]\n" + &counts).unwrap();
    works(&root, "x");
    root.drain();
    let verdicts = verdicts(&root, "x");
    assert!(
        !verdicts.is_empty() && verdicts.iter().all(|v| v == "test green"),
        "{:?}",
        said(&root, "x")
    );
}

#[test]
fn what_stands_where_a_token_belongs_is_named_with_what_to_do() {
    let root = one_token();
    let tokens = root.at("state/tokens");
    for (place, item) in [("state/tokens", "x"), ("state/tokens/build", "y")] {
        made(&root);
        fs::remove_dir_all(&tokens).unwrap();
        fs::create_dir_all(root.at(place).parent().unwrap()).unwrap();
        fs::write(root.at(place), "").unwrap();
        let out = root.exits(100, &["with", "build", "--", "true"]);
        assert!(
            describe(&out).contains("remove what is there"),
            "{}",
            describe(&out)
        );
        // Who needs no token goes on.
        root.script(item, "true");
        let out = root.drain();
        assert!(
            describe(&out).contains("remove what is there"),
            "{}",
            describe(&out)
        );
        assert!(root.is_done(item), "{}", root.picture());
        fs::remove_file(root.at(place)).unwrap();
    }
    made(&root);
    for name in ["1", ".1"] {
        let path = tokens.join("build").join(name);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
    }
    let out = root.exits(100, &["with", "build", "--", "true"]);
    assert!(
        describe(&out).contains("remove what is there"),
        "{}",
        describe(&out)
    );
}

#[test]
fn a_gate_waits_for_its_token_says_so_and_its_time_begins_with_it() {
    let root = root_with(&[(
        "test",
        &format!(
            "{}\ntokens = [\"build\"]\ntimeout = 1\nwhen = [\"after\"]",
            script("true")
        ),
    )]);
    let config = fs::read_to_string(root.at("harness.toml")).unwrap();
    fs::write(root.at("harness.toml"), config + "[tokens]\nbuild = 1\n").unwrap();
    made(&root);
    let one = held(&root, 1);
    works(&root, "x");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    let waits = || {
        root.ok(&["status"])
            .contains("gate test waits: the one token `build` is taken")
    };
    root.wait_until("its slot says that it waits", waits);
    for args in [["show", "x"], ["list", "claimed"]] {
        let said = root.ok(&args);
        let (waits, stuck) = (
            "agent-1 works on it: gate test waits",
            "nothing works on it",
        );
        assert!(said.contains(waits) && !said.contains(stuck), "{said}");
    }
    // A stop does not wait for it.
    run.signal("TERM");
    assert!(run.wait().is_some());
    let mut run = root.start(&["--drain", "--workers", "1"]);
    fs::remove_file(root.at("state/tokens/build/1")).unwrap();
    let begun = Instant::now();
    root.wait_until("it waits again, for longer than its timeout", || {
        begun.elapsed() > Duration::from_millis(2_500) && waits()
    });
    drop(one);
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(
        verdicts(&root, "x"),
        ["test green"],
        "{:?}",
        said(&root, "x")
    );
    // One that is not wanted any more waits no longer.
    let _one = held(&root, 1);
    works(&root, "y");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("it waits", waits);
    root.ok(&["cancel", "y"]);
    assert!(run.wait().is_some(), "{}", run.said());
    assert!(root.is_parked("y"));
}

#[test]
fn a_confined_agent_takes_a_token_and_a_gate_needs_no_second() {
    let root = Root::with_repo();
    let gate = format!("{HARNESS} with build -- true");
    root.config_confined(&format!(
        "[repo]\npath = \"repo\"\n[tokens]\nbuild = 1\n[gates.test]\nscript = '{gate}'\ntokens = [\"build\"]\n"
    ));
    let body = format!(
        "set -e; {HARNESS} with build -- sh -c 'echo had >had'
for name in ../holds gpu; do if {HARNESS} with $name -- true 2>>why; then exit 9; fi; done
grep 'no token' why; rm why; if cat \"$HARNESS_ROOT/harness.toml\"; then exit 9; fi"
    );
    root.script("x", &body);
    root.drain();
    let show = root.show("x");
    assert_eq!(show["outcome"], "succeeded", "{show:#}\n{}", root.picture());
}

/// Marks that it works, and notes how many do: one that was killed leaves its mark, and its number may be
/// another's by now. A signal to end makes it no shorter.
const WORK: &str = r#"
trap : TERM
W="$HARNESS_ROOT/work"; mkdir -p "$W"; echo "${HARNESS_GATE:-agent}" >"$W/$$"; n=0
for p in "$W"/*; do grep -qs work "/proc/${p##*/}/cmdline" && n=$((n + 1)); done
echo $n >>"$HARNESS_ROOT/at-work"
i=0; while [ $i -lt 20 ]; do sleep 0.03; i=$((i + 1)); done
rm -f "$W/$$"
"#;

/// The processes at work: for a gate, or an agent.
fn at_work(root: &Root) -> Vec<(u32, String)> {
    let entries = fs::read_dir(root.at("work"))
        .into_iter()
        .flatten()
        .flatten();
    let of = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let who = fs::read_to_string(entry.path()).ok()?;
        is_alive(pid).then(|| (pid, who.trim().to_owned()))
    };
    entries.filter_map(of).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')')
        .next()?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[test]
fn no_more_are_at_work_than_there_are_tokens_whoever_is_killed() {
    let mut root = root_with(&[(
        "test",
        &format!("{}\ntokens = [\"build\"]\nwhen = [\"after\"]", script(WORK)),
    )]);
    root.env.push(("HARNESS_RETRY_MAX", "50".into()));
    let config = fs::read_to_string(root.at("harness.toml")).unwrap();
    let config = config + "[tokens]\nbuild = 2\n";
    fs::write(root.at("harness.toml"), config).unwrap();
    fs::write(root.at("work.sh"), WORK).unwrap();
    const ITEMS: usize = 8;
    for n in 0..ITEMS {
        let body = format!(
            "set -e; {HARNESS} --root \"$HARNESS_ROOT\" with build -- sh \"$HARNESS_ROOT/work.sh\"
echo x >made; git add .; git commit -qm made"
        );
        root.script(format!("item-{n}"), &body);
    }
    // People want them, too, all the time.
    let again = format!(
        "until [ -e \"$HARNESS_ROOT/stop\" ]; do {HARNESS} with build -- sh \"$HARNESS_ROOT/work.sh\"; done"
    );
    let person = |_| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &again]).env("HARNESS_ROOT", root.path());
        shell.spawn().unwrap()
    };
    let mut people: Vec<Child> = (0..2).map(person).collect();
    let start = || root.start(&["--workers", "3"]);
    let mut runs = vec![start(), start()];
    let done = || {
        let all = 0..ITEMS;
        all.filter(|n| root.is_done(&format!("item-{n}"))).count()
    };
    let find = |who: &str| {
        let found = at_work(&root).into_iter().find(|(_, what)| what == who);
        found.map(|(pid, _)| pid)
    };
    for round in 0..6 {
        let who = if round % 2 == 0 { "test" } else { "agent" };
        root.wait_until("one works", || done() == ITEMS || find(who).is_some());
        match find(who) {
            // All harnesses: the gates go on, and so do others that wait for a token.
            Some(_) if who == "test" => {
                runs.drain(..).for_each(Running::kill9);
                runs.extend([start(), start()]);
            }
            // A `harness with`: its command goes on.
            Some(pid) => parent(pid).into_iter().for_each(|with| kill(with, "KILL")),
            None => {}
        }
    }
    root.wait_until("all are done", || done() == ITEMS);
    fs::write(root.at("stop"), "").unwrap();
    for shell in &mut people {
        end(shell);
    }
    let counts = fs::read_to_string(root.at("at-work")).unwrap();
    let counts: Vec<u32> = counts.lines().map(|n| n.parse().unwrap()).collect();
    assert_eq!(counts.iter().max(), Some(&2), "{counts:?}");
}
