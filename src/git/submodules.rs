//! Submodules. Each is a repository of its own, in everything: a hub inside the hub, a slot's
//! repository where git looks for it (`modules/NAME`), a branch of the item's name. So what holds
//! for a tree holds for each submodule in it, and for those in them.
//!
//! Knows nothing of items. Invariant: no git of ours works by a submodule's `.git`, or by settings
//! that an agent wrote there. The user's own `.git/modules` are asked before any network.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::admin::{is_broken, is_empty_but_for_link};
use super::debris::{aside, open_folder};
use super::hub::{MODULES, SEED, SLOTS, fetch_in, is_oid, read_text, stem};
use super::slot::Slot;
use super::{Base, Git, Hub, Worktree, config};
use crate::atomic::{self, Moved};
use crate::error::Result;
use crate::layout::shown;
use crate::mutant::planted;

/// In a submodule's hub: its name in `.gitmodules`.
const NAME: &str = "harness.module";

/// A submodule as a commit has it.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub path: OsString,
    pub oid: String,
    pub name: OsString,
    pub url: String,
    /// Our index has no link to it in this place.
    pub moved: bool,
}

/// What `.gitmodules` says of a submodule: name, path, URL.
pub(super) type Described = (OsString, OsString, String);

/// What became of the work in submodules.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub notes: Vec<String>,
    /// What no branch brings to the user, and where it is.
    pub elsewhere: Vec<String>,
}

impl Worktree {
    /// Checks out each submodule at the commit that HEAD names, on a branch of this name.
    pub(super) fn set_up_submodules(&self, branch: &str) -> Result<()> {
        if !atomic::exists(&self.dir.join(".gitmodules")) {
            return Ok(());
        }
        for link in self.links()? {
            if self.hub.wants_no(&link)? || !self.is_inside(&link.path) {
                continue;
            }
            let module = self.module(&link)?;
            module.hub.provide(&link)?;
            atomic::make_dir(&module.dir, false)?;
            module.checkout(branch, &link.base())?;
        }
        Ok(())
    }

    /// Hides submodules from a git that looks at this tree: it would work in them, wherever their
    /// `.git` leads. Their files stay, and are looked at when they are set up again.
    pub(super) fn close_submodules(&self) -> Result<()> {
        if !atomic::exists(&self.hub.dir().join(MODULES)) {
            return Ok(());
        }
        for link in self.links()? {
            if !self.is_inside(&link.path) {
                continue;
            }
            let git = self.dir.join(&link.path).join(".git");
            if atomic::is_own_dir(&git) {
                aside(&git, &self.nested_place())?;
            } else {
                let _gone = atomic::remove(&git)?;
            }
        }
        Ok(())
    }

    /// Collects each submodule as `collect` does the tree, and makes its repository anew: a git that
    /// looks at this tree then finds the submodule's commit, and no settings of an agent's.
    pub(super) fn collect_submodules(
        &self,
        branch: &str,
        base: &Base,
        message: &str,
        author: &str,
    ) -> Result<Found> {
        let mut found = Found::default();
        let any = [self.hub.dir().join(MODULES), self.dir.join(".gitmodules")];
        if !any.iter().any(|path| atomic::exists(path)) {
            return Ok(found);
        }
        for link in self.links_as_left()? {
            let module = self.module(&link)?;
            let path = shown(&link.path);
            let before = self.began_at(base, &link)?;
            let is_new = before.is_none();
            let begun = before.unwrap_or_else(|| link.oid.clone());
            if !module.hub.has_commit(&begun)? && !module.bring_commit(&begun)? {
                let why = "its commit is nowhere: the branch cannot be checked out with it";
                found.elsewhere.push(format!("submodule {path}: {why}"));
                continue;
            }
            if !self.is_inside(&link.path) || is_empty_but_for_link(&module.dir) {
                found.notes.extend(module.bring_in()?);
                continue;
            }
            let begun = Base {
                name: begun.clone(),
                oid: begun,
            };
            let got = module.collect(branch, &begun, message, author)?;
            let told = got
                .notes
                .iter()
                .map(|note| format!("submodule {path}: {note}"));
            found.notes.extend(told);
            found.elsewhere.extend(got.elsewhere);
            let head = Base {
                name: got.head.clone(),
                oid: got.head,
            };
            let can_be_had = match is_new {
                true => module.is_of_remote(&head.oid)?,
                false => head.oid == begun.oid,
            };
            module.renew_slot(branch, &head)?;
            if link.moved {
                self.stage_link(&link.path, &head.oid)?;
            }
            if can_be_had {
                module.hub.forget(branch, &head.oid)?;
            } else if !module.hub.is_of_user() {
                found.elsewhere.push(format!(
                    "submodule {path}: your clone has not checked it out: its commits are in {}, branch {branch}",
                    module.hub.kept_dir().display()
                ));
            }
        }
        Ok(found)
    }

