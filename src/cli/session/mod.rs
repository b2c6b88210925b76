//! `harness session …`: what an agent did. What was typed becomes a session and a view of it.
//!
//! Knows no file of a session: `session::read` does. Invariant: nothing under ROOT is changed.

mod export;

use std::io::IsTerminal;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Json, print_json, print_text};
use crate::error::{Result, tell};
use crate::layout::{Root, shown};
use crate::session::read::lines::Got;
use crate::session::read::metrics::{Metrics, Sums};
use crate::session::read::timeline::Timeline;
use crate::session::read::tools::Tools;
use crate::session::read::trouble::Troubles;
use crate::session::read::{self, Session, find};
use crate::view::{self, Term, count_of};

#[derive(Subcommand)]
pub enum SessionCommand {
    /// Sessions, newest first
    List {
        /// Only those of this item
        #[arg(long, value_name = "NAME")]
        item: Option<std::ffi::OsString>,
        /// At most so many; 0 for all
        #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        json: Json,
    },
    /// The id of the newest session
    Latest {
        #[command(flatten)]
        json: Json,
    },
    /// What it was, how it ended, what it changed, where its files are
    Summary(One),
    /// Its events, one on a line
    Events {
        #[command(flatten)]
        one: One,
        /// The lines of stdout.log that the events were made of, each once, as the agent wrote them
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Tools that it called: how often, how long, with what result
    Tools(One),
    /// Errors, retries, limits, denials, failed tools, and the end of its standard error
    Errors(One),
    /// When what happened and how long it took (times are up to 250 ms late)
    Timeline(One),
    /// Its figures and durations
    Metrics {
        #[command(flatten)]
        one: One,
        /// Totals over all sessions, and of each agent
        #[arg(long, conflicts_with = "sid")]
        all: bool,
    },
    /// Follow its events until it has ended
    Watch(One),
    /// All of it as one JSON object, or as a Markdown transcript
    Export(export::ExportArgs),
}

#[derive(Args)]
pub struct One {
    /// The session's id, or a beginning or end of it that is no other's [default: the newest]
    sid: Option<String>,
    #[command(flatten)]
    json: Json,
}

impl One {
    fn find(&self, root: &Root) -> Result<Session> {
        find::find(root, self.sid.as_deref())
    }
}

pub fn session(root: &Root, command: SessionCommand) -> Result<u8> {
    match command {
        SessionCommand::List { item, limit, json } => list(root, item, limit, json.json),
        SessionCommand::Latest { json } => {
            let session = find::find(root, None)?;
            match json.json {
                true => print_json(&view::session::as_json(&session)),
                false => print_text(&(session.sid + "\n")),
            }
        }
        SessionCommand::Summary(one) => {
            let session = one.find(root)?;
            let figures = Metrics::of(&session).figures;
            match one.json.json {
                true => print_json(&view::session::summary::json(&session, &figures)),
                false => print_text(&view::session::summary::text(&session, &figures)),
            }
        }
        SessionCommand::Events { one, raw } => events(&one.find(root)?, one.json.json, raw),
        SessionCommand::Tools(one) => tools(&one.find(root)?, one.json.json),
        SessionCommand::Errors(one) => errors(&one.find(root)?, one.json.json),
        SessionCommand::Timeline(one) => timeline(&one.find(root)?, one.json.json),
        SessionCommand::Metrics { one, all: true } => all_metrics(root, one.json.json),
        SessionCommand::Metrics { one, all: false } => {
            let session = one.find(root)?;
            let metrics = Metrics::of(&session);
            match one.json.json {
                true => print_json(&json!(metrics)),
                false => print_text(&view::session::figures::text(&session, &metrics)),
            }
        }
        SessionCommand::Watch(one) => {
            let session = one.find(root)?;
            view::session::watch::watch(root, &session.sid, one.json.json).map(|()| 0)
        }
        SessionCommand::Export(args) => export::export(root, &args),
    }
}

fn list(root: &Root, item: Option<std::ffi::OsString>, limit: usize, json: bool) -> Result<u8> {
    let sids = find::all(root)?;
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (mut listed, mut more) = (Vec::new(), 0);
    match item.map(|item| shown(&item)) {
        None => {
            more = sids.len().saturating_sub(limit);
            listed.extend(sids.iter().take(limit).map(|sid| Session::read(root, sid)));
        }
        Some(item) => {
            for sid in &sids {
                let session = Session::read(root, sid);
                if session.file.item != item {
                    continue;
                }
                if listed.len() < limit {
                    listed.push(session);
                } else {
                    more += 1;
                }
            }
        }
    }
    if json {
        print_json(&listed.iter().map(view::session::as_json).collect())?;
    } else if !listed.is_empty() {
        let short = find::short_chars(&sids);
        print_text(&view::session::list::table(
            &listed,
            short,
            &Term::of_stdout(),
        ))?;
    }
    if listed.is_empty() {
        tell("harness: no sessions");
    } else if more > 0 {
        tell(&format!("harness: {more} older; `--limit 0` shows all"));
    }
    Ok(0)
}

fn events(session: &Session, json: bool, raw: bool) -> Result<u8> {
    if !session.has_events() {
        view::session::tell_no_events(session);
        return Ok(0);
    }
    let mut odd = 0;
    view::session::print(|out| {
        odd = if raw {
            view::session::events::write_raw(session, std::io::stdout().is_terminal(), out)?
        } else {
            view::session::events::write(session, json, &Term::of_stdout(), out)?
        };
        Ok(())
    })?;
    match (odd, raw) {
        (0, _) => {}
        (n, true) => tell(&format!(
            "harness: {} of stdout.log could not be read",
            count_of(n, "line")
        )),
        // People see them where they stand.
        (n, false) if json => tell(&format!(
            "harness: {} of events.jsonl left out: no JSON objects",
            count_of(n, "line")
        )),
        _ => {}
    }
    Ok(0)
}

/// Every event, for a fold.
fn each_event(session: &Session, mut each: impl FnMut(&crate::event::Line)) {
    session.each(|got| {
        if let Got::Event(line, _) = got {
            each(line);
        }
    });
}

fn tools(session: &Session, json: bool) -> Result<u8> {
    let mut tools = Tools::default();
    each_event(session, |line| {
        tools.fold(line);
    });
    if json {
        return print_json(&json!({
            "session": session.sid, "tools": tools.tools,
            "calls": tools.calls.rows, "left_out": tools.calls.left_out,
        }));
    }
    if !session.has_events() {
        view::session::tell_no_events(session);
    } else if tools.tools.is_empty() {
        tell("harness: it called no tools");
    } else {
        print_text(&view::session::tools::text(&tools, &Term::of_stdout()))?;
    }
    Ok(0)
}

fn errors(session: &Session, json: bool) -> Result<u8> {
    let mut troubles = Troubles::default();
    session.each(|got| troubles.fold(got));
    let stderr = read::tail(&session.path("stderr.log"), read::TAIL_BYTES);
    if json {
        let f = &session.file;
        return print_json(&json!({
            "session": session.sid, "outcome": f.outcome, "reason": f.reason, "fault": f.fault,
            "troubles": troubles.found.rows, "left_out": troubles.found.left_out,
            "stderr_tail": stderr,
        }));
    }
    let term = Term::of_stdout();
    print_text(&view::session::errors::text(
        session, &troubles, &stderr, &term,
    ))
}

fn timeline(session: &Session, json: bool) -> Result<u8> {
    let mut line = Timeline::since(&session.file.started_at);
    each_event(session, |event| line.fold(event));
    if json {
        return print_json(&json!({
            "session": session.sid, "began": line.began, "seconds": line.seconds,
            "tool_seconds": line.tool_seconds, "tool_calls": line.calls(), "turns": line.turns,
            "rows": line.rows.rows, "left_out": line.rows.left_out,
        }));
    }
    if !session.has_events() {
        view::session::tell_no_events(session);
        return Ok(0);
    }
    print_text(&view::session::timeline::text(&line, &Term::of_stdout()))
}

fn all_metrics(root: &Root, json: bool) -> Result<u8> {
    let mut sums = Sums::default();
    for sid in find::all(root)? {
        let session = Session::read(root, &sid);
        sums.add(&Metrics::of(&session), session.state);
    }
    match json {
        true => print_json(&json!(sums)),
        false => print_text(&view::session::figures::totals(&sums, &Term::of_stdout())),
    }
}
