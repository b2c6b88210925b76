//! `kill -9` of a harness, of keepers and of agents: what runs goes on, is adopted or judged, and
//! is started once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::journal::Journal;
use crate::support::{Root, Running, git, is_alive, kill};

fn has_event(root: &Root, item: &str, event: &str) -> bool {
    root.events(item).iter().any(|e| e == event)
}

#[test]
fn an_agent_outlives_its_harness_and_the_next_run_adopts_it() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let body = format!("{}\necho made > made", journal.wait_for("go"));
    journal.drop_script(&root, "x", "", &body);
    let first = root.start(&["--workers", "1"]);
    let pid = journal.wait_for_start(&root, "x", 1);
    first.kill9();
    assert!(is_alive(pid), "the agent died with its harness");
    let mut second = root.start(&["--drain", "--workers", "2"]);
    root.wait_until("x is adopted", || has_event(&root, "x", "adopted"));
    assert!(is_alive(pid));
    journal.open("go");
    let opened = Instant::now();
    assert_eq!(second.wait(), Some(0), "{}", second.said());
    // Its keeper answers the one that adopted, and nobody waits for it to answer twice.
    assert!(
        opened.elapsed() < Duration::from_secs(20),
        "{}",
        second.said()
    );
    assert!(!second.said().contains("gives up"), "{}", second.said());
    let show = root.show("x");
    let attempts = show["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{show:#}");
    assert_eq!(show["outcome"], "succeeded");
    assert_eq!(attempts[0]["exit_status"], 0);
    let sessions: Vec<String> = journal.ran().into_keys().collect();
    assert_eq!(sessions, [attempts[0]["session"].as_str().unwrap()]);
    assert_eq!(
        git(&root.repo(), &["show", "harness/x/1:made"]),
        "made\n",
        "{show:#}"
    );
    journal.assert_books(&root, &["x".into()]);
    root.assert_nothing_left();
}

#[test]
fn a_process_that_runs_already_adopts_the_agents_of_a_killed_one_at_once() {
    let (root, journal) = (Root::plain(), Journal::new());
    let first = root.start(&["--workers", "1"]);
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    journal.wait_for_start(&root, "x", 1);
    let mut second = root.start(&["--workers", "1"]);
    root.wait_until("the second has a slot", || {
        root.at("queue/claimed/agent-2").exists()
    });
    first.kill9();
    let killed = Instant::now();
    root.wait_until("x is adopted", || has_event(&root, "x", "adopted"));
    // Orphans are looked for every 5 s without news: this was news.
    assert!(killed.elapsed() < Duration::from_secs(3), "{killed:?}");
    assert_eq!(journal.of("x").len(), 1);
    journal.open("go");
    root.wait_until("x is done", || root.is_done("x"));
    second.signal("INT");
    assert_eq!(second.wait(), Some(0), "{}", second.said());
    journal.assert_books(&root, &["x".into()]);
    root.assert_nothing_left();
}

