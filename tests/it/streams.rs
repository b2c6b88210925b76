//! Recorded streams of the real CLIs, replayed: each gives exactly the figures that the model
//! served, and the fault that a person would name. Whatever happens to a stream, its parser does not
//! panic, its figures stay consistent, and it reports no more than was recorded.
//!
//! `tests/streams/CLI-VERSION-CASE.jsonl` is stdout as it was, paths and long name lists shortened.
//! `.expect.json` beside it has the exit status, what the model counted, and the figures. Where the
//! two differ, `differs` says why. An adapter's recordings are found by its name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use harness::adapters::{self, Adapter, Parser};
use harness::event::{self, Body, Class, Fault, Figures, Limit, Line};
use harness::outcome::Exit;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

struct Recording {
    name: String,
    adapter: &'static dyn Adapter,
    stream: Vec<u8>,
    expect: Value,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams")
}

fn recordings() -> &'static [Recording] {
    static ALL: LazyLock<Vec<Recording>> = LazyLock::new(load);
    &ALL
}

fn load() -> Vec<Recording> {
    let mut all: Vec<Recording> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".jsonl")?;
            let expect = fs::read(folder().join(format!("{name}.expect.json"))).unwrap();
            let cli = name.split('-').next().unwrap();
            Some(Recording {
                name: name.to_owned(),
                adapter: adapters::by_name(cli).expect(name),
                stream: fs::read(&path).unwrap(),
                expect: serde_json::from_slice(&expect).unwrap(),
            })
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() >= 90, "only {} recordings", all.len());
    all
}

/// What became of a stream.
struct Replay {
    events: Vec<Line>,
    figures: Figures,
    fault: Option<Fault>,
}

fn replay(parser: &mut Parser, stream: &[u8], exit: Exit, stderr: &[u8]) -> Replay {
    let (mut events, mut offset) = (Vec::new(), 0);
    for line in stream.split(|&b| b == b'\n') {
        let bodies = parser.line(line).into_iter();
        events.extend(bodies.map(|body| Line {
            at: "2026-01-27T10:45:00.000Z".into(),
            body,
            offset,
            length: line.len() as u64,
        }));
        offset += line.len() as u64 + 1;
    }
    Replay {
        events,
        figures: parser.figures().clone(),
        fault: parser.fault(exit, stderr),
    }
}

fn exit_of(expect: &Value) -> Exit {
    let number = |v: &Value| i32::try_from(v.as_i64().unwrap()).unwrap();
    match &expect["exit"]["code"] {
        Value::Null => Exit::Signal(number(&expect["exit"]["signal"])),
        code => Exit::Code(number(code)),
    }
}

fn replay_recording(r: &Recording) -> Replay {
    let previous = r.expect["previous"].as_str().map(|name| {
        let stream = fs::read(folder().join(format!("{name}.jsonl"))).unwrap();
        let mut parser = r.adapter.parser(None);
        replay(&mut parser, &stream, Exit::Code(0), b"").figures
    });
    let mut parser = r.adapter.parser(previous.as_ref());
    let stderr = r.expect["stderr_tail"].as_str().unwrap().as_bytes();
    replay(&mut parser, &r.stream, exit_of(&r.expect), stderr)
}

/// As `verdict` in a recording's expectations.
fn verdict(fault: Option<&Fault>) -> Value {
    let class = fault.map(|f| f.class);
    let mut verdict = json!({
        "finished_well": fault.is_none(),
        "class": class.map(Class::as_str),
    });
    match class {
        Some(Class::UsageLimit { resets_at }) => verdict["resets_at"] = json!(resets_at),
        Some(Class::LimitsReached { limit }) => {
            verdict["limit"] = match limit {
                Limit::Turns => json!("turns"),
                Limit::Budget => json!("budget"),
                Limit::MaxTokens => json!("max_tokens"),
                of_the_machine => panic!("no CLI reports {of_the_machine:?}"),
            }
        }
        _ => {}
    }
    verdict
}

