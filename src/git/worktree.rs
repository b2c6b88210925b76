//! One slot's worktree, and how it is prepared for an item.
//!
//! Knows nothing of agents or outcomes. The caller guarantees that no process of an earlier item
//! works in the tree. Invariant: nothing is reset or cleaned before a ref holds it in a commit.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::admin::is_empty_but_for_link;
use super::closed::is_in_the_way;
use super::debris::open_folder;
use super::hub::read_text;
use super::nested::open_hidden;
use super::slot::Slot;
use super::state::TreeState;
use super::{Base, Clean, Git, Hub};
use crate::atomic;
use crate::error::{Error, Kind, Result};
use crate::mutant::planted;

/// A worktree of a hub.
#[derive(Debug, Clone)]
pub(crate) struct Worktree {
    pub(super) hub: Hub,
    pub(super) dir: PathBuf,
    /// The tree itself, or the one that it is a submodule in.
    pub(super) top: PathBuf,
    /// `HUB/slots/X`: our HEAD and index. Passed to every command, so that nothing of what an agent
    /// wrote configures git or leads it to another repository.
    pub(super) admin: PathBuf,
    /// The repository that its agent sees.
    pub(super) slot: Slot,
    /// The slot's lease, held open by every git here, also when harness has been killed.
    pub(super) lease: Option<Arc<File>>,
    /// Other items' branches that its agent sees: names and commits.
    pub(super) others: Vec<(String, String)>,
    /// For people: what of its surroundings was not brought.
    pub(crate) notes: Vec<String>,
}

