//! Budgets: what agents may cost by day, item, window and in all, over processes that die. The mock's
//! turns cost a cent and 1050 tokens each; a `success` takes three.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agents::play;
use crate::launch::{session, table};
use crate::support::{DEADLINE, Root, Running, describe, kill, pause};

/// Tokens of a `success`.
const TOKENS: u64 = 3 * 1050;

/// A ROOT whose prompts go to the mock of `cli`, with these lines in `[budget]` and in its table.
pub fn root_with(cli: &str, budget: &str, agent: &str) -> Root {
    let root = Root::plain();
    configure(&root, cli, budget, agent);
    root
}

pub fn configure(root: &Root, cli: &str, budget: &str, agent: &str) {
    let table = table(root, cli, agent);
    root.config(&format!(
        "agent = {cli:?}\n[repo]\npath = \"none\"\n[budget]\n{budget}\n{table}"
    ));
}

fn told(root: &Root) -> Value {
    serde_json::from_str(&root.ok(&["budget", "--json"])).unwrap()
}

/// What `harness budget` says of this scope.
fn row(root: &Root, scope: &str) -> Value {
    let told = told(root);
    let mut rows = told["budgets"].as_array().unwrap().iter();
    let row = rows.find(|row| row["scope"] == scope);
    row.unwrap_or_else(|| panic!("no {scope}: {told:#}"))
        .clone()
}

/// Used and reserved dollars of this scope.
pub fn usd(root: &Root, scope: &str) -> (f64, f64) {
    let row = row(root, scope);
    let of = |key: &str| row[key].as_f64().unwrap();
    (of("used_usd"), of("reserved_usd"))
}

