//! The configuration of the hub and of the slots' repositories: what harness fixes, and the settings
//! that hold in the user's repository.
//!
//! Files are replaced atomically and never edited, so no `config.lock` is involved. What an agent
//! sets with `git config` comes later, wins in its slot's repository, and ends with it. Hooks in the user's `.git/hooks` are not
//! copied; `core.hooksPath` is, for the agents' own commits (ours run no hooks).

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Git;
use crate::error::Result;
use crate::mutant::planted;

/// File name inside the hub, beside its `config`.
pub(super) const FILE: &str = "harness.config";

/// Nothing is collected: salvaged objects are on no branch, and the slots' repositories borrow the
/// hub's objects.
const COLLECTS_NOTHING: &str = "\
[gc]
\tauto = 0
\tpruneExpire = never
\tworktreePruneExpire = never
[maintenance]
\tauto = false
[receive]
\tautogc = false
";

const SECTIONS: [&str; 21] = [
    "remote.",
    "branch.",
    "user.",
    "author.",
    "committer.",
    "filter.",
    "lfs.",
    "url.",
    "credential.",
    "http.",
    "https.",
    "ssh.",
    "submodule.",
    "diff.",
    "merge.",
    "push.",
    "pull.",
    "rebase.",
    "i18n.",
    "gpg.",
    "commit.",
];

const CORE: [&str; 13] = [
    "core.autocrlf",
    "core.eol",
    "core.symlinks",
    "core.ignorecase",
    "core.filemode",
    "core.precomposeunicode",
    "core.hookspath",
    "core.excludesfile",
    "core.attributesfile",
    "core.sshcommand",
    "core.gitproxy",
    "core.longpaths",
    "extensions.partialclone",
];

/// The whole configuration of the hub.
pub(super) fn of_hub(sha256: bool) -> Vec<u8> {
    let include = "[include]\n\tpath = harness.config\n[core]\n\tlogAllRefUpdates = false\n";
    [core(sha256), include, COLLECTS_NOTHING]
        .concat()
        .into_bytes()
}

/// The whole configuration of a slot's repository.
pub(super) fn of_slot(sha256: bool, settings: &[u8]) -> Vec<u8> {
    let mut text = [core(sha256), COLLECTS_NOTHING].concat().into_bytes();
    text.extend_from_slice(settings);
    text
}

/// What a view has besides. Beside its objects, an agent may put what tells git of commits and their
/// parents without them.
pub(super) const OF_VIEW: &[u8] = b"\
[core]
\tcommitGraph = false
\tmultiPackIndex = false
[pack]
\tuseBitmaps = false
";

/// A slot has a store of its own for LFS objects, whatever the user has set: git-lfs looks into the
/// hub's as well, by way of the alternates, and writes there nothing.
pub(super) fn of_lfs(slot: &Path) -> Vec<u8> {
    let (mut text, lfs) = (Vec::new(), slot.join("lfs"));
    entry_text(&mut text, b"lfs.storage", Some(lfs.as_os_str().as_bytes()));
    text
}

/// The value of a setting in our own text.
pub(super) fn value(text: &[u8], section: &str, key: &str) -> Option<PathBuf> {
    let begin = format!("[{section}]\n\t{key} = \"");
    let at = text
        .windows(begin.len())
        .rposition(|w| w == begin.as_bytes())?;
    let mut value = Vec::new();
    let mut rest = text[at + begin.len()..].iter();
    while let Some(&b) = rest.next().filter(|b| **b != b'"') {
        match b {
            b'\\' => value.extend(rest.next()),
            b => value.push(b),
        }
    }
    Some(PathBuf::from(OsString::from_vec(value)))
}

/// What a submodule's repository has besides: git finds it by the `.git` of its folder.
pub(super) fn of_module(worktree: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    entry_text(&mut text, b"core.bare", Some(b"false"));
    let dir = worktree.as_os_str().as_bytes();
    entry_text(&mut text, b"core.worktree", Some(dir));
    text
}

pub(super) fn of_entries(entries: &[(&str, String)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in entries {
        entry_text(&mut text, key.as_bytes(), Some(value.as_bytes()));
    }
    text
}

fn core(sha256: bool) -> &'static str {
    match sha256 {
        false => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
        true => {
            "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectFormat = sha256\n"
        }
    }
}

