//! `harness add` with fields on the command line, and `--if-absent`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Root, files_below};

fn file(root: &Root, name: &str, text: &str, mode: u32) -> String {
    let path = root.at(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn pending(root: &Root) -> usize {
    let files = files_below(&root.at("queue/pending")).into_iter();
    files.filter(|p| !p.ends_with(".gitignore")).count()
}

fn said(root: &Root, args: &[&str], code: i32) -> String {
    let out = root.exits(code, args);
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn fields_of_the_command_line_go_into_every_kind_of_item_and_the_file_stays_as_it_was() {
    let root = Root::plain();
    root.config("agent = \"codex\"\n[repo]\npath = \"none\"\n[agents.mine]\ncommand = [\"cat\"]\n");
    let texts = [
        ("p.md", "---\ntimeout: 5\nodd: 1\n---\nDo it.\n", 0o644),
        (
            "j.json",
            "{\"prompt\": \"p\", \"exclusive\": \"old\"}",
            0o644,
        ),
        ("s.sh", "#!/bin/sh\n# says hi\necho hi\n", 0o755),
        ("py", "#!/usr/bin/env -S python3 -u\nprint(1)\n", 0o755),
    ];
    let files = texts.map(|(name, text, mode)| file(&root, name, text, mode));
    let fields = [
        "--not-before",
        "2036-12-24 09:00",
        "--timeout",
        "1h30m",
        "--exclusive",
        "db: $(x)",
    ];
    for (path, (name, text, mode)) in files.iter().zip(texts) {
        let mut args = vec!["add", path];
        args.extend(fields);
        if mode == 0o644 {
            args.extend(["--agent", "mine"]);
        }
        assert_eq!(root.ok(&args), format!("{name}\n"));
        let show = root.show(name);
        let got = &show["fields"];
        assert_eq!(got["timeout"], "1h30m", "{show:#}");
        assert_eq!(got["exclusive"], "db: $(x)", "{show:#}");
        assert_eq!(got["not_before"], "2036-12-24 09:00", "{show:#}");
        assert_eq!(show["state"], "scheduled", "{show:#}");
        let agent = if mode == 0o644 {
            json!("mine")
        } else {
            Value::Null
        };
        assert_eq!(got["agent"], agent, "{show:#}");
        assert_eq!(fs::read_to_string(path).unwrap(), text);
        let is_program = fs::metadata(root.at("queue/pending").join(name)).unwrap();
        assert_eq!(is_program.permissions().mode() & 0o777, mode);
    }
    // They act: a script that takes longer than its time is stopped.
    let long = "#!/bin/sh\n#harness retries: 0\nexec sleep 600\n";
    let path = file(&root, "long.sh", long, 0o755);
    root.ok(&["add", &path, "--timeout", "0.2"]);
    root.ok(&[
        "add",
        "--prompt",
        "#!/bin/sh\ntrue",
        "--name",
        "key",
        "--exclusive",
        "k",
    ]);
    root.exits(1, &["run", "--max-items", "2"]);
    assert_eq!(root.show("long.sh")["outcome"], "timed_out");
    assert!(root.is_done("key"));
}

#[test]
fn fields_that_an_item_cannot_have_are_refused_with_the_reason_and_nothing_is_added() {
    let root = Root::plain();
    root.config("[repo]\npath = \"none\"\n[agents.mine]\ncommand = [\"cat\"]\n");
    let sh = file(
        &root,
        "s.sh",
        "#!/bin/sh\n#harness timeout: 5\ntrue\n",
        0o755,
    );
    let node = file(
        &root,
        "n.js",
        "#!/usr/bin/env node\nconsole.log(1)\n",
        0o755,
    );
    let elf = file(&root, "elf", "\x7fELF not really", 0o755);
    for (args, word) in [
        (
            &["--prompt", "x", "--agent", "mien"][..],
            "the nearest is `mine`",
        ),
        (&[&sh, "--agent", "mine"], "it is a script"),
        (
            &[&sh, "--timeout", "9"],
            "a `#harness timeout` line of its own",
        ),
        (&[&node, "--timeout", "9"], "`node` knows no such comments"),
        (
            &[&elf, "--exclusive", "k"],
            "a program has no place for fields",
        ),
        (&["--prompt", "x", "--timeout", "soon"], "timeout"),
        (&["--prompt", "x", "--timeout", "0"], "a timeout of nothing"),
        (&["--prompt", "x", "--not-before", "soon"], "not a time"),
        (&["--prompt", "x", "--exclusive", ""], "exclusive"),
    ] {
        let mut all = vec!["add"];
        all.extend(args);
        let said = said(&root, &all, 100);
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert_eq!(pending(&root), 0);
    // Without fields the same files are welcome.
    root.ok(&["add", &node]);
}

#[test]
fn if_absent_adds_an_item_once_wherever_it_is_now_and_says_so() {
    let root = Root::plain();
    let add = [
        "add",
        "--if-absent",
        "--name",
        "nightly",
        "--prompt",
        "#!/bin/sh\ntrue",
    ];
    let json = |added: bool| {
        let mut args = add.to_vec();
        args.push("--json");
        let all: Value = serde_json::from_str(&root.ok(&args)).unwrap();
        assert_eq!(all[0]["added"], added, "{all}");
        all[0].clone()
    };
    assert_eq!(root.ok(&add), "nightly\n");
    for place in ["pending", "claimed", "done", "parked", "gone"] {
        let now = root.at("queue/pending/nightly");
        match place {
            "pending" => {}
            "claimed" => {
                fs::create_dir_all(root.at("queue/claimed/agent-9")).unwrap();
                fs::rename(&now, root.at("queue/claimed/agent-9/nightly")).unwrap();
            }
            "done" => {
                fs::rename(
                    root.at("queue/claimed/agent-9/nightly"),
                    root.at("queue/done/nightly"),
                )
                .unwrap();
            }
            "parked" => {
                fs::rename(
                    root.at("queue/done/nightly"),
                    root.at("queue/parked/nightly"),
                )
                .unwrap();
            }
            _ => fs::remove_file(root.at("queue/parked/nightly")).unwrap(),
        }
        let out = root.exits(0, &add);
        assert_eq!(out.stdout, b"nightly\n");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains("nightly is not added"), "{place}: {said}");
        assert_eq!(json(false)["state"], place);
        assert_eq!(pending(&root), usize::from(place == "pending"), "{place}");
    }
    // Without it, a name is free again, as ever.
    root.ok(&["add", "--name", "nightly", "--prompt", "#!/bin/sh\ntrue"]);
    // A name that is made up is always new; a file has its own.
    let said = said(&root, &["add", "--if-absent", "--prompt", "do it"], 2);
    assert!(said.contains("--name"), "{said}");
    let path = file(&root, "f.sh", "#!/bin/sh\ntrue\n", 0o755);
    let added = root.ok(&["add", "--if-absent", &path, "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&added).unwrap(),
        json!([{"item": "f.sh", "added": true}])
    );
    assert_eq!(root.ok(&["add", "--if-absent", &path]), "f.sh\n");
    assert_eq!(pending(&root), 2);
}

#[test]
fn an_item_that_comes_and_ends_while_another_command_looks_is_not_added_again() {
    let root = Root::plain();
    root.ok(&[
        "add",
        "--if-absent",
        "--name",
        "other",
        "--prompt",
        "#!/bin/sh\ntrue",
    ]);
    let lock = fs::File::open(root.at("state/add.lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    let mut add = root
        .command()
        .args([
            "add",
            "--if-absent",
            "--json",
            "--name",
            "x",
            "--prompt",
            "#!/bin/sh\ntrue",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let fds = format!("/proc/{}/fd", add.id());
    root.wait_until("it waits for its turn", || {
        let mut open = fs::read_dir(&fds).into_iter().flatten().flatten();
        let waits =
            open.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("state/add.lock")));
        waits || add.try_wait().unwrap().is_some()
    });
    assert!(add.try_wait().unwrap().is_none(), "it did not wait");
    // As another such command would have it, and a quick agent.
    root.script("x", "true");
    fs::rename(root.at("queue/pending/x"), root.at("queue/done/x")).unwrap();
    drop(lock);
    let out = add.wait_with_output().unwrap();
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(all, json!([{"item": "x", "added": false, "state": "done"}]));
}

#[test]
fn what_the_command_line_and_the_file_wait_for_is_all_waited_for() {
    let root = Root::plain();
    let after = |name: &str| root.show(name)["fields"]["after"].clone();
    for (name, text, want) in [
        ("one.md", "---\nafter: a\n---\nDo it.\n", json!(["a", "b"])),
        (
            "two.md",
            "---\nafter: [b, c]\n---\nDo it.\n",
            json!(["b", "c"]),
        ),
        ("none.md", "Do it.\n", json!(["b"])),
        (
            "j.json",
            "{\"after\": \"a\", \"prompt\": \"p\"}",
            json!(["a", "b"]),
        ),
    ] {
        let path = file(&root, name, text, 0o644);
        root.ok(&["add", &path, "--after", "b"]);
        assert_eq!(after(name), want, "{name}");
        assert_eq!(fs::read_to_string(path).unwrap(), text);
    }
    // It begins with the work of what it waits for, which the command line names.
    let base = file(&root, "base.md", "---\nbase: after\n---\nDo it.\n", 0o644);
    let added = said(&root, &["add", &base, "--after", "b"], 0);
    assert!(!added.contains("starts from its base"), "{added}");
    assert_eq!(after("base.md"), json!(["b"]));
    let more = said(&root, &["add", &base, "--after", "b", "--after", "c"], 100);
    assert!(more.contains("`after` names 2 items"), "{more}");
    let sh = file(&root, "s.sh", "#!/bin/sh\n#harness after: a\ntrue\n", 0o755);
    let refused = said(&root, &["add", &sh, "--after", "b"], 100);
    assert!(
        refused.contains("a `#harness after` line of its own"),
        "{refused}"
    );
    // A field of the file that is wrong is told by its own line.
    let bad = file(
        &root,
        "bad.md",
        "---\n\nretries: many\n---\nDo it.\n",
        0o644,
    );
    let told = said(&root, &["add", &bad, "-p", "high"], 100);
    assert!(told.contains("line 3, field `retries`"), "{told}");
}
