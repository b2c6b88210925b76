//! Gates: each runs on exactly what an attempt made, what it writes is nobody's work, and its verdict
//! counts once, whoever dies while it runs.

use std::fs;

use serde_json::Value;

use crate::support::{Root, Running, files_below, git, is_alive, kill};

/// A ROOT whose scripts run in a repository and pass these gates: names with the rest of their tables.
pub fn root_with(gates: &[(&str, &str)]) -> Root {
    let root = Root::with_repo();
    set_gates(&root, gates);
    root
}

fn set_gates(root: &Root, gates: &[(&str, &str)]) {
    let mut text = "[repo]\npath = \"repo\"\n".to_owned();
    for (name, table) in gates {
        text.push_str(&format!("[gates.{name}]\n{table}\n"));
    }
    root.config(&text);
}

pub fn script(text: &str) -> String {
    format!("script = '''\n{text}\n'''")
}

/// Notes in `ran-WHO` of ROOT that it runs.
pub fn notes(who: &str) -> String {
    format!("echo \"$HARNESS_ITEM $HARNESS_SESSION\" >>\"$HARNESS_ROOT/ran-{who}\"")
}

pub fn times(root: &Root, who: &str) -> usize {
    let text = fs::read_to_string(root.at(format!("ran-{who}"))).unwrap_or_default();
    text.lines().count()
}

/// Shell text that waits for the file `name` in ROOT.
pub fn waits_for(name: &str) -> String {
    format!("until [ -e \"$HARNESS_ROOT/{name}\" ]; do sleep 0.02; done")
}

/// Its agent makes one commit, and notes that it ran.
pub fn works(root: &Root, name: &str) {
    let body = format!(
        "{}; echo work >made-$HARNESS_ITEM; git add .; git commit -q -m made",
        notes("agent")
    );
    root.script(name, &body);
}

/// What is on record of gates: gate, verdict, reason.
pub fn said(root: &Root, name: &str) -> Vec<(String, String, String)> {
    let show = root.show(name);
    let events = show["events"].as_array().unwrap().clone();
    let of = |e: &Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .filter(|e| e["event"] == "gate")
        .map(|e| (of(e, "gate"), of(e, "verdict"), of(e, "reason")))
        .collect()
}

pub fn verdicts(root: &Root, name: &str) -> Vec<String> {
    let said = said(root, name).into_iter();
    said.map(|(gate, verdict, _)| format!("{gate} {verdict}"))
        .collect()
}

fn has_event(root: &Root, name: &str, event: &str) -> bool {
    root.events(name).iter().any(|e| e == event)
}

/// The files of its branch beyond the base.
fn branch_has(root: &Root, name: &str) -> String {
    let branch = format!("harness/{name}/1");
    git(&root.repo(), &["diff", "--name-only", "main", &branch])
}

pub fn run(root: &Root) -> Running {
    root.start(&["--drain", "--workers", "1"])
}

pub fn ended_well(root: &Root, mut run: Running) {
    assert_eq!(run.wait(), Some(0), "{}\n{}", run.said(), root.picture());
}

