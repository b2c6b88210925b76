//! How fast the events of an agent are read, against serde_json on the needed fields alone, over
//! the recordings of real CLIs: `parse FILE…` prints MB/s of both and the ratio, of nine rounds.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a yardstick"
)]

use std::borrow::Cow;
use std::time::Instant;

use harness::adapters::by_name;
use serde::Deserialize;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subtype: Option<Cow<'a, str>>,
    #[serde(borrow)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    result: Option<Cow<'a, str>>,
    is_error: Option<bool>,
    total_cost_usd: Option<f64>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    #[serde(borrow)]
    Blocks(Vec<Block<'a>>),
    Text(Cow<'a, str>),
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_use_id: Option<Cow<'a, str>>,
    is_error: Option<bool>,
}

#[derive(Deserialize)]
struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

/// Something that arrives all the time: one line with a paragraph of about a kilobyte.
fn paragraph(n: usize) -> Vec<u8> {
    let text = "The agent says what it has found and what it is going to do next. ".repeat(11);
    let line = serde_json::json!({
        "type": "assistant", "session_id": "92bc9e15-7e07-4a7d-ab37-e70d58fd0e13",
        "message": {
            "id": format!("msg_{n}"), "type": "message", "role": "assistant", "model": "claude-opus-5-5",
            "content": [{"type": "text", "text": text}],
            "usage": {"input_tokens": 12, "output_tokens": n % 500, "cache_read_input_tokens": 20_000},
        },
    });
    line.to_string().into_bytes()
}

fn measure(what: &str, lines: &[Vec<u8>]) {
    let bytes: usize = lines.iter().map(|l| l.len() + 1).sum();
    let repeat = (24 << 20) / bytes + 1;
    let megabytes = (bytes * repeat) as f64 / 1e6;
    let mut rates: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..9 {
        let begun = Instant::now();
        let mut parser = by_name("claude").unwrap().parser(None);
        let mut out = Vec::new();
        for _ in 0..repeat {
            for line in lines {
                out.clear();
                parser.line(line, &mut out);
                std::hint::black_box(&out);
            }
        }
        rates[0].push(megabytes / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        for _ in 0..repeat {
            for line in lines {
                std::hint::black_box(serde_json::from_slice::<Line>(line).ok());
            }
        }
        rates[1].push(megabytes / begun.elapsed().as_secs_f64());
    }
    let [ours, serde] = rates.map(|mut r| {
        r.sort_by(f64::total_cmp);
        r[r.len() / 2]
    });
    println!("{what}\t{ours:.0}\t{serde:.0}\t{:.2}", ours / serde);
}

fn main() {
    let mut lines = Vec::new();
    for file in std::env::args().skip(1) {
        let text = std::fs::read(file).unwrap();
        lines.extend(
            text.split(|b| *b == b'\n')
                .filter(|l| !l.is_empty())
                .map(<[u8]>::to_vec),
        );
    }
    measure("recordings", &lines);
    measure(
        "1 kB messages",
        &(0..4_000).map(paragraph).collect::<Vec<_>>(),
    );
}
