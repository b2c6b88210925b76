//! Finds out when an interrupt freezes what runs in a slot (`Follow`), and tells a person about it: writes
//! its context into the session (`interrupt.md`, a summary; `interrupt.diff`, what the agent changed) and
//! runs the user's `notify` command.
//!
//! Freezes nothing itself. Invariant: each interrupt is handled once, and an error with a summary stops
//! nothing.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stream::tail;
use super::{Work, WorkerContext};
use crate::atomic::{self, OwnDir};
use crate::clock;
use crate::event::Line;
use crate::hooks::{self, Event, Facts};
use crate::interrupt::{self, ALL, Interrupt};
use crate::layout::{Name, Root, SlotId};
use crate::quote;
use crate::text;

/// The file with an interrupt's context.
const CONTEXT: &str = "interrupt.md";
/// How much of the end of the agent's output is read for its last events.
const TAIL_BYTES: u64 = 256 << 10;
/// Last events, or lines of plain output, in a summary: a screen.
const EVENTS_SHOWN: usize = 20;

/// An interrupt whose file is empty counts as being written for this long.
const WORDLESS: Duration = Duration::from_millis(500);

/// Follows the interrupts of a slot in which something runs.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    /// The mark of the interrupt that froze it.
    frozen_by: Option<String>,
    /// When an interrupt with an empty file was first seen.
    wordless: Option<Instant>,
}

/// What an interrupt asks for.
pub(crate) enum Turn {
    /// Also where it is frozen already, and another interrupt has taken the place of the first.
    Freeze(Interrupt),
    Thaw,
}

impl Follow {
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen_by.is_some()
    }

    pub(crate) fn froze(&mut self, interrupt: &Interrupt) {
        self.frozen_by = Some(interrupt.mark());
        self.wordless = None;
    }

    /// What has changed since the last look.
    pub(crate) fn look(&mut self, ctx: &WorkerContext) -> Option<Turn> {
        let root = &ctx.rt.root;
        let stands = self.is_frozen() || interrupt::any(root, &ctx.rt.interrupts);
        let now = stands.then(|| interrupt::of(root, ctx.slot())).flatten();
        let Some(interrupt) = now else {
            self.wordless = None;
            return self.frozen_by.take().map(|_| Turn::Thaw);
        };
        let is_new = self.frozen_by.as_ref() != Some(&interrupt.mark());
        if !is_new || self.is_being_written(&interrupt) {
            return None;
        }
        self.froze(&interrupt);
        Some(Turn::Freeze(interrupt))
    }

    /// The text is shown to a person, so wait for it a moment.
    fn is_being_written(&mut self, interrupt: &Interrupt) -> bool {
        let now = clock::instant();
        let since = *self.wordless.get_or_insert(now);
        interrupt.reason.is_empty() && now - since < WORDLESS
    }
}

/// The attempt that a slot works on, or worked on last.
pub(crate) struct InterruptContext {
    pub(crate) session: String,
    pub(crate) item: Name,
    pub(crate) dir: PathBuf,
    pub(crate) work: Option<Arc<Work>>,
}

/// Writes the context and notifies a person, unless this or an earlier harness has done so.
pub(crate) fn take_notice(
    ctx: &WorkerContext,
    context: Option<&InterruptContext>,
    interrupt: &Interrupt,
) {
    let rt = &ctx.rt;
    let mark = interrupt.mark();
    // Once per slot and interrupt, even if it fails.
    if ctx.noticed.replace(Some(mark.clone())).as_ref() == Some(&mark) {
        return;
    }
    let first = interrupt.take_notice(&rt.root).unwrap_or_else(|e| {
        rt.console.warn(&e.to_string());
        false
    });
    let of_all = interrupt.stem == ALL;
    if !first && !of_all {
        return;
    }
    let mut summary = None;
    if let Some(context) = context {
        let path = context.dir.join(CONTEXT);
        // An interrupt for all slots: each writes its own context, once.
        let kept = atomic::read_small(&path, 1 << 20).unwrap_or_default();
        if !first && kept.starts_with(mark.as_bytes()) {
            return;
        }
        if let Err(e) = keep(&rt.root, ctx.slot(), context, interrupt) {
            rt.console.warn(&format!("{}: {e}", ctx.slot()));
        }
        summary = Some(path);
    }
    if first {
        let whom = match of_all {
            true => "all agents pause".to_owned(),
            false => format!("{} pauses", interrupt.stem),
        };
        let ways = |harness: &str| {
            let waits = context.filter(|c| waits(ctx, c));
            interrupt::ways(harness, &interrupt.stem, waits.map(|c| &c.item))
        };
        let more = summary.as_ref();
        let more = more.map_or(String::new(), |p| format!("; more in {}", p.display()));
        rt.console.warn(&format!(
            "{whom}: {}; what to do: {}{more}",
            interrupt.headline(),
            ways(quote::harness()),
        ));
        let facts = Facts {
            reason: Some(interrupt.headline().to_owned()),
            name: context.map(|s| s.item.clone()),
            session: context.map(|s| s.session.clone()),
            slot: Some(interrupt.stem.clone()),
            interrupt: Some(interrupt.path.to_string_lossy().into_owned()),
            what_to_do: Some(ways(&quote::harness_at(&rt.root))),
            ..Facts::default()
        };
        hooks::tell(rt, Event::Interrupt, &facts, summary.as_deref());
    }
}

