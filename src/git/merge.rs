//! Merging in the hub: a branch onto the tip of another, without a worktree or an index.
//!
//! Knows nothing of items and gates, nor of who moves a branch (`land`). Invariant: the user's
//! repository is only read. No hook, editor or signature is involved, and of merge drivers only the
//! user's own run, by the attributes of what is merged onto: the hub has no other settings, and an
//! agent's branch chooses none for itself.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::branches::fed;
use super::hub::is_oid;
use super::{Base, Git, How, Hub};
use crate::atomic;
use crate::error::{Error, Result};
use crate::layout::{Name, shown};
use crate::mutant::planted;

/// Where the hub keeps a published branch that a person moved.
const PUBLISHED: &str = "refs/harness/published";
/// The commits of each side that a conflict names.
const NAMED_MAX: &str = "--max-count=3";
/// The paths by which they are looked for: a command line takes no more of any length.
const PATHS_MAX: usize = 100;

/// What merging gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Merged {
    /// The commit, and its tree.
    Clean { commit: String, tree: String },
    /// Paths, and each side's newest commits that touched them (`1a2b3c4 subject`).
    Conflict {
        files: Vec<String>,
        ours: Vec<String>,
        theirs: Vec<String>,
    },
    /// All of it is there already: nothing would change.
    Contained,
}

/// A tree, or the paths that have conflicts.
type Tree = std::result::Result<String, Vec<OsString>>;

/// What of a commit another one of it keeps.
struct Commit {
    tree: String,
    parents: Vec<String>,
    name: String,
    email: String,
    date: String,
    message: Vec<u8>,
}

impl Hub {
    /// The branch that is merged into and its tip now, which is brought into the hub. Without
    /// `into`: the configured base, else the branch that the user is on.
    ///
    /// # Errors
    /// Permanent if it is gone, or is no branch.
    pub(crate) fn target(&self, into: Option<&str>) -> Result<Base> {
        let wanted = into.or(self.repo().base.as_deref());
        let (oid, full) = self.resolve(wanted.unwrap_or("HEAD"), wanted.is_some())?;
        let branch = full.strip_prefix("refs/heads/");
        // `refs/heads/x~1` is a commit, and a name as it was given.
        match branch.filter(|name| !name.contains(['~', '^', ':', '@'])) {
            Some(branch) => {
                let name = branch.to_owned();
                self.bring_base(Base { name, oid }, &full)
            }
            None => {
                let what = match wanted {
                    Some(name) => format!("cannot merge into `{}`", name.escape_debug()),
                    None => "cannot merge".to_owned(),
                };
                let why = match wanted {
                    Some(_) => "it is no branch of the repository",
                    None => "the repository is on no branch (its HEAD is detached)",
                };
                let e = Error::permanent(what, why).at_path(&self.repo().path);
                Err(e.hint("name a branch that exists there (`git branch --list`)"))
            }
        }
    }

    /// Where published branches are now in the user's repository; these commits are brought into the
    /// hub. `None`: it is deleted.
    pub(crate) fn published_at(&self, branches: &[&str]) -> Result<Vec<Option<String>>> {
        let full = |branch: &&str| format!("refs/heads/{branch}");
        let all: Vec<String> = branches.iter().map(full).collect();
        let tips = self.tips_at_user(&all)?;
        for (full, tip) in all.iter().zip(&tips) {
            if let Some(tip) = tip {
                self.bring_published(full, tip)?;
            }
        }
        Ok(tips)
    }

    fn bring_published(&self, full: &str, tip: &str) -> Result<()> {
        let pin = format!("{PUBLISHED}/{}", Name::new(full).ref_component());
        // A ref, as what a killed fetch left of a history is no proof of the rest.
        let here = |name: &str| self.read_ref(name).as_deref() == Some(tip);
        if here(full) || here(&pin) {
            return Ok(());
        }
        let lock = self.lock()?;
        self.clear_ref_lock(&pin);
        let git = self.git().holding(Some(&lock));
        let what = "cannot bring the branch into harness's copy of the repository";
        self.fetch_of_user(git, &[&format!("+{tip}:{pin}")], what)
    }

    /// Whether the branch that was merged into contains this commit now.
    pub(crate) fn contains_now(&self, base: &Base, commit: &str) -> Result<bool> {
        let full = format!("refs/heads/{}", base.name);
        let Some(tip) = self.tips_at_user(&[full])?.pop().flatten() else {
            return Ok(false);
        };
        if tip == commit || !self.user_has(commit)? {
            return Ok(tip == commit);
        }
        let git = self.quiet(Git::on(self.user()));
        let git = git.args(["merge-base", "--is-ancestor", commit, &tip]);
        let out = git.patient()?;
        match out.code {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(git.failure("cannot compare two commits", &out)),
        }
    }

