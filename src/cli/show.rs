//! `harness show NAME`: one item's whole story, from its record and its current place.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::claimed::Slots;
use super::facts::{Facts, facts};
use super::find::{self, At, Found};
use crate::aggregator;
use crate::error::Result;
use crate::git;
use crate::interrupt::{self, Interrupt};
use crate::item::Item;
use crate::layout::{Name, Root, gate_log_name, join};
use crate::outcome::{Outcome, Verdict};
use crate::quote;
use crate::ready::Ready;
use crate::record::{self, End, Event, Finished, GateRan, History, Landing, Line, Stamped};
use crate::view::state::{self, Holds, Stands, State, parsed};
use crate::view::story::{Standing, story};
use crate::view::{print_json, print_text};

pub(super) fn show(root: &Root, name: &OsStr, json: bool) -> Result<u8> {
    let name = find::name(name)?;
    let mut lines = record::lines(root, &name)?;
    note_salvaged(root, &mut lines);
    let places = find::places(root, &name);
    if places.is_empty() && lines.is_empty() {
        return Err(find::unknown(root, &name));
    }
    let history = History::of(&lines);
    let (state, stands) = state_of(root, &name, places.first(), &history)?;
    if json {
        let at = places.first();
        return print_json(&told(root, &name, (state, &stands), &lines, at));
    }
    // For people: a claim of which nothing goes on is no work.
    let told = match stands.class {
        Some(STUCK) => STUCK,
        _ => state,
    };
    let item = places.first().and_then(|found| parsed(&name, &found.path));
    let understood = item.map(|item| item.understood()).unwrap_or_default();
    let at = places.first().map(|found| found.place);
    let waits = at.and_then(|at| waits_with(root, at, &history));
    let ways = match waits {
        Some(i) => Some(interrupt::ways(quote::harness(), &i.stem, Some(&name))),
        None => ways_now(root, &name, state, &history)?,
    };
    let standing = Standing {
        state: told,
        reason: stands.reason.as_deref(),
        ways: ways.as_deref(),
    };
    print_text(&story(&name, &standing, &understood, &lines))
}

/// What helps it that its record alone does not know: a harness, or what its red gate printed.
fn ways_now(root: &Root, name: &Name, state: &str, history: &History) -> Result<Option<String>> {
    let harness = quote::harness();
    if state == "pending" && !aggregator::any_harness_alive(root)? {
        let starts = format!("no harness is running: `{harness} run` starts one");
        return Ok(Some(starts));
    }
    let failed = state == "parked" && history.outcome == Some(Outcome::GateFailed.into());
    let last = history.last.as_ref().filter(|_| failed);
    Ok(last.and_then(|last| {
        let is_green = |ran: &&GateRan| ran.verdict == Verdict::Green.into();
        let ran = last.gates.iter().rev().find(|ran| !is_green(ran))?;
        let log = ran
            .log
            .as_ref()
            .filter(|log| gate_log_name(log).is_some())?;
        let log = quote::shell_quoted(&join(&root.session(&ran.session), log));
        let arg = quote::item(name);
        Some(format!(
            "`cat {log}` says what the gate printed, `{harness} retry {arg}` tries it again"
        ))
    }))
}

/// The interrupt that it waits with: its agent is frozen, or asked and ended.
pub(super) fn waits_with(root: &Root, at: At, history: &History) -> Option<Interrupt> {
    match at {
        At::Claimed(slot) | At::Ending(slot) => interrupt::of(root, slot),
        At::Parked => interrupt::waits_for(root, &history.last.as_ref()?.session),
        At::Pending | At::Review | At::Merge | At::Done => None,
    }
}

/// Its state's word, and more about it.
pub(super) fn state_of(
    root: &Root,
    name: &Name,
    at: Option<&Found>,
    history: &History,
) -> Result<(&'static str, Stands)> {
    let stands = match at.map(|f| f.place) {
        None => {
            let why = Some("its file is no longer in queue/".into());
            return Ok(("gone", Stands::new(State::Done, "gone", why)));
        }
        Some(At::Pending) => {
            let ready = Ready::new(root)?;
            ready.note(name.as_os_str());
            let standing = ready.standing();
            let stands = standing
                .first()
                .map(|(_, s)| state::of_pending(root, &Holds::look(root), name, s));
            match stands {
                None => Stands::new(State::Pending, "slot", None),
                Some(stands) if stands.state == State::Pending => Stands {
                    reason: None,
                    ..stands
                },
                Some(stands) => stands,
            }
        }
        Some(place) => {
            let works = match place {
                At::Claimed(slot) | At::Ending(slot) => Slots::look(root).works(slot),
                _ => Ok(None),
            };
            elsewhere(place, waits_with(root, place, history), works, history)
        }
    };
    Ok((stands.state.as_str(), stands))
}