/// Whether its item waits for the interrupt's end: its agent is frozen, or asked and ended.
fn waits(ctx: &WorkerContext, context: &InterruptContext) -> bool {
    let slots = ctx.rt.slots.statuses();
    let frozen = slots.get(&ctx.slot()).is_some_and(|s| s.item.is_some());
    frozen || interrupt::waits_for(&ctx.rt.root, &context.session).is_some()
}

fn keep(
    root: &Root,
    slot: SlotId,
    context: &InterruptContext,
    interrupt: &Interrupt,
) -> crate::error::Result<()> {
    // Its agent may put a symlink in the folder's place at any moment.
    let folder = OwnDir::open(&context.dir)?;
    let mut md = format!("{}\n# {slot} waits for a person\n\n", interrupt.mark());
    let reason = if interrupt.reason.is_empty() {
        interrupt.headline()
    } else {
        &interrupt.reason
    };
    let quoted = reason.lines().map(|l| format!("> {l}\n"));
    md.extend(quoted);
    md.push('\n');
    // Read anywhere: mailed, or shown by a notification.
    let harness = quote::harness_at(root);
    let ways = interrupt::ways(&harness, &interrupt.stem, Some(&context.item));
    for way in ways.split(", ") {
        let _infallible = writeln!(md, "- {way}");
    }
    let _infallible = write!(
        md,
        "\nBy hand: remove {} to let it go on; write an answer into {} first.\n\n- Item: {}\n- Session: {}\n- Since: {}\n",
        interrupt.path.display(),
        interrupt::answer_path(&context.dir).display(),
        context.item,
        context.session,
        clock::now_iso(),
    );
    md.push_str("\n## Last events\n\n");
    md.push_str(&last_events(&context.dir));
    if let Some(work) = &context.work {
        match work.tree.picture(&work.base) {
            Ok(picture) => {
                let _infallible = write!(
                    md,
                    "\n## Worktree\n\n{}\n\n```text\n{}```\n\nWhat it changed, against {}: interrupt.diff\n",
                    work.tree.path().display(),
                    picture.status,
                    work.base.name,
                );
                folder.replace("interrupt.diff", &picture.diff, false)?;
            }
            Err(e) => {
                let _infallible = write!(md, "\n## Worktree\n\n{e}\n");
            }
        }
    }
    folder.keep_older(CONTEXT)?;
    folder.replace(CONTEXT, text::page(&md).as_bytes(), false)
}

/// What the agent did last: its events, or the end of its plain output.
fn last_events(dir: &Path) -> String {
    let events = tail(&dir.join("events.jsonl"), TAIL_BYTES);
    let mut lines: Vec<String> = events
        .split(|&b| b == b'\n')
        .filter_map(Line::read)
        .map(|l| (l.at, l.body.brief()))
        .filter(|(_, brief)| !brief.is_empty())
        .map(|(at, brief)| format!("{} {brief}", at.get(11..19).unwrap_or(&at)))
        .collect();
    if lines.is_empty() {
        let plain = tail(&dir.join("stdout.log"), TAIL_BYTES);
        let text = String::from_utf8_lossy(&plain).into_owned();
        let printable = |l: &str| l.chars().filter(|c| !c.is_control()).take(200).collect();
        lines = text.lines().map(printable).collect();
    }
    let from = lines.len().saturating_sub(EVENTS_SHOWN);
    let shown = lines[from..].join("\n");
    format!("```text\n{shown}\n```\n")
}
