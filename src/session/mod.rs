//! One attempt of one item, from its claim to its outcome:
//! `begin` (session folder, worktree, command line) → `watch` (the agent runs under its keeper)
//! → `conclude` (its work kept, judged, published, recorded; the item moved).
//!
//! A harness that dies in between leaves enough for another to go on: `recovery` enters at `watch`
//! where the agent still runs, at `conclude` where it ended, and puts back what never started.

mod conclude;
pub mod file;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

pub use conclude::conclude;
use file::SessionFile;

use crate::agents::{self, Agent, Facts};
use crate::atomic;
use crate::bell::Bell;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::git::{Base, Hub, Worktree};
use crate::item::{self, Refusal};
use crate::keeper::wire::{Reply, Request, Spec};
use crate::keeper::{ExitRecord, Keeper};
use crate::layout::{DEFAULT_REPO, Name, SlotId};
use crate::lease::Lease;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::outcome::{self, Exit, Stop};
use crate::record::Record;
use crate::runtime::{Level, Runtime, dice};
use crate::spool::{Claim, Ended, Target};
use crate::status::AgentState;

/// What a worker thread has at hand: its slot's lease, keeper and bell.
pub struct Desk {
    pub rt: Arc<Runtime>,
    pub lease: Arc<Lease>,
    pub bell: Arc<Bell>,
    pub keeper: Option<Keeper>,
    /// Set once this slot has started a prompt agent: later starts are not staggered.
    pub staggered: bool,
}

impl Desk {
    pub fn slot(&self) -> SlotId {
        self.lease.slot
    }

    /// Does it again and again while the host is in trouble (disk full, out of descriptors), and
    /// says so once. Gives up when the harness is told to stop its agents: the item then waits in
    /// `claimed/` for the next harness.
    pub fn insist<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let mut said = false;
        loop {
            match work() {
                Err(e) if e.kind() == Kind::Temporary && self.rt.level() < Level::Stopping => {
                    if !said {
                        self.rt
                            .warn(&format!("{}: {e}\n  it goes on by itself", self.slot()));
                        said = true;
                    }
                    self.bell.wait(Duration::from_secs(1));
                }
                other => return other,
            }
        }
    }
}

/// An attempt under way.
pub struct Attempt {
    pub claim: Box<Claim>,
    pub record: Record,
    pub dir: PathBuf,
    pub file: SessionFile,
    /// Where it works in a repository; `None`: a plain directory.
    pub work: Option<Work>,
}

/// Its branch in its worktree.
pub struct Work {
    pub hub: Arc<Hub>,
    pub tree: Worktree,
    pub base: Base,
    pub branch: String,
}

/// How its process ended, or that it never started.
pub enum Over {
    Exited {
        exit: Exit,
        stop: Option<Stop>,
        record: Option<ExitRecord>,
    },
    /// It could not be started, and trying again would not help without a person.
    Unstartable(String),
}

/// Why an attempt did not begin.
enum Failed {
    Refused(String),
    Fault(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Failed::Fault(e)
    }
}

/// Whether an item can run here at all: its agent and its repository are known.
pub fn accepts(rt: &Runtime, item: &item::Item) -> Result<(), Refusal> {
    agents::for_item(&rt.config, item)?;
    match &item.repo {
        Some(repo) if !rt.repos.has(repo) => {
            let known = rt.repos.names().join(", ");
            Err(Refusal(format!(
                "unknown repo `{repo}`; there {}",
                if known.is_empty() {
                    "is none: describe it in [repos.NAME] of harness.toml".into()
                } else {
                    format!("are: {known}")
                }
            )))
        }
        _ => Ok(()),
    }
}

