//! `[sandbox]`, and the same keys in `[agents.NAME]`: what agents and gates may write, read and reach.

use std::borrow::Cow;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// As strong as the kernel can; what it cannot is said.
    On,
    Off,
    /// As strong as is promised, or nothing starts.
    Require,
}

/// Which TCP ports may be connected to and listened on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Network {
    #[default]
    #[serde(with = "open")]
    Open,
    #[serde(with = "none")]
    None,
    Ports(Vec<u16>),
}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "All of it, no TCP, or the TCP ports that may be connected to and listened on.",
            "anyOf": [
                {"type": "string", "enum": ["open", "none"]},
                {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 65535}},
            ],
        })
    }
}

/// Serde has no word for a variant without a tag.
macro_rules! word {
    ($name:ident, $word:literal) => {
        mod $name {
            use serde::de::Error;
            use serde::{Deserialize, Deserializer, Serializer};

            pub(super) fn serialize<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str($word)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
                match String::deserialize(from)?.as_str() {
                    $word => Ok(()),
                    _ => Err(D::Error::custom(concat!("not ", $word))),
                }
            }
        }
    };
}

word!(open, "open");
word!(none, "none");

/// `[sandbox]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SandboxTable {
    pub mode: SandboxMode,
    /// Absolute; their existence was not checked.
    pub write: Vec<PathBuf>,
    pub read: Vec<PathBuf>,
    pub deny: Vec<PathBuf>,
    pub network: Network,
    /// Names of variables, or what they begin with and a `*`.
    pub env_pass: Vec<String>,
}

/// The same keys in `[agents.NAME]`: lists are added to those of `[sandbox]`, the others replace them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SandboxKeys {
    pub sandbox: Option<SandboxMode>,
    pub write: Vec<PathBuf>,
    pub read: Vec<PathBuf>,
    pub deny: Vec<PathBuf>,
    pub network: Option<Network>,
    pub env_pass: Vec<String>,
}

/// The names of these keys.
pub(super) const KEYS: [&str; 6] = ["sandbox", "write", "read", "deny", "network", "env_pass"];
/// The `[agents.NAME]` of scripts: it has these keys alone.
pub const SCRIPT: &str = "script";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_reads_back() {
        for (network, text) in [
            (Network::Open, "\"open\""),
            (Network::None, "\"none\""),
            (Network::Ports(vec![443, 80]), "[443,80]"),
        ] {
            assert_eq!(serde_json::to_string(&network).unwrap(), text);
            assert_eq!(serde_json::from_str::<Network>(text).unwrap(), network);
        }
        assert!(serde_json::from_str::<Network>("\"closed\"").is_err());
    }
}