    fn module(&self, link: &Link) -> Result<Worktree> {
        let hub = self.hub.module(link)?;
        let name = self.top.file_name().unwrap_or_default();
        let module = Worktree {
            admin: hub.dir().join(SLOTS).join(name),
            slot: Slot::of_module(self.slot.admin().join(MODULES).join(&link.name)),
            dir: self.dir.join(&link.path),
            top: self.top.clone(),
            lease: self.lease.clone(),
            others: Vec::new(),
            notes: Vec::new(),
            hub,
        };
        module.slot.clear_way(&self.top)?;
        if is_broken(&module.admin) {
            let notes = "our notes on a tree that was never checked out";
            atomic::discard_tree(&module.admin, notes)?;
            atomic::make_dir(&module.admin, true)?;
            let head = format!("{}\n", link.oid);
            atomic::replace(&module.admin.join("HEAD"), head.as_bytes(), false)?;
            atomic::replace(&module.admin.join("commondir"), b"../..\n", false)?;
        }
        Ok(module)
    }

    /// The links of our index that HEAD's `.gitmodules` describes. A link without a description
    /// stays an empty folder, as in every clone.
    pub(super) fn links(&self) -> Result<Vec<Link>> {
        let described = self.described_in("HEAD")?;
        if described.is_empty() {
            return Ok(Vec::new());
        }
        let links = links_of(self.git())?.into_iter().filter_map(|(path, oid)| {
            let (name, _, url) = described.iter().find(|(_, of, _)| *of == path)?;
            Some(Link {
                path,
                oid,
                name: name.clone(),
                url: url.clone(),
                moved: false,
            })
        });
        Ok(links.collect())
    }

    /// Each submodule that the `.gitmodules` of this commit describes.
    pub(super) fn described_in(&self, commit: &str) -> Result<Vec<Described>> {
        let known = self
            .git()
            .args(["config", "--blob", &format!("{commit}:.gitmodules"), "-z"])
            .args(["--get-regexp", r"^submodule\..*\.(path|url)$"])
            .patient()?;
        Ok(match known.ok() {
            true => described(&known.stdout),
            false => Vec::new(),
        })
    }

    /// The commit of the link that this commit has at the path.
    pub(super) fn link_at(&self, commit: &str, path: &OsStr) -> Result<Option<String>> {
        let git = self.hub.git().env("GIT_LITERAL_PATHSPECS", "1");
        let git = git
            .args(["ls-tree", "-z", "--full-tree", commit, "--"])
            .arg(path);
        let out = git.must("cannot look up a submodule")?;
        let line = String::from_utf8_lossy(&out.stdout).into_owned();
        let oid = line
            .strip_prefix("160000 commit ")
            .and_then(|l| l.split('\t').next());
        Ok(oid.filter(|oid| is_oid(oid)).map(str::to_owned))
    }

    /// Whether no symlink leads from the tree to this path. Folders of our own on the way are opened.
    pub(super) fn is_inside(&self, path: &OsStr) -> bool {
        let mut folder = self.dir.clone();
        Path::new(path).components().all(|part| {
            folder.push(part);
            let _was_open = open_folder(&folder);
            atomic::is_own_dir(&folder)
        })
    }

    /// Where git repositories go that lie in the tree and are no submodules.
    pub(super) fn nested_place(&self) -> PathBuf {
        let mut to = self.top.as_os_str().to_owned();
        to.push(".nested");
        to.into()
    }
}

impl Link {
    fn base(&self) -> Base {
        Base {
            name: self.oid.clone(),
            oid: self.oid.clone(),
        }
    }
}

impl Hub {
    /// The hub of a submodule, made where it is missing: empty, until `provide`.
    fn module(&self, link: &Link) -> Result<Hub> {
        let stem = stem(&shown(&link.name));
        let folder = self.dir().join(MODULES);
        let hub = self.module_in(folder.join(format!("{stem}.git")), &link.name, || {
            self.settings_of_remote(&self.url(link)?)
        })?;
        let hub = match self.kept() {
            Some(kept) => hub.keeping_in(kept.module(link)?),
            None => hub,
        };
        if atomic::exists(hub.dir()) {
            hub.settle_config(hub.dir(), self.repo().durable)?;
            return Ok(hub);
        }
        atomic::make_dir(&folder, true)?;
        let lock = hub.lock()?;
        if !atomic::exists(hub.dir()) {
            let temp = folder.join(format!(".{stem}.new"));
            atomic::discard_tree(&temp, "a half-made copy of our own")?;
            let git = hub.quiet(Git::at(&folder)).holding(Some(&lock));
            let format = match link.oid.len() {
                64 => "--object-format=sha256",
                _ => "--object-format=sha1",
            };
            git.args(["init", "--quiet", "--bare", "--template=", format])
                .arg(&temp)
                .must("cannot make a copy of the submodule")?;
            hub.settle_config(&temp, false)?;
            atomic::replace(&temp.join(NAME), link.name.as_bytes(), false)?;
            if self.repo().durable {
                atomic::sync_tree(&temp)?;
            }
            let _there: Moved = atomic::rename_new(&temp, hub.dir())?;
        }
        Ok(hub)
    }