/// The class, and the word for people, of a claim of which nothing goes on.
const STUCK: &str = "stuck";

/// Where an item stands that is not in `pending/`. `waits`: the interrupt that it waits with; `works`:
/// whether its slot works on it, and what that waits for.
pub(super) fn elsewhere(
    place: At,
    waits: Option<Interrupt>,
    works: Result<Option<String>, String>,
    history: &History,
) -> Stands {
    let asks = waits.map(|i| i.headline().to_owned());
    match (place, works, asks) {
        (At::Claimed(_) | At::Ending(_), Err(why), _) => {
            Stands::new(State::Claimed, STUCK, Some(why))
        }
        (At::Claimed(slot) | At::Ending(slot), _, Some(asks)) => {
            let why = format!("{slot} is frozen until a person answers: {asks}");
            Stands::new(State::Claimed, "interrupt", Some(why))
        }
        (At::Claimed(slot) | At::Ending(slot), Ok(waits), None) => {
            let why = match waits {
                Some(waits) => format!("{slot} works on it: {waits}"),
                None => format!("{slot} works on it"),
            };
            Stands::new(State::Claimed, None, Some(why))
        }
        (At::Parked, _, Some(asks)) => {
            let why = format!("it asked, and waits for an answer: {asks}");
            Stands::new(State::Parked, "interrupt", Some(why))
        }
        (At::Parked, _, None) => Stands::new(State::Parked, None, history.reason.clone()),
        (At::Review, ..) => Stands::new(State::Review, "review", history.reason.clone()),
        (At::Merge, ..) => Stands::new(State::Merge, "merge", history.reason.clone()),
        (At::Done | At::Pending, ..) => Stands::new(State::Done, None, None),
    }
}

/// One item's whole story.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown<'l> {
    #[serde(flatten)]
    facts: Facts,
    /// Where its file is, relative to ROOT.
    file: Option<String>,
    /// The fields of the item as they stand in its file.
    fields: Option<Map<String, Value>>,
    /// What was understood of them, in words.
    understood: Option<String>,
    /// Those that started, or are about to.
    attempts: Vec<Attempt<'l>>,
    /// The lines of its record.
    #[schemars(with = "Vec<Stamped<'_>>")]
    events: Vec<&'l Value>,
}

/// An attempt that started, or is about to. What is not known yet is `null`.
#[derive(Serialize, JsonSchema)]
struct Attempt<'l> {
    session: &'l str,
    /// `agent-N`.
    slot: &'l str,
    attempt: u32,
    claimed_at: &'l str,
    /// What runs: `script`, or a name from `[agents.NAME]`.
    agent: Option<&'l str>,
    /// When its agent process was started.
    started_at: Option<&'l str>,
    /// The branch as it is called in your repository.
    published: Option<&'l str>,
    #[serde(flatten)]
    #[schemars(with = "EndOrNull")]
    end: Map<String, Value>,
    /// What its gates said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gates: Vec<&'l GateRan>,
    /// How its branch landed.
    #[serde(skip_serializing_if = "Option::is_none")]
    merged: Option<&'l Landing>,
}

/// The names of an `End`, each of which may be `null`.
struct EndOrNull;

impl JsonSchema for EndOrNull {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "EndOrNull".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = End::json_schema(generator);
        let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
        for (_, field) in fields.into_iter().flatten() {
            if let Some(Value::String(one)) = field.get("type") {
                field["type"] = json!([one, "null"]);
            }
        }
        schema
    }
}

