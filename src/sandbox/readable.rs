//! Everything but what is denied, as the largest trees that hold nothing denied.
//!
//! Landlock grants a tree and cannot take a part of it back, so a tree that holds something denied is
//! granted as what lies in it. What appears later beside something denied is therefore not readable.

use std::path::{Path, PathBuf};

/// A denied path that does not exist counts: it may be made later.
pub(super) fn trees(deny: &[PathBuf]) -> Vec<PathBuf> {
    trees_in(Path::new("/"), deny)
}

/// The same of what lies below a folder.
pub(super) fn trees_in(folder: &Path, deny: &[PathBuf]) -> Vec<PathBuf> {
    let mut trees = Vec::new();
    let deny: Vec<&Path> = deny.iter().map(PathBuf::as_path).collect();
    add(folder, &deny, &mut trees);
    trees
}

fn add(tree: &Path, deny: &[&Path], trees: &mut Vec<PathBuf>) {
    let inside: Vec<&Path> = deny
        .iter()
        .copied()
        .filter(|d| d.starts_with(tree))
        .collect();
    if inside.is_empty() {
        trees.push(tree.to_owned());
        return;
    }
    if inside.contains(&tree) {
        return;
    }
    for entry in std::fs::read_dir(tree).into_iter().flatten().flatten() {
        // What a symlink leads to is granted, or not, where it lies.
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            add(&entry.path(), &inside, trees);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_something_denied_is_granted_and_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        for name in ["home/.ssh", "home/src/deep", "home/.config/gh", "other"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::fs::write(at("home/.profile"), "x").unwrap();
        std::os::unix::fs::symlink(at("home/.ssh"), at("home/link")).unwrap();
        let deny = [at("home/.ssh"), at("home/.config/gh"), at("home/.aws")];
        let trees = trees(&deny);
        for granted in ["home/src", "home/.profile", "other"] {
            assert!(trees.contains(&at(granted)), "{granted}");
        }
        for refused in [
            "home",
            "home/.ssh",
            "home/link",
            "home/.config",
            "home/.config/gh",
        ] {
            assert!(!trees.contains(&at(refused)), "{refused}");
        }
        let covers = |path: PathBuf| trees.iter().any(|t| path.starts_with(t));
        assert!(covers(at("home/src/deep")) && covers("/usr/bin".into()));
        assert!(!covers(at("home/.ssh/id")) && !covers(at("home/.aws/credentials")));
    }

    #[test]
    fn nothing_denied_is_one_grant() {
        assert_eq!(trees(&[]), [PathBuf::from("/")]);
    }
}
