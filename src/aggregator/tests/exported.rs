//! `metrics.prom`, from trees with odd content.

use super::*;
use crate::aggregator::ledger::day_file;
use crate::limits::METRICS_EVERY;
use crate::status::LedgerLine;

fn ended(agent: &str, outcome: &str, seconds: f64) -> LedgerLine {
    LedgerLine {
        agent: agent.to_owned(),
        outcome: outcome.to_owned(),
        seconds,
        cost_usd: 0.5,
        last: true,
        fault: Some(format!("class of {agent}")),
        ..LedgerLine::default()
    }
}

fn append(root: &Root, lines: impl IntoIterator<Item = LedgerLine>) {
    let mut ledger = Ledger::new(root);
    for line in lines {
        ledger.append(&line).unwrap();
    }
}

fn text(root: &Root) -> String {
    String::from_utf8(atomic::read_small(&root.metrics(), 1 << 30).unwrap()).unwrap()
}

#[test]
fn labels_are_escaped_and_bounded_and_odd_words_are_other() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path().join("a \"b\" \\ c\nd"));
    atomic::make_dir(root.path(), true).unwrap();
    for (path, private) in root.dirs() {
        atomic::make_dir(&path, private).unwrap();
    }
    append(
        &root,
        (0..200).map(|n| ended(&format!("a{n:03}\"\n\u{1b}\\"), "new word", -1.0)),
    );
    append(&root, [ended("zz", "succeeded", 1e300)]);
    let mut exporter = Exporter::default();
    exporter
        .refresh(&root, &Status::default(), clock::instant(), true)
        .unwrap();
    let text = text(&root);
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (labels, value) = line.rsplit_once("} ").unwrap();
        assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
        assert!(labels.contains("{root=\""), "{line}");
        assert!(labels.contains("/a \\\"b\\\" \\\\ c\\\\nd\""), "{line}");
        assert!(!line.contains('\u{1b}'));
    }
    let count = |start: &str| text.lines().filter(|l| l.starts_with(start)).count();
    assert_eq!(count("harness_cost_usd_total{"), 65);
    // 32 and `other`, which each agent beyond them has.
    assert!(count("harness_faults_total{") <= 65 * 2, "{text}");
    let others: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("agent=\"other\""))
        .collect();
    let others = others.join("\n");
    assert!(others.contains("outcome=\"other\"} 136"), "{others}");
    assert!(others.contains("outcome=\"succeeded\"} 1"), "{others}");
}

#[test]
fn a_long_ledger_is_read_in_steps_and_a_replaced_one_anew() {
    let (_dir, root) = tree();
    let day = |n: usize| day_file(&root.ledger(), format!("2026-01-{n:02}").parse().unwrap());
    let line = serde_json::to_string(&ended("script", "failed", 3.0)).unwrap() + "\n";
    let many = line.repeat((5 << 20) / line.len());
    let each = many.lines().count();
    for n in 1..=3 {
        put(&day(n), many.as_bytes());
    }
    let mut exporter = Exporter::default();
    let status = Status::default();
    let mut refresh = |at| exporter.refresh(&root, &status, at, false).unwrap();
    let now = clock::instant();
    for _ in 0..3 {
        refresh(now);
        assert!(!atomic::exists(&root.metrics()), "it is not all read");
    }
    refresh(now);
    let total = |n: usize| {
        let text = text(&root);
        let wanted = format!("outcome=\"failed\"}} {n}");
        assert!(text.contains(&wanted), "{wanted}\n{text}");
    };
    total(3 * each);
    put(&day(9), line.as_bytes());
    refresh(now + METRICS_EVERY / 2);
    total(3 * each);
    refresh(now + METRICS_EVERY);
    total(3 * each + 1);
    // What a removed file had told stays told; a file that shrank was replaced.
    atomic::remove(&day(1)).unwrap();
    refresh(now + METRICS_EVERY * 2);
    total(3 * each + 1);
    let shrank = File::options().write(true).open(day(2)).unwrap();
    shrank.set_len(0).unwrap();
    for _ in 0..4 {
        refresh(now + METRICS_EVERY * 3);
    }
    total(each + 1);
}
