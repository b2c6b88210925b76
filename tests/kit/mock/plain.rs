//! A CLI of nobody's: words on standard output, no events; for agents that a user describes in
//! harness.toml. It takes any arguments; its prompt is standard input, or the file that
//! `--prompt-file` names. `--session ID` and `--resume ID` work as claude's do.

use std::ffi::OsString;

use super::args::{Args, Refused, Takes, read_stdin, refuse};
use super::sessions::{self, Used};
use super::stage::Out;
use super::voice::{Allowed, Call, Done, End, Fault, Manner, Usage, Voice};

pub struct Plain {
    prompt: String,
    session: String,
    resumed: bool,
}

const KNOWN: &[(&[&str], Takes)] = &[
    (&["--prompt-file"], Takes::One),
    (&["--session"], Takes::One),
    (&["--resume"], Takes::One),
];

impl Plain {
    pub fn open(raw: &[OsString]) -> Result<Plain, Refused> {
        let args = Args::parse(raw, KNOWN).unwrap_or_default();
        let prompt = match args.get("--prompt-file") {
            Some(file) => match std::fs::read(file) {
                Ok(bytes) => bytes,
                Err(e) => return refuse(1, format!("{file}: {e}")),
            },
            None => read_stdin(),
        };
        let (session, resumed) = match args.get("--resume") {
            Some(id) if sessions::known("plain", id).is_none() => {
                return refuse(1, format!("no session {id}"));
            }
            Some(id) => (id.to_owned(), true),
            None => (args.get("--session").unwrap_or("one").to_owned(), false),
        };
        if !resumed && args.has("--session") && !sessions::create("plain", &session) {
            return refuse(1, format!("session {session} is in use"));
        }
        Ok(Plain {
            prompt: String::from_utf8_lossy(&prompt).into_owned(),
            session,
            resumed,
        })
    }
}

impl Voice for Plain {
    fn prompt(&self) -> &str {
        &self.prompt
    }

    fn session(&self) -> &str {
        &self.session
    }

    fn resumed(&self) -> bool {
        self.resumed
    }

    fn begin(&mut self, out: &mut Out) {
        out.line("mock-agent begins");
    }

    fn text(&mut self, out: &mut Out, text: &str) {
        out.line(text);
    }

    fn allows(&self, _call: &Call) -> Allowed {
        Allowed::Yes
    }

    fn called(&mut self, out: &mut Out, call: &Call) {
        out.line(&format!("$ {}", call.what));
    }

    fn returned(&mut self, out: &mut Out, _call: &Call, done: &Done) {
        out.line(&done.output);
    }

    fn denied(&mut self, out: &mut Out, call: &Call) {
        out.line(&format!("denied: {}", call.what));
    }

    fn retrying(&mut self, out: &mut Out, fault: Fault, n: u64, of: u64) {
        out.line(&format!("error {}: try {n} of {of}", fault.status()));
    }

    fn end(&mut self, out: &mut Out, end: &End, usage: &Usage) -> u8 {
        let used = Used {
            runs: 1,
            turns: usage.turns,
            ..Used::default()
        };
        sessions::save("plain", &self.session, &used);
        out.line(&format!("end: {end:?}"));
        u8::from(*end != End::Good)
    }

    fn at_signal(&mut self, _out: &mut Out, _signal: i32, _in_tool: bool, _u: &Usage) -> Manner {
        Manner::Die { kill_tools: false }
    }

    fn half(&self) -> &'static str {
        "half a li"
    }
}