pub fn hold(root: &Root, agent: &str) -> Option<Value> {
    let path = root.at(format!("state/holds/{agent}.hold"));
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Waits until the budget holds its agent; the hold.
pub fn held(root: &Root, run: &Running, agent: &str) -> Value {
    root.wait_until("its agent is held", || hold(root, agent).is_some());
    let hold = hold(root, agent).unwrap();
    assert_eq!(hold["class"], "budget", "{hold:#}\n{}", run.said());
    hold
}

pub fn end(mut run: Running) -> String {
    run.signal("TERM");
    run.wait();
    run.said()
}

pub fn done(root: &Root) -> usize {
    fs::read_dir(root.at("queue/done"))
        .unwrap()
        .flatten()
        .filter(|e| e.file_name() != ".gitignore")
        .count()
}

#[test]
fn an_attempt_is_charged_once_with_what_it_used_and_the_rest_is_given_back() {
    let root = root_with(
        "claude",
        "day_usd = 1\nday_tokens = 100000",
        "budget_usd = 0.5",
    );
    play(&root, "a.md", "tool s=1");
    let run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("it has reserved", || {
        root.at("state/budget/budget.json").exists() && usd(&root, "day").1 > 0.0
    });
    // Nothing is known of claude: its own limit.
    assert_eq!(usd(&root, "day"), (0.0, 0.5));
    assert_eq!(row(&root, "item")["item"], "a.md");
    assert_eq!(row(&root, "item")["reserved_usd"], 0.5);
    let mut run = run;
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let file = session(&root, "a.md", 0);
    let cost = file["cost_usd"].as_f64().unwrap();
    assert!(cost > 0.0, "{file:#}");
    assert_eq!(file["charged_usd"], file["cost_usd"], "{file:#}");
    let day = row(&root, "day");
    assert_eq!(
        (&day["used_usd"], &day["reserved_usd"]),
        (&cost.into(), &0.0.into())
    );
    assert_eq!(day["left_usd"], 1.0 - cost, "{day:#}");
    assert_eq!(day["used_tokens"], file["charged_tokens"]);
    assert_eq!(day["reserved_tokens"], 0);
    for scope in ["total", "agent", "item"] {
        assert_eq!(usd(&root, scope), (cost, 0.0), "{scope}");
    }
    assert_eq!(row(&root, "agent")["usual_usd"], cost);
    // Scripts cost nothing, and reserve nothing.
    root.script("s", "true");
    root.drain();
    assert_eq!(usd(&root, "total"), (cost, 0.0));
    let text = root.ok(&["budget"]);
    for part in [
        "day ",
        "total ",
        "today ",
        "a.md",
        "$1.00",
        "nine of ten",
        "tokens",
    ] {
        let found = text.to_lowercase().contains(part);
        assert!(found, "{part}: {text}");
    }
}

#[test]
fn a_spent_day_holds_its_agent_until_midnight_and_is_no_failure() {
    let root = root_with("claude", "day_usd = 0.10", "budget_usd = 0.04");
    for name in ["a.md", "b.md", "c.md", "d.md", "e.md"] {
        play(&root, name, "success");
    }
    let run = root.start(&["--workers", "3"]);
    root.wait_until("three could be paid", || done(&root) == 3);
    let hold = held(&root, &run, "claude");
    let reason = hold["reason"].as_str().unwrap();
    for part in ["`day_usd`", "$0.09", "$0.10", "$0.03"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let until: jiff::Timestamp = hold["until"].as_str().unwrap().parse().unwrap();
    let left = until.as_second() - jiff::Timestamp::now().as_second();
    assert!((0..=25 * 3600).contains(&left), "{hold:#}");
    root.wait_until("nobody is at work", || usd(&root, "day").1 == 0.0);
    let (used, _) = usd(&root, "day");
    assert!((used - 0.09).abs() < 1e-9, "{used}");
    let waits = |name: &&&str| !root.is_done(name);
    for name in ["a.md", "b.md", "c.md", "d.md", "e.md"]
        .iter()
        .filter(waits)
    {
        root.wait_until("it is back", || {
            root.show(name)["attempts"].as_array().unwrap().is_empty()
        });
        let show = root.show(name);
        assert!(
            show["reason"].as_str().unwrap().contains("day_usd"),
            "{show:#}"
        );
    }
    root.wait_until("the status says it", || {
        let status = root.ok(&["status"]);
        status.contains("claude is HELD until") && status.contains("day_usd")
    });
    assert_eq!(told(&root)["holds"][0]["agent"], "claude");
    // A budget that is raised counts at once, also for what runs.
    configure(&root, "claude", "day_usd = 1", "budget_usd = 0.04");
    root.wait_until("all could be paid", || done(&root) == 5);
    let said = end(run);
    assert!(!said.contains("failures"), "{said}");
    assert!(hold_is_gone(&root), "{}", root.picture());
    // Lowered below what is used: nothing starts.
    configure(&root, "claude", "day_usd = 0.05", "budget_usd = 0.04");
    play(&root, "f.md", "success");
    let run = root.start(&["--workers", "1"]);
    held(&root, &run, "claude");
    end(run);
    assert!(!root.is_done("f.md"));
}

fn hold_is_gone(root: &Root) -> bool {
    hold(root, "claude").is_none()
}

#[test]
fn what_is_spent_for_good_ends_a_drain_and_says_what_to_raise() {
    let root = root_with("claude", "total_usd = 0.05", "budget_usd = 0.04");
    for name in ["a.md", "b.md"] {
        play(&root, name, "success");
    }
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    let said = describe(&out);
    assert_eq!(done(&root), 1, "{said}");
    let hold = hold(&root, "claude").unwrap();
    assert_eq!(hold["until"], Value::Null);
    assert!(said.contains("raise `total_usd`"), "{said}");
    // Less than one attempt is known to cost: no other day will do.
    configure(&root, "claude", "day_usd = 0.01", "budget_usd = 0.04");
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    assert!(
        describe(&out).contains("more than the whole of `day_usd`"),
        "{}",
        describe(&out)
    );
}

#[test]
fn while_little_is_known_a_small_budget_is_tried_one_at_a_time() {
    // One attempt may cost 10 dollars by itself, which is more than there is.
    let root = root_with("claude", "day_usd = 0.10\nday_tokens = 1000000", "");
    for name in ["a.md", "b.md", "c.md", "d.md"] {
        play(&root, name, "success");
    }
    let run = root.start(&["--workers", "3"]);
    root.wait_until("three could be paid", || done(&root) == 3);
    held(&root, &run, "claude");
    root.wait_until("nobody is at work", || usd(&root, "day").1 == 0.0);
    assert!((usd(&root, "day").0 - 0.09).abs() < 1e-9);
    end(run);
    // None may have cost more than what was left.
    let mut limits: Vec<f64> = Vec::new();
    for name in ["a.md", "b.md", "c.md", "d.md"] {
        if root.is_done(name) {
            limits.push(session(&root, name, 0)["budget_usd"].as_f64().unwrap());
        }
    }
    limits.sort_by(f64::total_cmp);
    let want = [0.04, 0.07, 0.10];
    let near = limits.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-9);
    assert!(near && limits.len() == 3, "{limits:?}");
}

#[test]
fn a_window_leaves_people_their_share_and_is_paced() {
    let budget = "window = \"1h\"\nwindow_tokens = 10000\nreserve_for_people = 0.5";
    let root = root_with("claude", budget, "subscription = true");
    for name in ["a.md", "b.md"] {
        play(&root, name, "success");
    }
    let run = root.start(&["--workers", "2"]);
    root.wait_until("one could be paid", || done(&root) == 1);
    let hold = held(&root, &run, "claude");
    assert!(
        hold["reason"].as_str().unwrap().contains("`window_tokens`"),
        "{hold:#}"
    );
    root.wait_until("nobody is at work", || {
        row(&root, "window")["reserved_tokens"] == 0
    });
    let window = row(&root, "window");
    assert_eq!(window["limit_tokens"], 5000, "{window:#}");
    assert_eq!(window["used_tokens"], TOKENS);
    let at = |of: &Value| -> jiff::Timestamp { of["until"].as_str().unwrap().parse().unwrap() };
    let apart = at(&hold_of(&root)).duration_since(at(&window)).abs();
    assert!(apart.as_secs() <= 2, "{window:#}");
    // Its dollars are paid already.
    assert_eq!(usd(&root, "day"), (0.0, 0.0));
    end(run);

    // 3150 of 100000 tokens are the first 3.8 s of two minutes.
    let budget = "window = \"120s\"\nwindow_tokens = 100000\nreserve_for_people = 0\npace = true";
    let root = root_with("claude", budget, "subscription = true");
    for name in ["a.md", "b.md"] {
        play(&root, name, "success");
    }
    let out = root.drain();
    assert_eq!(done(&root), 2, "{}", describe(&out));
    let began = |name: &str| -> jiff::Timestamp {
        let file = session(&root, name, 0);
        file["started_at"].as_str().unwrap().parse().unwrap()
    };
    let (a, b) = (began("a.md"), began("b.md"));
    let apart = a.duration_since(b).abs().as_secs_f64();
    // The window began a little before its first agent did.
    assert!(apart > 1.5, "{apart}: {}", describe(&out));
    assert!(describe(&out).contains("(`pace`)"), "{}", describe(&out));
}

fn hold_of(root: &Root) -> Value {
    hold(root, "claude").unwrap()
}

#[test]
fn an_item_that_has_used_up_its_budget_is_parked_and_its_agent_is_not_held() {
    let root = root_with("claude", "item_usd = 0.04", "budget_usd = 1");
    play(&root, "a.md", "crash");
    play(&root, "b.md", "success");
    root.drain();
    // It told no cost before it died: it is charged with what it had reserved, all that its item has.
    let first = session(&root, "a.md", 0);
    assert_eq!(
        (&first["charged_usd"], &first["budget_usd"]),
        (&0.04.into(), &0.04.into())
    );
    let show = root.show("a.md");
    assert_eq!(show["outcome"], "over_budget", "{show:#}");
    assert!(
        root.is_parked("a.md") && root.is_done("b.md"),
        "{}",
        root.picture()
    );
    assert!(
        show["reason"].as_str().unwrap().contains("`item_usd`"),
        "{show:#}"
    );
    assert!(hold(&root, "claude").is_none());
    // A person gives it its budget again.
    root.ok(&["retry", "a.md"]);
    root.drain();
    let attempts = root.show("a.md")["attempts"].clone();
    let numbers: Vec<u64> = attempts
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [1, 2], "one that ran, twice");
    root.assert_nothing_left();
}

