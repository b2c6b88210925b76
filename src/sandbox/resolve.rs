//! Looks at the places of one sandbox, each once, and follows their symlinks.
//!
//! Nothing is remembered longer than one sandbox is made: an agent may change any of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::mutant::planted;

/// As in the kernel.
const LINKS_MAX: usize = 40;

/// What is at a path whose folders are no symlinks.
#[derive(Clone)]
enum Found {
    /// Why not, unless it just does not exist.
    Nothing(Option<String>),
    Link {
        uid: u32,
        to: PathBuf,
    },
    Other {
        uid: u32,
    },
}

/// What was found so far. Text is quicker to look up than a path.
#[derive(Default)]
pub(super) struct Seen(RefCell<HashMap<OsString, Found>>);

/// Where a path leads no further.
struct Stuck {
    at: PathBuf,
    /// What would follow, the last one first.
    rest: Vec<OsString>,
    why: String,
}

impl Seen {
    /// The path without symlinks, as far as it exists.
    pub(super) fn real(&self, path: &Path) -> PathBuf {
        self.follow(path, |_, _| Ok(())).unwrap_or_else(|stuck| {
            let mut at = stuck.at;
            for part in stuck.rest.into_iter().rev() {
                match part == ".." {
                    true => drop(at.pop()),
                    false => at.push(part),
                }
            }
            at
        })
    }

    /// The path without symlinks, as far as no agent can have put them there. `agents_write`: real paths
    /// of trees in which agents write.
    ///
    /// # Errors
    /// Why it cannot be granted, as a clause.
    pub(super) fn resolve(&self, path: &Path, agents_write: &[PathBuf]) -> Result<PathBuf, String> {
        let may_follow = |link: &Path, uid| {
            let dir = link.parent().unwrap_or(link);
            let mut agents = agents_write.iter();
            match agents.find(|tree| dir.starts_with(tree)) {
                Some(tree) if !planted("grant-follows-links") => Err(format!(
                    "{} is a symlink in {}, where agents write",
                    link.display(),
                    tree.display()
                )),
                _ if !is_trusted(uid) => Err(format!(
                    "{} is a symlink of another user (uid {uid})",
                    link.display()
                )),
                _ => Ok(()),
            }
        };
        let real = self.follow(path, may_follow).map_err(|stuck| stuck.why)?;
        match self.look(&real) {
            Found::Other { uid } if is_trusted(uid) => Ok(real),
            Found::Other { uid } => Err(format!("it belongs to another user (uid {uid})")),
            _ => Err("it does not exist".to_owned()),
        }
    }

    /// Whether the name exists, without following a symlink.
    pub(super) fn is_there(&self, path: &Path) -> bool {
        let found = self.at_end(path);
        found.is_some_and(|(_, found)| !matches!(found, Found::Nothing(_)))
    }

    /// The real folder of the symlink that is there.
    pub(super) fn folder_of_symlink(&self, path: &Path) -> Option<PathBuf> {
        let (dir, found) = self.at_end(path)?;
        matches!(found, Found::Link { .. }).then_some(dir)
    }

    /// Something was made.
    pub(super) fn forget(&self) {
        self.0.borrow_mut().clear();
    }

    fn at_end(&self, path: &Path) -> Option<(PathBuf, Found)> {
        let dir = self.follow(path.parent()?, |_, _| Ok(())).ok()?;
        let found = self.look(&dir.join(path.file_name()?));
        Some((dir, found))
    }

