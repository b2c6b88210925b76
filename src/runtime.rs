//! What the threads of one `harness run` share. Holds no logic of its own: handles, flags, and
//! the figures of this run.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::aggregator::Ledger;
use crate::config::{Config, Durability, RepoPath};
use crate::error::{Result, printable};
use crate::folder::Folder;
use crate::git::{self, Hub, Repo};
use crate::layout::{DEFAULT_REPO, Name, Root, SlotId};
use crate::limits::{BEAT_MAX, LOOKERS, PACE_MAX};
use crate::mutant::planted;
use crate::outcome::Outcome;
use crate::ready::Ready;
use crate::status::{LedgerLine, SlotState, SlotStatus};
use crate::waker::Waker;

/// How far this process is on its way out. Only ever rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Running = 0,
    /// Claim nothing new, let agents finish.
    Finishing = 1,
    /// Stop the agents, keep their work, put the items back.
    Stopping = 2,
}

pub struct Runtime {
    pub root: Root,
    pub config: Config,
    pub ready: Arc<Ready>,
    ledger: Mutex<Ledger>,
    pub repos: Repos,
    pub paused: AtomicBool,
    /// Whether the process ends when nothing is left to do.
    pub drains: AtomicBool,
    /// Set once this process has taken the slots that it begins with.
    pub staffed: AtomicBool,
    free_space: Mutex<Option<(Instant, bool)>>,
    /// What lies in the folder of interrupts.
    pub interrupts: Mutex<Folder>,
    /// Items that this process may still claim (`--max-items`).
    pub tickets: AtomicI64,
    /// Woken when a worker has found nothing to do, or has ended.
    pub main_waker: Waker,
    /// Wakes the pulse.
    pub pulse_waker: Arc<Waker>,
    /// Set while the pulse sleeps long, as nothing goes on.
    pub pulse_rests: AtomicBool,
    level: AtomicU8,
    board: Mutex<BTreeMap<SlotId, Entry>>,
    /// Slots on the board that have an item: every thread asks at every look. Set with it locked.
    busy: AtomicUsize,
    wakers: Mutex<Vec<Arc<Waker>>>,
    results: Mutex<Results>,
    next_start: Mutex<Option<Instant>>,
    quiet: bool,
}

struct Entry {
    status: SlotStatus,
    changed: Option<Changed>,
    /// When it was last given to be written.
    taken: Option<Instant>,
}

/// What of a slot's status is new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Figures,
    State,
}

/// What became of the items of this run.
#[derive(Default, Clone)]
pub struct Results {
    pub done: u64,
    pub parked: u64,
    pub retried: u64,
    /// The newest ones, for the table at the end.
    pub items: Vec<ItemResult>,
}

/// The table at the end shows at most this many.
const RESULTS_SHOWN: usize = 200;

#[derive(Clone)]
pub struct ItemResult {
    pub name: Name,
    pub outcome: Outcome,
    pub attempt: u32,
    pub seconds: f64,
    pub branch: Option<String>,
    pub reason: String,
}

/// The repositories that items can name.
pub struct Repos {
    by_name: BTreeMap<String, Repo>,
    open: Mutex<HashMap<String, Arc<Hub>>>,
}

/// The repositories by name: `[repo]`, or the one that ROOT lies in, and `[repos.NAME]`.
fn configured(root: &Root, config: &Config) -> Result<BTreeMap<String, Repo>> {
    let mut by_name = BTreeMap::new();
    let default = (DEFAULT_REPO.to_owned(), &config.repo);
    for (name, table) in config
        .repos
        .iter()
        .map(|(name, table)| (name.clone(), table))
        .chain([default])
    {
        let path = match &table.path {
            RepoPath::None => None,
            RepoPath::Path(path) => Some(path.clone()),
            RepoPath::Auto => git::discover(root.path())?,
        };
        if let Some(path) = path {
            let repo = Repo {
                name: name.clone(),
                path,
                base: table.base.clone(),
                clean: table.clean,
                durable: config.harness.durability == Durability::Full,
            };
            by_name.insert(name, repo);
        }
    }
    Ok(by_name)
}

