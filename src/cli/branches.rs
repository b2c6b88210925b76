//! `harness branches`: the finished branches of items, as they are in the user's repositories now.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::clock;
use crate::config::{Config, Overrides};
use crate::error::{Context, Error, Result, tell};
use crate::git::{Changes, Look, Repos};
use crate::layout::{Name, Root};
use crate::record::{self, Event, Line, Started};
use crate::session::file;
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, ago, count_of, print_text};

#[derive(clap::Args)]
pub(super) struct BranchesArgs {
    /// Also those that are no longer there
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    lines: super::Lines,
}

/// A branch that an attempt left in the user's repository.
pub(super) struct Branch {
    pub(super) item: Name,
    pub(super) session: String,
    attempt: Option<u32>,
    pub(super) name: String,
    /// Its commit when it was published.
    pub(super) head: String,
    commits: Option<u64>,
    /// What it is compared with.
    pub(super) base: Option<String>,
    base_oid: Option<String>,
    pub(super) published_at: String,
    pub(super) now: Now,
}

/// How it is now.
#[derive(Default)]
pub(super) struct Now {
    /// `None`: it cannot be told, as its repository cannot be read.
    pub(super) repo: Option<String>,
    /// `None`: it is not there.
    pub(super) tip: Option<String>,
    /// The commit since which it has changes of its own.
    pub(super) from: Option<String>,
    pub(super) commits: Option<u64>,
    pub(super) changes: Option<Changes>,
    pub(super) is_merged: Option<bool>,
    pub(super) conflicts: Option<Vec<String>>,
    is_base_gone: bool,
}

pub(super) fn branches(root: &Root, args: &BranchesArgs) -> Result<u8> {
    let config = Config::load(root, &Overrides::default())?;
    let repos = Repos::new(root, &config)?;
    let mut branches = published(root)?;
    branches.sort_by(|a, b| b.published_at.cmp(&a.published_at));
    let mut code = 0;
    let trouble = look(root, &repos, &mut branches);
    for e in &trouble {
        tell(&format!("harness: {e}"));
        code = if code == 0 { e.exit_code() } else { code };
    }
    let is_gone = |b: &Branch| b.now.repo.is_some() && b.now.tip.is_none();
    let gone = branches.iter().filter(|b| is_gone(b)).count();
    branches.retain(|b| args.all || !is_gone(b));
    if !args.lines.print(branches.iter().map(BranchTold::of))? && !branches.is_empty() {
        print_text(&table(&branches).render(&Term::of_stdout()))?;
    }
    if gone > 0 && !args.all {
        let (are, shows) = if gone == 1 {
            ("is", "it")
        } else {
            ("are", "them")
        };
        tell(&format!(
            "harness: {} more {are} no longer in your repository (merged and removed, or deleted); `--all` shows {shows}",
            gone
        ));
    } else if branches.is_empty() && trouble.is_empty() {
        tell(match repos.names().is_empty() {
            true => "harness: no branches: no repository is configured ([repo] in harness.toml)",
            false => "harness: no branches yet: an item that ends with commits leaves one",
        });
    }
    Ok(code)
}

/// All that records tell of; of two of the same name, the newer one.
fn published(root: &Root) -> Result<Vec<Branch>> {
    let dir = root.items();
    let mut all: HashMap<String, Branch> = HashMap::new();
    for entry in std::fs::read_dir(&dir).or_fail("cannot list the records", &dir)? {
        let file = entry.or_fail("cannot list the records", &dir)?.file_name();
        let Some(name) = Path::new(&file).file_stem() else {
            continue;
        };
        let name = Name::new(name);
        let lines = match record::lines(root, &name) {
            Ok(lines) => lines,
            Err(e) => {
                tell(&format!("harness: {e}"));
                continue;
            }
        };
        for branch in of_item(&name, &lines) {
            let older = all.get(&branch.name);
            if older.is_none_or(|older| older.published_at < branch.published_at) {
                all.insert(branch.name.clone(), branch);
            }
        }
    }
    Ok(all.into_values().collect())
}