    fn follow(
        &self,
        path: &Path,
        may_follow: impl Fn(&Path, u32) -> Result<(), String>,
    ) -> Result<PathBuf, Stuck> {
        let (mut at, below) = self.known_above(path);
        let mut rest = parts(below);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            at.push(part);
            let led = match self.look(&at) {
                Found::Other { .. } => continue,
                Found::Nothing(Some(why)) => Err(format!("{}: {why}", at.display())),
                Found::Nothing(None) if rest.is_empty() => Err("it does not exist".to_owned()),
                Found::Nothing(None) => Err(format!("{} does not exist", at.display())),
                Found::Link { .. } if links == LINKS_MAX => {
                    Err("its symlinks lead in a circle".to_owned())
                }
                Found::Link { uid, to } => may_follow(&at, uid).map(|()| to),
            };
            let to = match led {
                Ok(to) => to,
                Err(why) => return Err(Stuck { at, rest, why }),
            };
            links += 1;
            at.pop();
            if to.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(parts(&to));
        }
        Ok(at)
    }

    /// The nearest folder above that is known to be no symlink, nor behind one; and what is below it.
    fn known_above<'a>(&self, path: &'a Path) -> (PathBuf, &'a Path) {
        let found = self.0.borrow();
        let text = path.as_os_str().as_bytes();
        let mut rest = text;
        while let Some(end) = rest.iter().rposition(|byte| *byte == b'/') {
            rest = &text[..end];
            let above = OsStr::from_bytes(rest);
            if let Some(Found::Other { .. }) = found.get(above) {
                return (above.into(), Path::new(OsStr::from_bytes(&text[end + 1..])));
            }
        }
        (PathBuf::from("/"), path)
    }

    fn look(&self, path: &Path) -> Found {
        if let Some(found) = self.0.borrow().get(path.as_os_str()) {
            return found.clone();
        }
        let found = look(path);
        let mut all = self.0.borrow_mut();
        all.insert(path.as_os_str().to_owned(), found.clone());
        found
    }
}

fn look(path: &Path) -> Found {
    let found = path.symlink_metadata().and_then(|meta| {
        let uid = meta.uid();
        Ok(match meta.is_symlink() {
            false => Found::Other { uid },
            true => Found::Link {
                uid,
                to: std::fs::read_link(path)?,
            },
        })
    });
    found.unwrap_or_else(|e| match e.kind() {
        ErrorKind::NotFound => Found::Nothing(None),
        _ => Found::Nothing(Some(e.to_string())),
    })
}

/// Whether a path is a tree or lies in it. Both hold no `.` and `..`: text is compared quicker than paths.
pub(super) fn is_in(path: &Path, tree: &Path) -> bool {
    let tree = tree.as_os_str().as_bytes();
    let rest = path.as_os_str().as_bytes().strip_prefix(tree);
    rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]) || tree == b"/")
}

/// Its components, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    let mut parts: Vec<OsString> = path.components().filter_map(part).collect();
    parts.reverse();
    parts
}

/// Root may do whatever it likes anyway.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_holds_what_lies_in_it() {
        let is_in = |path: &str, tree: &str| is_in(Path::new(path), Path::new(tree));
        assert!(is_in("/a/b", "/a") && is_in("/a", "/a") && is_in("/a", "/"));
        assert!(!is_in("/ab", "/a") && !is_in("/", "/a") && !is_in("/a", "/a/b"));
    }

    #[test]
    fn a_users_links_are_followed_and_an_agents_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let at = |name: &str| base.join(name);
        for name in ["disk/cache", "home", "agent/out"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        symlink("../disk/cache", at("home/.cache")).unwrap();
        symlink(at("home"), at("agent/home")).unwrap();
        symlink("round", at("home/round")).unwrap();
        let agents = [at("agent")];
        assert_eq!(
            Seen::default().resolve(&at("home/.cache"), &agents),
            Ok(at("disk/cache"))
        );
        assert_eq!(
            Seen::default().resolve(&at("home/../agent/out"), &agents),
            Ok(at("agent/out"))
        );
        let refused = Seen::default()
            .resolve(&at("agent/home/.cache"), &agents)
            .unwrap_err();
        assert!(refused.contains("where agents write"), "{refused}");
        let gone = Seen::default()
            .resolve(&at("home/gone"), &agents)
            .unwrap_err();
        assert_eq!(gone, "it does not exist");
        let round = Seen::default()
            .resolve(&at("home/round"), &agents)
            .unwrap_err();
        assert!(round.contains("circle"), "{round}");
        let real = |name: &str| Seen::default().real(&at(name));
        assert_eq!(real("agent/home/.cache/gone/../x"), at("disk/cache/x"));
        assert_eq!(real("agent/out"), at("agent/out"));
        symlink("nowhere/to", at("home/dangling")).unwrap();
        assert_eq!(real("home/dangling/x"), at("home/nowhere/to/x"));
    }
}
