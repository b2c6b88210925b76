//! Writes a digest of an attempt for people and scripts: `metrics.json` (figures) and `summary.md`
//! (what was asked, what came of it and where to look).
//!
//! No decision depends on these files. Invariant: an error with them stops nothing.

use std::fmt::Write;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Attempt;
use super::file::SessionFile;
use crate::atomic::OwnDir;
use crate::clock;
use crate::event::Figures;
use crate::outcome::{Outcome, Word};
use crate::record::more_notes;
use crate::runtime::Runtime;
use crate::text::{self, count_of};

/// Writes both files; none for scripts, which may be many and short.
pub(super) fn write(rt: &Runtime, attempt: &Attempt) {
    if attempt.file.agent == crate::agents::SCRIPT {
        return;
    }
    let nothing = Figures::default();
    let figures = attempt.stream.as_ref().map_or(&nothing, |s| s.figures());
    // Not through a symlink that its agent put in the folder's place.
    let folder = match OwnDir::open(&attempt.dir) {
        Ok(folder) => folder,
        Err(e) => return rt.console.warn(&format!("{}: {e}", attempt.file.slot)),
    };
    let metrics = Metrics::of(&attempt.file, figures.clone());
    let mut metrics = text::pretty_json(&metrics).unwrap_or_default();
    metrics.push(b'\n');
    for (name, text) in [
        ("metrics.json", metrics),
        (
            "summary.md",
            text::page(&summary(attempt, figures)).into_owned().into(),
        ),
    ] {
        if let Err(e) = folder.replace(name, &text, false) {
            rt.console.warn(&format!("{}: {e}", attempt.file.slot));
        }
    }
}

/// `state/sessions/SID/metrics.json`: what an attempt used.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Metrics {
    pub(crate) session: String,
    pub(crate) item: String,
    /// `agent-N`.
    pub(crate) slot: String,
    /// What ran: `script`, or a name from `[agents.NAME]`.
    pub(crate) agent: String,
    pub(crate) attempt: u32,
    /// `None` until it has ended.
    pub(crate) outcome: Option<Word<Outcome>>,
    #[serde(with = "text::or_null")]
    #[schemars(with = "Option<String>")]
    pub(crate) claimed_at: String,
    /// When its agent process was started; empty (`null`) before.
    #[serde(with = "text::or_null")]
    #[schemars(with = "Option<String>")]
    pub(crate) started_at: String,
    pub(crate) ended_at: Option<String>,
    /// From the start of the agent process to its end, or to now.
    pub(crate) seconds: f64,
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    pub(crate) commits: Option<u64>,
    pub(crate) files_changed: Option<u64>,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

impl Metrics {
    pub(crate) fn of(f: &SessionFile, figures: Figures) -> Metrics {
        Metrics {
            session: f.session.clone(),
            item: f.item.clone(),
            slot: f.slot.clone(),
            agent: f.agent.clone(),
            attempt: f.attempt,
            outcome: f.outcome.clone(),
            claimed_at: f.claimed_at.clone(),
            started_at: f.started_at.clone(),
            ended_at: f.ended_at.clone(),
            seconds: f.seconds,
            cpu_seconds: f.cpu_seconds,
            commits: f.commits,
            files_changed: f.files_changed,
            figures,
        }
    }
}

fn summary(attempt: &Attempt, figures: &Figures) -> String {
    let f = &attempt.file;
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut md = format!(
        "# {}: {}\n\n{}\n\n",
        f.item,
        f.outcome().unwrap_or_default(),
        said(&f.reason)
    );
    let took = clock::human(Duration::try_from_secs_f64(f.seconds).unwrap_or_default());
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            let _infallible = writeln!(md, "- {key}: {value}");
        }
    };
    line("Session", f.session.clone());
    line("Attempt", f.attempt.to_string());
    line("Agent", format!("{} in {}", f.agent, f.slot));
    line("Started", f.started_at.clone());
    line("Ended", format!("{} (took {took})", said(&f.ended_at)));
    let model = figures.model.clone().unwrap_or_default();
    line("Model", model);
    line(
        "Work",
        format!(
            "{}, {}, {}{}",
            count_of(figures.turns, "turn"),
            count_of(figures.tool_calls, "tool call"),
            count_of(figures.tokens(), "token"),
            figures
                .cost_usd
                .map_or(String::new(), |c| format!(", {c:.4} USD")),
        ),
    );
    line("Branch", said(&f.published.clone().or(f.branch.clone())));
    if let Some(commits) = f.commits {
        let files = f.files_changed.unwrap_or_default();
        line(
            "Changed",
            format!(
                "{}, {}",
                count_of(commits, "commit"),
                count_of(files, "file")
            ),
        );
    }
    line("Fault", said(&f.fault));
    for note in more_notes(f.reason.as_deref(), &f.notes) {
        line("Note", note.to_owned());
    }
    if let Some(message) = figures
        .last_message
        .as_ref()
        .filter(|m| !m.trim().is_empty())
    {
        md.push_str("\n## Its last words\n\n");
        md.extend(message.lines().map(|l| format!("> {l}\n")));
    }
    md.push_str("\nThe files beside this one: prompt.md, stdout.log, stderr.log, events.jsonl, session.json.\n");
    md
}
