//! Who can have something run as us: the owners of a ROOT's folders, and those who may write into
//! them. Knows nothing of what is in them.
//!
//! A ROOT that is found in a directory above and belongs to another user is not used, as git uses no
//! such repository (CVE-2022-24765): anybody can make one in `/tmp`. One that is named is what its
//! user wants.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, Writers};
use crate::error::{Error, Result};
use crate::layout::Root;

/// What decides what is run: in all of these lie programs, orders or texts that agents obey.
const DECIDING: [&str; 9] = [
    "",
    "harness.toml",
    "queue",
    "queue/pending",
    "queue/claimed",
    "state",
    "state/control",
    "prompts",
    "hooks",
];

/// A part of ROOT that belongs to another user.
pub(super) struct Stranger {
    path: PathBuf,
    uid: u32,
}

/// The first part of ROOT that belongs to neither us nor root. Of a symlink both count: the link, and
/// where it leads.
pub(super) fn stranger(root: &Root) -> Option<Stranger> {
    let foreign = |path: PathBuf| {
        let own = path.symlink_metadata().ok()?;
        let target = path.metadata().unwrap_or_else(|_| own.clone());
        let uid = [own.uid(), target.uid()].into_iter().find(|&u| !is_ours(u));
        uid.map(|uid| Stranger { path, uid })
    };
    parts(root).find_map(foreign)
}

fn parts(root: &Root) -> impl Iterator<Item = PathBuf> {
    let top = root.path().to_owned();
    DECIDING.iter().map(move |part| match part.is_empty() {
        true => top.clone(),
        false => top.join(part),
    })
}

/// Ours, or root's. Of root under `sudo`, also the user's who typed it, as git has it.
fn is_ours(uid: u32) -> bool {
    let me = nix::unistd::geteuid().as_raw();
    let sudo = || std::env::var("SUDO_UID").ok()?.parse::<u32>().ok();
    uid == me || uid == 0 || me == 0 && sudo() == Some(uid)
}

impl Stranger {
    pub(super) fn why(&self) -> String {
        let name = nix::unistd::User::from_uid(self.uid.into()).ok().flatten();
        let name = name.map_or_else(|| format!("uid {}", self.uid), |user| user.name);
        format!("it belongs to {name}, who could have anything run as you")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn refusal(&self, root: &Root) -> Error {
        let named = super::quote::shell_quoted(root.path());
        Error::permanent("will not use the ROOT that was found here", self.why())
            .at_path(&self.path)
            .hint(format!(
                "if you trust them, name it: `harness --root {named} …` or HARNESS_ROOT={named}"
            ))
    }
}

/// Who besides us may write into what decides what is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Group,
    All,
}

fn reach(path: &Path) -> Option<Reach> {
    let meta = path.metadata().ok()?;
    // In a sticky folder others can make files, but touch none of ours.
    let shields = meta.is_dir() && meta.mode() & 0o1000 != 0 && !path.ends_with("queue/pending");
    let own_group = meta.gid() == nix::unistd::getegid().as_raw();
    match meta.mode() {
        _ if shields => None,
        mode if mode & 0o002 != 0 => Some(Reach::All),
        // With a umask of 002 every user has a group alone.
        mode if mode & 0o020 != 0 && !own_group => Some(Reach::Group),
        _ => None,
    }
}

/// The part of ROOT into which the most others may write, and what to do about it.
fn open_part(root: &Root, config: &Config) -> Option<(Reach, Error)> {
    let parts = parts(root).filter_map(|path| Some((reach(&path)?, path)));
    let allowed = |reach: Reach, path: &Path| match config.harness.writers {
        // The file that says so must not be theirs.
        _ if path == root.config() => false,
        Writers::All => true,
        Writers::Group => reach == Reach::Group,
        Writers::Owner => false,
    };
    let (reach, path) = parts.filter(|(r, p)| !allowed(*r, p)).max()?;
    let (who, bits, word) = match reach {
        Reach::All => ("everybody", "o-w", "all"),
        Reach::Group => ("its group", "g-w", "group"),
    };
    let quoted = super::quote::shell_quoted(&path);
    let hint = match path == root.config() {
        true => format!("chmod {bits} {quoted}"),
        false => format!("chmod {bits} {quoted}, or `writers = \"{word}\"` in [harness]"),
    };
    let why = format!("{who} may write there, and what is dropped is run as you");
    let error = Error::permanent("not safe", why).at_path(&path).hint(hint);
    Some((reach, error))
}

/// Looks before anything is run: what everybody may write into is refused, what a group may write into
/// is returned as a warning.
pub(super) fn look(root: &Root, config: &Config) -> Result<Option<Error>> {
    match open_part(root, config) {
        Some((Reach::All, error)) => Err(error),
        Some((Reach::Group, error)) => Ok(Some(error)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::init::init;
    use super::*;
    use crate::config::Overrides;

    fn looked(toml: &str, part: &str, mode: u32) -> Result<Option<Error>> {
        let dir = tempfile::tempdir().unwrap();
        let root = init(dir.path(), toml).unwrap().root;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(root.path().join(part), mode).unwrap();
        let config = Config::load(&root, &Overrides::default()).unwrap();
        look(&root, &config)
    }

    #[test]
    fn a_queue_that_everybody_may_write_into_is_refused_unless_that_is_wanted() {
        let pending = "queue/pending";
        assert!(looked("", pending, 0o755).unwrap().is_none());
        assert!(looked("", pending, 0o777).is_err());
        assert!(looked("", pending, 0o1777).is_err());
        assert!(looked("", "state", 0o1777).unwrap().is_none());
        assert!(looked("", "prompts", 0o777).is_err());
        let group = "[harness]\nwriters = \"group\"\n";
        assert!(looked(group, pending, 0o777).is_err());
        let all = "[harness]\nwriters = \"all\"\n";
        assert!(looked(all, pending, 0o1777).unwrap().is_none());
        assert!(looked(all, "harness.toml", 0o666).is_err());
    }
}
