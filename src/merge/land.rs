//! Moves the base to a gated commit.

use super::chain::Link;
use super::gate::Gated;
use super::{Batch, Candidate};
use crate::error::{Error, Kind, Result};
use crate::git::{Landed, Users};
use crate::mutant::planted;
use crate::record::{Event, Landing};
use crate::session::WorkerContext;
use crate::text::one_line;

/// How a landing went.
pub(super) enum Land {
    /// What each item's record says of it, in the order of the links.
    Done(Vec<Landing>),
    /// The base has moved meanwhile, or a person took one of the items away: again from its new tip.
    Again,
    Waits(String),
}

/// Lands the last of these links, with all before it. `onto`: the tip that was read; `gated`: what the
/// gates said of the last link's tree.
pub(super) fn land(
    ctx: &WorkerContext,
    batch: &mut Batch,
    onto: &str,
    links: &[Link],
    gated: &Gated,
) -> Result<Land> {
    let Some(last) = links.last() else {
        return Ok(Land::Again);
    };
    if !planted("tree-not-asserted") {
        assert_whole(batch, onto, last, gated)?;
    }
    for link in links {
        let claim = &mut batch.candidates[link.at].claim;
        if !ctx.retry_temporary(|| claim.fence())? {
            return Ok(Land::Again);
        }
    }
    let landings = announce(ctx, batch, onto, links, gated)?;
    let hub = batch.hub.clone();
    let users = hub.users(Some(ctx.lease.lock()));
    let (tip, id) = (&last.commit, holding_id(&last.commit));
    let land_with = |bring: &dyn Fn() -> Result<String>| match ctx.retry_temporary(bring) {
        Ok(held) => {
            let land = || users.land(&batch.into, onto, tip);
            (Some(held), ctx.retry_temporary(land))
        }
        Err(e) => (None, Err(e)),
    };
    let heads = links.iter().map(|link| &*batch.candidates[link.at].head);
    let known: Vec<&str> = heads.chain([onto]).collect();
    let (mut held, mut moved) = land_with(&|| users.bring_upon(&known, tip, &id));
    if matches!(moved, Ok(Landed::Lacks)) {
        // A branch was deleted since, say, and its commits collected.
        (held, moved) = land_with(&|| users.bring(tip, &id));
    }
    release(ctx, &users, &last.commit, held.as_deref());
    match moved {
        Ok(Landed::Done) => {
            hub.has_landed(&batch.into, onto, &last.commit);
            Ok(Land::Done(landings))
        }
        Ok(Landed::Moved | Landed::Lacks) => Ok(Land::Again),
        Ok(Landed::Waits(why)) => Ok(Land::Waits(why)),
        Err(e) if e.kind() == Kind::Temporary => Err(e),
        Err(e) => Ok(Land::Waits(one_line(&e.to_string()))),
    }
}

/// The last look before the swap: the commit has the tree that was gated, and was made upon the tip that
/// was read. Anything else would revert what others have landed.
fn assert_whole(batch: &Batch, onto: &str, last: &Link, gated: &Gated) -> Result<()> {
    let wrong = |why: String| {
        Err(Error::permanent("a merge is not what was gated", why)
            .hint("this is a fault in harness: nothing was landed; please report it"))
    };
    let (parents, tree) = batch.hub.first_parents(&last.commit, onto)?;
    let gated = gated.ran.iter().find(|ran| ran.tree != tree);
    if tree != last.tree || gated.is_some() {
        return wrong(format!("commit {} has the tree {tree}", last.commit));
    }
    match parents.first().map(String::as_str) == Some(onto) {
        true => Ok(()),
        false => wrong(format!("commit {} is not made upon {onto}", last.commit)),
    }
}

/// Records in each item what is about to land.
fn announce(
    ctx: &WorkerContext,
    batch: &mut Batch,
    onto: &str,
    links: &[Link],
    gated: &Gated,
) -> Result<Vec<Landing>> {
    let name = |link: &Link| batch.candidates[link.at].claim.name.shown();
    let names: Vec<String> = links.iter().map(name).collect();
    let Some(last) = links.last() else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for link in links {
        let Candidate {
            record,
            session,
            branch,
            head,
            ..
        } = &mut batch.candidates[link.at];
        let landing = Landing {
            session: session.clone(),
            branch: branch.clone(),
            head: head.clone(),
            repo: Some(batch.line.repo.clone()),
            into: batch.into.clone(),
            onto: onto.to_owned(),
            commit: link.commit.clone(),
            tip: last.commit.clone(),
            tree: last.tree.clone(),
            gates: gated.verdicts(),
            batch: names.clone(),
        };
        if !planted("landing-unsaid") {
            let event = Event::Landing(landing.clone());
            ctx.retry_temporary(|| record.append(&event))?;
            if ctx.rt.durable {
                ctx.retry_temporary(|| record.sync())?;
            }
        }
        all.push(landing);
    }
    Ok(all)
}

/// What holds a landing's commits in the user's repository until its branch has them.
pub(crate) fn holding_id(tip: &str) -> String {
    format!("merge-{tip:.12}")
}

/// One that stays, as a killed git's lock is in the way, does no harm. `held`: its name, where it is known.
pub(super) fn release(ctx: &WorkerContext, users: &Users<'_>, tip: &str, held: Option<&str>) {
    let release = || match held {
        Some(held) => users.release_ref(held),
        None => users.release(&holding_id(tip)),
    };
    if let Err(e) = ctx.retry_temporary(release) {
        ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
    }
}