#[test]
fn a_price_that_nobody_knows_is_what_was_reserved_and_without_a_limit_nothing_starts() {
    let root = root_with("codex", "day_usd = 1", "budget_usd = 0.3");
    play(&root, "a.md", "success");
    root.drain();
    assert_eq!(usd(&root, "day"), (0.3, 0.0));
    assert_eq!(row(&root, "day")["used_tokens"], TOKENS);
    assert_eq!(row(&root, "agent")["usual_usd"], Value::Null);
    configure(
        &root,
        "codex",
        "day_usd = 1",
        "budget_usd = 0.3\nsubscription = true",
    );
    play(&root, "b.md", "success");
    root.drain();
    assert_eq!(usd(&root, "day"), (0.3, 0.0));
    assert_eq!(row(&root, "day")["used_tokens"], 2 * TOKENS);
    // The model never answered.
    configure(&root, "codex", "day_usd = 1", "budget_usd = 0.3");
    play(&root, "c.md", "exit code=3");
    root.drain();
    assert_eq!(usd(&root, "day"), (0.3, 0.0), "{}", root.picture());

    let by_hand = "agent = \"mine\"\n[repo]\npath = \"none\"\n[budget]\nday_usd = 1\n[agents.mine]\ncommand = [\"true\"]\n";
    root.config(by_hand);
    play(&root, "d.md", "success");
    root.script("s", "true");
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    let hold = hold(&root, "mine").unwrap_or_else(|| panic!("{}", describe(&out)));
    let reason = hold["reason"].as_str().unwrap();
    assert!(
        reason.contains("`budget_usd`") && reason.contains("[agents.mine]"),
        "{reason}"
    );
    assert!(root.is_done("s") && !root.is_done("d.md"));
    root.config(&format!("{by_hand}budget_usd = 0.5\n"));
    root.drain();
    assert!(root.is_done("d.md"));
    assert_eq!(usd(&root, "day"), (0.8, 0.0));
}

