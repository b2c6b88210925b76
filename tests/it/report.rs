//! `harness report`: one page that needs nothing else, whatever names and agents wrote, also of ten
//! thousand items, looked at in a real browser.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::agents::{play, root_with};
use crate::support::{DEADLINE, Root, describe, run_within, skipped};

/// The data of the page's script.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\">").expect("the page has data");
    serde_json::from_str(rest.split("</script>").next().unwrap()).unwrap()
}

fn states(page: &str) -> Vec<(String, String)> {
    let data = data(page);
    let text = |n: &Value| {
        data["texts"][n.as_u64().unwrap() as usize]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let items = data["items"].as_array().unwrap().iter();
    items
        .map(|i| (i[0].as_str().unwrap().to_owned(), text(&i[1])))
        .collect()
}

/// What would end the script's element, or act, if it were not escaped.
const EVIL: &str =
    "</script><script>document.title='pwned'</script><img src=x onerror=document.title='pwned'>";
const EVIL_NAME: &str = "<img src=x onerror=document.title='pwned'><script>document.title='pwned'<";

#[test]
fn the_report_has_what_happened_and_evidence_of_what_went_wrong() {
    let root = root_with("claude", "");
    play(&root, "good.md", "success file=x.txt");
    let fails = format!(
        "#harness retries: 1\nprintf 'one\\033[31mtwo\\033[0m\\n%s\\n' \"{EVIL}\" >&2\nexit 3"
    );
    for n in 1..=4 {
        root.script(format!("fails-{n}"), &fails);
    }
    root.script(EVIL_NAME, "true");
    let refused = format!("---\nagent: \"{EVIL}\"\n---\nx\n");
    root.drop_file("refused.md", refused.as_bytes(), 0o644);
    root.script("reviewed", "#harness integrate: review\necho x > new");
    root.drain();
    root.script("later", "#harness not_before: 2100-01-01\ntrue");
    let page = root.ok(&["report"]);
    // Plain HTML tells it, without scripts.
    for wanted in [
        "4×</span> <span class=\"mark\">failed</span> exit status 3",
        "onetwo\n&lt;/script&gt;",
        "1 branch waits for your approval",
        "<span class=\"name\">reviewed</span>",
        "<b>2</b><span>done</span>",
        "<b>5</b><span>parked</span>",
        "<th scope=\"row\">claude</th><td>1</td><td>100 %</td>",
        "$0.03",
    ] {
        assert!(page.contains(wanted), "{wanted}\n{page}");
    }
    assert_eq!(
        page.matches("show fails-").count(),
        2,
        "two examples\n{page}"
    );
    assert!(!page.contains("<img") && !page.contains("pwned'<") && !page.contains('\u{1b}'));
    assert_eq!(page.matches("<script").count(), 2, "{page}");
    let states = states(&page);
    for (name, state) in [
        ("good.md", "done"),
        (EVIL_NAME, "done"),
        ("fails-2", "parked"),
        ("refused.md", "parked"),
        ("reviewed", "review"),
    ] {
        assert!(
            states.contains(&(name.to_owned(), state.to_owned())),
            "{name}: {states:?}"
        );
    }
    let attempts = |name: &str| {
        let data = data(&page);
        let items = data["items"].as_array().unwrap();
        let item = items.iter().find(|i| i[0] == name).unwrap();
        item[2].as_array().unwrap().len()
    };
    assert_eq!(
        (
            attempts("fails-1"),
            attempts("good.md"),
            attempts("refused.md")
        ),
        (2, 1, 0)
    );
    assert_eq!(data(&page)["waiting"].as_array().unwrap().len(), 1, "later");
}

#[test]
fn the_report_reads_nothing_but_a_sessions_own_files() {
    let root = Root::plain();
    fs::write(root.at("secret"), "the secret\n").unwrap();
    for name in ["link", "gates", "folder", "odd"] {
        // Reasons of their own: of those alike only two show evidence.
        let body = format!("#harness retries: 0\necho words of {name} >&2\nexit 1");
        root.script(name, &body);
    }
    root.drain();
    let session = |name: &str| {
        let id = root.show(name)["attempts"][0]["session"].clone();
        root.at("state/sessions").join(id.as_str().unwrap())
    };
    let log = session("link").join("stderr.log");
    fs::remove_file(&log).unwrap();
    symlink(root.at("secret"), &log).unwrap();
    // As if an agent had written into its record and its session.
    let record = |name: &str| root.at(format!("state/items/{name}.jsonl"));
    let text = fs::read_to_string(record("gates")).unwrap();
    let sid = session("gates")
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let gate = |log: &str| {
        format!(
            "{{\"at\":\"2026-01-01T00:00:00Z\",\"event\":\"gate\",\"session\":\"{sid}\",\"gate\":\"g\",\
             \"verdict\":\"red\",\"log\":\"{log}\"}}\n"
        )
    };
    fs::write(
        record("gates"),
        text + &gate("gates/../../../../secret") + &gate("/proc/self/environ"),
    )
    .unwrap();
    let folder = session("folder");
    fs::rename(&folder, root.at("elsewhere")).unwrap();
    fs::write(root.at("elsewhere/stderr.log"), "the secret\n").unwrap();
    symlink(root.at("elsewhere"), &folder).unwrap();
    let text = fs::read_to_string(record("odd")).unwrap();
    let sid = session("odd")
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    fs::write(record("odd"), text.replace(&sid, "../..")).unwrap();
    fs::write(root.at("stderr.log"), "the secret\n").unwrap();
    // None of ours: neither hangs nor counts.
    let fifo = root.at("state/items/fifo.jsonl");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    fs::write(root.at("state/items/garbage.jsonl"), b"\xff\0{[").unwrap();
    let page = root.ok(&["report"]);
    assert!(
        !page.contains("the secret") && !page.contains("HARNESS_ROOT="),
        "{page}"
    );
    assert_eq!(states(&page).len(), 4, "{page}");
    for name in ["link", "gates", "folder", "odd"] {
        assert!(
            page.contains(&format!("show {name}</code>")),
            "{name}\n{page}"
        );
    }
}

#[test]
fn the_report_goes_into_a_file_whole_and_over_nothing_else() {
    let root = Root::plain();
    root.script("x", "true");
    root.drain();
    let to = root.at("report.html");
    let target = to.to_str().unwrap();
    let out = root.exits(0, &["report", "-o", target]);
    assert!(out.stdout.is_empty(), "{}", describe(&out));
    let page = fs::read_to_string(&to).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&to), 0o600, "it tells of what is private");
    // As people type it, the first time and the next.
    for _ in 0..2 {
        let mut bare = root.command();
        bare.args(["report", "-o", "bare.html"])
            .current_dir(root.path());
        let out = run_within(DEADLINE, bare).unwrap();
        assert!(out.status.success(), "{}", describe(&out));
        assert_eq!(mode(&root.at("bare.html")), 0o600);
    }
    fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).unwrap();
    let link = root.at("link.html");
    symlink(&to, &link).unwrap();
    root.ok(&["report", "-o", link.to_str().unwrap()]);
    assert!(link.is_symlink());
    assert_eq!(mode(&to), 0o644);
    let fifo = root.at("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    for odd in [fifo.as_path(), root.path()] {
        let out = root.exits(2, &["report", "-o", odd.to_str().unwrap()]);
        assert!(String::from_utf8_lossy(&out.stderr).contains("what to do"));
    }
    assert!(!fifo.is_file() && fifo.exists(), "a fifo or a device stays");
    root.exits(100, &["report", "-o", "/no/such/folder/x.html"]);
    assert_eq!(
        fs::read_dir(root.path())
            .unwrap()
            .flatten()
            .filter(|f| { f.file_name().to_string_lossy().ends_with(".tmp") })
            .count(),
        0
    );
    // To a terminal it says what to do instead.
    if Command::new("script").arg("--version").output().is_err() {
        return skipped("harness report to a terminal: `script` is not here");
    }
    let mut script = Command::new("script");
    let command = format!(
        "{} --root {} report",
        env!("CARGO_BIN_EXE_harness"),
        root.path().display()
    );
    script
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::null());
    let out = run_within(Duration::from_secs(60), script).expect("it ends");
    assert_eq!(out.status.code(), Some(2), "{}", describe(&out));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        said.contains("report -o report.html") && !said.contains("<html"),
        "{said}"
    );
}

