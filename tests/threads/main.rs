//! The index of `pending/` (`src/ready`) under a scheduler that chooses every switch between threads
//! (shuttle): workers, the watcher's thread, the index thread and people, in thousands of orders. Nobody
//! may wait for ever while an item waits (no waker here has a timeout, as the real ones have for
//! events that the kernel lost), and each file is worked on once.
//!
//! The index is compiled once more, with shuttle's locks and a waker made of them (an eventfd is a
//! counter and a wait). What workers do with it is `worker::work` and `worker::attempt` in short.
//! `HARNESS_THREADS` sets how many orders are tried of each world.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    dead_code,
    unused_imports,
    reason = "tests do by hand what the program has doors for; not all of the index is used"
)]

mod waker;
#[path = "../../src/ready/mod.rs"]
mod ready;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

// What the index names as `crate::…`; only `waker` and `clock` are other ones.
use harness::{
    aggregator, atomic, error, hold, item, layout, lease, limits, mutant, record, spool,
};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use layout::{Name, Place, Root, SlotId};
use ready::{ClaimReport, Ready};
use waker::Waker;

/// Time that goes on when the index thread waits for it.
mod clock {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    pub use harness::clock::{doubled, mtime_ns, now_ns, postponed, was_set_back_since};

    static START: LazyLock<Instant> = LazyLock::new(harness::clock::instant);
    static PASSED: AtomicU64 = AtomicU64::new(0);

    pub fn instant() -> Instant {
        *START + Duration::from_micros(PASSED.load(Ordering::SeqCst))
    }

    pub fn pass(time: Duration) {
        let micros = time.as_micros() as u64 + 1;
        PASSED.fetch_add(micros, Ordering::SeqCst);
    }
}

enum Event {
    Came(Name),
    Left(Name),
}

struct World {
    dir: tempfile::TempDir,
    root: Root,
    ready: Ready,
    /// As the kernel keeps them: in the order of what happened.
    events: Mutex<VecDeque<Event>>,
    watcher: Waker,
    over: AtomicBool,
    left: Mutex<usize>,
    /// How often each file was worked on, by its content.
    worked: Mutex<BTreeMap<String, u32>>,
    /// By slot.
    wakers: Vec<Arc<Waker>>,
}

impl World {
    fn new(workers: usize, items: usize) -> Arc<World> {
        let dir = tempfile::tempdir_in(shm()).unwrap();
        for folder in ["queue/pending", "queue/done", "state/claims", "state/items"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let root = Root::new(dir.path());
        Arc::new(World {
            ready: Ready::new(&root).unwrap().in_pieces_of(Duration::ZERO),
            root,
            dir,
            events: Mutex::default(),
            watcher: Waker::new().unwrap(),
            over: AtomicBool::new(false),
            left: Mutex::new(items),
            worked: Mutex::default(),
            wakers: (0..workers)
                .map(|_| Arc::new(Waker::new().unwrap()))
                .collect(),
        })
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// A person drops a file, when the name is free.
    fn drop_file(&self, name: &str, content: &str) {
        let name = Name::new(name);
        let path = self.root.item(Place::Pending, &name);
        loop {
            let mut events = self.events.lock().unwrap();
            if !path.exists() {
                fs::write(&path, content).unwrap();
                events.push_back(Event::Came(name));
                drop(events);
                return self.watcher.wake();
            }
            drop(events);
            thread::yield_now();
        }
    }

    /// `watcher::Listener::pass_on`.
    fn watch(&self) {
        while !self.is_over() {
            let event = self.events.lock().unwrap().pop_front();
            match event {
                None => self.watcher.wait(),
                Some(Event::Came(name)) => self.ready.note(name.as_os_str()),
                Some(Event::Left(name)) => self.ready.gone(&name),
            }
        }
    }

    /// `run::keep_index`. Only for what has a time it does not wait to be woken.
    fn keep_index(&self) {
        self.ready.ask_rescan();
        while !self.is_over() {
            let wait = self.ready.turn().unwrap();
            if wait < Duration::from_secs(1) {
                clock::pass(wait);
                thread::yield_now();
            } else {
                self.ready.waker.wait();
            }
        }
    }

    /// `worker::work`.
    fn work(&self, slot: SlotId, prefers: Option<SlotId>, leaves: &AtomicBool) {
        let waker = self.wakers[slot.0 - 1].clone();
        while !self.is_over() && !leaves.load(Ordering::SeqCst) {
            let Some(candidate) = self.ready.pop(&waker, slot, None) else {
                waker.wait();
                continue;
            };
            if let Some(other) = prefers.filter(|&other| other != slot)
                && self.ready.hand_over(&candidate, other)
            {
                continue;
            }
            let after = self.attempt(&candidate.name);
            self.ready.tried(&candidate, after);
        }
        self.ready.forget_waker(&waker);
    }

    /// `spool::try_claim` and the rest, as files.
    fn attempt(&self, name: &Name) -> ClaimReport {
        let claim = self.root.claim(name);
        let Ok(mut file) = fs::File::create_new(&claim) else {
            return ClaimReport::Later;
        };
        // What names no slot would be nobody's claim.
        file.write_all(b"{\"slot\":\"agent-1\"}").unwrap();
        thread::yield_now();
        let mut events = self.events.lock().unwrap();
        let pending = self.root.item(Place::Pending, name);
        let Ok(content) = fs::read_to_string(&pending) else {
            fs::remove_file(&claim).unwrap();
            return ClaimReport::Gone;
        };
        fs::remove_file(&pending).unwrap();
        events.push_back(Event::Left(name.clone()));
        drop(events);
        self.watcher.wake();
        *self.worked.lock().unwrap().entry(content).or_default() += 1;
        thread::yield_now();
        fs::remove_file(&claim).unwrap();
        self.ready.look_at_busy();
        self.ready.ended(name.as_os_str());
        let mut left = self.left.lock().unwrap();
        *left -= 1;
        if *left == 0 {
            self.over.store(true, Ordering::SeqCst);
            self.watcher.wake();
            self.ready.waker.wake();
            self.wakers.iter().for_each(|waker| waker.wake());
        }
        ClaimReport::Gone
    }
}

fn shm() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    }
}