/// Runs a claimed item to its end.
pub fn run(desk: &mut Desk, claim: Box<Claim>, record: Record) -> Result<Ended> {
    let name = claim.name.clone();
    let last = record.history.last.clone().unwrap_or_default();
    let (sid, attempt) = (last.session, last.attempt);
    let (rt, slot) = (desk.rt.clone(), desk.slot());
    rt.show(slot, |s| {
        s.state = AgentState::Starting;
        s.work_item = Some(name.shown());
        s.session = Some(sid.clone());
        s.attempt = Some(attempt);
        s.started_at = Some(clock::now_iso());
        s.pid = None;
        s.last_message = None;
    });
    let mut file = SessionFile {
        session: sid.clone(),
        item: name.shown(),
        agent: slot.to_string(),
        attempt,
        status: "starting".into(),
        harness_pid: std::process::id(),
        ..SessionFile::default()
    };
    let dir = rt.root.session(&sid);
    let mut work = None;
    let begun = begin(desk, &claim, &dir, &mut file, &mut work);
    let mut attempt = Attempt {
        claim,
        record,
        dir,
        file,
        work,
    };
    let over = match begun {
        Ok(age) => {
            let event = json!({
                "session": sid, "agent": slot.to_string(), "attempt": attempt.file.attempt,
                "pid": attempt.file.pid, "branch": attempt.file.branch,
                "base": attempt.file.base, "base_oid": attempt.file.base_oid,
                "runner": attempt.file.runner,
            });
            // Only the story would miss it: the claim and the session say what matters.
            let _lost = attempt.record.append("started", event);
            rt.say(&format!(
                "{slot}  started    {name} (attempt {})",
                attempt.file.attempt
            ));
            watch(desk, &mut attempt, age)?
        }
        Err(Failed::Refused(why)) => Over::Unstartable(why),
        Err(Failed::Fault(e)) if e.kind() == Kind::Temporary => {
            let Attempt { claim, record, .. } = attempt;
            return give_back(desk, claim, record, &sid, e);
        }
        Err(Failed::Fault(e)) => Over::Unstartable(e.to_string()),
    };
    conclude(desk, attempt, over)
}

/// How long an item that could not be started waits: at first, and at most.
const REQUEUE: Duration = Duration::from_secs(2);
const REQUEUE_MAX: Duration = Duration::from_secs(300);

/// The attempt did not start and the item is as good as before: back to `pending/`, not counted.
/// What a person must mend (permissions, a damaged folder) parks it instead of looping.
fn give_back(
    desk: &Desk,
    claim: Box<Claim>,
    mut record: Record,
    sid: &str,
    why: Error,
) -> Result<Ended> {
    desk.rt
        .warn(&format!("{}: {} goes back: {why}", desk.slot(), claim.name));
    let temporary = why.kind() == Kind::Temporary;
    let before = record.history.requeues;
    let reason = why.to_string();
    let _full = record.append("requeued", json!({"session": sid, "reason": reason}));
    atomic::discard_tree(
        &desk.rt.root.session(sid),
        "the attempt never started: it holds copies only",
    )?;
    let target = if temporary {
        // Not at once: the trouble is the host's, and the next item would meet it too. Later and
        // later: it may be the item's own after all (a submodule that cannot be had).
        let delay = outcome::backoff(before, REQUEUE, REQUEUE_MAX, 0.2, dice());
        let not_before = clock::now_ns() + delay.as_nanos() as i64;
        Target::Pending {
            not_before: Some(not_before),
        }
    } else {
        Target::Parked
    };
    end_claim(desk, claim, target)
}

/// Ends a claim, however long the host needs.
pub fn end_claim(desk: &Desk, claim: Box<Claim>, target: Target) -> Result<Ended> {
    let mut held = Some(claim);
    let durable = desk.rt.durable();
    let ended = desk.insist(|| match held.take() {
        None => Err(Error::permanent("cannot end the claim", "it has ended")),
        Some(claim) => claim.end(target, durable).map_err(|(e, claim)| {
            held = Some(claim);
            e
        }),
    });
    desk.rt.ready.look_at_busy();
    ended
}

