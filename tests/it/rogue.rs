//! An agent that writes into `queue/` and `state/` itself, as it runs as the same user: whatever it
//! does there, harness goes on, what it did to itself is judged, the item beside it is unharmed, and
//! every item is in one place in the end. `tricks` replaces things; here they are forged, removed,
//! filled and killed. `HARNESS_ROGUE=all` tries all, `HARNESS_ROGUE=PART` those with this in their
//! name; else a few, by chance.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use crate::dice::Dice;
use crate::support::{Root, describe, files_below, git, is_alive};

/// Far above what a run needs, far below what it would need to keep what an agent says.
const MEMORY_KB_MAX: u64 = 220_000;

struct Trick {
    name: &'static str,
    /// `Q` and `S` are `queue` and `state` of ROOT, `A` its slot.
    shell: &'static str,
    /// Where it may end.
    ends: &'static [&'static str],
    /// It ends harness, or stops it: a person starts it again.
    again: bool,
    /// What it does, it does to the item beside it too.
    hurts: bool,
}

const DONE: &[&str] = &["done"];
const ANY: &[&str] = &["done", "parked"];
const PARKED: &[&str] = &["parked"];

const fn trick(name: &'static str, shell: &'static str, ends: &'static [&'static str]) -> Trick {
    Trick {
        name,
        shell,
        ends,
        again: false,
        hurts: false,
    }
}

const TRICKS: [Trick; 25] = [
    trick("claim removed", "rm $S/claims/rogue", DONE),
    trick(
        "claim of another",
        "ln $S/agents/$A/marker $S/claims/later; rm $S/claims/later",
        DONE,
    ),
    trick(
        "claim removed and dropped again",
        "rm $S/claims/rogue; cp $HARNESS_ITEM_FILE $Q/pending/.r; mv $Q/pending/.r $Q/pending/rogue",
        &["done", "parked", "pending"],
    ),
    trick(
        "moved to done",
        "mv $Q/claimed/$A/rogue $Q/done/rogue; sleep 9",
        DONE,
    ),
    trick(
        "moved to parked",
        "mv $Q/claimed/$A/rogue $Q/parked/rogue; sleep 9",
        PARKED,
    ),
    trick(
        "renamed",
        "mv $Q/claimed/$A/rogue $Q/parked/renamed; sleep 9",
        &[],
    ),
    trick("linked", "ln $Q/claimed/$A/rogue $Q/parked/linked", DONE),
    trick("emptied", ": > $Q/claimed/$A/rogue", DONE),
    trick("lease removed", "rm $S/agents/$A/lease", DONE),
    trick("slot emptied", "rm -rf $S/agents/$A/*", ANY),
    trick("record truncated", ": > $S/items/rogue.jsonl", DONE),
    trick("record removed", "rm $S/items/rogue.jsonl", DONE),
    trick(
        "record forged",
        "[ $HARNESS_ATTEMPT -ge 2 ] || { printf '{\"event\":\"claimed\",\"session\":\"x\",\"attempt\":4294967295}\\nnull\\n\\377\\0\\n[' >> $S/items/rogue.jsonl; exit 1; }",
        ANY,
    ),
    trick("session removed", "rm -rf $HARNESS_SESSION_DIR", DONE),
    trick("sessions of all removed", "rm -rf $S/sessions/*", ANY),
    trick(
        "output replaced",
        "cd $HARNESS_SESSION_DIR; rm -f stdout.log; ln -s /dev/zero stdout.log; ln -sf /dev/zero events.jsonl; cd -",
        DONE,
    ),
    trick(
        "end forged and keeper killed",
        "printf '{\"session\":\"%s\",\"pid\":-1,\"exit_status\":0,\"signal\":null,\"started_at\":\"x\",\"ended_at\":\"x\",\"seconds\":-1e300,\"frozen_seconds\":-5,\"cpu_seconds\":1e308,\"stopped\":false,\"strays\":4294967295,\"strays_left\":0}' $HARNESS_SESSION > $HARNESS_SESSION_DIR/exit.json; kill -9 $PPID",
        ANY,
    ),
    trick(
        "keeper killed",
        "[ $HARNESS_ATTEMPT -ge 2 ] || { kill -9 $PPID; }",
        DONE,
    ),
    Trick {
        again: true,
        ..trick(
            "session forged and harness killed",
            "[ $HARNESS_ATTEMPT -ge 2 ] || { printf '{\"session\":\"%s\",\"item\":\"x\",\"attempt\":4294967295,\"timeout_seconds\":18446744073709551615,\"branch\":\"main\",\"base\":\"main\",\"base_oid\":\"-x\",\"repo\":\"../..\",\"worktree\":\"/\",\"agent\":\"x\",\"events\":\"claude\",\"seconds\":-1}' $HARNESS_SESSION > $HARNESS_SESSION_DIR/session.json; kill -9 $(ps -o ppid= -p $PPID); sleep 0.3; }",
            ANY,
        )
    },
    Trick {
        again: true,
        ..trick(
            "orders given",
            "touch $S/control/pause $S/control/stop; echo 0 > $S/control/workers; echo x > $S/control/drain",
            DONE,
        )
    },
    Trick {
        again: true,
        ..trick(
            "held and interrupted",
            // Frozen by the second word, it would not come to say that it has got so far.
            "echo no > $S/holds/claude.hold; sleep 9 & echo why > $S/interrupts/all.interrupt; wait",
            ANY,
        )
    },
    Trick {
        hurts: true,
        ..trick(
            "the one beside it killed",
            "for d in $S/agents/*; do [ $d = $S/agents/$A ] || rm -rf $d; done; rm -rf $HARNESS_ROOT/worktrees/agent-*",
            ANY,
        )
    },
    Trick {
        hurts: true,
        ..trick(
            "all claims removed",
            "rm -f $S/claims/* $S/exclusive/*; rm -rf $S/repos/default.git/slots",
            ANY,
        )
    },
    trick(
        "ten thousand dropped",
        "mkdir ../many; cd ../many; seq -f n%.0f 10000 | xargs touch -d tomorrow; mv * $Q/pending/; cd -",
        DONE,
    ),
    trick(
        "flood",
        "head -c 200000000 /dev/zero | tr '\\0' x; head -c 5000000 /dev/urandom",
        DONE,
    ),
];

