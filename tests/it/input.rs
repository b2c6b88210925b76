//! Input that could be understood as something else: it is understood as it was meant, or refused
//! with the right word, or said. Nothing is ignored in silence, and nothing but a prompt reaches an
//! agent.

mod refused;

use std::fs;

use crate::support::{Root, describe, git};

/// A ROOT whose prompts go to `cat`.
fn with_cat() -> Root {
    let root = Root::plain();
    root.config(
        "agent = \"mine\"\n[repo]\npath = \"none\"\n[agents.mine]\nbootstrap = false\ncommand = [\"cat\"]\n",
    );
    root
}

/// All that agents and scripts have printed.
fn printed(root: &Root) -> String {
    let sessions = fs::read_dir(root.at("state/sessions")).unwrap();
    let logs = sessions.map(|s| fs::read(s.unwrap().path().join("stdout.log")).unwrap_or_default());
    logs.map(|log| String::from_utf8_lossy(&log).into_owned())
        .collect()
}

fn reason(root: &Root, name: &str) -> String {
    root.show(name)["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_field_that_is_a_text_keeps_its_text_on_its_way_to_git_agent_and_queue() {
    let root = Root::with_repo();
    let repo = root.repo();
    for branch in ["1.1", "1.10"] {
        git(&repo, &["checkout", "-q", "-b", branch, "main"]);
        fs::write(repo.join("which"), format!("{branch}\n")).unwrap();
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "-q", "-m", branch]);
    }
    git(&repo, &["checkout", "-q", "main"]);
    root.script(
        "x",
        "#harness base: 1.10\n#harness env: {PY: 3.10, ZIP: 0123, NO: no}\ncat which; echo $PY $ZIP $NO",
    );
    root.drain();
    assert_eq!(printed(&root), "1.10\n3.10 0123 no\n", "{}", root.picture());
    // A command that writes the fields anew changes none of them.
    let file = root.at("y.md");
    fs::write(
        &file,
        "---\nbase: 1.10\nenv: {PY: 3.10}\nodd: 1.5\n---\nx\n",
    )
    .unwrap();
    root.ok(&["add", "-p", "high", file.to_str().unwrap()]);
    let show = root.show("y.md");
    assert_eq!(show["fields"]["base"], "1.10", "{show}");
    assert_eq!(show["fields"]["env"]["PY"], "3.10");
    assert_eq!(show["fields"]["odd"], 1.5);
}

#[test]
fn a_time_is_a_time_or_refused_and_never_starts_at_once() {
    let root = with_cat();
    let times = ["20991231", "2099-12-31", "2099-12-31 09:00", "4102444800"];
    for (n, time) in times.iter().enumerate() {
        let text = format!("---\nnot_before: {time}\n---\nx\n");
        root.drop_file(format!("t{n}.md"), text.as_bytes(), 0o644);
        let json = format!("{{\"not_before\": \"{time}\", \"prompt\": \"x\"}}");
        root.drop_file(format!("t{n}.json"), json.as_bytes(), 0o644);
    }
    for (n, time) in ["2099", "soon", "31.12.2099", "209912", "1e9"]
        .iter()
        .enumerate()
    {
        let text = format!("---\nnot_before: {time}\n---\nx\n");
        root.drop_file(format!("bad{n}.md"), text.as_bytes(), 0o644);
    }
    let mut run = root.start(&["--workers", "2"]);
    root.wait_until("those that are no times are refused", || {
        (0..5).all(|n| root.is_parked(&format!("bad{n}.md")))
    });
    root.script("last", "true");
    root.wait_until("another item is done", || root.is_done("last"));
    run.signal("TERM");
    run.wait();
    for (n, time) in times.iter().enumerate() {
        for name in [format!("t{n}.md"), format!("t{n}.json")] {
            assert_eq!(root.show(&name)["state"], "scheduled", "{name}: {time}");
        }
    }
    for n in 0..5 {
        assert!(reason(&root, &format!("bad{n}.md")).contains("not_before"));
    }
}