/// Makes the session's folder, the worktree and the agent's process. Returns the agent's age.
fn begin(
    desk: &mut Desk,
    claim: &Claim,
    dir: &std::path::Path,
    file: &mut SessionFile,
    work: &mut Option<Work>,
) -> Result<Duration, Failed> {
    let rt = desk.rt.clone();
    let slot = desk.slot();
    let item = &claim.item;
    let agent = agents::for_item(&rt.config, item).map_err(|Refusal(why)| Failed::Refused(why))?;
    file.runner = agent.name().to_owned();
    atomic::make_dir_new(dir)?;
    let item_file = dir.join("item");
    let script = matches!(agent, Agent::Script);
    drop(atomic::create(
        &item_file,
        &claim.bytes,
        if script { 0o700 } else { 0o600 },
    )?);

    let repo = item.repo.as_deref().unwrap_or(DEFAULT_REPO);
    let place = rt.root.worktree(slot, repo);
    let cwd = match rt.repos.hub(&rt.root, repo)? {
        None => {
            let elsewhere = place.symlink_metadata().is_ok_and(|m| !m.is_dir());
            if elsewhere || atomic::exists(&place.join(".git")) {
                // A worktree from a time with a repository, or something that an agent put in its
                // place: kept, not worked in.
                atomic::keep_older(&place)?;
            }
            atomic::make_dir(&place, true)?;
            place
        }
        Some(hub) => {
            let made = set_up(&hub, &place, claim, file)?;
            let cwd = made.tree.path().to_path_buf();
            *work = Some(made);
            cwd
        }
    };
    file.repo = work.as_ref().map(|_| repo.to_owned());
    file.worktree = Some(cwd.to_string_lossy().into_owned());

    let facts = facts(&rt, &claim.name, dir, &cwd, file);
    let prompt_file = dir.join("prompt.md");
    if !script {
        let mut prompt = Vec::new();
        if let Agent::Command(_, table) = &agent
            && table.bootstrap
            && let Ok(template) = atomic::read_small(
                &rt.root.path().join("prompts/bootstrap.md"),
                STATE_FILE_BYTES_MAX,
            )
        {
            prompt = agents::fill(OsStr::from_bytes(&template), &facts).into_vec();
            prompt.push(b'\n');
        }
        prompt.extend(&item.prompt);
        drop(atomic::create(&prompt_file, &prompt, 0o600)?);
    }
    let (mut argv, to_stdin) = agents::command_line(&agent, &facts, &item_file);
    let env = environment(&rt, claim, &agent, dir, &item_file, file);
    let path = env.get(&OsString::from("PATH")).cloned().flatten();
    let path = path.or_else(|| std::env::var_os("PATH"));
    let program = argv.first().cloned().unwrap_or_default();
    argv[0] = agents::find_program(&program, &cwd, path.as_deref())
        .map_err(Failed::Refused)?
        .into();
    let table = match &agent {
        Agent::Script => None,
        Agent::Command(_, table) => Some(*table),
    };
    let timeout = item
        .timeout
        .or(table.and_then(|t| t.timeout))
        .unwrap_or(rt.config.harness.timeout);
    file.timeout_seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    file.command = argv.iter().map(|a| crate::layout::shown(a)).collect();
    file.started_at = clock::now_iso();
    file.write(dir, false)?;

    if !script && !desk.staggered {
        desk.staggered = true;
        while rt.level() == Level::Running {
            let wait = rt.stagger();
            if wait.is_zero() {
                break;
            }
            desk.bell.wait(wait);
        }
    }
    let spec = Spec {
        session: file.session.clone(),
        argv,
        cwd,
        stdin: to_stdin.then_some(prompt_file),
        stdout: dir.join("stdout.log"),
        stderr: dir.join("stderr.log"),
        exit: dir.join("exit.json"),
        grace: rt.config.harness.kill_grace,
        env,
    };
    let (pid, age) = start(desk, spec)?;
    file.pid = pid;
    rt.show(slot, |s| {
        s.state = AgentState::Working;
        s.pid = pid;
    });
    Ok(age)
}

/// The branch in the slot's worktree, from the base's current commit.
fn set_up(
    hub: &Arc<Hub>,
    place: &std::path::Path,
    claim: &Claim,
    file: &mut SessionFile,
) -> Result<Work, Failed> {
    let branch = branch_of(&claim.name, claim.item.branch.as_deref(), file.attempt);
    let base = hub.base(claim.item.base.as_deref())?;
    let tree = hub.worktree(place)?;
    tree.checkout(&branch, &base)?;
    file.branch = Some(branch.clone());
    file.base = Some(base.name.clone());
    file.base_oid = Some(base.oid.clone());
    Ok(Work {
        hub: hub.clone(),
        tree,
        base,
        branch,
    })
}

/// `harness/NAME/ATTEMPT`; a `branch` field stands in for NAME.
fn branch_of(name: &Name, wanted: Option<&str>, attempt: u32) -> String {
    let stem = match wanted {
        None => name.ref_component(),
        Some(wanted) => wanted
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| Name::new(part).ref_component())
            .collect::<Vec<_>>()
            .join("/"),
    };
    format!("harness/{stem}/{attempt}")
}

