//! `harness config`: the value of every key and where it comes from. `harness config set`: changes
//! one in `harness.toml`.
//!
//! Does not know how values are found. Invariant: values of agents' environment variables are never
//! shown, as they are often secrets.

use std::collections::BTreeMap;
use std::fs;

use clap::Subcommand;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use super::{Json as AsJson, hidden, init};
use crate::agents;
use crate::aggregator;
use crate::atomic;
use crate::config::edit::{self, KeyPath};
use crate::config::{self, Config, Overrides, value};
use crate::error::{Error, Result};
use crate::hold;
use crate::layout::Root;
use crate::view::{print_json, print_text};

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Change one key in harness.toml; comments and all else in it stay as they are
    Set {
        /// Like agent, retry.max or agents.mine.model: a name that `harness config` shows
        key: String,
        /// Like claude, 5, 1h30m, or a list: '["a", "b"]'
        #[arg(allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        json: AsJson,
    },
}

pub(super) fn config(root: &Root, command: Option<ConfigCommand>, as_json: bool) -> Result<u8> {
    match command {
        Some(ConfigCommand::Set { key, value, json }) => {
            set(root, &key, &value, as_json || json.json)
        }
        None => {
            let config = Config::load(root, &Overrides::default())?;
            hidden::say_if_config_is_gone(root);
            match as_json {
                true => print_json(&in_force(&config)),
                false => print_text(&text(&config)),
            }
        }
    }
}

fn set(root: &Root, key: &str, given: &str, as_json: bool) -> Result<u8> {
    let what = "cannot set the key";
    let path = KeyPath::parse(key).map_err(|why| {
        Error::usage(what, why).hint("`harness config` lists the keys that are in force")
    })?;
    init::ensure_tree(root)?;
    // A person's own symlink is followed, and stays.
    let file = fs::canonicalize(root.config()).unwrap_or_else(|_| root.config());
    let before = config::text_of(root)?;
    let after = edit::set(&before, &path, given)
        .map_err(|why| Error::usage(what, why).at_path(&root.config()))?;
    let config = Config::of_text(root, &after, &Overrides::default())?;
    if after != before {
        atomic::rewrite(&file, after.as_bytes())?;
        let _copied = hidden::keep_config(root, &after)?;
    }
    let name = path.shown();
    let entry = config.sources.entry(&name);
    let shown = entry.map_or_else(String::new, |e| value::text(&e.kind, &e.value));
    let line = match entry.map(|e| &e.source) {
        Some(source @ config::Source::Environment(_)) => {
            let line = format!("{name} is set, but {source} goes over it: {shown} is in force");
            crate::error::tell(&format!("harness: {line}"));
            line
        }
        _ => format!("{name} = {shown}"),
    };
    if aggregator::any_harness_alive(root)? {
        crate::error::tell("harness: a run in progress keeps the values that it began with");
    } else {
        // As the next run would.
        let mut over = agents::lacks_over(root, &config, |_| true);
        over.try_for_each(|hold| hold::end(root, &hold.agent).map(drop))?;
    }
    match as_json {
        true => {
            let value = entry.map_or(Json::Null, |e| value::public(&e.value));
            let source = entry.map_or_else(String::new, |e| e.source.to_string());
            let entry = Entry { value, source };
            print_json(&KeySet { key: name, entry })
        }
        false => print_text(&format!("{line}\n")),
    }
}

/// A table of key, value and source, one line per key.
pub fn text(config: &Config) -> String {
    let rows: Vec<[String; 3]> = config
        .sources
        .0
        .iter()
        .map(|e| {
            [
                e.key.clone(),
                value::text(&e.kind, &e.value),
                e.source.to_string(),
            ]
        })
        .collect();
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let (key_width, value_width) = (width(0), width(1).min(40));
    let mut out = String::new();
    for [key, value, source] in rows {
        out.push_str(&format!(
            "{key:key_width$}  {value:value_width$}  {source}\n"
        ));
    }
    out
}

/// The keys in force, by name: `harness.workers`.
#[derive(Serialize, JsonSchema)]
pub(super) struct InForce(BTreeMap<String, Entry>);

/// A key's value, and where it comes from.
#[derive(Serialize, JsonSchema)]
struct Entry {
    /// Times in seconds, sizes in bytes; `None`: it is not set.
    value: Json,
    /// `default`, `harness.toml:LINE`, or a variable.
    source: String,
}

/// The key that was set, as it is in force then.
#[derive(Serialize, JsonSchema)]
pub(super) struct KeySet {
    /// Its name, like `harness.workers`.
    key: String,
    #[serde(flatten)]
    entry: Entry,
}

fn in_force(config: &Config) -> InForce {
    let entries = config.sources.0.iter().map(|e| {
        let entry = Entry {
            value: value::public(&e.value),
            source: e.source.to_string(),
        };
        (e.key.clone(), entry)
    });
    InForce(entries.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Overrides;
    use crate::layout::Root;

    #[test]
    fn text_and_json_show_value_and_source() {
        let dir = tempfile::tempdir().expect("temp dir");
        let toml = "[harness]\ntimeout = \"1h30m\"\n[agents.a]\ncommand = [\"a\"]\nenv = { KEY = \"secret\" }\n";
        let root = Root::new(dir.path());
        drop(crate::atomic::create(&root.config(), toml.as_bytes(), 0o600).expect("write"));
        let config = Config::load_with(&root, &Overrides::default(), |_| None).expect("loads");
        let (text, json) = (text(&config), json!(in_force(&config)));
        let line = text
            .lines()
            .find(|l| l.starts_with("harness.timeout"))
            .expect("line");
        let words: Vec<&str> = line
            .split("  ")
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .collect();
        assert_eq!(words, ["harness.timeout", "1h 30m", "harness.toml:2"]);
        assert_eq!(
            json["harness.timeout"],
            json!({"value": 5400, "source": "harness.toml:2"})
        );
        assert_eq!(
            json["harness.agent"],
            json!({"value": null, "source": "default"})
        );
        assert!(!text.contains("secret") && !json.to_string().contains("secret"));
    }
}
