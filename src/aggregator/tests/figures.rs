//! Totals from the ledger, and the ledger from the sessions.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::json;

use super::super::ledger::{day_file, utc_day};
use super::*;
use crate::clock::Timestamp;
use crate::status::LedgerLine;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn before(t: Timestamp, seconds: i64) -> Timestamp {
    t.checked_sub(SignedDuration::from_secs(seconds)).unwrap()
}

fn line(t: Timestamp, outcome: &str, last: bool) -> LedgerLine {
    LedgerLine {
        at: clock::iso(t),
        session: format!("{t}-{outcome}"),
        outcome: outcome.to_owned(),
        last,
        seconds: 10.0,
        input_tokens: 5,
        cost_usd: 0.5,
        ..LedgerLine::default()
    }
}

fn figures(f: &Totals) -> Metrics {
    let mut m = Metrics::default();
    f.put_into(&mut m);
    m
}

/// A local day that spans two UTC days, hence two files.
fn period() -> Period {
    Period {
        midnight: at("2026-01-26T23:00:00Z"),
        now: at("2026-01-27T10:00:30Z"),
    }
}

#[test]
fn the_tail_of_the_ledger_takes_whole_lines_once_and_skips_bad_ones() {
    let (_dir, root) = tree();
    let (p, dir) = (period(), root.ledger());
    let mut f = Totals::default();
    f.update(&dir, p);
    assert_eq!(figures(&f), Metrics::default());

    let mut ledger = Ledger::new(&root);
    ledger
        .append(&line(at("2026-01-26T22:59:59Z"), "failed", true))
        .unwrap();
    ledger
        .append(&line(at("2026-01-26T23:00:01Z"), "failed", true))
        .unwrap();
    ledger
        .append(&line(at("2026-01-27T08:00:00Z"), "succeeded", true))
        .unwrap();
    Ledger::new(&root)
        .append(&line(at("2026-01-27T09:30:00Z"), "timed_out", false))
        .unwrap();
    Ledger::new(&root)
        .append(&line(at("2026-01-27T09:59:00Z"), "no_change", true))
        .unwrap();
    let today = day_file(&dir, utc_day(p.now));
    put(
        &today,
        b"\n{\"at\":7}\nnot json\n\xff\xfe\n{\"at\":\"never\"}\n",
    );
    let whole = serde_json::to_string(&line(p.now, "succeeded", true)).unwrap();
    put(&today, &whole.as_bytes()[..20]);
    for _ in 0..2 {
        f.update(&dir, p);
        let m = figures(&f);
        assert_eq!((m.completed_today, m.failed_today), (2, 1));
        assert_eq!((m.throughput_per_hour, m.input_tokens), (1.0, 20));
        assert_eq!((m.average_seconds, m.cost_usd), (10.0, 2.0));
        assert!((m.success_rate - 2.0 / 3.0).abs() < 1e-9);
    }
    put(&today, &[&whole.as_bytes()[20..], b"\n"].concat());
    f.update(&dir, p);
    assert_eq!(figures(&f).completed_today, 3);
    assert_eq!(figures(&f).throughput_per_hour, 2.0);

    // An hour later nothing is recent; a day later nothing is of today.
    let later = Period {
        now: at("2026-01-27T11:01:00Z"),
        ..p
    };
    f.update(&dir, later);
    assert_eq!(figures(&f).throughput_per_hour, 0.0);
    assert_eq!(figures(&f).completed_today, 3);
    let tomorrow = Period {
        midnight: at("2026-01-27T23:00:00Z"),
        now: at("2026-01-27T23:30:00Z"),
    };
    f.update(&dir, tomorrow);
    assert_eq!(figures(&f), Metrics::default());
}

