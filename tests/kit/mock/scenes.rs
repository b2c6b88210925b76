//! The plays. `P=…` are parameters with their defaults; all take `first=K` (attempts 1 to K only).
//!
//! | play | does |
//! |---|---|
//! | success `file=mock.txt text=… turns=3` | edits the file, commits, says so |
//! | dirty, noop | edits and does not commit; looks and does nothing |
//! | timeout `every=0.2` | works for ever: a tool call every so many seconds |
//! | stall | silent for ever, no processor time |
//! | error, auth, overloaded `times=2 pause=0.05 then=` | API failures; `then=success` recovers |
//! | usage-limit `reset=3600` | a usage limit that ends in so many seconds |
//! | max_tokens, max_turns, budget | limits reached |
//! | denied | every tool is denied; ends well with nothing done |
//! | crash `signal=SEGV` | dies in the middle of a line |
//! | malformed `end=` | garbage between good lines; `end=cut` ends in half a line |
//! | big-line `n=20000000` | one line of so many bytes |
//! | no-result | does its work, exits 0 without a last event |
//! | two-results | result, more work, result |
//! | linger `s=300` | lives on after its result |
//! | daemon `s=300 env= stdout= pid=` | leaves a process of its own session; `env=clear`, `stdout=keep` |
//! | slow `rate=20 s=5` | that many events a second for so long, then success |
//! | tool `s=30 tree=1 pid=` | runs a tool in a session of its own, then success |
//! | question `text=… wait=yes` | writes a question into the interrupt file, goes on when it is gone |
//! | ignore-term, exit0-on-term | silent for ever with that way with SIGTERM |
//! | resume | fails half-way; resumed, finishes what it had begun |
//! | exit `code=3` | leaves at once, saying nothing |
//! | dump `to=mock-dump.json` | writes down what it was given, then ends well |
//!
//! `pid=FILE` writes the pid of what is left running. Knows no CLI: `Voice` does.

use std::path::Path;
use std::time::Duration;

use super::part::Part;
use super::stage::{Left, Played, Stage};
use super::voice::{Allowed, Call, Done, End, Fault, Manner, Voice};
use super::world;

type Ends = Result<u8, Left>;

/// Plays it. The exit code.
pub fn play<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    match part.name.as_str() {
        "exit" => return Ok(part.number("code", 3) as u8),
        "ignore-term" => s.at_term = Some(Manner::Ignore),
        "exit0-on-term" => s.at_term = Some(at_once(0)),
        _ => {}
    }
    s.begin();
    if let Some(answer) = s.voice.answers_itself() {
        s.text(&answer);
        return Ok(s.end(&End::Good));
    }
    match part.name.as_str() {
        "success" => good(part, s),
        "noop" => said(s, "I looked and decided to change nothing."),
        "dirty" => {
            edit(part, s)?;
            said(s, "Done (but I forgot to commit).")
        }
        "denied" => denied(part, s),
        "stall" | "ignore-term" | "exit0-on-term" => s.for_ever(),
        "timeout" => work_for_ever(part, s),
        "error" => api(part, s, Fault::Server, 1),
        "auth" => api(part, s, Fault::Auth, 1),
        "overloaded" => api(part, s, Fault::Overloaded, 2),
        "usage-limit" => {
            let reset = super::line::now_ms() / 1000 + part.number("reset", 3600) as i64;
            Ok(s.end(&End::Limit(reset)))
        }
        "max_tokens" => {
            s.says("This answer is cut sh")?;
            Ok(s.end(&End::MaxTokens))
        }
        "max_turns" => {
            edit(part, s)?;
            Ok(s.end(&End::MaxTurns(s.usage.turns)))
        }
        "budget" => {
            edit(part, s)?;
            Ok(s.end(&End::Budget(s.usage.cost / 2.0)))
        }
        "crash" => crash(part, s),
        "malformed" => malformed(part, s),
        "big-line" => {
            let text = "x".repeat(part.number("n", 20_000_000) as usize);
            s.says(&text)?;
            edit_and_commit(part, s)?;
            Ok(s.end(&End::Good))
        }
        "no-result" => {
            edit_and_commit(part, s)?;
            Ok(0)
        }
        "two-results" => {
            edit(part, s)?;
            said(s, "I have started it in the background.")?;
            s.begin();
            commit(part, s)?;
            said(s, "Done: it has ended.")
        }
        "linger" => {
            good(part, s)?;
            s.wait(part.seconds("s", 300.0))?;
            Ok(0)
        }
        "daemon" => daemon(part, s),
        "slow" => slow(part, s),
        "tool" => tool(part, s),
        "question" => question(part, s),
        "resume" => half_way(part, s),
        "dump" => {
            let to = part.get("to").unwrap_or("mock-dump.json").to_owned();
            world::dump(Path::new(&to), s.voice.prompt());
            said(s, "Written down.")
        }
        other => {
            eprintln!("mock-agent: unknown play {other}");
            Ok(99)
        }
    }
}

