//! `harness logs`: what an item printed, in one attempt, or as it comes until the item has ended.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::ended::{self, Standing};
use super::{find, show};
use crate::aggregator;
use crate::clock;
use crate::error::{Error, Result, tell};
use crate::inspect::{Output, Session, State};
use crate::layout::{Name, Root};
use crate::record::{self, Event, History, Line};
use crate::view::{Term, written};
use crate::waker::is_reader_gone;

#[derive(clap::Args)]
pub(super) struct LogsArgs {
    name: OsString,
    /// Go on as it comes, over retries, until the item has ended
    #[arg(long, short)]
    follow: bool,
    /// The attempt to show, or to begin with [default: the newest]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// What an agent CLI wrote, instead of its events as text
    #[arg(long)]
    raw: bool,
}

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Time without a harness, or without a file of the item, before that is believed.
const BELIEVED: Duration = Duration::from_secs(2);

/// An attempt that was started, or is about to be.
#[derive(PartialEq)]
struct Attempt {
    number: u32,
    session: String,
}

pub(super) fn logs(root: &Root, args: &LogsArgs) -> Result<u8> {
    let name = find::name(&args.name)?;
    let lines = record::lines(root, &name)?;
    if lines.is_empty() && find::places(root, &name).is_empty() {
        return Err(find::unknown(root, &name));
    }
    let attempts = attempts(&lines);
    let first = match args.attempt {
        None => attempts.len().saturating_sub(1),
        Some(number) => {
            let at = attempts.iter().position(|a| a.number == number);
            at.ok_or_else(|| no_such(&name, number, &attempts))?
        }
    };
    if args.follow {
        return Follow::new(root, &name, args.raw).follow(first);
    }
    let session = attempts.get(first).map(|a| Session::read(root, &a.session));
    let Some(session) = session.filter(Session::has_folder) else {
        if let Some(attempt) = attempts.get(first).filter(|a| has_ended(a, &lines)) {
            return Err(removed(root, &name, attempt));
        }
        let why = why_none(root, &name, &lines)?;
        tell(&format!("harness: {name} has printed nothing yet: {why}"));
        return Ok(0);
    };
    let mut output = Output::of(&session, args.raw, terminal());
    let is_over = session.state == State::Ended;
    written(output.write_new(is_over, &mut io::stdout().lock()))?;
    Ok(0)
}

fn terminal() -> Option<Term> {
    io::stdout().is_terminal().then(Term::of_stdout)
}

/// Its attempts, oldest first, without those that never started.
fn attempts(lines: &[Line]) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for line in lines {
        match &line.event {
            Event::Claimed(claimed) => attempts.push(Attempt {
                number: claimed.attempt,
                session: claimed.session.clone(),
            }),
            Event::Requeued(requeued) => attempts.retain(|a| a.session != requeued.session),
            _ => {}
        }
    }
    attempts
}

fn no_such(name: &Name, number: u32, attempts: &[Attempt]) -> Error {
    let known: Vec<String> = attempts.iter().map(|a| a.number.to_string()).collect();
    let why = match known.is_empty() {
        true => format!("{name} has not been tried yet"),
        false => format!(
            "{name} has no attempt {number}; it had: {}",
            known.join(", ")
        ),
    };
    Error::permanent("no such attempt", why)
}

fn has_ended(attempt: &Attempt, lines: &[Line]) -> bool {
    let is_end = |l: &Line| matches!(&l.event, Event::Finished(f) if f.session == attempt.session);
    lines.iter().any(is_end)
}

fn removed(root: &Root, name: &Name, attempt: &Attempt) -> Error {
    let number = attempt.number;
    let why = format!("the session of attempt {number} of {name} was removed (`harness gc`)");
    Error::permanent("there is no output", why).at_path(&root.session(&attempt.session))
}

/// What an item without output waits for, or why it was never started.
fn why_none(root: &Root, name: &Name, lines: &[Line]) -> Result<String> {
    let places = find::places(root, name);
    let history = History::of(lines);
    let (state, stands) = show::state_of(root, name, places.first(), &history)?;
    let why = stands.reason.or(history.reason);
    Ok(match (state, why) {
        ("pending", _) if !aggregator::any_harness_alive(root)? => {
            "it waits for a harness, and none is running (`harness run` starts one)".to_owned()
        }
        ("pending", _) => "it waits for a free agent".to_owned(),
        ("claimed", _) => "its agent is about to start".to_owned(),
        ("done" | "parked", None) => format!("it is in queue/{state}/ and was never started"),
        (state, Some(why)) => format!("it is {state}: {why}"),
        (state, None) => format!("it is {state}"),
    })
}

