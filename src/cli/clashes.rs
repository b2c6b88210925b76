//! `harness review --conflicts`: which branches that wait conflict with their base, and with each other.

use schemars::JsonSchema;
use serde::Serialize;

use super::branches::{Branch, looked_at};
use super::waiting::{Desk, Waiting};
use crate::error::{Result, tell};
use crate::layout::{Name, Root};
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, count_of, print_json, print_text};

/// Pairs that are tried: 64 branches with each other. Some milliseconds each.
const PAIRS_MAX: usize = 64 * 63 / 2;

/// Two branches, with their conflicts; `None`: it could not be told.
struct Pair<'w> {
    one: (&'w Name, &'w Branch),
    other: (&'w Name, &'w Branch),
    files: Option<Vec<String>>,
}

pub(super) fn show(root: &Root, desk: &Desk<'_>, all: &[Waiting], json: bool) -> Result<u8> {
    let there: Vec<(&Name, &Branch)> = all
        .iter()
        .filter_map(|w| Some((&w.name, w.branch.as_ref()?)))
        .filter(|(_, b)| b.now.tip.is_some() && b.now.is_merged != Some(true))
        .collect();
    let (pairs, left_out) = pairs(root, desk, &there)?;
    if json {
        return print_json(&told(&there, &pairs, left_out));
    }
    let (table, rows, unknown) = table(&there, &pairs);
    if rows > 0 {
        print_text(&table.render(&Term::of_stdout()))?;
    }
    let waits = match there.len() as u64 {
        1 => "1 branch waits".to_owned(),
        n => format!("{} wait", count_of(n, "branch")),
    };
    let mut said = match rows {
        0 => format!("{waits}: no conflicts with a base or with each other"),
        n => format!("{waits}: {}", count_of(n, "conflict")),
    };
    if unknown > 0 {
        said += &format!("; {unknown} could not be told (git before 2.39?)");
    }
    if left_out > 0 {
        said += &format!("; {} not tried: too many", count_of(left_out, "pair"));
    }
    tell(&format!("harness: {said}"));
    Ok(0)
}

/// All pairs that are to be merged into the same branch, and how many were left out.
fn pairs<'w>(
    root: &Root,
    desk: &Desk<'_>,
    there: &[(&'w Name, &'w Branch)],
) -> Result<(Vec<Pair<'w>>, u64)> {
    let meet = |a: &Branch, b: &Branch| a.now.repo == b.now.repo && a.base == b.base;
    let mut pairs = Vec::new();
    let mut left_out = 0;
    for (n, one) in there.iter().enumerate() {
        for other in there[n + 1..].iter().filter(|o| meet(one.1, o.1)) {
            if pairs.len() == PAIRS_MAX {
                left_out += 1;
                continue;
            }
            let (one, other) = (*one, *other);
            let files = None;
            pairs.push(Pair { one, other, files });
        }
    }
    for (name, path) in desk.repos.paths() {
        let is_here = |pair: &&mut Pair<'_>| pair.one.1.now.repo.as_deref() == Some(name);
        let mut here: Vec<&mut Pair<'_>> = pairs.iter_mut().filter(is_here).collect();
        let tip = |branch: &Branch| branch.now.tip.clone().unwrap_or_default();
        let tips: Vec<(String, String)> = here
            .iter()
            .map(|pair| (tip(pair.one.1), tip(pair.other.1)))
            .collect();
        let merges = looked_at(root, name, path).merges(&tips)?;
        for (pair, merge) in here.iter_mut().zip(merges) {
            pair.files = merge.map(|merge| merge.conflicts);
        }
    }
    Ok((pairs, left_out))
}

/// The rows, how many there are, and how many more cannot be told.
fn table(there: &[(&Name, &Branch)], pairs: &[Pair<'_>]) -> (Table, u64, u64) {
    let bases = there.iter().map(|(name, branch)| {
        let base = branch.base.clone().unwrap_or_else(|| "?".into());
        (name.shown(), base, &branch.now.conflicts)
    });
    let others = pairs
        .iter()
        .map(|pair| (pair.one.0.shown(), pair.other.0.shown(), &pair.files));
    let mut table = Table::new(&["~ITEM", "~CONFLICTS WITH", "FILES"]);
    let (mut rows, mut unknown) = (0, 0);
    for (item, with, files) in bases.chain(others) {
        match files {
            None => unknown += 1,
            Some(files) if files.is_empty() => {}
            Some(files) => {
                rows += 1;
                table.row(vec![
                    Cell::new(item),
                    Cell::new(with),
                    Cell::painted(files.join(", "), Paint::Red),
                ]);
            }
        }
    }
    (table, rows, unknown)
}

/// Which branches that wait conflict with their base, and with each other. `conflicts`: paths; `None`: it
/// cannot be told.
#[derive(Serialize, JsonSchema)]
pub(super) struct Clashes {
    /// Each branch with what it is to be merged into.
    with_base: Vec<WithBase>,
    /// Pairs without conflicts are left out.
    with_each_other: Vec<WithEachOther>,
    /// How many.
    pairs_tried: usize,
    /// Pairs that were not tried: there are too many.
    pairs_left_out: u64,
}

#[derive(Serialize, JsonSchema)]
struct WithBase {
    item: String,
    branch: String,
    /// What it is to be merged into.
    base: Option<String>,
    /// The paths; `None`: it cannot be told.
    conflicts: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
struct WithEachOther {
    /// Both names.
    items: [String; 2],
    /// Both branches.
    branches: [String; 2],
    /// The paths; `None`: it cannot be told.
    conflicts: Option<Vec<String>>,
}

fn told(there: &[(&Name, &Branch)], pairs: &[Pair<'_>], left_out: u64) -> Clashes {
    let base = |(name, branch): &(&Name, &Branch)| WithBase {
        item: name.shown(),
        branch: branch.name.clone(),
        base: branch.base.clone(),
        conflicts: branch.now.conflicts.clone(),
    };
    let conflicts = |pair: &&Pair<'_>| pair.files.as_ref().is_none_or(|files| !files.is_empty());
    let pair = |pair: &Pair<'_>| WithEachOther {
        items: [pair.one.0.shown(), pair.other.0.shown()],
        branches: [pair.one.1.name.clone(), pair.other.1.name.clone()],
        conflicts: pair.files.clone(),
    };
    Clashes {
        with_base: there.iter().map(base).collect(),
        with_each_other: pairs.iter().filter(conflicts).map(pair).collect(),
        pairs_tried: pairs.len(),
        pairs_left_out: left_out,
    }
}
