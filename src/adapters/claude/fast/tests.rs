//! Whatever the fast reader reads, serde reads the same of it: of every recorded line, of lines made
//! up in the shape of Claude's, and of these with bytes changed.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::read;
use crate::adapters::claude::wire::Line;
use crate::adapters::loose;

/// Whether it was read; then serde has to have read the same.
fn agrees(text: &str) -> bool {
    let Some(fast) = read(text) else {
        return false;
    };
    let slow = loose::parse::<Line<'_>>(text);
    assert_eq!(Some(&fast), slow.as_ref(), "{text}");
    true
}

#[test]
fn recorded_lines_are_read_and_as_serde_reads_them() {
    let (mut lines, mut given_up) = (0, Vec::new());
    for entry in std::fs::read_dir("tests/streams").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".jsonl") || !(name.starts_with("claude-") || name.starts_with("qwen-"))
        {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let was_read = agrees(line);
            let kind = loose::parse::<Line<'_>>(line).unwrap_or_default().kind;
            if matches!(kind.get(), "assistant" | "user" | "stream_event") {
                lines += 1;
                if !was_read {
                    given_up.push(line.to_owned());
                }
            }
        }
    }
    assert!(lines > 200, "{lines}");
    assert!(given_up.is_empty(), "{given_up:#?}");
}

#[test]
fn what_agents_often_say_is_read() {
    for line in [
        r#"{}"#,
        r#" { "type" : "user" , "message" : { "content" : [ ] } } "#,
        r#"{"message":{"content":"a\n\"b\"\\ \/\b\f\r\t\u00e9\u2028\u0000"}}"#,
        r#"{"message":{"content":[{"type":"tool_use","input":{"a":[1,{"b":null}]} },{"input":null}]}}"#,
        r#"{"message":{"content":[1,null,"x",[{}],{"content":[{"text":"a"},{},{"text":7}]}]}}"#,
        r#"{"message":{"id":7,"model":[],"content":{"a":1},"usage":"none"},"event":false}"#,
        r#"{"message":{"usage":{"input_tokens":999999999999999,"output_tokens":0}}}"#,
        r#"{"event":{"type":"message_start","message":{"id":"m"},"usage":{"output_tokens":3}}}"#,
        r#"{"x":[-0,-1.5e-7,1E+30,123456789012345678901234567890,0.1,1e999],"error":null}"#,
        r#"{"a":{},"b":[],"c":[[],{}],"d":{"e":{"f":[{"g":[true,false,null]}]}}}"#,
    ] {
        assert!(agrees(line), "{line}");
    }
}

