//! Brings what an agent left in its slot's repository into the hub: its branch, its HEAD, branches,
//! tags and stashes of its own, and what it staged.
//!
//! Nothing of the slot's repository is believed but the objects, which git checks. No git runs with
//! its configuration, hooks, grafts, replacements or index: refs are read as files, and objects are
//! fetched through a repository of ours (the *view*) that borrows them. Invariant: what was brought
//! is held by refs of the hub that were read back, before the slot's repository is made anew.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;

use super::closed::open_all;
use super::debris::clear_links;
use super::hub::{fetch, is_oid, read_text};
use super::salvage::KEEPER;
use super::slot::Found;
use super::state::TreeState;
use super::{Git, Output, Worktree, config};
use crate::atomic;
use crate::error::{Error, Result};
use crate::layout::Name;
use crate::limits::{INDEX_BYTES_MAX, SLOT_REFS_MAX, STATE_FILE_BYTES_MAX};
use crate::mutant::planted;

/// Flaws that old histories have and that harm nobody.
const FORGIVEN: [&str; 7] = [
    "fetch.fsck.badDate",
    "fetch.fsck.badEmail",
    "fetch.fsck.badTimezone",
    "fetch.fsck.missingEmail",
    "fetch.fsck.missingNameBeforeEmail",
    "fetch.fsck.missingSpaceBeforeEmail",
    "fetch.fsck.zeroPaddedFilemode",
];

/// What one command line holds of them: each is some 200 bytes, and the kernel allows 2 MiB.
const SPECS_MAX: usize = 1_000;

/// Names of refs in the hub, and the objects that they are to hold.
type Wanted = BTreeMap<String, String>;

impl Worktree {
    /// Brings everything new, and makes our HEAD and index follow the agent's HEAD. Returns notes
    /// for people. A repetition does nothing.
    pub(super) fn bring_in(&self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if !self.slot.is_there() || self.is_of_old() || planted("slot-not-brought") {
            return Ok(notes);
        }
        let unread = self
            .slot
            .unread()
            .filter(|_| !planted("slot-unread-is-empty"));
        if !open_all(&self.slot.dir) || unread.is_some() {
            // Whoever makes the repository anew keeps this one.
            atomic::replace(&self.damaged(), b"", false)?;
        }
        notes.extend(unread.map(|what| {
            format!("{what} in its repository cannot be read: the repository is kept beside the worktree")
        }));
        let label = self.item_branch().unwrap_or_else(|| "unknown".to_owned());
        let full = format!("refs/heads/{label}");
        let (given, found) = (self.given(), self.slot.found());
        let mut wanted = self.wanted(&given, &found, &label);
        let is_new =
            |(name, oid): (&String, &String)| self.hub.read_ref(name).as_ref() != Some(oid);
        if found == given && !wanted.iter().any(is_new) {
            return Ok(notes);
        }
        let merging = self.merging(&given, &found);
        let held = format!("refs/harness/slots/{}", self.ref_name());
        match &found.head {
            Some(head) if found.on.as_deref() != Some(&full) && !self.is_known(&given, head) => {
                wanted.insert(held, head.clone());
            }
            _ => {}
        }
        for oid in merging.iter().filter(|oid| !self.is_known(&given, oid)) {
            wanted.insert(
                self.hub.salvage_name(&format!("{label}/merging"), oid),
                oid.clone(),
            );
        }
        let all = wanted.clone();
        wanted.retain(|name, oid| self.hub.read_ref(name).as_ref() != Some(oid));
        let lost = self.fetch_all(&wanted)?;
        let had = all.iter().filter(|(name, _)| !lost.contains_key(*name));
        let had: Vec<&String> = had.map(|(_, oid)| oid).collect();
        for part in had.chunks(SPECS_MAX) {
            self.take_lfs_of_agent(part)?;
        }
        for (name, why) in &lost {
            notes.push(format!("{name}: its commits cannot be read ({why}); the repository is kept beside the worktree"));
        }
        let head_is_lost = |oid: &String| lost.keys().any(|name| wanted.get(name) == Some(oid));
        let moved = (&found.head, &found.on) != (&given.head, &given.on);
        if !found.head.as_ref().is_none_or(head_is_lost) && (moved || !merging.is_empty()) {
            self.follow_head(&found, &full, &merging)?;
        }
        if found.index != given.index {
            self.end_sparse()?;
            self.keep_staged(&label)?;
        }
        self.note_given(&found)?;
        Ok(notes)
    }

