//! The folders of the tree, which people may remove, move and replace under a running process: what is
//! missing is made again, and what is new is watched. Nothing is made where ROOT itself is gone or
//! another folder.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Main;
use crate::atomic;
use crate::clock;
use crate::folder::DirId;

/// How often the folders are looked at.
const TREE_TICK: Duration = Duration::from_secs(1);

impl Main {
    pub(super) fn look_after_tree(&mut self) {
        let flagged = self.news.folders.swap(false, Ordering::SeqCst);
        if !flagged && clock::instant() < self.next_tree {
            return;
        }
        self.next_tree = clock::instant() + TREE_TICK;
        if DirId::of(self.rt.root.path()) != self.root_id {
            return;
        }
        self.make_again();
        self.watch_again();
    }

    /// Makes missing folders, but none that somebody is just replacing by another.
    fn make_again(&mut self) {
        let root = self.rt.root.path();
        let shown = |path: &Path| {
            path.strip_prefix(root)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        // Nobody needs hooks/ and prompts/ to be there.
        let needed = |path: &Path| !matches!(shown(path).as_str(), "hooks" | "prompts");
        let mut missing = self.rt.root.dirs();
        missing.retain(|(path, _)| atomic::is_gone(path) && needed(path));
        if missing.is_empty() {
            self.missing_since = None;
            return;
        }
        let since = *self.missing_since.get_or_insert_with(clock::instant);
        if since.elapsed() < TREE_TICK {
            return;
        }
        // Parents come before what is in them.
        for (path, private) in missing {
            match atomic::make_dir_new(&path, private) {
                Ok(true) => {
                    let what = format!("{} was gone: it is made again", shown(&path));
                    self.rt.console.warn(&what);
                }
                Ok(false) => {}
                Err(e) => self.rt.console.warn(&e.to_string()),
            }
        }
    }

    /// A folder that was replaced is another one to the kernel, which reports nothing of it.
    fn watch_again(&mut self) {
        match self.threads.watch_again() {
            Ok(false) => {}
            Ok(true) => {
                self.rt.troubles.over(WATCH);
                self.rt.ready.ask_rescan();
                self.news.orders.store(true, Ordering::SeqCst);
                self.news.peers.store(true, Ordering::SeqCst);
            }
            Err(e) => {
                self.rt.troubles.met(WATCH, &e);
                self.rt.console.warn(&e.to_string());
            }
        }
    }
}

/// Where the trouble with events stands in `status.json`.
const WATCH: &str = "events";