/// Each of these, serde refuses, or reads in a way that is left to it.
#[test]
fn what_is_rare_or_wrong_is_left_to_serde() {
    let nested = |n| format!(r#"{{"x":{}1{}}}"#, "[".repeat(n), "]".repeat(n));
    assert!(agrees(&nested(64)) && !agrees(&nested(65)));
    let blocks = |n| {
        format!(
            r#"{{"message":{{"content":[{}]}}}}"#,
            vec!["{}"; n].join(",")
        )
    };
    assert!(agrees(&blocks(999)) && !agrees(&blocks(1_001)));
    for line in [
        "",
        "[]",
        "{",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{"a":1 "b":2}"#,
        r#"{,}"#,
        r#"{"a":1}}"#,
        r#"{"a":1}x"#,
        "{\"a\":1}\u{b}",
        "\u{feff}{}",
        r#"{"a":[1,]}"#,
        r#"{"a":[,1]}"#,
        r#"{"a":[1}}"#,
        r#"{"a":{"b":1]}"#,
        r#"{"a":{"b"}}"#,
        r#"{"a":{1:2}}"#,
        r#"{"a":01}"#,
        r#"{"a":-}"#,
        r#"{"a":-01}"#,
        r#"{"a":1.}"#,
        r#"{"a":.5}"#,
        r#"{"a":1e}"#,
        r#"{"a":1e+}"#,
        r#"{"a":+1}"#,
        r#"{"a":nul}"#,
        r#"{"a":truex}"#,
        r#"{"a":"x}"#,
        "{\"a\":\"\t\"}",
        "{\"type\":\"\u{1f}\"}",
        "{\"a\u{0}\":1}",
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12"}"#,
        r#"{"a":"\u+123"}"#,
        r#"{"a":"\u12é"}"#,
        r#"{"type":"\ud83d\ude00"}"#,
        r#"{"type":"\ud83d"}"#,
        r#"{"typ\u0065":"user"}"#,
        r#"{"type":"a","type":"b"}"#,
        r#"{"message":{"id":"a","id":"a"}}"#,
        r#"{"message":{"content":[{"content":[{"text":"a","text":null}]}]}}"#,
        r#"{"error":{"message":"a"}}"#,
        r#"{"error":["a"]}"#,
        r#"{"type":1e999}"#,
        r#"{"type":-1}"#,
        r#"{"api_error_status":1.5}"#,
        r#"{"api_error_status":007}"#,
        r#"{"api_error_status":1234567890123456}"#,
        r#"{"message":{"content":[1e999]}}"#,
    ] {
        assert!(!agrees(line), "{line}");
    }
}

/// JSON of any kind, and some that is nearly so.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => string(),
        3 => number(),
        2 => select(vec!["true", "false", "null", "[]", "{}"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|v| list(&v)),
            vec((key(), inner), 0..4).prop_map(|v| object(&v)),
        ]
    })
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        60 => (0_u64..100_000).prop_map(|n| n.to_string()),
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => any::<f64>().prop_map(|n| format!("{n:e}")),
        1 => "-?[0-9]{1,18}(\\.[0-9]{0,3})?([eE][+-]?[0-9]{0,3})?",
    ]
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[ -~&&[^\"\\\\]]{0,40}",
        3 => select(vec![
            "\\n", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\r", "\\t", "\\u00e9", "\\u2014", "\\u0000",
            "\\uFFFF", "\\ud83d\\ude00", "\u{7f}", "ä", "—", "🦀",
        ]).prop_map(str::to_owned),
        1 => select(vec!["\\ud83d", "\\udc00", "\\x", "\\u12g4", "\\u+123", "\t", "\u{1}", "\\"])
            .prop_map(str::to_owned),
    ];
    // What is wrong is rare, so that most lines are read to their end.
    let good = vec(
        "[ -~&&[^\"\\\\]]{0,40}|\\\\[nrt\"/bf\\\\]|\\\\u00[0-9a-fA-F]{2}|[ä—🦀]",
        0..5,
    );
    prop_oneof![200 => good, 1 => vec(piece, 0..4)].prop_map(|p| format!("\"{}\"", p.concat()))
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(vec![
            "type", "message", "event", "error", "is_api_error_message", "api_error_status", "id",
            "model", "content", "usage", "name", "text", "thinking", "input", "tool_use_id",
            "is_error", "input_tokens", "output_tokens", "data", "session_id", "",
        ]).prop_map(str::to_owned),
        1 => "[a-zä_\\\\n]{0,12}",
    ]
}

fn list(values: &[String]) -> String {
    format!("[{}]", values.join(","))
}

