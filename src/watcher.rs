//! Watches the folders of a ROOT (`notify`) and passes their changes on as hints. Nothing is decided
//! by an event: whoever is told looks for itself, and listings find what events missed (a queue that
//! overflowed, a network file system, a watch that the host refused).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Config, Event, EventKind, EventKindMask, RecommendedWatcher, RecursiveMode, Watcher};

use crate::error::{Error, Result};
use crate::folder::DirId;
use crate::layout::{Name, Place, Root};
use crate::ready::Ready;

/// What a process is told. Changes in `pending/` go straight into its index instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// `state/control/` or `state/interrupts/` changed.
    Orders,
    /// A process may have died: its file in `state/harnesses/` was closed.
    Peers,
    /// A file came into (+1) or left (-1) `review/`, `merge/`, `done/` or `parked/`.
    Ended(Place, i64),
    /// Events were lost, or a watched folder is gone: count and list again.
    Lost,
}

/// Called on the watcher's thread, so it must be quick.
pub(crate) type OnHint = Box<dyn Fn(Hint) + Send>;

/// Watches while it lives.
#[must_use = "dropping it ends the watch"]
pub(crate) struct FolderWatcher {
    watcher: RecommendedWatcher,
    /// Each folder, and which one it was when its watch began; `None`: it is not watched.
    watched: Vec<(PathBuf, Option<DirId>)>,
}

impl FolderWatcher {
    /// Watches folders anew that were replaced. Whether there were any.
    pub(crate) fn watch_again(&mut self) -> Result<bool> {
        let mut any = false;
        for (folder, was) in &mut self.watched {
            let now = DirId::of(folder);
            if now.is_none() || now == *was {
                continue;
            }
            *was = None;
            // The old watch is gone with its folder, or is one of a folder that was moved away.
            let _gone = self.watcher.unwatch(folder);
            self.watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .map_err(|e| failed(folder, &e))?;
            *was = now;
            any = true;
        }
        Ok(any)
    }
}

/// What a watched folder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Pending,
    /// `review/`, `merge/`, `done/` or `parked/`.
    Ended(Place),
    Orders,
    Holds,
    Peers,
}

/// What happened to a name in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Came,
    Left,
    /// Closed by a writer, or its mode or times changed.
    Settled,
    /// Written to. Linux reports a modification time that was set alone (`touch -m`) in this way.
    Written,
}

/// Opening and reading are left out: eight processes would wake each other at every look at a file.
const WANTED: EventKindMask = EventKindMask::CORE.union(EventKindMask::ACCESS_CLOSE);

pub(crate) fn watch(root: &Root, ready: &Arc<Ready>, on_hint: OnHint) -> Result<FolderWatcher> {
    let folders = [
        (Role::Pending, root.place(Place::Pending)),
        (Role::Ended(Place::Review), root.place(Place::Review)),
        (Role::Ended(Place::Merge), root.place(Place::Merge)),
        (Role::Ended(Place::Done), root.place(Place::Done)),
        (Role::Ended(Place::Parked), root.place(Place::Parked)),
        (Role::Orders, root.control()),
        (Role::Orders, root.interrupts()),
        (Role::Holds, root.holds()),
        (Role::Peers, root.harnesses()),
    ];
    let mut listener = Listener {
        folders: folders.to_vec(),
        ready: ready.clone(),
        on_hint,
    };
    let handler = move |event: notify::Result<Event>| listener.handle(event);
    let config = Config::default().with_event_kinds(WANTED);
    let mut watcher =
        RecommendedWatcher::new(handler, config).map_err(|e| failed(&root.queue(), &e))?;
    let mut watched = Vec::new();
    for (_, folder) in folders {
        let id = DirId::of(&folder);
        watcher
            .watch(&folder, RecursiveMode::NonRecursive)
            .map_err(|e| failed(&folder, &e))?;
        watched.push((folder, id));
    }
    Ok(FolderWatcher { watcher, watched })
}

fn failed(path: &Path, e: &notify::Error) -> Error {
    Error::temporary("cannot watch the folder", e.to_string())
        .at_path(path)
        .hint("raise fs.inotify.max_user_instances and max_user_watches (`harness doctor`)")
}

struct Listener {
    folders: Vec<(Role, PathBuf)>,
    ready: Arc<Ready>,
    on_hint: OnHint,
}

impl Listener {
    fn handle(&mut self, event: notify::Result<Event>) {
        let Ok(event) = event else {
            return self.lost();
        };
        if event.need_rescan() {
            return self.lost();
        }
        let (Some(change), Some(path)) = (change_of(event.kind), event.paths.first()) else {
            return;
        };
        if change == Change::Left && self.folders.iter().any(|(_, folder)| folder == path) {
            // A watched folder itself was removed, moved or unmounted.
            return self.lost();
        }
        let role = self
            .folders
            .iter()
            .find(|(_, folder)| path.parent() == Some(folder));
        if let (Some((role, _)), Some(name)) = (role, path.file_name()) {
            self.pass_on(*role, change, &Name::new(name));
        }
    }

    fn lost(&self) {
        self.ready.ask_rescan();
        (self.on_hint)(Hint::Lost);
    }

    fn pass_on(&self, role: Role, change: Change, name: &Name) {
        match (role, change) {
            (Role::Pending, Change::Came | Change::Settled) => {
                self.ready.changed(name.as_os_str());
            }
            (Role::Pending, Change::Left) => self.ready.gone(name),
            (Role::Pending, Change::Written) => self.ready.touched(name.as_os_str()),
            (_, Change::Written) => {}
            (Role::Ended(_), _) if Name::is_ignored(name.as_os_str()) => {}
            (Role::Ended(place), Change::Came) => {
                if place == Place::Done {
                    self.ready.ended(name.as_os_str());
                }
                (self.on_hint)(Hint::Ended(place, 1));
            }
            (Role::Ended(place), Change::Left) => (self.on_hint)(Hint::Ended(place, -1)),
            (Role::Ended(_), Change::Settled) => {}
            (Role::Orders, _) => (self.on_hint)(Hint::Orders),
            // What waited for this hold may start.
            (Role::Holds, Change::Left) => self.ready.ask_rescan(),
            (Role::Holds, _) => {}
            (Role::Peers, _) => (self.on_hint)(Hint::Peers),
        }
    }
}

fn change_of(kind: EventKind) -> Option<Change> {
    match kind {
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            Some(Change::Came)
        }
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            Some(Change::Left)
        }
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Metadata(_)) => Some(Change::Settled),
        EventKind::Modify(ModifyKind::Data(_)) => Some(Change::Written),
        // A rename inside a folder is reported once more as a whole (`RenameMode::Both`).
        _ => None,
    }
}
