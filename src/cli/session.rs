//! `harness session …`: resolves the session and shows a view of it (`inspect`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Json, Lines};
use crate::error::Result;
use crate::inspect::export::{self, Format};
use crate::inspect::{
    Session, errors, events, find, list, metrics, summary, timeline, tools, watch,
};
use crate::layout::Root;
use crate::view::{print_json, print_text};

#[derive(Subcommand)]
pub(super) enum SessionCommand {
    /// Sessions, newest first
    List {
        /// Only those of this item
        #[arg(long, value_name = "NAME")]
        item: Option<OsString>,
        /// At most so many; 0 for all
        #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        lines: Lines,
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
        /// The lines of stdout.log that the events come from, each once, as the agent wrote them
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Tools that it called: how often, how long, with what result
    Tools(One),
    /// Errors, retries, limits, denials, failed tools, and the end of its standard error
    Errors(One),
    /// What happened when and how long it took (times are up to 250 ms late)
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
    Export {
        #[command(flatten)]
        one: One,
        #[arg(long, value_enum, default_value_t = Format::Json, conflicts_with = "json")]
        format: Format,
        /// A file that must not exist yet [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Args)]
pub(super) struct One {
    /// The session's id, or a unique prefix or suffix of it; or an item or a slot: its newest
    /// [default: the newest session]
    sid: Option<String>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn session(root: &Root, command: SessionCommand) -> Result<u8> {
    let view = |one: One, show: fn(&Session, bool) -> Result<u8>| {
        show(&find::find(root, one.sid.as_deref())?, one.json.json)
    };
    match command {
        SessionCommand::List { item, limit, lines } => {
            list::show(root, item.as_deref(), limit, |all| lines.print(all))
        }
        SessionCommand::Latest { json } => {
            let session = find::find(root, None)?;
            match json.json {
                true => print_json(&session.told()),
                false => print_text(&(session.sid + "\n")),
            }
        }
        SessionCommand::Summary(one) => view(one, summary::show),
        SessionCommand::Events { one, raw } => {
            let session = find::find(root, one.sid.as_deref())?;
            events::show(&session, one.json.json, raw)
        }
        SessionCommand::Tools(one) => view(one, tools::show),
        SessionCommand::Errors(one) => view(one, errors::show),
        SessionCommand::Timeline(one) => view(one, timeline::show),
        SessionCommand::Metrics { one, all: true } => metrics::show_all(root, one.json.json),
        SessionCommand::Metrics { one, all: false } => view(one, metrics::show),
        SessionCommand::Watch(one) => {
            let session = find::find(root, one.sid.as_deref())?;
            watch::watch(root, &session.sid, one.json.json)
        }
        SessionCommand::Export {
            one,
            format,
            output,
        } => {
            let session = find::find(root, one.sid.as_deref())?;
            export::export(&session, format, output.as_deref())
        }
    }
}