    /// Whether the hub has this object from the beginning.
    fn is_known(&self, given: &Found, oid: &str) -> bool {
        given.refs.values().any(|value| value == oid)
    }

    /// The slot's name as part of a ref.
    fn ref_name(&self) -> String {
        Name::new(self.top.file_name().unwrap_or_default()).ref_component()
    }

    /// The agent's own branch goes to the branch of that name; all else that is new is salvaged.
    fn wanted(&self, given: &Found, found: &Found, label: &str) -> Wanted {
        let full = format!("refs/heads/{label}");
        let known: HashSet<&String> = given.refs.values().collect();
        let is_new = |name: &String, oid: &String| given.refs.get(name) != Some(oid);
        let remote = |name: &str| name.starts_with("refs/remotes/");
        // What a `git fetch` of the agent's brought is the remote's: also tags.
        let fetched = found
            .refs
            .iter()
            .any(|(name, oid)| remote(name) && is_new(name, oid));
        let mut wanted = Wanted::new();
        for (name, oid) in &found.refs {
            let of_remote = remote(name) || fetched && name.starts_with("refs/tags/");
            if !is_oid(oid) || !is_new(name, oid) || of_remote {
                continue;
            }
            if *name == full {
                wanted.insert(full.clone(), oid.clone());
            } else if !known.contains(oid) && wanted.len() < SLOT_REFS_MAX {
                let short = name.strip_prefix("refs/").unwrap_or(name);
                let kept = self.hub.salvage_name(&format!("{label}/{short}"), oid);
                wanted.insert(kept, oid.clone());
            }
        }
        for (what, oid) in self.unnamed() {
            if !known.contains(&oid) && !wanted.values().any(|w| *w == oid) {
                let kept = self.hub.salvage_name(&format!("{label}/{what}"), &oid);
                wanted.insert(kept, oid);
            }
        }
        wanted
    }

    /// Commits that no ref holds: older stashes, what `--autostash` put away, the HEADs of the
    /// agent's own worktrees.
    fn unnamed(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        let log = read_text(&self.slot.dir.join("logs/refs/stash")).unwrap_or_default();
        let stashes = log.lines().filter_map(|line| line.split(' ').nth(1));
        all.extend(stashes.map(|oid| ("stash", oid.to_owned())));
        let files = [
            "rebase-merge/autostash",
            "rebase-apply/autostash",
            "MERGE_AUTOSTASH",
        ];
        let admin = self.slot.admin();
        let stashed = files.iter().filter_map(|file| read_text(&admin.join(file)));
        all.extend(stashed.map(|oid| ("autostash", oid.trim_end().to_owned())));
        let trees = fs::read_dir(self.slot.dir.join("worktrees"))
            .into_iter()
            .flatten();
        for tree in trees
            .flatten()
            .map(|e| e.path())
            .filter(|tree| *tree != admin)
        {
            let head = read_text(&tree.join("HEAD")).unwrap_or_default();
            all.push(("detached", head.trim_end().to_owned()));
        }
        all.retain(|(_, oid)| is_oid(oid));
        all
    }

    /// What the agent was merging when it ended.
    fn merging(&self, given: &Found, found: &Found) -> Vec<String> {
        if found.head.is_none() || (found.head == given.head && found.index == given.index) {
            return Vec::new();
        }
        let text = read_text(&self.slot.admin().join("MERGE_HEAD")).unwrap_or_default();
        let all = text.lines().filter(|oid| is_oid(oid)).take(64);
        all.map(str::to_owned).collect()
    }

