//! Lines for people on standard error. Knows nothing of what they are about. Invariants: nobody who
//! says something waits for a reader (`voice`); control characters are made visible; a warning that
//! repeats is counted, and said again with its count once a `FLOOR`.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use super::voice::{To, Voice};
use crate::clock;
use crate::error::Result;
use crate::term::{Paint, Term};
use crate::text::{class_of, message};

/// A warning is not repeated sooner.
const FLOOR: Duration = Duration::from_secs(60);
/// Different warnings that are remembered; beyond that they are said as they come.
const WARNINGS_MAX: usize = 256;
/// How long the end of a run waits for a reader that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest outcomes: `interrupted`, `gate_failed`, `over_budget`.
const WORD_CELLS: usize = 11;

pub(crate) struct Console {
    /// Only warnings are printed.
    quiet: bool,
    voice: Voice,
    /// By class.
    warned: Mutex<HashMap<String, Warned>>,
    /// Whether lines may stand below the messages: a terminal that obeys, for a person who did not ask
    /// for quiet.
    shows_below: bool,
}

/// A warning that was said.
struct Warned {
    /// As it came last.
    text: String,
    at: Instant,
    /// How often it came since.
    more: u64,
}

impl Console {
    pub(crate) fn new(quiet: bool) -> Result<Console> {
        Ok(Console {
            quiet,
            voice: Voice::new()?,
            warned: Mutex::default(),
            shows_below: !quiet
                && io::stderr().is_terminal()
                && std::env::var_os("TERM").is_some_and(|term| term != "dumb"),
        })
    }

    /// Says what happened.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            self.voice.put(To::Stderr, format!("{}\n", message(text)));
        }
    }

    /// Says what became of an item in a slot: the word for it, in its colour, and the rest.
    pub(crate) fn say_of(&self, slot: impl Display, paint: Paint, word: &str, text: &str) {
        if !self.quiet {
            let word = paint.on(&format!("{word:<WORD_CELLS$}"), &Term::of_stderr());
            let line = format!("{slot}  {word} {}\n", message(text));
            self.voice.put(To::Stderr, line);
        }
    }

    /// The same of what is neither good nor bad.
    pub(crate) fn note(&self, slot: impl Display, word: &str, text: &str) {
        self.say_of(slot, Paint::Plain, word, text);
    }

    /// Shows these lines below all messages, instead of those before. `lines` is asked for them only
    /// where a person sees them, with what the terminal is now.
    pub(crate) fn show_below(&self, lines: impl FnOnce(&Term) -> Vec<(Paint, String)>) {
        if self.shows_below {
            self.voice.show(lines(&Term::of_stderr()));
        }
    }

    /// Says that something is wrong, also when quiet. The same again within a minute is counted.
    pub(crate) fn warn(&self, text: &str) {
        let now = clock::instant();
        let class = class_of(text);
        let mut warned = lock(&self.warned);
        if let Some(before) = warned.get_mut(&class) {
            before.more += 1;
            before.text = text.to_owned();
            return;
        }
        if warned.len() < WARNINGS_MAX {
            let warning = Warned {
                text: text.to_owned(),
                at: now,
                more: 0,
            };
            warned.insert(class, warning);
        }
        drop(warned);
        self.mark(text);
    }

    /// As `warn`, of what a person has just done: each time is said.
    pub(crate) fn warn_each(&self, text: &str) {
        self.mark(text);
    }

    fn mark(&self, text: &str) {
        let mark = Paint::Yellow.on("!", &Term::of_stderr());
        self.voice
            .put(To::Stderr, format!("{mark} {}\n", message(text)));
    }

    /// Says the counts of warnings that came again, each once a `FLOOR`. Called now and then.
    pub(crate) fn count_repeats(&self) {
        self.count_those(FLOOR);
    }

    fn count_those(&self, older_than: Duration) {
        let now = clock::instant();
        let mut again = Vec::new();
        lock(&self.warned).retain(|_, warned| {
            let for_now = now - warned.at < older_than;
            if !for_now && warned.more > 0 {
                again.push((warned.text.clone(), warned.more, now - warned.at));
                (warned.at, warned.more) = (now, 0);
                return true;
            }
            for_now
        });
        for (text, times, within) in again {
            let within = clock::human(within);
            let times = match times {
                1 => "once".to_owned(),
                n => format!("{n} times"),
            };
            self.mark(&format!("{text} ({times} more in {within})"));
        }
    }

    /// Says what is left to say, with `text` on standard output as the last, and gives the reader a
    /// short time. An error is standard output's.
    pub(crate) fn end(&self, text: String) -> io::Result<()> {
        self.count_those(Duration::ZERO);
        self.voice.end(To::Stdout, text, PATIENCE)
    }
}
