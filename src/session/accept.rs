//! Whether an item can run here and now, asked before it is claimed.

use std::time::Duration;

use super::{gates, random_fraction};
use crate::agents::{self, Agent};
use crate::config::nearest::advice;
use crate::hold::{self, Admitted, Hold};
use crate::host::Host;
use crate::item::{self, Refusal};
use crate::layout::SlotId;
use crate::mutant::planted;
use crate::runtime::Runtime;
use crate::spool::Acceptance;

/// Whether an item can run here: its agent and its repository are known, and its agent is not held.
/// `staggered`: the round in which the slot has started a prompt agent last. Its first waits for its turn
/// before it is claimed: meanwhile a better item may come, or the agent be held. `canary` is told where
/// the slot tries first for its agent.
pub(crate) fn accepts(
    rt: &Runtime,
    item: &item::Item,
    slot: SlotId,
    staggered: u64,
    canary: &mut Option<String>,
) -> Acceptance {
    let agent = agents::for_item(&rt.config, item);
    if let Some(lack) = agents::for_item_lacks(&rt.root, &rt.config, item, &agent) {
        return Acceptance::Later(hold_back(rt, lack));
    }
    let agent = match agent {
        Ok(agent) => agent,
        Err(refusal) => return Acceptance::Never(refusal),
    };
    let unknown = unknown_repo(rt, item).or_else(|| gates::unknown(&rt.config, item));
    if let Some(refusal) = unknown {
        return Acceptance::Never(refusal);
    }
    match agent {
        Agent::Script => Acceptance::Now,
        Agent::Command(name, _) => match hold::admit(&rt.root, name, slot) {
            Ok(Admitted::No(_)) => {
                rt.met_hold(name);
                Acceptance::Later(name.to_owned())
            }
            Ok(Admitted::AsCanary) => {
                *canary = Some(name.to_owned());
                Acceptance::Now
            }
            Ok(Admitted::Yes) => {
                rt.met_no_hold(name, random_fraction);
                if staggered == rt.turns.round() {
                    return Acceptance::Now;
                }
                match rt.turns.wait() {
                    Duration::ZERO => Acceptance::Now,
                    wait => Acceptance::Turn(wait),
                }
            }
            Err(e) => {
                rt.console.warn(&format!("{slot}: {e}"));
                Acceptance::Turn(CANNOT_TELL)
            }
        },
    }
}

/// After so long it is asked again whether an agent is held, where that cannot be found out.
const CANNOT_TELL: Duration = Duration::from_secs(5);

/// Raises the hold of an agent that cannot be started at all, says it once, and returns its name. In a
/// job of an engine no other host is held up for what this one lacks.
fn hold_back(rt: &Runtime, lack: Hold) -> String {
    let of_host = Host::own().job.is_some() && agents::is_lack_of_host(&lack);
    if of_host && !planted("lack-of-host-holds") {
        rt.leave_host(&lack.reason);
        return lack.agent;
    }
    // Of several workers that meet it at once, one raises the hold, and says it.
    let mut lacking = rt.lacking();
    match hold::raise(&rt.root, &lack) {
        Ok(true) => {
            lacking.insert(lack.agent.clone());
            rt.console.warn(&agents::who_waits(&lack));
        }
        Ok(false) => {}
        Err(e) => rt.console.warn(&e.to_string()),
    }
    lack.agent
}

fn unknown_repo(rt: &Runtime, item: &item::Item) -> Option<Refusal> {
    let repo = item
        .order
        .repo
        .as_ref()
        .filter(|repo| !rt.repos.has(repo))?;
    let known = rt.repos.names();
    let near = match known.is_empty() {
        true => "there is none: describe it in [repos.NAME] of harness.toml".to_owned(),
        false => advice(repo, known.iter().map(|name| &**name)),
    };
    Some(Refusal(format!("unknown repo `{repo}`; {near}")))
}