    /// Where these branches are in the user's repository. `None`: there is no such branch.
    fn tips_at_user(&self, all: &[String]) -> Result<Vec<Option<String>>> {
        let git = Git::on(self.user()).args(["for-each-ref", "--format=%(objectname) %(refname)"]);
        let git = git.args(all);
        let out = git.patient()?;
        // A ref that cannot be read is none that is gone.
        if !out.ok() || !out.stderr.is_empty() {
            return Err(git.failure("cannot look up the branch", &out));
        }
        // The names that it is given may be folders of other branches.
        let text = String::from_utf8_lossy(&out.stdout);
        let found: HashMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(oid, full)| (full, oid))
            .collect();
        let tip = |full: &String| found.get(&**full).map(|oid| (*oid).to_owned());
        Ok(all.iter().map(tip).collect())
    }

    pub(crate) fn tree_of(&self, commit: &str) -> Result<String> {
        let git = self.git().args(["rev-parse", "--verify", "--quiet"]);
        let git = git.arg(format!("{commit}^{{tree}}"));
        Ok(git.must("cannot read a commit's tree")?.line())
    }

    /// The first parents of `tip`, oldest first, `tip` at the end, and its tree. The first one is what the
    /// oldest commit that `from` does not contain was made upon: `from` itself, if all is well.
    pub(crate) fn first_parents(&self, tip: &str, from: &str) -> Result<(Vec<String>, String)> {
        let git = self.git().args(["rev-list", "--first-parent", "--reverse"]);
        let git = git.args(["--no-commit-header", "--format=%T %H %P"]);
        let git = git.args([tip, "--not", from, "--"]);
        let text = git.must("cannot read the merged commits")?.line();
        let (mut all, mut last): (Vec<String>, _) = (Vec::new(), String::new());
        for line in text.lines() {
            let mut oids = line.split(' ').map(str::to_owned);
            let (tree, oid, parent) = (oids.next(), oids.next(), oids.next());
            if all.is_empty() {
                all.extend(parent.filter(|parent| !parent.is_empty()));
            }
            all.extend(oid);
            last = tree.unwrap_or_default();
        }
        if all.is_empty() {
            all.push(tip.to_owned());
        }
        Ok((all, last))
    }

    /// Merges `head` onto `onto`, whose tree is `tree`; both are in the hub. The committer, and the author of a merge, is
    /// who the user's git says, else harness. `message`: the whole text with its trailers; of a
    /// rebase, the last commit gets the trailers.
    ///
    /// # Errors
    /// Permanent where the two have no history in common.
    pub(crate) fn merge_onto(
        &self,
        onto: &str,
        tree: &str,
        head: &str,
        how: How,
        message: &str,
    ) -> Result<Merged> {
        let whole = match planted("merged-behind") {
            true => self.merge_trees(onto, &format!("{onto}^"), head)?,
            false => self.merge_trees(onto, onto, head)?,
        };
        // Also where `onto` has the branch itself: there is nothing that it would change.
        if whole.as_ref().is_ok_and(|whole| whole == tree) {
            return Ok(Merged::Contained);
        }
        let tree = match (how, whole) {
            (How::Rebase, _) => return self.replay(onto, head, message),
            (_, Ok(tree)) => tree,
            (_, Err(files)) => return self.conflict(onto, head, &files),
        };
        let text = message.as_bytes();
        let commit = match how {
            How::Merge => self.commit(&tree, &[onto, head], None, text)?,
            _ => self.commit(&tree, &[onto], Some(&self.read_commit(head)?), text)?,
        };
        Ok(Merged::Clean { commit, tree })
    }

    /// Makes the commits of `head` that `onto` does not have again on it. What changes nothing there
    /// is left out.
    fn replay(&self, onto: &str, head: &str, message: &str) -> Result<Merged> {
        // Along first parents: what a merge brought, and how its conflicts were solved, is its
        // difference to the first.
        let git = self.git().args(["rev-list", "--first-parent", "--reverse"]);
        let git = git.args([head, "--not", onto, "--"]);
        let list = git.must("cannot list the branch's commits")?.line();
        let begin = self.tree_of(onto)?;
        let mut tree = begin.clone();
        let mut again: Vec<(Commit, String)> = Vec::new();
        for oid in list.lines() {
            let commit = self.read_commit(oid)?;
            let Some(parent) = commit.parents.first() else {
                return Err(self.unrelated(onto, head));
            };
            let after = match self.tree_of(parent)? == tree {
                true => commit.tree.clone(),
                false => {
                    // A commit of the new tree on the old parent: that one is then the merge base,
                    // which git before 2.40 cannot be told otherwise.
                    let ours = self.commit(&tree, &[parent], None, b"harness: to merge onto")?;
                    match self.merge_trees(onto, &ours, oid)? {
                        Ok(tree) => tree,
                        Err(files) => return self.conflict(onto, oid, &files),
                    }
                }
            };
            if after != tree {
                tree.clone_from(&after);
                again.push((commit, after));
            }
        }
        let count = again.len();
        if count == 0 || tree == begin {
            return Ok(Merged::Contained);
        }
        let mut tip = onto.to_owned();
        for (n, (commit, tree)) in again.iter().enumerate() {
            let text = match n + 1 == count {
                true => with_trailers(&commit.message, message),
                false => commit.message.clone(),
            };
            tip = self.commit(tree, &[&tip], Some(commit), &text)?;
        }
        Ok(Merged::Clean { commit: tip, tree })
    }

    /// Merges two commits; `onto` has the attributes.
    fn merge_trees(&self, onto: &str, ours: &str, theirs: &str) -> Result<Tree> {
        // In a bare repository git reads no attributes of itself. Before 2.41 it has none then.
        let git = self.git().env("GIT_ATTR_SOURCE", onto);
        let git = git.args(["merge-tree", "--write-tree", "-z", "--name-only"]);
        let git = git.args([ours, theirs]);
        let out = git.patient()?;
        let mut words = out.stdout.split(|&b| b == 0);
        let tree = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
        match out.code {
            0 if is_oid(&tree) => Ok(Ok(tree)),
            1 if is_oid(&tree) => Ok(Err(conflicts(words))),
            _ if out.stderr.contains("unrelated histories") => match self.deepen()? {
                true => self.merge_trees(onto, ours, theirs),
                false => Err(self.unrelated(onto, theirs)),
            },
            _ => Err(git.failure("cannot merge", &out)),
        }
    }

    fn unrelated(&self, onto: &str, head: &str) -> Error {
        let short = |oid: &str| oid.get(..12).unwrap_or(oid).to_owned();
        let (onto, head) = (short(onto), short(head));
        let (cut, hint) = match atomic::exists(&self.dir().join("shallow")) {
            true => (
                " as far as this shallow clone goes",
                "fetch the rest of the history (`git fetch --unshallow`), and have it merged again (`mv` from queue/parked/ to queue/merge/)",
            ),
            false => (
                "",
                "merge it by hand (`git merge --allow-unrelated-histories`)",
            ),
        };
        let why = format!("{head} and {onto} have no commit in common{cut}");
        let e = Error::permanent("cannot merge", why);
        e.at_path(self.user()).hint(hint)
    }

    fn conflict(&self, onto: &str, head: &str, files: &[OsString]) -> Result<Merged> {
        let newest = |of: &str, not: &str| {
            let git = self.git().env("GIT_LITERAL_PATHSPECS", "1");
            let git = git.set("i18n.logOutputEncoding", "UTF-8");
            let git = git.args(["rev-list", "--no-commit-header", NAMED_MAX]);
            let git = git.args(["--format=%h (%s)", of, "--not", not, "--"]);
            let git = git.args(files.iter().take(PATHS_MAX));
            let out = git.must("cannot look who changed the files with conflicts")?;
            let lines = out.stdout.split(|&b| b == b'\n');
            let lines = lines.filter(|line| !line.is_empty());
            let lines = lines.map(|line| shown(OsStr::from_bytes(line)));
            Ok::<Vec<String>, Error>(lines.collect())
        };
        Ok(Merged::Conflict {
            ours: newest(onto, head)?,
            theirs: newest(head, onto)?,
            files: files.iter().map(|file| shown(file)).collect(),
        })
    }

    fn read_commit(&self, oid: &str) -> Result<Commit> {
        let git = self.git().set("i18n.logOutputEncoding", "UTF-8");
        let git = git.args(["rev-list", "--max-count=1", "--no-commit-header"]);
        let git = git.args(["--date=raw", "--format=%T%n%P%n%an%n%ae%n%ad%n%B"]);
        let out = git.args([oid, "--"]).must("cannot read a commit")?;
        let mut parts = out.stdout.splitn(6, |&b| b == b'\n');
        let mut line = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let [tree, parents, name, email, date] = [line(), line(), line(), line(), line()];
        let message = parts.next().unwrap_or_default();
        Ok(Commit {
            tree,
            parents: parents.split_whitespace().map(str::to_owned).collect(),
            name,
            email,
            date,
            message: message.trim_ascii_end().to_vec(),
        })
    }

    /// `like`: whose author it has.
    fn commit(
        &self,
        tree: &str,
        parents: &[&str],
        like: Option<&Commit>,
        text: &[u8],
    ) -> Result<String> {
        let git = self.git().set("i18n.commitEncoding", "UTF-8");
        let git = git.args(["commit-tree", tree]);
        let mut git = parents
            .iter()
            .fold(git, |git, parent| git.args(["-p", parent]));
        if let Some(like) = like {
            // git makes no commit of a name without a letter, but may read one.
            let is_name = |name: &&str| name.chars().any(char::is_alphanumeric);
            let names = [&*like.name, &*like.email, "unknown"];
            let name = names.into_iter().find(is_name).unwrap_or_default();
            git = git.env("GIT_AUTHOR_NAME", name);
            git = git.env("GIT_AUTHOR_EMAIL", &like.email);
            if !like.date.is_empty() {
                git = git.env("GIT_AUTHOR_DATE", format!("@{}", like.date));
            }
        }
        let mut text: Vec<u8> = text.iter().copied().filter(|&b| b != 0).collect();
        text.truncate(text.trim_ascii_end().len());
        text.push(b'\n');
        let out = fed(&git, &text)?;
        match out.ok() && is_oid(&out.line()) {
            true => Ok(out.line()),
            false => Err(git.failure("cannot make the merged commit", &out)),
        }
    }
}

