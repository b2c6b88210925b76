//! Makes lost ledger lines again from the session records, and detects whether any are lost.
//!
//! Only sessions that can have ended in the period are opened: a session's id (a UUIDv7) begins
//! with its start time. The file `since` in the ledger's folder says that every attempt that ended
//! after it was written has its line. If it is missing, the ledger was deleted, and workers may
//! have begun new day files since. Sessions that have a line are skipped.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::atomic;
use crate::clock::{self, Timestamp};
use crate::error::Result;
use crate::layout::Root;
use crate::outcome::Outcome;
use crate::status::LedgerLine;

use super::ledger::{Ledger, Period, day_file, lines_of, open_day};

/// Longest assumed run of an attempt that ended in the period: a day is far above the usual limit
/// (an hour).
const ATTEMPT_MS_MAX: i64 = 86_400_000;
/// A worker writes the session's end, then the line: what ended just now is left to it.
const WRITER_SECONDS: i64 = 10;
const SESSION_BYTES_MAX: u64 = 1 << 20;

/// Whether lines of the period may be missing.
pub(super) fn is_incomplete(dir: &Path, period: Period) -> bool {
    !atomic::exists(&dir.join("since"))
        || period
            .days()
            .iter()
            .any(|&day| !atomic::exists(&day_file(dir, day)))
}

/// Writes the missing lines. Only for the holder of the aggregator's lock.
pub(super) fn complete(root: &Root, period: Period) -> Result<()> {
    let dir = root.ledger();
    if !is_incomplete(&dir, period) {
        return Ok(());
    }
    let now = clock::now_iso();
    let mut ledger = Ledger::new(root);
    for line in lost_lines(root, period)? {
        ledger.append(&line)?;
    }
    for day in period.days() {
        drop(open_day(&dir, &day_file(&dir, day))?);
    }
    let since = dir.join("since");
    if atomic::exists(&since) {
        return Ok(());
    }
    atomic::replace(&since, now.as_bytes(), false)
}

/// The lines that the ledger should have but has not. Reads only.
pub(super) fn lost_lines(root: &Root, period: Period) -> Result<Vec<LedgerLine>> {
    let dir = root.ledger();
    let mut known = HashSet::new();
    for day in period.days() {
        lines_of(&day_file(&dir, day), |line| {
            known.insert(line.session);
        })?;
    }
    let start = period.start();
    let mut lines = Vec::new();
    let Ok(sessions) = fs::read_dir(root.sessions()) else {
        return Ok(lines);
    };
    for entry in sessions.flatten() {
        let name = entry.file_name();
        let Some(sid) = name.to_str() else { continue };
        let recent =
            clock::made_ms(sid).is_some_and(|ms| ms >= start.as_millisecond() - ATTEMPT_MS_MAX);
        if !recent || known.contains(sid) {
            continue;
        }
        let Some(line) = line_of(&entry.path().join("session.json"), sid) else {
            continue;
        };
        let ended = line.at.parse::<Timestamp>();
        let until = period.now.as_second() - WRITER_SECONDS;
        if ended.is_ok_and(|at| at >= start && at.as_second() <= until) {
            lines.push(line);
        }
    }
    lines.sort_by(|a, b| a.at.cmp(&b.at));
    Ok(lines)
}

/// `None`: no record, not readable, or not ended.
fn line_of(path: &Path, sid: &str) -> Option<LedgerLine> {
    let record: Value =
        serde_json::from_slice(&atomic::read_small(path, SESSION_BYTES_MAX).ok()?).ok()?;
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| record.get(key).and_then(Value::as_f64);
    let count = |key: &str| record.get(key).and_then(Value::as_u64).unwrap_or(0);
    let ended: Timestamp = text("ended_at").parse().ok()?;
    let elapsed = || {
        let started: Timestamp = text("started_at").parse().ok()?;
        Some(ended.duration_since(started).as_secs_f64().max(0.0))
    };
    Some(LedgerLine {
        at: clock::iso(ended),
        session: sid.to_owned(),
        item: text("item").to_owned(),
        slot: text("slot").to_owned(),
        agent: text("agent").to_owned(),
        outcome: text("outcome").to_owned(),
        last: record.get("last").and_then(Value::as_bool).unwrap_or(false),
        seconds: number("seconds").or_else(elapsed).unwrap_or(0.0),
        input_tokens: count("input_tokens"),
        output_tokens: count("output_tokens"),
        cost_usd: number("cost_usd").unwrap_or(0.0),
        charged_usd: number("charged_usd"),
        charged_tokens: record.get("charged_tokens").and_then(Value::as_u64),
        started_at: text("started_at").to_owned(),
        fault: Some(text("fault").to_owned()).filter(|fault| !fault.is_empty()),
        reason: text("reason").to_owned(),
        held: record.get("held").and_then(Value::as_bool).unwrap_or(false),
        unseen: text("outcome") == Outcome::Crashed.as_str()
            && number("exit_status").or(number("signal")).is_none(),
        more: Default::default(),
    })
}
