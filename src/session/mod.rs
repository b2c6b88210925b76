//! One attempt of one item, from its claim to its outcome:
//! `begin` (session folder, worktree, the agent started) → `watch` (the agent runs under its keeper)
//! → `conclude` (its work kept, judged, published, recorded; the item moved).
//!
//! A harness that dies in between leaves enough for another to go on: `recovery` enters at `watch`
//! where the agent still runs, at `conclude` where it ended, and puts back what never started.
//! Everybody else sees a session through `inspect`.

mod accept;
mod begin;
mod breaker;
pub(crate) mod canary;
mod conclude;
mod confine;
pub(crate) mod digest;
mod end;
pub mod file;
pub(crate) mod gates;
pub(crate) mod hooks;
mod launch;
mod limit;
mod liveness;
mod lost;
pub(crate) mod paid;
pub(crate) mod pause;
mod publish;
mod resume;
mod stream;
mod supervised;
mod watch;

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use accept::accepts;
use begin::begin;
pub(crate) use begin::branch_of;
use conclude::gate_made;
pub(crate) use conclude::{conclude, gate_on, publish_on};
pub(crate) use end::{count_again, target_of};
use file::SessionFile;
use gates::Made;
pub(crate) use launch::neutral as neutral_environment;
pub(crate) use lost::lose;
use pause::InterruptContext;
pub(crate) use publish::short_id;
pub(crate) use resume::preferred_slot;
use stream::Stream;
pub(crate) use supervised::end_tree;
pub(crate) use watch::{post_mortem, watch};

use crate::atomic;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::event::Figures;
use crate::git::{Base, Hub, Worktree};
use crate::keeper::{ExitRecord, Keeper};
use crate::layout::{DEFAULT_REPO, Place, Root, SlotId};
use crate::lease::{self, Lease};
use crate::limits::STARTS_MAX;
use crate::local;
use crate::mutant::planted;
use crate::outcome::{self, Exit, Outcome, Stop};
use crate::record::{Event, Record, Refused, Requeued, Started};
use crate::runtime::{ItemResult, Level, Runtime};
use crate::spool::{Claim, Ended, Target};
use crate::status::{Health, SlotState};
use crate::term::Paint;
use crate::text::one_line;
use crate::waker::Waker;

/// What one worker thread works with: its slot's lease, its keeper, and what it remembers of its last
/// item.
pub(crate) struct WorkerContext {
    pub(crate) rt: Arc<Runtime>,
    pub(crate) lease: Arc<Lease>,
    /// ROOT, with the folder on this host's own disk in which the slot works: until it is recovered, that
    /// of its last holder.
    pub(crate) root: Root,
    /// What its last holder had on a disk cannot be had: that of another host, or one that is gone.
    pub(crate) is_lost: bool,
    pub(crate) waker: Arc<Waker>,
    pub(crate) keeper: Option<Keeper>,
    /// The repository of the last item: its files are in the slot's worktree.
    pub(crate) repo: Option<String>,
    /// In which round this slot has started a prompt agent last: later starts are not staggered in it.
    pub(crate) staggered: u64,
    /// The agent for which it tries first, after a hold.
    pub(crate) canary: Option<String>,
    /// When it asks again to start its first prompt. Until then it takes only scripts.
    pub(crate) turn: Option<Instant>,
    /// The last attempt of this slot, for the context of an interrupt.
    pub(crate) interrupt_context: Option<InterruptContext>,
    /// The mark of the interrupt that was handled last.
    pub(crate) noticed: RefCell<Option<String>>,
    /// A gate that a dead harness started and that the keeper still runs: its name there, and for how
    /// long.
    pub(crate) running_gate: Option<(String, Duration)>,
}

impl WorkerContext {
    pub(crate) fn new(rt: Arc<Runtime>, lease: Lease, waker: Arc<Waker>) -> WorkerContext {
        let place = local::of_slot(&rt.root, lease.slot);
        WorkerContext {
            is_lost: place.is_none(),
            root: place.unwrap_or_else(|| rt.root.clone()),
            rt,
            lease: Arc::new(lease),
            waker,
            keeper: None,
            repo: None,
            staggered: 0,
            canary: None,
            turn: None,
            interrupt_context: None,
            noticed: RefCell::default(),
            running_gate: None,
        }
    }