    /// Brings one commit that no ref of the agent's may hold. `false`: it is nowhere.
    pub(super) fn bring_commit(&self, oid: &str) -> Result<bool> {
        let name = format!("refs/harness/base/{oid}");
        let lost = self.fetch_all(&Wanted::from([(name, oid.to_owned())]))?;
        Ok(lost.is_empty())
    }

    /// Fetches all that can be had. Returns the refs whose objects are damaged.
    fn fetch_all(&self, wanted: &Wanted) -> Result<BTreeMap<String, String>> {
        let mut lost = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(lost);
        }
        let specs = |part: &[(&String, &String)]| {
            let spec = |(name, oid): &(&String, &String)| format!("+{oid}:{name}");
            part.iter().map(spec).collect::<Vec<_>>()
        };
        let all: Vec<_> = wanted.iter().collect();
        // What fails is halved until the refs that cannot be had are alone.
        let mut parts: Vec<_> = all.chunks(SPECS_MAX).collect();
        while let Some(part) = parts.pop() {
            let (git, out) = self.fetch(&specs(part))?;
            if out.ok() {
                continue;
            }
            if !is_damage(&out) {
                return Err(git.failure("cannot bring the agent's commits", &out));
            }
            if let [(name, _)] = part {
                let why = out.stderr.lines().next().unwrap_or("git says no more");
                lost.insert((*name).clone(), why.to_owned());
            } else {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([first, second]);
            }
        }
        if !lost.is_empty() {
            atomic::replace(&self.damaged(), b"", false)?;
        }
        let stands = |name: &String, oid: &String| self.hub.read_ref(name).as_ref() == Some(oid);
        match wanted
            .iter()
            .find(|(name, oid)| !lost.contains_key(*name) && !stands(name, oid))
        {
            None => Ok(lost),
            Some((name, _)) => Err(Error::temporary(
                "cannot bring the agent's commits",
                format!("{name} does not hold them"),
            )
            .at_path(self.hub.dir())),
        }
    }

    fn fetch(&self, specs: &[String]) -> Result<(Git, Output)> {
        let view = self.view()?;
        let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
        let git = self.hub.git().holding(self.lease.as_ref());
        let git = fetch(git, &view, &specs).set("fetch.fsckObjects", "true");
        let git = FORGIVEN
            .iter()
            .fold(git, |git, flaw| git.set(*flaw, "ignore"));
        let out = git.patient()?;
        Ok((git, out))
    }

    /// A repository that has nothing of the slot's but its objects, and the hub's. The only door to the
    /// slot's objects: a symlink among them would lead us, and what we write, elsewhere.
    pub(super) fn view(&self) -> Result<PathBuf> {
        let view = self.admin.join("view");
        let (theirs, ours) = (self.slot.objects(), self.hub.dir().join("objects"));
        if self.slot.is_there() && !planted("slot-leads-out") {
            clear_links(&theirs);
        }
        let put = |name: &str, bytes: &[u8]| {
            let file = view.join(name);
            match atomic::holds(&file, bytes) {
                true => Ok(()),
                false => atomic::replace(&file, bytes, false),
            }
        };
        atomic::make_dir(&view.join("objects/info"), true)?;
        atomic::make_dir(&view.join("refs"), true)?;
        put("HEAD", b"ref: refs/heads/none\n")?;
        put(
            "config",
            &[&self.hub.slot_config(), config::OF_VIEW].concat(),
        )?;
        let right = config::lines(&[&ours]);
        let both = match self.slot.is_there() {
            // Theirs may be missing: git says so and goes on.
            true => config::lines(&[&ours, &theirs]),
            false => right.clone(),
        };
        put("objects/info/alternates", &both)?;
        match atomic::read_small(&self.hub.dir().join("shallow"), STATE_FILE_BYTES_MAX) {
            Ok(shallow) => put("shallow", &shallow)?,
            Err(_) => drop(atomic::remove(&view.join("shallow"))?),
        }
        // An agent's own alternates would lead elsewhere, or git would block on them.
        let info = theirs.join("info");
        let alternates = info.join("alternates");
        if self.slot.is_there() && atomic::is_own_dir(&info) && !atomic::holds(&alternates, &right)
        {
            if atomic::is_own_dir(&alternates) {
                atomic::discard_tree(&alternates, "git has no folder there")?;
            }
            atomic::replace(&alternates, &right, false)?;
        }
        Ok(view)
    }

    /// Our HEAD and index follow the agent's HEAD, so that only what it did not commit shows.
    fn follow_head(&self, found: &Found, full: &str, merging: &[String]) -> Result<()> {
        let head = found.head.as_deref().unwrap_or_default();
        let text = match found.on.as_deref() == Some(full) {
            true => format!("ref: {full}\n"),
            false => format!("{head}\n"),
        };
        atomic::replace(&self.admin.join("HEAD"), text.as_bytes(), false)?;
        let merge_head = self.admin.join("MERGE_HEAD");
        if merging.is_empty() {
            atomic::remove(&merge_head)?;
        } else {
            atomic::replace(&merge_head, (merging.join("\n") + "\n").as_bytes(), false)?;
        }
        // Files that are equal in both commits stay known, and are not read again.
        if !self.git().args(["read-tree", "-m", head]).patient()?.ok() {
            atomic::remove(&self.admin.join("index"))?;
            let what = "cannot read the agent's last commit";
            self.git().args(["read-tree", head]).must(what)?;
        }
        Ok(())
    }

    /// Keeps staged content that the tree no longer has.
    fn keep_staged(&self, label: &str) -> Result<()> {
        let index = self.admin.join("staged");
        let _old = atomic::remove(&index)?;
        let _lock = atomic::remove(&index.with_extension("lock"))?;
        if atomic::copy(&self.slot.admin().join("index"), &index, INDEX_BYTES_MAX).is_err() {
            return Ok(());
        }
        let objects = self.view()?.join("objects");
        let git = || {
            let git = self.git().env("GIT_INDEX_FILE", &index);
            git.env("GIT_OBJECT_DIRECTORY", &objects)
        };
        let look = git()
            .args(TreeState::ARGS)
            .args(["--untracked-files=no", "--ignore-submodules=all"]);
        let looked = look.patient()?;
        let staged = looked.ok() && TreeState::parse(&looked.stdout, &|_| false).staged;
        let tree = git().arg("write-tree");
        // An index that git cannot read or write as a tree holds nothing that could be kept.
        let tree = staged.then(|| tree.patient()).transpose()?;
        if let Some(tree) = tree.filter(Output::ok) {
            let message = format!("index of {label}");
            let commit = KEEPER
                .sign(git())
                .args(["commit-tree", &tree.line(), "-p", "HEAD"]);
            let what = "cannot keep what is staged";
            let commit = commit.args(["-m", &message]).must(what)?.line();
            let name = self.hub.salvage_name(label, &commit);
            self.fetch_all(&Wanted::from([(name, commit)]))?;
        }
        atomic::remove(&index).map(drop)
    }
}

/// Whether git's failure is about the objects, and would be the same again.
fn is_damage(out: &Output) -> bool {
    let signs = [
        "bad object",
        "bad tree",
        "broken",
        "corrupt",
        "did not send all necessary objects",
        "fsck error",
        "fsck",
        "not our ref",
        "missing",
        "unable to read",
        "could not read",
        "unable to parse",
        "upload-pack: not our ref",
        // A name of the agent's beside which ours cannot stand.
        "exists; cannot create",
        "cannot lock ref",
        "File name too long",
    ];
    !out.stderr.contains("No space left") && signs.iter().any(|s| out.stderr.contains(s))
}