/// `(PATH NUL)… NUL (COUNT NUL PATH NUL… TYPE NUL MESSAGE NUL)…`: the paths with conflicts, and those
/// that only a message names (a folder that both sides have moved).
fn conflicts<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Vec<OsString> {
    let files = words.by_ref().take_while(|path| !path.is_empty());
    let mut files: Vec<&[u8]> = files.collect();
    while let Some(count) = words.next() {
        let count = std::str::from_utf8(count).ok();
        let Some(count) = count.and_then(|n| n.parse::<usize>().ok()) else {
            break;
        };
        let named: Vec<&[u8]> = words.by_ref().take(count).collect();
        let kind = words.next().unwrap_or_default();
        words.next();
        if kind.starts_with(b"CONFLICT") {
            files.extend(named);
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|path| seen.insert(*path));
    let files = files.into_iter();
    files
        .map(|path| OsString::from_vec(path.to_vec()))
        .collect()
}

/// A commit's message with the trailers of another text.
fn with_trailers(own: &[u8], text: &str) -> Vec<u8> {
    let mut message = own.trim_ascii_end().to_vec();
    let given = trailers(text.trim_end());
    if !given.is_empty() {
        let has_some = !trailers(&String::from_utf8_lossy(&message)).is_empty();
        message.extend_from_slice(if has_some { b"\n" } else { b"\n\n" });
        message.extend_from_slice(given.as_bytes());
    }
    message
}

/// The last paragraph, if it is not the first and each line of it is `Key: value`.
fn trailers(text: &str) -> &str {
    let is_trailer = |line: &str| {
        let key = line.split_once(": ").map_or("", |(key, _)| key);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        line.starts_with([' ', '\t']) || !key.is_empty() && key.bytes().all(plain)
    };
    match text.rsplit_once("\n\n") {
        Some((_, last)) if last.lines().all(is_trailer) => last,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_the_last_paragraph_and_join_others() {
        let with =
            |own: &str, text| String::from_utf8(with_trailers(own.as_bytes(), text)).unwrap();
        let text = "Merge x\n\nWhy: so\n\nItem: x\nSession: 1\n";
        assert_eq!(with("a\n", text), "a\n\nItem: x\nSession: 1");
        assert_eq!(
            with("a\n\nb\n\nSigned-off-by: c <c>\n", text),
            "a\n\nb\n\nSigned-off-by: c <c>\nItem: x\nSession: 1"
        );
        assert_eq!(with("a", "Item: x"), "a");
        assert_eq!(with("a: b", "s\n\nno trailer"), "a: b");
    }

    #[test]
    fn paths_of_conflicts_are_read_from_both_lists() {
        let text = b"f\0g h\0\x001\0f\0Auto-merging\0m\n\x002\0d\0e\0CONFLICT (x)\0m\n\0";
        let paths = conflicts(text.split(|&b| b == 0));
        assert_eq!(paths, ["f", "g h", "d", "e"]);
    }
}