    /// Ends the idle keeper.
    pub(crate) fn dismiss_keeper(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.dismiss();
        }
    }

    pub(crate) fn slot(&self) -> SlotId {
        self.lease.slot
    }

    /// Repeats `work` while it fails for a temporary reason, and shows the reason. The host's trouble
    /// (a full disk) is waited out. What else fails in the same way again and again becomes a
    /// permanent error. Once the process is stopping the error is returned as it is: the item then
    /// stays in `claimed/` for the next harness.
    pub(crate) fn retry_temporary<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let (slot, mut before) = (self.slot().to_string(), None);
        let done = loop {
            match work() {
                Err(e)
                    if e.kind() == Kind::Temporary
                        && self.rt.lifecycle.level() < Level::Stopping =>
                {
                    let wait = self.rt.troubles.met(&slot, &e);
                    self.rt.slots.show(self.slot(), |s| {
                        before.get_or_insert(s.state);
                        s.state = SlotState::Trouble;
                        s.reason = Some(one_line(&e.to_string()));
                    });
                    if self.rt.troubles.is_lasting(&slot) {
                        break Err(e.lasting());
                    }
                    self.rt
                        .console
                        .warn(&format!("{slot}: {e}; it goes on by itself"));
                    self.rest(wait, Level::Stopping);
                }
                other => break other,
            }
        };
        if let Some(before) = before {
            self.rt.troubles.over(&slot);
            self.rt.slots.show(self.slot(), |s| {
                if s.state == SlotState::Trouble {
                    s.state = before;
                }
                s.reason = None;
            });
        }
        done
    }

    /// Whether another host took this one for lost, and has the slot's items.
    pub(crate) fn is_given_up(&self) -> bool {
        self.rt.has_others && lease::is_closed(&self.rt.root, self.slot())
    }

    /// Shows why the slot waits.
    pub(crate) fn show_reason(&self, reason: Option<String>) {
        self.rt.slots.show(self.slot(), |s| s.reason = reason);
    }

    /// Waits for this long, whatever wakes the worker, unless the process comes to `until`.
    pub(crate) fn rest(&self, wait: Duration, until: Level) {
        let end = clock::instant() + wait;
        while self.rt.lifecycle.level() < until {
            let left = end.saturating_duration_since(clock::instant());
            if left.is_zero() {
                break;
            }
            self.waker.wait(left);
        }
    }
}

/// An attempt under way.
pub(crate) struct Attempt {
    pub(crate) claim: Box<Claim>,
    pub(crate) record: Record,
    pub(crate) dir: PathBuf,
    pub(crate) file: SessionFile,
    /// Where it works in a repository; `None`: a plain directory.
    pub(crate) work: Option<Arc<Work>>,
    /// The CLI's output, if harness reads its dialect.
    pub(crate) stream: Option<Stream>,
    /// What budgets leave it in dollars.
    pub(crate) usd_max: Option<f64>,
    /// Whether it may have reserved what it uses.
    pub(crate) reserved: bool,
    /// Whether another harness began it.
    pub(crate) recovered: bool,
}

impl Attempt {
    /// A new attempt of a claim that was just won: the last one in its record.
    fn of_claim(rt: &Runtime, claim: Box<Claim>, record: Record) -> Attempt {
        let last = record.history().last.as_ref();
        let (session, attempt) =
            last.map_or_else(Default::default, |l| (l.session.clone(), l.attempt));
        Attempt {
            dir: rt.root.session(&session),
            file: SessionFile {
                session,
                item: claim.name.shown(),
                slot: claim.lease().slot.to_string(),
                attempt,
                claimed_at: clock::now_iso(),
                harness_pid: std::process::id(),
                ..SessionFile::default()
            },
            claim,
            record,
            work: None,
            stream: None,
            usd_max: None,
            reserved: false,
            recovered: false,
        }
    }

    /// The hub that has its branch, even if its worktree is gone.
    pub(crate) fn hub(&self, ctx: &WorkerContext) -> Result<Option<Arc<Hub>>> {
        match (&self.work, &self.file.branch) {
            (Some(work), _) => Ok(Some(work.hub.clone())),
            (None, None) => Ok(None),
            (None, Some(_)) => {
                let repo = self.file.repo.as_deref().unwrap_or(DEFAULT_REPO);
                let hub = ctx.rt.repos.hub(&ctx.root, repo)?;
                if let Some(hub) = &hub {
                    // The disk of the host that made them may be gone.
                    for oid in self.file.head.iter().chain(&self.file.base_oid) {
                        hub.finds_commit(oid)?;
                    }
                }
                Ok(hub)
            }
        }
    }

