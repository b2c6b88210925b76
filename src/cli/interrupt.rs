//! `pause`, `drain` and `interrupt`: each makes a file that a person could also make by hand;
//! `resume` removes it.

use std::ffi::{OsStr, OsString};

use clap::Args;

use super::find::{self, At};
use super::init;
use crate::atomic;
use crate::config::nearest::nearest;
use crate::config::{Config, Overrides};
use crate::control::{self, Order};
use crate::error::{Error, Result, tell};
use crate::interrupt::{self, ALL};
use crate::layout::{Root, SlotId, shown};
use crate::quote::harness;

#[derive(Args)]
pub(super) struct InterruptArgs {
    /// The slot to interrupt (agent-N); `all`, spelled out, means every one
    #[arg(value_name = "SLOT|all")]
    slot: OsString,
    /// Why, for whoever looks
    #[arg(value_name = "REASON")]
    reason: Vec<OsString>,
}

/// `pause` and `drain`.
pub(super) fn order(root: &Root, order: Order) -> Result<u8> {
    control::give(root, order, &format!("by pid {}", std::process::id()))?;
    let (file, harness) = (order.file(), harness());
    tell(&format!(
        "harness: state/control/{file} is set; `{harness} resume` ends it"
    ));
    Ok(0)
}

const WHAT: &str = "cannot interrupt";

pub(super) fn interrupt(root: &Root, args: &InterruptArgs) -> Result<u8> {
    init::ensure_tree(root)?;
    let words: Vec<_> = args.reason.iter().map(|w| w.to_string_lossy()).collect();
    let reason = words.join(" ");
    let command = |slot: &str| match reason.trim() {
        "" => format!("{} interrupt {slot} 'REASON'", harness()),
        why => format!("{} interrupt {slot} {}", harness(), quoted(why)),
    };
    let target = target(root, WHAT, &args.slot, command, &[])?;
    if reason.trim().is_empty() {
        return Err(Error::usage(WHAT, "no reason was given").hint(format!(
            "say why, for whoever looks: {} interrupt {target} 'which database?'",
            harness()
        )));
    }
    if let [first, _, ..] = args.reason.as_slice()
        && interrupt::stem_of(first).is_some()
    {
        let why = format!("`{}` is a slot, not a reason", shown(first));
        return Err(Error::usage(WHAT, why).hint("one slot at a time, or all"));
    }
    exists(root, &target)?;
    let file = interrupt::path(root, &target);
    if !interrupt::raise(root, &target, &reason)? {
        let why = format!("{target} is already interrupted for another reason");
        return Err(Error::permanent(WHAT, why).at_path(&file).hint(format!(
            "end that with `{} resume {target}`, or write your reason into the file",
            harness()
        )));
    }
    tell(&format!(
        "harness: {} is set; `{} resume {target}` ends it",
        file.display(),
        harness()
    ));
    Ok(0)
}

fn quoted(text: &str) -> String {
    super::quote::shell_quoted(text.as_ref())
}

/// The stem of what was typed: a slot's name, or `all`. Anything else is refused with the right form,
/// as `command` makes it of a stem: to take a slip for all would freeze everybody. `others`: what else
/// may be meant.
pub(super) fn target(
    root: &Root,
    what: &str,
    typed: &OsStr,
    command: impl Fn(&str) -> String,
    others: &[String],
) -> Result<String> {
    if let Some(stem) = interrupt::stem_of(typed) {
        return Ok(stem);
    }
    let refused = Error::usage(
        what,
        format!("`{}` is neither a slot nor `{ALL}`", shown(typed)),
    );
    let word = typed.to_string_lossy();
    let other = nearest(&word, others.iter().map(String::as_str)).map(str::to_owned);
    if let Some(meant) = interrupt::meant(typed).or(other) {
        return Err(refused.hint(format!("was `{}` meant?", command(&meant))));
    }
    let places = find::name(typed).map(|name| find::places(root, &name));
    let place = places.unwrap_or_default().into_iter().next();
    Err(refused.hint(match place.map(|found| found.place) {
        Some(At::Claimed(slot) | At::Ending(slot)) => format!(
            "it is an item, and {slot} works on it: `{}`",
            command(&slot.to_string())
        ),
        Some(_) => "it is an item that no slot works on: `harness show` says where it is".into(),
        None => format!(
            "name the slot first: `{}`; or all of them: `{}`",
            command("agent-1"),
            command(ALL)
        ),
    }))
}

/// Refuses a slot that there is not: nobody would notice.
fn exists(root: &Root, stem: &str) -> Result<()> {
    let Some(slot) = SlotId::parse(OsStr::new(stem)) else {
        return Ok(());
    };
    let configured = Config::load(root, &Overrides::default()).map(|c| c.harness.workers);
    let ordered = control::read(root).workers.unwrap_or_default();
    let first = configured.unwrap_or_default().max(ordered);
    if slot.0 <= first || atomic::exists(&root.agent(slot)) {
        return Ok(());
    }
    let entries = std::fs::read_dir(root.agents()).into_iter().flatten();
    let slots = entries
        .flatten()
        .filter_map(|e| SlotId::parse(&e.file_name()));
    let last = slots
        .map(|slot| slot.0)
        .max()
        .unwrap_or_default()
        .max(first);
    let why = format!("there is no {slot}: the slots here are agent-1 to agent-{last}");
    Err(Error::usage(WHAT, why).hint(format!("`{} status` shows them", harness())))
}