fn told<'l>(
    root: &Root,
    name: &Name,
    (state, stands): (&'static str, &Stands),
    lines: &'l [Line],
    at: Option<&Found>,
) -> Shown<'l> {
    let item = at.and_then(|found| parsed(name, &found.path));
    let understood = item.as_ref().map(Item::understood);
    let file = at.map(|found| found.path.as_path());
    let shown = file.map(|path| path.strip_prefix(root.path()).unwrap_or(path));
    Shown {
        facts: facts(name, state, stands, lines, file),
        file: shown.map(|path| path.to_string_lossy().into_owned()),
        fields: item.map(|item| item.fields),
        understood: understood.filter(|words| !words.is_empty()),
        attempts: attempts(lines),
        events: lines.iter().map(|line| &line.object).collect(),
    }
}

/// Adds to each attempt's notes what was salvaged of its work after its end: before the slot's next
/// item, where a process or a person still wrote in its tree.
fn note_salvaged(root: &Root, lines: &mut [Line]) {
    let started = |line: &Line| match &line.event {
        Event::Started(s) => Some((s.session.clone(), s.base_oid.clone()?)),
        _ => None,
    };
    let bases: HashMap<String, String> = lines.iter().filter_map(started).collect();
    for line in lines {
        if let Event::Finished(Finished { session, end, .. }) = &mut line.event
            && let (Some(branch), Some(head)) = (&end.branch, &end.head)
            && let Some(base) = bases.get(session)
        {
            let mut later = git::salvaged_of(root, branch, base, head);
            later.retain(|note| !end.notes.contains(note));
            end.notes.append(&mut later);
        }
    }
}

/// The attempts, without those put back before they started, as recorded.
fn attempts(lines: &[Line]) -> Vec<Attempt<'_>> {
    let mut attempts: Vec<Attempt<'_>> = Vec::new();
    for line in lines {
        match &line.event {
            Event::Claimed(claimed) => attempts.push(Attempt {
                session: &claimed.session,
                slot: &claimed.slot,
                attempt: claimed.attempt,
                claimed_at: &line.at,
                agent: None,
                started_at: None,
                published: None,
                end: end(None, ""),
                gates: Vec::new(),
                merged: None,
            }),
            Event::Started(started) => {
                if let Some(attempt) = of(&mut attempts, &started.session) {
                    attempt.agent = Some(&started.agent);
                    attempt.started_at = Some(&line.at);
                }
            }
            Event::Requeued(requeued) => attempts.retain(|a| a.session != requeued.session),
            Event::Finished(finished) => {
                if let Some(attempt) = of(&mut attempts, &finished.session) {
                    attempt.end = end(Some(&finished.end), &line.at);
                    attempt.published = finished.published.as_deref();
                }
            }
            Event::Gate(ran) => {
                if let Some(attempt) = of(&mut attempts, &ran.session) {
                    attempt.gates.push(ran);
                }
            }
            Event::Merged(landing) => {
                if let Some(attempt) = of(&mut attempts, &landing.session) {
                    attempt.merged = Some(landing);
                }
            }
            Event::Added(_)
            | Event::Gating(_)
            | Event::Approved(_)
            | Event::Rejected(_)
            | Event::Landing(_)
            | Event::Returned(_)
            | Event::Adopted(_)
            | Event::Interrupted(_)
            | Event::Resumed(_)
            | Event::Publishing(_)
            | Event::Answered(_)
            | Event::Retried(_)
            | Event::Released(_)
            | Event::Canceled(_)
            | Event::Refused(_)
            | Event::Parked(_)
            | Event::Stays(_)
            | Event::Hook(_)
            | Event::Unknown(_) => {}
        }
    }
    attempts
}

/// The fields of an end; every name from the beginning: what is not known yet is null. `at`: when it was
/// recorded.
fn end(end: Option<&End>, at: &str) -> Map<String, Value> {
    let mut fields = match json!(end.unwrap_or(&End::default())) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    match end {
        None => fields.values_mut().for_each(|value| *value = Value::Null),
        Some(end) if end.ended_at.is_none() => {
            fields.insert("ended_at".into(), json!(at));
        }
        Some(_) => {}
    }
    fields
}

fn of<'a, 'l>(attempts: &'a mut [Attempt<'l>], session: &str) -> Option<&'a mut Attempt<'l>> {
    attempts.iter_mut().find(|a| a.session == session)
}