    /// What a person needs to know about an interrupted attempt.
    fn interrupt_context(&self) -> InterruptContext {
        InterruptContext {
            session: self.file.session.clone(),
            item: self.claim.name.clone(),
            dir: self.dir.clone(),
            work: self.work.clone(),
        }
    }

    /// Opens the stream that the session's file names.
    pub(crate) fn open_stream(&mut self) {
        let events = self.file.events.as_deref();
        let previous = self.file.resumed.as_ref().map(|_| Figures {
            conversation: self.file.conversation_before,
            ..Figures::default()
        });
        self.stream = events.and_then(|e| Stream::open(&self.dir, e, previous.as_ref()));
    }
}

/// An attempt's branch and worktree.
pub(crate) struct Work {
    pub(crate) hub: Arc<Hub>,
    pub(crate) tree: Worktree,
    pub(crate) base: Base,
    pub(crate) branch: String,
}

/// How its process ended, or that it never started.
pub(crate) enum Over {
    Exited {
        exit: Exit,
        stop: Option<Stop>,
        record: Option<ExitRecord>,
    },
    /// It could not be started, and only a person can change that.
    Unstartable(String),
}

/// Why an attempt did not begin.
enum Failed {
    /// Nothing is wrong with it: it may not start now, for this reason.
    PutOff(String),
    /// Its item has no budget left.
    Unpaid(String),
    Refused(String),
    Fault(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Failed::Fault(e)
    }
}

/// Raises an interrupt for the worker's slot, unless the user wants none for this cause.
pub(crate) fn interrupt(ctx: &WorkerContext, cause: &str, why: &str) {
    let wanted = &ctx.rt.config.harness.interrupt_on;
    if wanted.iter().any(|c| c == cause) {
        raise_interrupt(ctx, why);
    }
}

fn raise_interrupt(ctx: &WorkerContext, why: &str) {
    if let Err(e) = crate::interrupt::raise(&ctx.rt.root, &ctx.slot().to_string(), why) {
        ctx.rt.console.warn(&e.to_string());
    }
}

/// Runs a claimed item to its end. Returns whether it went well, as `conclude` does.
pub(crate) fn run(ctx: &mut WorkerContext, claim: Box<Claim>, record: Record) -> Result<bool> {
    let attempt = Attempt::of_claim(&ctx.rt, claim, record);
    ctx.rt.results.claimed_again(&attempt.claim.name);
    show_starting(ctx, &attempt);
    hooks::claimed(ctx, &attempt);
    if let Some(made) = gates::to_run_again(&ctx.rt, &attempt) {
        canary::give_back(ctx);
        return gate_again(ctx, attempt, made);
    }
    let (mut attempt, begun) = begin(ctx, attempt);
    let over = match begun {
        Ok(age) => {
            note_start(ctx, &mut attempt);
            watch(ctx, &mut attempt, age, false)?
        }
        Err(Failed::PutOff(why)) => {
            let name = &attempt.claim.name;
            let text = format!("{}  put off    {name}: {why}", ctx.slot());
            ctx.rt.console.say(&text);
            let to = Target::Pending { not_before: None };
            return undo_begin(ctx, attempt, why, to, None).map(|_| true);
        }
        Err(Failed::Unpaid(why)) => return park_unpaid(ctx, attempt, why),
        Err(Failed::Refused(why)) => Over::Unstartable(why),
        Err(Failed::Fault(e)) if e.kind() == Kind::Temporary || e.is_barred() => {
            return give_back(ctx, attempt, e);
        }
        Err(Failed::Fault(e)) => Over::Unstartable(e.to_string()),
    };
    conclude(ctx, attempt, over)
}