fn facts(
    rt: &Runtime,
    name: &Name,
    dir: &std::path::Path,
    cwd: &std::path::Path,
    file: &SessionFile,
) -> Facts {
    let interrupt = rt
        .root
        .interrupts()
        .join(format!("{}.interrupt", file.agent));
    [
        ("PROMPT_FILE", dir.join("prompt.md").into_os_string()),
        ("ITEM_FILE", dir.join("item").into_os_string()),
        ("SESSION_ID", file.session.clone().into()),
        ("SESSION_DIR", dir.as_os_str().to_owned()),
        ("WORKTREE", cwd.as_os_str().to_owned()),
        ("WORK_ITEM", name.as_os_str().to_owned()),
        ("AGENT", file.agent.clone().into()),
        ("BRANCH", file.branch.clone().unwrap_or_default().into()),
        ("ATTEMPT", file.attempt.to_string().into()),
        ("ITERATION", file.attempt.to_string().into()),
        ("ROOT", rt.root.path().as_os_str().to_owned()),
        ("INTERRUPT_FILE", interrupt.into_os_string()),
    ]
    .into()
}

/// What is set (or removed: `None`) on top of the harness's own environment.
fn environment(
    rt: &Runtime,
    claim: &Claim,
    agent: &Agent<'_>,
    dir: &std::path::Path,
    item_file: &std::path::Path,
    file: &SessionFile,
) -> BTreeMap<OsString, Option<OsString>> {
    let mut env: BTreeMap<OsString, Option<OsString>> = BTreeMap::new();
    // A harness started from a git hook must not hand on the hook's repository.
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|k| k.starts_with("GIT_")) {
            env.insert(key, None);
        }
    }
    let interrupt = rt
        .root
        .interrupts()
        .join(format!("{}.interrupt", file.agent));
    let mut set = |key: &str, value: OsString| env.insert(key.into(), Some(value));
    if let Agent::Command(_, table) = agent {
        for (key, value) in &table.env {
            set(key, value.into());
        }
    }
    for (key, value) in &claim.item.env {
        set(key, value.into());
    }
    set("HARNESS_ROOT", rt.root.path().as_os_str().to_owned());
    set("HARNESS_ITEM", claim.name.as_os_str().to_owned());
    set("HARNESS_ITEM_FILE", item_file.as_os_str().to_owned());
    set("HARNESS_SESSION", file.session.clone().into());
    set("HARNESS_SESSION_DIR", dir.as_os_str().to_owned());
    set("HARNESS_AGENT", file.agent.clone().into());
    set("HARNESS_ATTEMPT", file.attempt.to_string().into());
    set(
        "HARNESS_BRANCH",
        file.branch.clone().unwrap_or_default().into(),
    );
    set("HARNESS_INTERRUPT", interrupt.clone().into_os_string());
    set("SESSION_ID", file.session.clone().into());
    set("INTERRUPT_FILE", interrupt.into_os_string());
    set("ITERATION", file.attempt.to_string().into());
    env
}

/// Has the slot's keeper start the agent; starts the keeper where there is none.
fn start(desk: &mut Desk, spec: Spec) -> Result<(Option<i32>, Duration), Failed> {
    let session = spec.session.clone();
    let stdout = spec.stdout.clone();
    let program = PathBuf::from(spec.argv.first().cloned().unwrap_or_default());
    let request = Request::Spawn(Box::new(spec));
    let mut keeper = match desk.keeper.take() {
        Some(keeper) => keeper,
        None => Keeper::start(&desk.rt.root, desk.slot())?,
    };
    if keeper.send(&request).is_err() {
        // It was killed while idle. Whether it heard the request is known: it is dead, and a
        // socket's unread bytes die with it; nothing was started.
        keeper.wait_for_end();
        keeper = Keeper::start(&desk.rt.root, desk.slot())?;
        keeper.send(&request)?;
    }
    match keeper.receive()? {
        Some(Reply::Running {
            session: s,
            pid,
            age,
        }) if s == session => {
            desk.keeper = Some(keeper);
            Ok((Some(pid), age))
        }
        Some(Reply::SpawnFailed { why, temporary, .. }) => {
            desk.keeper = Some(keeper);
            let why = agents::why_not_started(&program).unwrap_or(why);
            Err(if temporary {
                Failed::Fault(Error::temporary("cannot start the agent", why))
            } else {
                Failed::Refused(format!("its agent could not be started: {why}"))
            })
        }
        Some(other) => Err(Failed::Fault(Error::temporary(
            "cannot use the keeper",
            format!("it answered {other:?} to a start"),
        ))),
        None => {
            keeper.wait_for_end();
            if atomic::exists(&stdout) {
                // It may have started the agent before it died: that counts as a start.
                return Ok((None, Duration::ZERO));
            }
            Err(Failed::Fault(Error::temporary(
                "cannot start the agent",
                "its keeper died",
            )))
        }
    }
}

