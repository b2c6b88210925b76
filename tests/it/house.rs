//! The house rules that neither the compiler nor clippy holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Root, files_below};

/// Lines of a file, of a function in `src/` and of README (two screens).
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 80;
const README_LINES_MAX: usize = 120;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = top().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every Rust file below a folder of the repository: its path from the top, and its text.
fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut all: Vec<_> = files_below(&top().join(dir))
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .map(|p| (p.strip_prefix(top()).unwrap().to_owned(), read(&p)))
        .collect();
    all.sort();
    all
}

/// Without the module of tests at its end: tests may look up.
fn without_tests(text: &str) -> &str {
    let end = text.find("\nmod tests {");
    &text[..end.unwrap_or(text.len())]
}

/// What `prefix` (`crate::`, `super::`) is followed by, braces included.
fn named_after<'a>(prefix: &str, text: &'a str) -> Vec<&'a str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word = |s: &'a str| &s[..s.find(|c| !is_word(c)).unwrap_or(s.len())];
    let mut found = Vec::new();
    for (at, _) in text.match_indices(prefix) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| is_word(c) || c == ':') {
            continue;
        }
        let part = &text[at + prefix.len()..];
        let Some(list) = part.strip_prefix('{') else {
            found.push(word(part));
            continue;
        };
        let (mut depth, mut is_start) = (1, true);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => is_start = true,
                c if is_start && is_word(c) => {
                    found.push(word(&list[i..]));
                    is_start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// `lib.rs` lists the modules in floor order; a module names only modules above it in that list.
#[test]
fn a_module_names_only_modules_above_it() {
    let list = read("src/lib.rs");
    let floors: Vec<&str> = list
        .lines()
        .filter_map(|l| l.split_once("mod ")?.1.strip_suffix(';'))
        .collect();
    let floor = |name: &str| floors.iter().position(|f| *f == name);
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let inside = path.strip_prefix("src").unwrap().to_string_lossy();
        let module = inside.split(['/', '.']).next().unwrap();
        let Some(own) = floor(module) else { continue };
        for named in named_after("crate::", &text) {
            if floor(named).is_some_and(|other| other > own) {
                wrong.push(format!("{}: {module} names {named}", path.display()));
            }
        }
    }
    assert!(floors.len() > 20, "only {} modules", floors.len());
    assert!(wrong.is_empty(), "upside down:\n{}", wrong.join("\n"));
}

#[test]
fn the_map_of_architecture_names_each_module() {
    let page = read("ARCHITECTURE.md");
    let map = section(&page, "## The path of an item");
    for module in read("src/lib.rs").lines() {
        let module = module
            .split_once("mod ")
            .and_then(|m| m.1.strip_suffix(';'));
        let Some(module) = module else { continue };
        let is_there =
            map.contains(&format!("`{module}`")) || map.contains(&format!("`{module}/`"));
        assert!(
            is_there,
            "ARCHITECTURE.md does not say what the module {module} is for"
        );
    }
}

/// In each folder of `src/` the files name each other in one direction. What a folder's own
/// module (`mod.rs`) gives to all of them does not count.
#[test]
fn no_files_of_a_folder_name_each_other_in_a_circle() {
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let all = sources("src");
    for (path, text) in &all {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let folder = path.parent().unwrap();
        if folder == Path::new("src") || stem == "mod" {
            continue;
        }
        let module = folder.strip_prefix("src").unwrap().to_string_lossy();
        let prefix = format!("crate::{}::", module.replace('/', "::"));
        let text = without_tests(text);
        let mut named = named_after("super::", text);
        named.extend(named_after(&prefix, text));
        let named = named.into_iter().map(str::to_owned).collect();
        folders
            .entry(folder.to_owned())
            .or_default()
            .insert(stem, named);
    }
    let mut circles = Vec::new();
    for (folder, mut left) in folders {
        // Takes away what names none of those that are left, until nothing changes.
        loop {
            let names: BTreeSet<String> = left.keys().cloned().collect();
            let before = left.len();
            left.retain(|own, named| named.iter().any(|n| n != own && names.contains(n)));
            if left.len() == before {
                break;
            }
        }
        if !left.is_empty() {
            let names: Vec<_> = left.keys().map(String::as_str).collect();
            circles.push(format!("{}: {}", folder.display(), names.join(", ")));
        }
    }
    assert!(circles.is_empty(), "in a circle:\n{}", circles.join("\n"));
}