pub(super) fn of_item(item: &Name, lines: &[Line]) -> Vec<Branch> {
    let mut starts: HashMap<&str, &Started> = HashMap::new();
    let mut found = Vec::new();
    for line in lines {
        match &line.event {
            Event::Started(started) => drop(starts.insert(&started.session, started)),
            Event::Finished(finished) => {
                let (Some(name), Some(head)) = (&finished.published, &finished.end.head) else {
                    continue;
                };
                let started = starts.get(finished.session.as_str());
                found.push(Branch {
                    item: item.clone(),
                    session: finished.session.clone(),
                    attempt: finished.attempt,
                    name: name.clone(),
                    head: head.clone(),
                    commits: finished.end.commits,
                    base: started.and_then(|s| s.base.clone()),
                    base_oid: started.and_then(|s| s.base_oid.clone()),
                    published_at: line.at.clone(),
                    now: Now::default(),
                });
            }
            _ => {}
        }
    }
    found
}

/// Looks for all of them, one repository after the other. Returns what could not be looked at.
fn look(root: &Root, repos: &Repos, branches: &mut [Branch]) -> Vec<Error> {
    let mut trouble = find_tips(root, repos, branches.iter_mut());
    trouble.extend(measure_all(root, repos, branches.iter_mut()));
    trouble
}

/// What each changes, and what merging it would be.
pub(super) fn measure_all<'b>(
    root: &Root,
    repos: &Repos,
    branches: impl Iterator<Item = &'b mut Branch>,
) -> Vec<Error> {
    let mut trouble = Vec::new();
    let mut branches: Vec<&mut Branch> = branches.collect();
    for (name, path) in repos.paths() {
        let is_here = |b: &Branch| b.now.repo.as_deref() == Some(name) && b.now.tip.is_some();
        let here = branches.iter_mut().map(|b| &mut **b);
        let mut here: Vec<&mut Branch> = here.filter(|b| is_here(b)).collect();
        if let Err(e) = measure(&looked_at(root, name, path), &mut here) {
            trouble.push(e);
        }
    }
    trouble
}

/// Where each is now.
pub(super) fn find_tips<'b>(
    root: &Root,
    repos: &Repos,
    branches: impl Iterator<Item = &'b mut Branch>,
) -> Vec<Error> {
    let mut trouble = Vec::new();
    let mut tips: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let paths: BTreeMap<&str, &Path> = repos.paths().collect();
    for (name, path) in &paths {
        match looked_at(root, name, path).tips() {
            Ok(found) => drop(tips.insert(name, found)),
            Err(e) => trouble.push(e),
        }
    }
    for branch in branches {
        branch.now.repo = repo_of(root, branch, &paths, &tips);
        let tips = branch
            .now
            .repo
            .as_ref()
            .and_then(|repo| tips.get(repo.as_str()));
        branch.now.tip = tips.and_then(|tips| tips.get(&branch.name)).cloned();
    }
    trouble
}

pub(super) fn looked_at<'a>(root: &Root, name: &str, path: &'a Path) -> Look<'a> {
    let tried = root.tried_merges(name);
    Look { path, tried }
}

/// The repository of a branch: one where it is as it was published; one that has its name; else that
/// of its session. `None`: it is not known, or cannot be read.
fn repo_of(
    root: &Root,
    branch: &Branch,
    paths: &BTreeMap<&str, &Path>,
    tips: &BTreeMap<&str, BTreeMap<String, String>>,
) -> Option<String> {
    let has = |wanted: &dyn Fn(&String) -> bool| {
        let mut all = tips.iter();
        let found = all.find(|(_, tips)| tips.get(&branch.name).is_some_and(wanted));
        found.map(|(name, _)| (*name).to_owned())
    };
    let of_session = || {
        let session = file::read(&root.session(&branch.session), &branch.session);
        let repo = session
            .and_then(|s| s.repo)
            .filter(|r| tips.contains_key(r.as_str()));
        let only = (paths.len() == 1 && tips.len() == 1).then(|| tips.keys().next());
        repo.or_else(|| only.flatten().map(|name| (*name).to_owned()))
    };
    has(&|tip| *tip == branch.head)
        .or_else(|| has(&|_| true))
        .or_else(of_session)
}

