//! The patterns of what is to be brought into a worktree, in the syntax of `.gitignore`.
//!
//! Knows no git. A folder that is ignored as a whole is looked into only for a pattern that begins with
//! its path: no `.env` somewhere in `node_modules` makes half a `node_modules`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::atomic;
use crate::error::{Error, Result};
use crate::limits::{COPY_ENTRIES_MAX, STATE_FILE_BYTES_MAX};

/// What Claude Code reads for the same.
const FILE: &str = ".worktreeinclude";

pub(super) struct Patterns {
    lines: Vec<String>,
    matcher: Gitignore,
    /// They stand in `harness.toml`.
    pub(super) is_configured: bool,
}

impl Patterns {
    /// Those of the configuration, else those of the file at the top of the user's checkout. `None`:
    /// nothing is named.
    pub(super) fn of(
        configured: Option<&[String]>,
        top: Option<&Path>,
    ) -> Result<Option<Patterns>> {
        let lines: Vec<String> = match (configured, top) {
            (Some(lines), _) => lines.to_vec(),
            (None, Some(top)) => match atomic::read_small(&top.join(FILE), STATE_FILE_BYTES_MAX) {
                Ok(bytes) => String::from_utf8_lossy(&bytes)
                    .lines()
                    .map(str::to_owned)
                    .collect(),
                Err(_) => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        let mut builder = GitignoreBuilder::new(".");
        for line in &lines {
            // One that makes no sense matches nothing, as with git.
            let _odd = builder.add_line(None, line);
        }
        let matcher = builder.build().map_err(|e| {
            Error::permanent("cannot use the patterns of what to copy", e.to_string())
        })?;
        let is_configured = configured.is_some();
        Ok((!matcher.is_empty()).then_some(Patterns {
            lines,
            matcher,
            is_configured,
        }))
    }

    /// Lines that are paths, from the top.
    pub(super) fn literals(&self) -> impl Iterator<Item = PathBuf> {
        let lines = self.lines.iter().map(|line| line.trim_end());
        let is_path = |line: &&str| {
            let first = line.bytes().next();
            !matches!(first, None | Some(b'#' | b'!')) && !line.contains(SPECIAL)
        };
        let path =
            |line: &str| -> PathBuf { Path::new(line.trim_matches('/')).components().collect() };
        let paths = lines.filter(is_path).map(path);
        paths.filter(|path| !path.as_os_str().is_empty())
    }

    /// What they name of these ignored files and folders (with a `/`), and inside such folders.
    pub(super) fn named(&self, top: &Path, ignored: &[OsString]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in ignored {
            let bytes = entry.as_bytes();
            let (path, is_folder) = match bytes.strip_suffix(b"/") {
                Some(path) => (Path::new(OsStr::from_bytes(path)), true),
                None => (Path::new(entry), false),
            };
            if self.names(path, is_folder) {
                found.push(path.to_owned());
            } else if is_folder && self.leads_into(path) {
                self.look_inside(top, path, &mut found);
            }
        }
        found
    }

    fn names(&self, path: &Path, is_folder: bool) -> bool {
        let found = self.matcher.matched_path_or_any_parents(path, is_folder);
        found.is_ignore()
    }

    /// Whether a line takes out of a copied folder what is there (`!target/debug/incremental`).
    pub(super) fn leaves_out(&self, path: &Path, is_folder: bool) -> bool {
        self.matcher.num_whitelists() > 0 && self.matcher.matched(path, is_folder).is_whitelist()
    }

    /// Whether a pattern begins with this folder's path, or goes on below it.
    fn leads_into(&self, folder: &Path) -> bool {
        self.lines.iter().any(|line| {
            let line = line.trim_end().trim_start_matches('/');
            let is_fixed = |part: &&str| !part.contains(SPECIAL);
            let fixed: PathBuf = line.split('/').take_while(is_fixed).collect();
            let goes_on = fixed.as_os_str().len() < line.trim_end_matches('/').len();
            let is_begun = !fixed.as_os_str().is_empty();
            fixed.starts_with(folder) || goes_on && is_begun && folder.starts_with(&fixed)
        })
    }

    fn look_inside(&self, top: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
        let mut walk = walkdir::WalkDir::new(top.join(folder))
            .min_depth(1)
            .into_iter();
        let mut left = COPY_ENTRIES_MAX;
        while let Some(entry) = walk.next().filter(|_| left > 0) {
            left -= 1;
            let Ok(entry) = entry else { continue };
            let is_folder = entry.file_type().is_dir();
            let Ok(path) = entry.path().strip_prefix(top) else {
                continue;
            };
            let is_named = self.names(path, is_folder);
            if is_named {
                found.push(path.to_owned());
            }
            if is_folder && (is_named || !self.leads_into(path)) {
                walk.skip_current_dir();
            }
        }
    }
}

/// What makes a line more than a path.
const SPECIAL: [char; 5] = ['*', '?', '[', '\\', '!'];

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(lines: &[&str]) -> Patterns {
        let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        Patterns::of(Some(&lines), None).unwrap().unwrap()
    }

    #[test]
    fn patterns_name_what_gitignore_would() {
        let ignored: Vec<OsString> = [
            ".env",
            "a/.env",
            "target/",
            "a/target/",
            "b/out/",
            "x.o",
            "c/x.o",
        ]
        .iter()
        .map(OsString::from)
        .collect();
        let named = |lines: &[&str]| {
            let found = patterns(lines).named(Path::new("/nowhere"), &ignored);
            let found: Vec<String> = found.iter().map(|p| p.display().to_string()).collect();
            found.join(" ")
        };
        assert_eq!(named(&[".env"]), ".env a/.env");
        assert_eq!(named(&["/.env", "target/"]), ".env target a/target");
        assert_eq!(named(&["target", "!a/target"]), "target");
        assert_eq!(named(&["*.o", "b/"]), "b/out x.o c/x.o");
        assert_eq!(named(&["# target", "", "a/**"]), "a/.env a/target");
        let paths: Vec<_> = patterns(&["/a/b/", "x y ", "*.o", "!c", "#d"])
            .literals()
            .collect();
        assert_eq!(paths, [Path::new("a/b"), Path::new("x y")]);
    }

    #[test]
    fn an_ignored_folder_is_looked_into_only_for_a_pattern_that_leads_there() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            ".claude/local.json",
            ".claude/deep/x",
            "modules/m/.env",
            "out/a/1",
            "out/b/1",
        ] {
            let file = dir.path().join(file);
            atomic::make_dir(file.parent().unwrap(), true).unwrap();
            drop(atomic::create(&file, b"", 0o600).unwrap());
        }
        let ignored: Vec<OsString> = [".claude/", "modules/", "out/"]
            .iter()
            .map(OsString::from)
            .collect();
        let named = |line: &str| {
            let mut found = patterns(&[line]).named(dir.path(), &ignored);
            found.sort();
            let found: Vec<String> = found.iter().map(|p| p.display().to_string()).collect();
            found.join(" ")
        };
        assert_eq!(named(".env"), "");
        assert_eq!(named(".claude/local.json"), ".claude/local.json");
        assert_eq!(named("/modules/m/.env"), "modules/m/.env");
        assert_eq!(named("out/*/1"), "out/a/1 out/b/1");
        assert_eq!(named("**/1"), "");
        assert_eq!(named("out"), "out");
    }
}
