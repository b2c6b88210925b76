//! Whom an interrupt is for: exactly the slot that was named, or all, spelled out; and what a person is
//! told to type about it.

use std::fs;

use crate::support::Root;

fn interrupts(root: &Root) -> Vec<String> {
    let all = fs::read_dir(root.at("state/interrupts")).unwrap().flatten();
    let mut names: Vec<String> = all
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| !n.starts_with('.'))
        .collect();
    names.sort();
    names
}

#[test]
fn a_slip_interrupts_nobody_and_is_told_the_right_form() {
    let root = Root::plain();
    root.script("waits", "#harness not_before: 2100-01-01\ntrue");
    for (args, right) in [
        (&["agent2", "look"][..], "interrupt agent-2 look"),
        (&["Agent-2", "look"], "interrupt agent-2 look"),
        (&["agent_1", "look here"], "interrupt agent-1 'look here'"),
        (&["1", "look"], "interrupt agent-1 look"),
        (&["ALL", "look"], "interrupt all look"),
        (&["agent-", "look"], "interrupt all look"),
        (&["agent", "2", "look"], "interrupt agent-1 '2 look'"),
        (&["wait for me"], "interrupt all 'REASON'"),
        (&["agent-2"], "interrupt agent-2 'which database?'"),
        (&["all"], "interrupt all 'which database?'"),
        (&["waits", "look"], "no slot works on"),
        (&["agent-99", "look"], "agent-1 to agent-3"),
        (&["agent-1", "agent-2", "look"], "one slot at a time"),
        (&[], "SLOT|all"),
    ] {
        let out = root.exits(2, &[&["interrupt"], args].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains(right), "{args:?}: {said}");
        assert_eq!(interrupts(&root), Vec::<String>::new(), "{args:?}");
    }
    root.ok(&["interrupt", "agent-2", "look", "at", "this"]);
    root.ok(&["interrupt", "all", "look"]);
    assert_eq!(interrupts(&root), ["agent-2.interrupt", "all.interrupt"]);
    let text = fs::read_to_string(root.at("state/interrupts/agent-2.interrupt"));
    assert_eq!(text.unwrap(), "look at this\n");
    // The answer of a slip ends nothing either.
    let out = root.exits(2, &["resume", "agent2"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("resume agent-2`"), "{said}");
    assert_eq!(interrupts(&root).len(), 2);
}

#[test]
fn a_file_that_is_nearly_an_interrupt_holds_nobody_and_is_said() {
    let root = Root::plain();
    for name in ["agent1.interrupt", "All.interrupt", "agent-1.txt"] {
        fs::write(root.at("state/interrupts").join(name), "wait for me\n").unwrap();
    }
    root.script("x", "true");
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("x is done", || root.is_done("x"));
    for (name, right) in [
        ("agent1.interrupt", "agent-1.interrupt"),
        ("All.interrupt", "all.interrupt"),
        ("agent-1.txt", "agent-1.interrupt"),
    ] {
        let is_told = |text: &str| {
            let mut lines = text.lines();
            lines.any(|l| l.contains(&format!("interrupts/{name}")) && l.contains(right))
        };
        root.wait_until("the log says it", || is_told(&run.said()));
        root.wait_until("the status says it", || is_told(&root.ok(&["status"])));
        assert_eq!(run.said().matches(&format!("/{name}: ")).count(), 1);
    }
    run.signal("INT");
    assert_eq!(run.wait(), Some(0));
    assert!(root.ok(&["status"]).contains("interrupts/agent1.interrupt"));
    assert_eq!(interrupts(&root).len(), 3, "they are the person's to move");
}

#[test]
fn who_looks_at_what_is_frozen_is_told_first_how_to_answer() {
    let root = Root::plain();
    let told = root.at("told");
    let notify = format!(
        "cat > {0}.text; echo \"$HARNESS_WHAT_TO_DO\" > {0}",
        told.display()
    );
    root.config(&format!(
        "notify = [\"sh\", \"-c\", '{notify}']\n[repo]\npath = \"none\"\n"
    ));
    root.script(
        "asks",
        "if [ $HARNESS_ATTEMPT = 1 ]; then echo 'which colour?' > \"$HARNESS_INTERRUPT\"; until [ -e go ]; do sleep 0.02; done; fi",
    );
    let mut run = root.start(&["--workers", "1"]);
    let place = fs::canonicalize(root.path()).unwrap();
    let answer = format!(
        "harness --root {} resume agent-1 --answer '…'",
        place.display()
    );
    // The first command of a text that tells what to do.
    let first = |text: &str| {
        let at = text.find(" resume ").or(text.find(" cancel "));
        let begin = text[..at?].rfind('`')? + 1;
        Some(text[begin..].split('`').next()?.to_owned())
    };
    root.wait_until("the log says it", || {
        first(&run.said()).as_deref() == Some(&*answer)
    });
    let log = run.said();
    let asks = log.lines().find(|l| l.contains("pauses: which colour?"));
    assert!(asks.is_some_and(|l| l.contains("; what to do: `")), "{log}");
    assert!(log.contains("resume agent-1` just lets it go on"), "{log}");
    assert!(log.contains("cancel asks`"), "{log}");
    root.wait_until("the person was told", || told.exists());
    root.wait_until("both texts are there", || {
        fs::read_to_string(&told).is_ok_and(|t| first(&t).as_deref() == Some(&*answer))
    });
    let text = fs::read_to_string(root.at("told.text")).unwrap();
    assert_eq!(first(&text).as_deref(), Some(&*answer), "{text}");
    let show = root.ok(&["show", "asks"]);
    assert!(show.contains("which colour?"), "{show}");
    let now = &show[show.find("What now").expect("what now")..];
    assert_eq!(first(now).as_deref(), Some(&*answer), "{show}");
    assert!(
        root.show("asks")["reason"]
            .as_str()
            .unwrap()
            .contains("which colour?")
    );
    root.wait_until("the status says it", || {
        first(&root.ok(&["status"])).as_deref() == Some(&*answer)
    });
    // Where the current directory finds the ROOT, no option is in the way.
    let mut here = std::process::Command::new(env!("CARGO_BIN_EXE_harness"));
    let here = here.current_dir(root.path()).env_remove("HARNESS_ROOT");
    let here = here.args(["show", "asks"]).output().unwrap();
    let here = String::from_utf8(here.stdout).unwrap();
    assert!(
        here.contains("`harness resume agent-1 --answer '…'`"),
        "{here}"
    );
    // The next run says what stands from before it.
    run.signal("HUP");
    run.wait();
    let mut run = root.start(&["--workers", "1", "--drain"]);
    root.wait_until("it is said again", || {
        run.said().contains("from before this run: which colour?")
    });
    assert_eq!(first(&run.said()).as_deref(), Some(&*answer));
    root.ok(&["resume", "agent-1", "--answer", "red"]);
    let session = root.show("asks")["attempts"][0]["session"].clone();
    let folder = root.at("state/sessions").join(session.as_str().unwrap());
    assert_eq!(
        fs::read_to_string(folder.join("answer.md")).unwrap(),
        "red\n"
    );
    let file: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("session.json")).unwrap()).unwrap();
    fs::write(
        std::path::Path::new(file["worktree"].as_str().unwrap()).join("go"),
        "",
    )
    .unwrap();
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert!(root.is_done("asks"));
    root.assert_nothing_left();
}

