//! News of the folders that items move through, whose events come by the thousand: read from inotify
//! itself. `notify` asks for every opening, too, and its thread is woken for each event: eight
//! processes would tell each other of every look into a file, and wake each other for every move.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::{Hint, Tell, failed};
use crate::bell::Bell;
use crate::error::Result;
use crate::layout::{Name, Place, Root};
use crate::ready::Ready;

/// The watching thread; it ends when this is dropped.
pub(super) struct Moves {
    stop: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Moves {
    pub(super) fn let_go(&self) {
        self.stop.ring();
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
/// How late news may be while nobody waits for them.
const REST: Duration = Duration::from_millis(5);

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
    let stop = Arc::new(Bell::new()?);
    let (ready, bell) = (ready.clone(), stop.clone());
    let listener = Listener {
        watched,
        ready,
        tell,
    };
    let thread = std::thread::Builder::new()
        .name("moves".into())
        .spawn(move || listener.listen(&fd, &bell))
        .map_err(|e| failed(&queue, &e))?;
    Ok(Moves {
        stop,
        thread: Some(thread),
    })
}

struct Listener {
    watched: [(i32, Place); 3],
    ready: Arc<Ready>,
    tell: Tell,
}

impl Listener {
    fn listen(&self, fd: &OwnedFd, stop: &Bell) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        loop {
            let (over, _news) = stop.wait_or(Some(fd.as_fd()), LONG);
            if over {
                return;
            }
            let mut reader = inotify::Reader::new(fd, &mut buffer);
            while let Ok(event) = reader.next() {
                let name = event.file_name().map(|n| OsStr::from_bytes(n.to_bytes()));
                self.pass_on(event.wd(), event.events(), name);
            }
            // To be woken for each event costs more than all the rest of it: where every worker has
            // an item and finds the next one in the index, many are read at once.
            if self.ready.needs_no_news() && stop.wait(REST) {
                return;
            }
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
                    self.ready.ended(&Name::new(name));
                }
                (self.tell)(Hint::Ended(*place, 1));
            }
            Place::Done | Place::Parked if left => (self.tell)(Hint::Ended(*place, -1)),
            Place::Done | Place::Parked => {}
        }
    }
}