/// The content of `objects/info/alternates`.
pub(super) fn lines(paths: &[&Path]) -> Vec<u8> {
    let mut text = Vec::new();
    for path in paths {
        let bytes = path.as_os_str().as_bytes();
        // Git unquotes as C does; only a newline needs it, as the paths are absolute.
        if bytes.contains(&b'\n') {
            let quoted = bytes.iter().flat_map(|&b| match b {
                b'\n' => b"\\n".to_vec(),
                b'"' | b'\\' => vec![b'\\', b],
                b => vec![b],
            });
            text.push(b'"');
            text.extend(quoted);
            text.push(b'"');
        } else {
            text.extend_from_slice(bytes);
        }
        text.push(b'\n');
    }
    text
}

/// The part of the user's settings that harness uses.
pub(super) struct Settings {
    /// For `FILE`, and for the slots' repositories.
    pub text: Vec<u8>,
    /// For `FILE`, behind it.
    pub filters: Vec<u8>,
    /// The user's merge drivers, with `HERE` for the worktree.
    pub drivers: Vec<u8>,
    /// Names of hooks defined by settings, in any file.
    pub hooks: Vec<OsString>,
}

/// Reads the user's settings with one git process.
pub(super) fn read(repo_path: &Path, durable: bool) -> Result<Settings> {
    let git = Git::at(repo_path).args(["config", "--list", "--show-scope", "-z"]);
    let listed = git
        .must("cannot read the repository's configuration")?
        .stdout;
    let filters = commands(&listed, b"filter.", &[b".clean", b".smudge", b".process"]);
    let drivers = commands(&listed, b"merge.", &[b".driver"]);
    let top = match filters.is_empty() && drivers.is_empty() {
        true => Vec::new(),
        false => {
            let git = Git::at(repo_path).args(["rev-parse", "--show-toplevel"]);
            let out = git.patient()?;
            let top = if out.ok() {
                out.path()
            } else {
                repo_path.to_owned()
            };
            top.into_os_string().into_vec()
        }
    };
    Ok(Settings {
        text: render(&listed, durable),
        filters: match planted("filters-in-worktree") {
            true => Vec::new(),
            false => at_users(&filters, &top),
        },
        drivers: match planted("filters-in-worktree") {
            true => Vec::new(),
            false => {
                let here = drivers
                    .iter()
                    .map(|(key, command)| (*key, from_here(command)));
                let here: Vec<_> = here.collect();
                let here: Vec<Entry<'_>> = here
                    .iter()
                    .map(|(key, command)| (*key, &**command))
                    .collect();
                at_users(&here, &top)
            }
        },
        hooks: hooks(&listed),
    })
}

type Entry<'a> = (&'a [u8], &'a [u8]);

/// Stands for the worktree in the commands of merge drivers.
pub(super) const HERE: u8 = 1;

/// The commands of filters (`filter.NAME.clean` and the like) or merge drivers, in any file.
fn commands<'l>(listed: &'l [u8], first: &[u8], ends: &[&[u8]]) -> Vec<Entry<'l>> {
    let entries = listed.split(|&b| b == 0).skip(1).step_by(2);
    let split = entries.filter_map(|entry| {
        let cut = entry.iter().position(|&b| b == b'\n')?;
        Some((&entry[..cut], &entry[cut + 1..]))
    });
    let is_command = |(key, command): &Entry<'_>| {
        let key = key.to_ascii_lowercase();
        key.starts_with(first) && ends.iter().any(|end| key.ends_with(end)) && !command.is_empty()
    };
    split.filter(is_command).collect()
}

/// A merge driver's command with the files that git makes in the worktree by their whole paths.
fn from_here(command: &[u8]) -> Vec<u8> {
    let (mut text, mut rest) = (Vec::new(), command.iter());
    while let Some(&b) = rest.next() {
        match (b, rest.as_slice().first()) {
            (b'%', Some(b'O' | b'A' | b'B')) => text.extend([HERE, b'/', b'%']),
            (b'%', Some(b'%')) => text.extend([b'%', *rest.next().unwrap_or(&b'%')]),
            _ => text.push(b),
        }
    }
    text
}