fn peak_kb(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.map_or(0, |l| l.trim().trim_end_matches(" kB").parse().unwrap())
}

/// The places of an item, as `ls` shows them.
fn places(root: &Root, name: &str) -> Vec<String> {
    let files = files_below(&root.at("queue"));
    let found = files
        .iter()
        .filter(|p| p.file_name().is_some_and(|n| n == name));
    found
        .map(|p| {
            p.parent()
                .unwrap()
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

/// The trick in shell. Where it ends the agent, maybe at once, the gate is open before.
fn harm(trick: &Trick, gate: &Path) -> String {
    let opens = format!("touch '{}'; ", gate.display());
    match trick.shell.contains("; sleep 9") {
        true => opens + trick.shell,
        false => trick.shell.replace("kill -9", &format!("{opens}kill -9")),
    }
}

fn attempt(trick: &Trick) {
    let root = Root::with_repo();
    // Its output is read where it is a prompt's; as a script it would only be kept.
    root.config("agent = \"sh\"\n[repo]\npath = \"repo\"\n[agents.sh]\ncommand = [\"sh\", \"{{PROMPT_FILE}}\"]\nevents = \"claude\"\n");
    fs::write(root.at("prompts/bootstrap.md"), ":\n").unwrap();
    let out = tempfile::tempdir().unwrap();
    let gate = out.path().join("done");
    let keep = |name: &str| {
        format!(
            "echo {name} > {name}.txt; git add -A; git -c user.name=a -c user.email=a@b commit -qm {name}"
        )
    };
    root.script(
        "beside",
        &format!(
            "until [ -e '{}' ]; do sleep 0.02; done; sleep 0.3; {}",
            gate.display(),
            keep("beside")
        ),
    );
    root.script(
        "later",
        &format!("#harness after: [beside]\n{}", keep("later")),
    );
    let body = format!(
        "Q=$HARNESS_ROOT/queue S=$HARNESS_ROOT/state A=$HARNESS_SLOT\n{3} || (\n{}\n) || exit 1\ntouch '{1}'\n{2}\n",
        harm(trick, &gate),
        gate.display(),
        keep("rogue"),
        // Stopped before it was through, it is started again, and would end the next harness too.
        if trick.again {
            format!("[ -e '{}' ]", gate.display())
        } else {
            "false".to_owned()
        },
    );
    if trick.name == "flood" {
        root.drop_file(
            "rogue",
            format!("---\nretries: 2\n---\n{body}").as_bytes(),
            0o644,
        );
    } else {
        root.script("rogue", &format!("#harness retries: 2\n{body}"));
    }
    let base = git(&root.repo(), &["rev-parse", "main"]);
    let mut run = root.start(&["--workers", "2"]);
    if trick.again {
        root.wait_until("harness is ended or stopped", || gate.exists());
        run.signal("TERM");
        run.wait();
        root.harness(&["resume"]);
        let _none = fs::remove_file(root.at("state/control/workers"));
        run = root.start(&["--workers", "2"]);
    }
    let mut peak = 0;
    let ended = |name: &str| {
        ["done", "parked"]
            .iter()
            .any(|d| root.at("queue").join(d).join(name).exists())
    };
    root.wait_until(trick.name, || {
        root.harness(&["resume"]);
        peak = peak_kb(run.pid()).max(peak);
        assert!(
            run.child.try_wait().unwrap().is_none(),
            "harness ended\n{}",
            run.said()
        );
        // What was hurt is parked, and then what waits for it waits.
        let over = ended("beside") && (ended("later") || root.is_parked("beside"));
        over && (ended("rogue") || trick.ends.is_empty())
            && places(&root, "rogue")
                .iter()
                .all(|p| !p.starts_with("agent"))
    });
    assert!(peak < MEMORY_KB_MAX, "{}: {peak} kB", trick.name);
    let status = root.harness(&["status", "--json"]);
    assert!(status.status.success(), "{}", describe(&status));
    if trick.name == "ten thousand dropped" {
        let told =
            || serde_json::from_str::<serde_json::Value>(&root.ok(&["status", "--json"])).unwrap();
        root.wait_until("they are counted", || {
            told()["work_queue"]["scheduled"] == 10_000
        });
    }
    run.signal("TERM");
    assert!(run.wait().is_some());
    let said = run.said();
    assert!(
        !said.contains("panicked") && !said.contains("thread failed"),
        "{said}"
    );
    for name in ["beside", "later"] {
        let there = places(&root, name);
        assert_eq!(there.len(), 1, "{name} in {there:?}\n{said}");
        assert!(
            trick.hurts || there == ["done"],
            "{name} in {there:?}\n{said}\n{}",
            root.picture()
        );
        let branches = git(
            &root.repo(),
            &[
                "for-each-ref",
                "--format=%(refname)",
                &format!("refs/heads/harness/{name}/"),
            ],
        );
        assert_eq!(
            branches.lines().count(),
            usize::from(there == ["done"]),
            "{name}: {branches}"
        );
    }
    let there = places(&root, "rogue");
    if trick.ends.is_empty() {
        assert_eq!(there, Vec::<String>::new());
    } else {
        // Its own second life, or the backup of its first, may be there too.
        assert!(
            !there.is_empty() && there.iter().all(|p| trick.ends.contains(&p.as_str())),
            "rogue in {there:?}\n{said}\n{}",
            root.picture()
        );
    }
    assert_eq!(git(&root.repo(), &["rev-parse", "main"]), base);
    git(&root.repo(), &["fsck", "--no-dangling"]);
    for scheduled in files_below(&root.at("queue/pending")) {
        fs::remove_file(scheduled).unwrap();
    }
    // What it removed of the slots is made again by whoever runs next.
    let last = root.harness(&["run", "--drain", "--workers", "2"]);
    assert!(
        matches!(last.status.code(), Some(0 | 1)),
        "{}",
        describe(&last)
    );
    root.assert_nothing_left();
    assert!(!is_alive(run.pid()));
}

#[test]
fn an_agent_that_meddles_hurts_itself_alone() {
    let wanted = std::env::var("HARNESS_ROGUE").unwrap_or_default();
    let tricks: Vec<&Trick> = match wanted.as_str() {
        "all" => TRICKS.iter().collect(),
        "" => {
            let mut dice = Dice::new();
            let some = (0..5).map(|_| &TRICKS[dice.below(TRICKS.len() as u64) as usize]);
            some.filter(|t| t.name != "flood").collect()
        }
        part => TRICKS.iter().filter(|t| t.name.contains(part)).collect(),
    };
    let (queue, failed) = (Mutex::new(tricks), Mutex::new(Vec::new()));
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                loop {
                    let Some(trick) = queue.lock().unwrap().pop() else {
                        break;
                    };
                    let begun = Instant::now();
                    let result = std::panic::catch_unwind(|| attempt(trick));
                    println!(
                        "{}: {} {:.1} s",
                        trick.name,
                        if result.is_ok() { "ok" } else { "FAILED" },
                        begun.elapsed().as_secs_f64()
                    );
                    if result.is_err() {
                        failed.lock().unwrap().push(trick.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}: see above");
}

/// What never started is put back, and its session's folder goes: that of no other name.
#[test]
fn a_session_on_record_that_leads_elsewhere_has_nothing_removed_there() {
    let root = Root::plain();
    fs::create_dir(root.at("away")).unwrap();
    fs::write(root.at("away/mine"), "mine\n").unwrap();
    let body = "touch $HARNESS_ROOT/runs; until [ -e $HARNESS_ROOT/go ]; do sleep 0.02; done";
    root.script("x", body);
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it runs", || root.at("runs").exists());
    run.kill9();
    let line = r#"{"event":"claimed","session":"../../away","slot":"agent-1","attempt":1}"#;
    fs::write(root.at("state/items/x.jsonl"), format!("{line}\n")).unwrap();
    fs::write(root.at("go"), "").unwrap();
    root.drain();
    let events = root.events("x");
    assert!(
        root.is_done("x") && events.iter().any(|e| e == "requeued"),
        "{events:?}\n{}",
        root.picture()
    );
    assert_eq!(fs::read_to_string(root.at("away/mine")).unwrap(), "mine\n");
}
