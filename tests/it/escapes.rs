//! No character that acts on a terminal, or turns the direction of writing, reaches what people look at:
//! every text file of `state/`, the messages of `run` and the output of the commands.

use std::fs;

use harness::text::is_obeyed;

use crate::support::{Root, describe, files_below};

/// OSC 52 writes the clipboard; a C1 control, DEL, and three that turn the direction.
const EVIL: &str = "\x1b]52;c;ZXZpbA==\x07\u{9b}1m\x7f\u{202e}\u{2066}\u{61c}evil";

/// A claude that says it in every place, then does what `end` says.
fn says_it(root: &Root, end: &str) {
    let lines = [
        serde_json::json!({"type": "system", "subtype": "init", "session_id": EVIL, "model": EVIL, "tools": [EVIL]}),
        serde_json::json!({"type": "assistant", "session_id": EVIL, "message": {"model": EVIL, "role": "assistant",
            "content": [{"type": "text", "text": EVIL}, {"type": "tool_use", "id": EVIL, "name": EVIL, "input": {"command": EVIL}}],
            "usage": {"input_tokens": 1, "output_tokens": 1}}}),
        serde_json::json!({"type": "result", "subtype": "error_during_execution", "is_error": true, "result": EVIL,
            "session_id": EVIL, "num_turns": 1, "total_cost_usd": 0.1, "usage": {"input_tokens": 1, "output_tokens": 1}}),
    ];
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    fs::write(root.at("says"), text.join("\n") + "\n").unwrap();
    let says = root.at("says");
    let agent = format!("#!/bin/sh\ncat >/dev/null\ncat {}\n{end}\n", says.display());
    fs::write(root.at("agent"), agent).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.at("agent"), mode).unwrap();
    let command = root.at("agent");
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"none\"\n[agents.claude]\ncli = \"claude\"\ncommand = [\"{}\"]\n",
        command.display()
    ));
}

/// Where it stands: a file or an output, and its line.
fn where_it_stands(what: &str, text: &str) -> Vec<String> {
    let odd = |l: &&str| l.contains(|c| is_obeyed(c) && c != '\t');
    let lines = text.lines().filter(odd);
    lines.map(|l| format!("{what}: {l:?}")).collect()
}

fn assert_clean(root: &Root, run: &std::process::Output) {
    // What an agent or a person wrote stays as it is.
    let raw = ["stdout.log", "stderr.log", "item", "prompt.md", "answer.md"];
    let mut found = Vec::new();
    for path in files_below(&root.at("state")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if raw.contains(&&*name) || name.ends_with(".interrupt") || name.starts_with('.') {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        found.extend(where_it_stands(&path.display().to_string(), &text));
    }
    for (what, said) in [("stdout", &run.stdout), ("stderr", &run.stderr)] {
        found.extend(where_it_stands(what, &String::from_utf8_lossy(said)));
    }
    for args in [
        &["show", "p.md"][..],
        &["show", "p.md", "--json"],
        &["status"],
        &["status", "--json"],
        &["session", "summary"],
        &["session", "events"],
        &["session", "tools", "--json"],
    ] {
        let out = root.ok(args);
        found.extend(where_it_stands(&args.join(" "), &out));
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn nothing_that_people_look_at_acts_on_their_terminal() {
    let root = Root::plain();
    says_it(
        &root,
        "printf '\\033]0;x\\007 \\342\\200\\256evil\\n' >&2; exit 1",
    );
    root.drop_file("p.md", b"do\n", 0o644);
    let run = root.drain();
    assert!(root.is_parked("p.md"), "{}", describe(&run));
    assert_clean(&root, &run);
    let summary = files_below(&root.at("state/sessions"));
    let summary = summary.iter().find(|p| p.ends_with("summary.md")).unwrap();
    assert!(fs::read_to_string(summary).unwrap().contains("evil"));
}

#[test]
fn a_question_does_not_either() {
    let root = Root::plain();
    says_it(
        &root,
        "printf '\\033]0;x\\007 \\342\\200\\256evil?\\n' > \"$HARNESS_INTERRUPT\"; until [ -e go ]; do sleep 0.02; done",
    );
    root.drop_file("p.md", b"do\n", 0o644);
    let mut run = root.start(&["--workers", "1"]);
    let interrupt_md = || {
        let all = files_below(&root.at("state/sessions"));
        all.into_iter().find(|p| p.ends_with("interrupt.md"))
    };
    root.wait_until("it is noticed", || interrupt_md().is_some());
    fs::write(root.at("worktrees/agent-1/go"), "").unwrap();
    root.wait_until("its status says so", || {
        root.ok(&["status", "--json"]).contains("\"interrupted\"")
    });
    run.signal("TERM");
    run.wait();
    let said = std::process::Output {
        status: std::process::ExitStatus::default(),
        stdout: Vec::new(),
        stderr: run.said().into_bytes(),
    };
    assert_clean(&root, &said);
}
