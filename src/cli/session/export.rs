//! `harness session export`: where a whole session goes.
//!
//! Invariant: a file appears under its name whole or not at all, and never over another.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::atomic::{self, Moved};
use crate::error::{Context, Error, Result};
use crate::layout::Root;
use crate::session::read::{Session, find};
use crate::view;

#[derive(Args)]
pub struct ExportArgs {
    /// The session's id, or a beginning or end of it that is no other's [default: the newest]
    sid: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// The same as `--format json`
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// A file that must not exist yet [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Md,
}

pub fn export(root: &Root, args: &ExportArgs) -> Result<u8> {
    let session = find::find(root, args.sid.as_deref())?;
    let format = if args.json { Format::Json } else { args.format };
    match args.output.as_deref() {
        None => view::session::print(|out| write(&session, format, out))?,
        Some(path) if path == Path::new("-") => {
            view::session::print(|out| write(&session, format, out))?;
        }
        Some(path) => to_file(&session, format, path)?,
    }
    Ok(0)
}

fn write(session: &Session, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Json => view::session::export::json(session, out),
        Format::Md => view::session::transcript::write(session, out),
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
        // The temporary file is none of the user's business.
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
