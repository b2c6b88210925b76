//! Whether ROOT is still where it was when this process began. Its processes know it by its path alone:
//! once it is elsewhere, what they would write lands nowhere, or in another folder.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::atomic;
use crate::error::{Context, Error, Result};
use crate::layout::Root;

pub(super) struct Home {
    root: Root,
    /// ROOT, wherever it is now.
    open: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    There,
    Elsewhere,
    Removed,
}

impl Home {
    pub(super) fn open(root: &Root) -> Result<Home> {
        let open = atomic::open_dir(root.path()).or_fail("cannot open", root.path())?;
        atomic::never_make(root.path());
        Ok(Home {
            root: root.clone(),
            open,
        })
    }

    pub(super) fn look(&self) -> Where {
        if self.root.stands() {
            return Where::There;
        }
        let path = self.path().unwrap_or_default();
        let deleted = path.to_string_lossy().ends_with(" (deleted)");
        match self.open.metadata() {
            Ok(meta) if meta.nlink() > 0 && !deleted => Where::Elsewhere,
            _ => Where::Removed,
        }
    }

    /// Where it is now; `None`: without `/proc` nobody can tell.
    fn path(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.open.as_raw_fd())).ok()
    }

    pub(super) fn moved(&self) -> Error {
        let now = self.path().map(|p| crate::layout::shown(p.as_os_str()));
        let (to, there) = match now {
            Some(now) => (format!(" to {now}"), format!(" with --root {now}")),
            None => (String::new(), " there".to_owned()),
        };
        Error::permanent("cannot go on", format!("ROOT was moved{to}"))
            .at_path(self.root.path())
            .hint(format!(
                "`harness run`{there}: it goes on with everything; agents run on until it adopts them"
            ))
    }
}