/// Finds out what they change, and whether their bases have it or could take it.
fn measure(look: &Look<'_>, branches: &mut [&mut Branch]) -> Result<()> {
    let mut bases: BTreeMap<String, Option<(String, String, HashSet<String>)>> = BTreeMap::new();
    for base in branches.iter().filter_map(|b| b.base.clone()) {
        if bases.contains_key(&base) {
            continue;
        }
        let now = match look.commit(&base)? {
            Some((commit, tree)) => {
                let merged = look.merged_into(&commit)?;
                Some((commit, tree, merged))
            }
            None => None,
        };
        bases.insert(base, now);
    }
    let of = |b: &Branch| b.base.as_ref().and_then(|base| bases.get(base)?.as_ref());
    let (mut diffs, mut merges) = (Vec::new(), Vec::new());
    for (at, branch) in branches.iter_mut().enumerate() {
        let Some(tip) = branch.now.tip.clone() else {
            continue;
        };
        let mut from = branch.base_oid.clone();
        branch.now.commits = branch.commits;
        if tip != branch.head {
            (from, branch.now.commits) = (None, None);
            if let Some((base, ..)) = of(branch) {
                let since = look.since(base, &tip)?;
                branch.now.commits = since.as_ref().map(|(_, commits)| *commits);
                from = since.map(|(base, _)| base);
            }
        }
        branch.now.from.clone_from(&from);
        if let Some(from) = from {
            diffs.push((at, (from, tip.clone())));
        }
        match of(branch) {
            Some((_, _, merged)) if merged.contains(&branch.name) => {
                branch.now.is_merged = Some(true);
                branch.now.conflicts = Some(Vec::new());
            }
            Some((base, ..)) => merges.push((at, (base.clone(), tip))),
            None => branch.now.is_base_gone = branch.base.is_some(),
        }
    }
    let (places, pairs): (Vec<usize>, Vec<_>) = diffs.into_iter().unzip();
    for (at, changes) in places.into_iter().zip(look.changes(&pairs)?) {
        branches[at].now.changes = changes;
    }
    let (places, pairs): (Vec<usize>, Vec<_>) = merges.into_iter().unzip();
    for (at, merge) in places.into_iter().zip(look.merges(&pairs)?) {
        let tree = of(branches[at]).map(|(_, tree, _)| tree.clone());
        let now = &mut branches[at].now;
        // What a squash or a cherry-pick brought is in the base, too.
        now.is_merged = Some(
            merge
                .as_ref()
                .is_some_and(|m| m.conflicts.is_empty() && Some(&m.tree) == tree.as_ref()),
        );
        now.conflicts = merge.map(|m| m.conflicts);
    }
    Ok(())
}

impl Branch {
    fn is_rewritten(&self) -> bool {
        self.now.tip.as_ref().is_some_and(|tip| *tip != self.head)
    }

    /// What merging it would be, in words, and whether it is as it was published.
    fn standing(&self) -> (String, Paint) {
        let (word, paint) = self.merging();
        match self.is_rewritten() {
            true => (format!("{word} (rewritten since)"), paint),
            false => (word, paint),
        }
    }

    /// What merging it would be, in words.
    pub(super) fn merging(&self) -> (String, Paint) {
        let now = &self.now;
        match (now.is_merged, &now.conflicts) {
            _ if now.repo.is_none() => (
                "unknown: its repository cannot be read".to_owned(),
                Paint::Yellow,
            ),
            _ if now.tip.is_none() => ("deleted".to_owned(), Paint::Dim),
            (Some(true), _) => ("merged".to_owned(), Paint::Green),
            (_, Some(paths)) if paths.is_empty() => ("no conflicts".to_owned(), Paint::Plain),
            (_, Some(paths)) => {
                let n = count_of(paths.len() as u64, "file");
                (format!("conflicts in {n}"), Paint::Red)
            }
            (None, None) if now.is_base_gone => {
                ("unknown: its base is gone".to_owned(), Paint::Yellow)
            }
            (None, None) => ("unknown".to_owned(), Paint::Yellow),
            (Some(false), None) => ("not merged; conflicts unknown".to_owned(), Paint::Yellow),
        }
    }

