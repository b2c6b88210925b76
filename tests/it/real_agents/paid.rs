//! Budgets with the real claude: what it costs is reserved, charged as it says, and bounded.

use std::fs;

use serde_json::Value;

use super::setup::{Cli, Model, configure_with, ready};
use super::{ask, drain, start};
use crate::budget::{end, held, usd};
use crate::launch::session;
use crate::support::Root;

/// These lines in `[budget]`, instead of what is there.
fn set(root: &Root, budget: &str) {
    let path = root.at("harness.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (before, _) = text.split_once("\n[budget]\n").unwrap_or((&text, ""));
    fs::write(&path, format!("{before}\n[budget]\n{budget}\n")).unwrap();
}

/// A ROOT whose prompts go to the real claude, which a model serves, with these lines in its table and
/// in `[budget]`.
fn priced(table: &str, budget: &str) -> Option<(Root, Model)> {
    let (program, model) = ready(Cli::Claude)?;
    let root = Root::with_repo();
    configure_with(&root, Cli::Claude, &program, &model.url(), table, &[]);
    set(&root, budget);
    Some((root, model))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

#[test]
fn what_claude_costs_is_charged_and_a_spent_day_asks_its_model_nothing() {
    let Some((root, model)) = priced("budget_usd = 20\n", "day_usd = 100\nday_tokens = 10000000")
    else {
        return;
    };
    ask(&root, "one.md", "edit file=one.txt");
    drain(&root, "1");
    let one = session(&root, "one.md", 0);
    let cost = one["cost_usd"].as_f64().unwrap();
    assert!(root.is_done("one.md") && cost > 0.0, "{one:#}");
    assert_eq!(one["charged_usd"], one["cost_usd"], "{one:#}");
    let (input, output) = model.tokens();
    assert_eq!(one["charged_tokens"], input + output, "{one:#}");
    let (used, reserved) = usd(&root, "day");
    assert!(near(used, cost) && near(reserved, 0.0), "{used} {reserved}");

    // There is not enough left for another one like it.
    let asked = model.served().len();
    set(&root, &format!("day_usd = {}", cost * 1.5));
    ask(&root, "two.md", "edit file=two.txt");
    let run = start(&root, &["--workers", "1"], "run.log");
    let hold = held(&root, &run, "real");
    assert!(
        hold["reason"].as_str().unwrap().contains("`day_usd`") && hold["until"].is_string(),
        "{hold:#}"
    );
    root.wait_until("it is back", || root.at("queue/pending/two.md").exists());
    assert_eq!(model.served().len(), asked, "{}", run.said());

    // Half again as much as one costs is left: it may use that, and claude itself knows it.
    set(&root, &format!("day_usd = {}", cost * 2.5));
    root.wait_until("it could be paid", || root.is_done("two.md"));
    end(run);
    let two = session(&root, "two.md", 0);
    assert!(
        near(two["budget_usd"].as_f64().unwrap(), cost * 1.5),
        "{two:#}"
    );
    assert_eq!(two["budget_by"], "day_usd", "{two:#}");
    let command = two["command"].as_array().unwrap();
    assert!(
        command.contains(&Value::from("--max-budget-usd")),
        "{two:#}"
    );
    let (used, reserved) = usd(&root, "day");
    assert!(
        near(used, 2.0 * cost) && near(reserved, 0.0),
        "{used} {reserved}"
    );
    root.assert_nothing_left();
}

#[test]
fn claude_that_has_used_what_the_day_left_it_goes_back_and_is_charged_with_all_of_it() {
    let Some((root, model)) = priced("budget_usd = 1000\n", "day_usd = 1") else {
        return;
    };
    // Its first turn costs more than that.
    ask(&root, "dear.md", "expensive");
    let run = start(&root, &["--workers", "1"], "run.log");
    root.wait_until("the day has stopped it", || {
        root.events("dear.md").contains(&"finished".to_owned())
    });
    held(&root, &run, "real");
    let dear = session(&root, "dear.md", 0);
    assert_eq!(dear["outcome"], "over_budget", "{dear:#}\n{}", run.said());
    assert_eq!(dear["budget_by"], "day_usd", "{dear:#}");
    root.wait_until("it is back", || root.at("queue/pending/dear.md").exists());
    // By no more than what ran.
    let (used, reserved) = usd(&root, "day");
    assert!(
        used > 1.0 && near(used, dear["cost_usd"].as_f64().unwrap()),
        "{used}: {dear:#}"
    );
    assert!(near(reserved, 0.0));
    let asked = model.served().len();
    assert!(asked < 4, "{asked}");
    // Nor by another one.
    ask(&root, "next.md", "noop");
    root.wait_until("it waits for the day, too", || {
        root.show("next.md")["reason_class"] == "hold"
    });
    end(run);
    assert_eq!(model.served().len(), asked);
}

#[test]
fn a_window_of_claudes_counts_its_tokens_and_no_dollars() {
    let Some((root, model)) = priced(
        "subscription = true\n",
        "day_usd = 0.01\nwindow_tokens = 12000\nreserve_for_people = 0.5",
    ) else {
        return;
    };
    ask(&root, "one.md", "edit file=one.txt");
    ask(&root, "two.md", "edit file=two.txt");
    let run = start(&root, &["--workers", "1"], "run.log");
    let hold = held(&root, &run, "real");
    end(run);
    let (input, output) = model.tokens();
    let done = ["one.md", "two.md"].map(|name| root.is_done(name));
    assert_eq!(
        done.iter().filter(|is| **is).count(),
        1,
        "{}",
        root.picture()
    );
    assert_eq!(usd(&root, "day"), (0.0, 0.0));
    let reason = hold["reason"].as_str().unwrap();
    let used = format!("{} tokens are used", input + output);
    assert!(
        reason.contains("`window_tokens`") && reason.contains(&used),
        "{reason}"
    );
}
