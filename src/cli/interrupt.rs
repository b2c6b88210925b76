//! `pause`, `drain` and `interrupt`: each makes a file that a person could also make by hand;
//! `resume` removes it.

use std::ffi::{OsStr, OsString};

use clap::Args;

use super::init;
use crate::control::{self, Order};
use crate::error::{Error, Result, tell};
use crate::interrupt::{self, ALL};
use crate::layout::{Root, SlotId, shown};

#[derive(Args)]
pub(super) struct InterruptArgs {
    /// The slot to interrupt (agent-N), or all; then why. Without a slot: all
    #[arg(num_args = 1..=2, required = true, value_names = ["SLOT", "REASON"])]
    words: Vec<OsString>,
}

/// `pause` and `drain`.
pub(super) fn order(root: &Root, order: Order) -> Result<u8> {
    control::give(root, order, &format!("by pid {}", std::process::id()))?;
    let file = order.file();
    tell(&format!(
        "harness: state/control/{file} is set; `harness resume` ends it"
    ));
    Ok(0)
}

pub(super) fn interrupt(root: &Root, args: &InterruptArgs) -> Result<u8> {
    init::ensure_tree(root)?;
    let what = "cannot interrupt";
    let (target, reason) = match args.words.as_slice() {
        [slot, reason] => (target(what, slot)?, reason),
        [reason] if target(what, reason).is_ok() => {
            let slot = shown(reason);
            return Err(Error::usage(what, "no reason was given").hint(format!(
                "say why, for whoever looks: harness interrupt {slot} 'which database?'"
            )));
        }
        words => (ALL.to_owned(), &words[0]),
    };
    let file = interrupt::path(root, &target);
    if !interrupt::raise(root, &target, &reason.to_string_lossy())? {
        let why = format!("{target} is already interrupted for another reason");
        return Err(Error::permanent(what, why)
            .at_path(&file)
            .hint("end that with `harness resume`, or write your reason into the file"));
    }
    let resume = if target == ALL { "" } else { target.as_str() };
    tell(&format!(
        "harness: {} is set; `harness resume {resume}` ends it",
        file.display()
    ));
    Ok(0)
}

/// A slot's name, or `all`.
pub(super) fn target(what: &str, typed: &OsStr) -> Result<String> {
    match SlotId::parse(typed) {
        Some(slot) => Ok(slot.to_string()),
        None if typed == ALL => Ok(ALL.into()),
        None => {
            let why = format!("{} is no slot", shown(typed));
            Err(Error::usage(what, why).hint("slots are agent-1, agent-2, …"))
        }
    }
}
