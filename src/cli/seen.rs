//! The gates that a project could have, as far as the files at its top tell: what its own tools take for
//! its tests.
//!
//! Runs nothing. Invariant: whatever a file holds, it is read as data and no further than a limit.

use std::fmt;
use std::path::Path;

use crate::atomic;
use crate::config::Proposed;
use crate::limits::CONFIG_BYTES_MAX;
use crate::quote::shell_quoted;

/// A command that runs a project's tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gate {
    name: &'static str,
    command: &'static [&'static str],
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command.join(" "))
    }
}

impl Gate {
    pub(super) fn proposed(&self) -> Proposed<'static> {
        (self.name, self.command)
    }

    /// How a person switches it on.
    pub(super) fn how(&self) -> String {
        let command = shell_quoted(self.to_string().as_ref());
        format!("harness config set gates.{}.command {command}", self.name)
    }
}

/// Whether the project at this directory has such tests.
type Has = fn(&Path) -> bool;

const ALL: [(&str, &[&str], Has); 5] = [
    ("cargo", &["cargo", "test"], |top| has(top, "Cargo.toml")),
    ("npm", &["npm", "test"], has_script),
    ("pytest", &["pytest"], has_pytest),
    ("go", &["go", "test", "./..."], |top| has(top, "go.mod")),
    ("make", &["make", "test"], has_target),
];

/// The gates of the project at `top`. The first is called `test`.
pub(super) fn gates(top: &Path) -> Vec<Gate> {
    let seen = ALL.into_iter().filter(|(.., is_there)| is_there(top));
    let named = seen.enumerate().map(|(nth, (name, command, _))| Gate {
        name: if nth == 0 { "test" } else { name },
        command,
    });
    named.collect()
}

fn has(top: &Path, name: &str) -> bool {
    top.join(name).is_file()
}

/// Empty if it is not there, or is no text.
fn text(top: &Path, name: &str) -> String {
    let bytes = atomic::read_followed(&top.join(name), CONFIG_BYTES_MAX);
    let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
    // Editors of Windows put it there, and the tools pass over it.
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// A script `test` in package.json, other than the one that `npm init` writes.
fn has_script(top: &Path) -> bool {
    let package: serde_json::Value =
        serde_json::from_str(&text(top, "package.json")).unwrap_or_default();
    let script = package["scripts"]["test"].as_str().unwrap_or_default();
    !script.trim().is_empty() && !script.contains("no test specified")
}

fn has_pytest(top: &Path) -> bool {
    let says = |name: &str, section: &str| {
        let text = text(top, name);
        text.lines().any(|line| line.trim().starts_with(section))
    };
    has(top, "pytest.ini")
        || says("pyproject.toml", "[tool.pytest")
        || says("setup.cfg", "[tool:pytest]")
        || says("tox.ini", "[pytest]")
        || has(top, "conftest.py")
        || has(top, "tests/conftest.py")
}

/// A target `test` in the file that make takes.
fn has_target(top: &Path) -> bool {
    let files = ["GNUmakefile", "makefile", "Makefile"];
    let file = files.into_iter().find(|name| has(top, name));
    let text = file.map_or_else(String::new, |name| text(top, name));
    let is_target = |line: &str| {
        let (targets, rest) = line.split_once(':').unwrap_or_default();
        let sets = rest.trim_start_matches(':').starts_with('=');
        let is_rule = !line.starts_with(['\t', '#']) && !sets;
        is_rule && targets.split_whitespace().any(|target| target == "test")
    };
    text.lines().any(is_target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("temp dir");
        for (name, text) in files {
            let path = dir.path().join(name);
            atomic::make_dir(path.parent().expect("a folder"), false).expect("folder");
            drop(atomic::create(&path, text.as_bytes(), 0o644).expect("file"));
        }
        let gates = gates(dir.path());
        gates.iter().map(|g| format!("{}: {g}", g.name)).collect()
    }

    #[test]
    fn a_project_is_known_by_the_files_at_its_top() {
        let npm = |script: &str| format!(r#"{{"scripts":{{"test":"{script}"}}}}"#);
        let none: [&str; 0] = [];
        for (files, want) in [
            (&[("Cargo.toml", "")][..], &["test: cargo test"][..]),
            (&[("package.json", &npm("vitest"))], &["test: npm test"]),
            (
                &[(
                    "package.json",
                    &npm(r#"echo \"Error: no test specified\" && exit 1"#),
                )],
                &none,
            ),
            (
                &[("package.json", &format!("\u{feff}{}", npm("vitest")))],
                &["test: npm test"],
            ),
            (&[("package.json", "{\"scripts\": 7}")], &none),
            (&[("package.json", "no JSON")], &none),
            (&[("pytest.ini", "")], &["test: pytest"]),
            (
                &[("pyproject.toml", "[tool.pytest.ini_options]\n")],
                &["test: pytest"],
            ),
            (&[("pyproject.toml", "[tool.black]\n")], &none),
            (&[("tests/conftest.py", "")], &["test: pytest"]),
            (&[("tests/test_a.rb", "")], &none),
            (&[("go.mod", "module x\n")], &["test: go test ./..."]),
            (
                &[("Makefile", "all:\n\nlint test: all\n\ttrue\n")],
                &["test: make test"],
            ),
            (
                &[(
                    "Makefile",
                    "test := 1\ntest :::= 2\n#test:\nx: test\n\ttest: y\n",
                )],
                &none,
            ),
            (&[("sub/Cargo.toml", "")], &none),
            (
                &[("Cargo.toml", ""), ("Makefile", "test:\n")],
                &["test: cargo test", "make: make test"],
            ),
        ] {
            assert_eq!(seen(files), want, "{files:?}");
        }
    }
}
