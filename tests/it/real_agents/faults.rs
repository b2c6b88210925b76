//! What real CLIs say when something is wrong, and what harness makes of it; what reaches them of a
//! table and an item; and that they go on with a conversation of theirs.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::setup::{Cli, Model, configure_with, ready};
use super::{drain, start};
use crate::launch::session;
use crate::support::{Root, git};

/// A prompt for which the model plays this script, with front matter.
fn ask(root: &Root, name: &str, fields: &str, script: &str) {
    let text = format!("---\n{fields}\n---\nWork on this, please.\n\n[[fake:{script}]]\n");
    root.drop_file(name, text.as_bytes(), 0o644);
}

/// How many requests played each script.
fn requests(model: &Model) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for e in model.served() {
        *counts
            .entry(e["script"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    counts
}

/// One fault: what is played, what it needs in the item, and what must come of it.
struct Case {
    script: &'static str,
    fields: &'static str,
    outcome: &'static str,
    fault: &'static str,
    state: &'static str,
    /// Requests at most.
    asked: usize,
    /// What the reason tells the user.
    advice: &'static str,
}

const fn case(
    script: &'static str,
    (outcome, fault, state): (&'static str, &'static str, &'static str),
    asked: usize,
    advice: &'static str,
) -> Case {
    Case {
        script,
        fields: "retries: 0",
        outcome,
        fault,
        state,
        asked,
        advice,
    }
}

fn faults(cli: Cli, cases: &[Case]) {
    let Some((program, model)) = ready(cli) else {
        return;
    };
    let root = Root::with_repo();
    configure_with(&root, cli, &program, &model.url(), "", &[]);
    let name = |c: &Case| match c.fields.contains("127.0.0.1:9") {
        true => "dead-api.md".to_owned(),
        false => format!("{}.md", c.script),
    };
    let mut run = start(&root, &["--workers", "1"], "run.log");
    for c in cases {
        ask(&root, &name(c), c.fields, c.script);
        root.wait_until("it has had its attempt", || {
            // Five failures in a row pause the slot.
            let _none = fs::remove_file(root.at("state/interrupts/agent-1.interrupt"));
            root.events(&name(c)).contains(&"finished".to_owned())
        });
        // What all items of this agent would meet holds them all; for the next case that is ended.
        let hold = root.at("state/holds/real.hold");
        let of_account = ["billing", "auth", "rate_limit", "usage_limit"].contains(&c.fault);
        assert!(
            hold.exists() || !of_account || c.fault == "rate_limit",
            "{}",
            name(c)
        );
        let _none = fs::remove_file(hold);
    }
    run.signal("TERM");
    run.wait();
    let counts = requests(&model);
    for c in cases {
        let (item, file) = (name(c), session(&root, &name(c), 0));
        let show = root.show(&item);
        assert_eq!(file["outcome"], c.outcome, "{item}: {file:#}");
        assert_eq!(file["fault"], c.fault, "{item}: {file:#}");
        assert_eq!(show["state"], c.state, "{item}");
        assert_eq!(show["attempts"].as_array().map(Vec::len), Some(1), "{item}");
        let reason = file["reason"].as_str().unwrap();
        assert!(reason.contains(c.advice), "{item}: {reason}");
        if item != "dead-api.md" {
            let asked = counts.get(c.script).copied().unwrap_or_default();
            assert!((1..=c.asked).contains(&asked), "{item}: {asked} requests");
        }
    }
    root.assert_nothing_left();
}

const PARK_LIMITED: (&str, &str, &str) = ("limited", "billing", "parked");
const PARK_AUTH: (&str, &str, &str) = ("failed", "auth", "parked");

#[test]
fn claude_in_trouble_ends_as_it_should_and_says_what_to_do() {
    let mut cases = vec![
        case("credit", PARK_LIMITED, 1, "add credit"),
        case("http401", PARK_AUTH, 2, "set ANTHROPIC_API_KEY"),
        case(
            "http429",
            ("limited", "rate_limit", "parked"),
            2,
            "fewer workers",
        ),
        case(
            "http529",
            ("failed", "overloaded", "parked"),
            3,
            "status page",
        ),
        case(
            "drop",
            ("failed", "network", "parked"),
            4,
            "this host's network",
        ),
        case(
            "noop",
            ("failed", "network", "parked"),
            0,
            "this host's network",
        ),
        case(
            "usage-limit",
            ("limited", "usage_limit", "scheduled"),
            1,
            "continues by itself",
        ),
    ];
    // Nobody listens there.
    cases[5].fields = "retries: 0\nenv: {ANTHROPIC_BASE_URL: 'http://127.0.0.1:9'}";
    // A login of a subscription instead of a key.
    cases[6].fields =
        "retries: 0\nenv: {ANTHROPIC_API_KEY: '', CLAUDE_CODE_OAUTH_TOKEN: 'sk-ant-oat01-made-up'}";
    faults(Cli::Claude, &cases);
}

#[test]
fn codex_in_trouble_ends_as_it_should_and_says_what_to_do() {
    let cases = [
        case("credit", PARK_LIMITED, 2, "add credit"),
        case("http401", PARK_AUTH, 4, "codex login"),
        case(
            "http429",
            ("limited", "rate_limit", "parked"),
            4,
            "fewer workers",
        ),
        case(
            "http500",
            ("failed", "overloaded", "parked"),
            4,
            "status page",
        ),
        case(
            "drop",
            ("failed", "network", "parked"),
            4,
            "this host's network",
        ),
        case(
            "usage-limit",
            ("limited", "usage_limit", "scheduled"),
            2,
            "continues by itself",
        ),
    ];
    faults(Cli::Codex, &cases);
}

/// The first event of an attempt's output.
fn init(root: &Root, name: &str) -> Value {
    let file = session(root, name, 0);
    let dir = root
        .at("state/sessions")
        .join(file["session"].as_str().unwrap());
    let text = fs::read_to_string(dir.join("stdout.log")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
    let mut inits = lines.filter(|l: &Value| l["subtype"] == "init");
    inits.next().unwrap()
}

#[test]
fn what_is_configured_really_reaches_claude() {
    let Some((program, model)) = ready(Cli::Claude) else {
        return;
    };
    let root = Root::with_repo();
    // Where agents may write.
    let hooked = root.at("home/.cache/hooked");
    fs::create_dir_all(hooked.parent().unwrap()).unwrap();
    let settings = serde_json::json!({"hooks": {"SessionStart": [{"hooks": [
        {"type": "command", "command": format!("touch {}", hooked.display())}]}]}});
    fs::write(root.at("settings.json"), settings.to_string()).unwrap();
    let more = "model = \"claude-sonnet-4-5\"\nmax_turns = 2\nsettings = \"settings.json\"\n";
    configure_with(&root, Cli::Claude, &program, &model.url(), more, &[]);
    ask(&root, "turns.md", "retries: 0", "many-turns n=9");
    ask(
        &root,
        "money.md",
        "retries: 0\nbudget_usd: 0.5\nmax_turns: 9",
        "expensive",
    );
    ask(&root, "good.md", "max_turns: 0", "edit file=good.txt");
    drain(&root, "3");
    let turns = session(&root, "turns.md", 0);
    assert_eq!(
        (&turns["fault"], &turns["max_turns"]),
        (&"limits_reached".into(), &2.into())
    );
    assert!(
        turns["reason"]
            .as_str()
            .unwrap()
            .contains("raise `max_turns`"),
        "{turns:#}"
    );
    let money = session(&root, "money.md", 0);
    assert_eq!(money["outcome"], "over_budget", "{money:#}");
    assert!(
        money["reason"]
            .as_str()
            .unwrap()
            .contains("raise `budget_usd`")
    );
    assert!(
        root.is_done("good.md"),
        "four turns, and no limit: {}",
        root.picture()
    );
    let counts = requests(&model);
    assert_eq!(counts["many-turns"], 2, "{counts:?}");
    assert!(counts["expensive"] <= 2, "{counts:?}");
    let first = init(&root, "good.md");
    let sid = session(&root, "good.md", 0)["session"].clone();
    assert_eq!(
        (&first["session_id"], &first["permissionMode"]),
        (&sid, &"acceptEdits".into())
    );
    assert_eq!(first["model"], "claude-sonnet-4-5");
    assert!(hooked.exists(), "the settings file's hook ran");
    // The system prompt has the bootstrap text, filled in.
    for e in model.served() {
        assert_eq!(e["model"], "claude-sonnet-4-5");
        let told = e["instructions"].as_str().unwrap();
        assert!(
            told.contains("working unattended on the item") && !told.contains("{{"),
            "{told}"
        );
    }
    root.assert_nothing_left();
}

#[test]
fn a_tool_that_is_not_allowed_is_denied_to_claude_and_the_item_says_so() {
    let Some((program, model)) = ready(Cli::Claude) else {
        return;
    };
    let root = Root::with_repo();
    let more = "tools = [\"Read\"]\npermission_mode = \"dontAsk\"\n";
    configure_with(&root, Cli::Claude, &program, &model.url(), more, &[]);
    ask(&root, "x.md", "", "bash-edit");
    drain(&root, "1");
    assert!(root.is_parked("x.md"), "{}", root.picture());
    let file = session(&root, "x.md", 0);
    assert_eq!(file["fault"], "permission", "{file:#}");
    assert!(file["reason"].as_str().unwrap().contains("`tools`"));
}

/// The API fails in the middle of the work, for good: the attempt fails, and the next one goes on in
/// the same conversation and worktree, and finishes.
fn resumed(cli: Cli, script: &str) {
    let Some((program, model)) = ready(cli) else {
        return;
    };
    let root = Root::with_repo();
    configure_with(&root, cli, &program, &model.url(), "resume = true\n", &[]);
    ask(&root, "x.md", "", script);
    drain(&root, "2");
    assert!(root.is_done("x.md"), "{}", root.picture());
    let (first, second) = (session(&root, "x.md", 0), session(&root, "x.md", 1));
    assert_eq!(first["outcome"], "failed", "{first:#}");
    assert_eq!(second["outcome"], "succeeded", "{second:#}");
    assert!(first["cli_session"].is_string());
    assert_eq!(second["resumed"], first["cli_session"]);
    assert_eq!(second["cli_session"], first["cli_session"]);
    assert_eq!(second["worktree"], first["worktree"]);
    let branch = root.show("x.md")["branch"].as_str().unwrap().to_owned();
    let of = |file: &str| git(&root.repo(), &["show", &format!("{branch}:{file}")]);
    assert_eq!(
        of("progress.txt"),
        "step 0\nstep 1\n",
        "each step was done once"
    );
    assert_eq!(of("x.txt"), "hello from the fake model\n");
    let sessions: std::collections::BTreeSet<String> = model
        .served()
        .iter()
        .map(|e| e["session"].to_string())
        .collect();
    assert_eq!(sessions.len(), 1, "one conversation: {:?}", model.served());
    let last = model.served().pop().unwrap();
    assert!(
        last["said"]
            .as_str()
            .unwrap()
            .contains("Work on this, please.")
    );
    // What each attempt used is what the model served to it.
    let tokens = |f: &Value| f["input_tokens"].as_u64().unwrap();
    assert_eq!(
        tokens(&first) + tokens(&second),
        model.tokens().0,
        "{first:#}{second:#}"
    );
    root.assert_nothing_left();
}

#[test]
fn claude_goes_on_in_the_conversation_that_a_fault_broke_off() {
    resumed(
        Cli::Claude,
        "http500-then-bash-edit at=2 times=4 file=x.txt",
    );
}

#[test]
fn the_older_claude_goes_on_in_the_conversation_that_a_fault_broke_off() {
    resumed(
        Cli::ClaudeOlder,
        "http500-then-bash-edit at=2 times=4 file=x.txt",
    );
}

#[test]
fn codex_goes_on_in_the_conversation_that_a_fault_broke_off() {
    resumed(Cli::Codex, "http500-then-bash-edit at=2 times=6 file=x.txt");
}
