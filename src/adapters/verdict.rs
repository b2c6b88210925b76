//! Decides what went wrong with an attempt, from its result line, its errors, its exit status and
//! the end of stderr. None of these is enough alone.
//!
//! Does not know any CLI, git or time.

use super::error_text;
use super::last_words::last_words;
use super::tally::{Said, Tally};
use crate::event::{Class, Fault};
use crate::outcome::Exit;

/// The fault; `None` for a good result and exit status 0. The caller checks git's evidence.
/// `code_class`: what the exit code means to the CLI.
pub(super) fn fault(
    tally: &Tally,
    exit: Exit,
    code_class: Option<Class>,
    stderr_tail: &[u8],
) -> Option<Fault> {
    match (&tally.said, was_signaled(exit)) {
        (Some(said), _) if said.good => after_good_result(exit, code_class),
        (Some(said), _) => Some(after_bad_result(tally, said, exit, code_class)),
        (None, true) => {
            let text = format!("{} before it had finished", describe(exit));
            Some(Fault::new(Class::Interrupted, &text))
        }
        (None, false) => without_result(tally, exit, code_class, stderr_tail),
    }
}

/// Git's evidence against a good end: tools were denied and nothing was committed. `commits`:
/// `None` without a repository.
pub fn permission_fault(denials: u64, commits: Option<u64>) -> Option<Fault> {
    if denials == 0 || commits != Some(0) {
        return None;
    }
    let were = if denials == 1 { "was" } else { "were" };
    let text = format!("finished, but changed nothing: {denials} of its tool calls {were} denied");
    Some(Fault::new(Class::Permission, &text))
}

fn after_good_result(exit: Exit, code_class: Option<Class>) -> Option<Fault> {
    if exit == Exit::Code(0) {
        return None;
    }
    let class = match was_signaled(exit) {
        true => Class::Interrupted,
        false => code_class.unwrap_or(Class::Unknown),
    };
    let text = format!("it said that it had finished, then {}", describe(exit));
    Some(Fault::new(class, &text))
}

fn after_bad_result(tally: &Tally, said: &Said, exit: Exit, code_class: Option<Class>) -> Fault {
    let class = said.class.or_else(|| error_text::class(&said.message));
    let class = class.filter(|class| *class != Class::Unknown);
    let class = class.or(code_class).unwrap_or(Class::Unknown);
    let last_error = tally.fault.as_ref().map_or("", |f| f.message.as_str());
    let exit = describe(exit);
    let texts = [said.message.trim(), last_error, &exit];
    let text = texts.into_iter().find(|t| !t.is_empty());
    Fault::new(class, text.unwrap_or_default())
}

fn without_result(
    tally: &Tally,
    exit: Exit,
    code_class: Option<Class>,
    stderr_tail: &[u8],
) -> Option<Fault> {
    let figures = &tally.figures;
    let silent = figures.cli_session.is_none() && figures.turns == 0;
    if exit == Exit::Code(0) {
        if tally.skipped_line {
            return None;
        }
        let (class, text) = if figures.malformed > 0 {
            let text = "it ended with status 0, without a result that could be read";
            (Class::Malformed, text)
        } else if silent && figures.other == 0 {
            let text = "it ended with status 0 and said nothing";
            (Class::Malformed, text)
        } else {
            // Some CLIs exit like this when asked to stop.
            let text = "it ended with status 0 before it had finished";
            (Class::Interrupted, text)
        };
        return Some(Fault::new(class, text));
    }
    if let Some(fault) = &tally.fault {
        let known = Some(fault.class).filter(|class| *class != Class::Unknown);
        let class = by_code_and_text(code_class, known).unwrap_or(Class::Unknown);
        return Some(Fault::new(class, &fault.message));
    }
    let last_words = last_words(stderr_tail);
    let fallback = if silent { Class::Spawn } else { Class::Unknown };
    let class = by_code_and_text(code_class, error_text::class(&last_words));
    let text = match last_words.is_empty() {
        true => format!("{} and said nothing", describe(exit)),
        false => last_words,
    };
    Some(Fault::new(class.unwrap_or(fallback), &text))
}

/// An exit code of the CLI's own means one thing. One that stands for an HTTP status means many:
/// there the text knows better.
fn by_code_and_text(code: Option<Class>, text: Option<Class>) -> Option<Class> {
    match code {
        Some(Class::RateLimit | Class::Overloaded | Class::Auth) | None => text.or(code),
        Some(_) => code,
    }
}

/// Whether a signal ended it, also if the CLI turned it into a status of 128 + signal.
fn was_signaled(exit: Exit) -> bool {
    match exit {
        Exit::Signal(_) | Exit::Unknown => true,
        // SIGHUP, SIGINT, SIGKILL, SIGTERM.
        Exit::Code(code) => matches!(code, 129 | 130 | 137 | 143),
    }
}

fn describe(exit: Exit) -> String {
    match exit {
        Exit::Signal(signal) => format!("it was ended by signal {signal}"),
        Exit::Code(code) => format!("it ended with status {code}"),
        Exit::Unknown => "it ended unseen".into(),
    }
}