#[test]
fn an_item_that_asked_and_ended_is_answered_the_same_way() {
    let root = Root::plain();
    root.script(
        "asks",
        "[ $HARNESS_ATTEMPT != 1 ] && exit 0; echo > \"$HARNESS_ROOT/began\"
        until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.02; done; echo 'which colour?' > \"$HARNESS_INTERRUPT\"",
    );
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it works", || root.at("began").exists());
    // It is to end before harness can freeze it.
    run.signal("STOP");
    fs::write(root.at("go"), "").unwrap();
    root.wait_until("it has ended", || {
        let sessions = fs::read_dir(root.at("state/sessions")).unwrap().flatten();
        sessions
            .into_iter()
            .any(|s| s.path().join("exit.json").exists())
    });
    run.signal("CONT");
    root.wait_until("it waits", || root.is_parked("asks"));
    let show = root.ok(&["show", "asks"]);
    let now = &show[show.find("What now").expect("what now")..];
    assert!(
        now.contains(" resume agent-1 --answer '…'` answers it"),
        "{show}"
    );
    assert!(
        show.contains("waits for an answer: which colour?"),
        "{show}"
    );
    root.wait_until("the status says it", || {
        root.ok(&["status"])
            .contains(" resume agent-1 --answer '…'`")
    });
    root.ok(&["resume", "agent-1", "--answer", "red"]);
    root.wait_until("it is done", || root.is_done("asks"));
    run.signal("INT");
    assert_eq!(run.wait(), Some(0));
    root.assert_nothing_left();
}