/// After a power cut the record may be all that is whole: it was synced, the session's files and
/// its worktree were not.
#[test]
fn what_was_said_to_be_published_is_or_goes_with_its_item_whatever_else_was_lost() {
    for canceled in [false, true] {
        let root = Root::with_repo();
        root.script("x", "echo made > made; git add .; git commit -q -m made");
        // Somebody's lock holds the harness up between the word and the deed.
        let lock = root.repo().join(".git/refs/heads/harness/x/1.lock");
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        fs::write(&lock, "").unwrap();
        let first = root.start(&["--workers", "1"]);
        root.wait_until("it is said", || has_event(&root, "x", "publishing"));
        first.kill9();
        fs::remove_file(&lock).unwrap();
        for session in fs::read_dir(root.at("state/sessions")).unwrap() {
            for file in ["session.json", "exit.json", "stdout.log"] {
                fs::write(session.as_ref().unwrap().path().join(file), "").unwrap();
            }
        }
        fs::remove_dir_all(root.at("worktrees")).unwrap();
        let events = root.show("x")["events"].clone();
        let said = |key: &str| {
            let all = events.as_array().unwrap();
            let line = all.iter().find(|e| e["event"] == "publishing").unwrap();
            line[key].as_str().unwrap().to_owned()
        };
        let branches = || {
            git(
                &root.repo(),
                &["branch", "--list", "--format=%(refname:short)", "harness/*"],
            )
        };
        if canceled {
            // It was done, too, and not recorded; then a person took the file.
            let name = format!("refs/heads/{}", said("branch"));
            git(&root.repo(), &["update-ref", &name, &said("head")]);
            let (from, to) = ("queue/claimed/agent-1/x", "queue/parked/x");
            fs::rename(root.at(from), root.at(to)).unwrap();
            root.drain();
            assert_eq!(branches(), "", "{}", root.picture());
            let hub = root.at("state/repos/default.git");
            assert_eq!(
                git(&hub, &["rev-parse", "harness/x/1"]).trim(),
                said("head")
            );
        } else {
            root.drain();
            assert_eq!(branches(), "harness/x/1\n", "{}", root.picture());
            assert_eq!(git(&root.repo(), &["show", "harness/x/1:made"]), "made\n");
            let show = root.show("x");
            let attempts = show["attempts"].as_array().unwrap();
            assert_eq!(attempts.len(), 1, "{show:#}");
            assert_eq!(attempts[0]["outcome"], "succeeded");
            assert_eq!(attempts[0]["exit_status"], 0);
            assert!(root.is_done("x"));
        }
        root.assert_nothing_left();
    }
}

/// A script in a plain directory that ends at once has no session.json yet when it ends.
#[test]
fn a_short_script_whose_harness_died_is_judged_from_its_record() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let first = root.start(&["--workers", "1"]);
    root.wait_until("it runs", || has_event(&root, "x", "started"));
    first.kill9();
    journal.open("go");
    let sessions = fs::read_dir(root.at("state/sessions")).unwrap();
    let [session] = &sessions.map(|s| s.unwrap().path()).collect::<Vec<_>>()[..] else {
        panic!("{}", root.picture());
    };
    root.wait_until("it has ended", || {
        fs::read(session.join("exit.json")).is_ok_and(|text| text.ends_with(b"\n"))
    });
    // As it would be, had it ended within the moment for which its keeper says nothing.
    fs::remove_file(session.join("session.json")).unwrap();
    let record = root.at("state/items/x.jsonl");
    let text = fs::read_to_string(&record).unwrap();
    let lines = text.lines().filter(|l| !l.contains("\"started\""));
    let text: String = lines.map(|l| format!("{l}\n")).collect();
    fs::write(&record, text).unwrap();
    root.drain();
    assert_eq!(journal.of("x").len(), 1, "{}", root.picture());
    assert!(root.is_done("x"), "{}", root.picture());
    let text = fs::read(session.join("session.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let said = ["agent", "outcome", "exit_status", "attempt", "notes"].map(|key| &file[key]);
    let want = serde_json::json!(["script", "succeeded", 0, 1, []]);
    assert_eq!(serde_json::json!(said), want, "{file:#}");
    assert_ne!(file["started_at"], "", "{file:#}");
    root.assert_nothing_left();
}

#[test]
fn an_agent_that_ended_with_nobody_watching_is_judged_from_its_files() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let good = format!("{}\necho made > made", journal.wait_for("go"));
    let bad = format!("{}\necho half > half\nexit 7", journal.wait_for("go"));
    journal.drop_script(&root, "good", "", &good);
    journal.drop_script(&root, "bad", "#harness retries: 0", &bad);
    let first = root.start(&["--workers", "2"]);
    journal.wait_for_start(&root, "good", 1);
    journal.wait_for_start(&root, "bad", 1);
    first.kill9();
    journal.open("go");
    // Keepers without harness and agent end: then the ends are on disk and nobody looks.
    root.wait_until("both and their keepers are gone", || {
        root.processes().is_empty()
    });
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "one is parked");
    let (good, bad) = (root.show("good"), root.show("bad"));
    assert_eq!(
        (&good["outcome"], &good["state"]),
        (&"succeeded".into(), &"done".into())
    );
    assert_eq!(
        (&bad["outcome"], &bad["state"]),
        (&"failed".into(), &"parked".into())
    );
    assert_eq!(bad["attempts"][0]["exit_status"], 7);
    assert_eq!(
        git(&root.repo(), &["show", "harness/good/1:made"]),
        "made\n"
    );
    assert!(!git(&root.repo(), &["branch", "--all"]).contains("bad"));
    // What the failed one left uncommitted is kept in harness's own repository.
    let hub = root.at("state/repos/default.git");
    assert_eq!(git(&hub, &["show", "harness/bad/1:half"]), "half\n");
    journal.assert_books(&root, &["good".into(), "bad".into()]);
    root.assert_nothing_left();
}

