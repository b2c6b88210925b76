//! `harness report`: one page about what agents did, to standard output or into a file.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::atomic;
use crate::error::{Context, Error, Result, tell};
use crate::layout::Root;
use crate::report;
use crate::text;
use crate::view::print_text;

#[derive(Args)]
pub(super) struct ReportArgs {
    /// The file to write; an older one is replaced [default: standard output, if that is no terminal]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn report(root: &Root, args: &ReportArgs) -> Result<u8> {
    let what = "cannot write the report";
    match args.output.as_deref() {
        Some(path) if path != Path::new("-") => {
            let path = place(path)?;
            let page = report::page(root)?;
            // A new one is its user's alone, as what it tells of is; an older one keeps its mode.
            match atomic::exists(&path) {
                true => atomic::rewrite(&path, page.as_bytes())?,
                false => atomic::replace(&path, page.as_bytes(), true)?,
            }
            let size = text::bytes(page.len() as u64);
            tell(&format!(
                "harness: the report is in {} ({size}): open it in a browser",
                path.display()
            ));
            Ok(0)
        }
        None if std::io::stdout().is_terminal() => {
            let why = "it is a page for a browser, and standard output is a terminal";
            Err(Error::usage(what, why).hint("harness report -o report.html"))
        }
        _ => print_text(&report::page(root)?),
    }
}

/// Where the page goes: never over a device, a fifo or a folder.
fn place(path: &Path) -> Result<PathBuf> {
    let what = "cannot write the report";
    match path.metadata() {
        Ok(meta) if meta.is_file() => path.canonicalize().or_fail(what, path),
        Ok(_) => {
            let why = "there is something that is no file";
            let hint = "name another file, or redirect standard output: harness report >FILE";
            Err(Error::usage(what, why).at_path(path).hint(hint))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(e) => Err(e).or_fail(what, path),
    }
}
