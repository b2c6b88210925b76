//! The end of claude's stream: the synthetic message of an API failure, and `result`.
//!
//! Keeps what differs between the versions: which figures are cumulative over a resumed session, the
//! order of the keys, the words for why it ended.

use serde_json::{Value, json};

use super::claude::Claude;
use super::line::{fresh, now};
use super::sessions::{self, Used};
use super::stage::Out;
use super::voice::Usage;

/// What a result says beside its figures.
pub struct Verdict<'a> {
    pub subtype: &'a str,
    pub is_error: bool,
    pub terminal: &'a str,
    pub stop: Option<&'a str>,
    pub status: Option<u16>,
    pub text: Result<String, String>,
    pub more_turns: u64,
}

impl Claude {
    /// The synthetic message that tells of an API failure.
    pub(super) fn api_error(&self, out: &mut Out, text: &str, error: &str, status: Option<u16>) {
        let message = json!({
            "diagnostics": null, "id": fresh("mock-"), "container": null, "model": "<synthetic>",
            "role": "assistant", "stop_reason": "stop_sequence", "stop_sequence": "",
            "type": "message", "usage": {"input_tokens": 0, "output_tokens": 0},
            "content": [{"type": "text", "text": text}], "context_management": null,
        });
        let mut fields = vec![
            ("type", json!("assistant")),
            ("message", message),
            ("parent_tool_use_id", Value::Null),
            ("session_id", json!(self.asked.session)),
            ("uuid", self.uuid()),
            ("timestamp", json!(now())),
            ("error", json!(error)),
            ("is_api_error_message", json!(true)),
        ];
        if let Some(status) = status {
            fields.push(("api_error_status", json!(status)));
        }
        self.emit(out, &fields);
    }

    fn model_usage(&self, input: u64, output: u64, cost: f64) -> Value {
        if input == 0 {
            return json!({});
        }
        json!({self.asked.model.as_str(): {
            "inputTokens": input, "outputTokens": output, "cacheReadInputTokens": 0,
            "cacheCreationInputTokens": 0, "webSearchRequests": 0, "costUSD": cost,
            "contextWindow": 1_000_000, "maxOutputTokens": 128_000,
        }})
    }

    pub(super) fn result(&mut self, out: &mut Out, r: Verdict<'_>, usage: &Usage) {
        // From the second result on, usage and turns are of the query alone, the cost of the run.
        let (turns, input, output) = (
            usage.turns - self.told.turns,
            usage.input - self.told.input,
            usage.output - self.told.output,
        );
        let since = usage.cost - self.told.cost;
        let (old, newer) = (&self.before, self.newer());
        let total = if newer {
            old.cost + usage.cost
        } else {
            usage.cost
        };
        let models = if newer {
            self.model_usage(old.input + usage.input, old.output + usage.output, total)
        } else {
            self.model_usage(usage.input, usage.output, total)
        };
        let figures = json!({"input_tokens": input, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0, "output_tokens": output,
            "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
            "service_tier": "standard"});
        let (key, what) = match &r.text {
            Ok(text) => ("result", json!(text)),
            Err(why) => ("errors", json!([why])),
        };
        let stop = r.stop.map_or(Value::Null, Value::from);
        let session = json!(self.asked.session);
        let fields = if newer {
            vec![
                ("duration_api_ms", json!(turns * 80)),
                ("stop_reason", stop),
                ("session_id", session),
                ("total_cost_usd", json!(total)),
                ("usage", figures),
                ("modelUsage", models),
                ("permission_denials", json!(self.denials)),
                ("terminal_reason", json!(r.terminal)),
                ("fast_mode_state", json!("off")),
                ("safety_stops", json!(0)),
                ("is_error", json!(r.is_error)),
                ("num_turns", json!(turns + r.more_turns)),
                ("subtype", json!(r.subtype)),
                ("api_error_status", json!(r.status)),
                (key, what),
                ("ttft_ms", json!(80)),
                ("type", json!("result")),
                ("duration_ms", json!(turns * 100)),
                ("uuid", self.uuid()),
                ("queued_turn_count", json!(0)),
                ("result_index", json!(self.results)),
                (
                    "model_usage_since_last_result",
                    self.model_usage(input, output, since),
                ),
            ]
        } else {
            // An API failure is no reason of its own here, and a budget has none.
            let terminal = match r.terminal {
                "budget_exhausted" => Value::Null,
                "max_turns" => json!("max_turns"),
                _ => json!("completed"),
            };
            vec![
                ("type", json!("result")),
                ("subtype", json!(r.subtype)),
                ("is_error", json!(r.is_error)),
                ("api_error_status", json!(r.status)),
                ("duration_ms", json!(turns * 100)),
                ("duration_api_ms", json!(turns * 80)),
                ("num_turns", json!(turns + r.more_turns)),
                (key, what),
                ("stop_reason", stop),
                ("session_id", session),
                ("total_cost_usd", json!(total)),
                ("usage", figures),
                ("modelUsage", models),
                ("permission_denials", json!(self.denials)),
                ("terminal_reason", terminal),
                ("uuid", self.uuid()),
            ]
        };
        self.emit(out, &fields);
        self.told = *usage;
        self.results += 1;
        let used = Used {
            runs: old.runs + 1,
            turns: old.turns + usage.turns,
            input: old.input + usage.input,
            output: old.output + usage.output,
            cost: old.cost + usage.cost,
        };
        sessions::save("claude", &self.asked.session, &used);
    }
}
