//! Whatever bytes stand in a file that somebody else may write, its reader neither panics nor takes
//! long nor lets them grow, and says what it took them for. Texts that are right are cut, doubled
//! and mixed with what has broken readers before. `PROPTEST_CASES=100000 cargo test --release
//! --test it fuzz` goes on for longer; `PROPTEST_RNG_SEED` repeats a run.

mod bombs;
mod names;
mod screens;

use std::fs;
use std::time::{Duration, Instant};

use harness::config::{Config, Overrides};
use harness::interrupt;
use harness::item::{self, Item, QueueFields, Refusal};
use harness::keeper::ExitRecord;
use harness::keeper::wire::{self, Reply, Request};
use harness::layout::{Name, Root, SlotId};
use harness::outcome::Next;
use harness::record::{self, Claimed, Event, Finished, Record};
use harness::status::LedgerLine;
use harness::{aggregator, control, hold, layout, session};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// What readers have stumbled over.
const BITS: &[&[u8]] = &[
    b"\0",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\r",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xf0\x9f",
    b"\x1b]0;x\x07",
    b"\x1b[2J",
    b"\xc2\x9b31m",
    "\u{202e}".as_bytes(),
    "\u{2028}".as_bytes(),
    b"&a [*a, *a]",
    b"&a {<<: *a}",
    b"!!binary x",
    b"!!float .inf",
    b".nan",
    b"-.inf",
    b"<<: *x",
    b"%YAML 9.9",
    b"---\n",
    b"...\n",
    b"? ",
    b"- ",
    b": ",
    b"#",
    b"|\n",
    b">\n",
    b"1e999",
    b"-1",
    b"-0",
    b"1e-400",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9223372036854775808",
    b"4294967295",
    b"4294967296",
    b"0x7fffffffffffffff",
    b"999999999999999999999999",
    b"\\ud800",
    b"\\u0000",
    b"\\",
    b"\"",
    b"'",
    b"[[[[[[[[",
    b"{{{{{{{{",
    b"]",
    b"}",
    b",",
    b"{{ROOT}}",
    b"{{",
    b"}}",
    b"..",
    b"../../etc",
    b"/",
    b"null",
    b"true",
    b"\"\"",
    b"[]",
    b"{}",
    b"9999-12-31T23:59:59.999999999Z",
    b"-9999-01-01T00:00:00Z",
    b"1e308",
    b"~",
    b"$(id)",
    b"\n",
];

/// A text of these, mangled: pieces cut out, doubled, put in, bytes changed.
fn mangled(seeds: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        0..5u8,
        any::<Index>(),
        any::<Index>(),
        any::<Index>(),
        any::<u8>(),
    );
    (any::<Index>(), prop::collection::vec(edit, 0..10)).prop_map(move |(which, edits)| {
        let mut text = which.get(seeds).as_bytes().to_vec();
        for (how, at, to, bit, byte) in edits {
            let (a, b) = (at.index(text.len() + 1), to.index(text.len() + 1));
            let (a, b) = (a.min(b), a.max(b));
            match how {
                0 => drop(text.splice(a..a, BITS[bit.index(BITS.len())].iter().copied())),
                1 => drop(text.splice(a..b, BITS[bit.index(BITS.len())].iter().copied())),
                2 => drop(text.drain(a..b)),
                3 if text.len() < 20_000 => {
                    let piece = text[a..b].repeat(1 + usize::from(byte % 8));
                    drop(text.splice(b..b, piece));
                }
                _ if a < text.len() => text[a] = byte,
                _ => text.push(byte),
            }
        }
        text
    })
}

/// Does it within the time that a loaded machine may take for 20 KB.
fn promptly<T>(work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let made = work();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    made
}

/// What a person is told, on however many lines it takes.
fn is_for_people(text: &str) -> Result<(), TestCaseError> {
    prop_assert!(!text.trim().is_empty());
    prop_assert!(text.len() < 4096, "{} bytes", text.len());
    prop_assert!(
        !text.chars().any(|c| c.is_control() && c != '\n'),
        "{text:?}"
    );
    Ok(())
}

