//! Reads `harness.toml` and checks it against the table of keys; every error names its line.
//!
//! Does not know the environment, the command line or the typed configuration. Invariants: nothing
//! in the file is ignored silently, and any file is read in bounded time.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Fallback, KEYS, Key, TABLES, Table};
use super::nearest;
use super::sandbox::{self, SCRIPT};
use super::value;
use crate::adapters;
use crate::atomic;
use crate::error::{Context, Error, Result};
use crate::limits::CONFIG_BYTES_MAX;

/// Keys that need `cli`: they become arguments of a command line built by harness.
const NEED_CLI: [&str; 7] = [
    "args",
    "model",
    "tools",
    "permission_mode",
    "settings",
    "config_dir",
    "resume",
];
/// Most problems that one error lists.
const PROBLEMS_MAX: usize = 5;

/// One problem in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Counted from 1.
    pub line: usize,
    pub text: String,
}

/// A key that the file sets.
#[derive(Debug)]
pub(super) struct Setting {
    pub key: &'static Key,
    /// The NAME of `[agents.NAME]` and `[repos.NAME]`, empty for other tables.
    pub name: String,
    /// In the form of `value::from_json`.
    pub value: Json,
    pub line: usize,
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub settings: Vec<Setting>,
    /// Every `[agents.NAME]` and `[repos.NAME]` in the file's order, then an agent without a table.
    pub named: Vec<(Table, String)>,
}

impl Parsed {
    /// The value that the file sets for a key.
    pub(super) fn setting(&self, table: Table, name: &str, key: &str) -> Option<&Setting> {
        let mut of_table = self.settings.iter().filter(|s| s.key.table == table);
        of_table.find(|s| s.name == name && s.key.name == key)
    }

    /// `[harness] agent = "claude"` needs no `[agents.claude]`.
    fn imply_agent(&mut self) {
        let agent = self.setting(Table::Harness, "", "agent");
        let Some(name) = agent.and_then(|s| s.value.as_str()) else {
            return;
        };
        let table = (Table::Agents, name.to_owned());
        if adapters::NAMES.contains(&name) && !self.named.contains(&table) {
            self.named.push(table);
        }
    }
}

/// The file's text; empty if there is no file.
///
/// # Errors
/// Permanent: not a regular file, larger than `CONFIG_BYTES_MAX`, not UTF-8, not readable.
pub(super) fn read(path: &Path) -> Result<String> {
    let what = "cannot read the configuration";
    let opened = atomic::open_to_look(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !atomic::exists(path) => {
            return Ok(String::new());
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(
                Error::permanent(what, "it is a symlink that points nowhere").at_path(path),
            );
        }
        Err(e) => return Err(Error::io(what, path, &e)),
    };
    let meta = file.metadata().or_fail(what, path)?;
    if !meta.is_file() {
        return Err(Error::permanent(what, "it is not a regular file").at_path(path));
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .or_fail(what, path)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        let why = format!("it is larger than {CONFIG_BYTES_MAX} bytes");
        return Err(Error::permanent(what, why).at_path(path));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = line_of(e.as_bytes(), at);
        let why = format!("line {line}: byte {} of the file is not UTF-8", at + 1);
        Error::permanent(what, why)
            .at_path(path)
            .hint("save the file as UTF-8")
    })
}

/// Checks the text against the table of keys.
///
/// # Errors
/// All problems (at least one), in the file's order.
pub(super) fn parse(text: &str) -> std::result::Result<Parsed, Vec<Problem>> {
    let mut reader = Reader {
        text,
        out: Parsed::default(),
        problems: Vec::new(),
    };
    match DeTable::parse(text) {
        Ok(table) => reader.top(table.get_ref()),
        Err(e) => {
            let at = e.span().map_or(0, |s| s.start);
            let said = match e.message() {
                "duplicate key" => twice(text, at),
                other => format!("not TOML: {}", other.replace('\n', ", ")),
            };
            reader.problem(at..at, said);
        }
    }
    if reader.problems.is_empty() {
        reader.out.imply_agent();
        return Ok(reader.out);
    }
    reader.problems.sort_by_key(|p| p.line);
    Err(reader.problems)
}

