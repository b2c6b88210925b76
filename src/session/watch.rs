//! Watches a running agent: its limits, signs of life, item's file and interrupts, and whether this
//! process stops. Finds out how it ended if its keeper died.
//!
//! Decides when an agent is stopped or frozen; the keeper does it. Invariant: time in which the agent
//! was frozen, or the machine slept, counts for none of its limits.

use std::path::Path;
use std::time::{Duration, Instant};

use super::liveness::{Liveness, Signs};
use super::pause::{Follow, Turn};
use super::{Attempt, Over, WorkerContext, canary, pause};
use crate::atomic;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::event::Figures;
use crate::interrupt::{self, Interrupt};
use crate::keeper::ExitRecord;
use crate::keeper::wire::{Reply, Request};
use crate::layout::SlotId;
use crate::limits::{STATE_FILE_BYTES_MAX, TREE_LOOK_ENTRIES_MAX};
use crate::mutant::planted;
use crate::outcome::{Exit, Stop};
use crate::process::{self, Ended};
use crate::record::{Event, Interrupted, Resumed};
use crate::runtime::{Level, Runtime};
use crate::status::{Health, SlotState};

/// How often a running agent's file and limits are checked.
const LOOK: Duration = Duration::from_millis(250);
/// How long the process tree of an agent whose keeper died is searched and killed.
const SWEEP: Duration = Duration::from_secs(10);
/// How often to check whether an agent that is invisible from here has ended.
const UNSEEN: Duration = Duration::from_secs(1);

/// Waits until the agent and its process tree are gone. Stops it at a limit, freezes it while an
/// interrupt exists. `age`: how long it has been running. `adopted`: another harness started it, and
/// may have frozen it.
pub(crate) fn watch(
    ctx: &mut WorkerContext,
    attempt: &mut Attempt,
    age: Duration,
    adopted: bool,
) -> Result<Over> {
    let mut watch = Watch::new(ctx, attempt, age);
    if adopted {
        canary::adopt(ctx, attempt);
        // An interrupt may have come or gone while no harness was there.
        match interrupt::of(&ctx.rt.root, ctx.slot()) {
            Some(interrupt) => watch.freeze(ctx, attempt, &interrupt),
            None => {
                send(ctx, &Request::Thaw);
                if attempt
                    .record
                    .history()
                    .last
                    .as_ref()
                    .is_some_and(|l| l.frozen)
                {
                    note_resumed(attempt);
                }
            }
        }
    }
    loop {
        canary::look(ctx, attempt);
        watch.advance_time();
        watch.check_limits(ctx, attempt);
        watch.follow_interrupt(ctx, attempt);
        watch.check_life(ctx, attempt);
        let Some(keeper) = &mut ctx.keeper else {
            return post_mortem(ctx, attempt, watch.stop);
        };
        let (_, readable) = ctx.waker.wait_or(Some(keeper.fd()), watch.wait(&ctx.rt));
        if let Some(stream) = &mut attempt.stream
            && stream.read_on(false)
        {
            watch.spoke = clock::instant();
            show(&ctx.rt, ctx.lease.slot, stream.figures());
        }
        if !readable {
            continue;
        }
        match keeper.receive() {
            Ok(Some(Reply::Exited { session, exit })) if session == attempt.file.session => {
                if let Some(over) = exit_of(&exit, watch.stop) {
                    return Ok(over);
                }
                return post_mortem(ctx, attempt, watch.stop);
            }
            Ok(Some(Reply::Vitals { cpu })) => watch.cpu = Some(cpu),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                keeper.kill_and_reap();
                ctx.keeper = None;
            }
        }
    }
}

/// What is known of a running agent.
struct Watch {
    /// How long it has been running at `at`, the time of this look.
    runs: Duration,
    at: Instant,
    /// No look was taken yet.
    first: bool,
    timeout: Duration,
    grace: Duration,
    linger: Duration,
    stop: Option<Stop>,
    interrupts: Follow,
    /// `None`: its output is not read, so silence means nothing.
    life: Option<Liveness>,
    looked: Instant,
    tree_looked: Instant,
    health: Health,
    cpu: Option<Duration>,
    /// When it last said something.
    spoke: Instant,
}