struct Follow<'a> {
    root: &'a Root,
    name: &'a Name,
    raw: bool,
    /// The attempt being shown.
    now: Option<(Attempt, Output)>,
    /// Attempts that were shown to their end, or passed over.
    shown: usize,
    /// How many attempts there were when it was said what the item waits for.
    told: Option<usize>,
    told_left: bool,
    /// Since when nobody works on its session, and since when it has no file.
    left: Option<Instant>,
    missing: Option<Instant>,
}

impl<'a> Follow<'a> {
    fn new(root: &'a Root, name: &'a Name, raw: bool) -> Follow<'a> {
        Follow {
            root,
            name,
            raw,
            now: None,
            shown: 0,
            told: None,
            told_left: false,
            left: None,
            missing: None,
        }
    }

    fn follow(mut self, first: usize) -> Result<u8> {
        self.shown = first;
        loop {
            // Read before the output: all of it is there when the end is seen.
            let standing = ended::standing(self.root, self.name)?;
            let lines = record::lines(self.root, self.name)?;
            let attempts = attempts(&lines);
            let is_over = self.is_over(&standing);
            if !self.show(&attempts, is_over)? {
                return Ok(0);
            }
            let all = self.now.is_none() && self.shown >= attempts.len();
            if all && is_over {
                self.tell_none(&lines, attempts.len())?;
                return Ok(0);
            }
            if all && matches!(standing, Standing::Waits) {
                self.tell_waits(&lines, attempts.len())?;
            }
            if is_reader_gone(io::stdout().as_fd(), LOOK) {
                return Ok(0);
            }
        }
    }

    fn is_over(&mut self, standing: &Standing) -> bool {
        match standing {
            Standing::Ended(_) => true,
            Standing::Waits | Standing::Ending => {
                self.missing = None;
                false
            }
            Standing::Nowhere => {
                let now = clock::instant();
                let since = *self.missing.get_or_insert(now);
                now - since >= BELIEVED
            }
        }
    }

    /// Writes what is new, of as many attempts as have any. `false`: the reader is gone.
    fn show(&mut self, attempts: &[Attempt], has_ended: bool) -> Result<bool> {
        while self.now.is_some() || self.shown < attempts.len() {
            let (attempt, mut output) = match self.now.take() {
                Some(now) => now,
                None => match self.begin(&attempts[self.shown]) {
                    Some(now) => now,
                    None if has_ended || self.shown + 1 < attempts.len() => {
                        let number = attempts[self.shown].number;
                        tell(&format!("harness: attempt {number} has left no output"));
                        self.shown += 1;
                        continue;
                    }
                    None => return Ok(true),
                },
            };
            let is_last = attempts.last().is_none_or(|last| *last == attempt);
            let session = Session::read(self.root, &attempt.session);
            let is_over = session.state == State::Ended || !session.has_folder() || !is_last;
            if !written(output.write_new(is_over, &mut io::stdout().lock()))? {
                return Ok(false);
            }
            if !is_over {
                self.tell_left(&session);
                self.now = Some((attempt, output));
                return Ok(true);
            }
            let at = attempts.iter().position(|a| *a == attempt);
            // One that never started is no attempt any more.
            self.shown = at.map_or(self.shown, |at| at + 1);
            self.left = None;
        }
        Ok(true)
    }

    /// `None`: it has not begun yet.
    fn begin(&mut self, attempt: &Attempt) -> Option<(Attempt, Output)> {
        let session = Session::read(self.root, &attempt.session);
        if !session.is_described() {
            return None;
        }
        if attempt.number > 1 {
            tell(&format!(
                "harness: attempt {} of {}",
                attempt.number, self.name
            ));
        }
        let attempt = Attempt {
            number: attempt.number,
            session: attempt.session.clone(),
        };
        Some((attempt, Output::of(&session, self.raw, terminal())))
    }

    /// Says once what it waits for before the next attempt.
    fn tell_waits(&mut self, lines: &[Line], attempts: usize) -> Result<()> {
        if self.told != Some(attempts) {
            self.told = Some(attempts);
            let why = why_none(self.root, self.name, lines)?;
            let what = match attempts {
                0 => "has printed nothing yet",
                _ => "will be tried again",
            };
            tell(&format!("harness: {} {what}: {why}", self.name));
        }
        Ok(())
    }

    /// Says that there is nothing to show.
    fn tell_none(&mut self, lines: &[Line], attempts: usize) -> Result<()> {
        if attempts == 0 {
            let why = why_none(self.root, self.name, lines)?;
            tell(&format!(
                "harness: {} has printed nothing: {why}",
                self.name
            ));
        }
        Ok(())
    }

    fn tell_left(&mut self, session: &Session) {
        if session.state != State::Left {
            self.left = None;
            return;
        }
        let now = clock::instant();
        let since = *self.left.get_or_insert(now);
        if now - since >= BELIEVED && !self.told_left {
            self.told_left = true;
            tell(&format!(
                "harness: nobody works on {}; `harness run` takes it up",
                self.name
            ));
        }
    }
}