#[test]
fn a_ledger_file_that_was_replaced_or_shrank_is_read_anew() {
    let (_dir, root) = tree();
    let (p, dir) = (period(), root.ledger());
    let today = day_file(&dir, utc_day(p.now));
    let mut ledger = Ledger::new(&root);
    let mut f = Totals::default();
    for n in 1..=3 {
        ledger
            .append(&line(before(p.now, n), "succeeded", true))
            .unwrap();
    }
    f.update(&dir, p);
    assert_eq!(figures(&f).completed_today, 3);
    atomic::remove(&today).unwrap();
    // The open file was removed: the line must not be lost in it.
    ledger.append(&line(p.now, "failed", true)).unwrap();
    f.update(&dir, p);
    assert_eq!(
        (figures(&f).completed_today, figures(&f).failed_today),
        (0, 1)
    );
    File::options()
        .write(true)
        .open(&today)
        .unwrap()
        .set_len(0)
        .unwrap();
    f.update(&dir, p);
    assert_eq!(figures(&f), Metrics::default());
}

#[test]
fn sums_stay_numbers_that_json_can_hold() {
    let mut f = Totals::default();
    for cost in [f64::MAX, f64::MAX, -1.0, f64::NAN] {
        let odd = LedgerLine {
            cost_usd: cost,
            seconds: cost,
            input_tokens: u64::MAX,
            ..line(period().now, "x", true)
        };
        f.fold(&odd, period());
    }
    let m = figures(&f);
    assert!(m.cost_usd.is_finite() && m.average_seconds.is_finite());
    assert_eq!(m.input_tokens, u64::MAX);
}

/// A session's record, begun `seconds` ago and ended at `ended`.
fn session(root: &Root, now: Timestamp, seconds: i64, record: serde_json::Value) -> String {
    let ms = u64::try_from(before(now, seconds).as_millisecond()).unwrap();
    let ts = uuid::Timestamp::from_unix(uuid::NoContext, ms / 1000, 0);
    let sid = uuid::Uuid::new_v7(ts).to_string();
    put(
        &root.session(&sid).join("session.json"),
        record.to_string().as_bytes(),
    );
    sid
}

#[test]
fn a_lost_ledger_is_made_again_from_the_sessions_once() {
    let (_dir, root) = tree();
    let now = Period::current().now;
    let ended = |ago: i64| clock::iso(before(now, ago));
    let good = json!({"item": "a", "outcome": "succeeded", "ended_at": ended(60), "seconds": 40.0, "last": true});
    session(&root, now, 100, good);
    let by_times =
        json!({"outcome": "failed", "started_at": ended(90), "ended_at": ended(60), "last": true});
    session(&root, now, 90, by_times);
    session(
        &root,
        now,
        50,
        json!({"outcome": null, "ended_at": null, "last": "yes"}),
    );
    session(&root, now, 40, json!([1]));
    let begun_long_ago = json!({"outcome": "succeeded", "ended_at": ended(60), "last": true});
    session(&root, now, 10 * 86_400, begun_long_ago);
    put(&root.sessions().join("not-a-uuid/session.json"), b"{}");
    put(&root.sessions().join("file"), b"");
    // A worker was faster: the file exists again, with one of the lines.
    let known = json!({"outcome": "succeeded", "ended_at": ended(30), "last": true});
    let sid = session(&root, now, 80, known);
    let early = LedgerLine {
        session: sid,
        ..line(before(now, 30), "succeeded", true)
    };
    Ledger::new(&root).append(&early).unwrap();

    let lines = || -> BTreeMap<String, usize> {
        let days = Period::current().days();
        let mut all = BTreeMap::new();
        for day in days {
            ledger::lines_of(&day_file(&root.ledger(), day), |l| {
                *all.entry(l.session).or_default() += 1;
            })
            .unwrap();
        }
        all
    };
    let live = rebuild(&root, PendingCounts::default()).unwrap().metrics;
    assert_eq!(live.throughput_per_hour, 3.0);
    assert_eq!(lines().len(), 1, "rebuild writes nothing");
    for _ in 0..2 {
        let mut aggregator = Aggregator::try_become(&root).unwrap().unwrap();
        aggregator
            .refresh(PendingCounts::default(), BTreeMap::new(), Vec::new(), false)
            .unwrap();
        let m = read(&root).unwrap().unwrap().metrics;
        assert_eq!(m.throughput_per_hour, 3.0);
        assert_eq!(
            (m.completed_today, m.failed_today),
            (live.completed_today, live.failed_today)
        );
        assert!(lines().len() == 3 && lines().values().all(|&n| n == 1));
    }
}