#[test]
fn without_harness_and_keeper_the_tree_of_an_agent_is_ended_and_the_item_retried() {
    let (root, journal) = (Root::plain(), Journal::new());
    let body = format!(
        "[ $HARNESS_ATTEMPT = 2 ] && exit 0\nsetsid sleep 1000 &\n{}",
        journal.wait_for("never")
    );
    journal.drop_script(&root, "x", "", &body);
    let first = root.start(&["--workers", "1"]);
    let pid = journal.wait_for_start(&root, "x", 1);
    root.wait_until("its daemon runs", || {
        root.processes()
            .iter()
            .any(|(_, c)| c.contains("sleep 1000"))
    });
    first.kill9();
    kill(root.keeper("agent-1"), "KILL");
    assert!(is_alive(pid));
    assert_eq!(root.drain().status.code(), Some(0));
    let show = root.show("x");
    let attempts = show["attempts"].as_array().unwrap();
    assert_eq!(attempts[0]["outcome"], "crashed", "{show:#}");
    let reason = attempts[0]["reason"].as_str().unwrap();
    assert!(reason.contains("keeper died"), "{reason}");
    assert_eq!(attempts[1]["outcome"], "succeeded", "{show:#}");
    assert!(!is_alive(pid));
    root.assert_nothing_left();
}

#[test]
fn a_killed_keeper_ends_its_agent_and_the_item_is_retried() {
    let (root, journal) = (Root::plain(), Journal::new());
    let body = format!(
        "[ $HARNESS_ATTEMPT = 2 ] && exit 0\n{}",
        journal.wait_for("never")
    );
    journal.drop_script(&root, "x", "", &body);
    let mut run = root.start(&["--drain", "--workers", "1"]);
    let pid = journal.wait_for_start(&root, "x", 1);
    kill(root.keeper("agent-1"), "KILL");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let show = root.show("x");
    assert_eq!(show["attempts"][0]["outcome"], "crashed", "{show:#}");
    assert_eq!(show["attempts"][1]["outcome"], "succeeded", "{show:#}");
    assert!(!is_alive(pid));
    root.assert_nothing_left();
}

