//! `state/metrics.prom`: the tree's figures in Prometheus' format, counters that survive restarts, and
//! alerts and a dashboard that name nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::agents::{play, root_with};
use crate::support::{Root, describe, skipped};

fn metrics(root: &Root) -> String {
    fs::read_to_string(root.at("state/metrics.prom")).unwrap_or_default()
}

/// The value of the line with this name and these labels, besides `root`.
fn value(text: &str, name: &str, labels: &str) -> Option<f64> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.find_map(|line| {
        let (left, value) = line.rsplit_once(' ')?;
        let (found, rest) = left.split_once("{root=\"")?;
        let (_, rest) = rest.split_once('"')?;
        let is_it = found == name && rest.trim_start_matches(',').trim_end_matches('}') == labels;
        is_it.then(|| value.parse().unwrap())
    })
}

#[test]
fn metrics_prom_has_the_figures_and_its_counters_survive_restarts() {
    let root = root_with("claude", "");
    play(&root, "good.md", "success file=x.txt");
    root.script("fails", "#harness retries: 1\nexit 3");
    root.drain();
    let text = metrics(&root);
    let is = |text: &str, name: &str, labels: &str, expected: f64| {
        let found = value(text, name, labels);
        assert_eq!(found, Some(expected), "{name} {labels}\n{text}");
    };
    is(&text, "harness_items", "state=\"done\"", 1.0);
    is(&text, "harness_items", "state=\"parked\"", 1.0);
    let attempts = "harness_attempts_total";
    is(
        &text,
        attempts,
        "agent=\"claude\",outcome=\"succeeded\"",
        1.0,
    );
    is(&text, attempts, "agent=\"script\",outcome=\"failed\"", 2.0);
    is(&text, attempts, "agent=\"script\",outcome=\"crashed\"", 0.0);
    let ended = "harness_items_ended_total";
    is(&text, ended, "agent=\"script\",end=\"parked\"", 1.0);
    is(&text, ended, "agent=\"claude\",end=\"done\"", 1.0);
    let tokens = "harness_tokens_total";
    is(
        &text,
        tokens,
        "agent=\"claude\",direction=\"input\"",
        3000.0,
    );
    is(&text, "harness_cost_usd_total", "agent=\"claude\"", 0.03);
    let took = "harness_attempt_duration_seconds";
    is(&text, &format!("{took}_count"), "agent=\"script\"", 2.0);
    is(
        &text,
        &format!("{took}_bucket"),
        "agent=\"script\",le=\"+Inf\"",
        2.0,
    );

    // The next process counts on, also where the file was removed.
    fs::remove_file(root.at("state/metrics.prom")).unwrap();
    root.script("again", "#harness retries: 0\nexit 3");
    root.drain();
    let text = metrics(&root);
    is(&text, attempts, "agent=\"script\",outcome=\"failed\"", 3.0);
    is(
        &text,
        attempts,
        "agent=\"claude\",outcome=\"succeeded\"",
        1.0,
    );
    is(&text, "harness_items", "state=\"parked\"", 2.0);
}

#[test]
fn metrics_prom_tells_of_what_is_at_work_and_of_no_item() {
    let root = root_with("claude", "");
    let evil = "x\"} 1\nharness_evil{} 2\\";
    root.script(
        evil,
        "until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.05; done",
    );
    root.script("parked \"y", "#harness retries: 0\nexit 1");
    let mut run = root.start(&["--workers", "2"]);
    // Written every ten seconds.
    root.wait_until("it is told that one is at work", || {
        let text = metrics(&root);
        value(&text, "harness_running", "agent=\"script\"") == Some(1.0)
            && value(&text, "harness_items", "state=\"parked\"") == Some(1.0)
    });
    let text = metrics(&root);
    assert_eq!(value(&text, "harness_processes", ""), Some(1.0), "{text}");
    assert_eq!(value(&text, "harness_workers", ""), Some(2.0), "{text}");
    assert_eq!(
        value(&text, "harness_items", "state=\"claimed\""),
        Some(1.0)
    );
    assert!(
        !text.contains("evil") && !text.contains("parked \\\"y"),
        "{text}"
    );
    fs::write(root.at("go"), "").unwrap();
    root.wait_until("it is done", || root.is_done(evil));
    run.signal("TERM");
    run.wait();
    let text = metrics(&root);
    assert_eq!(
        value(&text, "harness_running", "agent=\"script\""),
        None,
        "{text}"
    );
    assert_eq!(
        value(&text, "harness_items", "state=\"done\""),
        Some(1.0),
        "{text}"
    );
}

/// What a file names that begins as ours do.
fn named(text: &str) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_word(c));
    words.filter(|word| word.starts_with("harness_")).collect()
}

fn contrib(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn alerts_dashboard_and_documents_name_what_there_is_and_nothing_else() {
    let root = Root::plain();
    root.script("x", "true");
    root.drain();
    let text = metrics(&root);
    let mut there = BTreeSet::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            there.insert(name.to_owned());
            if kind == "histogram" {
                let parts = ["bucket", "sum", "count"];
                there.extend(parts.map(|part| format!("{name}_{part}")));
            }
        }
    }
    assert!(there.len() > 15, "{text}");
    for path in [
        "contrib/prometheus/alerts.yml",
        "contrib/grafana/harness.json",
        "tests/metrics/alerts.test.yml",
        "docs/metrics.md",
    ] {
        let file = contrib(path);
        for name in named(&file) {
            assert!(there.contains(name), "{path} names {name}:\n{text}");
        }
    }
    let page = contrib("docs/metrics.md");
    let told = named(&page);
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(told.contains(name), "docs/metrics.md does not have {name}");
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&contrib("contrib/grafana/harness.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_metrics_and_alerts() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return skipped("promtool check metrics, check rules, test rules: promtool is not here");
    }
    let root = root_with("claude", "");
    play(&root, "good.md", "success file=x.txt");
    play(&root, "denied.md", "denied");
    root.script("fails", "#harness retries: 0\nexit 3");
    root.drain();
    let promtool = |args: &[&str], input: Option<&str>| {
        let mut command = Command::new("promtool");
        command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
        if let Some(input) = input {
            command.stdin(fs::File::open(root.at(input)).unwrap());
        }
        let out = command.output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", describe(&out));
        assert!(out.stderr.is_empty(), "{args:?}: {}", describe(&out));
    };
    promtool(&["check", "metrics"], Some("state/metrics.prom"));
    promtool(&["check", "rules", "contrib/prometheus/alerts.yml"], None);
    promtool(&["test", "rules", "tests/metrics/alerts.test.yml"], None);
}