/// Workers, and the files that are dropped: (name, content). `leaver`: that worker is told to leave
/// at some moment. `prefers`: the slot that all items suit best.
fn race(
    workers: usize,
    files: &'static [(&str, &str)],
    leaver: Option<usize>,
    prefers: Option<usize>,
) {
    let orders = std::env::var("HARNESS_THREADS").ok();
    let orders = orders.and_then(|n| n.parse().ok()).unwrap_or(200);
    let run = move || {
        let world = World::new(workers, files.len());
        let mut threads = Vec::new();
        let mut spawn = |work: Box<dyn FnOnce(&World) + Send>| {
            let world = world.clone();
            threads.push(thread::spawn(move || work(&world)));
        };
        for n in 1..=workers {
            let leaves = Arc::new(AtomicBool::new(false));
            let told = leaves.clone();
            let prefers = prefers.map(SlotId);
            spawn(Box::new(move |w| w.work(SlotId(n), prefers, &leaves)));
            if leaver == Some(n) {
                // `run::staff`: the flag, then its waker.
                spawn(Box::new(move |w| {
                    told.store(true, Ordering::SeqCst);
                    w.wakers[n - 1].wake();
                }));
            }
        }
        spawn(Box::new(World::watch));
        spawn(Box::new(World::keep_index));
        spawn(Box::new(move |w| {
            for (name, content) in files {
                w.drop_file(name, content);
            }
        }));
        for thread in threads {
            thread.join().unwrap();
        }
        let worked = world.worked.lock().unwrap();
        let once = files
            .iter()
            .all(|(_, content)| worked.get(*content) == Some(&1));
        assert!(once && worked.len() == files.len(), "{worked:?}");
    };
    shuttle::check_random(run, orders);
    shuttle::check_pct(run, orders, 3);
}

const ONE: &[(&str, &str)] = &[("a", "one")];
const THREE: &[(&str, &str)] = &[("a", "one"), ("b", "two"), ("a", "three")];

#[test]
fn workers_and_a_name_dropped_again() {
    race(2, THREE, None, None);
    race(3, THREE, None, None);
}

#[test]
fn a_worker_that_leaves_takes_no_wake_up_with_it() {
    race(2, ONE, Some(1), None);
    race(2, ONE, Some(2), None);
    race(3, THREE, Some(2), None);
}

#[test]
fn what_is_handed_over_is_done_and_nothing_else_waits_for_it() {
    race(2, THREE, None, Some(1));
    race(3, THREE, Some(1), Some(1));
}