#[test]
fn each_gate_meets_exactly_what_was_made_and_what_it_writes_is_nobodys_work() {
    let litters = "echo bad >README; rm made-$HARNESS_ITEM; echo junk >junk; mkdir -p d; echo junk >d/junk
git init -q nested; echo cache >cache; git add junk; git -c user.name=g -c user.email=g@g commit -q -m gates
git config core.hooksPath /nowhere
[ -e \"$HARNESS_ROOT/littered\" ] || { touch \"$HARNESS_ROOT/littered\"; exit 1; }";
    let looks = "set -e; [ \"$(cat README)\" = hello ]; [ \"$(cat made-$HARNESS_ITEM)\" = work ]; ! [ -e junk ]
! [ -e d ]; [ \"$(cat cache)\" = cache ]; [ \"$(git rev-parse HEAD^{tree})\" = \"$HARNESS_TREE\" ] || exit 9";
    let removes = "rm -rf \"$PWD\"";
    let looks_again =
        "set -e; [ \"$(cat README)\" = hello ]; [ \"$(cat made-$HARNESS_ITEM)\" = work ]";
    let after = |text: &str| format!("{}\nwhen = [\"after\"]", script(text));
    let root = root_with(&[
        ("a-litters", &after(&format!("{looks_again}\n{litters}"))),
        (
            "b-looks",
            &after(looks.split("; [ \"$(git").next().unwrap()),
        ),
        ("c-removes", &after(removes)),
        ("d-looks", &after(looks_again)),
    ]);
    fs::write(root.repo().join(".gitignore"), "cache\n").unwrap();
    git(&root.repo(), &["add", "."]);
    git(&root.repo(), &["commit", "-q", "-m", "ignore"]);
    works(&root, "x");
    ended_well(&root, run(&root));
    assert_eq!(
        verdicts(&root, "x"),
        [
            "a-litters flaky",
            "b-looks green",
            "c-removes green",
            "d-looks green"
        ],
        "{:?}",
        said(&root, "x")
    );
    assert_eq!(branch_has(&root, "x"), "made-x\n");
    works(&root, "y");
    ended_well(&root, run(&root));
    assert_eq!(branch_has(&root, "y"), "made-y\n");
    let log = git(&root.repo(), &["log", "--format=%s", "main..harness/y/1"]);
    assert_eq!(log, "made\n");
    root.assert_nothing_left();
}

#[test]
fn a_verdict_is_red_only_after_two_runs_and_unknown_where_nothing_was_found_out() {
    let log = |name: &str, n: &str| {
        let root = root_with(&[(
            "g",
            &format!("{}\n{n}", script(&format!("{}; {name}", notes("g")))),
        )]);
        fs::write(root.repo().join(".gitignore"), "j.xml\n").unwrap();
        git(&root.repo(), &["add", "."]);
        git(&root.repo(), &["commit", "-q", "-m", "ignore"]);
        root.script("x", "echo \"<testsuite/>\" >j.xml; echo work >made");
        fs::write(root.at("queue/pending/x"), {
            let text = fs::read_to_string(root.at("queue/pending/x")).unwrap();
            text.replacen("#!/bin/sh\n", "#!/bin/sh\n#harness retries: 0\n", 1)
        })
        .unwrap();
        let out = root.harness(&["run", "--drain", "--workers", "1"]);
        assert!(matches!(out.status.code(), Some(0 | 1)), "{out:?}");
        let (_, verdict, reason) = said(&root, "x").remove(0);
        root.assert_nothing_left();
        (verdict, times(&root, "g"), reason, root.is_done("x"))
    };
    const XML: &str = "junit = \"j.xml\"";
    let bomb = "printf '<!DOCTYPE t [<!ENTITY a \"aa\"><!ENTITY b \"&a;&a;\">]><testsuite><testcase name=\"&b;\"><failure/></testcase></testsuite>' >j.xml";
    let odd = "printf '<testsuite><testcase name=\"a\\033[31m&#10;b\"><failure/></testcase></testsuite>' >j.xml";
    // Text of the gate, more of its table; verdict, runs, part of the reason, whether it is done.
    for (text, more, verdict, runs, part, is_done) in [
        ("exit 0", "", "green", 1, "", true),
        ("exit 3", "", "red", 2, "exit status 3", false),
        ("kill -KILL $$", "", "unevaluated", 2, "signal 9", false),
        (
            "sleep 600",
            "timeout = 1",
            "unevaluated",
            1,
            "still running",
            false,
        ),
        (
            "no-such-program",
            "",
            "unevaluated",
            1,
            "cannot be started",
            false,
        ),
        (
            "exit 3",
            "required = false",
            "red",
            2,
            "exit status 3",
            true,
        ),
        // A daemon holds the output open and outlives the gate: it is ended, and says nothing.
        ("setsid sleep 600 & exit 0", "", "green", 1, "", true),
        ("exit 0", XML, "red", 2, "is missing", false),
        ("echo no >j.xml", XML, "red", 2, "malformed", false),
        ("echo \"<testsuite/>\" >j.xml", XML, "green", 1, "", true),
        ("mkfifo j.xml", XML, "red", 2, "is missing", false),
        ("ln -s /dev/zero j.xml", XML, "red", 2, "is missing", false),
        (
            "truncate -s 100M j.xml",
            XML,
            "red",
            2,
            "cannot be read",
            false,
        ),
        (bomb, XML, "red", 2, "malformed", false),
        (odd, XML, "red", 2, "has failures", false),
    ] {
        let (of, n, reason, done) = log(text, more);
        assert_eq!(
            (&*of, n, done),
            (verdict, runs, is_done),
            "{text}: {reason}"
        );
        assert!(reason.contains(part), "{text}: {reason}");
    }
}

/// Who is killed while a gate runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dies {
    Harness,
    Keeper,
    Both,
    /// The harness, and the gate ends while nobody watches.
    Unwatched,
    /// SIGTERM.
    Stopped,
}

#[test]
fn whoever_dies_while_a_gate_runs_its_verdict_counts_once_and_no_agent_runs_again() {
    for dies in [
        Dies::Harness,
        Dies::Keeper,
        Dies::Both,
        Dies::Unwatched,
        Dies::Stopped,
    ] {
        let text = format!(
            "echo junk >junk; {}; echo $$ >\"$HARNESS_ROOT/pid\"; {}; echo '<testsuite/>' >j.xml; {}",
            notes("gate"),
            waits_for("go"),
            notes("ended"),
        );
        let table = format!("{}\njunit = \"j.xml\"", script(&text));
        let root = root_with(&[("g", &table)]);
        works(&root, "x");
        let mut first = run(&root);
        root.wait_until("the gate runs", || {
            fs::read_to_string(root.at("pid")).is_ok_and(|pid| pid.ends_with('\n'))
        });
        let pid = || {
            let text = fs::read_to_string(root.at("pid")).unwrap();
            text.trim().parse::<u32>().unwrap_or_default()
        };
        let old = pid();
        let keeper = root.keeper("agent-1");
        let mut first = match dies {
            Dies::Harness | Dies::Unwatched => {
                first.kill9();
                None
            }
            Dies::Keeper => {
                kill(keeper, "KILL");
                Some(first)
            }
            Dies::Both => {
                kill(first.pid(), "STOP");
                kill(keeper, "KILL");
                first.kill9();
                None
            }
            Dies::Stopped => {
                first.signal("TERM");
                first.wait();
                assert!(!is_alive(old), "{}", first.said());
                None
            }
        };
        if dies == Dies::Unwatched {
            fs::write(root.at("go"), "").unwrap();
            root.wait_until("the gate has ended", || !is_alive(old));
        }
        let then = first.take().unwrap_or_else(|| run(&root));
        let again = matches!(dies, Dies::Keeper | Dies::Both | Dies::Stopped);
        if again {
            root.wait_until("it runs again", || pid() != old && pid() != 0);
            assert!(!is_alive(old), "{dies:?}: two gates at once");
        }
        fs::write(root.at("go"), "").unwrap();
        ended_well(&root, then);
        assert_eq!(verdicts(&root, "x"), ["g green"], "{dies:?}");
        assert_eq!(times(&root, "gate"), 1 + usize::from(again), "{dies:?}");
        assert_eq!(
            (times(&root, "ended"), times(&root, "agent")),
            (1, 1),
            "{dies:?}"
        );
        assert_eq!(branch_has(&root, "x"), "made-x\n", "{dies:?}");
        assert_eq!(root.show("x")["attempts"].as_array().unwrap().len(), 1);
        root.assert_nothing_left();
    }
}

#[test]
fn a_second_run_that_is_adopted_is_the_second_run() {
    let text = format!(
        "{}; [ \"$(wc -l <\"$HARNESS_ROOT/ran-gate\")\" -ge 2 ] || exit 1; {}",
        notes("gate"),
        waits_for("go")
    );
    let root = root_with(&[("g", &script(&text))]);
    works(&root, "x");
    let first = run(&root);
    root.wait_until("it runs once more", || times(&root, "gate") == 2);
    first.kill9();
    let second = run(&root);
    root.wait_until("it is adopted", || {
        let status = root.ok(&["status"]);
        status.contains("gate g runs once more")
    });
    fs::write(root.at("go"), "").unwrap();
    ended_well(&root, second);
    assert_eq!(verdicts(&root, "x"), ["g flaky"]);
    assert_eq!(times(&root, "gate"), 2);
    root.assert_nothing_left();
}

#[test]
fn a_run_whose_keeper_died_is_none_of_the_two_that_make_a_gate_red() {
    let text = format!(
        "{}; case \"$(wc -l <\"$HARNESS_ROOT/ran-gate\")\" in 1) {};; 2) exit 1;; esac",
        notes("gate"),
        waits_for("never")
    );
    let root = root_with(&[("g", &script(&text))]);
    works(&root, "x");
    let run = run(&root);
    root.wait_until("the gate runs", || times(&root, "gate") == 1);
    kill(root.keeper("agent-1"), "KILL");
    ended_well(&root, run);
    assert_eq!(verdicts(&root, "x"), ["g flaky"], "{:?}", said(&root, "x"));
    assert_eq!((times(&root, "gate"), times(&root, "agent")), (3, 1));
    root.assert_nothing_left();
}

#[test]
fn an_item_that_is_taken_away_while_its_gate_runs_publishes_nothing_and_keeps_its_work_alone() {
    for is_killed in [false, true] {
        let text = format!("echo junk >junk; {}; {}", notes("gate"), waits_for("go"));
        let root = root_with(&[("g", &script(&text))]);
        works(&root, "x");
        let first = run(&root);
        root.wait_until("the gate runs", || times(&root, "gate") == 1);
        let then = match is_killed {
            true => {
                first.kill9();
                root.ok(&["cancel", "x"]);
                run(&root)
            }
            false => {
                root.ok(&["cancel", "x"]);
                first
            }
        };
        ended_well(&root, then);
        assert!(root.is_parked("x"), "{}", root.picture());
        let branches = git(&root.repo(), &["branch", "--list", "harness/*"]);
        assert_eq!(branches, "");
        let hub = root.at("state/repos/default.git");
        let kept = git(&hub, &["ls-tree", "-r", "--name-only", "harness/x/1"]);
        assert_eq!(kept, "README\nmade-x\n", "killed: {is_killed}");
        root.assert_nothing_left();
    }
}

#[test]
fn an_agent_cannot_write_its_gates_ends() {
    let root = root_with(&[("g", &script("exit 1"))]);
    // The end of each run that its gate could have, as its keeper would write it.
    let body = r#"#harness retries: 0
echo work >made; git add .; git commit -q -m made
cd "$HARNESS_SESSION_DIR"; mkdir gates; mkdir gates/g.log; ln -s /etc/passwd gates/g.1.log
tree=$(git -C "$OLDPWD" rev-parse HEAD^{tree})
printf '{"session":"%s","pid":1,"exit_status":0,"signal":null,"started_at":"","ended_at":"","seconds":1,"cpu_seconds":1,"stopped":false,"strays":0,"strays_left":0}' "$HARNESS_SESSION#g@$tree#first" >gates/exit.json"#;
    root.script("x", body);
    let mut run = run(&root);
    assert_eq!(run.wait(), Some(1), "{}", run.said());
    assert_eq!(verdicts(&root, "x"), ["g red"], "{:?}", said(&root, "x"));
    assert!(root.is_parked("x"));
    root.assert_nothing_left();
}

#[test]
fn a_gate_that_is_taken_out_of_the_configuration_while_it_runs_is_ended() {
    let slow = script(&format!("{}; sleep 600", notes("gate")));
    let root = root_with(&[("g", &slow)]);
    works(&root, "x");
    let first = run(&root);
    root.wait_until("the gate runs", || times(&root, "gate") == 1);
    first.kill9();
    set_gates(&root, &[("h", &script("exit 0"))]);
    ended_well(&root, run(&root));
    assert_eq!(verdicts(&root, "x"), ["h green"]);
    root.assert_nothing_left();
}

#[test]
fn the_base_is_looked_at_once_and_its_agent_finds_nothing_of_that() {
    let text = format!(
        "{}; echo junk >junk; git init -q nested; exit 1",
        notes("gate")
    );
    let table = format!("{}\nwhen = [\"before\", \"after\"]", script(&text));
    let root = root_with(&[("g", &table)]);
    for name in ["x", "y"] {
        root.script(
            name,
            "ls -A >made; [ \"$(ls -A | tr '\\n' ' ')\" = '.git README made ' ]",
        );
    }
    let mut run = run(&root);
    assert_eq!(run.wait(), Some(1), "{}", run.said());
    assert_eq!(verdicts(&root, "x"), ["g red_before"], "{}", root.picture());
    assert_eq!(verdicts(&root, "y"), ["g red_before"]);
    // Two runs on the base, and two for each item.
    assert_eq!(times(&root, "gate"), 6);
    root.assert_nothing_left();
}

#[test]
fn a_gate_on_the_base_whose_harness_and_keeper_died_goes_with_them() {
    let text = format!(
        "{}; echo $$ >\"$HARNESS_ROOT/pid\"; {}",
        notes("gate"),
        waits_for("go")
    );
    let table = format!("{}\nwhen = [\"before\"]", script(&text));
    let root = root_with(&[("g", &table)]);
    works(&root, "x");
    let first = run(&root);
    root.wait_until("the gate runs", || {
        fs::read_to_string(root.at("pid")).is_ok_and(|pid| pid.ends_with('\n'))
    });
    let pid = fs::read_to_string(root.at("pid")).unwrap();
    let old: u32 = pid.trim().parse().unwrap();
    let keeper = root.keeper("agent-1");
    kill(first.pid(), "STOP");
    kill(keeper, "KILL");
    first.kill9();
    let second = run(&root);
    root.wait_until("it runs again", || times(&root, "gate") == 2);
    assert!(!is_alive(old), "two gates at once");
    fs::write(root.at("go"), "").unwrap();
    ended_well(&root, second);
    assert_eq!(times(&root, "agent"), 1);
    assert!(has_event(&root, "x", "requeued") && root.is_done("x"));
    root.assert_nothing_left();
}

#[test]
fn what_gates_said_of_old_commits_of_the_base_goes_with_what_is_older_than_keep() {
    let table = format!("{}\nwhen = [\"before\"]", script("exit 0"));
    let root = root_with(&[("g", &table)]);
    works(&root, "x");
    ended_well(&root, run(&root));
    let bases = || files_below(&root.at("state/gates"));
    assert_eq!(bases().len(), 1, "{:?}", bases());
    let removed = |keep: &str, args: &[&str]| {
        root.config(&format!(
            "[repo]\npath = \"repo\"\n[limits]\nkeep = {keep}\n"
        ));
        let done: Value = serde_json::from_str(&root.ok(args)).unwrap();
        done["bases"].as_u64()
    };
    assert_eq!(removed("\"30d\"", &["gc", "--json"]), Some(0));
    assert_eq!(removed("0", &["gc", "--dry-run", "--json"]), Some(1));
    assert_eq!(bases().len(), 1);
    assert_eq!(removed("0", &["gc", "--json"]), Some(1));
    assert_eq!(bases().len(), 0);
    // With the session went its gates' output.
    assert_eq!(files_below(&root.at("state/sessions")).len(), 0);
}

#[test]
fn no_agent_is_started_for_a_gate_that_nobody_can_start_and_that_is_said_once() {
    let root = root_with(&[("g", "command = [\"no-such-gate-program\"]")]);
    for n in 0..20 {
        works(&root, &format!("x{n}"));
    }
    root.script("free", "#harness gates: none\necho work >made");
    let out = root.harness(&["run", "--drain", "--workers", "3"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let waits = "items that are to pass gate g wait: no-such-gate-program is not found in PATH";
    assert_eq!(said.matches(waits).count(), 1, "{said}");
    assert!(said.matches("no-such-gate-program").count() <= 2, "{said}");
    assert_eq!(times(&root, "agent"), 0);
    assert!(root.is_done("free"), "{}", root.picture());
    let shown = root.ok(&["show", "x7"]);
    assert!(shown.contains(waits), "{shown}");
    assert!(root.ok(&["doctor"]).contains("no-such-gate-program"));
    set_gates(&root, &[("g", "command = [\"true\"]")]);
    root.drain();
    assert_eq!(times(&root, "agent"), 20);
    assert!(root.is_done("x7") && files_below(&root.at("state/holds")).len() <= 1);
    root.assert_nothing_left();
}

#[test]
fn a_retry_after_a_gate_that_could_not_be_evaluated_runs_the_gate_alone_once() {
    for dies in [false, true] {
        let text = format!(
            "{}; cat made-x; [ ! -e \"$HARNESS_ROOT/wait\" ] || {}; [ -e \"$HARNESS_ROOT/fast\" ] || sleep 600",
            notes("gate"),
            waits_for("go"),
        );
        let root = root_with(&[("g", &format!("{}\ntimeout = 1", script(&text)))]);
        works(&root, "x");
        let parked = |times_of: (usize, usize)| {
            let mut run = run(&root);
            assert_eq!(run.wait(), Some(1), "{}\n{}", run.said(), root.picture());
            assert!(root.is_parked("x"));
            assert_eq!((times(&root, "agent"), times(&root, "gate")), times_of);
        };
        parked((1, 1));
        root.ok(&["retry", "x"]);
        parked((1, 2));
        // A second one has the agent look at it.
        root.ok(&["retry", "x"]);
        parked((2, 3));
        fs::write(root.at("fast"), "").unwrap();
        root.ok(&["retry", "x"]);
        if dies {
            set_gates(&root, &[("g", &script(&text))]);
            fs::write(root.at("wait"), "").unwrap();
            let first = run(&root);
            root.wait_until("the gate runs", || times(&root, "gate") == 4);
            first.kill9();
            fs::write(root.at("go"), "").unwrap();
        }
        ended_well(&root, run(&root));
        assert_eq!((times(&root, "agent"), times(&root, "gate")), (2, 4));
        let show = root.show("x");
        assert_eq!(show["branch"], "harness/x/4", "{show:#}");
        let attempts = show["attempts"].as_array().unwrap();
        assert_eq!(
            (attempts.len(), &attempts[3]["outcome"]),
            (4, &"succeeded".into())
        );
        assert_eq!(git(&root.repo(), &["show", "harness/x/4:made-x"]), "work\n");
        root.assert_nothing_left();
    }
}

#[test]
fn the_next_attempt_is_told_in_the_same_conversation_what_failed() {
    let root = Root::with_repo();
    let report =
        "<testsuite><testcase classname=\"a.B\" name=\"bad\"><failure/></testcase></testsuite>";
    // A green one must write its report, too.
    let test = script(&format!(
        "if [ \"$HARNESS_ATTEMPT\" = 1 ]; then echo '{report}' >j.xml; echo 'it blew up'; exit 1; fi; echo '<testsuite/>' >j.xml"
    ));
    let optional = script("echo 'only told'; exit 1");
    let agent = crate::launch::table(&root, "claude", "");
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"repo\"\n[gates.test]\n{test}\njunit = \"j.xml\"\n[gates.optional]\n{optional}\nrequired = false\n{agent}"
    ));
    root.drop_file(
        "x.md",
        b"Please do it.\n[[mock:success file=a.txt]]\n",
        0o644,
    );
    ended_well(&root, run(&root));
    let all = ["optional red", "test red", "optional red", "test green"];
    assert_eq!(verdicts(&root, "x.md"), all, "{}", root.picture());
    let session = |n| crate::launch::session(&root, "x.md", n);
    let (first, second) = (session(0), session(1));
    assert_eq!(second["resumed"], first["cli_session"], "{second:#}");
    let sid = second["session"].as_str().unwrap();
    let prompt = root.at("state/sessions").join(sid).join("prompt.md");
    let prompt = fs::read_to_string(prompt).unwrap();
    for part in [
        "gate test is red",
        "a.B::bad",
        "it blew up",
        "Please do it.",
    ] {
        assert!(prompt.contains(part), "no {part} in {prompt}");
    }
    assert!(!prompt.contains("only told"), "{prompt}");
    let told = second["reason"].as_str().unwrap();
    assert!(told.contains("gate optional is red"), "{told}");
    root.assert_nothing_left();
}
