//! An attempt and its budgets: what it reserves before anything of it is set up, and what it is charged
//! with at its end. Scripts cost nothing.
//!
//! Invariant: whatever becomes of an attempt, its reservation is charged or given back before its end is
//! on record.

use super::{Attempt, Failed, Over, SessionFile, WorkerContext};
use crate::agents::{self, Agent};
use crate::budget::{self, Amount, Ask, Budget, Unpaid, Waits};
use crate::clock;
use crate::error::{Kind, Result};
use crate::outcome::Exit;
use crate::runtime::{Level, Runtime};

fn budget(rt: &Runtime) -> Budget<'_> {
    let (table, trouble) = rt.budget().read(&rt.root);
    if let Some(why) = trouble {
        rt.console.warn(&why);
    }
    Budget {
        root: &rt.root,
        config: &rt.config,
        table,
        durable: rt.durable,
    }
}

impl Waits for WorkerContext {
    fn show(&self, why: Option<String>) {
        self.show_reason(why);
    }

    fn is_to_stop(&self) -> bool {
        self.rt.lifecycle.level() >= Level::Stopping
    }
}

/// Reserves what the attempt may use, or says why it must not start.
pub(super) fn reserve(
    ctx: &WorkerContext,
    attempt: &mut Attempt,
    agent: &Agent<'_>,
) -> Result<(), Failed> {
    let Agent::Command(name, table) = agent else {
        return Ok(());
    };
    let (rt, past) = (&ctx.rt, attempt.record.history());
    let ask = Ask {
        session: &attempt.file.session,
        item: &attempt.file.item,
        agent: name,
        limit_usd: agents::budget_usd(table, &attempt.claim.item),
        agent_usd: (table.budget_usd > 0.0).then_some(table.budget_usd),
        subscription: table.subscription,
        item_used: Amount::new(past.used_usd, past.used_tokens),
    };
    let reserved = budget(rt).reserve(&ask, ctx);
    // One that failed may have reserved.
    attempt.reserved = !matches!(reserved, Ok(Err(_)));
    match reserved? {
        Ok(grant) => {
            attempt.usd_max = grant.usd_max.map(|(usd, _)| usd);
            attempt.file.watched_tokens = grant.tokens_max.map(|(tokens, _)| tokens);
            attempt.file.tokens_by = grant.tokens_max.map(|(_, key)| key.to_owned());
            attempt.file.budget_by = grant.usd_max.map(|(_, key)| key.to_owned());
            Ok(())
        }
        Err(Unpaid::Stopping) => Err(Failed::PutOff("harness was told to stop".into())),
        Err(Unpaid::Held { why, raised, known }) => {
            if raised {
                let until = match &why.until {
                    Some(until) => format!("until {}", clock::local(until)),
                    None if known => "until there is room".to_owned(),
                    None => "until that is mended".to_owned(),
                };
                let text = format!("{name} is held {until}: {}", why.reason);
                rt.console.warn(&text);
            }
            Err(Failed::PutOff(format!("{name} is held: {}", why.reason)))
        }
        Err(Unpaid::Item(why)) => Err(Failed::Unpaid(why)),
    }
}

/// Charges the attempt with what it used, what it used after it was told to stop included.
pub(super) fn charge(ctx: &WorkerContext, attempt: &mut Attempt, over: &Over) -> Result<()> {
    if attempt.file.agent == agents::SCRIPT {
        return Ok(());
    }
    let Over::Exited { exit, stop, .. } = over else {
        return match attempt.reserved {
            true => give_back(ctx, &attempt.file.session),
            false => Ok(()),
        };
    };
    let failed = stop.is_none() && matches!(exit, Exit::Code(code) if *code != 0);
    let (usd, tokens) = used(ctx, attempt, failed);
    let sid = &attempt.file.session;
    let charged = ctx.retry_temporary(|| budget(&ctx.rt).charge(sid, usd, tokens, ctx));
    if let Some(Some((amount, over))) = held_up(ctx, charged)? {
        attempt.file.charged_usd = Some(amount.usd);
        attempt.file.charged_tokens = Some(amount.tokens);
        say_over(&ctx.rt, &over);
    }
    Ok(())
}

/// The key of the budget that made its limit, where it has used that up.
pub(super) fn used_up(file: &SessionFile) -> Option<String> {
    let (usd, tokens) = (file.charged_usd?, file.charged_tokens?);
    if file.budget_usd.is_some_and(|most| usd + 1e-6 >= most) && file.budget_by.is_some() {
        return file.budget_by.clone();
    }
    let by_tokens = file.watched_tokens.is_some_and(|most| tokens >= most);
    file.tokens_by.clone().filter(|_| by_tokens)
}

/// What it used in dollars and tokens, as far as its CLI says. `failed`: it ended by itself, and not well.
fn used(ctx: &WorkerContext, attempt: &Attempt, failed: bool) -> (Option<f64>, Option<u64>) {
    let Some(figures) = attempt.stream.as_ref().map(|s| s.figures()) else {
        return (None, None);
    };
    let tokens = figures.counted_tokens();
    let answered = figures.turns > 0 || tokens > 0;
    if failed && !answered && figures.cost_usd.unwrap_or_default() <= 0.0 {
        // The model never answered: a refused login, a CLI that does not start.
        return (Some(0.0), Some(0));
    }
    let table = ctx.rt.config.agent(&attempt.file.agent);
    // What is paid already was reserved with nothing.
    let paid = table.is_some_and(|(_, table)| table.subscription);
    let usd = figures.cost_usd.filter(|usd| *usd >= 0.0 && !paid);
    (usd, answered.then_some(tokens))
}

/// Gives back what an attempt had reserved that started nothing.
pub(crate) fn give_back(ctx: &WorkerContext, session: &str) -> Result<()> {
    let given = ctx.retry_temporary(|| budget(&ctx.rt).give_back(session, ctx));
    if let Some(over) = held_up(ctx, given)? {
        say_over(&ctx.rt, &over);
    }
    Ok(())
}

/// An end waits for the host. What only a person can mend holds no end up: the reservation stays, and is
/// charged by whoever next has no room.
fn held_up<T>(ctx: &WorkerContext, done: Result<T>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(e) if e.kind() == Kind::Temporary => Err(e),
        Err(e) => {
            ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
            Ok(None)
        }
    }
}

/// Ends the holds whose budgets have room now. `at_start`: by the configuration of a new run.
pub(crate) fn look_again(rt: &Runtime, at_start: bool) {
    if !budget::holds_any(&rt.root) {
        return;
    }
    match budget(rt).look_again(at_start) {
        Ok(over) => say_over(rt, &over),
        Err(e) if at_start => rt.console.warn(&e.to_string()),
        // The hold says it.
        Err(_) => {}
    }
}

fn say_over(rt: &Runtime, agents: &[String]) {
    for agent in agents {
        let text = format!("{agent} is held no more: its budget lets it start");
        rt.console.say(&text);
        rt.ready.ask_rescan();
    }
}
