//! What waits in `queue/merge/`, in the order in which it came, and what of it can be merged together.
//!
//! Only looks. Invariant: nothing is decided by a name: an approval is for the commit on record.

use crate::clock;
use crate::config::Integrate;
use crate::layout::{DEFAULT_REPO, Name, Place, Root};
use crate::record::{self, LastAttempt};
use crate::runtime::Runtime;
use crate::spool;

/// An item in `merge/`.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) name: Name,
    pub(crate) repo: String,
    /// The branch that its last attempt began at.
    base: Option<String>,
    /// Why it could not be merged when that was last tried.
    pub(crate) why: Option<String>,
    came_ns: i64,
}

/// Items that are merged together have all of this in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) repo: String,
    pub(super) integrate: Integrate,
}

/// The names in `merge/`; most looks find none, and cost one listing of an empty folder.
pub(crate) fn waiting(root: &Root) -> Vec<Waiting> {
    let entries = std::fs::read_dir(root.place(Place::Merge));
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name());
    let names = names.filter(|name| !Name::is_ignored(name)).map(Name::new);
    let mut all: Vec<Waiting> = names.filter_map(|name| look(root, name)).collect();
    all.sort_by(|a, b| (a.came_ns, &a.name).cmp(&(b.came_ns, &b.name)));
    all
}

fn look(root: &Root, name: Name) -> Option<Waiting> {
    let path = root.item(Place::Merge, &name);
    let meta = path.symlink_metadata().ok()?;
    let history = record::history(root, &name);
    let item = spool::look_at(&name, &path);
    let repo = item.and_then(|item| item.order.repo);
    Some(Waiting {
        repo: repo.unwrap_or_else(|| DEFAULT_REPO.to_owned()),
        why: history.why_unmerged(),
        base: history.last.and_then(|last| last.started?.base),
        came_ns: clock::ctime_ns(&meta),
        name,
    })
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
