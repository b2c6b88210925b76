//! Every ending of an attempt × every kind of process that it can leave behind × with and without a
//! cgroup: none of them lives when the item has ended. A table: a new ending or kind is a line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::journal::Journal;
use crate::processes::{Mark, alive_of};
use crate::support::{Root, Running, kill, skipped};

/// What is left behind, by the shell text that starts it; `M` is its mark, a number of seconds.
const STRAYS: &[(&str, &str)] = &[
    ("child", "sleep M &"),
    ("of a session of its own", "setsid sleep M &"),
    ("forked twice", "( sleep M & )"),
    ("without an environment", "env -i setsid sleep M &"),
    (
        "with its output closed",
        "setsid sleep M >/dev/null 2>&1 </dev/null &",
    ),
    (
        "deaf to SIGTERM",
        "sh -c 'trap \"\" TERM HUP INT; sleep M & wait' & ",
    ),
    ("stopped", "setsid sleep M & sleep 0.3; kill -STOP $!"),
    ("that asks for nothing and is seen by nothing", HIDDEN),
    (
        "that leaves when the agent has ended",
        "setsid sh -c 'trap \"\" TERM; tail -s 0.1 --pid=$0 -f /dev/null; setsid sleep $1' $$ M &",
    ),
    (
        FORKS,
        "setsid sh \"$HARNESS_SESSION_DIR/../../../forks\" M &",
    ),
    (
        NAMESPACE,
        "unshare --user --map-root-user --pid --fork --mount-proc sleep M &",
    ),
];
/// Out of the group, no mark, no output: only a cgroup still holds it once its keeper is killed.
const HIDDEN: &str = "env -i setsid sleep M >/dev/null 2>&1 </dev/null &";
/// Never the same process for longer than a moment, and it hears nothing.
const FORKS: &str = "that forks for ever";
pub const FOREVER: &str = "trap '' TERM\necho >>\"$0-so-far\"\nsh \"$0\" \"$1\" &\n";
const NAMESPACE: &str = "in namespaces of its own";

/// How an attempt ends.
struct Ending {
    name: &'static str,
    /// Fields of the item, and keys of [harness].
    fields: &'static str,
    config: &'static str,
    /// The dialect in which its agent speaks; none: a script.
    events: &'static str,
    /// What it does when it may go on: `GO` waits until then.
    then: &'static str,
    /// Brings it about. Returns the harness that sees the end.
    end: fn(&Scene, Running) -> Running,
    outcome: &'static str,
    /// Its keeper is killed.
    keeper: bool,
}

const PLAIN: Ending = Ending {
    name: "",
    fields: "retries: 0",
    config: "",
    events: "",
    then: "GO",
    end: go,
    outcome: "",
    keeper: false,
};