/// Without its keeper a process is found by its environment; one that cleared it must be found
/// by what else it has of its session.
#[test]
fn without_its_keeper_even_a_process_without_environment_is_ended() {
    let (root, journal) = (Root::plain(), Journal::new());
    let mark = crate::processes::Mark::new();
    let body = format!(
        "[ $HARNESS_ATTEMPT = 2 ] && exit 0\nenv -i setsid {} &\n{}",
        mark.sleep(),
        journal.wait_for("never")
    );
    journal.drop_script(&root, "x", "", &body);
    let mut run = root.start(&["--drain", "--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    root.wait_until("it has left", || mark.alive().len() == 1);
    kill(root.keeper("agent-1"), "KILL");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(mark.alive(), Vec::<u32>::new());
    root.assert_nothing_left();
}

#[test]
fn a_killed_agent_is_a_crash_that_is_retried() {
    let (root, journal) = (Root::plain(), Journal::new());
    let body = format!(
        "[ $HARNESS_ATTEMPT = 2 ] && exit 0\n{}",
        journal.wait_for("never")
    );
    journal.drop_script(&root, "x", "", &body);
    let mut run = root.start(&["--drain", "--workers", "1"]);
    kill(journal.wait_for_start(&root, "x", 1), "KILL");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let show = root.show("x");
    assert_eq!(show["attempts"][0]["outcome"], "crashed", "{show:#}");
    assert_eq!(show["attempts"][0]["signal"], 9);
    assert_eq!(show["attempts"][1]["outcome"], "succeeded");
    root.assert_nothing_left();
}

#[test]
fn the_timeout_of_an_adopted_agent_counts_from_its_start() {
    let (root, journal) = (Root::plain(), Journal::new());
    let head = "#harness timeout: 4\n#harness retries: 0";
    let ticks = root.at("ticks");
    let body = format!(
        "while :; do echo t >>'{}'; sleep 0.1; done",
        ticks.display()
    );
    journal.drop_script(&root, "x", head, &body);
    let first = root.start(&["--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    first.kill9();
    root.wait_until("it ran for two seconds", || {
        fs::read(&ticks).is_ok_and(|t| t.len() > 2 * 20)
    });
    assert_eq!(root.drain().status.code(), Some(1));
    let show = root.show("x");
    assert_eq!(show["outcome"], "timed_out", "{show:#}");
    let seconds = show["attempts"][0]["seconds"].as_f64().unwrap();
    // A clock that had begun again at the adoption would make it six and more.
    assert!((3.9..5.8).contains(&seconds), "{seconds}");
    root.assert_nothing_left();
}

#[test]
fn moved_away_while_no_harness_lives_an_item_is_canceled() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let body = format!("echo half > half\n{}", journal.wait_for("ended-only"));
    for name in ["by-mv", "by-command", "ended"] {
        journal.drop_script(&root, name, "", &body);
    }
    let other = format!(
        "[ $HARNESS_ATTEMPT = 2 ] && exit 0\n{}",
        journal.wait_for("never")
    );
    journal.drop_script(&root, "again", "", &other);
    let first = root.start(&["--workers", "4"]);
    let names = ["by-mv", "by-command", "ended", "again"];
    let pids = names.map(|n| journal.wait_for_start(&root, n, 1));
    first.kill9();
    let claimed = |n: &str| {
        (1..=4)
            .map(|i| root.at(format!("queue/claimed/agent-{i}/{n}")))
            .find(|p| p.exists())
            .unwrap()
    };
    fs::rename(claimed("by-mv"), root.at("queue/parked/by-mv")).unwrap();
    root.ok(&["cancel", "by-command"]);
    fs::rename(claimed("again"), root.at("queue/pending/again")).unwrap();
    kill(pids[2], "KILL");
    root.wait_until("its end is on disk", || {
        journal.ran().keys().any(|sid| {
            root.at("state/sessions")
                .join(sid)
                .join("exit.json")
                .exists()
        })
    });
    fs::rename(claimed("ended"), root.at("queue/parked/ended")).unwrap();
    root.drain();
    for name in ["by-mv", "by-command", "ended"] {
        let show = root.show(name);
        assert_eq!(show["state"], "parked", "{show:#}");
        assert_eq!(show["attempts"][0]["outcome"], "canceled", "{show:#}");
        assert_eq!(show["attempts"].as_array().unwrap().len(), 1);
    }
    let show = root.show("again");
    assert_eq!(show["attempts"][0]["outcome"], "canceled", "{show:#}");
    assert_eq!(show["state"], "done", "{show:#}");
    for pid in pids {
        assert!(!is_alive(pid));
    }
    let branches = git(&root.repo(), &["branch", "--format=%(refname:short)"]);
    assert_eq!(branches, "main\n", "canceled work is published nowhere");
    let hub = root.at("state/repos/default.git");
    assert_eq!(git(&hub, &["show", "harness/by-mv/1:half"]), "half\n");
    root.assert_nothing_left();
}

#[test]
fn a_harness_killed_while_it_stops_its_agents_has_interrupted_them() {
    let (root, journal) = (Root::plain(), Journal::new());
    let told = root.at("told");
    let told_at = told.display();
    // As some agents do: at SIGTERM it ends with status 0, half-way.
    let body = format!(
        "[ -e '{told_at}' ] && exit 0\ntrap ': >\"{told_at}\"; {}; exit 0' TERM\n{}",
        journal.wait_for("slowly").replace('\'', "\""),
        journal.wait_for("never")
    );
    root.script("x", &format!("#harness retries: 0\n{body}"));
    let first = root.start(&["--workers", "1"]);
    root.wait_until("x has started", || has_event(&root, "x", "started"));
    root.wait_until("its agent is told to stop", || {
        first.signal("TERM");
        told.exists()
    });
    first.kill9();
    journal.open("slowly");
    root.wait_until("the agent is gone", || root.processes().is_empty());
    assert_eq!(root.drain().status.code(), Some(0));
    let show = root.show("x");
    assert_eq!(show["attempts"][0]["outcome"], "interrupted", "{show:#}");
    assert_eq!(show["state"], "done", "{show:#}");
    root.assert_nothing_left();
}

/// A git that its killed harness left at work still writes: whoever comes next waits for it.
#[test]
fn the_git_of_a_killed_harness_is_waited_for() {
    let root = Root::with_repo();
    let bin = root.at("bin");
    fs::create_dir(&bin).unwrap();
    let slow = format!(
        "#!/bin/sh\ncase \" $* \" in *' clone '*) : >'{0}/cloning'; n=0\n\
         until [ -e '{0}/go' ] || [ $n -gt 2000 ]; do n=$((n+1)); sleep 0.02; done;; esac\n\
         PATH=${{PATH#*:}} exec git \"$@\"\n",
        bin.display()
    );
    fs::write(bin.join("git"), slow).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    root.script("x", "echo made > made");
    let path = std::env::var("PATH").unwrap();
    let mut first = root.command();
    first
        .args(["run", "--workers", "1"])
        .env("PATH", format!("{}:{path}", bin.display()));
    let child = first.stderr(Stdio::null()).spawn().unwrap();
    let first = Running {
        child,
        log: root.at("first.log"),
    };
    root.wait_until("git clones", || bin.join("cloning").exists());
    first.kill9();
    let mut second = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("x is claimed again", || {
        root.at("queue/claimed/agent-1/x").exists()
    });
    let since = Instant::now();
    root.wait_until("a second is over", || {
        assert!(
            !has_event(&root, "x", "started"),
            "two gits at work on one copy"
        );
        since.elapsed() > Duration::from_secs(1)
    });
    fs::write(bin.join("go"), "").unwrap();
    assert_eq!(second.wait(), Some(0), "{}", second.said());
    let show = root.show("x");
    assert_eq!(show["outcome"], "succeeded", "{show:#}");
    git(
        &root.at("state/repos/default.git"),
        &["fsck", "--full", "--strict"],
    );
    root.assert_nothing_left();
}

/// A process killed between the claim and its first line in the record leaves a file that was
/// never run, of a name whose record says `done`.
#[test]
fn a_name_that_was_done_before_is_run_again_after_a_kill_in_mid_claim() {
    use harness::{layout, lease::Lease, spool};
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", ":");
    assert_eq!(root.drain().status.code(), Some(0));
    journal.drop_script(&root, "x", "", ":");
    let at = layout::Root::new(fs::canonicalize(root.path()).unwrap());
    let lease = Lease::try_take(&at, layout::SlotId(1)).unwrap().unwrap();
    assert_eq!(journal.of("x").len(), 1);
    let claim = spool::try_claim(&spool::ClaimRequest {
        root: &at,
        lease: &std::sync::Arc::new(lease),
        name: &layout::Name::new("x"),
        durable: false,
        refuse: None,
        may_start: &|_, _| true,
        accepts: &|_| spool::Acceptance::Now,
    });
    assert!(matches!(claim, Ok(spool::ClaimOutcome::Won(..))));
    drop(claim);
    assert!(root.at("queue/claimed/agent-1/x").exists());
    assert_eq!(root.drain().status.code(), Some(0));
    assert_eq!(journal.of("x").len(), 2, "{}", root.picture());
    assert!(root.at("queue/done/x.~1~").exists());
    root.assert_nothing_left();
}
