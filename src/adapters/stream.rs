//! What every parser keeps: the figures, the last result, the last trouble; and the verdict that
//! follows from them, the exit status and the end of stderr. One of these alone never decides.
//!
//! Does not know any dialect. Keeps: every event that is put out is folded into the figures first,
//! so the two cannot differ.

use crate::adapters::{Verdict, told};
use crate::event::{
    self, Body, Class, Fault, Figures, Limit, MALFORMED, TEXT_BYTES_MAX, TOO_LONG, Usage, clip,
};
use crate::outcome::Exit;

/// What the last result line said.
#[derive(Debug, Clone)]
pub struct Said {
    pub good: bool,
    pub class: Option<Class>,
    pub message: String,
}

/// The state of a stream.
#[derive(Debug, Default)]
pub struct Tally {
    figures: Figures,
    /// The totals so far; `settle` puts them out when they have changed.
    pub usage: Usage,
    put_out: Usage,
    /// Whether the model is at it: what it says until the next tool result is one turn.
    answering: bool,
    pub said: Option<Said>,
    /// The last trouble that was no result.
    pub fault: Option<Fault>,
    /// A line was too long to be read: it may have been the result.
    cut: bool,
}

impl Tally {
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    pub fn put(&mut self, out: &mut Vec<Body>, body: Body) {
        self.figures.fold(&body);
        out.push(body);
    }

    /// Puts the totals out where they changed; called at the end of each line.
    pub fn settle(&mut self, out: &mut Vec<Body>) {
        if self.usage != self.put_out {
            self.put_out = self.usage;
            self.put(out, Body::Usage(self.usage));
        }
    }

    /// The model speaks. For CLIs that do not number its answers, a turn is what it says between
    /// two tool results.
    pub fn answer(&mut self) {
        if !std::mem::replace(&mut self.answering, true) {
            self.usage.turns += 1;
        }
    }

    /// A tool answers: what the model says next is a new turn.
    pub fn answered(&mut self) {
        self.answering = false;
    }

    pub fn text(&mut self, out: &mut Vec<Body>, text: &str, delta: bool) {
        let (text, clipped) = clip(text, TEXT_BYTES_MAX);
        let text = text.to_owned();
        self.put(
            out,
            Body::Text {
                text,
                delta,
                clipped,
            },
        );
    }

    pub fn thinking(&mut self, out: &mut Vec<Body>, text: &str) {
        let (text, clipped) = clip(text, TEXT_BYTES_MAX);
        let text = text.to_owned();
        self.put(out, Body::Thinking { text, clipped });
    }

    pub fn error(&mut self, out: &mut Vec<Body>, class: Class, text: &str) {
        let fault = Fault::new(class, text);
        let message = fault.message.clone();
        self.fault = Some(fault);
        self.put(out, Body::Error { class, message });
    }

    pub fn finished(&mut self, out: &mut Vec<Body>, said: Said) {
        let (good, message) = (said.good, said.message.clone());
        self.said = Some(said);
        self.put(out, Body::Finished { good, message });
    }

    pub fn other(&mut self, out: &mut Vec<Body>, name: &str, detail: &str) {
        let detail = event::message(detail);
        let body = Body::Other {
            name: event::name(if name.is_empty() { "(untyped)" } else { name }),
            detail: (!detail.is_empty()).then_some(detail),
        };
        self.put(out, body);
    }

    /// A line that is no JSON object. Empty lines hold nothing and are nothing.
    pub fn malformed(&mut self, out: &mut Vec<Body>, line: &[u8]) {
        let line = line.trim_ascii();
        if !line.is_empty() {
            self.other(out, MALFORMED, &head(line));
        }
    }

    pub fn too_long(&mut self, out: &mut Vec<Body>, prefix: &[u8]) {
        self.cut = true;
        self.other(out, TOO_LONG, &head(prefix));
    }

