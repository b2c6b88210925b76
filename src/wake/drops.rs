//! News of `pending/`, the one folder whose events come by the thousand: read from inotify itself.
//! `notify` asks for every opening too, so that eight processes which look into each new file would
//! tell each other of it sixty-four times.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::Hint;
use crate::bell::Bell;
use crate::clock;
use crate::error::{Error, Result};
use crate::layout::Name;
use crate::ready::Ready;

/// The watching thread; it ends when this is dropped.
pub(super) struct Drops {
    stop: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Drops {
    fn drop(&mut self) {
        self.stop.ring();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

const CAME: ReadFlags = ReadFlags::CREATE
    .union(ReadFlags::MOVED_TO)
    .union(ReadFlags::CLOSE_WRITE)
    .union(ReadFlags::ATTRIB);
const LEFT: ReadFlags = ReadFlags::DELETE.union(ReadFlags::MOVED_FROM);
const LOST: ReadFlags = ReadFlags::QUEUE_OVERFLOW
    .union(ReadFlags::IGNORED)
    .union(ReadFlags::UNMOUNT);
/// For some hundred events.
const BUFFER_BYTES: usize = 16 << 10;
/// How long the thread waits where nothing happens at all.
const LONG: Duration = Duration::from_secs(3600);

pub(super) fn watch(
    pending: &Path,
    ready: &Arc<Ready>,
    lost: impl Fn(Hint) + Send + 'static,
) -> Result<Drops> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::temporary("cannot watch the folder", e.to_string())
            .at_path(pending)
            .hint("raise fs.inotify.max_user_instances and max_user_watches (`harness doctor`)")
    };
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|e| failed(&e))?;
    let wanted = WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::MODIFY
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&fd, pending, wanted).map_err(|e| failed(&e))?;
    let stop = Arc::new(Bell::new()?);
    let (ready, bell) = (ready.clone(), stop.clone());
    let thread = std::thread::Builder::new()
        .name("drops".into())
        .spawn(move || listen(&fd, &bell, &ready, &lost))
        .map_err(|e| failed(&e))?;
    Ok(Drops {
        stop,
        thread: Some(thread),
    })
}

fn listen(fd: &OwnedFd, stop: &Bell, ready: &Ready, lost: &dyn Fn(Hint)) {
    let mut rush = Rush::default();
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    loop {
        let (over, _news) = stop.wait_or(Some(fd.as_fd()), LONG);
        if over {
            return;
        }
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|n| OsStr::from_bytes(n.to_bytes()));
            rush.events += 1;
            match (event.events(), name) {
                (what, _) if what.intersects(LOST) => {
                    ready.ask_rescan();
                    lost(Hint::Lost);
                }
                (what, Some(name)) if what.intersects(CAME) => ready.note(name),
                (what, Some(name)) if what.intersects(LEFT) => ready.gone(&Name::new(name)),
                // The kernel tells of a changed modification time alone (`touch -m`) as of a write.
                (_, Some(name)) => ready.touched(name),
                (_, None) => {}
            }
        }
        rush.rest();
    }
}

/// In a rush of events the thread waits a moment between two looks, so that many are read at once:
/// being woken for each costs more than all the rest of it.
struct Rush {
    since: Instant,
    events: u32,
}

/// So many events in `SPAN` are a rush: single drops are told at once.
const RUSH: u32 = 8;
const SPAN: Duration = Duration::from_millis(4);
const REST: Duration = Duration::from_millis(2);

impl Default for Rush {
    fn default() -> Rush {
        Rush {
            since: clock::instant(),
            events: 0,
        }
    }
}

impl Rush {
    fn rest(&mut self) {
        let now = clock::instant();
        if self.events >= RUSH && now - self.since <= SPAN {
            std::thread::park_timeout(REST);
        }
        if self.events >= RUSH || now - self.since > SPAN {
            (self.since, self.events) = (clock::instant(), 0);
        }
    }
}