    /// `+3 -1`
    pub(super) fn lines_changed(&self) -> String {
        let changes = self.now.changes;
        let lines = changes.map(|c| format!("+{} -{}", c.insertions, c.deletions));
        lines.unwrap_or_default()
    }
}

fn table(branches: &[Branch]) -> Table {
    let repos: HashSet<_> = branches.iter().map(|b| &b.now.repo).collect();
    let mut titles = vec![
        "ITEM", "BRANCH", ">COMMITS", ">FILES", ">LINES", "BASE", "MERGE", ">AGE",
    ];
    if repos.len() > 1 {
        titles.insert(0, "REPO");
    }
    let mut table = Table::new(&titles);
    let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
    for branch in branches {
        let now = &branch.now;
        let (word, paint) = branch.standing();
        let mut row = vec![
            Cell::new(branch.item.shown()),
            Cell::new(&branch.name),
            Cell::new(number(now.commits)),
            Cell::new(number(now.changes.map(|c| c.files))),
            Cell::new(branch.lines_changed()),
            Cell::new(branch.base.as_deref().unwrap_or_default()),
            Cell::painted(word, paint),
            Cell::new(ago(&branch.published_at, clock::now()).unwrap_or_default()),
        ];
        if repos.len() > 1 {
            row.insert(0, Cell::new(now.repo.as_deref().unwrap_or("?")));
        }
        table.row(row);
    }
    table
}

/// A branch that an attempt left in your repository, as it is now. `None`: it cannot be told.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct BranchTold {
    pub(super) item: String,
    pub(super) session: Option<String>,
    pub(super) attempt: Option<u32>,
    /// A name from `[repos.NAME]`, or `default`.
    pub(super) repo: Option<String>,
    pub(super) branch: Option<String>,
    pub(super) published_at: Option<String>,
    /// Its commit when it was published; of one that waits: the commit that an approval is for.
    pub(super) head: Option<String>,
    /// Its commit now.
    pub(super) tip: Option<String>,
    /// Whether somebody deleted it.
    pub(super) deleted: Option<bool>,
    /// Whether it is at another commit now.
    pub(super) rewritten: bool,
    /// The branch that it is compared with, or is to be merged into.
    pub(super) base: Option<String>,
    /// Since it left its base, as the three that follow.
    pub(super) commits: Option<u64>,
    pub(super) files_changed: Option<u64>,
    /// Lines.
    pub(super) insertions: Option<u64>,
    /// Lines.
    pub(super) deletions: Option<u64>,
    /// Whether its base has it, be it squashed.
    pub(super) merged: Option<bool>,
    /// The paths that conflict with its base.
    pub(super) conflicts: Option<Vec<String>>,
}

impl BranchTold {
    pub(super) fn of(branch: &Branch) -> BranchTold {
        let now = &branch.now;
        BranchTold {
            item: branch.item.shown(),
            session: Some(branch.session.clone()),
            attempt: branch.attempt,
            repo: now.repo.clone(),
            branch: Some(branch.name.clone()),
            published_at: Some(branch.published_at.clone()),
            head: Some(branch.head.clone()),
            tip: now.tip.clone(),
            deleted: now.repo.as_ref().map(|_| now.tip.is_none()),
            rewritten: branch.is_rewritten(),
            base: branch.base.clone(),
            commits: now.commits,
            files_changed: now.changes.map(|c| c.files),
            insertions: now.changes.map(|c| c.insertions),
            deletions: now.changes.map(|c| c.deletions),
            merged: now.is_merged,
            conflicts: now.conflicts.clone(),
        }
    }
}
