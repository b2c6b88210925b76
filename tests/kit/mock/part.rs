//! Which play, with which parameters.

use std::collections::BTreeMap;
use std::time::Duration;

/// `NAME k=v …`. In values an underscore stands for a space.
#[derive(Debug, Clone)]
pub struct Part {
    pub name: String,
    values: BTreeMap<String, String>,
}

impl Part {
    /// The last marker in the prompt, else `MOCK_PLAY`, else `success`. A part with `first=K` is
    /// played in attempts 1 to K only, and `success` afterwards.
    pub fn choose(prompt: &str) -> Part {
        let marked = prompt
            .rsplit_once("[[mock:")
            .and_then(|(_, rest)| rest.split_once("]]"))
            .map(|(spec, _)| spec.to_owned());
        let spec = marked.or_else(|| std::env::var("MOCK_PLAY").ok());
        let mut part = Part::parse(spec.as_deref().unwrap_or("success"));
        let attempt = std::env::var("HARNESS_ATTEMPT").ok();
        let attempt: u64 = attempt.and_then(|a| a.parse().ok()).unwrap_or(1);
        if attempt > part.number("first", u64::MAX) {
            part.name = "success".into();
        }
        part
    }

    fn parse(spec: &str) -> Part {
        let mut words = spec.split_whitespace();
        let name = words.next().unwrap_or("success").to_owned();
        let values = words
            .filter_map(|w| w.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        Part { name, values }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    pub fn text(&self, key: &str, default: &str) -> String {
        self.get(key)
            .map_or(default.into(), |v| v.replace('_', " "))
    }

    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.get(key)
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    }

    /// Seconds, fractions allowed.
    pub fn seconds(&self, key: &str, default: f64) -> Duration {
        let given = self.get(key).and_then(|v| v.parse().ok());
        Duration::from_secs_f64(given.unwrap_or(default))
    }
}