impl Repos {
    /// From the configuration: `[repo]` (or the repository that ROOT lies in) and `[repos.NAME]`.
    pub fn new(root: &Root, config: &Config) -> Result<Repos> {
        Ok(Repos {
            by_name: configured(root, config)?,
            open: Mutex::default(),
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn names(&self) -> Vec<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }

    /// The hub of a repository, made on first use. `None`: not configured.
    pub fn hub(&self, root: &Root, name: &str) -> Result<Option<Arc<Hub>>> {
        let Some(repo) = self.by_name.get(name) else {
            return Ok(None);
        };
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // One that an agent replaced by a symlink is looked at again, and refused.
        if let Some(hub) = open().get(name).filter(|h| !h.dir().is_symlink()) {
            return Ok(Some(hub.clone()));
        }
        // Not under the mutex: the first one may take a while, and others use other repositories.
        let hub = Arc::new(Hub::open(root, repo)?);
        Ok(Some(open().entry(name.to_owned()).or_insert(hub).clone()))
    }
}

impl Runtime {
    pub fn new(
        root: &Root,
        config: Config,
        ready: Arc<Ready>,
        tickets: i64,
        quiet: bool,
    ) -> Result<Runtime> {
        Ok(Runtime {
            repos: Repos::new(root, &config)?,
            ledger: Mutex::new(Ledger::new(root)),
            root: root.clone(),
            config,
            ready,
            paused: AtomicBool::new(false),
            drains: AtomicBool::new(false),
            staffed: AtomicBool::new(false),
            free_space: Mutex::default(),
            interrupts: Mutex::default(),
            tickets: AtomicI64::new(tickets),
            main_waker: Waker::new()?,
            pulse_waker: Arc::new(Waker::new()?),
            pulse_rests: AtomicBool::new(false),
            level: AtomicU8::new(0),
            board: Mutex::default(),
            busy: AtomicUsize::new(0),
            wakers: Mutex::default(),
            results: Mutex::default(),
            next_start: Mutex::default(),
            quiet,
        })
    }

    /// Counts an ended attempt. Figures only: a lost line costs one count.
    pub fn count(&self, line: &LedgerLine) {
        if let Err(e) = lock(&self.ledger).append(line) {
            self.say(&e.to_string());
        }
    }

    /// Whether the disk is too full to begin anything: below `limits.disk_free_min`. Looked at
    /// once a second; said once each time it becomes so.
    pub fn is_disk_low(&self) -> bool {
        if planted("disk-floor-sunk") {
            return false;
        }
        let now = crate::clock::instant();
        let mut known = lock(&self.free_space);
        let was_low = known.is_some_and(|(_, low)| low);
        if let Some((at, low)) = *known
            && now - at < Duration::from_secs(1)
        {
            return low;
        }
        let floor = self.config.limits.disk_free_min;
        let low = fs2::available_space(self.root.path()).is_ok_and(|free| free < floor);
        *known = Some((now, low));
        drop(known);
        if low && !was_low {
            self.warn(&format!(
                "less than {} MiB free on the disk of {}: nothing new is claimed until there is more",
                floor >> 20,
                self.root.path().display()
            ));
        }
        low
    }

    pub fn durable(&self) -> bool {
        self.config.harness.durability == Durability::Full
    }

    pub fn level(&self) -> Level {
        match self.level.load(Ordering::SeqCst) {
            0 => Level::Running,
            1 => Level::Finishing,
            _ => Level::Stopping,
        }
    }

    pub fn raise(&self, level: Level) {
        self.level.fetch_max(level as u8, Ordering::SeqCst);
        self.wake_all();
    }

    pub fn set_paused(&self, paused: bool) -> bool {
        let was = self.paused.swap(paused, Ordering::SeqCst);
        if was != paused {
            self.wake_all();
        }
        was != paused
    }

    /// A line for people on standard error; also for those who read it in a log.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            // One call: standard error is not buffered.
            let line = format!("{}\n", printable(text));
            let _closed = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    /// Says it even when quiet: something is wrong.
    pub fn warn(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        let mark = if err.is_terminal() {
            "\x1b[33m!\x1b[0m"
        } else {
            "!"
        };
        let _closed = writeln!(err, "{mark} {}", printable(text));
    }

    pub fn register_waker(&self, waker: &Arc<Waker>) {
        lock(&self.wakers).push(waker.clone());
    }

    pub fn forget_waker(&self, waker: &Arc<Waker>) {
        lock(&self.wakers).retain(|b| !Arc::ptr_eq(b, waker));
        self.ready.forget_waker(waker);
    }

    pub fn wake_all(&self) {
        for waker in lock(&self.wakers).iter() {
            waker.wake();
        }
        self.main_waker.wake();
    }

    /// Changes what is shown of a slot.
    pub fn show(&self, slot: SlotId, change: impl FnOnce(&mut SlotStatus)) {
        let state = |s: &SlotStatus| (s.state, s.health, s.pid);
        let mut board = lock(&self.board);
        let entry = board.entry(slot).or_insert_with(|| Entry {
            status: SlotStatus {
                id: slot.to_string(),
                harness_pid: Some(std::process::id()),
                ..SlotStatus::default()
            },
            changed: Some(Changed::State),
            taken: None,
        });
        let before = state(&entry.status);
        let was_busy = entry.status.item.is_some();
        change(&mut entry.status);
        match (was_busy, entry.status.item.is_some()) {
            (false, true) => _ = self.busy.fetch_add(1, Ordering::SeqCst),
            (true, false) => _ = self.busy.fetch_sub(1, Ordering::SeqCst),
            _ => {}
        }
        let changed = match state(&entry.status) == before {
            true => Changed::Figures,
            false => Changed::State,
        };
        entry.changed = entry.changed.max(Some(changed));
        drop(board);
        if changed == Changed::State && self.pulse_rests.swap(false, Ordering::SeqCst) {
            self.pulse_waker.wake();
        }
    }

    pub fn hide(&self, slot: SlotId) {
        let mut board = lock(&self.board);
        let gone = board.remove(&slot);
        if gone.is_some_and(|e| e.status.item.is_some()) {
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The slots held by this process.
    pub fn slots(&self) -> Vec<SlotId> {
        lock(&self.board).keys().copied().collect()
    }

    /// Whether a slot of this process has nothing to do, though it may not have asked for work yet;
    /// or is just giving up this very item; or may still become one of its slots.
    pub fn is_about_to_ask(&self, slot: SlotId, name: &Name) -> bool {
        let board = lock(&self.board);
        match board.get(&slot).map(|e| &e.status) {
            Some(s) if s.state == SlotState::Finishing => {
                s.item.as_ref().is_some_and(|item| *item == name.shown())
            }
            Some(s) => s.state == SlotState::Idle && s.item.is_none(),
            None => !self.staffed.load(Ordering::SeqCst),
        }
    }

    /// How many times more seldom than one each of so many running agents is looked at and shown:
    /// of more than a few, the processor time for that stays the same.
    pub fn pace(&self) -> u32 {
        u32::try_from(self.busy() / LOOKERS)
            .unwrap_or(1)
            .clamp(1, PACE_MAX)
    }

    /// How long it is from one look or pulse to the next, where it would be `one` for few agents.
    pub fn beat(&self, one: Duration) -> Duration {
        (one * self.pace()).min(BEAT_MAX)
    }

    /// What is shown of the slots of this process.
    pub fn statuses(&self) -> BTreeMap<SlotId, SlotStatus> {
        let board = lock(&self.board);
        board.iter().map(|(&s, e)| (s, e.status.clone())).collect()
    }

    /// How many of this process's slots have an item.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    /// The statuses that changed since the last call; where only figures did, not more often than this.
    pub fn take_changed(&self, figures: Duration) -> Vec<(SlotId, SlotStatus)> {
        let now = crate::clock::instant();
        let is_due = |e: &Entry| match e.changed {
            None => false,
            Some(Changed::State) => true,
            Some(Changed::Figures) => e.taken.is_none_or(|at| now - at >= figures),
        };
        let mut board = lock(&self.board);
        let changed = board.iter_mut().filter(|(_, e)| is_due(e));
        changed
            .map(|(&slot, e)| {
                (e.changed, e.taken) = (None, Some(now));
                (slot, e.status.clone())
            })
            .collect()
    }

    pub fn ended(&self, result: ItemResult, parked: bool) {
        let mut results = lock(&self.results);
        if parked {
            results.parked += 1;
        } else {
            results.done += 1;
        }
        if results.items.len() == RESULTS_SHOWN {
            results.items.remove(0);
        }
        results.items.push(result);
    }

    /// What waited for an answer is in the queue again: it is not this run's parked one any more.
    pub fn goes_on(&self, name: &Name) {
        let mut results = lock(&self.results);
        if results.parked == 0 {
            return;
        }
        let asked = |i: &ItemResult| i.name == *name && i.outcome == Outcome::Interrupted;
        if let Some(at) = results.items.iter().rposition(asked) {
            results.items.remove(at);
            results.parked = results.parked.saturating_sub(1);
        }
    }

    pub fn retried(&self) {
        lock(&self.results).retried += 1;
    }

    pub fn results(&self) -> Results {
        lock(&self.results).clone()
    }

    /// How long a prompt agent's first start in a slot must still wait, so that many that start
    /// together do not refresh the same credential at once. Zero: go, and the next one waits.
    pub fn stagger(&self) -> Duration {
        let now = crate::clock::instant();
        let mut next = lock(&self.next_start);
        match *next {
            Some(at) if at > now => at - now,
            _ => {
                *next = Some(now + self.config.harness.stagger);
                Duration::ZERO
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves plain data behind that is still right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