fn at_once(code: u8) -> Manner {
    Manner::Exit {
        code,
        after: Duration::ZERO,
        kill_tools: false,
    }
}

/// The last turn: nothing but words.
fn said<V: Voice>(s: &mut Stage<V>, text: &str) -> Ends {
    s.says(text)?;
    Ok(s.end(&End::Good))
}

/// `turns` turns in all: an edit, as many looks as it takes, a commit, a last word.
fn good<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    edit(part, s)?;
    for n in 3..part.number("turns", 3) {
        let look = Call::new("bash", format!("echo turn {n}"));
        s.turn(|s| s.call(&look, |_| Ok(output("looked"))).map(drop))?;
    }
    commit(part, s)?;
    let file = file(part);
    said(s, &format!("Done: committed {file}."))
}

fn edit_and_commit<V: Voice>(part: &Part, s: &mut Stage<V>) -> Played {
    edit(part, s)?;
    commit(part, s)
}

fn file(part: &Part) -> String {
    part.get("file").unwrap_or("mock.txt").to_owned()
}

fn output(text: impl Into<String>) -> Done {
    Done {
        output: text.into(),
        exit: 0,
    }
}

fn edit<V: Voice>(part: &Part, s: &mut Stage<V>) -> Played {
    let file = file(part);
    let text = part.text("text", "hello from mock-agent");
    let call = Call::new("write", file.as_str());
    s.turn(|s| {
        s.text("I will write the file.");
        s.call(&call, |_| {
            std::fs::write(&file, format!("{text}\n")).expect("the file can be written");
            Ok(output(format!("File created successfully at: {file}")))
        })
        .map(drop)
    })
}

fn commit<V: Voice>(part: &Part, s: &mut Stage<V>) -> Played {
    let message = format!("mock-agent: {}", file(part));
    let call = Call::new(
        "bash",
        format!("git add -A && git commit -q -m '{message}'"),
    );
    s.turn(|s| {
        s.call(&call, |_| {
            if !world::in_repository() {
                return Ok(output("no repository"));
            }
            let done = world::git(&["add", "-A"])
                .and_then(|_| world::git(&["commit", "-q", "-m", &message]))
                .and_then(|_| world::git(&["rev-parse", "--short", "HEAD"]));
            Ok(match done {
                Ok(head) => output(head),
                Err(why) => Done {
                    output: why,
                    exit: 1,
                },
            })
        })
        .map(drop)
    })
}

fn denied<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    let call = Call::new("bash", format!("git commit -m {}", file(part)));
    s.turn(|s| {
        s.deny(&call);
        Ok(())
    })?;
    said(s, "I was not allowed to do it.")
}

fn work_for_ever<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    loop {
        let call = Call::new("bash", "make test");
        s.turn(|s| {
            s.call(&call, |s| {
                s.wait(part.seconds("every", 0.2))?;
                Ok(output("not yet"))
            })
            .map(drop)
        })?;
    }
}

fn api<V: Voice>(part: &Part, s: &mut Stage<V>, fault: Fault, times: u64) -> Ends {
    let times = part.number("times", times);
    for n in 1..=times {
        s.retrying(fault, n, times, part.seconds("pause", 0.05))?;
    }
    match part.get("then") {
        Some("success") => good(part, s),
        _ => Ok(s.end(&End::Api(fault))),
    }
}

fn crash<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    s.says("I begin.")?;
    let half = s.voice.half();
    s.out.raw(half.as_bytes());
    world::die(match part.get("signal").unwrap_or("SEGV") {
        "ABRT" => libc::SIGABRT,
        "KILL" => libc::SIGKILL,
        _ => libc::SIGSEGV,
    })
}