impl Worktree {
    /// `folder` is where the hub has its admin folder.
    pub(super) fn new(hub: Hub, dir: PathBuf, folder: &str) -> Worktree {
        let name = dir.file_name().unwrap_or_default();
        Worktree {
            admin: hub.dir().join(folder).join(name),
            slot: Slot::of(&dir),
            top: dir.clone(),
            hub,
            dir,
            lease: None,
            others: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Every git that works in this tree holds the slot's lease open while it runs.
    pub(crate) fn under(mut self, lease: Arc<File>) -> Worktree {
        self.lease = Some(lease);
        self
    }

    /// The agent sees these branches of other items, each with its commit.
    pub(super) fn showing(mut self, others: Vec<(String, String)>) -> Worktree {
        self.others = others;
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(super) fn git(&self) -> Git {
        let theirs = planted("slot-settings-believed") && self.slot.is_there();
        let (git_dir, common) = match theirs {
            true => (&self.slot.admin(), &*self.slot.dir),
            false => (&self.admin, self.hub.dir()),
        };
        let place = self.place();
        self.hub
            .ours(Git::at(&place))
            .env("GIT_DIR", git_dir)
            .env("GIT_COMMON_DIR", common)
            .env("GIT_WORK_TREE", &place)
            // A file's change time is the only one that an agent cannot set.
            .set("core.trustctime", "true")
            .set("core.checkStat", "default")
            // It believes folders' times, which an agent can set.
            .set("core.untrackedCache", "false")
            .in_tree(&self.dir)
            .holding(self.lease.as_ref())
    }

    /// Where our git works: in an empty folder if the agent removed the tree, so that what its commits
    /// and its index hold can still be brought.
    fn place(&self) -> PathBuf {
        let void = self.admin.join("void");
        match atomic::is_own_dir(&self.dir) || atomic::make_dir(&void, true).is_err() {
            true => self.dir.clone(),
            false => void,
        }
    }

    pub(super) fn state(&self) -> Result<TreeState> {
        self.state_if_readable()?
    }

    /// Inner error: git cannot read this worktree (a broken index). Outer error: git was killed or
    /// did not start, which says nothing about the worktree.
    pub(super) fn state_if_readable(&self) -> Result<Result<TreeState>> {
        self.read_state(self.git().args(TreeState::ARGS))
    }

    pub(super) fn read_state(&self, git: Git) -> Result<Result<TreeState>> {
        let out = git.patient()?;
        if !out.ok() {
            return Ok(Err(git.failure("cannot read the worktree", &out)));
        }
        let (closed, any_open) = self.closed_folders(&out.stderr);
        let out = if any_open { git.patient()? } else { out };
        let unclean = self.unclean();
        let is_no_work = |path: &OsStr| self.is_untouched(&unclean, path) || self.is_closed(path);
        let mut state = TreeState::parse(&out.stdout, &is_no_work);
        state.closed = match any_open {
            true => self.closed_folders(&out.stderr).0,
            false => closed,
        };
        state.dirty |= out.truncated;
        Ok(Ok(state))
    }

    /// Object id of a revision, `None` if there is none.
    pub(super) fn rev(&self, rev: &str) -> Result<Option<String>> {
        let out = Git::on(&self.admin)
            .env("GIT_COMMON_DIR", self.hub.dir())
            .args(["rev-parse", "--verify", "--quiet", rev])
            .patient()?;
        Ok(out.ok().then(|| out.line()))
    }

    /// Checks out `base` on the new branch `branch`, after salvaging what an earlier item left. Returns
    /// notes for people.
    ///
    /// # Errors
    /// Permanent if an existing branch makes `harness/…` impossible. On any error, nothing in the
    /// tree is lost.
    pub(crate) fn checkout(&self, branch: &str, base: &Base) -> Result<Vec<String>> {
        self.clear_locks()?;
        self.clear_branch_lock(branch);
        let _was_open = open_folder(&self.dir);
        if self.dir == self.top && atomic::exists(&self.admin.join("index")) {
            open_hidden(&self.dir);
        }
        // Salvaging needs them, too.
        self.hub.give_keys(&self.admin)?;
        self.hub.give_keys(self.hub.dir())?;
        self.bring_in()?;
        match self.close_submodules() {
            // The folder of one is another user's.
            Err(e) if e.kind() == Kind::Permanent => self.put_aside()?,
            done => done?,
        }
        self.hub.keep_tip(branch, base)?;
        let changes = self.incremental_checkout(base);
        let fresh = !atomic::exists(&self.admin.join("index")) && is_empty_but_for_link(&self.dir);
        let head = match &changes {
            Some(changes) => Some(changes.head.clone()),
            None if fresh => self.rev("HEAD^{commit}")?,
            None => self.empty_out_or_keep()?,
        };
        let on_branch =
            read_text(&self.admin.join("HEAD")).is_some_and(|head| head.starts_with("ref: refs/"));
        if !fresh
            && !on_branch
            && let Some(head) = &head
            && !self.hub.contains(&base.oid, head)?
        {
            self.hub.keep_ref("detached", head)?;
        }
        self.take_lfs_of_user(&base.oid)?;
        let arrived = match &changes {
            Some(changes) => self.check_out_changes(changes, branch, base)?,
            None => false,
        };
        if !arrived {
            match self.check_out_all(branch, base) {
                Err(e) if is_in_the_way(&e) => {
                    self.put_aside()?;
                    self.check_out_all(branch, base)?;
                }
                done => done?,
            }
        }
        if self.hub.repo().clean == Clean::All {
            self.clean_all(branch, base)?;
        } else if let Some(old) = head.filter(|h| !arrived && !fresh && *h != base.oid) {
            self.end_old_ignores(&old, base)?;
        }
        if !arrived {
            self.end_strangers(branch, base)?;
            self.note_unclean()?;
        }
        // Before the slot's repository gets its index.
        let notes = self.bring_surroundings()?;
        self.renew_slot(branch, base)?;
        self.set_up_submodules(branch)?;
        Ok(notes)
    }

    /// Removes ignored files too. A tree from which something cannot be removed is put aside.
    fn clean_all(&self, branch: &str, base: &Base) -> Result<()> {
        if self.git().args(["clean", "-ffdxq"]).patient()?.ok() {
            return Ok(());
        }
        self.put_aside()?;
        self.check_out_all(branch, base)
    }

    /// Looks at what git made: what it could not remove (in a folder that nobody may write) would be
    /// the next item's work. In the end the whole tree is put aside and made anew.
    fn end_strangers(&self, branch: &str, base: &Base) -> Result<()> {
        for tries in 0..3 {
            let others = self.others()?;
            if others.is_empty() || planted("git-strangers-stay") {
                return Ok(());
            }
            match tries {
                0 => {
                    self.open_folders(&others);
                    self.empty_out_or_keep()?;
                }
                _ => {
                    self.put_aside()?;
                    self.check_out_all(branch, base)?;
                }
            }
        }
        Err(Error::temporary(
            "cannot make the worktree ready",
            "files appear in it that are not the base's: something still writes there",
        )
        .at_path(&self.dir))
    }

    /// Untracked files that are not ignored, and repositories inside the tree.
    fn others(&self) -> Result<Vec<OsString>> {
        let git = self
            .git()
            .args(["ls-files", "--others", "--exclude-standard", "-z"]);
        let out = git.must("cannot look at the worktree")?;
        let (closed, _) = self.closed_folders(&out.stderr);
        let paths = out
            .stdout
            .split(|&b| b == 0)
            .filter(|path| !path.is_empty());
        let paths = paths.map(|path| OsString::from_vec(path.to_vec()));
        Ok(paths.chain(closed).collect())
    }

    /// Lets us write in the folders of these files.
    fn open_folders(&self, paths: &[OsString]) {
        for path in paths {
            let mut folder = self.dir.clone();
            for part in Path::new(path).components() {
                if !atomic::is_own_dir(&folder) {
                    break;
                }
                let _seen_by_the_next_look =
                    fs::set_permissions(&folder, Permissions::from_mode(0o755));
                folder.push(part);
            }
        }
    }

    fn check_out_all(&self, branch: &str, base: &Base) -> Result<()> {
        // One process writing all files mostly waits. Eight are faster if no other thread is
        // checking out; otherwise more processes only compete.
        static AT_IT: AtomicUsize = AtomicUsize::new(0);
        let alone = AT_IT.fetch_add(1, Ordering::Relaxed) == 0;
        let workers = if alone { "8" } else { "1" };
        let done = self
            .git()
            .set("checkout.workers", workers)
            .args([
                "checkout",
                "--quiet",
                "--force",
                "--no-track",
                "--ignore-other-worktrees",
            ])
            .args(["-B", branch, &base.oid, "--"])
            .must("cannot check out the base");
        AT_IT.fetch_sub(1, Ordering::Relaxed);
        if done?.stderr.contains("unable to rmdir") {
            // Removes a nested repository that the last item committed as a link.
            self.empty_out()?;
        }
        Ok(())
    }

    /// Salvages uncommitted changes and removes them from the tree. Returns HEAD's commit.
    pub(super) fn empty_out(&self) -> Result<Option<String>> {
        if self.is_of_gates() {
            // That is nobody's work. What stays is kept as any leftover.
            let _stays = self.restore();
        }
        let state = match self.state_if_readable()? {
            Ok(state) => state,
            Err(_) => {
                self.salvage("unread")?;
                atomic::remove(&self.admin.join("index"))?;
                // Without an index, existing files are untracked and block a checkout: keep them.
                self.git()
                    .args(["read-tree", "HEAD"])
                    .must("cannot mend the index")?;
                self.state()?
            }
        };
        let item = self.item_branch();
        let label = state.branch.as_deref().or(item.as_deref());
        let label = label.unwrap_or("detached");
        if planted("clean-before-salvage") && state.dirty {
            self.git().args(["clean", "-fdq"]).must("planted")?;
        }
        if !planted("reset-without-salvage") {
            self.salvage_state(label, &state)?;
        }
        self.move_nested_aside(&state.nested)?;
        if state.dirty {
            // What it cannot remove, the look after the checkout sees.
            let _status = self.git().args(["clean", "-fdq"]).patient()?;
        }
        Ok(state.head)
    }

    /// If ignore rules differ, files that only the last item ignored are removed (and kept): they
    /// would end up in the next item's branch.
    fn end_old_ignores(&self, old: &str, base: &Base) -> Result<()> {
        let changed = self
            .hub
            .git()
            .args(["diff-tree", "-r", "--name-only", "-z", old, &base.oid, "--"])
            .arg(":(top,glob)**/.gitignore")
            .must("cannot compare the ignore rules")?;
        if !changed.stdout.is_empty() {
            self.empty_out()?;
        }
        Ok(())
    }

    /// Only this item's harness and agent write its branch, and the agent has ended.
    pub(super) fn clear_branch_lock(&self, branch: &str) {
        self.hub.clear_ref_lock(&format!("refs/heads/{branch}"));
    }
}
