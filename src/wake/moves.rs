//! News of the folders that items move through, whose events come by the thousand: read from inotify
//! itself. `notify` asks for every opening, too, and its thread is woken for each event: eight
//! processes would tell each other of every look into a file, and wake each other for every move.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::{Hint, Tell, failed};
use crate::clock;
use crate::error::Result;
use crate::layout::{Name, Place, Root};
use crate::ready::{News, Ready};
use crate::waker::Waker;

/// The watching thread; it ends when this is dropped.
pub(super) struct Moves {
    listener: Arc<Listener>,
    thread: Option<JoinHandle<()>>,
}

impl Moves {
    pub(super) fn let_go(&self) {
        self.listener.ready.listen_to(None);
        self.listener.over.store(true, Ordering::SeqCst);
        self.listener.waker.wake();
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        self.let_go();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

const MOVED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::ONLYDIR);
/// What shows that a pending file may be whole by now, or has another time.
const CHANGED: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MODIFY);
const CAME: ReadFlags = ReadFlags::CREATE.union(ReadFlags::MOVED_TO);
const LEFT: ReadFlags = ReadFlags::DELETE.union(ReadFlags::MOVED_FROM);
const SETTLED: ReadFlags = ReadFlags::CLOSE_WRITE.union(ReadFlags::ATTRIB);
const LOST: ReadFlags = ReadFlags::QUEUE_OVERFLOW
    .union(ReadFlags::IGNORED)
    .union(ReadFlags::UNMOUNT);
/// For some hundred events.
const BUFFER_BYTES: usize = 16 << 10;
/// How long the thread waits where nothing happens at all.
const LONG: Duration = Duration::from_secs(3600);
/// How late news may be while nobody waits for them; who takes an item reads them before.
const REST: Duration = Duration::from_millis(50);
/// So long a worker reads events at most, before it takes an item: a flood of them is not for it alone.
const A_WHILE: Duration = Duration::from_millis(2);

pub(super) fn watch(root: &Root, ready: &Arc<Ready>, tell: Tell) -> Result<Moves> {
    let queue = root.queue();
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|e| failed(&queue, &e))?;
    let mut watched = [(0, Place::Pending), (0, Place::Done), (0, Place::Parked)];
    for (watch, place) in &mut watched {
        let folder = root.place(*place);
        let wanted = match place {
            Place::Pending => MOVED | CHANGED,
            Place::Done | Place::Parked => MOVED,
        };
        *watch = inotify::add_watch(&fd, &folder, wanted).map_err(|e| failed(&folder, &e))?;
    }
    let listener = Arc::new(Listener {
        fd,
        reading: Mutex::new(()),
        watched,
        ready: ready.clone(),
        tell,
        waker: Waker::new()?,
        rests: AtomicBool::new(false),
        over: AtomicBool::new(false),
    });
    let listens = listener.clone();
    let thread = std::thread::Builder::new()
        .name("moves".into())
        .spawn(move || listens.listen())
        .map_err(|e| failed(&queue, &e))?;
    ready.listen_to(Some(listener.clone()));
    Ok(Moves {
        listener,
        thread: Some(thread),
    })
}

struct Listener {
    fd: OwnedFd,
    /// Held while events are read and passed on: they are, in their order.
    reading: Mutex<()>,
    watched: [(i32, Place); 3],
    ready: Arc<Ready>,
    tell: Tell,
    waker: Waker,
    /// Set while the thread leaves events alone.
    rests: AtomicBool,
    over: AtomicBool,
}

impl News for Listener {
    fn read(&self) {
        self.read_for(A_WHILE);
    }

    fn wake(&self) {
        if self.rests.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

impl Listener {
    /// Passes on what has come by now, or what of it fits into that time. Where another thread reads,
    /// that one may have passed on all but the newest.
    fn read_for(&self, most: Duration) {
        let _one = match self.reading.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let began = clock::instant();
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|n| OsStr::from_bytes(n.to_bytes()));
            self.pass_on(event.wd(), event.events(), name);
            // What is in the buffer would be lost.
            if reader.is_buffer_empty() && began.elapsed() > most {
                break;
            }
        }
    }

    fn listen(&self) {
        while !self.over.load(Ordering::SeqCst) {
            let (_rang, news) = self.waker.wait_or(Some(self.fd.as_fd()), LONG);
            if news {
                self.read_for(LONG);
            }
            // To be woken for each event costs more than all the rest of it: where every worker has
            // an item and finds the next one in the index, the one that asks for it reads them. Set
            // before it is asked whether somebody waits: whoever does after that sees it.
            self.rests.store(true, Ordering::SeqCst);
            if news && self.ready.needs_no_news() {
                self.waker.wait(REST);
            }
            self.rests.store(false, Ordering::SeqCst);
        }
    }

    fn pass_on(&self, watch: i32, what: ReadFlags, name: Option<&OsStr>) {
        if what.intersects(LOST) {
            self.ready.ask_rescan();
            return (self.tell)(Hint::Lost);
        }
        let place = self.watched.iter().find(|(w, _)| *w == watch);
        let (Some((_, place)), Some(name)) = (place, name) else {
            return;
        };
        let (came, left) = (what.intersects(CAME), what.intersects(LEFT));
        match place {
            Place::Pending if came || what.intersects(SETTLED) => self.ready.note(name),
            Place::Pending if left => self.ready.gone(&Name::new(name)),
            // The kernel tells of a changed modification time alone (`touch -m`) as of a write.
            Place::Pending => self.ready.touched(name),
            Place::Done | Place::Parked if Name::is_ignored(name) => {}
            Place::Done | Place::Parked if came => {
                if *place == Place::Done {
                    self.ready.ended(name);
                }
                (self.tell)(Hint::Ended(*place, 1));
            }
            Place::Done | Place::Parked if left => (self.tell)(Hint::Ended(*place, -1)),
            Place::Done | Place::Parked => {}
        }
    }
}
