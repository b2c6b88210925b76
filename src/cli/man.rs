//! `harness man`: manual pages, from the definitions of the commands.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{help, pager};
use crate::atomic;
use crate::error::{Context, Result, tell};
use crate::view::count_of;

#[derive(clap::Args)]
pub(super) struct ManArgs {
    /// A command, like add or session watch [default: harness itself]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the pages of all commands into this folder: harness.1, harness-add.1 …
    #[arg(long, short, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

pub(super) fn man(args: &ManArgs) -> Result<u8> {
    let mut top = super::Cli::command();
    top.build();
    let Some(dir) = &args.output else {
        let Some(command) = help::find(&top, &args.command) else {
            return Err(help::unknown("no such manual page", &args.command, false));
        };
        return pager::through("man -l -", &page(&Man::new(command.clone()))?);
    };
    atomic::make_dir(dir, false)?;
    let count = write_all(&top, dir)?;
    let pages = count_of(count, "page");
    tell(&format!("harness: {pages} in {}", dir.display()));
    Ok(0)
}

/// Writes the page of a command, and those of its own commands; how many.
fn write_all(command: &Command, dir: &Path) -> Result<u64> {
    let man = Man::new(command.clone());
    atomic::rewrite(&dir.join(man.get_filename()), page(&man)?.as_bytes())?;
    let below = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    below
        .map(|sub| write_all(sub, dir))
        .try_fold(1, |sum, count| Ok(sum + count?))
}

fn page(man: &Man) -> Result<String> {
    let mut text = Vec::new();
    let what = "cannot make the page";
    let path = man.get_filename();
    man.render(&mut text).or_fail(what, Path::new(&path))?;
    let text = String::from_utf8(text).map_err(io::Error::other);
    let text = text.or_fail(what, Path::new(&path))?;
    // `clap_mangen` leaves out a date that is empty, and then the version stands in its place.
    let title = path.trim_end_matches(".1").to_uppercase();
    let version = env!("CARGO_PKG_VERSION");
    let title = format!(".TH {title} 1 \"\" \"harness {version}\" \"harness manual\"");
    let line = |line| {
        if str::starts_with(line, ".TH ") {
            title.as_str()
        } else {
            line
        }
    };
    Ok(text
        .lines()
        .map(line)
        .flat_map(|line| [line, "\n"])
        .collect())
}