/// A record as an agent's attempts leave it.
fn record(n: usize) -> String {
    let at = |seconds: usize| {
        let t = jiff::Timestamp::from_second(1_790_000_000 + seconds as i64).unwrap();
        format!("{t:.3}")
    };
    let (from, sid) = (n * 4, format!("019c0000-0000-7000-8000-{n:012}"));
    let slot = format!("agent-{}", n % 10 + 1);
    let (outcome, next, reason) = match n % 7 {
        0 => ("failed", "parked", format!("exit status 1: {EVIL}")),
        1 => ("no_change", "done", "finished, no changes".to_owned()),
        _ => ("succeeded", "done", "finished with 1 commit".to_owned()),
    };
    let lines = [
        serde_json::json!({"at": at(from), "event": "added", "by": "add"}),
        serde_json::json!({"at": at(from + 60), "event": "claimed", "session": sid, "slot": slot, "attempt": 1}),
        serde_json::json!({"at": at(from + 61), "event": "started", "session": sid, "slot": slot, "agent": "claude"}),
        serde_json::json!({"at": at(from + 95), "event": "finished", "session": sid, "slot": slot, "attempt": 1,
            "outcome": outcome, "reason": reason, "seconds": 33.5, "commits": 1, "turns": 9, "input_tokens": 120_000,
            "output_tokens": 3400, "cost_usd": 0.42, "next": next, "published": format!("harness/{}/1", name(n))}),
    ];
    lines.map(|line| line.to_string() + "\n").concat()
}

