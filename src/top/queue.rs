//! The items that lie in the folders of `queue/`, in the order in which they need a person. Of a folder only so
//! many are looked at: the figures are the status's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::clock;
use crate::folder::FileStamp;
use crate::layout::{Name, Place, Root};
use crate::record::{self, History};

/// Names of a folder that are looked at, and how many of them are shown: what a person scrolls through.
const LOOKED_AT: usize = 1_000;
const SHOWN: usize = 200;
/// Between two looks at a folder that changes all the time.
const LOOK: Duration = Duration::from_secs(1);
/// Records that are kept in memory: some screens.
const KNOWN_MAX: usize = 500;

/// Those that wait for a person first.
const ORDER: [Place; 5] = [
    Place::Review,
    Place::Parked,
    Place::Merge,
    Place::Pending,
    Place::Done,
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) name: Name,
    /// Since when it lies there, and from when on it may start.
    pub(super) since_ns: i64,
    pub(super) start_ns: i64,
}

/// What an item's record says of it, in short.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    pub(super) outcome: String,
    pub(super) tries: u32,
    pub(super) why: String,
    pub(super) session: Option<String>,
}

#[derive(Debug, Default)]
struct Listed {
    stamp: Option<FileStamp>,
    rows: Vec<Row>,
    is_cut: bool,
}

pub(super) struct Queue {
    root: Root,
    looked: Option<Instant>,
    listed: [Listed; 5],
    known: HashMap<Name, (Option<FileStamp>, Past)>,
}

impl Queue {
    pub(super) fn new(root: &Root) -> Queue {
        Queue {
            root: root.clone(),
            looked: None,
            listed: Default::default(),
            known: HashMap::new(),
        }
    }

    /// Lists the folders that changed. `true`: one did.
    pub(super) fn look(&mut self) -> bool {
        let now = clock::instant();
        if self.looked.is_some_and(|at| now - at < LOOK) {
            return false;
        }
        self.looked = Some(now);
        let mut is_new = false;
        for (place, listed) in ORDER.into_iter().zip(&mut self.listed) {
            let meta = self.root.place(place).metadata().ok();
            let stamp = meta.map(|meta| FileStamp::of(&meta));
            if listed.stamp == stamp && stamp.is_some() {
                continue;
            }
            let before = std::mem::take(&mut listed.rows);
            *listed = list(&self.root, place);
            listed.stamp = stamp;
            is_new |= before != listed.rows;
        }
        is_new
    }

    /// Something was done to the tree.
    pub(super) fn hurry(&mut self) {
        self.looked = None;
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.listed.iter().flat_map(|listed| &listed.rows)
    }

    /// Whether a folder has more than is shown.
    pub(super) fn is_cut(&self) -> bool {
        self.listed.iter().any(|listed| listed.is_cut)
    }

    /// What the item's record says, read again when it changed.
    pub(super) fn past(&mut self, name: &Name) -> &Past {
        let meta = self.root.record(name).symlink_metadata().ok();
        let stamp = meta.map(|meta| FileStamp::of(&meta));
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        let entry = self.known.entry(name.clone());
        let (of, past) = entry.or_default();
        if *of != stamp {
            (*of, *past) = (stamp, past_of(&record::history(&self.root, name)));
        }
        past
    }
}

fn past_of(history: &History) -> Past {
    let outcome = history.outcome.as_ref();
    Past {
        outcome: outcome.map_or_else(String::new, |word| word.as_str().to_owned()),
        tries: history.attempts,
        why: history
            .stays
            .clone()
            .or(history.reason.clone())
            .unwrap_or_default(),
        session: history.last.as_ref().map(|last| last.session.clone()),
    }
}

/// A folder that cannot be listed has nothing; the status says why.
fn list(root: &Root, place: Place) -> Listed {
    let entries = std::fs::read_dir(root.place(place)).into_iter().flatten();
    let mut entries = entries
        .flatten()
        .filter(|e| !Name::is_ignored(&e.file_name()));
    let mut rows: Vec<Row> = entries
        .by_ref()
        .take(LOOKED_AT)
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some(Row {
                place,
                name: Name::new(entry.file_name()),
                // A rename changes this time.
                since_ns: clock::ctime_ns(&meta),
                start_ns: clock::postponed(&meta).unwrap_or_default(),
            })
        })
        .collect();
    match place {
        Place::Pending => rows.sort_by_key(|row| (row.start_ns, row.since_ns)),
        _ => rows.sort_by_key(|row| std::cmp::Reverse(row.since_ns)),
    }
    let is_cut = rows.len() > SHOWN || entries.next().is_some();
    rows.truncate(SHOWN);
    Listed {
        stamp: None,
        rows,
        is_cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic;

    #[test]
    fn of_a_huge_folder_only_so_many_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (path, private) in root.dirs() {
            atomic::make_dir(&path, private).unwrap();
        }
        for n in 0..LOOKED_AT + 5 {
            let path = root.item(Place::Pending, &Name::new(format!("{n}")));
            drop(atomic::create(&path, b"x", 0o600).unwrap());
        }
        let parked = root.item(Place::Parked, &Name::new("p"));
        drop(atomic::create(&parked, b"x", 0o600).unwrap());
        let mut queue = Queue::new(&root);
        assert!(queue.look() && queue.is_cut());
        let rows: Vec<_> = queue.rows().collect();
        assert_eq!(rows.len(), SHOWN + 1);
        assert_eq!(rows[0].place, Place::Parked);
        for n in 0..KNOWN_MAX * 2 {
            queue.past(&Name::new(format!("{n}")));
        }
        assert!(queue.known.len() <= KNOWN_MAX + 1);
    }
}
