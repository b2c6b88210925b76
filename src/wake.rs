//! The kernel's events about the folders, passed on as hints. Nothing is decided by an event
//! alone: whoever is told looks for itself, and scans find what events missed (an overflow, a
//! network file system, a watch that could not be had).

mod moves;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::error::{Error, Result};
use crate::layout::{Place, Root};
use crate::ready::Ready;

/// What a process is told, besides news of pending items, which go straight into its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// `state/control/` or `state/interrupts/` changed.
    Orders,
    /// A process may have died: its file in `state/harnesses/` was closed.
    Peers,
    /// A file came into or left `done/` or `parked/`: (place, +1 or -1).
    Ended(Place, i64),
    /// Events were lost: count and list again.
    Lost,
}

/// Keeps the watches while it lives.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    moves: moves::Moves,
}

impl Watch {
    /// Nothing is told from now on. To close the watches takes the kernel 8 to 14 ms, for which only
    /// the drop waits.
    pub fn let_go(&mut self) {
        // Its thread closes its own.
        drop(self.watcher.take());
        self.moves.let_go();
    }
}

/// The folders in which little happens.
struct Folders {
    control: PathBuf,
    interrupts: PathBuf,
    holds: PathBuf,
    harnesses: PathBuf,
}

/// Who is told; called on the watchers' own threads, so it must be quick.
pub type Tell = Arc<dyn Fn(Hint) + Send + Sync>;

pub fn watch(root: &Root, ready: &Arc<Ready>, tell: Tell) -> Result<Watch> {
    let moves = moves::watch(root, ready, tell.clone())?;
    let folders = Folders {
        control: root.control(),
        interrupts: root.interrupts(),
        holds: root.holds(),
        harnesses: root.harnesses(),
    };
    let all = [
        &folders.control,
        &folders.interrupts,
        &folders.holds,
        &folders.harnesses,
    ]
    .map(PathBuf::clone);
    let ready = ready.clone();
    let handler = move |event: notify::Result<Event>| pass_on(&folders, &ready, &*tell, event);
    let mut watcher =
        notify::recommended_watcher(handler).map_err(|e| failed(&root.queue(), &e))?;
    for folder in all {
        watcher
            .watch(&folder, RecursiveMode::NonRecursive)
            .map_err(|e| failed(&folder, &e))?;
    }
    Ok(Watch {
        watcher: Some(watcher),
        moves,
    })
}

fn failed(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::temporary("cannot watch the folder", e.to_string())
        .at_path(path)
        .hint("raise fs.inotify.max_user_instances and max_user_watches (`harness doctor`)")
}

fn pass_on(f: &Folders, ready: &Ready, say: &dyn Fn(Hint), event: notify::Result<Event>) {
    let Ok(event) = event else {
        ready.ask_rescan();
        return say(Hint::Lost);
    };
    if event.need_rescan() {
        ready.ask_rescan();
        return say(Hint::Lost);
    }
    let left = match event.kind {
        EventKind::Create(_)
        | EventKind::Modify(ModifyKind::Name(RenameMode::To) | ModifyKind::Metadata(_))
        | EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => true,
        // Writes and opens; and `Both`, which repeats a `From` and a `To`.
        _ => return,
    };
    let Some(folder) = event.paths.first().and_then(|path| path.parent()) else {
        return;
    };
    if folder == f.control || folder == f.interrupts {
        say(Hint::Orders);
    } else if folder == f.holds {
        // What waited for it may start.
        if left {
            ready.ask_rescan();
        }
    } else if folder == f.harnesses {
        say(Hint::Peers);
    }
}
