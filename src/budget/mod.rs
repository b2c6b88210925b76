//! What agents may cost (`[budget]`). Each attempt of a prompt's agent reserves in `state/budget/budget.json`
//! before it starts, and is charged at its end with what it used; all processes obey that one file.
//!
//! Knows nothing of items' lives. Invariants: the file is changed under the flock of `state/budget/lock`
//! alone, and replaced whole; what cannot be read or reserved lets nothing start; a reservation is charged
//! or given back once.

mod renew;
mod report;
mod rules;
mod state;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests;

use std::fs::File;
use std::time::Duration;

use crate::atomic;
use crate::clock::{self, Timestamp};
use crate::config::{self, BudgetTable, Config, Overrides};
use crate::error::{Error, Kind, Result};
use crate::hold::{self, Hold};
use crate::layout::Root;
use crate::lease;
use crate::limits::{BUDGET_BYTES_MAX, BUDGET_PATIENCE};
use crate::text;

pub(crate) use report::{Report, Row};
use rules::Refusal;
pub(crate) use rules::{Grant, KNOWN_MIN, money};
pub(crate) use state::Amount;
pub(crate) use state::State as BudgetFile;
use state::{Charged, Reservation, State};

/// A wait for the lock is shown after this long.
const WAIT_SHOWN: Duration = Duration::from_secs(1);
/// So long a process that is told to stop waits for it still: others keep it for a moment only.
const STOPPING_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);
/// How long an agent is held because somebody keeps the lock.
const LOCKED_HOLD: Duration = Duration::from_secs(60);

/// An instant, and the day that it is in here.
#[derive(Debug, Clone)]
struct Moment {
    at: Timestamp,
    day: String,
    next_day: Timestamp,
}

impl Moment {
    fn now() -> Moment {
        Moment {
            at: clock::now(),
            day: clock::today(),
            next_day: clock::next_midnight(),
        }
    }
}

/// An attempt that is to be paid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) session: &'a str,
    pub(crate) item: &'a str,
    pub(crate) agent: &'a str,
    /// What it may cost by itself; `None`: no limit.
    pub(crate) limit_usd: Option<f64>,
    /// What any attempt of its agent may cost; `None`: no limit.
    pub(crate) agent_usd: Option<f64>,
    pub(crate) subscription: bool,
    /// By the attempts of its item before it.
    pub(crate) item_used: Amount,
}

/// Why an attempt must not start.
#[derive(Debug)]
pub(crate) enum Unpaid {
    /// Its agent is held for this reason; `raised`: the hold is new; `known`: it is known what is left.
    Held {
        why: Hold,
        raised: bool,
        known: bool,
    },
    /// Its item has used up its own budget.
    Item(String),
    /// Somebody keeps the lock, and this process is to stop.
    Stopping,
}

/// Who waits for the lock.
pub(crate) trait Waits {
    /// Shows why it waits; `None`: it waits no more.
    fn show(&self, why: Option<String>);
    /// Whether its process is to stop.
    fn is_to_stop(&self) -> bool;
}

/// One that does not wait.
impl Waits for () {
    fn show(&self, _why: Option<String>) {}

    fn is_to_stop(&self) -> bool {
        false
    }
}

/// `[budget]` as it was read last.
#[derive(Debug, Default)]
pub(crate) struct Current {
    table: BudgetTable,
    trouble: Option<String>,
}

impl Current {
    pub(crate) fn new(table: BudgetTable) -> Current {
        Current {
            table,
            trouble: None,
        }
    }

    /// What harness.toml says now: processes with different limits would end each other's holds. Where it
    /// cannot be read, what it said last; why is told once, too.
    pub(crate) fn read(&mut self, root: &Root) -> (BudgetTable, Option<String>) {
        let text = config::text_of(root);
        if text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
            // Gone, or about to be written: nobody wanted no limits at all.
            return (self.table.clone(), None);
        }
        let read = text.and_then(|text| Config::of_text(root, &text, &Overrides::default()));
        let trouble = match read {
            Ok(config) => {
                self.table = config.budget;
                None
            }
            Err(e) => Some(format!("[budget] stays as it was: {e}")),
        };
        let is_new = trouble != self.trouble;
        self.trouble.clone_from(&trouble);
        (self.table.clone(), trouble.filter(|_| is_new))
    }
}

/// The budgets of a tree.
pub(crate) struct Budget<'a> {
    pub(crate) root: &'a Root,
    pub(crate) config: &'a Config,
    /// `[budget]` as it is now.
    pub(crate) table: BudgetTable,
    pub(crate) durable: bool,
}

/// Whether a budget holds an agent.
pub(crate) fn holds_any(root: &Root) -> bool {
    hold::all(root).iter().any(|h| h.class == hold::BUDGET)
}