const FRONT: &str = "---\ntitle: A title\ntype: fix\npriority: high\nafter: [a, 'b c']\nagent: claude\nrepo: web\nbase: main\nbranch: mine/x\nnot_before: 2026-12-24T09:00:00Z\ntimeout: 10m\nretries: 2\nbudget_usd: 1.5\nmax_turns: 30\nexclusive: db\nenv: {A: b, C: 1}\nlabels: [x, y]\nodd: {deep: [1, 2.5, ~]}\n---\nDo it.\n";
const ITEMS: &[&str] = &[
    FRONT,
    "---\nbranch: /\nafter: [.., ., b]\n---\nx",
    "---\npriority: 9\nafter: x\n---\n\nDo it.\n---\nstill text\n",
    "plain words\n",
    "#!/bin/sh\n# why\n#harness priority: low\n#harness after: [a, b]\n#harness env: {A: b}\necho\n",
    "#!/bin/sh\r\n#harness retries: 0\r\n#harness not_before: 1999999999\r\nexit\r\n",
    r#"{"priority":9,"after":["a","b"],"exclusive":"db","timeout":600,"odd":{"x":1},"prompt":"Do it."}"#,
    r#"{"title":"t","env":{"A":"b"},"budget_usd":0.5,"not_before":1e9,"retries":"3","prompt":"x"}"#,
];

/// What holds of every item, however it came to be: refused with a reason, or understood within
/// the bounds that the rest relies on.
fn sound(name: &str, bytes: &[u8], executable: bool) -> Result<Option<Item>, TestCaseError> {
    let name = Name::new(name);
    let item = match promptly(|| item::parse(&name, bytes, executable)) {
        Ok(item) => item,
        Err(Refusal(why)) => {
            is_for_people(&why)?;
            return Ok(None);
        }
    };
    prop_assert_eq!(&item::peek(&name, bytes, executable), &item.order);
    prop_assert!(item.order.priority <= 9);
    for after in &item.order.after {
        let b = after.bytes();
        let is_name = !b.is_empty() && b.len() <= 255 && b != b"." && b != b"..";
        prop_assert!(
            is_name && !b.contains(&b'/') && !b.contains(&0),
            "{after:?}"
        );
    }
    for text in [
        &item.agent,
        &item.order.repo,
        &item.order.exclusive,
        &item.base,
        &item.branch,
    ] {
        let ok = text
            .as_ref()
            .is_none_or(|t| !t.is_empty() && !t.chars().any(char::is_control));
        prop_assert!(ok, "{text:?}");
    }
    prop_assert!(
        item.branch
            .as_ref()
            .is_none_or(|b| b.bytes().any(|c| c != b'/')),
        "{:?}",
        item.branch
    );
    prop_assert!(item.base.as_ref().is_none_or(|b| !b.starts_with('-')));
    prop_assert!(item.budget_usd.is_none_or(|b| b.is_finite() && b >= 0.0));
    prop_assert!(
        item.timeout
            .is_none_or(|t| !t.is_zero() && t <= Duration::from_secs(367 * 86_400))
    );
    for (key, value) in &item.env {
        let ok = !key.is_empty() && !key.contains(['=', '\0']) && !value.contains('\0');
        prop_assert!(ok && !key.starts_with("HARNESS_"), "{key:?}");
    }
    // Aliases repeat what they name: not without a bound.
    let grown = serde_json::to_vec(&item.fields).unwrap().len();
    prop_assert!(
        grown <= 400_000 + 8 * bytes.len(),
        "{} bytes became {grown}",
        bytes.len()
    );
    Ok(Some(item))
}