#[test]
fn what_is_nearly_right_is_refused_with_the_right_word_or_said_where_it_starts() {
    let root = with_cat();
    let refused: [(&str, &str, &str); 10] = [
        (
            "blank.md",
            "\n---\nnot_before: 2099-01-01\n---\nx\n",
            "first line of the file",
        ),
        (
            "dashes.md",
            "----\npriority: 2\n----\nx\n",
            "first line of the file",
        ),
        (
            "colon",
            "#!/bin/sh\n#harness: priority: 2\necho ran\n",
            "`#harness priority: …`",
        ),
        (
            "space",
            "#!/bin/sh\n# harness priority: 2\necho ran\n",
            "`#harness priority: …`",
        ),
        (
            "slip.md",
            "---\npriorty: 2\n---\nx\n",
            "the nearest is `priority`",
        ),
        (
            "case.md",
            "---\nPriority: 2\n---\nx\n",
            "the nearest is `priority`",
        ),
        (
            "indent.md",
            "---\nagent: mine\n  priority: 2\n---\nx\n",
            "line 3",
        ),
        ("env.md", "---\nenv:\nFOO: 1\n---\nx\n", "indented"),
        (
            "twice.json",
            "{\"priority\": 1, \"priority\": 9, \"prompt\": \"x\"}",
            "`priority` stands there twice",
        ),
        (
            "twice.md",
            "---\npriority: 1\npriority: 9\n---\nx\n",
            "`priority` stands there twice",
        ),
    ];
    for (name, text, _) in refused {
        root.drop_file(name, text.as_bytes(), 0o644);
    }
    root.drop_file("tab", b"#!/bin/sh\n#harness\tenv: {A: b}\necho $A\n", 0o644);
    root.drop_file("open.md", b"priority: high\nDo it.\n", 0o644);
    root.drop_file("late", b"#!/bin/sh\nset -e\n#harness priority: 2\n", 0o644);
    root.drop_file("own.md", b"---\nowner: me\npriority: 2\n---\nx\n", 0o644);
    let out = root.drain();
    for (name, _, words) in refused {
        let why = reason(&root, name);
        assert!(root.is_parked(name) && why.contains(words), "{name}: {why}");
        for foreign in ["Policy", "serde", "EOF", "scalar", "mapping", "\n"] {
            assert!(!why.contains(foreign), "{name}: {why}");
        }
    }
    assert!(printed(&root).contains("b\n"), "{}", root.picture());
    let said = describe(&out);
    for (name, words) in [
        ("open.md", "fields: none; line 1 looks like one"),
        ("late", "fields: none; line 3 looks like one"),
    ] {
        assert!(root.is_done(name));
        assert!(
            said.contains(&format!("started     {name} (attempt 1; {words}")),
            "{said}"
        );
        assert!(root.ok(&["show", name]).contains(words));
    }
    let story = root.ok(&["show", "own.md"]);
    assert!(
        story.contains("fields: priority; kept without effect: owner"),
        "{story}"
    );
}

