//! `harness gc`: removes what is no longer needed, only when a person asks.
//!
//! A session's folder is removed when its item is in `done/` or gone, its end is in the item's record,
//! and it is older than `limits.keep`; a branch when its base contains it; a worktree when its slot was
//! not used for that long and a ref holds everything in it. Records and items in `done/` stay.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::{elsewhere, find};
use crate::atomic;
use crate::clock;
use crate::config::{Config, Overrides};
use crate::error::{Context, Result};
use crate::git::{Base, Hub, Repos};
use crate::layout::{DEFAULT_REPO, Name, Place, Root, SlotId};
use crate::lease::{self, Lease};
use crate::limits::DEBRIS_AGE;
use crate::local;
use crate::record::{self, Event};
use crate::recovery;
use crate::session::file;
use crate::spool;
use crate::submission;
use crate::view::{after_work, count_of, print_json, print_text};

/// Where the report cannot be written.
const DONE: &str = "gc is done";

#[derive(clap::Args)]
pub(super) struct GcArgs {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    json: super::Json,
}

/// What was removed, or would be without `--dry-run`.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Gone {
    /// Nothing was removed: this is what would be.
    dry_run: bool,
    /// How many sessions' folders.
    sessions: u64,
    /// Merged branches.
    branches: Vec<String>,
    /// Unused worktrees, in words.
    worktrees: Vec<String>,
    /// Half-written objects of killed gits, in harness's own repositories.
    debris: u64,
    /// Commits of a base of which gates' verdicts were remembered.
    bases: u64,
    /// Slots of hosts that were lost.
    slots: u64,
    /// Records and logs of runs that were submitted to an engine.
    jobs: u64,
    /// What could not be checked or removed, and why.
    trouble: Vec<String>,
}

pub(super) fn gc(root: &Root, args: &GcArgs) -> Result<u8> {
    let config = Config::load(root, &Overrides::default())?;
    let root = &elsewhere::placed(root, &config);
    let keep = config.limits.keep;
    let mut gone = Gone {
        dry_run: args.dry_run,
        ..Gone::default()
    };
    sessions(root, keep, args.dry_run, &mut gone)?;
    bases(root, keep, args.dry_run, &mut gone);
    jobs(root, keep, args.dry_run, &mut gone);
    lost_slots(root, keep, args.dry_run, &mut gone);
    let repos = Repos::new(root, &config)?;
    let mut slots = std::fs::read_dir(root.agents())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| SlotId::parse(&e.file_name()));
    let debris_age = match slots.any(|slot| lease::is_held(root, slot)) {
        true => DEBRIS_AGE,
        // Nobody works here, in no container either.
        false => Duration::ZERO,
    };
    // Opening the hub of an unused repository would clone it.
    for name in repos.names() {
        if !Hub::is_made(root, name) {
            continue;
        }
        match repos.hub(root, name) {
            Ok(Some(hub)) => {
                branches(root, &hub, name, keep, args.dry_run, &mut gone);
                worktrees(root, (name, &repos), keep, args.dry_run, &mut gone);
                match hub.clear_debris(debris_age, args.dry_run) {
                    Ok(count) => gone.debris += count,
                    Err(e) => gone.trouble.push(e.to_string()),
                }
            }
            Ok(None) => {}
            Err(e) => gone.trouble.push(e.to_string()),
        }
    }
    for why in &gone.trouble {
        crate::error::tell(&format!("harness: {why}"));
    }
    if args.json.json {
        let printed = print_json(&gone);
        return Ok(after_work(printed, DONE));
    }
    Ok(after_work(print_text(&in_words(&gone, keep)), DONE))
}

fn in_words(gone: &Gone, keep: Duration) -> String {
    let word = if gone.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let mut text = format!(
        "{word} {} that ended more than {} ago\n",
        count_of(gone.sessions, "session"),
        clock::human(keep)
    );
    for branch in &gone.branches {
        text.push_str(&format!("{word} the merged branch {branch}\n"));
    }
    for tree in &gone.worktrees {
        text.push_str(&format!("{word} the unused {tree}\n"));
    }
    if gone.bases > 0 {
        text.push_str(&format!(
            "{word} what gates said of {} old commits of a base\n",
            gone.bases
        ));
    }
    if gone.slots > 0 {
        let slots = count_of(gone.slots, "slot");
        text.push_str(&format!("{word} {slots} of hosts that were lost\n"));
    }
    if gone.jobs > 0 {
        let files = count_of(gone.jobs, "file");
        text.push_str(&format!(
            "{word} {files} of submitted runs in state/jobs/\n"
        ));
    }
    if gone.debris > 0 {
        text.push_str(&format!(
            "{word} {} half-written objects of killed gits\n",
            gone.debris
        ));
    }
    text
}

