//! Changes one key of `harness.toml`'s text, and leaves all else as a person wrote it.
//!
//! Does not know the file system, nor whether the result fits together: who writes it reads it first.

use serde_json::Value as Json;
use toml_edit::{DocumentMut, Item, TableLike, Value};

use super::file;
use super::keys::{KEYS, Key, Kind, TABLES, Table};
use super::{nearest, value};

/// A key as people write it: `agent`, `harness.agent`, `agents.mine.model`, `agents.mine.env.NAME`.
#[derive(Debug)]
pub struct KeyPath {
    key: &'static Key,
    /// The NAME of `[agents.NAME]` and `[repos.NAME]`, empty for other tables.
    name: String,
    /// The variable in a table of them.
    variable: Option<String>,
}

impl KeyPath {
    /// # Errors
    /// No key, or more than one, has this name: a sentence that begins with "it is", or what it may be.
    pub fn parse(text: &str) -> Result<KeyPath, String> {
        let Some((first, rest)) = text.split_once('.') else {
            return KeyPath::of_any_table(text);
        };
        let table = Table::parse(first).ok_or_else(|| {
            let near = nearest::advice(first, TABLES.iter().map(|t| t.name()));
            format!("no table has the name {}: {near}", nearest::quoted(first))
        })?;
        // `gates.size` is of [gates], `gates.test.command` of [gates.test].
        let table = match table {
            Table::Gates if rest.contains('.') => Table::Gate,
            other => other,
        };
        let (rest, variable) = match rest.split_once(".env.") {
            Some((name, variable)) if table == Table::Agents => {
                (format!("{name}.env"), Some(variable.to_owned()))
            }
            _ => (rest.to_owned(), None),
        };
        if let (Table::Tokens, Some(key)) = (table, Table::Tokens.keys().next()) {
            file::check_name(table, &rest)?;
            return Ok(KeyPath {
                key,
                name: rest,
                variable: None,
            });
        }
        let (name, last) = match (table.is_named(), rest.rsplit_once('.')) {
            (true, Some((name, last))) => (name, last),
            (true, None) => {
                let table = table.name();
                return Err(format!("say of which one: {table}.NAME.{rest}"));
            }
            (false, _) => ("", rest.as_str()),
        };
        let key = table.key(last).ok_or_else(|| {
            let near = nearest::advice(last, table.keys().map(|k| k.name).collect::<Vec<_>>());
            let of_gate = match table {
                Table::Gates => "; a gate has keys of its own: gates.NAME.command",
                _ => "",
            };
            let table = table.name();
            format!(
                "[{table}] has no key {}: {near}{of_gate}",
                nearest::quoted(last)
            )
        })?;
        if !name.is_empty() {
            file::check_name(table, name)?;
        }
        let name = name.to_owned();
        Ok(KeyPath {
            key,
            name,
            variable,
        })
    }

    /// A key without its table: that of `[harness]`, or the only one.
    fn of_any_table(word: &str) -> Result<KeyPath, String> {
        let all: Vec<&'static Key> = KEYS.iter().filter(|k| k.name == word).collect();
        let plain = |key: &&&Key| !key.table.is_named();
        let own = |key: &&&Key| key.table == Table::Harness;
        let found = all.iter().find(own).or_else(|| match &all[..] {
            [only] => Some(only).filter(plain),
            _ => None,
        });
        if let Some(&key) = found {
            let name = String::new();
            return Ok(KeyPath {
                key,
                name,
                variable: None,
            });
        }
        if all.is_empty() {
            let near = nearest::advice(word, KEYS.iter().map(|k| k.name));
            return Err(format!(
                "no key has the name {}: {near}",
                nearest::quoted(word)
            ));
        }
        let full = |k: &&Key| match k.table.is_named() && k.table != Table::Tokens {
            true => format!("{}.NAME.{word}", k.table.name()),
            false => format!("{}.{word}", k.table.name()),
        };
        let full: Vec<String> = all.iter().map(full).collect();
        Err(format!("say which: {}", full.join(", ")))
    }

    /// `agents.mine.model`, as `harness config` shows it.
    pub fn shown(&self) -> String {
        super::path_of(self.key.table, &self.name, self.key)
    }

    /// The environment variable that goes over the file.
    pub fn overridden_by(&self) -> Option<String> {
        self.key.variable()
    }

    fn header(&self) -> Vec<&str> {
        let name = match self.key.table {
            Table::Tokens => "",
            _ => &*self.name,
        };
        let names = [self.key.table.name(), name];
        names.into_iter().filter(|n| !n.is_empty()).collect()
    }

