//! `approve`, `reject`: the safe form of the `mv` out of `review/`. Each is recorded before the file
//! moves; a crash between the two leaves the item where it was.

use std::ffi::OsString;
use std::path::Path;

use super::find::{self, At, Found};
use super::moves;
use super::waiting::{Desk, Waiting};
use crate::atomic;
use crate::error::{Error, Result};
use crate::layout::{Name, Place, Root};
use crate::limits::COMMENT_BYTES_MAX;
use crate::mutant::planted;
use crate::outcome::Next;
use crate::quote::{harness, item, shell_quoted};
use crate::record::{self, Event, Record, Returned, Reviewed};
use crate::view::short;

#[derive(clap::Args)]
pub(super) struct ApproveArgs {
    #[arg(required = true, value_name = "NAME")]
    names: Vec<OsString>,
    /// Only if the branch is at this commit: the one that you looked at
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,
    #[command(flatten)]
    json: super::Json,
}

#[derive(clap::Args)]
pub(super) struct RejectArgs {
    #[arg(required = true, value_name = "NAME")]
    names: Vec<OsString>,
    /// What the next attempt is told
    #[arg(long, short, value_name = "TEXT")]
    comment: String,
    /// The commit that you looked at, for the record [default: the one that waits]
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,
    #[command(flatten)]
    json: super::Json,
}

/// `mv queue/review/NAME queue/merge/`, for the commit that waits.
pub(super) fn approve(root: &Root, args: &ApproveArgs) -> Result<u8> {
    let seen = args.commit.as_deref();
    check_commit(seen)?;
    let desk = Desk::new(root)?;
    moves::each(root, &args.names, args.json.json, &|root, name| {
        approve_one(root, &desk, name, seen)
    })
}

/// What is no commit's name is a slip.
fn check_commit(typed: Option<&str>) -> Result<()> {
    let is_hex = |commit: &str| commit.bytes().all(|b| b.is_ascii_hexdigit());
    match typed {
        Some(commit) if commit.len() < COMMIT_CHARS_MIN || !is_hex(commit) => {
            let why = format!("{commit} names no commit");
            let hint = "give it as `git log` shows it, seven characters or more";
            Err(Error::usage("cannot use --commit", why).hint(hint))
        }
        _ => Ok(()),
    }
}

/// Fewer would name too many.
const COMMIT_CHARS_MIN: usize = 7;

/// `seen`: the commit that the person looked at, where that is known.
fn approve_one(
    root: &Root,
    desk: &Desk<'_>,
    name: &Name,
    seen: Option<&str>,
) -> Result<Option<String>> {
    let what = "cannot approve";
    let all = find::places(root, name);
    let Some(found) = all.iter().find(|f| f.place == At::Review) else {
        return Err(elsewhere("nothing to approve", root, name, all.first()));
    };
    let mut waiting = [Waiting::of(root, Place::Review, name.clone())?];
    let trouble = desk.find_tips(&mut waiting);
    let [waiting] = waiting;
    let Some(branch) = &waiting.branch else {
        return Err(no_branch(what, name));
    };
    let path = desk
        .repos
        .paths()
        .find(|(n, _)| branch.now.repo.as_deref() == Some(n));
    let Some((_, path)) = path else {
        let why = format!("the repository of {} cannot be read", branch.name);
        let unread = Error::permanent(what, why);
        return Err(trouble.into_iter().next().unwrap_or(unread));
    };
    let Some(tip) = &branch.now.tip else {
        return Err(deleted(what, root, &waiting, path));
    };
    let mut record = Record::open(root, name)?;
    if let Some(tip) = waiting.moved_to()
        && !planted("approve-by-name")
    {
        let was = waiting.head.as_deref().map_or_else(|| "?".into(), short);
        let reason = format!("{} was moved from {was} to {}", branch.name, short(tip));
        record.append(&Event::Returned(Returned {
            session: branch.session.clone(),
            reason: reason.clone(),
            next: Some(Next::Review.into()),
            head: Some(tip.to_owned()),
            ..Returned::default()
        }))?;
        record.sync()?;
        let (harness, arg) = (harness(), item(name));
        return Err(Error::permanent(what, reason).hint(format!(
            "look again, then approve what is there now: `{harness} review {arg}`"
        )));
    }
    if let Some(seen) = seen.filter(|seen| !tip.starts_with(&seen.to_ascii_lowercase())) {
        let (now, harness, arg) = (short(tip), harness(), item(name));
        let why = format!("{} is at {now}, not at {}", branch.name, short(seen));
        let hint = format!("look again, then approve what is there now: `{harness} review {arg}`");
        return Err(Error::permanent(what, why).hint(hint));
    }
    record.append(&Event::Approved(Reviewed {
        by: "harness approve".into(),
        commit: tip.clone(),
        comment: None,
    }))?;
    record.sync()?;
    let done = format!(
        "approved at {}: the next free worker of `{} run` merges it",
        short(tip),
        harness()
    );
    let to = root.item(Place::Merge, name);
    moves::moved(
        atomic::rename_new(&found.path, &to)?,
        Place::Merge,
        name,
        &done,
    )
}