/// Prefix of a session's folder during removal; after a crash the next `gc` continues.
const DYING: &str = ".gc-";

fn sessions(root: &Root, keep: Duration, dry: bool, gone: &mut Gone) -> Result<()> {
    let dir = root.sessions();
    let before = clock::now_ns() / 1_000_000 - i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    for entry in std::fs::read_dir(&dir).or_fail("cannot list the sessions", &dir)? {
        let entry = entry.or_fail("cannot list the sessions", &dir)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let left_over = name.starts_with(DYING);
        if !left_over && !is_over(root, &entry.path(), &name, before) {
            continue;
        }
        if dry {
            gone.sessions += 1;
            continue;
        }
        let dying = match left_over {
            true => entry.path(),
            false => dir.join(format!("{DYING}{name}")),
        };
        let removed = match left_over {
            true => Ok(()),
            false => atomic::rename_over(&entry.path(), &dying),
        };
        let removed = removed.and_then(|()| {
            atomic::discard_tree(&dying, "its end is in the item's record, and it is old")
        });
        match removed {
            Ok(()) => gone.sessions += 1,
            Err(e) => gone.trouble.push(e.to_string()),
        }
    }
    Ok(())
}

/// `state/gates/REPO/COMMIT`: gates run again where it is missing.
fn bases(root: &Root, keep: Duration, dry: bool, gone: &mut Gone) {
    let folders = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let folders = entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|e| e.path()).collect::<Vec<_>>()
    };
    let is_old = |dir: &PathBuf| {
        let written = dir.metadata().and_then(|m| m.modified());
        written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > keep))
    };
    let commits = folders(&root.gates())
        .into_iter()
        .flat_map(|repo| folders(&repo));
    for commit in commits.filter(is_old) {
        let removed = match dry {
            true => Ok(()),
            false => atomic::discard_tree(&commit, "it is found out again where it is needed"),
        };
        match removed {
            Ok(()) => gone.bases += 1,
            Err(e) => gone.trouble.push(e.to_string()),
        }
    }
}

/// Slots that were given up so long ago that no late process of theirs can live: others may have them.
fn lost_slots(root: &Root, keep: Duration, dry: bool, gone: &mut Gone) {
    let mut holders = lease::holders(root);
    holders.extend(lease::holders_of_keys(root));
    let all = std::fs::read_dir(root.agents()).into_iter().flatten();
    for slot in all.flatten().filter_map(|e| SlotId::parse(&e.file_name())) {
        let given_up = lease::marker(root, slot).is_some_and(|marker| marker.given_up.is_some());
        if !given_up || recovery::has_items(root, slot, &holders) {
            continue;
        }
        let marker = root.agent(slot).join("marker");
        let written = marker.metadata().and_then(|m| m.modified());
        if !written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > keep)) {
            continue;
        }
        match dry || atomic::remove(&marker).is_ok() {
            true => gone.slots += 1,
            false => gone
                .trouble
                .push(format!("{slot}: its marker cannot be removed")),
        }
    }
}

/// `state/jobs/`: all that matters of a run is in the tree.
fn jobs(root: &Root, keep: Duration, dry: bool, gone: &mut Gone) {
    for file in submission::outdated(root, keep) {
        let removed = match dry {
            true => Ok(true),
            false => atomic::remove(&file),
        };
        match removed {
            Ok(_) => gone.jobs += 1,
            Err(e) => gone.trouble.push(e.to_string()),
        }
    }
}

/// Whether a session is old, ended and recorded, and its item is not waiting or parked: a retry may
/// continue the last attempt, and a person may look at a parked item.
fn is_over(root: &Root, dir: &Path, sid: &str, before_ms: i64) -> bool {
    let Some(started) = clock::made_ms(sid) else {
        return false;
    };
    if started >= before_ms {
        return false;
    }
    let Some(session) = file::read(dir, sid).filter(file::SessionFile::has_ended) else {
        return false;
    };
    let item = Name::new(&session.item);
    let waits = [Place::Pending, Place::Review, Place::Merge, Place::Parked];
    if waits.iter().any(|&p| atomic::exists(&root.item(p, &item)))
        || atomic::exists(&root.claim(&item))
    {
        return false;
    }
    let lines = record::lines(root, &item).unwrap_or_default();
    let ended = lines
        .iter()
        .any(|l| matches!(&l.event, Event::Finished(f) if f.session == sid));
    // One of its agent's processes may still be running and writing.
    ended && matches!(lease::try_lock(&dir.join("stdout.log")), Ok(Some(_)))
}

