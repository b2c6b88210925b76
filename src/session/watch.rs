//! While the agent runs: its limits, its signs of life, its item's file, interrupts, the harness's
//! own orders; and what is left to learn when its keeper is gone.
//!
//! Decides when an agent is stopped or frozen; the keeper does it. Keeps: time in which the agent
//! was frozen, or the machine slept, counts for none of its limits.

use std::path::Path;
use std::time::{Duration, Instant};

use super::liveness::{Liveness, Pulse, Signs};
use super::{Attempt, Over, WorkerContext, pause};
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

/// How often a running agent's file and limits are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// An interrupt without a word is taken to be just being written, for so long.
const WORDLESS: Duration = Duration::from_millis(500);
/// How long the tree of an agent without a keeper is hunted for.
const SWEEP: Duration = Duration::from_secs(10);
/// How often an agent that cannot be seen from here is asked for.
const UNSEEN: Duration = Duration::from_secs(1);

/// Waits until the agent and its tree are gone; stops it where it must be stopped, freezes it while
/// an interrupt stands. `age`: how long it has been running. `adopted`: another harness started it,
/// and may have frozen it.
pub(crate) fn watch(
    ctx: &mut WorkerContext,
    attempt: &mut Attempt,
    age: Duration,
    adopted: bool,
) -> Result<Over> {
    let mut watch = Watch::new(ctx, attempt, age);
    if adopted {
        // Its interrupt may have come or gone while nobody was there to see to it.
        match interrupt::of(&ctx.rt.root, ctx.slot()) {
            Some(interrupt) => watch.freeze(ctx, attempt, &interrupt),
            None => send(ctx, &Request::Thaw),
        }
    }
    loop {
        watch.pass_time();
        watch.mind_orders(ctx, attempt);
        watch.mind_interrupt(ctx, attempt);
        watch.mind_life(ctx, attempt);
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
    /// How long it has been running, and when that was true.
    runs: Duration,
    at: Instant,
    first: bool,
    timeout: Duration,
    grace: Duration,
    linger: Duration,
    stop: Option<Stop>,
    frozen: bool,
    /// An interrupt without a word was seen then.
    wordless: Option<Instant>,
    /// Where its events are read: then silence means something.
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
            frozen: false,
            wordless: None,
            life: reads.then(|| Liveness::new(harness.stall, now)),
            looked: now,
            tree_looked: now,
            health: Health::Healthy,
            cpu: None,
            spoke: now,
        }
    }

    fn pass_time(&mut self) {
        let now = clock::instant();
        let passed = now - self.at;
        self.at = now;
        if !self.frozen {
            self.runs += passed;
            return;
        }
        self.spoke += passed;
        if let Some(life) = &mut self.life {
            life.skip(passed);
        }
    }

    fn wait(&self, rt: &Runtime) -> Duration {
        if self.stop.is_some() || self.frozen {
            return LOOK;
        }
        let look = clock::until_next(rt.slots.poll_interval(LOOK));
        self.life
            .as_ref()
            .map_or(look, |life| life.interval().min(look))
            .min(self.timeout.saturating_sub(self.runs))
    }

    /// What ends it whatever it does.
    fn mind_orders(&mut self, ctx: &mut WorkerContext, attempt: &Attempt) {
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
        self.frozen = false;
        send(
            ctx,
            &Request::Stop {
                grace: self.grace,
                why: stop.as_str().into(),
            },
        );
    }

    /// Freezes it while an interrupt stands.
    fn mind_interrupt(&mut self, ctx: &mut WorkerContext, attempt: &mut Attempt) {
        // Most items end before a second look: these cost none.
        if std::mem::take(&mut self.first) && self.runs < LOOK {
            return;
        }
        if self.stop.is_some() {
            return;
        }
        let (root, slot) = (ctx.rt.root.clone(), ctx.slot());
        if !self.frozen {
            let stands = interrupt::any(&root, &ctx.rt.interrupts);
            let Some(interrupt) = stands.then(|| interrupt::of(&root, slot)).flatten() else {
                self.wordless = None;
                return;
            };
            if !self.is_being_written(&interrupt) {
                self.freeze(ctx, attempt, &interrupt);
            }
        } else if let Some(interrupt) = interrupt::of(&root, slot) {
            // Another one may have taken its place.
            let is_new = attempt.file.interrupts.last() != Some(&interrupt.mark());
            if is_new && !self.is_being_written(&interrupt) {
                self.freeze(ctx, attempt, &interrupt);
            }
        } else {
            self.frozen = false;
            self.wordless = None;
            send(ctx, &Request::Thaw);
            let session = attempt.file.session.clone();
            let _lost = attempt.record.append(&Event::Resumed(Resumed { session }));
            ctx.rt.slots.show(slot, |s| s.state = SlotState::Working);
            ctx.rt
                .console
                .say(&format!("{slot}  resumed    {}", attempt.claim.name));
        }
    }

    /// Its word is what a person is told: it is waited for, not for long.
    fn is_being_written(&mut self, interrupt: &Interrupt) -> bool {
        let since = *self.wordless.get_or_insert(self.at);
        interrupt.reason.is_empty() && self.at - since < WORDLESS
    }

    fn freeze(&mut self, ctx: &mut WorkerContext, attempt: &mut Attempt, interrupt: &Interrupt) {
        self.frozen = true;
        self.wordless = None;
        send(ctx, &Request::Freeze);
        ctx.rt
            .slots
            .show(ctx.slot(), |s| s.state = SlotState::Interrupted);
        let reason = interrupt.headline();
        // Of one that a harness before us had frozen, this was said already.
        if attempt.file.interrupts.last() != Some(&interrupt.mark()) {
            attempt.file.interrupts.push(interrupt.mark());
            // Only the story would miss these.
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

    /// Signs of life; and whether it lives on after its last word.
    fn mind_life(&mut self, ctx: &mut WorkerContext, attempt: &Attempt) {
        let (Some(life), Some(stream)) = (&mut self.life, &attempt.stream) else {
            return;
        };
        if self.stop.is_some() || self.frozen {
            return;
        }
        if stream.has_finished() && self.at.saturating_duration_since(self.spoke) >= self.linger {
            ctx.rt.console.say(&format!(
                "{}  lingers    {}: it has finished and does not end; it is stopped",
                ctx.slot(),
                attempt.claim.name
            ));
            return self.end(ctx, Stop::Lingered);
        }
        if self.at.saturating_duration_since(self.looked) < life.interval() {
            return;
        }
        // What it says is life enough: its keeper is asked for other signs when it is silent.
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
        let health = match life.look(signs, stream.runs_tool(), self.at) {
            Pulse::Alive => Health::Healthy,
            Pulse::Quiet => Health::Quiet,
            Pulse::Stalled => Health::Stalled,
        };
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
                "{}: {name} has given no sign of life for a while; it is stopped if that goes on",
                ctx.slot()
            )),
            Health::Stalled => self.end(ctx, Stop::Stalled),
            Health::Healthy | Health::Dead => {}
        }
    }
}