#[test]
fn every_recording_replays_to_what_the_model_served_and_to_its_fault() {
    let mut wrong = Vec::new();
    for r in recordings() {
        let Replay { figures, fault, .. } = replay_recording(r);
        let got = serde_json::to_value(&figures).unwrap();
        for (key, want) in r.expect["figures"].as_object().unwrap() {
            let same = match (want.as_f64(), got[key].as_f64()) {
                (Some(want), Some(got)) => (want - got).abs() < 1e-9,
                // A run that cost nothing, or did not say.
                (Some(0.0), None) => key == "cost_usd",
                _ => *want == got[key],
            };
            if !same {
                wrong.push(format!("{}: {key} is {}, not {want}", r.name, got[key]));
            }
        }
        let (got, want) = (verdict(fault.as_ref()), &r.expect["verdict"]);
        if got != *want {
            wrong.push(format!("{}: {got} ({fault:?}), not {want}", r.name));
        }
        if figures.malformed > 0 {
            wrong.push(format!("{}: {} malformed", r.name, figures.malformed));
        }
        if fault.is_none() && figures.last_message.is_none() && !r.name.contains("partial") {
            wrong.push(format!("{}: no message", r.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn where_a_recording_and_the_model_differ_it_says_why() {
    for r in recordings() {
        let (served, figures) = (&r.expect["served"], &r.expect["figures"]);
        let same = served["calls"] == figures["turns"]
            && ["tool_calls", "input_tokens", "output_tokens"]
                .iter()
                .all(|key| served[key] == figures[key]);
        assert_eq!(same, r.expect["differs"].is_null(), "{}", r.name);
    }
}

#[test]
fn events_written_and_read_again_give_the_same_figures() {
    for r in recordings() {
        let Replay {
            events, figures, ..
        } = replay_recording(r);
        let mut file = Vec::new();
        events.iter().for_each(|e| e.write(&mut file));
        let mut again = Figures::default();
        for (n, line) in file.split(|&b| b == b'\n').enumerate() {
            let Some(read) = Line::read(line) else {
                assert!(
                    line.is_empty(),
                    "{}: {}",
                    r.name,
                    String::from_utf8_lossy(line)
                );
                continue;
            };
            assert_eq!(read, events[n], "{}", r.name);
            again.fold(&read.body);
        }
        let value = |f: &Figures| serde_json::to_value(f).unwrap();
        assert_eq!(value(&again), value(&figures), "{}", r.name);
    }
}

#[test]
fn every_line_of_a_recording_leaves_an_event_that_points_at_it() {
    for r in recordings() {
        let Replay { events, .. } = replay_recording(r);
        let mut offset = 0;
        for line in r.stream.split(|&b| b == b'\n') {
            // Partial messages come again whole.
            let silent = line.is_empty() || line.starts_with(b"{\"type\":\"stream_event\"");
            let found = events.iter().any(|e| e.offset == offset);
            assert!(
                silent || found,
                "{}: {}",
                r.name,
                String::from_utf8_lossy(line)
            );
            offset += line.len() as u64 + 1;
        }
    }
}

/// What holds for any stream.
fn sound(adapter: &dyn Adapter, stream: &[u8]) -> Result<Figures, TestCaseError> {
    let mut parser = adapter.parser(None);
    let Replay {
        events, figures, ..
    } = replay(&mut parser, stream, Exit::Code(0), b"");
    let mut again = Figures::default();
    let mut file = Vec::new();
    for e in &events {
        again.fold(&e.body);
        file.clear();
        e.write(&mut file);
        prop_assert!(
            file.len() <= 8 * event::TEXT_BYTES_MAX,
            "{} bytes",
            file.len()
        );
        prop_assert_eq!(file.iter().filter(|b| **b == b'\n').count(), 1);
        prop_assert!(
            Line::read(&file).is_some(),
            "{}",
            String::from_utf8_lossy(&file)
        );
    }
    prop_assert_eq!(&again, &figures);
    let said = figures.last_message.as_ref().map_or(0, String::len);
    prop_assert!(said <= event::MESSAGE_BYTES_MAX);
    prop_assert_eq!(figures.tools.values().sum::<u64>(), figures.tool_calls);
    for exit in [Exit::Code(0), Exit::Code(1), Exit::Signal(9), Exit::Unknown] {
        let fault = parser.fault(exit, b"Error: \x1b[91m\xff no");
        prop_assert!(fault.is_some() || exit == Exit::Code(0));
        prop_assert!(fault.is_none_or(|f| !f.message.is_empty()));
    }
    Ok(figures)
}

/// No figure is larger than in `whole`, `times` over.
fn within(part: &Figures, whole: &Figures, times: u64) -> Result<(), TestCaseError> {
    for (what, part, whole) in [
        ("turns", part.turns, whole.turns),
        ("tool_calls", part.tool_calls, whole.tool_calls),
        ("input", part.input_tokens, whole.input_tokens),
        ("output", part.output_tokens, whole.output_tokens),
        ("results", part.results, whole.results),
        ("retries", part.retries, whole.retries),
        ("denials", part.denials, whole.denials),
    ] {
        prop_assert!(part <= whole * times, "{what}: {part} of {whole}");
    }
    Ok(())
}

/// Puts something else where the `n`th value of a tree is.
fn replace_nth(value: &mut Value, n: &mut usize, with: &Value) {
    if *n == 0 {
        *value = with.clone();
    }
    *n = n.wrapping_sub(1);
    match value {
        Value::Array(list) => list.iter_mut().for_each(|v| replace_nth(v, n, with)),
        Value::Object(map) => map.values_mut().for_each(|v| replace_nth(v, n, with)),
        _ => {}
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([1, "x", null, {"type": "tool_use", "input": 7}])),
        Just(json!({"message": {"content": "x"}, "id": []})),
    ]
}

proptest! {
    #[test]
    fn a_stream_cut_anywhere_says_no_more_than_the_whole(which: Index, cut: Index) {
        let all = recordings();
        let r = which.get(all);
        let whole = sound(r.adapter, &r.stream)?;
        let end = cut.index(r.stream.len() + 1);
        let part = sound(r.adapter, &r.stream[..end])?;
        within(&part, &whole, 1)?;
    }

    #[test]
    fn flipped_bytes_break_nothing(which: Index, flips in prop::collection::vec((any::<Index>(), any::<u8>()), 1..30)) {
        let all = recordings();
        let r = which.get(all);
        let mut stream = r.stream.clone();
        if stream.is_empty() {
            return Ok(());
        }
        for (at, byte) in flips {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        sound(r.adapter, &stream)?;
    }

    #[test]
    fn lines_in_another_order_say_no_more_than_three_times_the_whole(which: Index, seed in any::<u64>()) {
        let all = recordings();
        let r = which.get(all);
        let whole = sound(r.adapter, &r.stream)?;
        let mut lines: Vec<&[u8]> = r.stream.split(|&b| b == b'\n').collect();
        let mut random = seed | 1;
        for n in (1..lines.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            lines.swap(n, usize::try_from(random >> 33).unwrap() % (n + 1));
        }
        let part = sound(r.adapter, &lines.join(&b'\n'))?;
        let mut rounds = whole;
        rounds.turns = rounds.turns.max(lines.len() as u64);
        // A result, a message and its parts tell of the same tokens, and rely on their order.
        within(&part, &rounds, 3)?;
    }

    #[test]
    fn values_of_other_types_break_nothing(which: Index, line: Index, n: Index, with in any_value(), as_cli: Index) {
        let all = recordings();
        let r = which.get(all);
        let mut lines: Vec<Vec<u8>> = r.stream.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
        let line = line.index(lines.len());
        let Ok(mut value) = serde_json::from_slice::<Value>(&lines[line]) else { return Ok(()) };
        let mut n = n.index(lines[line].len() / 8 + 1);
        replace_nth(&mut value, &mut n, &with);
        lines[line] = serde_json::to_vec(&value).unwrap();
        let stream = lines.join(&b'\n');
        let figures = sound(r.adapter, &stream)?;
        prop_assert_eq!(figures.malformed, u64::from(!value.is_object()));
        // Another CLI's stream is understood little, and breaks nothing.
        sound(*as_cli.get(adapters::all()), &stream)?;
    }

    #[test]
    fn any_bytes_are_kept_as_malformed(bytes in prop::collection::vec(any::<u8>(), 0..300), which: Index) {
        let figures = sound(*which.get(adapters::all()), &bytes)?;
        let lines = bytes.split(|&b| b == b'\n').filter(|l| !l.trim_ascii().is_empty());
        prop_assert_eq!(figures.malformed + figures.other, lines.count() as u64);
    }
}

/// Puts `with` wherever a value is the string `text`.
fn replace_text(value: &mut Value, text: &str, with: &str) {
    match value {
        Value::String(found) if found == text => with.clone_into(found),
        Value::Array(list) => list.iter_mut().for_each(|v| replace_text(v, text, with)),
        Value::Object(map) => map.values_mut().for_each(|v| replace_text(v, text, with)),
        _ => {}
    }
}

/// The first line of a recording that is a text of the agent, and the text.
fn line_with_text(r: &Recording) -> Option<(Value, String)> {
    r.stream.split(|&b| b == b'\n').find_map(|line| {
        let bodies = r.adapter.parser(None).line(line);
        let text = bodies.into_iter().find_map(|body| match body {
            Body::Text { text, .. } => Some(text),
            _ => None,
        })?;
        Some((serde_json::from_slice(line).unwrap(), text))
    })
}

/// In a line of many megabytes the event is a few pages, for every adapter that has a recording.
#[test]
fn a_text_of_megabytes_becomes_a_page() {
    let big = "x".repeat(3 << 20);
    for adapter in adapters::all() {
        let name = adapter.about().name;
        let of_adapter = |r: &&Recording| r.adapter.about().name == name;
        let mut own = recordings().iter().filter(of_adapter).peekable();
        if own.peek().is_none() {
            continue;
        }
        let (mut line, text) = own.find_map(line_with_text).expect(name);
        replace_text(&mut line, &text, &big);
        let out = adapter
            .parser(None)
            .line(&serde_json::to_vec(&line).unwrap());
        let clipped = out.iter().any(|body| {
            matches!(body, Body::Text { text, clipped: true, .. } if text.len() == event::TEXT_BYTES_MAX)
        });
        assert!(clipped, "{name}: {out:?}");
    }
}
