//! What CLIs and their providers say when something is wrong, as they say it, and its class.

use serde_json::json;

use super::*;

const LIMIT: Class = Class::UsageLimit { resets_at: None };
const TURNS: Class = Class::LimitsReached {
    limit: Limit::Turns,
};

/// The class of a text in the CLI's own report of a failure, where it ends with this status.
fn reported(cli: &str, text: &str, code: i32) -> Class {
    let mut parser = by_name(cli).unwrap().parser(None);
    let lines = match cli {
        "codex" => vec![
            json!({"type": "thread.started", "thread_id": "t"}),
            json!({"type": "turn.failed", "error": {"message": text}}),
        ],
        "gemini" => vec![
            json!({"type": "init", "session_id": "s", "model": "m"}),
            json!({"type": "result", "status": "error", "error": {"type": "unknown", "message": text}}),
        ],
        "opencode" => vec![
            json!({"type": "error", "sessionID": "s", "error": {"name": "APIError", "data": {"message": text}}}),
        ],
        // claude, and qwen in its way.
        _ => vec![
            json!({"type": "system", "subtype": "init", "session_id": "s"}),
            json!({"type": "assistant", "error": "unknown", "message": {"content": [{"type": "text", "text": text}]}}),
            json!({"type": "result", "subtype": "success", "is_error": true, "result": text}),
        ],
    };
    for line in lines {
        parser.line(line.to_string().as_bytes());
    }
    parser.fault(Exit::Code(code), b"").unwrap().class
}

