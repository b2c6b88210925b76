//! Files that are no items, names made to do harm, and writers that are not done yet.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Output;

use serde_json::Value;

use crate::support::{Root, describe, files_below, git};

/// Names that a shell, git, a path or a terminal might take for something else.
pub fn hostile_names() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "$(touch pwned)",
        "`touch pwned`",
        ";touch pwned;",
        "a\nb",
        "\r\x1b[31m",
        "it's",
        "\"q\"",
        "-rf",
        "--help",
        "-",
        "a..b",
        "x.lock",
        "100%",
        "%2e%2e",
        "ünï—☃",
        "a b",
        "@{-1}",
        "a~1^:?*[",
        "HEAD",
        "\\",
        "{{ROOT}}",
        "refs",
        " ",
        "#",
        "&&",
        "a\tb",
        "end.",
    ]
    .map(OsString::from)
    .into();
    names.push(OsString::from_vec(b"\xff\xfe".to_vec()));
    names.push("l".repeat(200).into());
    names.push("é".repeat(100).into());
    names
}

fn run(root: &Root, args: &[&str], name: &OsStr) -> Output {
    root.command()
        .args(args)
        .arg("--")
        .arg(name)
        .output()
        .unwrap()
}

fn story(root: &Root, name: &OsStr) -> Value {
    let out = run(root, &["show", "--json"], name);
    assert!(out.status.success(), "{name:?}: {}", describe(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn pwned(root: &Root) -> bool {
    files_below(root.path())
        .iter()
        .any(|p| p.file_name() == Some(OsStr::new("pwned")))
}

#[test]
fn hostile_names_work_in_a_repository_and_each_gets_a_branch_of_its_own() {
    let root = Root::with_repo();
    let names = hostile_names();
    for name in &names {
        root.script(name, "printf %s \"$HARNESS_ITEM\" > name");
    }
    root.exits(0, &["run", "--drain", "--workers", "6"]);
    let mut branches = Vec::new();
    for name in &names {
        let show = story(&root, name);
        assert_eq!(show["outcome"], "succeeded", "{name:?}: {show}");
        let branch = show["branch"].as_str().unwrap().to_owned();
        let blob = std::process::Command::new("git")
            .arg("-C")
            .arg(root.repo())
            .args(["cat-file", "blob", &format!("refs/heads/{branch}:name")])
            .output()
            .unwrap();
        assert_eq!(blob.stdout, name.as_bytes(), "{branch}");
        branches.push(branch);
    }
    branches.sort();
    branches.dedup();
    assert_eq!(branches.len(), names.len());
    let all = git(&root.repo(), &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(all.lines().count(), names.len() + 1, "{all}");
    git(&root.repo(), &["fsck", "--no-dangling"]);
    assert!(!pwned(&root));
    root.assert_nothing_left();
}

#[test]
fn hostile_names_can_be_listed_shown_retried_and_canceled() {
    let root = Root::plain();
    let names = hostile_names();
    for name in &names {
        root.script(name, "#harness retries: 0\n[ \"$HARNESS_ATTEMPT\" = 2 ]");
    }
    // Five failures in a row interrupt a slot: that is ended as a person would end it.
    let mut first = root.start(&["--drain", "--workers", "8"]);
    root.wait_until("all have failed", || {
        root.harness(&["resume"]);
        names
            .iter()
            .all(|n| root.at("queue/parked").join(n).exists())
    });
    assert_eq!(first.wait(), Some(1), "{}", first.said());
    let list: Value = serde_json::from_str(&root.ok(&["list", "parked", "--json"])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), names.len());
    let table = root.ok(&["list"]);
    assert_eq!(table.lines().count(), names.len() + 1, "{table}");
    assert!(
        !table.chars().any(|c| c.is_control() && c != '\n'),
        "{table:?}"
    );
    root.harness(&["resume"]);
    for name in &names {
        assert!(run(&root, &["show"], name).status.success(), "{name:?}");
        let out = run(&root, &["retry"], name);
        assert!(out.status.success(), "{name:?}: {}", describe(&out));
        let out = run(&root, &["cancel"], name);
        assert!(out.status.success(), "{name:?}: {}", describe(&out));
        assert!(root.at("queue/parked").join(name).exists(), "{name:?}");
        assert_eq!(story(&root, name)["outcome"], "canceled");
        assert!(run(&root, &["retry"], name).status.success());
    }
    assert_eq!(root.drain().status.code(), Some(0));
    for name in &names {
        assert_eq!(story(&root, name)["state"], "done", "{name:?}");
    }
    assert!(!pwned(&root));
    root.assert_nothing_left();
}

#[test]
fn what_is_no_item_is_refused_with_its_reason_and_never_followed() {
    let root = Root::plain();
    root.config("[repo]\npath = \"none\"\n[agents.a]\ncommand = [\"true\"]\n");
    let p = root.at("queue/pending");
    let victim = root.at("victim");
    fs::write(&victim, "#!/bin/sh\ntouch \"$HARNESS_ROOT/pwned\"\n").unwrap();
    symlink(&victim, p.join("link")).unwrap();
    symlink(root.path(), p.join("link-dir")).unwrap();
    symlink("nowhere", p.join("dangling")).unwrap();
    fs::create_dir(p.join("dir")).unwrap();
    fs::write(p.join("dir/inside"), "kept").unwrap();
    nix::unistd::mkfifo(&p.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Bound elsewhere: a socket's path is short.
    let short = tempfile::tempdir().unwrap();
    let _socket = UnixListener::bind(short.path().join("s")).unwrap();
    fs::rename(short.path().join("s"), p.join("socket")).unwrap();
    let long = "n".repeat(201);
    let longest = "n".repeat(255);
    let texts: [(&str, &[u8]); 9] = [
        ("empty", b""),
        ("bad.json", b"{\"prompt\": "),
        ("list.json", b"[]"),
        ("front.md", b"---\npriority: [\n---\nx"),
        ("open.md", b"---\npriority: high\nx"),
        ("agent.md", b"---\nagent: nobody\n---\nx"),
        ("repo.md", b"---\nagent: a\nrepo: web\n---\nx"),
        (&long, b"#!/bin/sh\n"),
        (&longest, b"#!/bin/sh\n"),
    ];
    for (name, text) in texts {
        root.drop_file(name, text, 0o644);
    }
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    for (name, why) in [
        ("link", "symlink"),
        ("link-dir", "symlink"),
        ("dangling", "symlink"),
        ("dir", "directory"),
        ("fifo", "fifo"),
        ("socket", "socket"),
        ("empty", "empty"),
        ("bad.json", "bad JSON"),
        ("list.json", "not an object"),
        ("front.md", "front matter"),
        ("open.md", "never closed"),
        ("agent.md", "unknown agent `nobody`; known are: a"),
        ("repo.md", "unknown repo `web`"),
        (&long, "200 bytes"),
        (&longest, "200 bytes"),
    ] {
        let show = root.show(name);
        assert_eq!(
            (&show["state"], &show["outcome"]),
            (&"parked".into(), &"refused".into()),
            "{show}"
        );
        assert!(show["reason"].as_str().unwrap().contains(why), "{show}");
        assert_eq!(show["attempts"].as_array().unwrap().len(), 0);
        root.ok(&["show", name]);
    }
    assert_eq!(
        fs::read(root.at("queue/parked/dir/inside")).unwrap(),
        b"kept"
    );
    assert_eq!(root.show("link")["fields"], Value::Null);
    // What was refused once and dropped again is kept beside, the longest names as well.
    for name in [&*long, &*longest, "empty"] {
        root.drop_file(name, b"", 0o644);
    }
    assert_eq!(root.drain().status.code(), Some(1));
    let parked = fs::read_dir(root.at("queue/parked")).unwrap().flatten();
    let backups = parked
        .filter(|e| e.file_name().as_bytes().ends_with(b".~1~"))
        .count();
    assert_eq!(backups, 3, "{}", root.picture());
    assert!(!pwned(&root));
    root.assert_nothing_left();
}

/// Its text says who has an item: no agent is to be paid for it.
#[test]
fn a_link_to_a_claim_is_no_item() {
    let root = Root::plain();
    root.config("agent = \"a\"\n[repo]\npath = \"none\"\n[agents.a]\ncommand = [\"true\"]\n");
    root.script("x", "ln ../../state/claims/x ../../queue/pending/linked; ln ../../state/agents/$HARNESS_SLOT/marker ../../queue/pending/marked");
    fs::write(root.at("text"), "a prompt\n").unwrap();
    fs::hard_link(root.at("text"), root.at("queue/pending/prompt")).unwrap();
    root.drain();
    root.drain();
    for name in ["linked", "marked"] {
        let show = root.show(name);
        assert_eq!(show["outcome"], "refused", "{show:#}");
        assert!(
            show["reason"].as_str().unwrap().contains("a link to"),
            "{show:#}"
        );
    }
    assert!(root.is_done("prompt"), "{:#}", root.show("prompt"));
    root.assert_nothing_left();
}

#[test]
fn hidden_and_temporary_files_are_left_alone() {
    let root = Root::plain();
    let names = [
        ".hidden",
        "x~",
        "x.tmp",
        "x.part",
        "x.swp",
        "x.crdownload",
        "x.~1~",
    ];
    for name in names {
        root.script(name, "touch \"$HARNESS_ROOT/pwned\"");
    }
    assert_eq!(root.drain().status.code(), Some(0));
    for name in names {
        assert!(root.at("queue/pending").join(name).exists(), "{name}");
    }
    assert_eq!(root.ok(&["list", "--json"]).trim(), "[]");
    assert!(!pwned(&root));
}

#[test]
fn names_that_lead_out_of_the_queue_are_no_names_for_any_command() {
    let root = Root::plain();
    root.script("x", "true");
    for name in [
        "..",
        ".",
        "",
        "../pending/x",
        "/etc/passwd",
        "queue/pending/x",
        ".hidden",
        "x~",
    ] {
        for command in ["show", "cancel", "retry", "release"] {
            let out = run(&root, &[command], OsStr::new(name));
            assert_eq!(
                out.status.code(),
                Some(2),
                "{command} {name}: {}",
                describe(&out)
            );
        }
    }
    assert_eq!(
        files_below(&root.at("state/items")),
        Vec::<std::path::PathBuf>::new()
    );
    assert!(root.at("queue/pending/x").exists());
}

#[test]
fn a_file_is_read_only_when_its_last_writer_has_closed_it_and_drain_waits_for_that() {
    let root = Root::plain();
    let open = |name: &str| {
        let path = root.at("queue/pending").join(name);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
    };
    let mut first = open("slow");
    first.write_all(b"#!/bin/sh\necho first\n").unwrap();
    let empty = open("late");
    let mut run = root.start(&["--drain", "--workers", "2"]);
    let mut second = open("slow");
    drop(first);
    // Other items come and go meanwhile, longer than an empty file is waited for.
    root.script("other", "sleep 2.5");
    root.wait_until("the other is done", || root.is_done("other"));
    assert!(run.child.try_wait().unwrap().is_none(), "{}", run.said());
    second.write_all(b"echo second\n").unwrap();
    assert!(root.at("queue/pending/slow").exists() && root.at("queue/pending/late").exists());
    assert_eq!(root.show("slow")["attempts"].as_array().unwrap().len(), 0);
    drop(second);
    root.wait_until("it is done", || root.is_done("slow"));
    assert!(run.child.try_wait().unwrap().is_none(), "{}", run.said());
    (&empty).write_all(b"#!/bin/sh\n").unwrap();
    drop(empty);
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let sid = root.show("slow")["attempts"][0]["session"].clone();
    let log = root
        .at("state/sessions")
        .join(sid.as_str().unwrap())
        .join("stdout.log");
    assert_eq!(fs::read(log).unwrap(), b"first\nsecond\n");
    assert!(root.is_done("late"));
    root.assert_nothing_left();
}

/// Not through the binary: there the instant between the reading and the rename is not to be met.
#[test]
fn a_writer_who_opens_the_file_while_it_is_claimed_gets_it_back_and_is_waited_for() {
    use harness::sys::{self, ReadLease};
    use harness::{layout, lease::Lease, spool, spool::ClaimOutcome};
    let root = Root::plain();
    root.script("x", "echo A");
    let path = root.at("queue/pending/x");
    sys::ignore_lease_breaks().unwrap();
    let own = layout::Root::new(root.path());
    let lease = Lease::try_take(&own, layout::SlotId(1)).unwrap().unwrap();
    let lease = std::sync::Arc::new(lease);
    let name = layout::Name::new("x");
    let writer = std::cell::Cell::new(None);
    let tried = |may_start: &dyn Fn() -> bool| {
        let may = |_: &_, _: &_| may_start();
        let request = spool::ClaimRequest {
            root: &own,
            lease: &lease,
            name: &name,
            durable: false,
            refuse: None,
            may_start: &may,
            accepts: &|_| spool::Acceptance::Now,
        };
        spool::try_claim(&request).unwrap()
    };
    // A child that another test starts has every descriptor, too, until it becomes another program.
    let mut first = ClaimOutcome::Unsettled;
    root.wait_until("it is looked at", || {
        first = tried(&|| {
            let path = path.clone();
            let open = move || OpenOptions::new().append(true).open(path).unwrap();
            writer.set(Some(std::thread::spawn(open)));
            root.wait_until("the writer stands in its open()", || {
                let probe = fs::File::open(root.at("queue/pending/x")).unwrap();
                sys::read_lease(&probe).unwrap() == ReadLease::BeingWritten
            });
            true
        });
        let begun = writer.take();
        let is_begun = begun.is_some();
        writer.set(begun);
        is_begun
    });
    assert!(
        matches!(first, ClaimOutcome::Unsettled),
        "claimed under its writer's hands"
    );
    let mut file = writer.take().unwrap().join().unwrap();
    assert!(
        matches!(tried(&|| true), ClaimOutcome::Unsettled),
        "claimed before it was closed"
    );
    file.write_all(b"echo B\n").unwrap();
    drop(file);
    let mut won = None;
    root.wait_until("it is claimed", || {
        if let ClaimOutcome::Won(claim, _) = tried(&|| true) {
            won = Some(claim.bytes.clone());
        }
        won.is_some()
    });
    assert_eq!(won.unwrap(), b"#!/bin/sh\necho A\necho B\n");
}

#[test]
fn fifos_in_place_of_a_sessions_files_hold_nobody_up() {
    let root = Root::with_repo();
    root.config(
        "agent = \"own\"\nnotify = [\"true\"]\nnotify_on = [\"done\", \"parked\"]\n[repo]\npath = \"repo\"\n[agents.own]\ncommand = [\"sh\", \"{{PROMPT_FILE}}\"]\nevents = \"claude\"\n",
    );
    let files = "stdout.log stderr.log events.jsonl summary.md metrics.json interrupt.md answer.md";
    let text = format!(
        "cd \"$HARNESS_SESSION_DIR\"\nfor f in {files}; do rm -f $f; mkfifo $f; done\nmkfifo \"$HARNESS_INTERRUPT\"\n"
    );
    root.drop_file(
        "x.md",
        format!("---\nretries: 0\n---\n{text}").as_bytes(),
        0o644,
    );
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it has ended", || {
        root.is_parked("x.md") || root.is_done("x.md")
    });
    root.ok(&["resume"]);
    run.signal("INT");
    assert!(run.wait().is_some());
    root.assert_nothing_left();
}