/// What to say of a table or key that is there already. `at`: where it is again.
fn twice(text: &str, at: usize) -> String {
    let again = line_of(text.as_bytes(), at);
    let lines: Vec<&str> = text.lines().map(str::trim).take(again).collect();
    let (line, before) = lines.split_last().unwrap_or((&"", &[]));
    let header = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        line.starts_with('[').then(|| line.replace([' ', '\t'], ""))
    };
    if let Some(table) = header(line) {
        let first = before
            .iter()
            .position(|l| header(l).as_ref() == Some(&table));
        let first = first.map_or_else(String::new, |n| format!(", in line {}", n + 1));
        return format!("the table {table} is there already{first}: put its keys together");
    }
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let in_table = before.iter().rposition(|l| header(l).is_some());
    let first = before.iter().skip(in_table.unwrap_or(0));
    let first = first
        .clone()
        .position(|l| l.contains('=') && key(l) == key(line));
    let first = first.map_or_else(String::new, |n| {
        format!(", in line {}", n + in_table.unwrap_or(0) + 1)
    });
    let table = in_table.and_then(|n| header(before[n]));
    let table = table.map_or_else(String::new, |t| format!(" in {t}"));
    format!(
        "`{}`{table} is set already{first}: keep one of them",
        plain(&key(line))
    )
}

/// The error of a file with these problems.
pub(super) fn refusal(path: &Path, problems: &[Problem]) -> Error {
    let shown = problems.iter().take(PROBLEMS_MAX);
    let mut lines: Vec<String> = shown
        .map(|p| format!("line {}: {}", p.line, p.text))
        .collect();
    if problems.len() > PROBLEMS_MAX {
        lines.push(format!("and {} more", problems.len() - PROBLEMS_MAX));
    }
    Error::permanent("cannot use the configuration", lines.join("; "))
        .at_path(path)
        .hint("correct these lines; `harness init` in an empty directory writes a file with every key explained")
}

/// The value of an unset key; `null` if it has no default. `with_cli`: for an agent whose command
/// line harness builds.
///
/// # Errors
/// Only if the table of keys itself is wrong, which a test excludes.
pub(super) fn default_of(key: &Key, with_cli: bool) -> Result<Json> {
    let text = match key.default {
        Fallback::Is(text) => text,
        Fallback::WithCli(text, _) if with_cli => text,
        Fallback::WithCli(_, text) => text,
        Fallback::Unset(_) | Fallback::Required(_) => return Ok(Json::Null),
    };
    let parsed = DeValue::parse(text).map_err(|e| e.message().to_owned());
    parsed
        .and_then(|v| convert(key, v.get_ref()))
        .map_err(|why| Error::permanent(format!("the default of `{}` is wrong", key.name), why))
}

struct Reader<'t> {
    text: &'t str,
    out: Parsed,
    problems: Vec<Problem>,
}

type Name<'i> = Spanned<std::borrow::Cow<'i, str>>;