/// `mv queue/review/NAME queue/pending/`, with what the next attempt is told.
pub(super) fn reject(root: &Root, args: &RejectArgs) -> Result<u8> {
    let comment = args.comment.trim();
    let seen = args.commit.as_deref();
    check(comment)?;
    check_commit(seen)?;
    moves::each(root, &args.names, args.json.json, &|root, name| {
        reject_one(root, name, seen, "harness reject", comment)
    })
}

/// A comment that cannot be told to an agent.
pub(super) fn check(comment: &str) -> Result<()> {
    let why = match comment.len() {
        0 => "it is empty".to_owned(),
        n if n > COMMENT_BYTES_MAX => {
            format!("it is longer than {} KiB", COMMENT_BYTES_MAX >> 10)
        }
        _ => return Ok(()),
    };
    Err(Error::usage("cannot use this comment", why)
        .hint("say what is to be changed; `harness retry` sends an item back without a word"))
}

/// `commit`: what the person looked at, where that is known.
pub(super) fn reject_one(
    root: &Root,
    name: &Name,
    commit: Option<&str>,
    by: &str,
    comment: &str,
) -> Result<Option<String>> {
    let all = find::places(root, name);
    // Whoever merges it gives it up where its file is gone.
    let is_merged = || {
        let last = record::history(root, name).last;
        last.is_some_and(|last| last.is_for_merging())
    };
    let waits = |f: &&Found| match f.place {
        At::Review | At::Merge => true,
        At::Claimed(_) => is_merged(),
        _ => false,
    };
    let Some(found) = all.iter().find(waits) else {
        return Err(elsewhere("nothing to reject", root, name, all.first()));
    };
    let to = root.item(Place::Pending, name);
    if atomic::exists(&to) {
        // Said before anything is recorded.
        return moves::moved(atomic::Moved::Taken, Place::Pending, name, "");
    }
    let mut record = Record::open(root, name)?;
    let waiting = record
        .history()
        .last
        .as_ref()
        .and_then(|l| l.published.as_ref());
    let commit = commit
        .map(str::to_owned)
        .or(waiting.map(|p| p.head.clone()));
    // It queues again from now, not from when it was first added.
    if !moves::touch(&found.path)? {
        return Ok(None);
    }
    record.append(&Event::Rejected(Reviewed {
        by: by.to_owned(),
        commit: commit.unwrap_or_default(),
        comment: Some(comment.to_owned()),
    }))?;
    record.sync()?;
    let done = match found.place {
        At::Claimed(slot) => {
            format!("back in the queue, with your comment; {slot} merges it no more")
        }
        _ => "back in the queue, with your comment".to_owned(),
    };
    moves::moved(
        atomic::rename_new(&found.path, &to)?,
        Place::Pending,
        name,
        &done,
    )
}

/// It is not where the command takes it from.
pub(super) fn elsewhere(what: &str, root: &Root, name: &Name, at: Option<&Found>) -> Error {
    let (harness, arg) = (harness(), item(name));
    let Some(found) = at else {
        return find::unknown(root, name);
    };
    let (why, hint) = match found.place {
        At::Pending => (
            "waits for an attempt".to_owned(),
            format!("`{harness} show {arg}` says for what"),
        ),
        At::Claimed(slot) | At::Ending(slot) => (
            format!("is at work in {slot}"),
            format!("wait until it has ended: `{harness} wait {arg}`"),
        ),
        At::Merge => (
            "is approved already, and waits to be merged".to_owned(),
            format!("`{harness} reject {arg} --comment TEXT` takes it back"),
        ),
        At::Review => (
            "waits for review".to_owned(),
            format!("`{harness} review {arg}` shows it"),
        ),
        At::Done => (
            "is done".to_owned(),
            match record::history(root, name).branch {
                Some(branch) => format!("`git log -p {branch}` shows its work"),
                None => format!("`{harness} show {arg}` tells how it ended"),
            },
        ),
        At::Parked => (
            "is parked".to_owned(),
            format!("`{harness} show {arg}` says why, `{harness} retry {arg}` tries it again"),
        ),
    };
    Error::permanent(what, format!("{name} {why}")).hint(hint)
}

/// A file that somebody put there by hand.
pub(super) fn no_branch(what: &str, name: &Name) -> Error {
    let hint = format!("`{} retry {}` has it tried", harness(), item(name));
    Error::permanent(what, format!("no attempt of {name} has left a branch")).hint(hint)
}

/// Its branch is gone from the user's repository. Its commits are still in harness's copy of it.
pub(super) fn deleted(what: &str, root: &Root, waiting: &Waiting, repo: &Path) -> Error {
    let (harness, arg) = (harness(), item(&waiting.name));
    let again = format!("`{harness} retry {arg}` has it made anew");
    let Some(branch) = &waiting.branch else {
        return no_branch(what, &waiting.name);
    };
    let kept = branch.now.repo.as_ref().zip(waiting.head.as_ref());
    let hint = match kept {
        Some((name, head)) => format!(
            "it comes back with `git -C {} fetch {} {head}:refs/heads/{}`; {again}",
            shell_quoted(repo),
            shell_quoted(&root.repos().join(format!("{name}.git"))),
            branch.name
        ),
        None => again,
    };
    Error::permanent(
        what,
        format!("{} is no longer in your repository", branch.name),
    )
    .hint(hint)
}
