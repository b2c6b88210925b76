//! What is held in the users' repositories for nobody.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::git::Hub;
use crate::lease;
use crate::merge;
use crate::record::Record;
use crate::runtime::Runtime;
use crate::session::{self, WorkerContext};
use crate::spool;

/// Lets go of what holds commits in the users' repositories for no attempt and no landing at work: a power
/// cut can bring such a ref back, or leave one of an attempt that is on no record. What a dead slot needs
/// is brought again when it is recovered.
pub(super) fn release_nobodys(ctx: &WorkerContext) {
    let rt = &ctx.rt;
    for name in rt.repos.names() {
        if !Hub::is_made(&rt.root, name) {
            continue;
        }
        // One that cannot be opened is the trouble of the items that use it.
        let Ok(Some(hub)) = rt.repos.hub(&rt.root, name) else {
            continue;
        };
        let users = hub.users(Some(ctx.lease.lock()));
        if let Err(e) = at_work(rt).and_then(|live| users.release_all_but(&live)) {
            rt.console.warn(&format!("{}: {e}", ctx.slot()));
        }
    }
}

/// The names under which attempts and landings of living processes hold commits.
fn at_work(rt: &Runtime) -> Result<BTreeSet<String>> {
    let mut held = BTreeSet::new();
    for slot in lease::holders(&rt.root) {
        if !lease::is_held(&rt.root, slot) {
            continue;
        }
        for name in spool::claimed_in(&rt.root, slot)? {
            let record = Record::open(&rt.root, &name)?;
            if let Some(last) = &record.history().last {
                held.insert(session::short_id(&last.session).to_owned());
                let landing = last.landing.iter();
                held.extend(landing.map(|landing| merge::holding_id(&landing.tip)));
            }
        }
    }
    Ok(held)
}
