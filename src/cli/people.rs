//! People in the loop: `pause`, `drain`, `interrupt`, `resume`. Each is a file that a person could
//! make or remove by hand.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::atomic;
use crate::control::{self, Order};
use crate::error::{Error, Result, tell};
use crate::hold;
use crate::interrupt::{self, ALL};
use crate::layout::{Root, SlotId, shown};

#[derive(Args)]
pub struct InterruptArgs {
    /// The agent to pause (agent-N), or all; then why. Without an agent: all
    #[arg(num_args = 1..=2, required = true, value_names = ["AGENT", "REASON"])]
    words: Vec<OsString>,
}

#[derive(Args)]
pub struct ResumeArgs {
    /// Only the interrupt of this agent (agent-N), or the one that holds for all
    agent: Option<OsString>,
    /// What it asked to know: it finds this in answer.md of its session, or in its next prompt
    #[arg(long, short, value_name = "TEXT", requires = "agent")]
    answer: Option<String>,
}

pub fn order(root: &Root, order: Order) -> Result<u8> {
    control::give(root, order, &format!("by pid {}", std::process::id()))?;
    tell(&format!(
        "harness: state/control/{} is set; `harness resume` ends it",
        order.file()
    ));
    Ok(0)
}

pub fn interrupt(root: &Root, args: &InterruptArgs) -> Result<u8> {
    super::init::ensure_tree(root)?;
    let (stem, reason) = match args.words.as_slice() {
        [agent, reason] => (stem_of("cannot interrupt", agent)?, reason),
        [reason] if stem_of("", reason).is_ok() => {
            return Err(
                Error::usage("cannot interrupt", "no reason was given").hint(format!(
                    "say why, for whoever looks: harness interrupt {} 'which database?'",
                    shown(reason)
                )),
            );
        }
        words => (ALL.to_owned(), &words[0]),
    };
    let file = interrupt::path(root, &stem);
    if !interrupt::raise(root, &stem, &reason.to_string_lossy())? {
        return Err(Error::permanent(
            "cannot interrupt",
            "it is interrupted already, for another reason",
        )
        .at_path(&file)
        .hint("end that with `harness resume`, or write your reason into the file"));
    }
    let resume = if stem == ALL { "" } else { stem.as_str() };
    tell(&format!(
        "harness: {} is set; `harness resume {resume}` ends it",
        file.display()
    ));
    Ok(0)
}

pub fn resume(root: &Root, args: &ResumeArgs) -> Result<u8> {
    let mut ended = Vec::new();
    let stems = match &args.agent {
        Some(agent) => vec![stem_of("cannot resume", agent)?],
        None => {
            let orders = control::resume(root)?;
            ended.extend(orders.iter().map(|o| o.file().to_owned()));
            let held = hold::end_without_end(root)?;
            ended.extend(held.iter().map(|agent| format!("{agent}.hold")));
            interrupt::all(root)
        }
    };
    if let (Some(answer), [stem]) = (&args.answer, stems.as_slice()) {
        let path = answer_to(root, stem)?;
        atomic::replace(&path, format!("{}\n", answer.trim()).as_bytes(), true)?;
        tell(&format!("harness: the answer is in {}", path.display()));
    }
    for stem in stems {
        if interrupt::end(root, &stem)? {
            ended.push(format!("{stem}.interrupt"));
        }
    }
    if ended.is_empty() {
        tell("harness: nothing was paused or interrupted");
    } else {
        tell(&format!("harness: ended: {}", ended.join(", ")));
    }
    Ok(0)
}

fn stem_of(what: &str, agent: &std::ffi::OsStr) -> Result<String> {
    match SlotId::parse(agent) {
        Some(slot) => Ok(slot.to_string()),
        None if agent == ALL => Ok(ALL.into()),
        None => Err(Error::usage(
            what,
            format!(
                "{} is no agent; agents are agent-1, agent-2, …",
                shown(agent)
            ),
        )),
    }
}

/// Where the answer to what this agent asked goes.
fn answer_to(root: &Root, stem: &str) -> Result<PathBuf> {
    let why = match interrupt::asker(root, stem) {
        Some(session) if root.session(&session).is_dir() => {
            return Ok(interrupt::answer_path(&root.session(&session)));
        }
        Some(_) => "its session is gone",
        None => "no item of it waits",
    };
    Err(
        Error::permanent("cannot answer", format!("{stem} asked nothing: {why}"))
            .hint("`harness status` shows who waits for what"),
    )
}
