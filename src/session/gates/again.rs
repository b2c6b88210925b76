//! Whether an attempt's gates are to be run again on the same work, and no agent: they could not be
//! evaluated, and a person wants another try.
//!
//! Only reads. Invariant: once in a row, so that a second retry has an agent look at it.

use crate::atomic;
use crate::config::Moment;
use crate::item;
use crate::layout::DEFAULT_REPO;
use crate::limits::ITEM_BYTES_MAX;
use crate::outcome::{Outcome, Verdict};
use crate::record::{End, LastAttempt};
use crate::runtime::Runtime;
use crate::session::Attempt;
use crate::session::file::{self, SessionFile};

/// What an attempt made whose gates could not be evaluated.
pub(in crate::session) struct Made {
    pub(in crate::session) before: SessionFile,
    /// Its end, without what was paid for.
    pub(in crate::session) end: End,
}

pub(in crate::session) fn to_run_again(rt: &Runtime, attempt: &Attempt) -> Option<Made> {
    let previous = attempt.record.history().previous.as_ref()?;
    let end = previous.gating.as_ref()?.end.clone();
    if previous.started.is_none() || previous.rejected.is_some() || !is_unevaluated(previous) {
        return None;
    }
    let mut before = file::read(&rt.root.session(&previous.session), &previous.session)?;
    before.begin_as(previous.started.as_ref());
    let (claim, repo) = (&attempt.claim, before.repo.as_deref()?);
    let is_same_repo = claim.item.order.repo.as_deref().unwrap_or(DEFAULT_REPO) == repo;
    // The same name with another text is another item.
    let copy = rt.root.session(&previous.session).join("item");
    let copy = atomic::read_small(&copy, ITEM_BYTES_MAX).ok()?;
    if !is_same_repo || copy != item::without_mark(&claim.bytes) {
        return None;
    }
    let hub = rt.repos.hub(&rt.root, repo).ok().flatten()?;
    let has = |oid: Option<&String>| oid.is_some_and(|oid| hub.has_commit(oid).unwrap_or(false));
    (has(end.head.as_ref()) && has(before.base_oid.as_ref())).then_some(Made {
        before,
        end: End {
            seconds: 0.0,
            turns: 0,
            input_tokens: 0,
            output_tokens: 0,
            cost_usd: 0.0,
            charged_usd: None,
            charged_tokens: None,
            notes: Vec::new(),
            ..end
        },
    })
}

/// Nothing but that held it up.
fn is_unevaluated(previous: &LastAttempt) -> bool {
    let outcome = previous.end.as_ref().and_then(|end| end.outcome.as_ref());
    let failed = outcome.and_then(|word| word.known()) == Some(Outcome::GateFailed);
    let after = |verdict| {
        let mut all = previous.gates.iter();
        all.any(|ran| ran.moment == Moment::After.as_str() && ran.verdict.known() == Some(verdict))
    };
    failed && after(Verdict::Unevaluated) && !after(Verdict::Red) && !after(Verdict::RedBefore)
}