    /// Its name in the file.
    fn word(&self) -> &str {
        match self.key.table {
            Table::Tokens => &self.name,
            _ => self.key.name,
        }
    }
}

/// The text of `harness.toml` with this key set. `given` is TOML, or text without its quotes.
///
/// # Errors
/// The value does not fit the key, or the text is not TOML: a sentence.
pub fn set(text: &str, path: &KeyPath, given: &str) -> Result<String, String> {
    let value = fitting(path, given)?;
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let mut doc = parsed(&text)?;
    if table_of(&mut doc, &path.header()).is_none() {
        text = with_table(&text, &path.header());
        doc = parsed(&text)?;
    }
    let missing = || format!("`{}` is no table there", path.header().join("."));
    let table = table_of(&mut doc, &path.header()).ok_or_else(missing)?;
    let name = path.word();
    match &path.variable {
        None => put(table, name, value),
        Some(variable) => {
            let vars = table
                .entry(name)
                .or_insert_with(|| Item::Value(toml_edit::InlineTable::new().into()));
            put(
                vars.as_table_like_mut().ok_or_else(missing)?,
                variable,
                value,
            );
            if let Some(line) = vars.as_inline_table_mut() {
                line.fmt();
            }
        }
    }
    Ok(doc.to_string())
}

/// The value as TOML, if the key takes it: as it is written, or as text in quotes.
fn fitting(path: &KeyPath, given: &str) -> Result<Value, String> {
    let kind = match path.variable {
        Some(_) => return Ok(Value::from(given)),
        None => &path.key.kind,
    };
    let fits = |value: &Value| {
        let json = json_of(value).ok_or_else(|| value::wrong(kind, "a date"))?;
        value::from_json(kind, &json).map(|_| ())
    };
    let literal = given.trim().parse::<Value>();
    if let Ok(mut value) = literal.clone()
        && fits(&value).is_ok()
    {
        value.decor_mut().clear();
        return Ok(value);
    }
    let is_list = matches!(
        kind,
        Kind::Choices(_) | Kind::Words | Kind::Patterns | Kind::Arguments | Kind::Argv
    );
    // Words that a person would not put in quotes and brackets.
    let bare = match is_list {
        true => {
            let words = given.split([',', ' ']).filter(|w| !w.is_empty());
            Value::from(words.collect::<toml_edit::Array>())
        }
        false => Value::from(given),
    };
    let fault = match (literal, given.contains(['[', '"'])) {
        (Ok(value), true) => fits(&value),
        (Err(_), true) if is_list => Err(value::wrong(kind, "this text, which is not TOML")),
        _ => fits(&bare),
    };
    fault
        .map(|()| bare)
        .map_err(|why| format!("`{}` {why}", path.word()))
}

fn json_of(value: &Value) -> Option<Json> {
    Some(match value {
        Value::String(text) => Json::from(text.value().as_str()),
        Value::Integer(n) => Json::from(*n.value()),
        Value::Float(x) => serde_json::Number::from_f64(*x.value()).map(Json::Number)?,
        Value::Boolean(on) => Json::from(*on.value()),
        Value::Datetime(_) => return None,
        Value::Array(items) => items.iter().map(json_of).collect::<Option<_>>()?,
        Value::InlineTable(table) => table
            .iter()
            .map(|(k, v)| Some((k.to_owned(), json_of(v)?)))
            .collect::<Option<_>>()?,
    })
}

fn parsed(text: &str) -> Result<DocumentMut, String> {
    text.parse()
        .map_err(|e: toml_edit::TomlError| format!("not TOML: {}", e.message().replace('\n', ", ")))
}

fn table_of<'d>(doc: &'d mut DocumentMut, header: &[&str]) -> Option<&'d mut dyn TableLike> {
    let mut item = doc.as_item_mut();
    for name in header {
        item = item.as_table_like_mut()?.get_mut(name)?;
    }
    item.as_table_like_mut()
}

/// The text with this table, where the template has it behind a `#`, else at its end.
fn with_table(text: &str, header: &[&str]) -> String {
    let name = |n: &&str| match n.contains('.') {
        true => format!("\"{n}\""),
        false => (*n).to_owned(),
    };
    let names: Vec<String> = header.iter().map(name).collect();
    let line = format!("[{}]", names.join("."));
    let hidden = format!("#{line}");
    let lines = || text.split_inclusive('\n');
    if !lines().any(|l| l.trim_end() == hidden) {
        let gap = if text.is_empty() { "" } else { "\n" };
        return format!("{text}{gap}{line}\n");
    }
    let mut first = true;
    let show = |l: &str| match l.trim_end() == hidden && std::mem::take(&mut first) {
        true => l.replacen('#', "", 1),
        false => l.to_owned(),
    };
    lines().map(show).collect()
}