impl Budget<'_> {
    /// Reserves what an attempt may use.
    pub(crate) fn reserve(
        &self,
        ask: &Ask<'_>,
        waits: &dyn Waits,
    ) -> Result<Result<Grant, Unpaid>> {
        let _turn = match self.turn(BUDGET_PATIENCE, waits) {
            Ok(Some(turn)) => turn,
            Ok(None) if waits.is_to_stop() => return Ok(Err(Unpaid::Stopping)),
            Ok(None) => {
                let until = clock::later(clock::now(), LOCKED_HOLD);
                return self.unknown(ask.agent, Some(until), self.locked());
            }
            Err(e) if e.kind() == Kind::Permanent => {
                return self.unknown(ask.agent, None, e.to_string());
            }
            Err(e) => return Err(e),
        };
        let now = Moment::now();
        let mut state = match self.load(&now) {
            Ok(state) => state,
            // Nobody knows what is left: nothing starts.
            Err(e) if e.kind() == Kind::Permanent => {
                return self.unknown(ask.agent, None, e.to_string());
            }
            Err(e) => return Err(e),
        };
        let mut decided = rules::decide(&state, &self.table, ask, &now);
        if decided.is_err() && renew::settle(self.root, &mut state, &now) {
            decided = rules::decide(&state, &self.table, ask, &now);
        }
        let grant = match decided {
            Ok(grant) => grant,
            Err(Refusal::Item(why)) => return Ok(Err(Unpaid::Item(why))),
            Err(Refusal::Agent { until, why }) => {
                let agent = state.agents.entry(ask.agent.to_owned()).or_default();
                agent.refused_usd = ask.limit_usd;
                self.store(&state)?;
                // Under the lock: whoever makes room next ends it.
                let (why, raised) = self.hold(ask.agent, until, why)?;
                let known = true;
                return Ok(Err(Unpaid::Held { why, raised, known }));
            }
        };
        let reservation = Reservation {
            item: ask.item.to_owned(),
            agent: ask.agent.to_owned(),
            amount: grant.amount,
            at: clock::iso(now.at),
        };
        state.reserve(ask.session, reservation, &now);
        self.store(&state)?;
        Ok(Ok(grant))
    }

    /// Nobody can tell what is left.
    fn unknown(
        &self,
        agent: &str,
        until: Option<Timestamp>,
        why: String,
    ) -> Result<Result<Grant, Unpaid>> {
        let (why, raised) = self.hold(agent, until, why)?;
        let known = false;
        Ok(Err(Unpaid::Held { why, raised, known }))
    }

    /// The hold, and whether it is a new one.
    fn hold(&self, agent: &str, until: Option<Timestamp>, reason: String) -> Result<(Hold, bool)> {
        let hold = Hold {
            agent: agent.to_owned(),
            // Whole seconds: no earlier.
            until: until.map(|at| clock::iso(clock::later(at, Duration::from_secs(1)))),
            class: hold::BUDGET.to_owned(),
            reason: text::one_line(&reason),
            session: String::new(),
            since: clock::now_iso(),
        };
        let raised = hold::raise(self.root, &hold)?;
        Ok((hold, raised))
    }

    /// Charges an attempt with what it used, once; what is not known, with what it had reserved. Returns
    /// with what, and the agents that are held no more for it. `None`: it has reserved nothing.
    pub(crate) fn charge(
        &self,
        session: &str,
        usd: Option<f64>,
        tokens: Option<u64>,
        waits: &dyn Waits,
    ) -> Result<Option<(Amount, Vec<String>)>> {
        self.change(waits, |state, now| {
            match state.charge(session, usd, tokens, now) {
                Some(Charged::Now(amount)) => (Some(amount), true),
                Some(Charged::Before(amount)) => (Some(amount), false),
                None => (None, false),
            }
        })
        .map(|(charged, over)| charged.map(|amount| (amount, over)))
    }

    /// Gives back what an attempt had reserved that was not started. Returns the agents that are held no
    /// more for it.
    pub(crate) fn give_back(&self, session: &str, waits: &dyn Waits) -> Result<Vec<String>> {
        // Where only scripts run there never is one.
        if atomic::is_gone(&self.root.budget()) {
            return Ok(Vec::new());
        }
        let given = self.change(waits, |state, _| ((), state.give_back(session)));
        given.map(|((), over)| over)
    }

    /// Ends the holds whose cause is gone; returns their agents. `at_start`: with the configuration of a
    /// new run. Does not wait where somebody else has the lock.
    pub(crate) fn look_again(&self, at_start: bool) -> Result<Vec<String>> {
        let Some(_turn) = self.turn(Duration::ZERO, &())? else {
            return Ok(Vec::new());
        };
        let now = Moment::now();
        let mut state = self.load(&now)?;
        if at_start {
            state.agents.values_mut().for_each(|a| a.refused_usd = None);
        }
        if renew::settle(self.root, &mut state, &now) || at_start {
            self.store(&state)?;
        }
        Ok(self.end_holds(&state, &now))
    }

    /// Changes the file, and ends the holds for which there is room now. `change` says whether it has
    /// changed anything.
    fn change<T>(
        &self,
        waits: &dyn Waits,
        change: impl FnOnce(&mut State, &Moment) -> (T, bool),
    ) -> Result<(T, Vec<String>)> {
        let Some(_turn) = self.turn(BUDGET_PATIENCE, waits)? else {
            let what = "cannot change what agents have used and reserved";
            return Err(Error::temporary(what, self.locked()));
        };
        let now = Moment::now();
        let mut state = self.load(&now)?;
        let (done, changed) = change(&mut state, &now);
        if changed {
            self.store(&state)?;
        }
        Ok((done, self.end_holds(&state, &now)))
    }

    /// Ends the holds for which there is room now, and has the others say how it stands now.
    fn end_holds(&self, state: &State, now: &Moment) -> Vec<String> {
        let held = hold::all(self.root).into_iter();
        let mut over = Vec::new();
        for hold in held.filter(|hold| hold.class == hold::BUDGET) {
            match self.may_start(state, &hold.agent, now) {
                Ok(()) => {
                    if hold::end(self.root, &hold.agent).unwrap_or(false) {
                        over.push(hold.agent);
                    }
                }
                Err((until, why)) if why != hold.reason => {
                    // One that is replaced in place wakes nobody.
                    let _stays = hold::end(self.root, &hold.agent);
                    let _none = self.hold(&hold.agent, until, why);
                }
                Err(_) => {}
            }
        }
        over
    }

    /// Whether an attempt like the last one that was refused could be paid now; if not, until when, and
    /// why.
    fn may_start(
        &self,
        state: &State,
        agent: &str,
        now: &Moment,
    ) -> Result<(), (Option<Timestamp>, String)> {
        let Some((_, table)) = self.config.agent(agent) else {
            return Ok(());
        };
        let refused = state.agents.get(agent).and_then(|a| a.refused_usd);
        let agent_usd = (table.budget_usd > 0.0).then_some(table.budget_usd);
        let ask = Ask {
            session: "",
            item: "",
            agent,
            limit_usd: refused.or(agent_usd),
            agent_usd,
            subscription: table.subscription,
            item_used: Amount::default(),
        };
        match rules::decide(state, &self.table, &ask, now) {
            Ok(_) | Err(Refusal::Item(_)) => Ok(()),
            Err(Refusal::Agent { until, why }) => Err((until, why)),
        }
    }

    /// The lock. `None`: somebody else has kept it for long.
    fn turn(&self, patience: Duration, waits: &dyn Waits) -> Result<Option<File>> {
        let dir = self.root.budget_dir();
        atomic::make_dir(&dir, true)?;
        let (begun, mut said) = (clock::instant(), false);
        let turn = loop {
            match lease::try_lock(&self.root.budget_lock()) {
                Ok(None) => {}
                Err(e) if self.root.budget_lock().is_dir() => {
                    break Err(e.hint("move this folder away: harness makes the file anew"));
                }
                turn => break turn,
            }
            let waited = begun.elapsed();
            if waited >= patience || waits.is_to_stop() && waited >= STOPPING_PATIENCE {
                break Ok(None);
            }
            if waited >= WAIT_SHOWN && !std::mem::replace(&mut said, true) {
                waits.show(Some(self.locked()));
            }
            std::thread::park_timeout(PAUSE);
        };
        if said {
            waits.show(None);
        }
        if matches!(turn, Ok(Some(_))) {
            atomic::remove_every_temp(&dir);
        }
        turn
    }

    fn locked(&self) -> String {
        let path = self.root.budget_lock();
        let holders = lease::holders_of(&path);
        let who = match holders.first() {
            Some(pid) => format!("process {pid} holds it"),
            None => "another process holds it".to_owned(),
        };
        format!(
            "{} is locked: {who}; what to do: look whether it is stopped (Ctrl-Z), and end it",
            path.display()
        )
    }

    /// What is known, rolled on to now. Made anew where the file is missing.
    fn load(&self, now: &Moment) -> Result<State> {
        let mut state = match read(self.root)? {
            Some(state) => state,
            None => renew::anew(self, now)?,
        };
        state.roll(&self.table, now);
        Ok(state)
    }

    fn store(&self, state: &State) -> Result<()> {
        let mut text = text::pretty_json(state)
            .map_err(|e| Error::permanent("cannot write what agents have used", e.to_string()))?;
        text.push(b'\n');
        atomic::replace(&self.root.budget(), &text, self.durable)
    }
}

/// What to do where the file is not one to count with.
const MEND: &str =
    "mend it, or move it away: it is then made anew from state/items/ and state/ledger/";

/// The file. `None`: there is none, or an empty one, which a power cut leaves.
fn read(root: &Root) -> Result<Option<State>> {
    let (what, path) = (
        "cannot tell what agents have used and reserved",
        root.budget(),
    );
    let bytes = match atomic::read_small(&path, BUDGET_BYTES_MAX) {
        Ok(bytes) if bytes.is_empty() => return Ok(None),
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(what, &path, &e).hint(MEND)),
    };
    let state = serde_json::from_slice::<State>(&bytes).map_err(|e| e.to_string());
    let state = state.and_then(|state| state.checked());
    let state = state.map_err(|why| Error::permanent(what, why).at_path(&path).hint(MEND));
    state.map(Some)
}
