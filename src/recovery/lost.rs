//! Moves the items of a lost host back. Its slots are never used again: its process may only be late.
//!
//! Each step is safe against that process, and repeated by whoever comes next if this one dies:
//!
//! 1. a link in `state/exclusive/` elects the one that does it;
//! 2. the slot's marker says that it is given up: a late process finds that, and stops;
//! 3. each file gets its name for the end: from here on a late process finds its item taken away;
//! 4. its end is recorded, unless it is on record, and its file moved as that says;
//! 5. what else the slot held is removed, then the link of step 1.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{as_left, has_started, merged_or_not, move_its_file, put_back};
use crate::atomic::{self, Moved};
use crate::error::{Kind, Result};
use crate::layout::{Name, Root, SlotId};
use crate::lease::{self, Lease};
use crate::mutant::planted;
use crate::record::Record;
use crate::runtime::Lost;
use crate::session::{self, WorkerContext};
use crate::spool::{self, Claim};

/// Whether a slot that nobody takes over has an item, or holds one back from others. `holders`: the slots
/// that claims name.
pub(crate) fn has_items(root: &Root, slot: SlotId, holders: &[SlotId]) -> bool {
    holders.contains(&slot) || spool::claimed_in(root, slot).is_ok_and(|names| !names.is_empty())
}

/// Moves back what this slot of another host has, unless somebody else does, or it was taken again.
pub(crate) fn move_back(ctx: &mut WorkerContext, lost: &Lost) -> Result<()> {
    let root = ctx.rt.root.clone();
    let there = lease::marker(&root, lost.slot);
    if there.as_ref() != Some(&lost.marker) {
        return Ok(());
    }
    let Some(lease) = Lease::of_lost(&root, lost.slot, lost.by_lock)? else {
        return Ok(());
    };
    let key = root.exclusive_of_lost(lost.slot);
    if atomic::link_new(&ctx.lease.marker(), &key)? != Moved::Done {
        return Ok(());
    }
    let moved = move_all(ctx, &Arc::new(lease), lost);
    ctx.lease.let_go(&key)?;
    moved
}

fn move_all(ctx: &mut WorkerContext, lease: &Arc<Lease>, lost: &Lost) -> Result<()> {
    let root = ctx.rt.root.clone();
    if lost.marker.given_up.is_none() && !planted("slot-not-given-up") {
        lease.give_up(&lost.why)?;
        let (slot, host) = (lost.slot, &lost.marker.host.name);
        let text = format!("{slot} of host {host} is given up: {}", lost.why);
        ctx.rt.console.warn(&text);
    }
    atomic::end_moves(&root.claimed(lost.slot), None);
    let claims = lease.held()?;
    let claims = claims.iter().filter(|c| c.starts_with(root.claims()));
    let mut names: BTreeSet<Name> = claims
        .filter_map(|c| Some(Name::new(c.file_name()?)))
        .collect();
    names.extend(spool::claimed_in(&root, lost.slot)?);
    let mut stays = false;
    for name in &names {
        match move_item(ctx, lease, name, &lost.why) {
            Err(e) if e.kind() == Kind::Permanent => {
                // It stays for a person, and holds up no other.
                let slot = lost.slot;
                let text = format!("{slot}: {name} cannot be moved back: {e}");
                ctx.rt.console.warn(&text);
                stays = true;
            }
            done => done?,
        }
    }
    if stays {
        return Ok(());
    }
    for link in lease.held()? {
        lease.let_go(&link)?;
    }
    Ok(())
}

fn move_item(ctx: &mut WorkerContext, lease: &Arc<Lease>, name: &Name, why: &str) -> Result<()> {
    let root = ctx.rt.root.clone();
    let mut claim = Claim::adopt(&root, lease, name)?;
    if !claim.fence()? {
        // A late process may have been faster by this step.
        claim = Claim::adopt(&root, lease, name)?;
    }
    // Not before: what it recorded holds.
    let record = Record::open(&root, name)?;
    let last = record.history().last.clone();
    if let Some(last) = last.as_ref().filter(|last| last.is_for_merging()) {
        return merged_or_not(ctx, claim, record, last);
    }
    let slot = lease.slot.to_string();
    let Some(last) = last.filter(|last| last.slot == slot) else {
        return put_back(ctx, claim, record, "");
    };
    if last.end.is_some() {
        session::count_again(ctx, &last);
        return move_its_file(ctx, claim, &last);
    }
    let dir = root.session(&last.session);
    let mut announced = record.history().publishing.iter();
    let is_announced = announced.any(|p| p.session == last.session);
    if last.started.is_none() && !has_started(&dir) && !is_announced {
        return put_back(ctx, claim, record, &last.session);
    }
    let attempt = as_left(ctx, claim, record, &last);
    session::lose(ctx, attempt, why)
}
