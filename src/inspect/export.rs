//! `harness session export`: a whole session as one JSON object or as a Markdown transcript.
//!
//! Invariants: output is written while events are read, so that memory does not grow with the
//! session; the figures follow the events they are computed from; a file appears complete or not at
//! all, and never replaces another.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use schemars::JsonSchema;
use serde_json::{Value, json};

use super::reader::Entry;
use super::{Session, tail, transcript};
use crate::atomic::{self, Moved};
use crate::error::{Context, Error, Result};
use crate::event::{Figures, Line};
use crate::keeper::ExitRecord;
use crate::session::file::SessionFile;
use crate::text::safe_json;
use crate::view::print;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Json,
    Md,
}

/// To standard output if there is no path or it is `-`.
pub(crate) fn export(session: &Session, format: Format, path: Option<&Path>) -> Result<u8> {
    match path.filter(|path| *path != Path::new("-")) {
        None => print(|out| write(session, format, out))?,
        Some(path) => to_file(session, format, path)?,
    }
    Ok(0)
}

fn write(session: &Session, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Json => json(session, out),
        Format::Md => transcript::write(session, out),
    }
}

fn to_file(session: &Session, format: Format, path: &Path) -> Result<()> {
    let taken = || {
        Error::permanent("cannot export the session", "the file exists")
            .at_path(path)
            .hint("name another file, or remove this one first")
    };
    if atomic::exists(path) {
        return Err(taken());
    }
    let temp = atomic::temp_beside(path);
    let what = "cannot write the file";
    let file = atomic::create(&temp, b"", 0o600).map_err(|e| match e.errno() {
        // The error must name the requested file, not the temporary one.
        Some(code) => Error::io(what, path, &io::Error::from_raw_os_error(code)),
        None => e,
    })?;
    let placed = (|| {
        let mut out = BufWriter::new(file);
        write(session, format, &mut out)
            .and_then(|()| out.flush())
            .or_fail(what, path)?;
        match atomic::rename_new(&temp, path)? {
            Moved::Done => Ok(()),
            Moved::Taken => Err(taken()),
            Moved::SourceGone => Err(Error::permanent(what, "somebody removed it").at_path(&temp)),
        }
    })();
    if placed.is_err() {
        let _gone = atomic::remove(&temp);
    }
    placed
}

/// A whole session. Its parts are written as they are read: this says what they are.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct Exported {
    session: SessionFile,
    /// How its agent process ended, if it did.
    exit: Option<ExitRecord>,
    /// What it was told.
    prompt: Option<String>,
    /// What its CLI said.
    events: Vec<Line>,
    /// Lines of `events.jsonl` that are no JSON objects.
    unreadable_lines: u64,
    /// What it used.
    figures: Figures,
    /// The end of its standard output, where it has no events.
    stdout_tail: Option<String>,
    /// The end of its standard error.
    stderr_tail: String,
}

fn json(session: &Session, out: &mut dyn Write) -> io::Result<()> {
    let text = |value: &Value| safe_json(&value.to_string());
    writeln!(out, "{{\"session\":{},", text(&json!(session.told())))?;
    writeln!(out, "\"exit\":{},", text(&json!(session.exit)))?;
    writeln!(
        out,
        "\"prompt\":{},",
        text(&json!(transcript::prompt(session)))
    )?;
    writeln!(out, "\"events\":[")?;
    let (mut figures, mut unreadable, mut comma) = (Figures::default(), 0_u64, "");
    for entry in session.entries() {
        let line = match &entry {
            Entry::Event(event, line) => {
                figures.fold(&event.body);
                line
            }
            Entry::Unknown(_, line) => line,
            Entry::Bad(_) => {
                unreadable += 1;
                continue;
            }
        };
        write!(out, "{comma}{}", safe_json(line.trim()))?;
        comma = ",\n";
    }
    writeln!(out, "],\n\"unreadable_lines\":{unreadable},")?;
    writeln!(out, "\"figures\":{},", text(&json!(figures)))?;
    let tail = |name: &str| json!(tail(&session.path(name)));
    let stdout = match session.has_events() {
        true => Value::Null,
        false => tail("stdout.log"),
    };
    writeln!(out, "\"stdout_tail\":{},", text(&stdout))?;
    writeln!(out, "\"stderr_tail\":{}}}", text(&tail("stderr.log")))
}