fn object(fields: &[(String, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// An object with most of these fields, and a few of any kind: in any order, sometimes of a wrong
/// type, sometimes twice.
fn shaped(fields: Vec<(&'static str, BoxedStrategy<String>)>) -> BoxedStrategy<String> {
    let field = |(name, right): (&'static str, BoxedStrategy<String>)| {
        let value = prop_oneof![9 => right, 1 => value()];
        prop_oneof![
            3 => value.prop_map(move |v| Some((name.to_owned(), v))),
            1 => Just(None),
        ]
    };
    let known: Vec<_> = fields.into_iter().map(field).collect();
    let others = vec(("[a-z_]{5,9}", value()), 0..3);
    let again = prop_oneof![15 => Just(None), 1 => (key(), value()).prop_map(Some)];
    (known, others, again)
        .prop_map(|(known, others, again)| {
            known
                .into_iter()
                .flatten()
                .chain(others)
                .chain(again)
                .collect::<Vec<_>>()
        })
        .prop_shuffle()
        .prop_map(|fields| object(&fields))
        .boxed()
}

fn blocks(block: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let item = prop_oneof![9 => block, 1 => value()];
    prop_oneof![1 => string(), 3 => vec(item, 0..4).prop_map(|v| list(&v))].boxed()
}

fn line() -> BoxedStrategy<String> {
    let (text, count) = (|| string().boxed(), || number().boxed());
    let usage = || {
        shaped(vec![
            ("input_tokens", count()),
            ("output_tokens", count()),
            ("cache_read_input_tokens", count()),
            ("cache_creation_input_tokens", count()),
        ])
    };
    let flag = || {
        select(vec!["true", "false"])
            .prop_map(str::to_owned)
            .boxed()
    };
    let block = shaped(vec![
        ("type", text()),
        ("id", text()),
        ("name", text()),
        ("text", text()),
        ("thinking", text()),
        ("input", value().boxed()),
        ("tool_use_id", text()),
        ("is_error", flag()),
        ("content", blocks(shaped(vec![("text", text())]))),
    ]);
    let message = shaped(vec![
        ("id", text()),
        ("model", text()),
        ("content", blocks(block)),
        ("usage", usage()),
    ]);
    let event = shaped(vec![
        ("type", text()),
        ("message", message.clone()),
        ("usage", usage()),
    ]);
    let kind = select(vec![
        "\"assistant\"",
        "\"user\"",
        "\"stream_event\"",
        "\"result\"",
    ]);
    shaped(vec![
        ("type", kind.prop_map(str::to_owned).boxed()),
        ("message", message),
        ("event", event),
        ("error", text()),
        ("is_api_error_message", flag()),
        ("api_error_status", count()),
    ])
}

/// A change of one place: what, where, and with which byte.
type Change = (u8, usize, u8);

fn changed(line: &str, changes: &[Change]) -> String {
    let mut bytes = line.as_bytes().to_vec();
    for (what, place, byte) in changes {
        let at = place % (bytes.len() + 1);
        let next = (at + 1).min(bytes.len());
        let far = (at + usize::from(*byte)).min(bytes.len());
        match what {
            0 => drop(bytes.drain(at..next)),
            1 => bytes.insert(at, *byte),
            2 => bytes.splice(at..next, [*byte]).for_each(drop),
            3 => bytes.extend_from_within(at..),
            4 => bytes.truncate(at),
            5 => bytes[at..far].reverse(),
            _ => {
                let part = bytes[at..far].to_vec();
                bytes.splice(at..at, part).for_each(drop);
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let byte = prop_oneof![3 => select(b"\"\\{}[],: \n\t0-1.eEtfn/u\x00\x1f\xff".to_vec()), 1 => any::<u8>()];
    vec((0_u8..7, any::<usize>(), byte), 1..4)
}

/// Else the tests below would hold of nothing.
#[test]
fn many_made_up_lines_are_read() {
    let mut runner = TestRunner::deterministic();
    let lines = (0..400).map(|_| line().new_tree(&mut runner).unwrap().current());
    let read = lines.filter(|line| agrees(line)).count();
    assert!((100..400).contains(&read), "{read} of 400");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn lines_of_its_shape_are_read_as_serde_reads_them(line in line()) {
        agrees(&line);
    }

    #[test]
    fn broken_lines_are_read_as_serde_reads_them_or_not(line in line(), changes in changes()) {
        agrees(&changed(&line, &changes));
    }

    #[test]
    fn any_value_anywhere_is_read_as_serde_reads_it(fields in vec((key(), value()), 0..6)) {
        agrees(&object(&fields));
    }
}