#[test]
fn what_an_agent_used_after_it_was_told_to_stop_is_charged_too() {
    let root = Root::plain();
    let (script, begin, after) = (root.at("agent.sh"), root.at("begin"), root.at("after"));
    let message = r#"{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":7,"output_tokens":1}}}"#;
    let last = r#"{"type":"result","subtype":"success","is_error":false,"num_turns":2,"total_cost_usd":0.7,"result":"late","usage":{"input_tokens":900,"output_tokens":90}}"#;
    fs::write(&begin, format!("{message}\n")).unwrap();
    fs::write(&after, format!("{last}\n")).unwrap();
    let text = format!(
        "trap 'cat {}; exit 143' TERM\ncat {}\nwhile :; do sleep 0.05; done\n",
        after.display(),
        begin.display()
    );
    fs::write(&script, text).unwrap();
    root.config(&format!(
        "agent = \"mine\"\n[repo]\npath = \"none\"\n[budget]\nday_usd = 10\n[agents.mine]\ncommand = [\"sh\", {script:?}]\n\
         stdin = \"none\"\nevents = \"claude\"\nbudget_usd = 2\n"
    ));
    play(&root, "a.md", "success");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it has said something", || {
        let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
        status["agents"][0]["turns"] == 1
    });
    assert_eq!(usd(&root, "day"), (0.0, 2.0));
    end(run);
    let file = session(&root, "a.md", 0);
    assert_eq!(file["outcome"], "interrupted", "{file:#}");
    assert_eq!(file["charged_usd"], 0.7, "{file:#}");
    assert_eq!(file["charged_tokens"], 990, "{file:#}");
    assert_eq!(usd(&root, "day"), (0.7, 0.0));
}

/// A drain in which what is in the place of a budget's file holds a.md, and says these words of it;
/// what else was said.
pub fn held_by_a_file(root: &Root, words: [&str; 2]) -> String {
    let said = describe(&root.exits(111, &["run", "--drain", "--workers", "1"]));
    assert!(!root.is_done("a.md"), "{said}");
    let hold = hold(root, "claude").unwrap_or_else(|| panic!("{said}"));
    let reason = hold["reason"].as_str().unwrap();
    assert!(words.iter().all(|part| reason.contains(part)), "{reason}");
    said
}

