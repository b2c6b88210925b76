//! The file by which a confined agent raises an interrupt: it lies in the session's folder, and the
//! keeper, who is not confined, links it to where everybody looks, at once and without a harness.
//!
//! Knows nothing of what an interrupt does. Invariants: the file stays in the agent's sight for as long
//! as the interrupt stands, so that it can wait for its end (but for what cannot be linked: a folder, or
//! one on another disk, is moved); each is linked once.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::atomic::{self, Moved};
use crate::error::{Result, tell};
use crate::interrupt;

/// How often it is looked for where the kernel tells nothing of it (its limit of instances).
const LOOK: Duration = Duration::from_millis(250);

pub(super) struct Inbox {
    /// The slot's interrupt.
    to: PathBuf,
    events: Option<Inotify>,
    /// The session's folder while an agent runs.
    dir: Option<PathBuf>,
    watch: Option<WatchDescriptor>,
    /// The file was there at the last look.
    seen: bool,
    /// The inode that was linked last.
    linked: Option<u64>,
    /// What was said last.
    told: Option<String>,
}

impl Inbox {
    /// `slot`: `state/agents/agent-N`.
    pub(super) fn new(slot: &Path) -> Inbox {
        let name = slot.file_name().unwrap_or_default().to_string_lossy();
        let state = slot.ancestors().nth(2).unwrap_or(slot);
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        Inbox {
            to: state.join("interrupts").join(interrupt::file_of(&name)),
            events: Inotify::init(flags).ok(),
            dir: None,
            watch: None,
            seen: false,
            linked: None,
            told: None,
        }
    }

    /// An agent begins. `dir`: its session's folder.
    pub(super) fn open(&mut self, dir: &Path) {
        let wanted =
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
        let events = self.events.as_ref();
        self.watch = events.and_then(|events| events.add_watch(dir, wanted).ok());
        self.dir = Some(dir.to_owned());
        (self.seen, self.linked) = (false, None);
    }

    /// Readable after a change in the folder of an agent that runs.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        let events = self.events.as_ref().filter(|_| self.dir.is_some());
        events.map(|events| events.as_fd())
    }

    /// When to look without an event: also for the end of what was linked, as a person may remove it
    /// before any harness saw it.
    pub(super) fn wait(&self) -> Option<Duration> {
        let blind = self.dir.is_some() && self.watch.is_none();
        (blind || self.linked.is_some()).then_some(LOOK)
    }

    /// Links what the agent has written. `frozen`: it waits, and a harness lets it go on.
    pub(super) fn look(&mut self, frozen: bool) {
        if self.linked.is_some() && !frozen && atomic::is_gone(&self.to) {
            self.drop_linked();
        }
        let (changed, settled) = self.changes();
        // Where the kernel tells of changes, a file that was not there needs no look.
        if !changed && !self.seen && self.wait().is_none() {
            return;
        }
        let found = self.file().and_then(|file| {
            let meta = file.symlink_metadata().ok()?;
            Some((file, meta))
        });
        self.seen = found.is_some();
        let Some((file, meta)) = found else {
            return;
        };
        // One that was just made is empty until its writer closes it.
        let is_made = settled || self.watch.is_none() || !meta.is_file() || meta.len() > 0;
        if is_made && self.linked != Some(meta.ino()) {
            match lend(&file, &self.to) {
                Ok(Moved::Done) => self.linked = Some(meta.ino()),
                // Another one stands: this one waits for its end.
                Ok(_) => {}
                // It may fail at each look.
                Err(e) if self.told.as_ref() == Some(&e.to_string()) => {}
                Err(e) => {
                    tell(&e.to_string());
                    self.told = Some(e.to_string());
                }
            }
        }
    }

    /// Whether the kernel said that something happened to it, and that it was closed by its writer, or
    /// moved there.
    fn changes(&self) -> (bool, bool) {
        let done = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
        let (mut changed, mut settled) = (false, false);
        while let Some(Ok(events)) = self.events.as_ref().map(Inotify::read_events) {
            let lost = |event: &InotifyEvent| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
            let named =
                |event: &InotifyEvent| event.name.as_deref() == Some(OsStr::new("interrupt"));
            for event in events.iter().filter(|event| lost(event) || named(event)) {
                changed = true;
                settled |= lost(event) || event.mask.intersects(done);
            }
        }
        (changed, settled)
    }

    fn file(&self) -> Option<PathBuf> {
        // Its agent may put a symlink in the folder's place.
        let dir = self.dir.as_deref().filter(|dir| atomic::is_own_dir(dir))?;
        Some(interrupt::inbox(dir))
    }

    /// The agent goes on: what it waited for is over. Another one may have waited behind.
    pub(super) fn over(&mut self) {
        if atomic::is_gone(&self.to) {
            self.drop_linked();
            self.look(false);
        }
    }

    fn drop_linked(&mut self) {
        if let Some(linked) = self.linked.take()
            && let Some(file) = self.file()
            && file.symlink_metadata().is_ok_and(|m| m.ino() == linked)
            && let Err(e) = atomic::remove(&file)
        {
            tell(&e.to_string());
        }
    }

    /// The agent has ended. What it wrote last still reaches its person.
    pub(super) fn close(&mut self) {
        self.drop_linked();
        if let Some(file) = self.file().filter(|file| atomic::exists(file))
            && let Err(e) = interrupt::move_in(&file, &self.to)
        {
            tell(&e.to_string());
        }
        if let (Some(events), Some(watch)) = (&self.events, self.watch.take()) {
            let _gone = events.rm_watch(watch);
        }
        self.dir = None;
    }
}

/// A hard link; what cannot have one (a folder, another disk) is moved.
fn lend(file: &Path, to: &Path) -> Result<Moved> {
    match atomic::link_new(file, to) {
        Err(e)
            if [Errno::EXDEV, Errno::EPERM]
                .map(|e| Some(e as i32))
                .contains(&e.errno()) =>
        {
            interrupt::move_in(file, to)
        }
        linked => linked,
    }
}