const ENDINGS: &[Ending] = &[
    Ending {
        name: "success",
        outcome: "succeeded",
        ..PLAIN
    },
    Ending {
        name: "failure",
        then: "GO; exit 3",
        outcome: "failed",
        ..PLAIN
    },
    Ending {
        name: "its command cannot go on",
        then: "GO; kill -SEGV $$",
        outcome: "crashed",
        ..PLAIN
    },
    Ending {
        name: "timeout",
        fields: "retries: 0\ntimeout: 4",
        end: wait,
        outcome: "timed_out",
        ..PLAIN
    },
    Ending {
        name: "timeout, deaf",
        fields: "retries: 0\ntimeout: 4",
        then: "trap '' TERM; GO",
        end: wait,
        outcome: "timed_out",
        ..PLAIN
    },
    Ending {
        name: "stall",
        config: "stall = 3",
        events: "claude",
        then: "exec sleep 1000",
        end: wait,
        outcome: "stalled",
        ..PLAIN
    },
    Ending {
        name: "linger",
        config: "linger = 1",
        events: "claude",
        then: r#"GO; echo '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"done"}'; exec sleep 1000"#,
        outcome: "succeeded",
        ..PLAIN
    },
    Ending {
        name: "over budget",
        fields: "retries: 0\nbudget_usd: 0.5",
        events: "opencode",
        then: r#"GO; echo '{"type":"step_finish","part":{"type":"step-finish","reason":"stop","cost":1,"tokens":{"input":1,"output":1}}}'; exec sleep 1000"#,
        outcome: "over_budget",
        ..PLAIN
    },
    Ending {
        name: "cancel by mv",
        end: cancel_by_mv,
        outcome: "canceled",
        ..PLAIN
    },
    Ending {
        name: "cancel by command",
        end: cancel_by_command,
        outcome: "canceled",
        ..PLAIN
    },
    Ending {
        name: "first Ctrl-C",
        end: |s, run| {
            run.signal("INT");
            s.root
                .wait_until("it heard", || run.said().contains("waiting for 1 agent"));
            go(s, run)
        },
        outcome: "succeeded",
        ..PLAIN
    },
    Ending {
        name: "second Ctrl-C",
        end: |s, run| {
            run.signal("INT");
            s.root
                .wait_until("it heard", || run.said().contains("waiting for 1 agent"));
            run.signal("INT");
            run
        },
        outcome: "interrupted",
        ..PLAIN
    },
    Ending {
        name: "SIGTERM",
        end: |_, run| {
            run.signal("TERM");
            run
        },
        outcome: "interrupted",
        ..PLAIN
    },
    Ending {
        name: "SIGHUP and adoption",
        end: |s, mut run| {
            run.signal("HUP");
            assert_eq!(run.wait(), Some(0));
            go(s, s.adopt())
        },
        outcome: "succeeded",
        ..PLAIN
    },
    Ending {
        name: "interrupt, answer, end",
        end: |s, run| {
            freeze(s);
            s.root.ok(&["resume", "agent-1", "--answer", "yes"]);
            go(s, run)
        },
        outcome: "succeeded",
        ..PLAIN
    },
    Ending {
        name: "it asks and ends",
        // Without a word, which is waited for: one with words might be frozen before it ends.
        then: "GO; : >\"$HARNESS_INTERRUPT\"; exit 0",
        outcome: "interrupted",
        ..PLAIN
    },
    Ending {
        name: "cancel while it is frozen",
        end: |s, run| {
            freeze(s);
            let run = cancel_by_mv(s, run);
            s.root
                .wait_until("its end is recorded", || s.has_event("finished"));
            s.root.ok(&["resume"]);
            run
        },
        outcome: "canceled",
        ..PLAIN
    },
    Ending {
        name: "kill -9 of the harness",
        end: |s, run| {
            run.kill9();
            go(s, s.adopt())
        },
        outcome: "succeeded",
        ..PLAIN
    },
    Ending {
        name: "kill -9 of the harness, end, recovery",
        end: |s, run| {
            run.kill9();
            s.journal.open("go");
            s.root
                .wait_until("keeper and all are gone", || s.root.processes().is_empty());
            s.assert_gone("with no harness");
            s.drain()
        },
        outcome: "succeeded",
        ..PLAIN
    },
    Ending {
        name: "kill -9 of the keeper",
        end: |s, run| {
            kill(s.root.keeper("agent-1"), "KILL");
            run
        },
        outcome: "crashed",
        keeper: true,
        ..PLAIN
    },
    Ending {
        name: "kill -9 of the keeper of a frozen agent",
        end: |s, run| {
            freeze(s);
            kill(s.root.keeper("agent-1"), "KILL");
            s.root
                .wait_until("its end is recorded", || s.has_event("finished"));
            s.root.ok(&["resume"]);
            run
        },
        outcome: "crashed",
        keeper: true,
        ..PLAIN
    },
    Ending {
        name: "kill -9 of the keeper while it ends the tree",
        then: "trap '' TERM; GO",
        end: |s, run| {
            let run = cancel_by_command(s, run);
            s.root
                .wait_until("the stop is under way", || s.is_gone("child"));
            kill(s.root.keeper("agent-1"), "KILL");
            run
        },
        outcome: "canceled",
        keeper: true,
        ..PLAIN
    },
    Ending {
        name: "kill -9 of the agent",
        end: |s, run| {
            kill(s.agent(), "KILL");
            run
        },
        outcome: "crashed",
        ..PLAIN
    },
    Ending {
        name: "kill -9 of harness and keeper",
        end: |s, run| {
            let keeper = s.root.keeper("agent-1");
            run.kill9();
            kill(keeper, "KILL");
            s.drain()
        },
        outcome: "crashed",
        keeper: true,
        ..PLAIN
    },
    Ending {
        name: "kill -9 of harness, keeper and agent",
        end: |s, run| {
            let (keeper, agent) = (s.root.keeper("agent-1"), s.agent());
            run.kill9();
            kill(keeper, "KILL");
            kill(agent, "KILL");
            s.drain()
        },
        outcome: "crashed",
        keeper: true,
        ..PLAIN
    },
];

/// One ending under way.
struct Scene {
    root: Root,
    journal: Journal,
    /// One for each of `kinds`.
    marks: Vec<Mark>,
    kinds: Vec<&'static str>,
    ending: &'static Ending,
}

fn go(s: &Scene, run: Running) -> Running {
    s.journal.open("go");
    run
}

fn wait(_: &Scene, run: Running) -> Running {
    run
}

