//! What a host makes on its own disk and others need, too: the hub there puts it into ROOT's own hub of
//! the same repository, `state/repos/NAME.git`, which every host sees and which outlives that disk.
//!
//! Knows nothing of items. Invariants: what counts as kept was read back there; and there no ref is
//! removed or moved but an item's own branch, by the slot that works on it. Whoever works there at the
//! same time may be on another host, so no lock is removed but that of a ref which nobody else writes.

use std::path::Path;

use super::Hub;
use super::hub::{SALVAGE, is_oid, read_text};
use super::refs::Refs;
use crate::error::{Error, Result};
use crate::mutant::planted;

/// Commits that were taken from there.
const TAKEN: &str = "refs/harness/taken";
/// Refs that one command takes.
const SPECS_MAX: usize = 500;

impl Hub {
    /// Where what was made here is found.
    pub(super) fn kept_dir(&self) -> &Path {
        self.kept().unwrap_or(self).dir()
    }

    /// Keeps this branch, and all that was salvaged here, in ROOT's own hub. Does nothing where this is that
    /// one, and little where there is nothing new.
    pub(crate) fn keep(&self, branch: Option<&str>) -> Result<()> {
        let Some(kept) = self.kept().filter(|_| !planted("kept-on-host-only")) else {
            return Ok(());
        };
        let full = branch.map(|branch| format!("refs/heads/{branch}"));
        let tip = full.and_then(|full| Some((full.clone(), self.read_ref(&full)?)));
        let mut new: Refs = tip.into_iter().collect();
        let known = self.told().clone();
        new.retain(|name, oid| known.get(name) != Some(oid));
        new.extend(self.salvaged_but(&known));
        let all: Vec<(&String, &String)> = new.iter().collect();
        for some in all.chunks(SPECS_MAX) {
            kept.take_refs(self, some)?;
        }
        let oids: Vec<&String> = new.values().collect();
        if !oids.is_empty() {
            self.give_lfs_to(kept, &oids)?;
        }
        self.told().extend(new);
        Ok(())
    }

    /// The refs of salvaged work but those in `known`: their names say what they hold.
    fn salvaged_but(&self, known: &Refs) -> Refs {
        let below = walkdir::WalkDir::new(self.dir().join(SALVAGE));
        let mut refs = Refs::new();
        for entry in below.into_iter().flatten() {
            let Ok(name) = entry.path().strip_prefix(self.dir()) else {
                continue;
            };
            let Some(name) = name.to_str().filter(|name| !name.ends_with(".lock")) else {
                continue;
            };
            if !entry.file_type().is_file() || known.contains_key(name) {
                continue;
            }
            let oid = read_text(entry.path()).unwrap_or_default();
            if is_oid(oid.trim_end()) {
                refs.insert(name.to_owned(), oid.trim_end().to_owned());
            }
        }
        refs
    }

    /// Fetches these refs of another hub into this one, and reads them back.
    fn take_refs(&self, from: &Hub, refs: &[(&String, &String)]) -> Result<()> {
        let what = "cannot keep the work in ROOT";
        let specs: Vec<String> = refs
            .iter()
            .map(|(name, oid)| format!("+{oid}:{name}"))
            .collect();
        let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
        for (name, _) in refs {
            self.clear_ref_lock(name);
        }
        self.fetch_from(self.git(), from.dir(), &specs, what)?;
        let lost = |(name, oid): &&(&String, &String)| self.read_ref(name).as_ref() != Some(*oid);
        match refs.iter().find(lost) {
            None => Ok(()),
            Some((name, _)) => {
                let why = format!("{name} does not hold it");
                Err(Error::temporary(what, why).at_path(self.dir()))
            }
        }
    }

    /// Whether the hub holds this commit. One that another host has kept is brought.
    pub(crate) fn finds_commit(&self, oid: &str) -> Result<bool> {
        if self.has_commit(oid)? {
            return Ok(true);
        }
        let Some(kept) = self.kept() else {
            return Ok(false);
        };
        if !kept.has_commit(oid)? {
            return Ok(false);
        }
        let what = "cannot bring a commit that another host has kept";
        let pin = format!("{TAKEN}/{oid}");
        self.clear_ref_lock(&pin);
        self.fetch_from(self.git(), kept.dir(), &[&format!("+{oid}:{pin}")], what)?;
        self.take_lfs_from(kept, oid)?;
        Ok(true)
    }
}