/// The same fields and text as a JSON item mean the same.
fn round_trips(item: &Item) -> Result<(), TestCaseError> {
    let Ok(prompt) = String::from_utf8(item.prompt.clone()) else {
        return Ok(());
    };
    let mut fields = item.fields.clone();
    fields.insert(
        "prompt".into(),
        if prompt.is_empty() {
            "x".into()
        } else {
            prompt.into()
        },
    );
    let text = serde_json::to_vec(&fields).unwrap();
    let Some(again) = sound("x.json", &text, false)? else {
        return Err(TestCaseError::fail(format!(
            "not taken again: {}",
            String::from_utf8_lossy(&text)
        )));
    };
    let order = QueueFields {
        is_prompt: true,
        ..item.order.clone()
    };
    prop_assert_eq!(&again.order, &order);
    prop_assert_eq!(
        (&again.agent, &again.base, &again.branch),
        (&item.agent, &item.base, &item.branch)
    );
    prop_assert_eq!(
        (again.timeout, again.retries, &again.env),
        (item.timeout, item.retries, &item.env)
    );
    Ok(())
}

const CONFIGS: &[&str] = &[
    "[harness]\nworkers = 3\nagent = \"a\"\ntimeout = \"10m\"\n[repo]\npath = \"none\"\n[agents.a]\ncommand = [\"true\", \"{{PROMPT_FILE}}\"]\nenv = { A = \"b\" }\n[retry]\nmax = 2\njitter = 0.5\n",
    "[limits]\ndisk_free_min = \"512MiB\"\n[repos.web]\npath = \"/x\"\nbase = \"main\"\n[agents.b]\ncli = \"claude\"\n",
    "\u{feff}[harness]\r\nnotify = [\"true\"]\r\nnotify_on = [\"done\"]\r\nkill_grace = 2\r\n",
];

const RECORDS: &[&str] = &[
    "{\"at\":\"2026-01-27T10:45:00Z\",\"event\":\"added\"}\n{\"event\":\"claimed\",\"session\":\"s1\",\"agent\":\"agent-1\",\"attempt\":1}\n{\"event\":\"started\",\"session\":\"s1\",\"pid\":7}\n{\"event\":\"finished\",\"session\":\"s1\",\"outcome\":\"failed\",\"next\":\"retry\",\"not_before_ns\":9223372036854775807}\n{\"event\":\"claimed\",\"session\":\"s2\",\"agent\":\"agent-1\",\"attempt\":4294967295}\n",
    "{\"event\":\"requeued\",\"session\":\"s1\"}\n{\"event\":\"answered\",\"session\":\"s1\",\"answer\":7}\n{\"event\":\"released\",\"not_before_ns\":-1}\n{\"event\":\"fini",
    "{\"event\":\"claimed\",\"attempt\":18446744073709551615}\n\n[1]\nnull\n",
];

const SESSIONS: &[&str] = &[
    "{\"session\":\"s\",\"item\":\"x\",\"attempt\":1,\"timeout_seconds\":3600,\"command\":[\"a\"],\"seconds\":1.5,\"notes\":[],\"branch\":\"harness/x/1\",\"conversation\":{\"input\":1}}",
    "{\"session\":\"s\",\"timeout_seconds\":18446744073709551615,\"seconds\":-1,\"cost_usd\":1e308,\"pid\":-1}",
];
const EXITS: &[&str] = &[
    "{\"session\":\"s\",\"pid\":1,\"exit_status\":0,\"signal\":null,\"started_at\":\"\",\"ended_at\":\"2026-01-27T10:45:00Z\",\"seconds\":1.0,\"frozen_seconds\":0,\"cpu_seconds\":0.1,\"stopped\":true,\"stopped_for\":\"timeout\",\"strays\":0,\"strays_left\":0}",
];
const LEDGERS: &[&str] = &[
    "{\"at\":\"2026-01-27T10:45:00Z\",\"session\":\"s\",\"item\":\"x\",\"outcome\":\"succeeded\",\"last\":true,\"seconds\":1.5,\"input_tokens\":18446744073709551615,\"output_tokens\":1,\"cost_usd\":1e308}\n",
];
const HOLDS: &[&str] = &[
    "{\"agent\":\"a\",\"until\":\"2999-01-27T10:45:00Z\",\"class\":\"auth\",\"reason\":\"no\",\"session\":\"s\",\"since\":\"\"}",
    "by hand\n",
];
const WORDS: &[&str] = &["3\n", " 12", "1024", "which?\nsecond line\n", ""];

