//! `harness config`: the value of every key and where it comes from.
//!
//! Does not know how values are found. Invariant: values of agents' environment variables are never
//! shown, as they are often secrets.

use serde_json::{Map, Value as Json, json};

use crate::config::{Config, value};

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

/// `{"harness.workers": {"value": 3, "source": "default"}, …}`: times in seconds, sizes in bytes,
/// unset keys as `null`.
pub fn json(config: &Config) -> Json {
    let entries = config.sources.0.iter().map(|e| {
        let shown = json!({"value": value::public(&e.value), "source": e.source.to_string()});
        (e.key.clone(), shown)
    });
    Json::Object(entries.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
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
        let (text, json) = (text(&config), json(&config));
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
