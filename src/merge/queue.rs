//! What waits in `queue/merge/`, in the order in which it came, and what of it can be merged together.
//!
//! Only looks. Invariant: nothing is decided by a name: an approval is for the commit on record.

use std::fs::Metadata;

use crate::clock;
use crate::config::Integrate;
use crate::folder::Readings;
use crate::layout::{DEFAULT_REPO, Name, Place, Root};
use crate::record::{self, LastAttempt};
use crate::runtime::{Runtime, Waiting};
use crate::session::file;
use crate::spool;

/// Items that are merged together have all of this in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) repo: String,
    pub(super) integrate: Integrate,
}

/// All that waits in `merge/`, oldest first, as this process knows it: only what has changed is read.
pub(crate) fn waiting(rt: &Runtime) -> Vec<Waiting> {
    read(&rt.root, &mut rt.merges.seen())
}

/// The same, for those who look once.
pub(crate) fn waiting_now(root: &Root) -> Vec<Waiting> {
    read(root, &mut Readings::default())
}

fn read(root: &Root, known: &mut Readings<Waiting>) -> Vec<Waiting> {
    let mut all = known.look(&root.place(Place::Merge), |name, meta| {
        let name = (!Name::is_ignored(name)).then(|| Name::new(name))?;
        Some(look(root, name, meta))
    });
    all.sort_by(|a, b| (a.came_ns, &a.name).cmp(&(b.came_ns, &b.name)));
    all
}

fn look(root: &Root, name: Name, meta: &Metadata) -> Waiting {
    let history = record::history(root, &name);
    let why = history.why_unmerged();
    let last = history.last.unwrap_or_default();
    // Where its branch is, whatever a person has written into its file since.
    let made = file::read(&root.session(&last.session), &last.session).unwrap_or_default();
    let of_item = || {
        spool::look_at(&name, &root.item(Place::Merge, &name))?
            .order
            .repo
    };
    Waiting {
        repo: made
            .repo
            .or_else(of_item)
            .unwrap_or_else(|| DEFAULT_REPO.to_owned()),
        base: made.base.or_else(|| last.started?.base),
        why,
        came_ns: clock::ctime_ns(meta),
        name,
    }
}

/// The lines of those that may be merged now, oldest first, each with its items.
pub(super) fn lines(rt: &Runtime, all: Vec<Waiting>) -> Vec<(Line, Vec<Name>)> {
    let mut lines: Vec<(Line, Vec<Name>)> = Vec::new();
    for waiting in all.into_iter().filter(|w| !rt.merges.rests(&w.name)) {
        let name = (waiting.repo != DEFAULT_REPO).then_some(waiting.repo.as_str());
        let mut integrate = rt.config.integrate(name);
        // Where its work began, not where the user is by now.
        integrate.into = integrate.into.or(waiting.base);
        let line = Line {
            integrate,
            repo: waiting.repo,
        };
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, names)) => names.push(waiting.name),
            None => lines.push((line, vec![waiting.name])),
        }
    }
    lines
}

/// The branch that an item has to be merged, and the commit that was approved.
pub(super) fn approved(last: Option<&LastAttempt>) -> Option<(String, String, String)> {
    let last = last?;
    let published = last.published.as_ref()?;
    let session = last.session.clone();
    Some((session, published.name.clone(), published.head.clone()))
}