fn cancel_by_mv(s: &Scene, run: Running) -> Running {
    let claimed = s.root.at("queue/claimed/agent-1/x");
    fs::rename(claimed, s.root.at("queue/parked/x")).unwrap();
    run
}

fn cancel_by_command(s: &Scene, run: Running) -> Running {
    s.root.ok(&["cancel", "x"]);
    run
}

fn freeze(s: &Scene) {
    s.root.ok(&["interrupt", "agent-1", "look at this"]);
    s.root.wait_until("it is frozen", || {
        fs::read_to_string(format!("/proc/{}/stat", s.agent())).is_ok_and(|t| t.contains(") T "))
    });
}

impl Scene {
    fn new(ending: &'static Ending, cgroup: bool, namespaces: bool) -> Scene {
        let mut root = Root::plain();
        if !cgroup {
            root.env.push(("HARNESS_CGROUP", "off".into()));
        }
        root.config(&format!(
            "{}\n[repo]\npath = \"none\"\n[agents.own]\ncommand = [\"sh\", \"{{{{PROMPT_FILE}}}}\"]\n{}",
            ending.config,
            match ending.events {
                "" => String::new(),
                events => format!("events = \"{events}\"\n"),
            }
        ));
        fs::write(root.at("forks"), FOREVER).unwrap();
        let journal = Journal::new();
        let (mut marks, mut kinds, mut strays) = (Vec::new(), Vec::new(), String::new());
        for (kind, text) in STRAYS {
            // A tree that works has not stalled.
            let unfit = *kind == FORKS && ending.outcome == "stalled";
            if unfit || *kind == NAMESPACE && !namespaces {
                continue;
            }
            let mark = Mark::new();
            strays.push_str(&text.replace(" M ", &format!(" {} ", mark.text())));
            strays.push('\n');
            marks.push(mark);
            kinds.push(*kind);
        }
        let then = ending.then.replace("GO", &journal.wait_for("go"));
        let body = format!(
            "echo $$ >'{}'\n{strays}{then}\n",
            root.at("agent.pid").display()
        );
        if ending.events.is_empty() {
            let fields = ending.fields.lines().map(|l| format!("#harness {l}\n"));
            root.script("x", &format!("{}{body}", fields.collect::<String>()));
        } else {
            let text = format!("---\nagent: own\n{}\n---\n{body}", ending.fields);
            root.drop_file("x", text.as_bytes(), 0o644);
        }
        Scene {
            root,
            journal,
            marks,
            kinds,
            ending,
        }
    }

    fn agent(&self) -> u32 {
        let text = fs::read_to_string(self.root.at("agent.pid")).unwrap();
        text.trim().parse().unwrap()
    }

    fn has_event(&self, event: &str) -> bool {
        self.root.events("x").iter().any(|e| e == event)
    }

    fn adopt(&self) -> Running {
        let run = self.root.start(&["--drain", "--workers", "1"]);
        self.root
            .wait_until("it is adopted", || self.has_event("adopted"));
        run
    }

    fn drain(&self) -> Running {
        self.root.start(&["--drain", "--workers", "1"])
    }

    /// Kinds of which one lives, with how many.
    fn living(&self) -> Vec<(&'static str, usize)> {
        let alive = alive_of(&self.marks);
        let count = |at: usize| alive.iter().filter(|(a, _)| *a == at).count();
        let all = self
            .kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| (*kind, count(at)));
        let mut all: Vec<_> = all.filter(|(_, n)| *n > 0).collect();
        // Its pids are always ahead of a look at all processes: it is seen by what it writes.
        let forks = self.root.at("forks-so-far");
        let written = || fs::metadata(&forks).map_or(0, |m| m.len());
        all.retain(|(kind, _)| *kind != FORKS);
        if self.kinds.contains(&FORKS) {
            let before = written();
            std::thread::park_timeout(std::time::Duration::from_millis(100));
            all.extend((written() > before).then_some((FORKS, 1)));
        }
        all
    }

    fn is_gone(&self, kind: &str) -> bool {
        !self.living().iter().any(|(k, _)| *k == kind)
    }

    /// What lives though it must not.
    fn left(&self, cgroup: bool) -> Vec<&'static str> {
        let mut left: Vec<_> = self.living().into_iter().map(|(k, _)| k).collect();
        // The hole that is known, and that `doctor` tells of.
        left.retain(|kind| {
            let hidden = STRAYS.iter().any(|(k, text)| k == kind && *text == HIDDEN);
            !(hidden && self.ending.keeper && !cgroup)
        });
        left
    }

    fn assert_gone(&self, when: &str) {
        assert_eq!(
            self.left(true),
            Vec::<&str>::new(),
            "{when}\n{}",
            self.root.picture()
        );
    }
}

