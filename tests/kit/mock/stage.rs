//! Where a scene plays: a CLI's voice, its output, its figures, its signals.
//!
//! Keeps the figures that tests compute beforehand: each turn of the model is `IN` tokens in, `OUT`
//! tokens out and `COST` dollars, however many blocks it has and whatever it says.

use std::io::Write;
use std::process::Child;
use std::time::{Duration, Instant};

use super::part::Part;
use super::voice::{Allowed, Call, Done, End, Fault, Manner, Usage, Voice};
use super::world::{self, Signals};

pub const IN: u64 = 1000;
pub const OUT: u64 = 50;
pub const COST: f64 = 0.01;

/// Standard output. A reader that has gone is no reason to stop working.
pub struct Out {
    pub last_text: String,
}

impl Out {
    pub fn raw(&mut self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        let _gone = stdout.write_all(bytes).and_then(|()| stdout.flush());
    }

    pub fn line(&mut self, line: &str) {
        self.raw(format!("{line}\n").as_bytes());
    }
}

/// The play is over, with this exit code, before the scene was.
pub struct Left(pub u8);

pub type Played<T = ()> = Result<T, Left>;

pub struct Stage<V> {
    pub voice: V,
    pub out: Out,
    pub usage: Usage,
    pub signals: Signals,
    /// In place of the CLI's own way with SIGTERM.
    pub at_term: Option<Manner>,
    tool: Option<Child>,
    called: bool,
    cost: f64,
}

impl<V: Voice> Stage<V> {
    pub fn new(voice: V, part: &Part) -> Stage<V> {
        let cost = part.get("cost").and_then(|c| c.parse().ok());
        Stage {
            voice,
            out: Out {
                last_text: String::new(),
            },
            usage: Usage::default(),
            signals: Signals::watch(&world::ENDING),
            at_term: None,
            tool: None,
            called: false,
            cost: cost.unwrap_or(COST),
        }
    }

    pub fn begin(&mut self) {
        self.voice.begin(&mut self.out);
    }

    /// A turn of the model, ended early by the limits that the arguments set. What it does is in
    /// `inside`.
    pub fn turn(&mut self, inside: impl FnOnce(&mut Self) -> Played) -> Played {
        self.look()?;
        let (turns, money) = self.voice.limits();
        if turns.is_some_and(|most| self.usage.turns >= most) {
            return self.leave(&End::MaxTurns(turns.unwrap_or(0)));
        }
        self.usage.turns += 1;
        self.usage.input += IN;
        self.usage.output += OUT;
        self.usage.cost += self.cost;
        self.called = false;
        self.voice.turn(&mut self.out);
        inside(self)?;
        let last = !self.called;
        self.voice.turned(&mut self.out, last);
        match money {
            Some(most) if self.usage.cost > most && !last => self.leave(&End::Budget(most)),
            _ => Ok(()),
        }
    }

    pub fn text(&mut self, text: &str) {
        self.out.last_text = text.to_owned();
        self.voice.text(&mut self.out, text);
    }

    /// A tool call: announced, done by `work`, answered; or denied, and not done.
    pub fn call(
        &mut self,
        call: &Call,
        work: impl FnOnce(&mut Self) -> Played<Done>,
    ) -> Played<Allowed> {
        self.called = true;
        let allowed = self.voice.allows(call);
        if allowed == Allowed::Silently {
            return Ok(allowed);
        }
        if allowed == Allowed::No {
            self.deny(call);
            return Ok(allowed);
        }
        self.usage.calls += 1;
        self.voice.called(&mut self.out, call);
        let done = work(self)?;
        self.voice.returned(&mut self.out, call, &done);
        Ok(allowed)
    }

    /// A tool call that is denied, whatever the arguments allow.
    pub fn deny(&mut self, call: &Call) {
        self.called = true;
        self.usage.calls += 1;
        self.voice.called(&mut self.out, call);
        self.voice.denied(&mut self.out, call);
    }

    /// A turn of words only.
    pub fn says(&mut self, text: &str) -> Played {
        self.turn(|s| {
            s.text(text);
            Ok(())
        })
    }

    /// Runs a tool to its end, or to ours.
    pub fn run_tool(&mut self, tool: Child) -> Played<i32> {
        self.tool = Some(tool);
        loop {
            self.look()?;
            if let Some(tool) = &mut self.tool
                && let Some(status) = tool.try_wait().expect("a child")
            {
                self.tool = None;
                return Ok(status.code().unwrap_or(-1));
            }
            self.signals.wait(Duration::from_secs(3600));
        }
    }

    pub fn retrying(&mut self, fault: Fault, n: u64, of: u64, pause: Duration) -> Played {
        self.voice.retrying(&mut self.out, fault, n, of);
        self.wait(pause)
    }

    pub fn end(&mut self, end: &End) -> u8 {
        let usage = self.usage;
        self.voice.end(&mut self.out, end, &usage)
    }

    pub fn leave<T>(&mut self, end: &End) -> Played<T> {
        Err(Left(self.end(end)))
    }

    /// Waits so long, or to a signal that ends us.
    pub fn wait(&mut self, time: Duration) -> Played {
        let end = Instant::now() + time;
        loop {
            self.look()?;
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => self.signals.wait(left),
                _ => return Ok(()),
            }
        }
    }

    /// Until a signal, however long it takes.
    pub fn for_ever(&mut self) -> Played<u8> {
        loop {
            self.wait(Duration::from_secs(3600))?;
        }
    }

    /// Does what the CLI does about a signal that has come.
    fn look(&mut self) -> Played {
        let Some(signal) = self.signals.asked() else {
            return Ok(());
        };
        let usage = self.usage;
        let in_tool = self.tool.is_some();
        let manner = match self.at_term {
            Some(manner) if signal == libc::SIGTERM => manner,
            _ => self.voice.at_signal(&mut self.out, signal, in_tool, &usage),
        };
        let kill = match manner {
            Manner::Ignore => return Ok(()),
            Manner::Exit { kill_tools, .. } | Manner::Die { kill_tools } => kill_tools,
        };
        if kill && let Some(tool) = &mut self.tool {
            world::end_tool(tool);
        }
        match manner {
            Manner::Exit { code, after, .. } => {
                let end = Instant::now() + after;
                while let Some(left) = end.checked_duration_since(Instant::now()) {
                    self.signals.wait(left);
                }
                Err(Left(code))
            }
            _ => world::die(signal),
        }
    }
}
