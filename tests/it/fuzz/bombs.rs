//! Files that are small and mean much: aliases of aliases, brackets a thousand deep, a mebibyte of
//! one line. Each is refused or run in a moment, in the memory that any other item takes.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::support::Root;

const MEBIBYTE: usize = 1 << 20;
/// Far above what a run needs (some 20 MB), far below what any bomb would want.
const MEMORY_KB_MAX: u64 = 300_000;

/// `(name, text)`.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let front = |yaml: &str| format!("---\n{yaml}\n---\ntrue\n").into_bytes();
    let fill_to = |size: usize, begin: &str, with: &str, end: &str| {
        let room = size - begin.len() - end.len() - 64;
        format!("{begin}{}{end}", with.repeat(room / with.len()))
    };
    let fill = |begin: &str, with: &str, end: &str| fill_to(MEBIBYTE, begin, with, end);
    let page = |begin: &str, with: &str, end: &str| fill_to(60 << 10, begin, with, end);
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let of = format!("*a{}, ", n - 1).repeat(10);
        writeln!(laughs, "a{n}: &a{n} [{of}]").unwrap();
    }
    let mut merges = String::from("m0: &m0 {a: b}\n");
    for n in 1..1500 {
        writeln!(merges, "m{n}: &m{n} {{<<: *m{}, k{n}: v}}", n - 1).unwrap();
    }
    let wide = (0..6_000).fold(String::new(), |all, n| all + &format!("k{n}: v\n"));
    let one = format!(
        "#!/bin/sh\n#harness {}",
        fill("x: [", "1, ", "1]\nexit 0\n")
    );
    let quadratic = format!(
        "a: &a {}\nb: [{}]",
        "x".repeat(30_000),
        "*a, ".repeat(7_000)
    );
    vec![
        ("laughs.md", front(&laughs)),
        ("merges.md", front(&merges)),
        ("quadratic.md", front(&quadratic)),
        ("self.md", front("a: &a [*a, *a]")),
        ("wide.md", front(&wide)),
        ("deep.md", front(&page("x: ", "[", ""))),
        (
            "deep-closed.md",
            front(&format!("x: {}{}", "[".repeat(30_000), "]".repeat(30_000))),
        ),
        (
            "deep-blocks.md",
            front(&(0..240).fold(String::new(), |all, n| {
                format!("{all}{}k:\n", " ".repeat(n))
            })),
        ),
        (
            "deep-dashes.md",
            front(&format!("x:\n {}", "- ".repeat(30_000))),
        ),
        (
            "line.md",
            page("---\ntitle: ", "x", "\n---\nx").into_bytes(),
        ),
        (
            "quoted.md",
            page("---\nlabels: \"", "\\n", "\"\n---\nx").into_bytes(),
        ),
        (
            "long.md",
            fill("---\ntitle: ", "x", "\n---\nx").into_bytes(),
        ),
        (
            "flow.md",
            page("---\nlabels: {", "? ", "}\n---\nx").into_bytes(),
        ),
        (
            "number.md",
            page("---\npriority: ", "9", "\n---\nx").into_bytes(),
        ),
        ("deep.json", fill("{\"x\":", "[", "").into_bytes()),
        ("deep-objects.json", fill("", "{\"a\":", "").into_bytes()),
        (
            "keys.json",
            fill("{", "\"a\":1,", "\"prompt\":\"x\"}").into_bytes(),
        ),
        (
            "string.json",
            fill("{\"prompt\":\"", "\\u0041", "\"}").into_bytes(),
        ),
        (
            "number.json",
            fill("{\"priority\":1", "0", "}").into_bytes(),
        ),
        (
            "exponent.json",
            b"{\"timeout\":1e999999999,\"prompt\":\"x\"}".to_vec(),
        ),
        (
            "after.json",
            fill("{\"prompt\":\"x\",\"after\":[", "\"a\",", "\"a\"]}").into_bytes(),
        ),
        (
            "env.json",
            fill(
                "{\"prompt\":\"x\",\"env\":{",
                "\"A\":\"b\",",
                "\"B\":\"c\"}}",
            )
            .into_bytes(),
        ),
        ("script", one.into_bytes()),
        (
            "lines",
            fill("#!/bin/sh\n", "#harness a: b\n", "exit 0\n").into_bytes(),
        ),
        ("nul.md", vec![0; MEBIBYTE]),
        (
            "bom.md",
            b"\xef\xbb\xbf---\r\npriority: high\r\n---\r\ntrue\r\n".to_vec(),
        ),
        (
            "crlf.md",
            b"---\r\npriority: high\r\n---\r\ntrue\r\n".to_vec(),
        ),
        ("latin.md", b"---\ntitle: caf\xe9\n---\ntrue\n".to_vec()),
        ("utf16.md", b"\xff\xfe-\0-\0-\0\n\0".to_vec()),
    ]
}

/// Of the harness process, from /proc: its highest resident memory.
fn peak_kb(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// In a build without optimisation, on a machine that does other things too.
#[test]
fn fuzz_no_file_is_long_to_understand() {
    for (name, text) in bombs() {
        let begun = Instant::now();
        let parsed = harness::item::parse(&harness::layout::Name::new(name), &text, false);
        let took = begun.elapsed();
        println!("{name}: {took:?} {:?}", parsed.map(drop));
        assert!(took < Duration::from_secs(4), "{name}: {took:?}");
    }
}

#[test]
fn fuzz_small_files_that_mean_much_cost_little_and_are_answered() {
    let root = Root::plain();
    root.config("agent = \"cat\"\n[repo]\npath = \"none\"\n[agents.cat]\ncommand = [\"true\"]\n");
    let bombs = bombs();
    let begun = Instant::now();
    for (name, text) in &bombs {
        assert!(text.len() <= MEBIBYTE, "{name}");
        root.drop_file(name, text, 0o644);
    }
    let mut run = root.start(&["--workers", "2"]);
    root.wait_until("each has ended", || {
        root.ok(&["resume"]);
        bombs
            .iter()
            .all(|(name, _)| root.is_done(name) || root.is_parked(name))
    });
    println!(
        "{} files in {:?}, {} kB",
        bombs.len(),
        begun.elapsed(),
        peak_kb(run.pid())
    );
    assert!(
        peak_kb(run.pid()) < MEMORY_KB_MAX,
        "{} kB",
        peak_kb(run.pid())
    );
    run.signal("TERM");
    run.wait();
    let mut taken = Vec::new();
    for (name, _) in &bombs {
        let out = root.harness(&["show", name, "--json"]);
        let show: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let reason = show["reason"].as_str().unwrap_or_default();
        if show["outcome"] == "refused" {
            assert!(
                !reason.is_empty() && reason.len() < 2048,
                "{name}: {reason}"
            );
        } else {
            assert!(root.is_done(name), "{name}: {reason}");
            taken.push(*name);
        }
    }
    // Those that are only odd are items like any other.
    for name in ["crlf.md", "bom.md", "string.json", "quoted.md"] {
        assert!(taken.contains(&name), "{name} of {taken:?}");
    }
    assert!(!taken.contains(&"keys.json"), "one key many times");
    for name in ["crlf.md", "bom.md"] {
        assert_eq!(root.show(name)["fields"]["priority"], "high", "{name}");
    }
    root.assert_nothing_left();
}