/// Where the host's keepers can make their cgroups; `None`: they cannot.
fn cgroups() -> Option<PathBuf> {
    let out = Root::plain().harness(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|c| c["what"] == "end of a tree")
        .unwrap();
    let found = check["why"].as_str().unwrap();
    let (_, rest) = found.split_once(" below ")?;
    (check["state"] == "ok").then(|| rest.split_once(": ").unwrap().0.into())
}

fn run_one(
    ending: &'static Ending,
    cgroups: Option<&Path>,
    namespaces: bool,
) -> Result<(), String> {
    let s = Scene::new(ending, cgroups.is_some(), namespaces);
    let run = s.root.start(&["--drain", "--workers", "1"]);
    s.root.wait_until("all that it leaves behind live", || {
        s.living().len() == s.kinds.len() && s.has_event("started")
    });
    let own = cgroups.map(|at| {
        let slot = fs::canonicalize(s.root.path())
            .unwrap()
            .join("state/agents/agent-1");
        at.join(harness::process::cgroup::name_of(&slot).unwrap())
    });
    let of_agent = fs::read_to_string(format!("/proc/{}/cgroup", s.agent())).unwrap_or_default();
    let name = own
        .as_ref()
        .map_or("harness-", |o| o.file_name().unwrap().to_str().unwrap());
    assert_eq!(of_agent.contains(name), own.is_some(), "{of_agent}");
    let mut run = (ending.end)(&s, run);
    run.wait();
    let left = s.left(own.is_some());
    let show = s.root.show("x");
    let told = &show["attempts"][0]["outcome"];
    if !left.is_empty() || told != ending.outcome {
        return Err(format!(
            "{}: {told}, and alive: {left:?}\n{}",
            ending.name,
            run.said()
        ));
    }
    s.root.assert_nothing_left();
    // A keeper without a harness takes a moment longer to leave its own.
    if let Some(own) = own {
        s.root.wait_until("its cgroup is removed", || !own.exists());
    }
    Ok(())
}

fn run_all(cgroups: Option<&Path>) {
    let with = if cgroups.is_some() { "with" } else { "without" };
    let unshare = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "true",
        ])
        .output();
    let namespaces = unshare.is_ok_and(|o| o.status.success());
    if !namespaces {
        skipped("strays in namespaces of their own: unshare is missing or not allowed");
    }
    let only = std::env::var("HARNESS_ENDING").unwrap_or_default();
    let wanted = ENDINGS.iter().filter(|e| e.name.contains(&only));
    let left: Mutex<Vec<&'static Ending>> = Mutex::new(wanted.rev().collect());
    let (ran, failed) = (Mutex::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(ending) = { left.lock().unwrap().pop() } {
                    let done = std::panic::catch_unwind(|| run_one(ending, cgroups, namespaces));
                    *ran.lock().unwrap() += 1;
                    let why = done.unwrap_or_else(|_| Err(format!("{}: see above", ending.name)));
                    failed.lock().unwrap().extend(why.err());
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!(
        "{} endings {with} a cgroup, {} kinds of strays each",
        ran.into_inner().unwrap(),
        STRAYS.len()
    );
    assert!(failed.is_empty(), "{with} a cgroup:\n{}", failed.join("\n"));
}

#[test]
fn nothing_outlives_any_ending_with_a_cgroup() {
    match cgroups() {
        Some(at) => run_all(Some(&at)),
        None => skipped("this host lets nobody like us make cgroups (harness doctor)"),
    }
}

#[test]
fn nothing_outlives_any_ending_without_a_cgroup() {
    run_all(None);
}

/// Many programs take a second SIGTERM for impatience, and end without saving anything.
#[test]
fn what_is_told_to_end_is_told_once() {
    let root = Root::plain();
    let (told, ready, stray) = (root.at("told"), root.at("ready"), root.at("stray.sh"));
    let text =
        format!("trap 'echo told >>{told:?}' TERM\n: >{ready:?}\nwhile :; do sleep 0.05; done\n");
    fs::write(&stray, text).unwrap();
    // It ends when the other one has heard of it, which is in a group of its own and outlives it.
    let body = format!(
        "( setsid sh {stray:?} & )\ntrap 'until [ -s {told:?} ]; do sleep 0.05; done; exit 0' TERM\n\
         while :; do sleep 0.05; done"
    );
    root.script("a", &body);
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("both run", || ready.exists());
    run.signal("TERM");
    run.wait();
    assert_eq!(fs::read_to_string(&told).unwrap(), "told\n");
}