    /// The hub in this folder, of the submodule of that name. `otherwise`: the settings of one that the
    /// user has not.
    fn module_in(
        &self,
        dir: PathBuf,
        name: &OsStr,
        otherwise: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Hub> {
        let user = self.users_module(name).unwrap_or_else(|| dir.join("none"));
        let (settings, filters) = match atomic::exists(&user.join("HEAD")) {
            true => {
                let read = config::read(&user, self.repo().durable)?;
                (read.text, read.filters)
            }
            false => (otherwise()?, self.filters().to_vec()),
        };
        Ok(self.part(dir, user, settings, filters))
    }

    /// Where the user's repository of a submodule is, if they have it. A name is its project's words, or
    /// an agent's: what lies in the repository of another one is none.
    fn users_module(&self, name: &OsStr) -> Option<PathBuf> {
        let modules = self.user().join(MODULES);
        let above = Path::new(name).ancestors().skip(1);
        let mut above = above.filter(|part| !part.as_os_str().is_empty());
        let is_within = above.any(|part| atomic::exists(&modules.join(part).join("HEAD")));
        (!is_within || planted("module-by-name")).then(|| modules.join(name))
    }

    /// Of a submodule that the user has not: its remote, and who commits.
    fn settings_of_remote(&self, url: &str) -> Result<Vec<u8>> {
        let mut entries = vec![
            ("remote.origin.url", url.to_owned()),
            (
                "remote.origin.fetch",
                "+refs/heads/*:refs/remotes/origin/*".to_owned(),
            ),
        ];
        for key in ["user.name", "user.email"] {
            let out = self.git().args(["config", "--get", key]).patient()?;
            if out.ok() {
                entries.push((key, out.line()));
            }
        }
        Ok(config::of_entries(&entries))
    }

    /// Makes sure that the hub has the commit, from the user's own repository of the submodule or
    /// from its remote.
    fn provide(&self, link: &Link) -> Result<()> {
        if self.finds_commit(&link.oid)? {
            return Ok(());
        }
        let what = format!("cannot fetch the submodule {}", shown(&link.path));
        let lock = self.lock()?;
        let git = || self.git().holding(Some(&lock));
        let base = format!("refs/harness/base/{}", link.oid);
        let pin = format!("+{}:{base}", link.oid);
        if self.is_of_user() && self.user_has(&link.oid)? {
            let refs = ["+refs/heads/*:refs/heads/*", "^refs/heads/harness/*"];
            let refs = [&refs[..], &["+refs/remotes/*:refs/remotes/*", &pin]].concat();
            self.fetch_of_user(git(), &refs, &what)?;
        } else {
            // As `git submodule` does: what a project's files say opens no local repository.
            // A URL that is a command is run by nobody, whatever the user allows their own.
            let git = || {
                let git = git().env("GIT_PROTOCOL_FROM_USER", "0");
                git.set("protocol.ext.allow", "never")
            };
            let fetch = |spec: &str| fetch_in(git(), Path::new("origin"), &[spec]).must(&what);
            fetch("+refs/heads/*:refs/remotes/origin/*")?;
            if !self.has_commit(&link.oid)? {
                fetch(&pin)?;
            }
            git().args(["update-ref", &base, &link.oid]).must(&what)?;
        }
        let seed = git().args(["update-ref", SEED, &link.oid]);
        seed.must(&what).map(drop)
    }

    /// Whether the user has checked this submodule out.
    pub(crate) fn is_of_user(&self) -> bool {
        atomic::exists(&self.user().join("HEAD"))
    }

    /// Whether the user's settings say to leave the submodule out.
    fn wants_no(&self, link: &Link) -> Result<bool> {
        Ok(self.setting(link, "update")?.as_deref() == Some("none"))
    }

    /// Where a submodule comes from that the user has not checked out: what their settings say, else
    /// what its project says, which may be relative to where that comes from.
    fn url(&self, link: &Link) -> Result<String> {
        if let Some(url) = self.setting(link, "url")? {
            return Ok(url);
        }
        let git = self.git().args(["config", "--get", "remote.origin.url"]);
        let out = git.patient()?;
        let whole = match out.ok() {
            true => out.line(),
            false => self
                .user()
                .parent()
                .unwrap_or(self.user())
                .display()
                .to_string(),
        };
        Ok(resolved(&whole, &link.url))
    }

    fn setting(&self, link: &Link, end: &str) -> Result<Option<String>> {
        let mut key = OsString::from("submodule.");
        key.push(&link.name);
        key.push(format!(".{end}"));
        let out = self.git().args(["config", "--get"]).arg(key).patient()?;
        Ok(out.ok().then(|| out.line()))
    }

    /// The hubs of submodules, and of those in them, that have this branch, with its commit.
    pub(crate) fn modules_with(&self, branch: &str) -> Result<Vec<(Hub, String)>> {
        if let Some(kept) = self.kept() {
            // All of it is there, also what another host has made.
            return kept.modules_with(branch);
        }
        let mut found = Vec::new();
        let all = fs::read_dir(self.dir().join(MODULES)).into_iter().flatten();
        for dir in all.flatten().map(|e| e.path()) {
            let Some(name) = read_text(&dir.join(NAME)).filter(|_| atomic::is_own_dir(&dir)) else {
                continue;
            };
            let hub = self.module_in(dir, name.as_ref(), || Ok(Vec::new()))?;
            found.extend(hub.modules_with(branch)?);
            if let Some(head) = hub.read_ref(&format!("refs/heads/{branch}")) {
                found.push((hub, head));
            }
        }
        Ok(found)
    }
}

/// The links to other repositories in an index, with their commits: submodules, and what an agent added
/// as it was.
pub(super) fn links_of(git: Git) -> Result<Vec<(OsString, String)>> {
    let git = git.args(["ls-files", "--stage", "-z"]);
    let listed = git.must("cannot list the submodules")?.stdout;
    let links = listed.split(|&b| b == 0).filter_map(|entry| {
        let text = entry.strip_prefix(b"160000 ")?;
        let tab = text.iter().position(|&b| b == b'\t')?;
        let oid = String::from_utf8_lossy(&text[..tab]);
        let oid = oid.split(' ').next().filter(|oid| is_oid(oid))?.to_owned();
        Some((OsString::from_vec(text[tab + 1..].to_vec()), oid))
    });
    Ok(links.collect())
}

/// Each submodule, from `git config -z`. What git would not take is left out.
pub(super) fn described(listed: &[u8]) -> Vec<Described> {
    let entries = listed.split(|&b| b == 0).filter_map(|entry| {
        let cut = entry.iter().position(|&b| b == b'\n')?;
        let (key, value) = (&entry[..cut], &entry[cut + 1..]);
        let key = key.strip_prefix(b"submodule.")?;
        let dot = key.iter().rposition(|&b| b == b'.')?;
        Some((&key[..dot], &key[dot + 1..], value))
    });
    let entries: Vec<_> = entries.collect();
    let value = |of: &[u8], what: &[u8]| {
        let mut all = entries.iter().rev();
        let found = all.find(|(name, key, _)| *name == of && *key == what);
        found.map(|(_, _, value)| value.to_vec())
    };
    let paths = entries.iter().filter(|(_, key, _)| *key == b"path");
    let told = paths.map(|(name, _, path)| {
        let url = value(name, b"url").unwrap_or_default();
        let url = String::from_utf8_lossy(&url).into_owned();
        let name = OsStr::from_bytes(name).to_owned();
        (name, OsStr::from_bytes(path).to_owned(), url)
    });
    let plain = |name: &OsStr| {
        let mut parts = Path::new(name).components();
        !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    told.filter(|(name, _, _)| plain(name)).collect()
}

/// A URL that begins with `./` or `../` is relative to that of the whole.
fn resolved(whole: &str, url: &str) -> String {
    let (mut whole, mut rest) = (whole.trim_end_matches('/'), url);
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            let cut = whole.rfind('/').or_else(|| whole.rfind(':'));
            whole = cut.map_or("", |at| &whole[..at]);
        } else {
            return format!("{whole}/{rest}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_urls_begin_where_the_whole_comes_from() {
        let at = "https://host/a/b.git/";
        assert_eq!(resolved(at, "../c.git"), "https://host/a/c.git");
        assert_eq!(resolved(at, "./c"), "https://host/a/b.git/c");
        assert_eq!(resolved("/home/u/b", "../../c"), "/home/c");
        assert_eq!(resolved(at, "/other"), "/other");
    }

    #[test]
    fn names_that_lead_out_are_no_submodules() {
        let listed = b"submodule.a.b.path\nlib\0submodule.a.b.url\n../x\0submodule.../x.path\ny\0";
        let told = described(listed);
        assert_eq!(told, [("a.b".into(), "lib".into(), "../x".to_owned())]);
    }
}