/// How often a running agent's file and limits are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long the tree of an agent without a keeper is hunted for.
const SWEEP: Duration = Duration::from_secs(10);

/// Waits until the agent and its tree are gone; stops it where it must be stopped.
pub fn watch(desk: &mut Desk, attempt: &mut Attempt, age: Duration) -> Result<Over> {
    let started = clock::instant();
    let timeout = Duration::from_secs(attempt.file.timeout_seconds);
    let grace = desk.rt.config.harness.kill_grace;
    let mut stop = None;
    loop {
        let Some(keeper) = &mut desk.keeper else {
            return post_mortem(desk, attempt, stop);
        };
        let runs = age + started.elapsed();
        if stop.is_none() {
            stop = if desk.rt.level() >= Level::Stopping {
                Some(Stop::Shutdown)
            } else if !attempt.claim.is_ours() {
                Some(Stop::Canceled)
            } else if runs >= timeout {
                Some(Stop::TimedOut)
            } else {
                None
            };
            if stop.is_some() {
                let _dead = keeper.send(&Request::Stop { grace });
            }
        }
        let wait = if stop.is_none() {
            LOOK.min(timeout.saturating_sub(runs))
        } else {
            LOOK
        };
        let (_, readable) = desk.bell.wait_or(Some(keeper.fd()), wait);
        if !readable {
            continue;
        }
        match keeper.receive() {
            Ok(Some(Reply::Exited { session, exit })) if session == attempt.file.session => {
                if let Some(over) = exit_of(&exit, stop, timeout) {
                    return Ok(over);
                }
                return post_mortem(desk, attempt, stop);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                keeper.wait_for_end();
                desk.keeper = None;
            }
        }
    }
}

fn exit_of(text: &[u8], stop: Option<Stop>, timeout: Duration) -> Option<Over> {
    let record: ExitRecord = serde_json::from_slice(text).ok()?;
    // A stop that came when it had ended already stopped nothing, but a cancel is a cancel.
    let stop = stop.filter(|&s| record.stopped || s == Stop::Canceled);
    // Stopped by a harness that did not live to say why (a cancel shows in the missing file).
    let timed_out = record.seconds >= timeout.as_secs_f64();
    let stop = stop.or(match record.stopped {
        false => None,
        true if timed_out => Some(Stop::TimedOut),
        true => Some(Stop::Shutdown),
    });
    Some(Over::Exited {
        exit: record.exit(),
        stop,
        record: Some(record),
    })
}

/// The keeper is gone: what its files say, and if they say nothing, that the end is not known.
/// Whatever still runs of the tree is ended first.
pub fn post_mortem(desk: &Desk, attempt: &Attempt, stop: Option<Stop>) -> Result<Over> {
    if let Ok(text) = atomic::read_small(&attempt.dir.join("exit.json"), STATE_FILE_BYTES_MAX)
        && let Some(over) = exit_of(
            &text,
            stop,
            Duration::from_secs(attempt.file.timeout_seconds),
        )
    {
        return Ok(over);
    }
    let (killed, clean) = crate::process::sweep_session(&attempt.file.session, &attempt.dir, SWEEP);
    desk.rt.warn(&format!(
        "{}: the keeper of {} died; {killed} of its processes were ended{}",
        desk.slot(),
        attempt.claim.name,
        if clean { "" } else { ", and some could not be" },
    ));
    Ok(Over::Exited {
        exit: Exit::Unknown,
        stop,
        record: None,
    })
}