impl Reader<'_> {
    fn problem(&mut self, at: Range<usize>, text: String) {
        let line = line_of(self.text.as_bytes(), at.start);
        self.problems.push(Problem { line, text });
    }

    fn top(&mut self, top: &DeTable<'_>) {
        for (name, value) in top {
            let word = name.get_ref().as_ref();
            match (Table::parse(word), value.get_ref()) {
                (Some(Table::Gates), DeValue::Table(inner)) => {
                    self.table(Table::Gates, "", inner);
                    self.named(Table::Gate, inner);
                }
                (Some(Table::Tokens), DeValue::Table(inner)) => self.tokens(inner),
                (Some(table), DeValue::Table(inner)) if table.is_named() => {
                    self.named(table, inner);
                }
                (Some(table), DeValue::Table(inner)) => self.table(table, "", inner),
                (Some(_), other) => {
                    let is = other.type_str();
                    self.problem(
                        name.span(),
                        format!("`{word}` must be a table `[{word}]`, not a {is}"),
                    );
                }
                (None, other) => {
                    let text = unknown_at_top(word, other.is_table());
                    self.problem(name.span(), text);
                }
            }
        }
    }

    /// Its keys are names.
    fn tokens(&mut self, inner: &DeTable<'_>) {
        for (name, value) in inner {
            let word = name.get_ref().as_ref();
            if let Err(why) = check_name(Table::Tokens, word) {
                self.problem(name.span(), format!("`{}` in [tokens]: {why}", plain(word)));
                continue;
            }
            for key in Table::Tokens.keys() {
                self.setting(key, word, name.span(), value, || {
                    format!("`{word}` in [tokens]")
                });
            }
            self.out.named.push((Table::Tokens, word.to_owned()));
        }
    }

    fn named(&mut self, table: Table, tables: &DeTable<'_>) {
        for (name, value) in tables {
            let word = name.get_ref().as_ref();
            let label = format!("[{}.{}]", table.name(), plain(word));
            // A key of [gates] itself.
            if table == Table::Gate && !value.get_ref().is_table() {
                continue;
            }
            if let Err(why) = check_name(table, word) {
                self.problem(name.span(), format!("{label}: {why}"));
                continue;
            }
            let DeValue::Table(inner) = value.get_ref() else {
                self.problem(name.span(), format!("{label} must be a table"));
                continue;
            };
            self.table(table, word, inner);
            match table {
                Table::Agents => self.agent(&label, word, name.span(), inner),
                Table::Gate => self.gate(&label, name.span(), inner),
                _ => {}
            }
            for key in table.keys() {
                if let Fallback::Required(example) = key.default
                    && !inner.keys().any(|k| k.get_ref() == key.name)
                {
                    let text = format!(
                        "{label} needs `{}`, for example {} = {example}",
                        key.name, key.name
                    );
                    self.problem(name.span(), text);
                }
            }
            self.out.named.push((table, word.to_owned()));
        }
    }

    /// A gate is a program or a script.
    fn gate(&mut self, label: &str, at: Range<usize>, inner: &DeTable<'_>) {
        let given = |key: &str| inner.keys().any(|k| k.get_ref() == key);
        let what = match (given("command"), given("script")) {
            (true, false) | (false, true) => return,
            (true, true) => "has both `command` and `script`: keep one of them",
            (false, false) => {
                "needs `command` or `script`, for example command = [\"cargo\", \"test\"]"
            }
        };
        self.problem(at, format!("{label} {what}"));
    }

    /// Checks that the keys of an agent's table fit together.
    fn agent(&mut self, label: &str, name: &str, at: Range<usize>, inner: &DeTable<'_>) {
        if name == SCRIPT {
            let others = inner
                .keys()
                .filter(|key| !sandbox::KEYS.contains(&&**key.get_ref()));
            for key in others.collect::<Vec<_>>() {
                let text = format!(
                    "`{}` in {label}: a script runs by itself, and has only {}",
                    key.get_ref(),
                    sandbox::KEYS.map(|key| format!("`{key}`")).join(", ")
                );
                self.problem(key.span(), text);
            }
            return;
        }
        let given = |key: &str| inner.iter().find(|(k, _)| k.get_ref() == key);
        let with_cli = given("cli").is_some() || adapters::NAMES.contains(&name);
        if given("command").is_none() && !with_cli {
            let text = format!(
                "{label} needs `cli` (one of {}) or `command`, for example cli = \"claude\"",
                adapters::NAMES.join(", ")
            );
            return self.problem(at, text);
        }
        if given("cli").is_none() && given("command").is_some() {
            let needy = NEED_CLI.iter().filter_map(|key| given(key));
            for (key, _) in needy.collect::<Vec<_>>() {
                let text = format!(
                    "`{}` in {label} needs `cli`: a `command` alone says everything itself",
                    key.get_ref()
                );
                self.problem(key.span(), text);
            }
        } else if let Some((key, value)) = given("stdin")
            && value.get_ref().as_str() == Some("none")
        {
            let text =
                format!("`stdin` in {label} must be \"prompt\": that is what its `cli` reads");
            self.problem(key.span(), text);
        }
    }

    fn table(&mut self, table: Table, name: &str, inner: &DeTable<'_>) {
        let label = match name {
            "" => format!("[{}]", table.name()),
            _ => format!("[{}.{name}]", table.name()),
        };
        for (word, value) in inner {
            // [gates.NAME].
            if table == Table::Gates && value.get_ref().is_table() {
                continue;
            }
            let Some(key) = table.key(word.get_ref()) else {
                let text = unknown_key(table, &label, word);
                self.problem(word.span(), text);
                continue;
            };
            let shown = || format!("`{}` in {label}", key.name);
            self.setting(key, name, word.span(), value, shown);
        }
    }

    /// `at`: where the key stands; `shown`: how it is called.
    fn setting(
        &mut self,
        key: &'static Key,
        name: &str,
        at: Range<usize>,
        value: &Spanned<DeValue<'_>>,
        shown: impl Fn() -> String,
    ) {
        match convert(key, value.get_ref()) {
            Ok(value) => self.out.settings.push(Setting {
                key,
                name: name.to_owned(),
                value,
                line: line_of(self.text.as_bytes(), at.start),
            }),
            Err(why) => self.problem(value.span(), format!("{} {why}", shown())),
        }
    }
}