/// Runs the gates of an attempt again that could not be evaluated, on the same work: no agent is paid
/// for it again.
fn gate_again(ctx: &mut WorkerContext, attempt: Attempt, made: Made) -> Result<bool> {
    let (attempt, begun) = begin::begin_with(ctx, attempt, made);
    match begun {
        Ok(()) => gate_made(ctx, attempt),
        Err(e) if e.kind() == Kind::Temporary || e.is_barred() => give_back(ctx, attempt, e),
        Err(e) => conclude(ctx, attempt, Over::Unstartable(e.to_string())),
    }
}

fn show_starting(ctx: &WorkerContext, attempt: &Attempt) {
    let file = &attempt.file;
    ctx.rt.slots.show(ctx.slot(), |s| {
        s.state = SlotState::Starting;
        s.item = Some(file.item.clone());
        s.reason = None;
        s.session = Some(file.session.clone());
        s.attempt = Some(file.attempt);
        s.agent = None;
        s.claimed_at = Some(file.claimed_at.clone());
        s.started_at = None;
        s.pid = None;
        s.last_message = None;
        s.health = Health::Healthy;
        (s.turns, s.tool_calls, s.cost_usd) = (0, 0, 0.0);
        (s.input_tokens, s.output_tokens) = (0, 0);
    });
}

/// Records and reports that the agent was started. If that cannot be recorded, claim and session
/// still hold what recovery needs.
fn note_start(ctx: &WorkerContext, attempt: &mut Attempt) {
    let (file, item) = (&attempt.file, &attempt.claim.item);
    let event = Event::Started(Started {
        session: file.session.clone(),
        slot: file.slot.clone(),
        agent: file.agent.clone(),
        attempt: Some(file.attempt),
        pid: file.pid,
        repo: file.repo.clone(),
        branch: file.branch.clone(),
        base: file.base.clone(),
        base_oid: file.base_oid.clone(),
        resumed: file.resumed.clone(),
        understood: Some(item.understood()).filter(|words| !words.is_empty()),
    });
    let _lost = attempt.record.append(&event);
    let resumed = file.resumed.as_ref().map_or("", |_| ", resumed");
    let past = was_past(attempt).then(|| PAST.to_owned());
    let remarks = item.remark().into_iter().chain(past);
    let remark: String = remarks.map(|r| format!("; {r}")).collect();
    let (name, attempt) = (&attempt.claim.name, file.attempt);
    let text = format!("{name} (attempt {attempt}{resumed}{remark})");
    ctx.rt.console.note(ctx.slot(), "started", &text);
}

const PAST: &str = "its `not_before` was past when its file was written";

/// Whether it was never to wait: perhaps another day was meant. A wait of ours changes the file's time.
fn was_past(attempt: &Attempt) -> bool {
    let meta = attempt.claim.path().symlink_metadata().ok();
    let at = attempt.claim.item.order.not_before.zip(meta);
    let is_first = attempt.file.attempt == 1 && attempt.record.history().requeues == 0;
    is_first && at.is_some_and(|(at, meta)| at < clock::mtime_ns(&meta))
}

/// How long an item waits after a failed start: at first, and at most.
const REQUEUE: Duration = Duration::from_secs(2);
const REQUEUE_MAX: Duration = Duration::from_secs(300);

/// The attempt did not start: its item goes back to `pending/`, and it is not counted. If a person
/// must fix the cause (permissions, a damaged folder, a fetch that fails again and again), the item
/// is parked instead.
fn give_back(ctx: &WorkerContext, attempt: Attempt, why: Error) -> Result<bool> {
    let before = attempt.record.history().requeues;
    let again = why.is_of_host() || before + 1 < STARTS_MAX;
    let mends = why.kind() == Kind::Temporary || why.is_barred();
    let temporary = mends && again && !planted("trouble-is-final");
    let end = if temporary { "goes back" } else { "is parked" };
    let name = &attempt.claim.name;
    ctx.rt
        .console
        .warn(&format!("{}: {name} {end}: {why}", ctx.slot()));
    // With a delay that grows: the machine is in trouble, or the item itself is the cause (a
    // submodule that cannot be fetched).
    let delay = outcome::backoff(before, REQUEUE, REQUEUE_MAX, 0.2, random_fraction());
    let not_before = temporary.then(|| clock::ns_from_now(delay));
    let to = match temporary {
        true => Target::Pending { not_before },
        false => Target::Parked,
    };
    let result = ItemResult {
        name: name.clone(),
        outcome: Some(Outcome::Refused),
        attempt: attempt.file.attempt,
        seconds: 0.0,
        branch: None,
        has_notes: false,
        reason: one_line(&why.to_string()),
    };
    let (slot, agent) = (attempt.file.slot.clone(), attempt.file.agent.clone());
    undo_begin(ctx, attempt, why.to_string(), to, None)?;
    if !temporary {
        hooks::refused(&ctx.rt, &result, Some((slot, agent)));
        ctx.rt.results.ended(result, Place::Parked);
    }
    Ok(true)
}

