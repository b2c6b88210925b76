//! Events as they are written, and figures as they are folded.

use serde_json::{Value, json};

use super::*;

fn fold(bodies: &[Body]) -> Figures {
    let mut figures = Figures::default();
    bodies.iter().for_each(|b| figures.fold(b));
    figures
}

fn text(text: &str, delta: bool) -> Body {
    Body::Text {
        text: text.into(),
        delta,
        clipped: false,
    }
}

fn call(tool: &str) -> Body {
    Body::ToolCall {
        id: None,
        tool: tool.into(),
        input: Value::Null,
        clipped: false,
    }
}

#[test]
fn an_event_line_has_its_place_in_the_raw_output() {
    let line = Line {
        at: "2026-01-27T10:45:00.000Z".into(),
        body: text("hello\n\u{2028}there", false),
        offset: 12,
        length: 34,
    };
    let mut out = Vec::new();
    line.write(&mut out);
    let value: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        value,
        json!({"at": "2026-01-27T10:45:00.000Z", "event": "text", "text": "hello\n\u{2028}there",
               "offset": 12, "length": 34})
    );
    assert!(out.starts_with(br#"{"at":"2026-01-27T10:45:00.000Z","event":"text","#));
    assert_eq!(Line::read(&out), Some(line));
    assert_eq!(Line::read(&out[..out.len() - 2]), None, "cut");
}

#[test]
fn every_kind_of_event_survives_its_file() {
    let limited = Class::UsageLimit {
        resets_at: Some(1_795_404_140),
    };
    let bodies = [
        Body::SessionStarted {
            cli_session: Some("s".into()),
            model: None,
            version: Some("2.1.330".into()),
        },
        text("x", true),
        Body::Thinking {
            text: "hm".into(),
            clipped: true,
        },
        Body::ToolCall {
            id: Some("t".into()),
            tool: "Bash".into(),
            input: json!({"command": "ls"}),
            clipped: false,
        },
        Body::ToolResult {
            id: None,
            is_error: true,
            output: String::new(),
            clipped: false,
        },
        Body::Usage(Usage {
            turns: 1,
            input_tokens: 2,
            cost_usd: Some(0.5),
            conversation: Some(Tokens::default()),
            ..Usage::default()
        }),
        Body::Retrying {
            class: Class::Overloaded,
            attempt: Some(1),
            max: Some(10),
            wait_ms: Some(500),
            message: "overloaded (529)".into(),
        },
        Body::Limited {
            resets_at: Some(-1),
            limit: None,
        },
        Body::PermissionDenied {
            id: None,
            tool: "Bash".into(),
        },
        Body::Error {
            class: limited,
            message: "limit".into(),
        },
        Body::Error {
            class: Class::LimitsReached {
                limit: Limit::Turns,
            },
            message: "turns".into(),
        },
        Body::Finished {
            good: true,
            message: String::new(),
        },
        Body::Other {
            name: "system/status".into(),
            detail: None,
        },
    ];
    for body in bodies {
        let text = serde_json::to_string(&body).unwrap();
        let read: Body = serde_json::from_str(&text).unwrap();
        assert_eq!(read, body, "{text}");
        let line = Line {
            at: String::new(),
            body,
            offset: u64::MAX,
            length: 0,
        };
        let mut out = Vec::new();
        line.write(&mut out);
        assert_eq!(Line::read(&out), Some(line));
    }
}

#[test]
fn usage_is_a_total_and_not_an_addition() {
    let usage = |input_tokens, turns| {
        Body::Usage(Usage {
            input_tokens,
            turns,
            ..Usage::default()
        })
    };
    let figures = fold(&[usage(1_000, 1), usage(2_100, 2)]);
    assert_eq!((figures.input_tokens, figures.turns), (2_100, 2));
}

#[test]
fn tool_names_without_end_are_counted_in_one_place() {
    let mut figures = Figures::default();
    for n in 0..1_000 {
        figures.fold(&call(&format!("tool-{n}")));
    }
    figures.fold(&call("tool-3"));
    assert_eq!(figures.tool_calls, 1_001);
    assert_eq!(figures.tools.len(), TOOL_NAMES_MAX + 1);
    assert_eq!(figures.tools["tool-3"], 2);
    assert_eq!(figures.tools[MORE_TOOLS], 900);
}

#[test]
fn a_message_in_pieces_is_one_message() {
    let usage = Body::Usage(Usage::default());
    let said = |bodies: &[Body]| fold(bodies).last_message;
    let pieces = [text("Done: ", true), usage, text("committed.", true)];
    assert_eq!(said(&pieces).as_deref(), Some("Done: committed."));
    let apart = [text("one", true), call("x"), text("two", true)];
    assert_eq!(said(&apart).as_deref(), Some("two"));
    let endless: Vec<Body> = (0..5_000).map(|_| text("\u{e9}!", true)).collect();
    assert!(said(&endless).unwrap().len() <= MESSAGE_BYTES_MAX);
    assert_eq!(
        said(&[text("a", false), text(" \n", false)]).as_deref(),
        Some("a")
    );
}

#[test]
fn text_is_cut_between_characters() {
    assert_eq!(clip("añb", 2), ("a", true));
    assert_eq!(clip("añb", 3), ("añ", true));
    assert_eq!(clip("añb", 4), ("añb", false));
    assert_eq!(clip("ñ", 0), ("", true));
}

#[test]
fn faults_say_what_mends_them() {
    let at = Class::UsageLimit { resets_at: Some(7) };
    assert_eq!(at.mend(), Mend::Wait(Some(7)));
    assert_eq!(Class::Auth.mend(), Mend::Person);
    assert_eq!(Class::SessionLost.mend(), Mend::Fresh);
    assert_eq!(Class::Overloaded.mend(), Mend::Again);
    let fault = Fault::new(Class::Auth, "  ");
    assert_eq!(fault.message, "auth");
    assert!(fault.advice("x", "log in", false).starts_with("log in"));
    // Another try is promised only where one follows.
    for class in [
        Class::RateLimit,
        Class::Overloaded,
        Class::Network,
        Class::Context,
        Class::SessionLost,
        Class::Stalled,
        Class::Interrupted,
        Class::Malformed,
        Class::Unknown,
    ] {
        let advice = |again| Fault::new(class, "it").advice("x", "log in", again);
        let promises = |text: &str| {
            [
                "tried again",
                "retried",
                "continues",
                "by itself",
                "nothing",
            ]
            .iter()
            .any(|word| text.contains(word))
        };
        assert!(promises(&advice(true)), "{}", advice(true));
        assert!(!promises(&advice(false)), "{}", advice(false));
        assert!(advice(false).ends_with("`harness retry` the item"));
    }
    let json = serde_json::to_value(Fault::new(at, "limit")).unwrap();
    assert_eq!(
        json,
        json!({"class": "usage_limit", "resets_at": "1970-01-01T00:00:07Z", "message": "limit"})
    );
}