fn unknown_key(table: Table, label: &str, word: &Name<'_>) -> String {
    let word = word.get_ref().as_ref();
    let known: Vec<&str> = table.keys().map(|k| k.name).collect();
    let elsewhere = KEYS.iter().find(|k| k.name == word);
    let advice = match (nearest::nearest(word, known.iter().copied()), elsewhere) {
        (None, Some(key)) => format!("it belongs to [{}]", key.table.name()),
        _ => nearest::advice(word, known),
    };
    format!("unknown key `{}` in {label}: {advice}", plain(word))
}

fn unknown_at_top(word: &str, is_table: bool) -> String {
    let shown = plain(word);
    let near = nearest::nearest(word, TABLES.iter().map(|t| t.name()));
    let key = nearest::nearest(word, KEYS.iter().map(|k| k.name))
        .and_then(|near| KEYS.iter().find(|k| k.name == near));
    match (is_table, near, key) {
        (true, Some(near), _) => {
            format!("the table [{shown}] is not known to this version: the nearest is [{near}]")
        }
        (true, None, _) => {
            let known: Vec<String> = TABLES.iter().map(|t| format!("[{}]", t.name())).collect();
            format!(
                "the table [{shown}] is not known to this version: known are {}",
                known.join(" ")
            )
        }
        (false, _, Some(key)) => {
            let table = key.table.name();
            format!(
                "unknown key `{shown}` outside of any table: the nearest is `{}` in [{table}]",
                key.name
            )
        }
        (false, _, None) => format!("unknown key `{shown}`: keys stand in tables like [harness]"),
    }
}

pub(super) fn check_name(table: Table, name: &str) -> std::result::Result<(), String> {
    if !value::is_name(name) {
        return Err(
            "a name is 1 to 64 of A-Z a-z 0-9 _ . - and does not begin with . or -".to_owned(),
        );
    }
    match (table, name) {
        (Table::Repos, crate::layout::DEFAULT_REPO) => {
            Err("this name is that of [repo]: set its keys there".to_owned())
        }
        (Table::Agents, "command" | "none") => {
            Err("this name is built in: choose another".to_owned())
        }
        (Table::Tokens, dotted) if dotted.contains('.') => {
            Err("a token's name has no dot".to_owned())
        }
        (Table::Gate, "builtin" | "size" | "none" | "changed" | "paths" | "markers") => {
            Err("this name is built in: choose another".to_owned())
        }
        _ => Ok(()),
    }
}

/// A word from the file without quotes, clipped to one short line.
fn plain(word: &str) -> String {
    let quoted = nearest::quoted(word);
    quoted.trim_matches('"').to_owned()
}

fn convert(key: &Key, value: &DeValue<'_>) -> std::result::Result<Json, String> {
    let json = to_json(value).map_err(|what| value::wrong(&key.kind, what))?;
    value::from_json(&key.kind, &json)
}

/// The same value as JSON; the error names a type that JSON does not have.
fn to_json(value: &DeValue<'_>) -> std::result::Result<Json, &'static str> {
    Ok(match value {
        DeValue::String(text) => Json::from(text.as_ref()),
        DeValue::Boolean(on) => Json::from(*on),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
            .map(Json::from)
            .map_err(|_| "a number that large")?,
        DeValue::Float(x) => x
            .as_str()
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Json::Number)
            .ok_or("a number that is not finite")?,
        DeValue::Datetime(_) => return Err("a date"),
        DeValue::Array(items) => items
            .iter()
            .map(|item| to_json(item.get_ref()))
            .collect::<std::result::Result<_, _>>()?,
        DeValue::Table(table) => table
            .iter()
            .map(|(k, v)| Ok((k.get_ref().to_string(), to_json(v.get_ref())?)))
            .collect::<std::result::Result<_, &'static str>>()?,
    })
}

/// The line of a position, counted from 1.
fn line_of(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|b| **b == b'\n').count()
}
