//! `harness review`: what waits for a person's approval, and what it changes.

use std::ffi::OsString;

use schemars::JsonSchema;
use serde::Serialize;

use super::branches::looked_at;
use super::find::{self, At};
use super::waiting::{Desk, Waiting, WaitingTold};
use super::{clashes, comments, verdicts};
use crate::clock;
use crate::error::{Error, Result, tell};
use crate::git::Look;
use crate::layout::{Name, Place, Root};
use crate::quote;
use crate::view::story::gate_words;
use crate::view::table::{Cell, Table};
use crate::view::{Term, ago, count_of, line, print_json, print_text, safe};

#[derive(clap::Args)]
pub(super) struct ReviewArgs {
    /// Show this item's gates and changes
    #[arg(conflicts_with = "jsonl")]
    name: Option<OsString>,
    /// Write comments into the changes, in $VISUAL or $EDITOR: they go to the next attempt
    #[arg(long, requires = "name", conflicts_with = "json")]
    edit: bool,
    /// Which of them conflict with their base, and with each other
    #[arg(long, conflicts_with_all = ["name", "edit", "jsonl"])]
    conflicts: bool,
    #[command(flatten)]
    lines: super::Lines,
}

pub(super) fn review(root: &Root, args: &ReviewArgs) -> Result<u8> {
    let desk = Desk::new(root)?;
    if let Some(typed) = &args.name {
        return one(root, &desk, find::name(typed)?, args);
    }
    let (all, trouble) = desk.all()?;
    let mut code = 0;
    for e in &trouble {
        tell(&format!("harness: {e}"));
        code = if code == 0 { e.exit_code() } else { code };
    }
    if args.conflicts {
        clashes::show(root, &desk, &all, args.lines.json.json)?;
    } else if args.lines.print(all.iter().map(Waiting::told))? {
        // For programs.
    } else if all.is_empty() {
        tell("harness: nothing waits for review or to be merged");
    } else {
        print_text(&table(&all).render(&Term::of_stdout()))?;
    }
    Ok(code)
}

fn table(all: &[Waiting]) -> Table {
    let mut table = Table::new(&[
        "~ITEM",
        "STATE",
        "~BRANCH",
        "?>COMMITS",
        "?>FILES",
        ">LINES",
        "GATES",
        "MERGE",
        ">AGE",
        "WHY",
    ]);
    let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
    for waiting in all {
        let mut row = vec![
            Cell::new(waiting.name.shown()),
            Cell::new(waiting.place.dir()),
        ];
        match &waiting.branch {
            Some(branch) => {
                let (word, paint) = branch.merging();
                row.extend([
                    Cell::new(&branch.name),
                    Cell::new(number(branch.now.commits)),
                    Cell::new(number(branch.now.changes.map(|c| c.files))),
                    Cell::new(branch.lines_changed()),
                    Cell::new(waiting.verdicts()),
                    Cell::painted(word, paint),
                ]);
            }
            None => row.extend(["?", "", "", "", "", ""].map(Cell::new)),
        }
        let age = waiting.since().and_then(|at| ago(at, clock::now()));
        row.push(Cell::new(age.unwrap_or_default()));
        row.push(Cell::new(waiting.why()));
        table.row(row);
    }
    table
}

/// One item: its gates, then what its branch changes.
fn one(root: &Root, desk: &Desk<'_>, name: Name, args: &ReviewArgs) -> Result<u8> {
    let place = place_of(root, &name)?;
    let mut all = [Waiting::of(root, place, name)?];
    let trouble = desk.look(&mut all);
    let [waiting] = &all;
    let what = "cannot show the changes";
    let Some(branch) = &waiting.branch else {
        return Err(verdicts::no_branch(what, &waiting.name));
    };
    let now = &branch.now;
    let path = desk
        .repos
        .paths()
        .find(|(n, _)| now.repo.as_deref() == Some(n));
    let Some((repo, path)) = path else {
        let unread = Error::permanent(
            what,
            format!("the repository of {} cannot be read", branch.name),
        );
        return Err(trouble.into_iter().next().unwrap_or(unread));
    };
    let Some(tip) = &now.tip else {
        return Err(verdicts::deleted(what, root, waiting, path));
    };
    let Some(from) = &now.from else {
        let why = format!("where {} left its base is not known", branch.name);
        return Err(trouble
            .into_iter()
            .next()
            .unwrap_or_else(|| Error::permanent(what, why))
            .hint(format!("`git log -p {}` shows its commits", branch.name)));
    };
    let look = looked_at(root, repo, path);
    match (args.edit, args.lines.json.json) {
        (true, _) => comments::edit(root, &look, waiting, (from, tip)),
        (false, true) => with_diff(&look, waiting, (from, tip)),
        (false, false) => look.page(&head(waiting), from, tip).map(|()| 0),
    }
}

/// Where it waits, or an error that says where it is.
fn place_of(root: &Root, name: &Name) -> Result<Place> {
    let all = find::places(root, name);
    let place = all.iter().find_map(|found| match found.place {
        At::Review => Some(Place::Review),
        At::Merge => Some(Place::Merge),
        _ => None,
    });
    place.ok_or_else(|| verdicts::elsewhere("nothing to review", root, name, all.first()))
}

/// The same of one item, with its changes.
#[derive(Serialize, JsonSchema)]
pub(super) struct Changed {
    #[serde(flatten)]
    waiting: WaitingTold,
    /// What it changes since it left its base.
    diff: String,
    /// It is too long: this is its beginning.
    diff_is_cut: bool,
}

fn with_diff(look: &Look<'_>, waiting: &Waiting, (from, tip): (&str, &str)) -> Result<u8> {
    let diff = look.diff(from, tip)?;
    print_json(&Changed {
        waiting: waiting.told(),
        diff: String::from_utf8_lossy(&diff.stdout).into_owned(),
        diff_is_cut: diff.truncated,
    })
}

/// What stands before the changes.
fn head(waiting: &Waiting) -> String {
    let (harness, arg) = (quote::harness(), quote::item(&waiting.name));
    let mut text = format!(
        "{}: {}\n",
        safe(&waiting.name.shown()),
        match waiting.place {
            Place::Merge => "its branch waits to be merged",
            _ => "its branch waits for your approval",
        }
    );
    if let Some(branch) = &waiting.branch {
        let now = &branch.now;
        let commits = now
            .commits
            .map_or_else(|| "?".into(), |n| count_of(n, "commit"));
        let files = now
            .changes
            .map_or_else(|| "?".into(), |c| count_of(c.files, "file"));
        text += &format!(
            "  branch: {} ({commits}, {files}, {}), for {}: {}\n",
            safe(&branch.name),
            branch.lines_changed(),
            line(branch.base.as_deref().unwrap_or("?")),
            branch.merging().0,
        );
    }
    let why = waiting.why();
    if !why.is_empty() {
        text += &format!("  look again: {}\n", line(&why));
    }
    for ran in &waiting.gates {
        text += &format!("  {}\n", gate_words(ran));
    }
    let approve = match waiting.place {
        Place::Merge => String::new(),
        _ => format!("`{harness} approve {arg}` has it merged, "),
    };
    text += &format!(
        "  {approve}`{harness} reject {arg} --comment TEXT` or `{harness} review --edit {arg}` has it try again\n\n"
    );
    text
}