impl Watch {
    fn new(ctx: &WorkerContext, attempt: &Attempt, age: Duration) -> Watch {
        let now = clock::instant();
        let harness = &ctx.rt.config.harness;
        let reads = attempt.stream.is_some();
        Watch {
            runs: age,
            at: now,
            first: true,
            timeout: Duration::from_secs(attempt.file.timeout_seconds),
            grace: harness.kill_grace,
            linger: harness.linger,
            stop: None,
            interrupts: Follow::default(),
            life: reads.then(|| Liveness::new(harness.stall, now)),
            looked: now,
            tree_looked: now,
            health: Health::Healthy,
            cpu: None,
            spoke: now,
        }
    }

    fn advance_time(&mut self) {
        let now = clock::instant();
        let passed = now - self.at;
        self.at = now;
        if !self.interrupts.is_frozen() {
            self.runs += passed;
            return;
        }
        self.spoke += passed;
        if let Some(life) = &mut self.life {
            life.skip(passed);
        }
    }

    fn wait(&self, rt: &Runtime) -> Duration {
        if self.stop.is_some() || self.interrupts.is_frozen() {
            return LOOK;
        }
        let look = clock::until_next(rt.slots.poll_interval(LOOK));
        self.life
            .as_ref()
            .map_or(look, |life| life.interval().min(look))
            .min(self.timeout.saturating_sub(self.runs))
    }

    /// Stops it when this process stops, its item is taken away, or a limit is reached.
    fn check_limits(&mut self, ctx: &mut WorkerContext, attempt: &Attempt) {
        if self.stop.is_some() {
            return;
        }
        let stop = if ctx.rt.lifecycle.level() >= Level::Stopping {
            Some(Stop::Shutdown)
        } else if !self.first && !attempt.claim.is_there() {
            Some(Stop::Canceled)
        } else if self.runs >= self.timeout {
            Some(Stop::TimedOut)
        } else {
            over_limit(attempt)
        };
        if let Some(stop) = stop {
            self.end(ctx, stop);
        }
    }

    fn end(&mut self, ctx: &mut WorkerContext, stop: Stop) {
        self.stop = Some(stop);
        self.interrupts = Follow::default();
        send(
            ctx,
            &Request::Stop {
                grace: self.grace,
                why: stop.as_str().into(),
            },
        );
    }

    /// Freezes it while an interrupt exists.
    fn follow_interrupt(&mut self, ctx: &mut WorkerContext, attempt: &mut Attempt) {
        // Most scripts end before a second look: skip the first.
        if std::mem::take(&mut self.first) && self.runs < LOOK {
            return;
        }
        if self.stop.is_some() {
            return;
        }
        match self.interrupts.look(ctx) {
            Some(Turn::Freeze(interrupt)) => self.freeze(ctx, attempt, &interrupt),
            Some(Turn::Thaw) => {
                send(ctx, &Request::Thaw);
                note_resumed(attempt);
                let slot = ctx.slot();
                ctx.rt.slots.show(slot, |s| {
                    s.state = SlotState::Working;
                    s.reason = None;
                });
                let name = attempt.claim.name.shown();
                ctx.rt.console.note(slot, "resumed", &name);
            }
            None => {}
        }
    }

    fn freeze(&mut self, ctx: &mut WorkerContext, attempt: &mut Attempt, interrupt: &Interrupt) {
        self.interrupts.froze(interrupt);
        send(ctx, &Request::Freeze);
        let reason = interrupt.headline();
        ctx.rt.slots.show(ctx.slot(), |s| {
            s.state = SlotState::Interrupted;
            s.reason = Some(reason.to_owned());
        });
        // A harness that died while the agent was frozen has said this already.
        if attempt.file.interrupts.last() != Some(&interrupt.mark()) {
            attempt.file.interrupts.push(interrupt.mark());
            // Nothing but `show` reads these.
            let _lost = attempt.record.append(&Event::Interrupted(Interrupted {
                session: attempt.file.session.clone(),
                slot: attempt.file.slot.clone(),
                reason: reason.to_owned(),
            }));
            let _lost = attempt.file.write(&attempt.dir, false);
        }
        if let Some(stream) = &mut attempt.stream {
            stream.read_on(false);
        }
        let context = attempt.interrupt_context();
        pause::take_notice(ctx, Some(&context), interrupt);
    }