/// Its item has no budget left: it is parked, and that was no attempt.
fn park_unpaid(ctx: &WorkerContext, attempt: Attempt, why: String) -> Result<bool> {
    let (slot, agent) = (attempt.file.slot.clone(), attempt.file.agent.clone());
    let outcome = Outcome::OverBudget;
    let result = ItemResult {
        name: attempt.claim.name.clone(),
        outcome: Some(outcome),
        attempt: attempt.file.attempt.saturating_sub(1),
        seconds: 0.0,
        branch: None,
        has_notes: false,
        reason: one_line(&why),
    };
    let parked = Event::Parked(Refused {
        reason: result.reason.clone(),
        outcome: Some(outcome.into()),
    });
    if undo_begin(ctx, attempt, why, Target::Parked, Some(parked))? != Ended::TakenAway {
        let (word, name, why) = (outcome.as_str(), &result.name, &result.reason);
        let text = format!("{name}: {why}; parked");
        ctx.rt.console.say_of(&slot, Paint::Red, word, &text);
        hooks::refused(&ctx.rt, &result, Some((slot, agent)));
        ctx.rt.results.ended(result, Place::Parked);
    }
    Ok(true)
}

/// Undoes what was begun of an attempt that started nothing, and moves its item. `then`: what is recorded
/// once it is there.
fn undo_begin(
    ctx: &WorkerContext,
    attempt: Attempt,
    reason: String,
    to: Target,
    then: Option<Event>,
) -> Result<Ended> {
    let Attempt {
        claim,
        mut record,
        dir,
        file,
        reserved,
        ..
    } = attempt;
    // The folder first: after the `requeued` line nobody looks for it. Each is repeated until done:
    // one without the other would look like a started attempt.
    let copies = "the attempt never started: it holds copies only";
    let mut done = ctx.retry_temporary(|| atomic::discard_tree(&dir, copies));
    if reserved {
        done = done.and(paid::give_back(ctx, &file.session));
    }
    if !planted("not-given-back-on-record") {
        let event = Event::Requeued(Requeued {
            session: file.session,
            reason: crate::text::one_line(&reason),
            not_before_ns: match to {
                Target::Pending { not_before } => not_before,
                _ => None,
            },
        });
        done = done.and(ctx.retry_temporary(|| record.append(&event)));
    }
    match done {
        Err(e) if e.kind() == Kind::Temporary => return Err(e),
        Err(e) => ctx.rt.console.warn(&e.to_string()),
        Ok(()) => {}
    }
    if planted("unpaid-on-record-first") {
        then.iter().try_for_each(|event| record.append(event))?;
    }
    // Not before: it would have its budget again, and waits for no person yet.
    end_claim(ctx, claim, to, &mut |ended| match &then {
        Some(event) if ended != Ended::TakenAway => record.append(event),
        _ => Ok(()),
    })
}

/// Ends a claim, retrying while the error is temporary. `before`: as in `Claim::end`.
pub(crate) fn end_claim(
    ctx: &WorkerContext,
    claim: Box<Claim>,
    target: Target,
    before: &mut dyn FnMut(Ended) -> Result<()>,
) -> Result<Ended> {
    let mut held = Some(claim);
    let durable = ctx.rt.durable;
    let ended = ctx.retry_temporary(|| match held.take() {
        None => Err(Error::permanent("cannot end the claim", "it has ended")),
        Some(claim) => claim.end(target, durable, before).map_err(|(e, claim)| {
            held = Some(claim);
            e
        }),
    });
    ctx.rt.ready.look_at_busy();
    ended
}

/// A number in 0..1 for jitter: `RandomState` takes its keys from the system's random source, and
/// each new one has other keys.
fn random_fraction() -> f64 {
    let bits = RandomState::new().hash_one(0_u8);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