/// What must neither stop nor confuse a reader, each on a line of its own.
const GARBAGE: [&[u8]; 14] = [
    b"this is no JSON",
    b"{\"type\":\"assistant\",\"message\":{\"id\":",
    b"\x00\x00\x00\x00",
    b"\xff\xfe not UTF-8 \xc3\x28",
    b"",
    b"null",
    b"[]",
    b"42",
    b"{}",
    b"{\"type\":7,\"subtype\":[]}",
    b"{\"type\":\"no_such_type\",\"x\":1e999}",
    b"{\"type\":\"assistant\",\"message\":null}",
    b"{\"type\":\"text_with_separators\",\"text\":\"a\xe2\x80\xa8b\xc2\x85c\"}\r",
    b"Warning: something for people in the middle of the stream",
];

fn malformed<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    let garbage = |s: &mut Stage<V>| {
        for line in GARBAGE {
            s.out.raw(&[line, b"\n"].concat());
        }
        // Deeper than any parser's limit.
        let deep = format!("{}{}\n", "[".repeat(5000), "]".repeat(5000));
        s.out.raw(deep.as_bytes());
    };
    garbage(s);
    edit(part, s)?;
    garbage(s);
    commit(part, s)?;
    if part.get("end") == Some("cut") {
        let half = s.voice.half();
        s.out.raw(half.as_bytes());
        return Ok(0);
    }
    said(s, "Done, in spite of everything.")
}

fn daemon<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    let call = Call::new("bash", "setsid nohup ./server &");
    s.turn(|s| {
        s.call(&call, |_| {
            let pid = world::leave_daemon(
                part.seconds("s", 300.0),
                part.get("env") == Some("clear"),
                part.get("stdout") == Some("keep"),
                part.get("pid"),
            );
            Ok(output(format!("left {pid}")))
        })
        .map(drop)
    })?;
    edit_and_commit(part, s)?;
    said(s, "Done, and I left something running.")
}

fn slow<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    let rate = part.number("rate", 20).max(1);
    let events = (rate as f64 * part.seconds("s", 5.0).as_secs_f64()) as u64;
    for n in 1..=events {
        s.says(&format!("Tick {n} of {events}."))?;
        s.wait(Duration::from_secs(1) / rate as u32)?;
    }
    good(part, s)
}

fn tool<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    let call = Call::new("bash", "make test");
    s.turn(|s| {
        s.text("I run the tests.");
        s.call(&call, |s| {
            let tree = part.number("tree", 1);
            let tool = world::start_tool(part.seconds("s", 30.0), tree, part.get("pid"));
            let exit = s.run_tool(tool)?;
            Ok(Done {
                output: "tests ran".into(),
                exit,
            })
        })
        .map(drop)
    })?;
    good(part, s)
}

/// As an agent does that was told to ask: `echo "…" > "$HARNESS_INTERRUPT"`.
fn question<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    let variable = ["HARNESS_INTERRUPT", "INTERRUPT_FILE"]
        .into_iter()
        .find_map(std::env::var_os);
    let Some(path) = variable else {
        eprintln!("mock-agent: neither HARNESS_INTERRUPT nor INTERRUPT_FILE is set");
        return Ok(98);
    };
    let text = part.text("text", "Which of the two databases do you mean?");
    let call = Call::new("bash", "echo … > \"$HARNESS_INTERRUPT\"");
    let asked = s.turn(|s| {
        let allowed = s.call(&call, |s| {
            std::fs::write(&path, format!("{text}\n")).expect("the interrupt file can be written");
            while part.get("wait") != Some("no") && Path::new(&path).exists() {
                s.wait(Duration::from_millis(20))?;
            }
            Ok(output("answered"))
        })?;
        match allowed {
            Allowed::Yes => Ok(()),
            _ => Err(Left(97)),
        }
    });
    asked?;
    if part.get("wait") == Some("no") {
        return said(s, "I have asked, and wait for an answer.");
    }
    good(part, s)
}

/// First run: an edit that is not committed, then the API fails. Resumed: commits it. A new session
/// that finds nothing begun fails the same way again.
fn half_way<V: Voice>(part: &Part, s: &mut Stage<V>) -> Ends {
    if s.voice.resumed() {
        let session = s.voice.session().to_owned();
        s.says(&format!("I go on with session {session}."))?;
        if !Path::new(&file(part)).exists() {
            edit(part, s)?;
        }
        commit(part, s)?;
        return said(s, "Done: finished what I had begun.");
    }
    edit(part, s)?;
    Ok(s.end(&End::Api(Fault::Server)))
}