/// A file that cannot be read in a sitting is two files.
#[test]
fn no_file_is_longer_than_a_sitting() {
    for dir in ["src", "tests"] {
        for (path, text) in sources(dir) {
            let lines = text.lines().count();
            assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines", path.display());
        }
    }
}

/// Tests may be long lists. `cargo test --test it no_function -- --nocapture` prints the ten longest.
#[test]
fn no_function_is_longer_than_a_screen_or_two() {
    let mut all = Vec::new();
    for (path, text) in sources("src") {
        if path.iter().any(|p| p == "tests" || p == "tests.rs") {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let Some(name) = function_of(line) else {
                continue;
            };
            let indent = line.len() - line.trim_start().len();
            // As rustfmt sets it: the end stands under the beginning.
            let end = format!("{}}}", " ".repeat(indent));
            let length = match line.ends_with('}') || line.ends_with(';') {
                true => 1,
                false => lines[n..].iter().position(|l| **l == end).unwrap_or(0) + 1,
            };
            all.push((length, format!("{}: {name}", path.display())));
        }
    }
    all.sort_by(|a, b| b.cmp(a));
    for (length, name) in all.iter().take(10) {
        println!("{length:4} {name}");
    }
    let (longest, name) = &all[0];
    assert!(
        *longest <= FUNCTION_LINES_MAX,
        "{name} is {longest} lines long, at most {FUNCTION_LINES_MAX} are read easily"
    );
}

/// The name of the function whose definition begins on this line.
fn function_of(line: &str) -> Option<&str> {
    let code = line.trim_start();
    let (before, after) = code.split_once("fn ")?;
    let qualifiers = ["pub", "const", "async", "unsafe", "extern", "\"C\""];
    let is_definition = before
        .split_whitespace()
        .all(|w| qualifiers.contains(&w) || w.starts_with("pub("));
    let name = after.split(['(', '<']).next()?;
    (is_definition && !name.is_empty()).then_some(name)
}

/// Locks are tried, never waited for, on the way of an item.
#[test]
fn only_these_files_wait_for_a_lock() {
    // A file that its process has just made, so that nobody else can have locked it. git's own set-up
    // waits, too, but with an end and a named cause (`git/wait.rs`).
    const MAY_WAIT: [&str; 1] = ["src/peers.rs"];
    const WAITS: [&str; 6] = [
        "::lock_exclusive(",
        ".lock_exclusive(",
        "::lock_shared(",
        ".lock_shared(",
        "FlockArg::LockExclusive)",
        "FlockOperation::LockExclusive)",
    ];
    let mut found = BTreeSet::new();
    for (path, text) in sources("src") {
        if WAITS.iter().any(|w| text.contains(w)) {
            found.insert(path.to_string_lossy().into_owned());
        }
    }
    let expected: BTreeSet<String> = MAY_WAIT.iter().map(|&p| p.to_owned()).collect();
    assert_eq!(found, expected, "files that wait for a lock");
}

#[test]
fn readme_fits_on_two_screens() {
    let lines = read("README.md").lines().count();
    assert!(
        lines <= README_LINES_MAX,
        "{lines} lines: move some to docs/"
    );
}

/// Links of the documents lead to a file, and to a heading of it.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    for page in documents() {
        let text = read(&page);
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split(')').next().unwrap();
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            if target.contains("://") {
                continue;
            }
            let file = match target {
                "" => page.clone(),
                target => page.parent().unwrap().join(target),
            };
            let is_there = top().join(&file).exists()
                && (anchor.is_empty() || anchors(&read(&file)).contains(anchor));
            if !is_there {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "lead nowhere:\n{}", wrong.join("\n"));
}

/// The headings of a page, as links name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let headings = text.lines().filter_map(|line| {
        is_code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        (!is_code && heading.len() < line.len()).then(|| heading.trim().to_lowercase())
    });
    let word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    headings
        .map(|h| h.replace(' ', "-").chars().filter(|&c| word(c)).collect())
        .collect()
}

/// A page that no table of contents names is found by nobody.
#[test]
fn each_page_is_in_the_table_of_contents() {
    let contents = read("docs/README.md");
    for page in files_below(&top().join("docs")) {
        let name = page.file_name().unwrap().to_string_lossy();
        let is_named = name == "README.md" || contents.contains(&format!("({name})"));
        assert!(is_named, "docs/README.md does not name {name}");
    }
}