fn branches(root: &Root, hub: &Hub, repo: &str, keep: Duration, dry: bool, gone: &mut Gone) {
    let before = clock::now().as_second() - i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
    let merged = match hub.users(None).merged(before) {
        Ok(merged) => merged,
        Err(e) => return gone.trouble.push(format!("{repo}: {e}")),
    };
    let landed = match landed(hub, root, repo, before) {
        Ok(landed) => landed,
        Err(e) => return gone.trouble.push(format!("{repo}: {e}")),
    };
    for (branch, oid) in merged.into_iter().chain(landed) {
        let removed = match dry {
            true => Ok(true),
            false => hub
                .users(None)
                .unpublish(&branch, &oid)
                .and_then(|was| hub.forget(&branch, &oid).map(|()| was)),
        };
        match removed {
            Ok(true) => gone.branches.push(branch),
            Ok(false) => {}
            Err(e) => gone.trouble.push(e.to_string()),
        }
    }
}

/// Branches of items in `done/` that harness has merged, squashed or rebased, and whose landing is still
/// in the branch that it went into.
fn landed(hub: &Hub, root: &Root, repo: &str, before: i64) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for name in find::names_in(&root.place(Place::Done))? {
        let lines = record::lines(root, &name).unwrap_or_default();
        let merged = lines.iter().rev().find_map(|line| match &line.event {
            Event::Merged(landing) => Some((landing, line.at.parse::<clock::Timestamp>().ok()?)),
            _ => None,
        });
        let Some((landing, _)) = merged.filter(|(_, at)| at.as_second() <= before) else {
            continue;
        };
        let of_item = || {
            spool::look_at(&name, &root.item(Place::Done, &name))?
                .order
                .repo
        };
        let of = landing.repo.clone().or_else(of_item);
        let base = Base {
            name: landing.into.clone(),
            oid: landing.onto.clone(),
        };
        // A record is a file: an agent may have written the name of any branch into it.
        if landing.branch.starts_with("harness/")
            && of.as_deref().unwrap_or(DEFAULT_REPO) == repo
            && hub.contains_now(&base, &landing.commit)?
        {
            all.push((landing.branch.clone(), landing.head.clone()));
        }
    }
    Ok(all)
}

fn worktrees(
    root: &Root,
    (repo, repos): (&str, &Repos),
    keep: Duration,
    dry: bool,
    gone: &mut Gone,
) {
    for entry in std::fs::read_dir(root.agents())
        .into_iter()
        .flatten()
        .flatten()
    {
        let Some(slot) = SlotId::parse(&entry.file_name()) else {
            continue;
        };
        // The marker is rewritten whenever the slot is taken.
        let used = root.agent(slot).join("marker");
        let used = used.metadata().and_then(|m| m.modified());
        let is_old = |t: std::time::SystemTime| t.elapsed().is_ok_and(|age| age > keep);
        if !used.is_ok_and(is_old) || recovery::has_residue(root, slot) {
            continue;
        }
        // It may lie on this host's own disk. On another one's, nothing is seen of it here.
        let Some(of_slot) = local::of_slot(root, slot) else {
            continue;
        };
        if !Hub::is_made(&of_slot, repo) {
            continue;
        }
        let Ok(Some(hub)) = repos.hub(&of_slot, repo) else {
            continue;
        };
        let Some(tree) = hub.worktree_as_it_is(&of_slot.worktree(slot, repo)) else {
            continue;
        };
        // A held lease belongs to a running harness, which may use the worktree at any time.
        let Ok(Some(lease)) = Lease::try_take(root, slot) else {
            continue;
        };
        let shown = format!("worktree of {slot} for {repo}");
        if !tree.can_be_given_up() {
            continue;
        }
        let given_up = match dry {
            true => Ok(()),
            false => tree.under(lease.lock()).give_up(),
        };
        match given_up {
            Ok(()) => gone.worktrees.push(shown),
            Err(e) => gone.trouble.push(format!("{slot}: {e}")),
        }
    }
}