#[test]
fn every_cli_reports_each_fault_as_what_it_is() {
    let table: &[(&str, &str, i32, Class)] = &[
        // Limits of a plan.
        (
            "claude",
            "You've hit your limit · resets 11pm (America/Anchorage)",
            1,
            LIMIT,
        ),
        (
            "claude",
            "You've hit your session limit · resets 12:50am (America/Los_Angeles)",
            1,
            LIMIT,
        ),
        (
            "claude",
            "You've hit your weekly limit · resets Jul 25, 9pm (America/New_York)",
            1,
            LIMIT,
        ),
        (
            "claude",
            "You've hit your Opus limit · resets Oct 6, 1pm",
            1,
            LIMIT,
        ),
        (
            "claude",
            "You're out of extra usage · resets May 2, 2pm (Asia/Jerusalem)",
            1,
            LIMIT,
        ),
        (
            "claude",
            "You've hit your org's monthly usage limit",
            1,
            LIMIT,
        ),
        ("claude", "5-hour limit reached ∙ resets 2pm", 1, LIMIT),
        (
            "claude",
            "Claude AI usage limit reached|1764712800",
            1,
            LIMIT,
        ),
        (
            "claude",
            "API Error: 400 {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"You have reached your specified workspace API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.\"}}",
            1,
            LIMIT,
        ),
        (
            "codex",
            "You’ve hit your usage limit. Upgrade to Pro (https://x.y/pro), visit https://x.y/usage to purchase more credits or try again at 2:51 PM.",
            1,
            LIMIT,
        ),
        (
            "codex",
            "You've hit your usage limit. To get more access now, send a request to your admin or try again at Dec 5th, 2026 3:04 PM.",
            1,
            LIMIT,
        ),
        (
            "codex",
            "You've hit your usage limit. Try again in 5 days 22 hours 11 minutes.",
            1,
            LIMIT,
        ),
        (
            "gemini",
            "[API Error: Quota exceeded for quota metric 'Gemini 2.5 Pro Requests' and limit 'Gemini 2.5 Pro Requests per day per user per tier' of service 'x' for consumer 'project_number:1'.]",
            173,
            LIMIT,
        ),
        (
            "gemini",
            "You have exhausted your capacity on this model. Your quota will reset after 8h44m7s.",
            173,
            LIMIT,
        ),
        (
            "gemini",
            "[API Error: You have exhausted your daily quota on this model.]",
            173,
            LIMIT,
        ),
        (
            "gemini",
            "You have exhausted your gemini-3-pro-high quota. Please try again later.",
            173,
            LIMIT,
        ),
        (
            "gemini",
            "Individual quota reached. Please upgrade your subscription. Resets in 108h48m29s.",
            173,
            LIMIT,
        ),
        (
            "gemini",
            "Usage limit reached for gemini-3-flash. Access resets at 10:57 PM GMT-3.",
            173,
            LIMIT,
        ),
        (
            "gemini",
            "You exceeded your current quota, please check your plan and billing details. For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.",
            173,
            LIMIT,
        ),
        ("opencode", "The usage limit has been reached", 1, LIMIT),
        (
            "opencode",
            "Monthly usage limit reached. It will reset in 10 days 19 hours.",
            1,
            LIMIT,
        ),
        (
            "opencode",
            "You have exceeded the monthly usage quota. It will reset at 2026-08-29 23:59:59 +0800 CST.",
            1,
            LIMIT,
        ),
        (
            "opencode",
            "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
            1,
            LIMIT,
        ),
        // Too fast.
        (
            "claude",
            "API Error: Server is temporarily limiting requests (not your usage limit) · Rate limited",
            1,
            Class::RateLimit,
        ),
        (
            "claude",
            "API Error: 429 {\"error\":{\"type\":\"rate_limit_error\",\"message\":\"This request would exceed your account's rate limit. Please try again later.\"}}",
            1,
            Class::RateLimit,
        ),
        (
            "claude",
            "API Error: Request rejected (429)",
            1,
            Class::RateLimit,
        ),
        (
            "codex",
            "exceeded retry limit, last status: 429 Too Many Requests, request id: 9be579c61a5abbd5-WAW",
            1,
            Class::RateLimit,
        ),
        (
            "codex",
            "Rate limit reached for gpt-5 in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 4000. Please try again in 6s.",
            1,
            Class::RateLimit,
        ),
        (
            "gemini",
            "Quota exceeded for metric: x/generate_content_free_tier_input_token_count, limit: 125000\nPlease retry in 15.002899939s.",
            173,
            Class::RateLimit,
        ),
        (
            "gemini",
            "Resource has been exhausted (e.g. check quota).",
            173,
            Class::RateLimit,
        ),
        (
            "opencode",
            "Error from provider (Console Go): Provider rate limit exceeded",
            1,
            Class::RateLimit,
        ),
        (
            "opencode",
            "Too many tokens, please wait before trying again.",
            1,
            Class::RateLimit,
        ),
        // Money.
        ("claude", "Credit balance is too low", 1, Class::Billing),
        (
            "claude",
            "Extra usage is required for long context requests",
            1,
            Class::Billing,
        ),
        (
            "codex",
            "Quota exceeded. Check your plan and billing details.",
            1,
            Class::Billing,
        ),
        (
            "codex",
            "unexpected status 429: {\"error\":{\"message\":\"You exceeded your current quota, please check your plan and billing details.\",\"code\":\"insufficient_quota\"}}",
            1,
            Class::Billing,
        ),
        (
            "codex",
            "To use Codex with your ChatGPT plan, upgrade to Plus: https://x.y/pricing.",
            1,
            Class::Billing,
        ),
        (
            "gemini",
            "Quota exceeded for metric: x/generate_content_free_tier_requests, limit: 0, model: gemini-3-pro\nPlease retry in 37s.",
            173,
            Class::Billing,
        ),
        (
            "gemini",
            "This API method requires billing to be enabled.",
            147,
            Class::Billing,
        ),
        (
            "opencode",
            "Your account is suspended due to insufficient balance, please recharge",
            1,
            Class::Billing,
        ),
        (
            "opencode",
            "No payment method. Add a payment method here: https://x.y",
            1,
            Class::Billing,
        ),
        (
            "opencode",
            "Budget has been exceeded! Current cost: 10.0, Max budget: 10.0",
            1,
            Class::Billing,
        ),
        // Logins.
        (
            "claude",
            "Invalid API key · Please run /login",
            1,
            Class::Auth,
        ),
        (
            "claude",
            "API Error: 401 {\"error\":{\"message\":\"OAuth token has expired. Please obtain a new token or refresh your existing token.\"}}",
            1,
            Class::Auth,
        ),
        (
            "claude",
            "This organization has been disabled.",
            1,
            Class::Auth,
        ),
        (
            "codex",
            "Failed to refresh token: 401 Unauthorized: Your refresh token has already been used to generate a new access token. Please try signing in again.",
            1,
            Class::Auth,
        ),
        (
            "codex",
            "unexpected status 403 Forbidden: Unknown error, url: https://x.y/responses",
            1,
            Class::Auth,
        ),
        (
            "gemini",
            "API key not valid. Please pass a valid API key.",
            144,
            Class::Auth,
        ),
        (
            "gemini",
            "User location is not supported for the API use.",
            144,
            Class::Auth,
        ),
        ("opencode", "Token refresh failed: 401", 1, Class::Auth),
        // The provider.
        (
            "claude",
            "API Error: 529 {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}",
            1,
            Class::Overloaded,
        ),
        (
            "claude",
            "API Error: 500 {\"error\":{\"type\":\"api_error\",\"message\":\"Internal server error\"}}",
            1,
            Class::Overloaded,
        ),
        (
            "codex",
            "Selected model is at capacity. Please try a different model.",
            1,
            Class::Overloaded,
        ),
        (
            "codex",
            "We're currently experiencing high demand, which may cause temporary errors.",
            1,
            Class::Overloaded,
        ),
        (
            "gemini",
            "No capacity available for model gemini-3-flash on the server",
            173,
            Class::Overloaded,
        ),
        (
            "gemini",
            "The model is overloaded. Please try again later.",
            247,
            Class::Overloaded,
        ),
        (
            "opencode",
            "HTTP 503: Inference is temporarily unavailable",
            1,
            Class::Overloaded,
        ),
        // The way there.
        ("claude", "API Error: Connection error.", 1, Class::Network),
        ("claude", "API Error: Request timed out.", 1, Class::Network),
        (
            "codex",
            "stream disconnected before completion: error sending request for url (https://x.y/v1/responses)",
            1,
            Class::Network,
        ),
        (
            "gemini",
            "request to https://x.y failed, reason: getaddrinfo ENOTFOUND x.y",
            1,
            Class::Network,
        ),
        (
            "opencode",
            "unable to get local issuer certificate",
            1,
            Class::Network,
        ),
        // Too long.
        ("claude", "Prompt is too long", 1, Class::Context),
        (
            "claude",
            "API Error: 400 input length and `max_tokens` exceed context limit: 196000 + 21333 > 200000",
            1,
            Class::Context,
        ),
        (
            "codex",
            "Codex ran out of room in the model's context window. Start a new conversation or clear earlier history before retrying.",
            1,
            Class::Context,
        ),
        (
            "gemini",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            144,
            Class::Context,
        ),
        (
            "opencode",
            "Please reduce the length of the messages or completion. Current length is 69553 while limit is 65536",
            1,
            Class::Context,
        ),
        (
            "opencode",
            "This model's maximum context length is 262144 tokens. However, your messages resulted in 262897 tokens.",
            1,
            Class::Context,
        ),
        // Models and flags.
        (
            "claude",
            "There's an issue with the selected model (x). It may not exist or you may not have access to it.",
            1,
            Class::Spawn,
        ),
        (
            "codex",
            "unexpected status 400 Bad Request: {\"detail\":\"The 'x' model is not supported when using Codex with a ChatGPT account.\"}",
            1,
            Class::Spawn,
        ),
        (
            "gemini",
            "models/x is not found for API version v1beta, or is not supported for generateContent.",
            1,
            Class::Spawn,
        ),
        (
            "opencode",
            "Model not found: x/y. Did you mean: z?",
            1,
            Class::Spawn,
        ),
        ("opencode", "x/y is not a valid model ID", 1, Class::Spawn),
        // Refusals, turns.
        (
            "claude",
            "API Error: Claude Code is unable to respond to this request, which appears to violate our Usage Policy",
            1,
            Class::Refusal,
        ),
        (
            "gemini",
            "Reached max session turns for this session.",
            53,
            TURNS,
        ),
        (
            "qwen",
            "[API Error: 401 Incorrect API key provided]",
            1,
            Class::Auth,
        ),
    ];
    let wrong: Vec<String> = table
        .iter()
        .map(|(cli, text, code, class)| (cli, text, class, reported(cli, text, *code)))
        .filter(|(_, _, class, got)| got != *class)
        .map(|(cli, text, class, got)| format!("{cli}: {text}: {got:?}, not {class:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for name in NAMES {
        assert!(table.iter().any(|(cli, ..)| cli == name), "none of {name}");
    }
}

#[test]
fn a_text_knows_better_than_an_exit_code_that_stands_for_an_http_status() {
    for (cli, code, stderr, class) in [
        (
            "gemini",
            173,
            "You have exhausted your daily quota on this model.",
            LIMIT,
        ),
        ("gemini", 173, "something odd", Class::RateLimit),
        ("gemini", 147, "API key not valid", Class::Auth),
        ("gemini", 244, "something odd", Class::Overloaded),
        ("gemini", 42, "too many requests", Class::SessionLost),
        ("gemini", 41, "something odd", Class::Auth),
        (
            "codex",
            2,
            "error: unexpected argument '--x' found",
            Class::Spawn,
        ),
        ("claude", 1, "error: unknown option '--x'", Class::Spawn),
        (
            "opencode",
            1,
            "Error: Session not found",
            Class::SessionLost,
        ),
    ] {
        let parser = by_name(cli).unwrap().parser(None);
        let fault = parser.fault(Exit::Code(code), stderr.as_bytes()).unwrap();
        assert_eq!(fault.class, class, "{cli} {code} {stderr}");
        assert!(fault.message.contains(stderr), "{}", fault.message);
    }
}