#[test]
fn only_prompts_reach_an_agent_and_a_byte_order_mark_hides_nothing() {
    let root = with_cat();
    let utf16: Vec<u8> = "Do it.\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let refused: [(&str, Vec<u8>, &str); 6] = [
        (
            "marked.md",
            [b"\xff\xfe".to_vec(), utf16.clone()].concat(),
            "UTF-16",
        ),
        ("unmarked.md", utf16, "UTF-16"),
        ("nul.md", b"Do\0it\n".to_vec(), "NUL byte in line 1"),
        ("job.sh", b"echo to the agent\n".to_vec(), "#!/bin/sh"),
        ("job.py", b"print('to the agent')\n".to_vec(), "#!"),
        ("task", b"{\"prompt\": \"to the agent\"}".to_vec(), ".json"),
    ];
    for (name, bytes, _) in &refused {
        root.drop_file(name, bytes, 0o644);
    }
    let script = b"\xef\xbb\xbf#!/bin/sh\n#harness env: {A: b}\necho \"ran $A\"\n";
    root.drop_file("script", script, 0o644);
    root.drop_file("executable", script, 0o755);
    root.drop_file(
        "p.md",
        b"\xef\xbb\xbf---\npriority: 2\n---\nthe prompt\n",
        0o644,
    );
    root.drain();
    for (name, _, words) in &refused {
        let why = reason(&root, name);
        assert!(root.is_parked(name) && why.contains(words), "{name}: {why}");
    }
    for name in ["script", "executable", "p.md"] {
        assert_eq!(
            root.show(name)["outcome"],
            "succeeded",
            "{name}: {}",
            root.picture()
        );
    }
    let printed = printed(&root);
    assert_eq!(printed.matches("ran b\n").count(), 2, "{printed}");
    assert_eq!(printed.matches("the prompt\n").count(), 1, "{printed}");
    assert!(
        !printed.contains("priority") && !printed.contains("to the agent"),
        "{printed}"
    );
}

#[test]
fn an_editors_temporary_file_is_no_item_and_list_and_doctor_say_so() {
    let root = Root::plain();
    let mut run = root.start(&["--workers", "2"]);
    let pending = root.at("queue/pending");
    let temporary = [
        "fix.sh.tmp.4242.9f3a1c",
        "sedAb3xYz",
        "4913",
        "#fix.sh#",
        "fix.sh~",
    ];
    for name in temporary {
        fs::write(pending.join(name), "#!/bin/sh\n:\n").unwrap();
    }
    root.script("sedatives", "true");
    root.script("fix.tmp.md.x", "true");
    root.wait_until("items are done", || {
        root.is_done("sedatives") && root.is_done("fix.tmp.md.x")
    });
    let list = root.harness(&["list"]);
    let doctor = root.ok(&["doctor"]);
    for name in temporary {
        assert!(pending.join(name).exists(), "{}", root.picture());
        let said = describe(&list);
        assert!(
            said.contains(&format!("queue/pending/{name} is no item: it looks like ")),
            "{said}"
        );
        assert!(doctor.contains(&format!("{name}: ")), "{doctor}");
    }
    fs::rename(pending.join(temporary[0]), pending.join("fix.sh")).unwrap();
    root.wait_until("it is done under its own name", || root.is_done("fix.sh"));
    run.signal("TERM");
    run.wait();
    let refused = root.harness(&["add", "--name", "x.tmp.1234", "--prompt", "x"]);
    let said = describe(&refused);
    assert!(
        !refused.status.success() && said.contains("a temporary file"),
        "{said}"
    );
}

#[test]
fn an_item_that_waits_for_a_name_that_nobody_has_is_told_with_the_nearest() {
    let root = Root::plain();
    root.script("build.sh", "true");
    root.script("bad", "#harness retries: 0\nexit 1");
    root.script("x", "#harness after: biuld.sh\ntrue");
    root.script("y", "#harness after: [build, bad]\ntrue");
    let file = root.at("z");
    fs::write(&file, "#!/bin/sh\ntrue\n").unwrap();
    let added = root.harness(&["add", "--after", "nope", file.to_str().unwrap()]);
    assert!(added.status.success());
    let said = describe(&added);
    assert!(
        said.contains("z waits for nope (there is no such item)"),
        "{said}"
    );
    let out = describe(&root.drain());
    assert!(
        out.contains("it waits for biuld.sh (there is no such item; the nearest is build.sh)"),
        "{out}"
    );
    for (name, words) in [
        (
            "x",
            "biuld.sh (there is no such item; the nearest is build.sh)",
        ),
        (
            "y",
            "build (there is no such item; the nearest is build.sh), bad (parked)",
        ),
    ] {
        assert!(
            reason(&root, name).contains(words),
            "{}",
            reason(&root, name)
        );
        assert!(root.ok(&["show", name]).contains(words));
        assert!(root.ok(&["list"]).contains("there is no such item"));
    }
}
