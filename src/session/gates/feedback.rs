//! What the next attempt of an item is told of the last one: gates that are red with the end of their
//! output, a person's comment, a merge that failed.

use std::fmt::Write;

use crate::atomic;
use crate::layout::Root;
use crate::outcome::{Means, Verdict};
use crate::record::{GateRan, LastAttempt};
use crate::runtime::Runtime;
use crate::text;

/// Bytes of a gate's output that are told.
const OUTPUT_BYTES: u64 = 4_000;
/// Gates whose output is told.
const GATES_MAX: usize = 4;

/// Empty: there is nothing to tell.
pub(in crate::session) fn feedback(rt: &Runtime, previous: Option<&LastAttempt>) -> String {
    let root = &rt.root;
    let mut told = String::new();
    let Some(previous) = previous else {
        return told;
    };
    let held_up = |ran: &&GateRan| {
        let is_required = rt.config.gates.get(&ran.gate).is_none_or(|g| g.required);
        let verdict = ran.verdict.known();
        is_required && matches!(verdict, Some(Verdict::Red | Verdict::Unevaluated))
    };
    for ran in previous.gates.iter().filter(held_up).take(GATES_MAX) {
        let _infallible = writeln!(told, "{}.", super::evidence(ran, Means::Told).line());
        if ran.tests.len() > 1 {
            let _infallible = writeln!(told, "Failing tests:\n- {}", ran.tests.join("\n- "));
        }
        if let Some(output) = output(root, ran) {
            let _infallible = writeln!(told, "The end of its output:\n\n{output}");
        }
    }
    if let Some(returned) = &previous.returned {
        let _infallible = writeln!(told, "Its branch was not merged: {}", returned.reason);
        for file in &returned.files {
            let _infallible = writeln!(told, "- {file}");
        }
    }
    if let Some(comment) = previous
        .rejected
        .as_ref()
        .and_then(|r| r.comment.as_deref())
    {
        let quoted: String = comment.lines().map(|line| format!("> {line}\n")).collect();
        let _infallible = writeln!(
            told,
            "A person looked at its changes and wants this:\n\n{quoted}"
        );
    }
    told
}

/// The last bytes of what a gate printed, at most `max`. `None`: there is none in its session's folder.
pub(crate) fn printed(root: &Root, ran: &GateRan, max: u64) -> Option<Vec<u8>> {
    let path = root.gate_log(&ran.session, ran.log.as_deref()?)?;
    let folder = path.parent()?;
    let is_ours = atomic::is_own_dir(folder) && atomic::is_own_dir(folder.parent()?);
    let (bytes, _) = is_ours.then(|| atomic::read_tail(&path, max).ok())??;
    Some(bytes)
}

/// The end of a gate's output, each line indented.
fn output(root: &Root, ran: &GateRan) -> Option<String> {
    let shown = String::from_utf8_lossy(&printed(root, ran, OUTPUT_BYTES)?).into_owned();
    let shown = text::page(shown.trim_end());
    let indented: String = shown.lines().map(|line| format!("    {line}\n")).collect();
    (!indented.is_empty()).then_some(indented)
}