/// Whether it has used up what harness itself must see to.
fn over_limit(attempt: &Attempt) -> Option<Stop> {
    let figures = attempt.stream.as_ref()?.figures();
    let file = &attempt.file;
    if file.watched_turns.is_some_and(|max| figures.turns > max) {
        return Some(Stop::OverTurns);
    }
    let cost = figures.cost_usd.unwrap_or_default();
    let over = file.watched_budget_usd.is_some_and(|max| cost > max);
    over.then_some(Stop::OverBudget)
}

/// One that is dead shows at the next look at its socket.
fn send(ctx: &mut WorkerContext, request: &Request) {
    if let Some(keeper) = &mut ctx.keeper {
        let _dead = keeper.send(request);
    }
}

fn bytes_of(dir: &Path) -> u64 {
    let len = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |m| m.len());
    len("stdout.log") + len("stderr.log")
}

/// A value that changes when files in the tree come, go or change; git's own are left out. Of a
/// huge tree only a part is looked at, always the same one.
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

/// The figures in the slot's status while it runs.
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

/// From an exit record; `None`: it is none.
fn exit_of(text: &[u8], stop: Option<Stop>) -> Option<Over> {
    let record: ExitRecord = serde_json::from_slice(text).ok()?;
    // A stop that came when it had ended already stopped nothing, but a cancel is a cancel.
    let stop = match (stop, record.stop()) {
        (Some(Stop::Canceled), _) => Some(Stop::Canceled),
        // A harness that is dead stopped it for a cancel: a missing file still says so.
        (_, Some(Stop::Canceled)) => Some(Stop::Shutdown),
        (_, of_keeper) => of_keeper,
    };
    Some(Over::Exited {
        exit: record.exit(),
        stop,
        record: Some(record),
    })
}

/// The keeper is gone: what its files say, and if they say nothing, that the end is not known.
/// Whatever still runs of the tree is ended first.
pub(crate) fn post_mortem(
    ctx: &WorkerContext,
    attempt: &Attempt,
    stop: Option<Stop>,
) -> Result<Over> {
    // What it, or a harness before us, was just writing.
    if atomic::is_own_dir(&attempt.dir) {
        atomic::remove_temps(&attempt.dir);
    }
    // Trouble with reading how it ended is no proof that nobody knows.
    let path = attempt.dir.join("exit.json");
    let text = ctx.retry_temporary(|| match atomic::read_small(&path, STATE_FILE_BYTES_MAX) {
        Ok(text) => Ok(text),
        Err(e) if planted("unread-end-is-unknown") => {
            drop(e);
            Ok(Vec::new())
        }
        Err(e) => match Error::io("cannot read how the agent ended", &path, &e) {
            e if e.kind() == Kind::Temporary => Err(e),
            // There is none, or its agent has put something else in its place.
            _ => Ok(Vec::new()),
        },
    })?;
    if let Some(over) = exit_of(&text, stop) {
        return Ok(over);
    }
    let (slot, name) = (ctx.slot(), &attempt.claim.name);
    let slot_dir = ctx.rt.root.agent(slot);
    let end_tree = || process::end_tree(&slot_dir, &attempt.file.session, &attempt.dir, SWEEP);
    let mut ended = end_tree();
    while ended.unseen {
        ctx.rt.console.warn(&format!(
            "{slot}: the keeper of {name} died, and its agent lives where it cannot be seen from \
             here (a container of its own?)\n  it must end, or be ended there: it holds the lock on {}",
            attempt.dir.join("stdout.log").display()
        ));
        // Another attempt beside it would be the second of an item that has not ended.
        while process::is_output_held(&attempt.dir) {
            if ctx.rt.lifecycle.level() >= Level::Stopping {
                return Err(Error::temporary(
                    "cannot end the agent",
                    "it lives where it cannot be seen from here",
                ));
            }
            ctx.waker.wait(UNSEEN);
        }
        ended = end_tree();
    }
    let Ended { killed, clean, .. } = ended;
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