#[test]
fn a_budget_that_cannot_be_read_starts_nothing() {
    let root = root_with("claude", "day_usd = 1", "budget_usd = 0.5");
    let path = root.at("state/budget/budget.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let garbage = [
        "{\"version\":1,\"today\":{\"usd\":",
        "{}",
        "[]",
        "{\"version\":1,\"today\":{\"usd\":-5,\"tokens\":0}}",
        "{\"version\":1,\"reserved\":{\"s\":7}}",
    ];
    play(&root, "a.md", "success");
    root.script("s", "true");
    for text in garbage {
        fs::write(&path, text).unwrap();
        held_by_a_file(&root, ["budget.json", "what to do"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        // The same cause, the same code.
        root.exits(111, &["budget"]);
    }
    assert!(root.is_done("s"));
    let run = root.start(&["--workers", "1"]);
    held(&root, &run, "claude");
    fs::remove_file(&path).unwrap();
    play(&root, "b.md", "success");
    root.wait_until("both are done", || done(&root) == 3);
    drop(run);
    // Made anew from the ledger.
    fs::remove_file(&path).unwrap();
    assert_eq!(usd(&root, "day"), (0.06, 0.0));
    play(&root, "c.md", "success");
    root.drain();
    assert_eq!(usd(&root, "day"), (0.09, 0.0));
}

#[test]
fn what_is_at_work_is_found_again_and_what_nobody_works_on_is_charged() {
    let root = root_with("claude", "day_usd = 1", "budget_usd = 0.5");
    let path = root.at("state/budget/budget.json");
    play(&root, "a.md", "tool s=2");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("it is on record as started", || {
        root.events("a.md").contains(&"started".to_owned())
    });
    fs::remove_file(&path).unwrap();
    assert_eq!(usd(&root, "day"), (0.0, 0.5));
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let cost = session(&root, "a.md", 0)["cost_usd"].as_f64().unwrap();
    assert_eq!(usd(&root, "day"), (cost, 0.0));
    // As a session leaves it whose charge could not be written.
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["reserved"]["nobody"] = serde_json::json!({
        "item": "x", "agent": "claude", "usd": 0.97, "tokens": 5, "at": "2026-01-01T00:00:00Z"
    });
    state["of_a_newer_version"] = "stays".into();
    fs::write(&path, state.to_string()).unwrap();
    play(&root, "b.md", "success");
    let run = root.start(&["--workers", "1"]);
    held(&root, &run, "claude");
    assert_eq!(usd(&root, "day"), (cost + 0.97, 0.0));
    end(run);
    let kept = fs::read_to_string(&path).unwrap();
    assert!(kept.contains("of_a_newer_version"), "{kept}");
}

/// What the mocks of this ROOT have cost and what is at work never exceed it; with what there is.
fn check(root: &Root, limit: f64) -> (f64, f64) {
    let (used, reserved) = usd(root, "day");
    assert!(
        used + reserved <= limit + 1e-6,
        "{used} and {reserved}\n{}",
        root.picture()
    );
    (used, reserved)
}

#[test]
fn four_processes_that_are_killed_never_start_more_than_a_day_pays() {
    const LIMIT: f64 = 3.0;
    const ITEMS: usize = 60;
    let root = root_with("claude", "day_usd = 3", "budget_usd = 0.5");
    for n in 0..ITEMS {
        // Four turns.
        play(&root, &format!("i{n}.md"), "tool s=0.2 cost=0.05");
    }
    let start = || root.start(&["--workers", "3"]);
    let mut all: Vec<Running> = (0..4).map(|_| start()).collect();
    let begun = Instant::now();
    let mut kills = 0;
    loop {
        let (used, reserved) = check(&root, LIMIT);
        let spent = hold(&root, "claude").is_some() && reserved == 0.0;
        if spent && used > LIMIT - 0.5 {
            break;
        }
        assert!(
            begun.elapsed() < DEADLINE,
            "{used} {reserved}\n{}",
            root.picture()
        );
        // Each in turn; and a keeper now and then, with the agent under it.
        all.remove(0).kill9();
        kills += 1;
        if kills % 3 == 0
            && let Some((pid, _)) = root
                .processes()
                .iter()
                .find(|(_, c)| c.contains(" keeper "))
        {
            kill(*pid, "KILL");
        }
        all.push(start());
        let pause_end = Instant::now() + Duration::from_millis(250);
        while Instant::now() < pause_end {
            pause();
        }
    }
    for run in all {
        end(run);
    }
    let (used, reserved) = check(&root, LIMIT);
    assert_eq!(reserved, 0.0);
    // What each session was charged with, on its item's record, is what the budget counts.
    let (mut charged, mut cost, mut ended) = (0.0, 0.0, 0);
    for n in 0..ITEMS {
        let show = root.show(&format!("i{n}.md"));
        for attempt in show["attempts"].as_array().unwrap() {
            let of = |key: &str| attempt[key].as_f64().unwrap_or(0.0);
            charged += of("charged_usd");
            cost += of("cost_usd");
            ended += usize::from(attempt["outcome"].is_string());
        }
    }
    assert!(
        (charged - used).abs() < 1e-6,
        "{charged} charged, {used} counted"
    );
    assert!(
        cost <= used + 1e-6 && used <= LIMIT + 1e-6,
        "{cost} of {used}"
    );
    assert!(ended > 6 && kills > 2, "{ended} attempts, {kills} kills");
}