    /// How it ended. `of_code`: what the CLI's own exit codes mean.
    pub fn verdict(
        &self,
        exit: Exit,
        stderr_tail: &[u8],
        of_code: impl Fn(i32) -> Option<Class>,
    ) -> Verdict {
        let code_class = match exit {
            Exit::Code(code) => of_code(code),
            _ => None,
        };
        match (&self.said, ended_by_signal(exit)) {
            (Some(said), None) if said.good && exit == Exit::Code(0) => {
                Verdict::good(self.closing(&said.message))
            }
            (Some(said), signal) if said.good => {
                let class = match signal {
                    Some(_) => Class::Interrupted,
                    None => code_class.unwrap_or(Class::Unknown),
                };
                let text = format!("it said that it had finished, then {}", told_end(exit));
                Verdict::bad(Some(true), Fault::new(class, &text))
            }
            (Some(said), _) => {
                let class = said.class.or_else(|| told::of_text(&said.message));
                let class = class.or(code_class).unwrap_or(Class::Unknown);
                let own = said.message.trim();
                let last = self.fault.as_ref().map_or("", |f| f.message.as_str());
                let text = [own, last, &*told_end(exit)]
                    .into_iter()
                    .find(|t| !t.is_empty())
                    .unwrap_or_default()
                    .to_owned();
                Verdict::bad(Some(false), Fault::new(class, &text))
            }
            (None, Some(_)) => {
                let text = format!("{} before it had finished", told_end(exit));
                Verdict::bad(None, Fault::new(Class::Interrupted, &text))
            }
            (None, None) => self.without_result(exit, stderr_tail, code_class),
        }
    }

    fn without_result(&self, exit: Exit, stderr_tail: &[u8], code: Option<Class>) -> Verdict {
        let f = &self.figures;
        if exit == Exit::Code(0) && self.cut {
            return Verdict::good(self.closing(""));
        }
        if exit == Exit::Code(0) {
            let (class, text) = if f.malformed > 0 {
                (
                    Class::Malformed,
                    "it ended with status 0, without a result that could be read",
                )
            } else if f.other == 0 && f.cli_session.is_none() && f.turns == 0 {
                (Class::Malformed, "it ended with status 0 and said nothing")
            } else {
                // Some end like this when they are asked to stop.
                (
                    Class::Interrupted,
                    "it ended with status 0 before it had finished",
                )
            };
            return Verdict::bad(None, Fault::new(class, text));
        }
        let last_words = last_words(stderr_tail);
        if let (Some(fault), None) = (&self.fault, code) {
            return Verdict::bad(None, fault.clone());
        }
        let silent = f.cli_session.is_none() && f.turns == 0;
        let class = code
            .or_else(|| told::of_text(&last_words))
            .unwrap_or(if silent { Class::Spawn } else { Class::Unknown });
        let text = match last_words.is_empty() {
            true => format!("{} and said nothing", told_end(exit)),
            false => last_words,
        };
        Verdict::bad(None, Fault::new(class, &text))
    }

    fn closing(&self, message: &str) -> String {
        match message.trim() {
            "" => self.figures.last_message.clone().unwrap_or_default(),
            text => event::message(text),
        }
    }
}

fn head(line: &[u8]) -> String {
    let end = line.len().min(event::MESSAGE_BYTES_MAX);
    String::from_utf8_lossy(&line[..end]).into_owned()
}

/// The signal that ended it, also where the CLI turned it into a status of 128 + signal.
fn ended_by_signal(exit: Exit) -> Option<i32> {
    match exit {
        Exit::Signal(signal) => Some(signal),
        // SIGHUP, SIGINT, SIGKILL, SIGTERM.
        Exit::Code(code @ (129 | 130 | 137 | 143)) => Some(code - 128),
        Exit::Unknown => Some(0),
        Exit::Code(_) => None,
    }
}

fn told_end(exit: Exit) -> String {
    match exit {
        Exit::Signal(signal) => format!("it was ended by signal {signal}"),
        Exit::Code(code) => format!("it ended with status {code}"),
        Exit::Unknown => "it ended unseen".into(),
    }
}

/// The line of stderr that most looks like the reason: the last one that speaks of an error, or
/// the last one. Colours are taken off.
pub fn last_words(stderr_tail: &[u8]) -> String {
    let text = without_colours(&String::from_utf8_lossy(stderr_tail));
    let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty());
    let speaks = |l: &&str| {
        let l = l.to_lowercase();
        l.starts_with("error") || l.contains("error:")
    };
    let words = lines().rfind(speaks).or_else(|| lines().next_back());
    event::message(words.unwrap_or_default())
}

fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.strip_prefix('m').unwrap_or(rest);
    }
    plain + rest
}

/// A limit on turns, which several CLIs tell by an exit code.
pub const TURNS: Class = Class::LimitsReached {
    limit: Limit::Turns,
};