fn tree() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    for (dir, _) in root.dirs() {
        fs::create_dir_all(dir).unwrap();
    }
    (dir, root)
}

/// Of the time that each may take: these write files.
fn few() -> ProptestConfig {
    let all = ProptestConfig::default();
    let cases = (all.cases / 2).max(1);
    ProptestConfig { cases, ..all }
}

proptest! {
    #[test]
    fn fuzz_an_item_is_refused_with_a_reason_or_means_the_same_as_json(
        bytes in mangled(ITEMS), name in prop_oneof![Just("x.md"), Just("x.json"), Just("x")], exec: bool
    ) {
        if let Some(item) = sound(name, &bytes, exec)? {
            round_trips(&item)?;
        }
    }

    #[test]
    fn fuzz_the_keeper_takes_no_frame_for_another(bytes in prop::collection::vec(any::<u8>(), 0..200), spawn: bool, cut: Index) {
        // Frames of random fields behind a word that is known, and any bytes at all.
        let mut stream = bytes.as_slice();
        while let Ok(Some(body)) = promptly(|| wire::receive(&mut stream)) {
            prop_assert!(body.len() + 4 <= bytes.len());
            let _any = (Request::parse(&body), Reply::parse(&body));
        }
        let word = if spawn { "spawn" } else { "stop" };
        let fields = [word.as_bytes()].into_iter().chain(bytes.split(|b| b % 16 == 0));
        let sized = |f: &[u8]| [&(f.len() as u32).to_le_bytes(), f].concat();
        let body: Vec<u8> = fields.flat_map(sized).collect();
        if let Some(request) = Request::parse(&body) {
            let mut sent = Vec::new();
            wire::send(&mut sent, request.frame()).unwrap();
            let got = wire::receive(&mut sent.as_slice()).unwrap().unwrap();
            prop_assert_eq!(Request::parse(&got), Some(request));
            let end = cut.index(sent.len());
            prop_assert_eq!(wire::receive(&mut &sent[..end]).unwrap(), None);
        }
    }

    #[test]
    fn fuzz_how_an_agent_ended_is_read_or_not_known(bytes in mangled(EXITS)) {
        if let Ok(record) = promptly(|| serde_json::from_slice::<ExitRecord>(&bytes)) {
            let _any = (record.stop(), record.exit());
        }
    }

    #[test]
    fn fuzz_a_ledger_line_is_read_or_left_out(bytes in mangled(LEDGERS)) {
        let _any = promptly(|| serde_json::from_slice::<LedgerLine>(&bytes));
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn fuzz_a_configuration_is_used_or_refused_with_line_and_advice(bytes in mangled(CONFIGS)) {
        let (_dir, root) = tree();
        fs::write(root.config(), &bytes).unwrap();
        match promptly(|| Config::load_with(&root, &Overrides::default(), |_| None)) {
            Ok(config) => {
                prop_assert!(config.harness.workers <= 1024);
                prop_assert!(!config.agents.keys().chain(config.repos.keys()).any(|n| n.contains('/')));
            }
            Err(e) => {
                is_for_people(&e.to_string())?;
                prop_assert!(e.to_string().contains("what to do"), "{e}");
                prop_assert_eq!(e.exit_code(), 100);
            }
        }
    }

    #[test]
    fn fuzz_a_record_takes_the_next_line_whatever_stands_before_it(bytes in mangled(RECORDS)) {
        let (_dir, root) = tree();
        let name = Name::new("x");
        fs::write(root.record(&name), &bytes).unwrap();
        let mut record = promptly(|| Record::open(&root, &name)).unwrap();
        // As a claim does, and the end of its attempt.
        let attempt = record.history().next_attempt();
        prop_assert!(attempt > 0);
        record.append(&Event::Claimed(Claimed {
            session: "new".into(), slot: "agent-9".into(), attempt, ..Claimed::default()
        })).unwrap();
        record.append(&Event::Finished(Finished {
            session: "new".into(), next: Some(Next::Retry.into()), ..Finished::default()
        })).unwrap();
        let open = Record::open(&root, &name).unwrap().history().clone();
        prop_assert_eq!(&open, &record::history(&root, &name));
        let last = open.last.unwrap();
        prop_assert_eq!((last.session.as_str(), last.attempt), ("new", attempt));
        prop_assert_eq!(last.end.unwrap().next, Some(Next::Retry.into()));
        let lines = record::lines(&root, &name).unwrap();
        prop_assert!(matches!(lines.last().unwrap().event, Event::Finished(_)));
        prop_assert!(!record::is_released(&root, &name, 7));
    }

    #[test]
    fn fuzz_a_sessions_file_is_its_own_or_none(bytes in mangled(SESSIONS)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(session::file::path(dir.path()), &bytes).unwrap();
        if let Some(file) = promptly(|| session::file::read(dir.path(), "s")) {
            prop_assert_eq!(&file.session, "s");
            file.write(dir.path(), false).unwrap();
            prop_assert_eq!(session::file::read(dir.path(), "s"), Some(file));
        }
    }

    #[test]
    fn fuzz_orders_holds_and_interrupts_hold_until_they_are_removed(
        words in mangled(WORDS), held in mangled(HOLDS), ledger in mangled(LEDGERS), reason in mangled(WORDS)
    ) {
        let (_dir, root) = tree();
        fs::write(root.control().join("workers"), &words).unwrap();
        fs::write(root.control().join("pause"), &words).unwrap();
        fs::write(root.holds().join("a.hold"), &held).unwrap();
        fs::write(interrupt::path(&root, "agent-1"), &reason).unwrap();
        let day = harness::clock::now_iso()[..10].to_owned();
        fs::write(root.ledger().join(format!("{day}.jsonl")), &ledger).unwrap();
        let orders = promptly(|| control::read(&root));
        prop_assert!(orders.pause && orders.workers.is_none_or(|n| n <= 1024));
        if let Some(complaint) = &orders.complaint {
            is_for_people(complaint)?;
        }
        if let Some(hold) = hold::of(&root, "a") {
            prop_assert_eq!(&hold.agent, "a");
            prop_assert!(root.holds().join("a.hold").exists());
            let _any = hold.ends_at_ns();
        }
        let stands = interrupt::of(&root, SlotId(1)).unwrap();
        prop_assert!(stands.reason.len() <= 3 * 4096);
        let status = promptly(|| aggregator::rebuild(&root, Default::default())).unwrap();
        // What a reader gets is JSON: no infinity became null.
        let text = serde_json::to_string(&status).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        for figure in ["cost_usd", "average_seconds", "success_rate", "throughput_per_hour"] {
            prop_assert!(read["metrics"][figure].is_number(), "{figure}: {}", read["metrics"]);
        }
        prop_assert_eq!(status.interrupts.len(), 1);
    }
}

/// Bytes that are no file name's, and one that is a path's.
#[test]
fn fuzz_layout_has_no_name_for_what_is_none() {
    for bad in [
        "agent-0",
        "agent-01",
        "agent--1",
        "agent-",
        "agent-1 ",
        "Agent-1",
        "agent-99999999999999999999",
    ] {
        assert!(SlotId::parse(bad.as_ref()).is_none(), "{bad}");
    }
    assert_eq!(layout::SlotId::parse("agent-12".as_ref()), Some(SlotId(12)));
}
