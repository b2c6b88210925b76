//! The house rules that a compiler does not hold.

use std::fs;
use std::path::Path;

use crate::support::files_below;

/// `lib.rs` lists the modules in floor order; a module names only modules above it in that list.
#[test]
fn a_module_names_only_modules_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let list = fs::read_to_string(src.join("lib.rs")).unwrap();
    let floors: Vec<&str> = list
        .lines()
        .filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let floor = |name: &str| floors.iter().position(|f| *f == name);
    let mut wrong = Vec::new();
    for path in files_below(&src) {
        let inside = path
            .strip_prefix(&src)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let module = inside.split(['/', '.']).next().unwrap();
        let Some(own) = floor(module) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        for (n, line) in text.lines().enumerate() {
            for named in named_modules(line) {
                if floor(named).is_some_and(|other| other > own) {
                    wrong.push(format!("src/{inside}:{}: {module} names {named}", n + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "upside down:\n{}", wrong.join("\n"));
}

/// What stands behind each `crate::` of a line, braces included.
fn named_modules(line: &str) -> Vec<&str> {
    let word = |s: &str| {
        s.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(s.len())
    };
    let mut found = Vec::new();
    for part in line.split("crate::").skip(1) {
        match part.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or(list);
                found.extend(list.split(',').map(|m| &m.trim()[..word(m.trim())]));
            }
            None => found.push(&part[..word(part)]),
        }
    }
    found
}

/// A file that cannot be read in a sitting is two files.
#[test]
fn no_file_is_longer_than_a_sitting() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in ["src", "tests"] {
        for path in files_below(&top.join(dir)) {
            let lines = fs::read_to_string(&path)
                .unwrap_or_default()
                .lines()
                .count();
            assert!(lines <= 600, "{}: {lines} lines", path.display());
        }
    }
}
