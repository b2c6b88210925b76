//! What the view shows of the tree: what `status` says, read again when it changed. Where no harness keeps
//! the status, `harness status --json` makes it, in a process of its own, whose memory ends with it, and so
//! seldom that it costs little.

use std::time::{Duration, Instant};

use super::jobs::{Done, For, Jobs};
use crate::clock;
use crate::error::{Error, Result};
use crate::folder::FileStamp;
use crate::layout::Root;
use crate::status::Status;
use crate::view::status::{Source, live};

/// A harness that died, or a ROOT that is gone, is noticed after so long.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Between the end of a look at the whole tree and the next.
const REST: Duration = Duration::from_secs(2);
/// So many times as long as it took: less than 2 % of the time.
const REST_TIMES: u32 = 50;

pub(super) struct Data {
    root: Root,
    pub(super) status: Status,
    /// `None`: nothing is known yet.
    pub(super) source: Option<Source>,
    /// Why a look at the whole tree is under way.
    lacks: Source,
    stamp: Option<FileStamp>,
    looked: Option<Instant>,
    /// When the whole tree may be looked at again.
    rested: Option<Instant>,
}

impl Data {
    pub(super) fn new(root: &Root) -> Data {
        Data {
            root: root.clone(),
            status: Status::default(),
            source: None,
            lacks: Source::NoHarness,
            stamp: None,
            looked: None,
            rested: None,
        }
    }

    /// Looks whether something changed. `true`: it did.
    pub(super) fn look(&mut self, jobs: &mut Jobs) -> Result<bool> {
        let now = clock::instant();
        let stamp = self.root.status().symlink_metadata().ok();
        let stamp = stamp.map(|meta| FileStamp::of(&meta));
        let is_old = self.looked.is_none_or(|at| now - at >= AGE_MAX);
        if stamp == self.stamp && !is_old {
            return Ok(false);
        }
        (self.stamp, self.looked) = (stamp, Some(now));
        if !self.root.stands() {
            let why = "it was moved or removed";
            return Err(Error::permanent("there is nothing more to show", why)
                .at_path(self.root.path())
                .hint("name it where it is now: `harness --root DIR top`"));
        }
        match live(&self.root)? {
            Ok(status) => Ok(self.put(status, Source::Live)),
            Err(source) => {
                if self.rested.is_none_or(|at| now >= at) && !jobs.runs(&For::Status) {
                    jobs.start(For::Status, vec!["status".into(), "--json".into()]);
                }
                self.lacks = source;
                // What the dead one said stands until the tree was looked at.
                let is_new = self.source.is_some_and(|known| known != source);
                self.source = self.source.and(Some(source));
                Ok(is_new)
            }
        }
    }

    /// The status was made from the tree.
    pub(super) fn made(&mut self, done: &Done) -> bool {
        self.rested = Some(clock::instant() + (done.took * REST_TIMES).max(REST));
        match serde_json::from_slice(&done.out) {
            Ok(status) if self.source != Some(Source::Live) => self.put(status, self.lacks),
            _ => false,
        }
    }

    /// Something was done to the tree.
    pub(super) fn hurry(&mut self) {
        self.looked = None;
        let soon = clock::instant() + Duration::from_millis(500);
        self.rested = self.rested.map(|at| at.min(soon));
    }

    fn put(&mut self, status: Status, source: Source) -> bool {
        let timeless = |status: &Status| Status {
            timestamp: String::new(),
            ..status.clone()
        };
        let is_new = self.source != Some(source) || timeless(&status) != timeless(&self.status);
        (self.status, self.source) = (status, Some(source));
        is_new
    }
}
