//! The items in `review/` and `merge/`, each with its branch as it is in the user's repository now.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::branches::{self, Branch, BranchTold};
use super::find;
use crate::config::{Config, Overrides};
use crate::error::{Error, Result};
use crate::git::Repos;
use crate::layout::{Name, Place, Root};
use crate::merge;
use crate::outcome::Verdict;
use crate::record::{self, Event, GateRan, History, Line};
use crate::view::short;

/// An item that waits for a person, or to be merged.
pub(super) struct Waiting {
    pub(super) name: Name,
    pub(super) place: Place,
    /// `None`: its record tells of none.
    pub(super) branch: Option<Branch>,
    /// The commit that waits: an approval is for it.
    pub(super) head: Option<String>,
    /// Since when, RFC 3339.
    since: Option<String>,
    /// Why it is back, if it is.
    pub(super) returned: Option<String>,
    /// Why it is not merged yet, where that was tried.
    held: Option<String>,
    /// What its gates said last.
    pub(super) gates: Vec<GateRan>,
}

/// An item that waits for a person, or to be merged, with its branch as it is now.
#[derive(Serialize, JsonSchema)]
pub(super) struct WaitingTold {
    #[serde(flatten)]
    branch: BranchTold,
    /// The commit since which it has changes of its own.
    base_oid: Option<String>,
    /// `review` or `merge`.
    state: &'static str,
    /// Its branch is at another commit than `head`.
    moved: bool,
    /// Since when it waits.
    since: Option<String>,
    /// Why it is back, if it is.
    returned: Option<String>,
    /// Why it is not merged yet, where that was tried.
    reason: Option<String>,
    /// What each gate said last.
    gates: Vec<GateRan>,
}

pub(super) struct Desk<'r> {
    root: &'r Root,
    config: Config,
    pub(super) repos: Repos,
}

impl<'r> Desk<'r> {
    pub(super) fn new(root: &'r Root) -> Result<Desk<'r>> {
        let config = Config::load(root, &Overrides::default())?;
        let repos = Repos::new(root, &config)?;
        Ok(Desk {
            root,
            config,
            repos,
        })
    }

    /// All that wait, those for a person first, and what could not be looked at.
    pub(super) fn all(&self) -> Result<(Vec<Waiting>, Vec<Error>)> {
        let mut all = Vec::new();
        for place in [Place::Review, Place::Merge] {
            for name in find::names_in(&self.root.place(place))? {
                all.push(Waiting::of(self.root, place, name)?);
            }
        }
        for tried in merge::waiting_now(self.root) {
            let in_merge = |w: &&mut Waiting| w.place == Place::Merge && w.name == tried.name;
            if let Some(waiting) = all.iter_mut().find(in_merge) {
                waiting.held = tried.why;
            }
        }
        let trouble = self.look(&mut all);
        Ok((all, trouble))
    }

    /// Finds out where their branches are, what they change, and what merging them would be.
    pub(super) fn look(&self, all: &mut [Waiting]) -> Vec<Error> {
        let mut trouble = self.find_tips(all);
        for branch in all.iter_mut().filter_map(|w| w.branch.as_mut()) {
            let integrate = self.config.integrate(branch.now.repo.as_deref());
            branch.base = integrate.into.or(branch.base.take());
        }
        let branches = all.iter_mut().filter_map(|w| w.branch.as_mut());
        trouble.extend(branches::measure_all(self.root, &self.repos, branches));
        trouble
    }

    /// Finds out where their branches are.
    pub(super) fn find_tips(&self, all: &mut [Waiting]) -> Vec<Error> {
        let branches = all.iter_mut().filter_map(|w| w.branch.as_mut());
        branches::find_tips(self.root, &self.repos, branches)
    }
}

impl Waiting {
    pub(super) fn of(root: &Root, place: Place, name: Name) -> Result<Waiting> {
        let lines = record::lines(root, &name)?;
        let last = History::of(&lines).last.unwrap_or_default();
        let mut branches = branches::of_item(&name, &lines);
        let branch = branches.pop().filter(|b| b.session == last.session);
        let newest = lines.iter().rev().find(|line| is_move(line));
        let returned = newest.and_then(|line| match &line.event {
            Event::Returned(returned) => Some(returned.reason.clone()),
            _ => None,
        });
        // Of a gate that ran again, what it said last.
        let gates = last.gates.into_iter().map(|ran| (ran.gate.clone(), ran));
        let gates: BTreeMap<String, GateRan> = gates.collect();
        Ok(Waiting {
            name,
            place,
            branch,
            head: last.published.map(|published| published.head),
            since: newest.map(|line| line.at.clone()),
            returned,
            held: None,
            gates: gates.into_values().collect(),
        })
    }

    pub(super) fn since(&self) -> Option<&str> {
        self.since.as_deref()
    }

    /// Its branch is at another commit than the one that waits.
    pub(super) fn moved_to(&self) -> Option<&str> {
        let tip = self.branch.as_ref()?.now.tip.as_deref()?;
        (self.head.as_deref() != Some(tip)).then_some(tip)
    }

    /// `3 green`, `test flaky, 2 green`.
    pub(super) fn verdicts(&self) -> String {
        let is_green = |ran: &&GateRan| ran.verdict.known() == Some(Verdict::Green);
        let others = self.gates.iter().filter(|ran| !is_green(ran));
        let mut words: Vec<String> = others
            .map(|ran| format!("{} {}", ran.gate, ran.verdict.as_str()))
            .collect();
        match self.gates.iter().filter(is_green).count() {
            0 => {}
            n => words.push(format!("{n} green")),
        }
        words.join(", ")
    }

    /// Why a person should look twice.
    pub(super) fn why(&self) -> String {
        let moved = self.moved_to().map(|tip| {
            let tip = short(tip);
            format!("its branch was moved since, to {tip}")
        });
        let known = self.returned.iter().chain(&self.held).cloned();
        known.chain(moved).collect::<Vec<String>>().join("; ")
    }

    pub(super) fn told(&self) -> WaitingTold {
        let branch = match &self.branch {
            Some(branch) => BranchTold::of(branch),
            None => BranchTold {
                item: self.name.shown(),
                ..BranchTold::default()
            },
        };
        let from = self.branch.as_ref().and_then(|b| b.now.from.clone());
        WaitingTold {
            branch: BranchTold {
                head: self.head.clone(),
                ..branch
            },
            base_oid: from,
            state: self.place.dir(),
            moved: self.moved_to().is_some(),
            since: self.since.clone(),
            returned: self.returned.clone(),
            reason: self.held.clone(),
            gates: self.gates.clone(),
        }
    }
}

/// What puts an item into one of the two folders.
fn is_move(line: &Line) -> bool {
    match &line.event {
        Event::Finished(finished) => finished.published.is_some(),
        Event::Returned(_) | Event::Approved(_) => true,
        _ => false,
    }
}