    /// Looks for signs of life, and whether it keeps running after its final event.
    fn check_life(&mut self, ctx: &mut WorkerContext, attempt: &Attempt) {
        let (Some(life), Some(stream)) = (&mut self.life, &attempt.stream) else {
            return;
        };
        if self.stop.is_some() || self.interrupts.is_frozen() {
            return;
        }
        if stream.has_finished() && self.at.saturating_duration_since(self.spoke) >= self.linger {
            let name = &attempt.claim.name;
            let text = format!("{name}: the agent has finished but does not exit; stopping it");
            ctx.rt.console.note(ctx.slot(), "lingers", &text);
            return self.end(ctx, Stop::Lingered);
        }
        if self.at.saturating_duration_since(self.looked) < life.interval() {
            return;
        }
        // Output is a sign of life: the keeper is asked for others only while there is none.
        let is_silent = self.spoke <= self.looked;
        self.looked = self.at;
        let mut signs = Signs {
            bytes: bytes_of(&attempt.dir),
            cpu: self.cpu.take(),
            tree: None,
        };
        let tree_due = self.at.saturating_duration_since(self.tree_looked) >= life.interval() * 2;
        if life.wants_tree(self.at) && tree_due {
            self.tree_looked = self.at;
            let tree = attempt.file.worktree.as_deref();
            signs.tree = tree.map(|t| fingerprint(Path::new(t)));
        }
        let health = life.look(signs, stream.runs_tool(), self.at);
        if is_silent {
            send(ctx, &Request::Vitals);
        }
        if health == self.health {
            return;
        }
        self.health = health;
        ctx.rt.slots.show(ctx.slot(), |s| s.health = health);
        let name = &attempt.claim.name;
        match health {
            Health::Quiet => ctx.rt.console.warn(&format!(
                "{}: {name} has shown no sign of life for a while; it is stopped if that goes on",
                ctx.slot()
            )),
            Health::Stalled => self.end(ctx, Stop::Stalled),
            Health::Healthy | Health::Dead => {}
        }
    }
}

/// It goes on, and hears what was answered. A line that is lost has it hear the answer once more, in
/// another attempt.
fn note_resumed(attempt: &mut Attempt) {
    let resumed = Event::Resumed(Resumed {
        session: attempt.file.session.clone(),
        answer_ns: interrupt::answer_ns(&attempt.dir),
    });
    let _lost = attempt.record.append(&resumed);
}

/// Whether it is over a limit that its CLI does not enforce itself.
fn over_limit(attempt: &Attempt) -> Option<Stop> {
    let figures = attempt.stream.as_ref()?.figures();
    let file = &attempt.file;
    if file.watched_turns.is_some_and(|max| figures.turns > max) {
        return Some(Stop::OverTurns);
    }
    let cost = figures.cost_usd.unwrap_or_default();
    let over = file.watched_budget_usd.is_some_and(|max| cost > max);
    let most = file.watched_tokens;
    let over = over || most.is_some_and(|most| figures.counted_tokens() > most);
    over.then_some(Stop::OverBudget)
}

/// A dead keeper is noticed at the next read from its socket.
fn send(ctx: &mut WorkerContext, request: &Request) {
    if let Some(keeper) = &mut ctx.keeper {
        let _dead = keeper.send(request);
    }
}

fn bytes_of(dir: &Path) -> u64 {
    let len = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |m| m.len());
    len("stdout.log") + len("stderr.log")
}

