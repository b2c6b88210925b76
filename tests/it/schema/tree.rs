//! A tree in which all has happened once.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::agents::play;
use crate::launch::table;
use crate::support::{Root, Running, kill};

/// What the records of its items tell, each at least once.
pub const EVENTS: &[&str] = &[
    "added",
    "claimed",
    "started",
    "adopted",
    "gating",
    "gate",
    "publishing",
    "finished",
    "approved",
    "rejected",
    "landing",
    "merged",
    "returned",
    "interrupted",
    "resumed",
    "retried",
    "released",
    "canceled",
    "refused",
    "hook",
];

/// Items in every state, gates, merges and a conflict, answered questions, holds, failures, an adopted
/// agent, a budget, and conversations.
pub fn full_tree() -> Root {
    let root = Root::with_repo();
    let table = table(&root, "claude", "");
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"repo\"\n[budget]\nday_usd = 50\nwindow_tokens = 9000000\n\
         [gates.good]\ncommand = [\"true\"]\nwhen = [\"before\", \"after\", \"merge\"]\n{table}"
    ));
    fs::create_dir_all(root.at("hooks")).unwrap();
    for name in ["before-start", "after-end"] {
        let hook = root.at("hooks").join(name);
        fs::write(&hook, "#!/bin/sh\n[ \"$HARNESS_ITEM\" != bad ]\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }
    play(&root, "good.md", "success file=x.txt");
    root.script("bad", "#harness retries: 1\nexit 3");
    for name in ["finished", "other", "looked-at", "sent-back"] {
        let body = format!("#harness integrate: review\necho {name} >{name}");
        root.script(name, &body);
    }
    for name in ["landed", "clashes"] {
        let body = format!("#harness integrate: review\necho {name} >README");
        root.script(name, &body);
    }
    root.ok(&["add", "--prompt", "[[mock:noop]]", "--name", "added.md"]);
    root.drop_file("refused.json", b"{", 0o644);
    run_out(&root);
    root.ok(&["approve", "looked-at", "landed", "clashes"]);
    root.ok(&["reject", "sent-back", "--comment", "again, please"]);
    root.ok(&["retry", "bad"]);
    root.script("canceled", "true");
    root.ok(&["cancel", "canceled"]);
    run_out(&root);
    frozen(&root);
    adopted(&root);
    // From here on the agent is held.
    play(&root, "trouble.md", "usage-limit");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("its agent is held", || {
        root.at("state/holds/claude.hold").exists()
    });
    drop(run);
    asks(&root).wait();
    root.script("later", "#harness not_before: 2100-01-01\ntrue");
    root.script("soon", "#harness not_before: 2100-01-01\ntrue");
    root.ok(&["release", "soon"]);
    root.script("waits", "#harness after: [later, nobody]\ntrue");
    fs::write(root.at("state/interrupts/agent1.interrupt"), "x").unwrap();
    let mut root = root;
    crate::submit::with_slurm(&mut root);
    root.ok(&["submit"]);
    root
}

fn run_out(root: &Root) {
    root.harness(&["run", "--drain", "--workers", "1"]);
}

/// One asks, is frozen, and is answered.
fn frozen(root: &Root) {
    let mut run = root.start(&["--workers", "1"]);
    play(root, "frozen.md", "question file=q.txt text=Which?");
    let raised = root.at("state/interrupts/agent-1.interrupt");
    let has = |event: &str| root.events("frozen.md").iter().any(|e| e == event);
    root.wait_until("it is frozen", || raised.exists() && has("interrupted"));
    root.ok(&["resume", "agent-1", "--answer", "this one"]);
    root.wait_until("it goes on and ends", || root.is_done("frozen.md"));
    run.signal("INT");
    run.wait();
}

/// One asks and ends, which parks it, and its slot waits for an answer. Its harness, told to end.
pub fn asks(root: &Root) -> Running {
    // It ends with the file's appearance: nothing of it is left to be frozen.
    root.script(
        "asks",
        "echo 'which?' > q; exec mv q \"$HARNESS_INTERRUPT\"",
    );
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it waits for an answer", || {
        // Frozen before it had ended, it ends here.
        let agents = root.processes();
        let frozen = agents
            .iter()
            .filter(|(_, command)| command.contains("mv q "));
        frozen.for_each(|(pid, _)| kill(*pid, "KILL"));
        root.is_parked("asks")
    });
    run.signal("INT");
    run
}

/// Its harness is killed, and another one goes on with it.
fn adopted(root: &Root) {
    let go = root.at("go");
    let body = format!("until [ -e {} ]; do sleep 0.02; done", go.display());
    root.script("adopted", &body);
    let run = root.start(&["--workers", "1"]);
    let has = |event: &str| root.events("adopted").iter().any(|e| e == event);
    root.wait_until("it runs", || has("started"));
    run.kill9();
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it is adopted", || has("adopted"));
    fs::write(go, "").unwrap();
    root.wait_until("it has ended", || root.is_done("adopted"));
    run.signal("INT");
    run.wait();
}
