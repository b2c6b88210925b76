//! Commands: `add`, `run FILE`, `list`, `show`, their JSON, their exit codes, their manners in pipes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Root, describe, files_below};

fn piped(root: &Root, args: &[&str], input: &[u8]) -> Output {
    let mut child = root
        .command()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn pending(root: &Root) -> BTreeSet<String> {
    let files = files_below(&root.at("queue/pending")).into_iter();
    files
        .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
        .filter(|n| n != ".gitignore")
        .collect()
}

fn json_of(root: &Root, args: &[&str]) -> Value {
    serde_json::from_str(&root.ok(args)).unwrap()
}

#[test]
fn add_drops_files_text_and_standard_input_and_prints_their_names() {
    let root = Root::plain();
    let file = root.at("in.md");
    fs::write(&file, "---\nodd: 1\npriority: low\n---\nDo it.\n").unwrap();
    let script = root.at("in.sh");
    fs::write(&script, "#!/bin/sh\necho hi\n").unwrap();
    let json = root.at("in.json");
    fs::write(&json, "{\"prompt\": \"p\", \"odd\": 2}").unwrap();
    let paths = [&file, &script, &json].map(|p| p.to_str().unwrap());
    let out = root.ok(&[
        "add", "-p", "high", "--after", "a b", "--after", "$(c)", paths[0], paths[1], paths[2],
    ]);
    assert_eq!(out, "in.md\nin.sh\nin.json\n");
    for name in ["in.md", "in.sh", "in.json"] {
        let show = root.show(name);
        assert_eq!(show["fields"]["priority"], "high", "{show}");
        assert_eq!(show["fields"]["after"], json!(["a b", "$(c)"]));
        assert_eq!(show["state"], "blocked");
    }
    assert_eq!(
        (
            &root.show("in.md")["fields"]["odd"],
            &root.show("in.json")["fields"]["odd"]
        ),
        (&json!(1), &json!(2))
    );
    let text = fs::read_to_string(root.at("queue/pending/in.md")).unwrap();
    assert!(text.ends_with("---\nDo it.\n"), "{text}");
    let name = root.ok(&["add", "--prompt", "Fix the $(touch pwned) now"]);
    assert!(name.starts_with("fix-the-touch-pwned-now-"), "{name}");
    assert_eq!(
        fs::read(root.at("queue/pending").join(name.trim())).unwrap(),
        b"Fix the $(touch pwned) now"
    );
    let out = piped(
        &root,
        &["add", "--name", "from stdin", "-", "--json"],
        b"#!/bin/sh\n",
    );
    assert_eq!(
        serde_json::from_slice::<Value>(&out.stdout).unwrap(),
        json!([{"item": "from stdin"}])
    );
    assert_eq!(root.events("from stdin"), ["added"]);
    assert_eq!(pending(&root).len(), 5);
}

#[test]
fn add_never_replaces_anything_and_gives_each_a_name_of_its_own() {
    let root = Root::plain();
    let mut added = Vec::new();
    let mut children: Vec<_> = (0..8)
        .map(|n| {
            let mut c = root.command();
            c.args([
                "add",
                "--name",
                "x.sh",
                "--prompt",
                &format!("#!/bin/sh\necho {n}\n"),
            ]);
            c.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children.drain(..) {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        added.push(String::from_utf8(out.stdout).unwrap().trim().to_owned());
    }
    let want: BTreeSet<String> = (1..=8)
        .map(|n| {
            if n == 1 {
                "x.sh".into()
            } else {
                format!("x-{n}.sh")
            }
        })
        .collect();
    assert_eq!(pending(&root), want);
    assert_eq!(added.into_iter().collect::<BTreeSet<_>>(), want);
    let texts: BTreeSet<_> = want
        .iter()
        .map(|n| fs::read(root.at("queue/pending").join(n)).unwrap())
        .collect();
    assert_eq!(texts.len(), 8);
    // A name that cannot grow is not made longer than a name may be.
    let long = "n".repeat(200);
    root.ok(&["add", "--name", &long, "--prompt", "a"]);
    assert_eq!(
        root.harness(&["add", "--name", &long, "--prompt", "b"])
            .status
            .code(),
        Some(100)
    );
    assert_eq!(pending(&root).len(), 9);
}

#[test]
fn add_refuses_what_would_be_parked_and_then_adds_nothing() {
    let root = Root::plain();
    let good = root.at("good.md");
    fs::write(&good, "fine").unwrap();
    let bad = root.at("bad.json");
    fs::write(&bad, "{").unwrap();
    let program = root.at("program");
    fs::write(&program, b"\x7fELF").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let of = |p: &std::path::Path| p.to_str().unwrap().to_owned();
    let (good, bad, program) = (of(&good), of(&bad), of(&program));
    let long = "n".repeat(201);
    let cases: [(&[&str], i32); 14] = [
        (&["add"], 2),
        (&["add", &good, &bad], 100),
        (&["add", &good, "no-such-file"], 100),
        (&["add", "queue"], 100),
        (&["add", "-p", "soon", &good], 100),
        (&["add", "-p", "high", &program], 100),
        (&["add", "--after", "a/b", &good], 100),
        (&["add", "--name", "", &good], 100),
        (&["add", "--name", "..", &good], 100),
        (&["add", "--name", "a/b", &good], 100),
        (&["add", "--name", "x.tmp", &good], 100),
        (&["add", "--name", &long, &good], 100),
        (&["add", "--name", "two", &good, "--prompt", "x"], 2),
        (&["add", "--prompt", "  "], 100),
    ];
    for (args, code) in cases {
        let out = root.exits(code, args);
        assert!(
            out.stdout.is_empty() && out.stderr.starts_with(b"harness: "),
            "{}",
            describe(&out)
        );
    }
    let big = piped(&root, &["add", "-"], &vec![b'x'; (1 << 20) + 1]);
    assert_eq!(big.status.code(), Some(100));
    assert_eq!(pending(&root), BTreeSet::new());
    assert_eq!(files_below(&root.at("state/items")).len(), 0);
}

#[test]
fn run_adds_the_files_it_is_given_and_says_what_became_of_them() {
    let root = Root::with_repo();
    let good = root.at("good.sh");
    fs::write(&good, "#!/bin/sh\necho x > made\n").unwrap();
    let bad = root.at("bad.sh");
    fs::write(&bad, "#!/bin/sh\n#harness retries: 0\nexit 3\n").unwrap();
    let paths = [&good, &bad].map(|p| p.to_str().unwrap());
    let out = root.exits(1, &["run", "--drain", paths[0], paths[1]]);
    let table = String::from_utf8(out.stdout).unwrap();
    assert!(
        table.contains("harness/good.sh/1") && table.contains("1 done, 1 parked"),
        "{table}"
    );
    assert!(good.exists(), "the user's file was taken away");
    let out = root.harness(&["run", "--drain", "--quiet", paths[0]]);
    assert_eq!(
        (out.status.code(), &*out.stdout, &*out.stderr),
        (Some(0), &b""[..], &b""[..])
    );
    assert_eq!(
        root.harness(&["run", "--drain", "no-such-file"])
            .status
            .code(),
        Some(100)
    );
}

#[test]
fn show_and_list_give_the_shapes_that_scripts_rely_on() {
    let root = Root::with_repo();
    root.script("good", "echo x > made");
    root.script("bad", "#harness retries: 1\nexit 3");
    root.script("blocked", "#harness after: bad\ntrue");
    root.drain();
    root.script("scheduled", "#harness not_before: 2100-01-01\ntrue");
    root.script("pending", "true");
    let show = root.show("good");
    assert_eq!(show["item"], "good");
    assert_eq!(show["state"], "done");
    assert_eq!(show["branch"], "harness/good/1");
    assert_eq!(show["reason"], Value::Null);
    let attempt = &show["attempts"][0];
    assert_eq!(
        (&attempt["attempt"], &attempt["outcome"]),
        (&json!(1), &json!("succeeded"))
    );
    assert_eq!(
        (&attempt["exit_status"], &attempt["signal"]),
        (&json!(0), &Value::Null)
    );
    assert_eq!(attempt["commits"], 1);
    for key in [
        "session",
        "slot",
        "agent",
        "claimed_at",
        "started_at",
        "ended_at",
    ] {
        assert!(attempt[key].is_string(), "{key}: {attempt}");
    }
    let show = root.show("bad");
    assert_eq!(
        (&show["state"], &show["outcome"], &show["branch"]),
        (&json!("parked"), &json!("failed"), &Value::Null)
    );
    assert_eq!(show["reason"], "exit status 3");
    assert_eq!(show["attempts"].as_array().unwrap().len(), 2);
    let list = json_of(&root, &["list", "--json"]);
    let states: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|i| (i["item"].as_str().unwrap(), i["state"].as_str().unwrap()))
        .collect();
    let want = [
        ("pending", "pending"),
        ("scheduled", "scheduled"),
        ("blocked", "blocked"),
        ("bad", "parked"),
        ("good", "done"),
    ];
    assert_eq!(states, want);
    for (name, state) in want {
        let only = json_of(&root, &["list", state, "--json"]);
        assert_eq!(only.as_array().unwrap().len(), 1);
        assert_eq!(
            (&only[0]["item"], root.show(name)["state"].as_str()),
            (&json!(name), Some(state))
        );
        assert!(
            root.ok(&["list", state]).contains(name) && root.ok(&["show", name]).contains(name)
        );
    }
    assert_eq!(json_of(&root, &["list", "claimed", "--json"]), json!([]));
}

#[test]
fn max_items_ends_a_run_after_so_many() {
    let root = Root::plain();
    for n in 0..5 {
        root.script(format!("j{n}"), "true");
    }
    root.exits(0, &["run", "--max-items", "2", "--workers", "3"]);
    assert_eq!(pending(&root).len(), 3);
    root.harness(&["run", "--max-items", "0"]);
    assert_eq!(pending(&root).len(), 3);
    root.harness(&["run", "--max-items", "9", "--drain"]);
    assert_eq!(pending(&root).len(), 0);
    root.assert_nothing_left();
}

#[test]
fn exit_codes_tell_a_wrong_command_line_from_a_wrong_place() {
    let root = Root::plain();
    for (args, code) in [
        (&["list"][..], 0),
        (&["run", "--drain"], 0),
        (&["--help"], 0),
        (&["frobnicate"], 2),
        (&["list", "nonsense"], 2),
        (&["run", "--workers", "many"], 2),
        (&["show"], 2),
        (&["show", "nobody"], 100),
    ] {
        root.exits(code, args);
    }
    for place in ["/nonexistent", root.repo().to_str().unwrap(), "/proc"] {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(["--root", place, "list"])
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(100), "{}", describe(&out));
    }
    fs::write(root.at("harness.toml"), "[harness]\nworkres = 3\n").unwrap();
    let out = root.exits(100, &["run", "--drain"]);
    let said = String::from_utf8_lossy(&out.stderr);
    for part in ["harness.toml", "2", "workres", "workers"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let root = Root::plain();
    for n in 0..300 {
        root.script(format!("done-{n}"), "true");
    }
    let closed = || {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        write
    };
    for args in [
        &["list"][..],
        &["list", "--json"],
        &["show", "done-1"],
        &["status"],
        &["config"],
    ] {
        let out = root
            .command()
            .args(args)
            .stdout(closed())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(
            (out.status.code(), &*out.stderr),
            (Some(0), &b""[..]),
            "{args:?}: {}",
            describe(&out)
        );
    }
    for (args, code) in [
        (&["run", "--max-items", "3"][..], 0),
        (&["cancel", "done-299"], 0),
        (&["pause"], 0),
        (&["resume"], 0),
        (&["show", "nobody"], 100),
    ] {
        let status = root
            .command()
            .args(args)
            .stdout(closed())
            .stderr(closed())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
    assert_eq!(
        json_of(&root, &["list", "done", "--json"])
            .as_array()
            .unwrap()
            .len(),
        3
    );
    root.assert_nothing_left();
}