/// A value that changes when files in the tree are added, removed or changed. Git's own files are left
/// out; of a huge tree only the first `TREE_LOOK_ENTRIES_MAX` entries count.
fn fingerprint(tree: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::MetadataExt;
    let mut hasher = DefaultHasher::new();
    let entries = walkdir::WalkDir::new(tree).into_iter();
    let entries = entries.filter_entry(|e| e.file_name() != ".git");
    for entry in entries.flatten().take(TREE_LOOK_ENTRIES_MAX) {
        if let Ok(m) = entry.metadata() {
            (m.ino(), m.size(), m.mtime(), m.mtime_nsec()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// Shows the agent's figures in the slot's status.
fn show(rt: &Runtime, slot: SlotId, figures: &Figures) {
    let now = clock::now_iso();
    rt.slots.show(slot, |s| {
        s.last_event_at = Some(now);
        s.turns = figures.turns;
        s.tool_calls = figures.tool_calls;
        s.input_tokens = figures.input_tokens;
        s.output_tokens = figures.output_tokens;
        s.cost_usd = figures.cost_usd.unwrap_or(0.0);
        s.last_message.clone_from(&figures.last_message);
    });
}

/// How it ended, from the text of an exit record. `None`: the text is no exit record.
fn exit_of(text: &[u8], stop: Option<Stop>) -> Option<Over> {
    let record: ExitRecord = serde_json::from_slice(text).ok()?;
    // A stop after the agent had ended stopped nothing; a cancel still counts.
    let stop = match (stop, record.stop()) {
        (Some(Stop::Canceled), _) => Some(Stop::Canceled),
        // An earlier harness saw a cancel. If the item's file is still gone, that is seen later.
        (_, Some(Stop::Canceled)) => Some(Stop::Shutdown),
        (_, of_keeper) => of_keeper,
    };
    Some(Over::Exited {
        exit: record.exit(),
        stop,
        record: Some(record),
    })
}

/// How the agent ended if its keeper is gone: from the keeper's exit record. Without one the end is
/// unknown, and processes that still run are killed.
pub(crate) fn post_mortem(
    ctx: &WorkerContext,
    attempt: &Attempt,
    stop: Option<Stop>,
) -> Result<Over> {
    // Half-written files of the keeper or of an earlier harness.
    if atomic::is_own_dir(&attempt.dir) {
        atomic::remove_temps(&attempt.dir);
    }
    // An error while reading does not mean that the end is unknown: try again.
    let path = attempt.dir.join("exit.json");
    let text = ctx.retry_temporary(|| match atomic::read_small(&path, STATE_FILE_BYTES_MAX) {
        Ok(text) => Ok(text),
        Err(e) if planted("unread-end-is-unknown") => {
            drop(e);
            Ok(Vec::new())
        }
        Err(e) => match Error::io("cannot read how the agent ended", &path, &e) {
            e if e.kind() == Kind::Temporary => Err(e),
            // There is none, or the agent has put something else in its place.
            _ => Ok(Vec::new()),
        },
    })?;
    if let Some(over) = exit_of(&text, stop) {
        return Ok(over);
    }
    let (slot, name) = (ctx.slot(), &attempt.claim.name);
    let slot_dir = ctx.rt.root.agent(slot);
    let sid = &attempt.file.session;
    let end_tree = |limit| process::end_tree(&slot_dir, sid, &attempt.dir, limit);
    let mut ended = end_tree(SWEEP);
    let mut more = 0;
    while ended.unseen {
        ctx.rt.console.warn(&format!(
            "{slot}: the keeper of {name} died, and its agent lives where it cannot be seen from \
             here (a container of its own?); it must end, or be ended there: it holds the lock on {}",
            attempt.dir.join("stdout.log").display()
        ));
        // Until it has ended, another attempt of the item must not start.
        while process::is_output_held(&attempt.dir) {
            if ctx.rt.lifecycle.level() >= Level::Stopping {
                return Err(Error::temporary(
                    "cannot end the agent",
                    "it lives where it cannot be seen from here",
                ));
            }
            ctx.waker.wait(UNSEEN);
            // What forks faster than the looks before may be slower now.
            more += end_tree(Duration::ZERO).killed;
        }
        more += ended.killed;
        ended = end_tree(SWEEP);
    }
    let Ended { killed, clean, .. } = ended;
    let killed = killed + more;
    ctx.rt.console.warn(&format!(
        "{slot}: the keeper of {name} died; {killed} of its processes were ended{}",
        if clean { "" } else { ", and some could not be" },
    ));
    Ok(Over::Exited {
        exit: Exit::Unknown,
        stop,
        record: None,
    })
}
