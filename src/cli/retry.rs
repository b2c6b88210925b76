//! `harness retry`: some items by name, or all that are parked.

use std::ffi::OsString;

use super::find::At;
use super::moves::Did;
use super::show::waits_with;
use super::{find, init, moves};
use crate::atomic;
use crate::error::{Result, tell};
use crate::layout::{Place, Root};
use crate::outcome::Outcome;
use crate::quote::harness;
use crate::record;
use crate::view::{count_of, print_json};

#[derive(clap::Args)]
pub(super) struct RetryArgs {
    #[arg(
        required_unless_present = "all",
        conflicts_with = "all",
        value_name = "NAME"
    )]
    names: Vec<OsString>,
    /// All parked items, or those of one outcome
    #[arg(long, value_name = "OUTCOME")]
    all: Option<Option<Outcome>>,
    #[command(flatten)]
    json: super::Json,
}

pub(super) fn retry(root: &Root, args: &RetryArgs) -> Result<u8> {
    match args.all {
        None => moves::each(root, &args.names, args.json.json, &moves::retry),
        Some(outcome) => all(root, outcome, args.json.json),
    }
}

/// All are tried; the first failure decides the exit code. Says how many, not which: there may be
/// thousands.
fn all(root: &Root, outcome: Option<Outcome>, json: bool) -> Result<u8> {
    init::ensure_tree(root)?;
    let (mut code, mut moved, mut asking, mut results) = (0, 0, 0, Vec::new());
    for name in find::names_in(&root.place(Place::Parked))? {
        let history = record::history(root, &name);
        let was = history.outcome.as_ref().and_then(|word| word.known());
        if outcome.is_some() && was != outcome {
            continue;
        }
        // Sent back without its answer, it would ask the same again.
        if waits_with(root, At::Parked, &history).is_some() {
            asking += 1;
            continue;
        }
        match moves::wherever_it_is(root, &name, &moves::retry) {
            Ok(did) => {
                moved += 1;
                results.push(Did::well(&name, did));
            }
            // Somebody else moved it meanwhile.
            Err(_) if !atomic::exists(&root.item(Place::Parked, &name)) => {}
            Err(e) => {
                tell(&format!("harness: {e}"));
                results.push(Did::badly(&name, &e));
                code = if code == 0 { e.exit_code() } else { code };
            }
        }
    }
    if json {
        print_json(&results)?;
    } else {
        tell(&format!("harness: {}", summary(moved, asking, outcome)));
    }
    Ok(code)
}

fn summary(moved: u64, asking: u64, outcome: Option<Outcome>) -> String {
    let stay = match asking {
        0 => String::new(),
        n => format!(
            "; {} parked: `{} status` says how to answer",
            match n {
                1 => "1 item waits for an answer and stays".to_owned(),
                n => format!("{n} items wait for an answer and stay"),
            },
            harness()
        ),
    };
    match (moved, asking) {
        (0, 1..) => stay.trim_start_matches("; ").to_owned(),
        _ => moved_back(moved, outcome) + &stay,
    }
}

fn moved_back(moved: u64, outcome: Option<Outcome>) -> String {
    let as_what = outcome.map_or_else(String::new, |o| format!(" as {}", o.as_str()));
    match moved {
        0 => format!("nothing to retry: no item is parked{as_what}"),
        1 => format!("1 item that was parked{as_what} is back in the queue"),
        n => format!(
            "{} that were parked{as_what} are back in the queue",
            count_of(n, "item")
        ),
    }
}
