//! Recognises in what a program printed that the sandbox refused it something, and says which key would
//! allow it.
//!
//! Landlock answers like any missing permission (EACCES, EPERM, EXDEV), and the kernel's audit log is
//! root's. So: a line with one of their texts, a path in it, and that path against the grants.

use std::path::{Component, Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::plan::Planned;
use super::resolve::Seen;
use super::{Refused, connection};

/// What programs print for EACCES, EPERM and EXDEV.
const WORDS: [&str; 6] = [
    "permission denied",
    "eacces",
    "operation not permitted",
    "eperm",
    "cross-device link",
    "exdev",
];
/// Explanations in one attempt: what follows is mostly the same again.
const TOLD_MAX: usize = 3;

/// Whether a program says that something was refused, by whomever.
pub(crate) fn tells_of_refusal(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let mut words = WORDS.iter().chain([&connection::FAILED]);
    words.any(|word| lower.contains(word))
}

/// What the sandbox refused. `cwd`, `home`: what relative paths and `~` mean.
pub(crate) fn explained(
    text: &str,
    planned: &Planned,
    cwd: &Path,
    home: Option<&Path>,
) -> Vec<Refused> {
    let mut told: Vec<Refused> = Vec::new();
    // CLIs print their tools' output inside JSON strings.
    let lines = text.split('\n').flat_map(|line| line.split("\\n"));
    // Python marks the place in a line, and says what went wrong in the next.
    let lines = lines.filter(|line| !line.trim_matches([' ', '~', '^']).is_empty());
    let mut before = "";
    for line in lines {
        let last = std::mem::replace(&mut before, line);
        if !tells_of_refusal(line) {
            continue;
        }
        let all = match connection::refused(last, line, planned) {
            Some(refused) => vec![refused],
            None => of_paths(line, planned, cwd, home),
        };
        for refused in all {
            if told.iter().all(|told| told.text != refused.text) {
                told.push(refused);
            }
        }
        if told.len() >= TOLD_MAX {
            break;
        }
    }
    told.truncate(TOLD_MAX);
    told
}

/// What a line says of paths that the sandbox refused.
fn of_paths(line: &str, planned: &Planned, cwd: &Path, home: Option<&Path>) -> Vec<Refused> {
    let refused = |path: PathBuf| {
        let text = why_refused(&path, planned)?;
        let printed = path.to_string_lossy().into_owned();
        Some(Refused { printed, text })
    };
    let paths = paths(without_program(line), cwd, home).into_iter();
    paths.filter_map(refused).collect()
}

/// `/bin/sh: 1: cannot create /srv/x: …` says nothing of `/bin/sh`.
fn without_program(line: &str) -> &str {
    match line.split_once(": ") {
        Some((own, rest)) if !own.contains(char::is_whitespace) && rest.contains('/') => rest,
        _ => line,
    }
}

/// The paths in a line, absolute.
fn paths(line: &str, cwd: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let ends = |c: char| c.is_whitespace() || "'\"`‘’“”()[]{}<>,;:=\\|".contains(c);
    let path = |word: &str| {
        let word = word.trim_end_matches('.');
        match word.strip_prefix("~/") {
            Some(rest) => Some(home?.join(rest)),
            None if word.len() > 1 && word.contains('/') => Some(cwd.join(word)),
            None => None,
        }
    };
    line.split(ends)
        .filter_map(path)
        .map(|p| lexical(&p))
        .collect()
}

/// Without `.` and `..`.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

fn why_refused(path: &Path, planned: &Planned) -> Option<String> {
    let sandbox = planned.sandbox.as_ref()?;
    let path = Seen::default().real(path);
    let below = |list: &[PathBuf]| list.iter().any(|tree| path.starts_with(tree));
    if below(&sandbox.write) {
        return None;
    }
    let shown = path.display();
    if below(&sandbox.deny) {
        if below(&sandbox.read) || !is_allowed(&path, AccessFlags::R_OK) {
            return None;
        }
        let because = planned.why_denied(&path).unwrap_or_default();
        return Some(format!(
            "the sandbox does not let it read or write {shown} ({because}); to let it read: `read = [\"{shown}\"]` in [sandbox]"
        ));
    }
    // Whatever is left may be read.
    if !is_allowed(&path, AccessFlags::W_OK) {
        return None;
    }
    let tree = match path.is_dir() {
        true => path.as_path(),
        false => path.parent().unwrap_or(Path::new("/")),
    };
    Some(match planned.never.why(tree) {
        None => format!(
            "the sandbox does not let it write {shown}; to allow it: `write = [\"{}\"]` in [sandbox]",
            tree.display()
        ),
        Some(why) => {
            format!("the sandbox does not let it write {shown}, and no key can allow it: {why}")
        }
    })
}

/// Whether harness itself could do that: otherwise it was not the sandbox.
fn is_allowed(path: &Path, how: AccessFlags) -> bool {
    let there = path.ancestors().find(|p| p.symlink_metadata().is_ok());
    there.is_some_and(|there| access(there, how).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::plan::Never;
    use crate::sandbox::{Said, Sandbox};

    fn planned(base: &Path) -> Planned {
        let sandbox = Sandbox {
            write: vec![base.join("work")],
            deny: vec![base.join("secret")],
            ..Sandbox::default()
        };
        let never = Never {
            whole: vec![base.join("root")],
            closed: vec![base.join("root/queue")],
        };
        Planned {
            never,
            ..Planned::of(sandbox, Said::default(), "[sandbox]")
        }
    }

    #[test]
    fn a_refusal_names_the_key_that_would_allow_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        for name in ["work", "secret", "data", "root/queue"] {
            std::fs::create_dir_all(base.join(name)).unwrap();
        }
        let at = |name: &str| base.join(name).display().to_string();
        let planned = planned(&base);
        let explain = |text: &str| explained(text, &planned, &base.join("work"), Some(&base));
        let texts = [
            (
                format!("sh: 1: cannot create {}: Permission denied", at("data/x")),
                "write",
                at("data"),
            ),
            (
                format!("Error: EACCES: permission denied, open '{}'", at("data/x")),
                "write",
                at("data"),
            ),
            (
                "touch: cannot touch '../data/x': Permission denied".into(),
                "write",
                at("data"),
            ),
            (
                "cat: ~/secret: Permission denied".into(),
                "read",
                at("secret"),
            ),
            (
                format!("{}: Permission denied", at("data/x")),
                "write",
                at("data"),
            ),
            (
                format!(
                    "{}: 1: cannot create {}: Permission denied",
                    at("bin/sh"),
                    at("data/x")
                ),
                "write",
                at("data"),
            ),
            (
                format!(
                    "{{\"text\":\"a\\ncat: {}: Permission denied\\nb\"}}",
                    at("secret")
                ),
                "read",
                at("secret"),
            ),
        ];
        for (text, key, path) in texts {
            let told = explain(&text);
            assert_eq!(told.len(), 1, "{text}: {told:?}");
            assert!(
                told[0].text.contains(&format!("`{key} = [\"{path}\"]`")),
                "{text}: {told:?}"
            );
        }
        let own = explain(&format!(
            "mv: cannot move to {}: Permission denied",
            at("root/queue/x")
        ));
        assert!(own[0].text.contains("no key can"), "{own:?}");
        for other in [
            "all is well",
            "cannot create made: Permission denied",
            "x: No such file",
        ] {
            assert_eq!(explain(other), Vec::<Refused>::new(), "{other}");
        }
    }
}