fn documents() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = files_below(&top().join("docs"))
        .into_iter()
        .map(|p| p.strip_prefix(top()).unwrap().to_owned())
        .collect();
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ] {
        pages.push(page.into());
    }
    pages
}

/// The part of a document below a heading, up to the next heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let at = text.find(heading).unwrap_or_else(|| panic!("{heading}"));
    let body = &text[at + heading.len()..];
    &body[..body.find("\n#").unwrap_or(body.len())]
}

/// Each invariant of ARCHITECTURE.md names a test (`file::name`), and the test exists.
#[test]
fn each_invariant_names_a_test_that_exists() {
    let text = read("ARCHITECTURE.md");
    let tests: Vec<(PathBuf, String)> =
        sources("tests").into_iter().chain(sources("src")).collect();
    let exists = |place: &str, name: &str| {
        tests.iter().any(|(path, text)| {
            let stands_there = path
                .iter()
                .any(|p| Path::new(p).file_stem().is_some_and(|s| s == place));
            let definition = text.find(&format!("fn {name}("));
            stands_there && definition.is_some_and(|at| text[..at].trim_end().ends_with("#[test]"))
        })
    };
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in section(&text, "## Invariants").lines() {
        let Some((number, rest)) = line.split_once(". ") else {
            continue;
        };
        if number.parse::<u32>().is_err() {
            continue;
        }
        count += 1;
        let held_by = rest.split("*Held by*").nth(1).unwrap_or_default();
        let named = held_by.split('`').filter_map(|t| t.split_once("::"));
        let named: Vec<_> = named.collect();
        if named.is_empty() {
            wrong.push(format!("{number} names no test"));
        }
        for (place, name) in named {
            if !exists(place, name) {
                wrong.push(format!("{number}: there is no test {place}::{name}"));
            }
        }
    }
    assert!(count >= 13, "only {count} invariants");
    assert!(wrong.is_empty(), "invariants:\n{}", wrong.join("\n"));
}

/// Each key of the template that `harness init` writes has a row in docs/configuration.md.
#[test]
fn each_key_is_documented() {
    let root = Root::plain();
    fs::remove_file(root.at("harness.toml")).unwrap();
    root.ok(&["init"]);
    let template = fs::read_to_string(root.at("harness.toml")).unwrap();
    let page = read("docs/configuration.md");
    let (mut table, mut count) = (String::new(), 0);
    for line in template.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            table = name.split([']', '.']).next().unwrap().to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            let heading = page
                .lines()
                .find(|l| {
                    l.starts_with("## ")
                        && (l.contains(&format!("`[{table}]`"))
                            || l.contains(&format!("`[{table}.NAME]`")))
                })
                .unwrap_or_else(|| panic!("docs/configuration.md has no [{table}]"));
            // A repository's table has those of its landings, too.
            let also = if table == "repos" {
                "## `[integrate]`"
            } else {
                heading
            };
            let mut rows = [heading, also].into_iter().map(|h| section(&page, h));
            assert!(
                rows.any(|rows| rows.contains(&format!("\n| `{key}` "))),
                "docs/configuration.md does not say what [{table}] {key} is"
            );
            count += 1;
        }
    }
    assert!(count >= 35, "only {count} keys");
}

/// Each event of the record has a row in ARCHITECTURE.md.
#[test]
fn each_record_event_is_documented() {
    let file = read("src/record/line.rs");
    let events = file.split_once("pub enum Event {").unwrap().1;
    let events = events.split_once("\n}").unwrap().0;
    let page = read("ARCHITECTURE.md");
    let rows = section(&page, "### Events of the record");
    let mut count = 0;
    for line in events.lines().map(str::trim) {
        let name: String = line.chars().take_while(|c| c.is_alphanumeric()).collect();
        if name.is_empty() || name == "Unknown" {
            continue;
        }
        // As serde's `snake_case` writes it.
        let mut word = String::new();
        for c in name.chars() {
            if c.is_uppercase() && !word.is_empty() {
                word.push('_');
            }
            word.push(c.to_ascii_lowercase());
        }
        let is_there = rows.lines().any(|row| {
            let first = row.split('|').nth(1).unwrap_or_default();
            row.starts_with('|') && first.contains(&format!("`{word}`"))
        });
        assert!(
            is_there,
            "ARCHITECTURE.md does not say what the event {word} is"
        );
        count += 1;
    }
    assert!(count >= 15, "only {count} events");
}
