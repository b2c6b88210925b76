//! Follows the symlinks of a path that is to be granted, as far as no agent can have put them there.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::mutant::planted;

/// As in the kernel.
const LINKS_MAX: usize = 40;

/// The path without symlinks. `agents_write`: real paths of trees in which agents write.
///
/// # Errors
/// Why it cannot be granted, as a clause.
pub(super) fn resolve(path: &Path, agents_write: &[PathBuf]) -> Result<PathBuf, String> {
    let mut real = PathBuf::from("/");
    let mut rest: Vec<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&part);
        let meta = next.symlink_metadata().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => match rest.is_empty() {
                true => "it does not exist".to_owned(),
                false => format!("{} does not exist", next.display()),
            },
            _ => format!("{}: {e}", next.display()),
        })?;
        if !meta.is_symlink() {
            real = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err("its symlinks lead in a circle".to_owned());
        }
        let mut agents = agents_write.iter();
        if let Some(tree) = agents.find(|tree| real.starts_with(tree))
            && !planted("grant-follows-links")
        {
            return Err(format!(
                "{} is a symlink in {}, where agents write",
                next.display(),
                tree.display()
            ));
        }
        if !is_trusted(meta.uid()) {
            return Err(format!(
                "{} is a symlink of another user (uid {})",
                next.display(),
                meta.uid()
            ));
        }
        let target = std::fs::read_link(&next).map_err(|e| format!("{}: {e}", next.display()))?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        rest.extend(parts(&target));
    }
    let meta = real.symlink_metadata().map_err(|e| e.to_string())?;
    match is_trusted(meta.uid()) {
        true => Ok(real),
        false => Err(format!("it belongs to another user (uid {})", meta.uid())),
    }
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
        assert_eq!(resolve(&at("home/.cache"), &agents), Ok(at("disk/cache")));
        assert_eq!(
            resolve(&at("home/../agent/out"), &agents),
            Ok(at("agent/out"))
        );
        let refused = resolve(&at("agent/home/.cache"), &agents).unwrap_err();
        assert!(refused.contains("where agents write"), "{refused}");
        let gone = resolve(&at("home/gone"), &agents).unwrap_err();
        assert_eq!(gone, "it does not exist");
        let round = resolve(&at("home/round"), &agents).unwrap_err();
        assert!(round.contains("circle"), "{round}");
    }
}