fn name(n: usize) -> String {
    match n % 1000 {
        999 => format!("{EVIL_NAME}{n}"),
        _ => format!("fix-something-{n:05}.md"),
    }
}

/// A tree in which so many items have ended.
fn large(count: usize) -> Root {
    let root = Root::plain();
    for n in 0..count {
        let place = if n % 7 == 0 { "parked" } else { "done" };
        fs::write(root.at(format!("queue/{place}/{}", name(n))), "x").unwrap();
        let path = root.at(format!("state/items/{}.jsonl", name(n)));
        fs::write(&path, record(n)).unwrap();
        let when = std::time::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + n as u64 * 4);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(when)
            .unwrap();
    }
    root
}

/// A browser, if this machine has one.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("HARNESS_TEST_CHROMIUM").map(PathBuf::from);
    let usual = ["chromium", "chromium-browser", "google-chrome"].map(PathBuf::from);
    let mut all = named.into_iter().chain(usual);
    all.find(|program| {
        let out = Command::new(program).arg("--version").output();
        out.is_ok_and(|out| out.status.success())
    })
}

/// What the browser printed: the page as its scripts left it, and its console.
fn browse(chromium: &Path, page: &Path, more: &[&str]) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(chromium);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(more)
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null());
    let out = run_within(Duration::from_secs(120), command).expect("the browser ends");
    assert!(out.status.success(), "{}", describe(&out));
    let stderr = String::from_utf8_lossy(&out.stderr);
    let console = stderr.lines().filter(|line| line.contains(":CONSOLE"));
    let console = console.collect::<Vec<_>>().join("\n");
    (String::from_utf8_lossy(&out.stdout).into_owned(), console)
}

#[test]
fn ten_thousand_items_open_in_a_browser_and_nothing_but_the_pages_script_acts() {
    let root = large(10_050);
    let target = root.at("report.html");
    let mut command = root.command();
    command.arg("report").arg("-o").arg(&target);
    let out = run_within(Duration::from_secs(300), command).expect("it ends");
    assert!(out.status.success(), "{}", describe(&out));
    let page = fs::read_to_string(&target).unwrap();
    let items = data(&page)["items"].as_array().unwrap().len();
    assert_eq!(items, 10_000);
    assert!(
        page.contains("Before them: 50 items"),
        "older ones are sums"
    );
    assert!(page.len() < 1_300_000, "{} bytes", page.len());
    let Some(chromium) = chromium() else {
        return skipped("the report in a browser: chromium is not here");
    };
    let title = |dom: &str| {
        let (_, rest) = dom.split_once("<title>").unwrap();
        rest.split("</title>").next().unwrap().to_owned()
    };
    let (dom, console) = browse(&chromium, &target, &["--dump-dom"]);
    assert_eq!(console, "", "neither an error nor a violation");
    assert!(
        title(&dom).starts_with("harness report: "),
        "{}",
        title(&dom)
    );
    let rows = dom.matches("class=\"row\"").count();
    assert!(
        (10..200).contains(&rows),
        "only the rows that are seen: {rows}"
    );

    // What got in all the same would not act.
    let evil = root.at("evil.html");
    let act =
        "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">";
    fs::write(&evil, page.replace("</body>", &format!("{act}</body>"))).unwrap();
    let (dom, console) = browse(&chromium, &evil, &["--dump-dom"]);
    assert!(
        title(&dom).starts_with("harness report: "),
        "{}",
        title(&dom)
    );
    assert!(console.contains("Content Security Policy"), "{console}");

    // To be looked at: HARNESS_TEST_SHOTS=DIR keeps them.
    let kept = std::env::var_os("HARNESS_TEST_SHOTS").map(PathBuf::from);
    let dir = kept.unwrap_or_else(|| root.path().to_owned());
    for (width, height) in [(1280, 3000), (390, 4000)] {
        for (theme, scheme) in [("light", 1), ("dark", 0)] {
            let shot = dir.join(format!("report-{width}-{theme}.png"));
            let (_, console) = browse(
                &chromium,
                &target,
                &[
                    &format!("--window-size={width},{height}"),
                    &format!("--blink-settings=preferredColorScheme={scheme}"),
                    &format!("--screenshot={}", shot.display()),
                ],
            );
            assert_eq!(console, "");
            let size = shot.metadata().unwrap().len();
            assert!(size > 50_000, "{}: {size} bytes", shot.display());
        }
    }
    let paper = dir.join("report.pdf");
    browse(
        &chromium,
        &target,
        &[
            "--no-pdf-header-footer",
            &format!("--print-to-pdf={}", paper.display()),
        ],
    );
    assert!(paper.metadata().unwrap().len() > 20_000);
}