/// Sets a key, and keeps the comment behind its value.
fn put(table: &mut dyn TableLike, name: &str, mut value: Value) {
    match table.get_mut(name).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            table.insert(name, Item::Value(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::template;

    fn edited(text: &str, path: &str, given: &str) -> Result<String, String> {
        set(text, &KeyPath::parse(path)?, given)
    }

    #[test]
    fn a_key_is_set_and_nothing_else_changes() {
        let text = "# mine\n[harness] # all of it\nworkers = 3 # not more\n# and\nagent='claude'\n\n[repo]\n";
        let new = edited(text, "workers", "5").unwrap();
        assert_eq!(new, text.replace("= 3", "= 5"));
        let new = edited(text, "harness.agent", "codex").unwrap();
        assert_eq!(new, text.replace("'claude'", "\"codex\""));
        let new = edited(text, "repo.base", "main").unwrap();
        assert_eq!(new, format!("{text}base = \"main\"\n"));
        let new = edited(text, "limits.keep", "10d").unwrap();
        assert_eq!(new, format!("{text}\n[limits]\nkeep = \"10d\"\n"));
        let new = edited("", "gates.test.command", "cargo test").unwrap();
        assert_eq!(new, "[gates.test]\ncommand = [\"cargo\", \"test\"]\n");
        let new = edited(&new, "gates.size", "1MB").unwrap();
        assert!(new.contains("[gates]\nsize = \"1MB\"\n"), "{new}");
        let new = edited("", "agents.a.b.cli", "claude").unwrap();
        assert_eq!(new, "[agents.\"a.b\"]\ncli = \"claude\"\n");
        let one = "[agents.a]\nenv = { A = \"1\" }";
        let new = edited(one, "agents.a.env.B", "2").unwrap();
        assert_eq!(new, "[agents.a]\nenv = { A = \"1\", B = \"2\" }\n");
    }

    #[test]
    fn what_the_template_hides_is_shown_where_it_stands() {
        let new = edited(&template(), "agent", "claude").unwrap();
        assert_eq!(
            new,
            template().replace("#[harness]\n", "[harness]\nagent = \"claude\"\n")
        );
        let new = edited(&new, "retry.max", "0").unwrap();
        assert!(new.contains("\n[retry]\nmax = 0\n"), "{new}");
        assert!(file::parse(&new).is_ok());
    }

    #[test]
    fn values_are_as_people_type_them() {
        for (path, given, line) in [
            ("timeout", "90", "timeout = 90"),
            ("timeout", "1h30m", "timeout = \"1h30m\""),
            (
                "notify_on",
                "done, parked",
                "notify_on = [\"done\", \"parked\"]",
            ),
            ("notify_on", "[\"done\"]", "notify_on = [\"done\"]"),
            ("agent", "\"claude\"", "agent = \"claude\""),
            ("agents.a.model", "5", "model = \"5\""),
            ("agents.a.resume", "true", "resume = true"),
            ("disk_free_min", "1GB", "disk_free_min = \"1GB\""),
            ("tokens.gpu", "1", "gpu = 1"),
        ] {
            let new = edited("", path, given).unwrap();
            assert_eq!(new.lines().nth(1), Some(line));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        for (path, given, why) in [
            ("worker", "3", "`workers`"),
            ("workers", "many", "from 1 to 1024, not the text"),
            ("base", "main", "say which: repo.base, repos.NAME.base"),
            ("agents.model", "x", "agents.NAME.model"),
            ("agent.mine.model", "x", "`agents`"),
            ("harness.tmeout", "3", "`timeout`"),
            ("tokens.gpu", "0", "`gpu` must be a whole number from 1"),
            ("tokens.a.b", "1", "no dot"),
            ("build", "1", "say which: tokens.build"),
            ("notify_on", "[\"done\"", "not this text"),
            ("repos.default.path", "x", "[repo]"),
        ] {
            let told = edited("", path, given).unwrap_err();
            assert!(told.contains(why), "{path} {given}: {told}");
        }
        assert!(
            edited("[harness\n", "workers", "3")
                .unwrap_err()
                .contains("not TOML")
        );
    }
}
