//! The lines of Claude Code and of Qwen Code, as far as they are read: what is needed of them and
//! no more, so that a line of megabytes costs a scan and not a tree.
//!
//! Does not know what any of it means.

use serde::Deserialize;

use super::Dialect;
use crate::adapters::loose::{self, Content, Flag, List, Num, Obj, Text, Values, Words};
use crate::event::Tokens;

/// All that is read of most lines: who speaks, and what. Lines come by the thousand: `fast` reads
/// nearly all of them, and fills it where it is, so a message needs no box of its own. What is added
/// here has to be added there, too.
/// The defaults are the fields' and not the struct's, here and below, as serde would make a whole
/// one of these first and move what is missing out of it.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(super) message: Obj<Message<'a>>,
    #[serde(borrow, default)]
    pub(super) event: Obj<Box<Partial<'a>>>,
    #[serde(borrow, default)]
    pub(super) error: Words<'a>,
    #[serde(default)]
    pub(super) is_api_error_message: Flag,
    #[serde(default)]
    pub(super) api_error_status: Num,
}

/// What only lines have that neither the model nor a tool says: for these it is read as well.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Rest<'a> {
    #[serde(borrow)]
    pub(super) subtype: Text<'a>,
    pub(super) session_id: Text<'a>,
    pub(super) model: Text<'a>,
    pub(super) claude_code_version: Text<'a>,
    pub(super) qwen_code_version: Text<'a>,
    pub(super) attempt: Num,
    pub(super) max_retries: Num,
    pub(super) retry_delay_ms: Num,
    pub(super) error_status: Num,
    pub(super) rate_limit_info: Obj<RateLimit<'a>>,
    pub(super) tool_name: Text<'a>,
    pub(super) tool_use_id: Text<'a>,
    pub(super) is_error: Flag,
    pub(super) result: Text<'a>,
    pub(super) errors: Words<'a>,
    pub(super) terminal_reason: Text<'a>,
    pub(super) stop_reason: Text<'a>,
    pub(super) total_cost_usd: Num,
    pub(super) usage: Obj<Counts>,
    #[serde(rename = "modelUsage")]
    pub(super) model_usage: Values<ModelCounts>,
    pub(super) model_usage_since_last_result: Values<ModelCounts>,
    pub(super) permission_denials: List<Denial<'a>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow, default)]
    pub(super) id: Text<'a>,
    #[serde(borrow, default)]
    pub(super) model: Text<'a>,
    #[serde(borrow, default)]
    pub(super) content: Content<'a, Block<'a>>,
    #[serde(default)]
    pub(super) usage: Obj<Counts>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Block<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(super) id: Text<'a>,
    #[serde(borrow, default)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    pub(super) text: Text<'a>,
    #[serde(borrow, default)]
    pub(super) thinking: Text<'a>,
    #[serde(borrow, default, deserialize_with = "loose::raw")]
    pub(super) input: Option<&'a str>,
    #[serde(borrow, default)]
    pub(super) tool_use_id: Text<'a>,
    #[serde(default)]
    pub(super) is_error: Flag,
    #[serde(borrow, default)]
    pub(super) content: Content<'a, Piece<'a>>,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Piece<'a> {
    #[serde(borrow)]
    pub(super) text: Text<'a>,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Partial<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    pub(super) message: Obj<Message<'a>>,
    pub(super) usage: Obj<Counts>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RateLimit<'a> {
    #[serde(borrow)]
    pub(super) status: Text<'a>,
    #[serde(rename = "resetsAt")]
    pub(super) resets_at: Num,
    #[serde(rename = "rateLimitType")]
    pub(super) limit: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Denial<'a> {
    #[serde(borrow)]
    pub(super) tool_name: Text<'a>,
    pub(super) tool_use_id: Text<'a>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Counts {
    #[serde(default)]
    pub(super) input_tokens: Num,
    #[serde(default)]
    pub(super) output_tokens: Num,
    #[serde(default)]
    pub(super) cache_read_input_tokens: Num,
    #[serde(default)]
    pub(super) cache_creation_input_tokens: Num,
}

impl Counts {
    pub(super) fn tokens(&self, dialect: Dialect) -> Tokens {
        let cache_read = self.cache_read_input_tokens.count();
        let input = self.input_tokens.count();
        Tokens {
            input: match dialect {
                Dialect::Claude => input,
                Dialect::Qwen => input.saturating_sub(cache_read),
            },
            output: self.output_tokens.count(),
            cache_read,
            cache_write: self.cache_creation_input_tokens.count(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ModelCounts {
    pub(super) input_tokens: Num,
    pub(super) output_tokens: Num,
    pub(super) cache_read_input_tokens: Num,
    pub(super) cache_creation_input_tokens: Num,
    #[serde(rename = "costUSD")]
    pub(super) cost_usd: Num,
}

pub(super) fn sum(models: &[ModelCounts]) -> Tokens {
    models.iter().fold(Tokens::default(), |sum, m| {
        sum.plus(Tokens {
            input: m.input_tokens.count(),
            output: m.output_tokens.count(),
            cache_read: m.cache_read_input_tokens.count(),
            cache_write: m.cache_creation_input_tokens.count(),
        })
    })
}
