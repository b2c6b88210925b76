//! Moves a branch of the user's forward to a merged commit, and pushes it.
//!
//! Knows nothing of items, and merges nothing (`merge`). Invariant: the branch moves by
//! compare-and-swap from the commit that it was merged onto, and only forward; where it is checked
//! out, the files go with it (`checkout`) or it stays. What landed survives a power cut. A push never
//! forces anything.

use super::Output;
use super::checkout::Landed;
use super::index_lock::Landing;
use super::publish::{Users, lasting_or_not};
use super::{Git, is_lock_trouble};
use crate::error::{Error, Kind, Result};
use crate::layout::shown;
use crate::mutant::planted;

impl Users<'_> {
    /// Moves `refs/heads/BRANCH` of the user's repository from `old` to `new`, which `bring` copied.
    /// Done again with the same commits, it ends what a dead process left half done.
    ///
    /// # Errors
    /// Permanent where it would be no step forward.
    pub(crate) fn land(&self, branch: &str, old: &str, new: &str) -> Result<Landed> {
        let unsettled = match self.settle_landings() {
            Err(e) if e.kind() == Kind::Temporary => return Err(e),
            settled => settled.err(),
        };
        let full = format!("refs/heads/{branch}");
        let checkouts = match self.checkouts(&full)? {
            Ok(checkouts) => checkouts,
            Err(why) => return Ok(Landed::Waits(why)),
        };
        if !self.look_forward(branch, old, new)? {
            return Ok(Landed::Lacks);
        }
        match &checkouts[..] {
            [] => {
                let (full, old, new) = (full, old.to_owned(), new.to_owned());
                let dir = self.hub().user().to_owned();
                self.swap(
                    &self.git(),
                    &Landing {
                        full,
                        old,
                        new,
                        dir,
                    },
                )
            }
            // Files are touched before the swap: not where it would fail.
            [one] => match self.value(&full)? {
                Some(tip) if tip == new => self.sync_ref(&full).map(|()| Landed::Done),
                Some(tip) if tip == old || planted("land-without-swap") => {
                    match (one.fast_forward(&full, old, new)?, unsettled) {
                        (Landed::Waits(_), Some(e)) => Ok(Landed::Waits(e.to_string())),
                        (landed, _) => Ok(landed),
                    }
                }
                _ => Ok(Landed::Moved),
            },
            [one, two, ..] => Ok(Landed::Waits(format!(
                "{branch} is checked out twice, in {} and in {}",
                one.shown(),
                two.shown()
            ))),
        }
    }

    /// An error unless `new` contains `old`; `false`: not all of it is there. The last look before the branch
    /// moves: `bring_upon` took some of it to be there, and a `gc` that had read the refs before may have
    /// taken some since.
    fn look_forward(&self, branch: &str, old: &str, new: &str) -> Result<bool> {
        let what = format!("cannot move {branch}");
        let git = self.git().args(["merge-base", "--is-ancestor", old, new]);
        let out = git.patient()?;
        match out.code {
            0 => Ok(planted("landed-unlooked") || self.is_whole(new)?),
            1 => Err(
                Error::permanent(what, "the merged commit does not contain what it is at")
                    .at_path(self.hub().user()),
            ),
            _ => Err(git.failure(&what, &out)),
        }
    }

    /// The swap itself, by a git of the worktree that the branch is checked out in, if it is.
    pub(super) fn swap(&self, git: &Git, landing: &Landing) -> Result<Landed> {
        let (full, old, new) = (&landing.full, &landing.old, &landing.new);
        let git = git.clone().args(["update-ref", "-m", "harness: merged"]);
        let git = git.args([full, new]);
        let git = match planted("land-without-swap") {
            true => git,
            false => git.arg(old),
        };
        let out = git.patient()?;
        let now = match out.ok() {
            true => Some(new.to_owned()),
            false => self.value(full)?,
        };
        if now.as_deref() == Some(new) {
            self.sync_ref(full)?;
            return Ok(Landed::Done);
        }
        if now.as_deref() != Some(old) {
            return Ok(Landed::Moved);
        }
        let e = lasting_or_not(&git, "cannot move the branch in your repository", &out);
        match is_lock_trouble(&out.stderr) {
            true => Ok(Landed::Waits(one_line(&out, "error: "))),
            false => Err(e),
        }
    }

    /// Pushes a commit to the branch of this name at a remote, as a step forward only, with the user's
    /// own remotes and credentials. No hook runs; a push asks nobody anything.
    ///
    /// # Errors
    /// Say what git said. Permanent where the remote refuses it.
    pub(crate) fn push(&self, remote: &str, branch: &str, commit: &str) -> Result<()> {
        let what = format!("cannot push {branch} to {}", remote.escape_debug());
        if self.hub().user_has_lfs() {
            // git-lfs does it in a hook.
            let git = self
                .git_in_checkout()
                .args(["lfs", "push", "--", remote, commit]);
            git.must(&format!("{what}: its LFS objects"))?;
        }
        let git = self.git_in_checkout().set("push.followTags", "false");
        let git = git.args(["push", "--quiet", "--no-verify", "--no-signed"]);
        let git = git.args(["--recurse-submodules=no", "--", remote]);
        let git = git.arg(format!("{commit}:refs/heads/{branch}"));
        let out = git.patient()?;
        if out.ok() {
            return Ok(());
        }
        let e = git.failure(&what, &out);
        Err(match refusal(&out.stderr) {
            Some(what_to_do) => e.lasting().hint(what_to_do),
            None => e,
        })
    }
}

/// What to do about a push that will not succeed by itself, by what git says of it.
fn refusal(said: &str) -> Option<&'static str> {
    let all: [(&str, &[&str]); 4] = [
        (
            "its branch of this name has other commits: bring them in (`git pull`), then push (`git push`)",
            &["[rejected]"],
        ),
        (
            "the remote refuses it, for the reason that it gives: push it by hand (`git push`) when that is mended",
            &["[remote rejected]", "[remote failure]"],
        ),
        (
            "git could not log in without a person: give it a credential helper or a key, then push (`git push`)",
            &[
                "Authentication failed",
                "could not read Username",
                "could not read Password",
                "Permission denied (",
            ],
        ),
        (
            "there is no such remote, or nothing to push to where it leads: look at `git remote -v` and at `push` in [integrate]",
            &[
                "epository not found",
                "not appear to be a git repository",
                "No such remote",
            ],
        ),
    ];
    let mut all = all.into_iter();
    let found = all.find(|(_, signs)| signs.iter().any(|sign| said.contains(sign)));
    found.map(|(what_to_do, _)| what_to_do)
}

/// The line of git's that says why.
fn one_line(out: &Output, sign: &str) -> String {
    let mut lines = out.stderr.lines();
    let line = lines.clone().find_map(|line| line.strip_prefix(sign));
    let line = line.or_else(|| lines.next()).unwrap_or_default();
    shown(std::ffi::OsStr::new(line))
}