/// The same commands for our own git: git runs them in the worktree, which an agent has written. There a
/// relative path, or what a program looks for where it is started, would be the agent's. They run in the
/// user's checkout.
fn at_users(commands: &[Entry<'_>], top: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, command) in commands {
        let is_process = key.to_ascii_lowercase().ends_with(b".process");
        let quoted = top.iter().flat_map(|&b| match b {
            b'\'' => b"'\\''".to_vec(),
            // In the others git replaces `%f`.
            b'%' if !is_process => b"%%".to_vec(),
            b => vec![b],
        });
        let quoted: Vec<u8> = quoted.collect();
        let parts: [&[u8]; 5] = [b"cd '", &quoted, b"' && {\n", command, b"\n}"];
        entry_text(&mut text, key, Some(&parts.concat()));
    }
    text
}

/// The NAMEs of `hook.NAME.command` and similar keys.
fn hooks(listed: &[u8]) -> Vec<OsString> {
    let entries = listed.split(|&b| b == 0).skip(1).step_by(2);
    let names = entries.filter_map(|entry| {
        let key = entry.split(|&b| b == b'\n').next()?;
        let name = key.strip_prefix(b"hook.")?;
        let end = name.iter().rposition(|&b| b == b'.')?;
        Some(OsString::from_vec(name[..end].to_vec()))
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn render(listed: &[u8], durable: bool) -> Vec<u8> {
    let mut out = b"# Copied from your repository; harness replaces this file.\n".to_vec();
    let mut seen = HashSet::new();
    let mut parts = listed.split(|&b| b == 0);
    while let (Some(scope), Some(entry)) = (parts.next(), parts.next()) {
        let cut = entry.iter().position(|&b| b == b'\n');
        let key = &entry[..cut.unwrap_or(entry.len())];
        let value = cut.map(|at| &entry[at + 1..]);
        let lower = key.to_ascii_lowercase();
        // The user's global files hold in the hub anyway, except identities that they set for this
        // one directory only (`includeIf`).
        let wanted = match scope {
            b"local" | b"worktree" => {
                SECTIONS.iter().any(|s| lower.starts_with(s.as_bytes()))
                    || CORE.iter().any(|c| lower == c.as_bytes())
            }
            b"global" => lower.starts_with(b"user."),
            _ => false,
        };
        if wanted && !lower.ends_with(b".mirror") {
            entry_text(&mut out, key, value);
        }
        if scope != b"command" {
            seen.insert(lower);
        }
    }
    for (key, value) in [
        ("user.name", "harness"),
        ("user.email", "harness@localhost"),
    ] {
        if !seen.contains(key.as_bytes()) {
            entry_text(&mut out, key.as_bytes(), Some(value.as_bytes()));
        }
    }
    if durable {
        entry_text(&mut out, b"core.fsync", Some(b"all"));
    }
    out
}

/// One quoted entry in git's syntax.
fn entry_text(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    let Some(first) = key.iter().position(|&b| b == b'.') else {
        return;
    };
    let last = key.iter().rposition(|&b| b == b'.').unwrap_or(first);
    out.push(b'[');
    out.extend_from_slice(&key[..first]);
    if last > first {
        out.extend_from_slice(b" \"");
        for &b in &key[first + 1..last] {
            if matches!(b, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(b);
        }
        out.push(b'"');
    }
    out.extend_from_slice(b"]\n\t");
    out.extend_from_slice(&key[last + 1..]);
    if let Some(value) = value {
        out.extend_from_slice(b" = \"");
        for &b in value {
            match b {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\x08' => out.extend_from_slice(b"\\b"),
                _ => out.push(b),
            }
        }
        out.push(b'"');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_are_read_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let value = "a \"b\" \\ # ; \n\tend ";
        let listed = format!(
            "local\0remote.o\"r\\i.g.url\n{value}\0local\0core.bare\ntrue\0local\0user.plain\0"
        );
        let file = dir.path().join("c");
        let _f = crate::atomic::create(&file, &render(listed.as_bytes(), true), 0o600).unwrap();
        let get = |key: &str| {
            Git::at(dir.path())
                .args(["config", "-z", "--file", "c", "--get", key])
                .output()
                .unwrap()
        };
        assert_eq!(
            get("remote.o\"r\\i.g.url").stdout,
            format!("{value}\0").as_bytes()
        );
        assert_eq!(get("user.name").stdout, b"harness\0");
        assert_eq!(get("core.fsync").stdout, b"all\0");
        assert!(!get("core.bare").ok());
        assert!(get("user.plain").ok());
    }
}
