//! Agents that asked and ended: their items wait in `parked/` until the interrupt is gone, then any process
//! takes them out.
//!
//! Knows nothing of sessions. Invariant: a marker alone moves nothing; the record says that its session
//! was the item's last.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::answers::answer_of;
use super::{Interrupt, files, hidden, id_of, look, path, read};
use crate::atomic::{self, Moved};
use crate::clock;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::layout::{Name, Place, Root, SlotId};
use crate::lease;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::record::{Answered, Event, Record};
use crate::status::SlotStatus;

/// Records that the slot's agent asked and ended: its item waits in `parked/` until the interrupt
/// is removed. Call this before the item is moved there.
pub fn note_asked(
    root: &Root,
    slot: SlotId,
    session: &str,
    name: &Name,
    question: &str,
) -> Result<()> {
    // The question as one line of JSON, then the name's own bytes.
    let mut text = format!("{}\n", serde_json::Value::from(question)).into_bytes();
    text.extend(name.bytes());
    let marker = hidden(root, &format!("{slot}.{session}"), "asked");
    atomic::replace(&marker, &text, true)
}

/// The item of this session does not wait for the interrupt's end.
pub fn forget_asked(root: &Root, slot: SlotId, session: &str) -> Result<()> {
    atomic::remove(&hidden(root, &format!("{slot}.{session}"), "asked")).map(drop)
}

/// An item that waits for an interrupt to be removed.
struct Asked {
    stem: String,
    session: String,
    marker: PathBuf,
}

fn asked(root: &Root, files: &[OsString]) -> Vec<Asked> {
    let of = |file: &OsString| {
        let name = file.to_str()?;
        let (stem, session) = name
            .strip_prefix('.')?
            .strip_suffix(".asked")?
            .split_once('.')?;
        uuid::Uuid::parse_str(session).ok()?;
        Some(Asked {
            stem: stem.to_owned(),
            session: session.to_owned(),
            marker: root.interrupts().join(name),
        })
    };
    files.iter().filter_map(of).collect()
}

/// Moves items whose interrupt is gone back to `pending/`, and removes its hidden files. Any
/// process may call this; a rename elects one. Returns the names moved, and the errors.
pub fn release_answered(root: &Root, known: &Mutex<Folder>) -> (Vec<Name>, Vec<Error>) {
    let (mut released, mut errors) = (Vec::new(), Vec::new());
    let files = &look(root, known, <[OsString]>::to_vec).unwrap_or_default();
    let is_over = |stem: &str| atomic::is_gone(&path(root, stem));
    let is_due = |a: &&Asked| is_over(&a.stem) || atomic::exists(&aside(root, &a.session));
    for asked in asked(root, files).iter().filter(is_due) {
        match release(root, asked) {
            Ok(name) => released.extend(name),
            Err(e) => errors.push(e),
        }
    }
    for file in files {
        let of = |ending: &[u8]| file.as_bytes().strip_prefix(b".")?.strip_suffix(ending);
        let raised = of(b".raised");
        let stem = of(b".seen").or(raised);
        let Some(stem) = stem.and_then(|s| std::str::from_utf8(s).ok()) else {
            continue;
        };
        let mark = root.interrupts().join(file);
        if is_over(stem) && !(raised.is_some() && lease::is_locked(&mark)) {
            let id = id_of(&mark);
            let _stays = atomic::remove(&mark);
            // Not left over: its interrupt was created meanwhile. Link it again.
            if raised.is_some() && id_of(&path(root, stem)) == id {
                let _marked = atomic::link_new(&path(root, stem), &mark);
            }
        }
    }
    (released, errors)
}

fn release(root: &Root, asked: &Asked) -> Result<Option<Name>> {
    let session = asked.session.as_str();
    let Some((question, name)) = marked(&asked.marker) else {
        return Ok(None);
    };
    let fits = !name.bytes().is_empty() && !name.is_too_long();
    if !fits || name.bytes().iter().any(|b| b"/\0".contains(b)) {
        // Not written by harness.
        return atomic::remove(&asked.marker).map(|_| None);
    }
    if atomic::exists(&root.claim(&name)) {
        // Still claimed: about to be moved to parked/.
        return Ok(None);
    }
    let parked = root.item(Place::Parked, &name);
    let aside = aside(root, session);
    let mut record = Record::open(root, &name)?;
    let last = record.history().last.as_ref();
    let waits = last.is_some_and(|l| l.session == session && l.end.is_some());
    let mut released = None;
    // A person may have moved it, or it has had another attempt since.
    if waits && atomic::exists(&parked) {
        let answer = answer_of(root, session);
        record.append(&Event::Answered(Answered {
            session: session.to_owned(),
            question,
            answer,
        }))?;
        record.sync()?;
    }
    if waits || atomic::exists(&aside) {
        released = take_out(root, &name, session)?.then_some(name);
    }
    atomic::remove(&asked.marker)?;
    Ok(released)
}

/// Where an item lies while it is taken out of `parked/`.
fn aside(root: &Root, session: &str) -> PathBuf {
    root.place(Place::Parked)
        .join(format!(".{session}.answered"))
}

/// Takes an item whose question in `session` was answered out of `parked/`. It first gets a name that
/// only that question has. Then it is looked once more whether it was the last: meanwhile another
/// process may have released it, and a later attempt have asked again. Whoever finds a file with that
/// name goes on here. `true`: it is in `pending/`.
fn take_out(root: &Root, name: &Name, session: &str) -> Result<bool> {
    let (parked, aside) = (root.item(Place::Parked, name), aside(root, session));
    let _whoever_did = atomic::rename_new(&parked, &aside)?;
    let last = Record::open(root, name)?.history().last.clone();
    let is_last = last.is_some_and(|l| l.session == session && l.end.is_some());
    if is_last {
        if let Err(e) = atomic::set_mtime(&aside, clock::now_ns())
            && atomic::exists(&aside)
        {
            return Err(e);
        }
        match atomic::rename_new(&aside, &root.item(Place::Pending, name))? {
            Moved::Done => return Ok(true),
            // Another process was faster.
            Moved::SourceGone => return Ok(false),
            // A newer item has this name.
            Moved::Taken => {}
        }
    }
    atomic::rename_with_backup(&aside, &parked).map(|_| false)
}

/// The question and the item that a marker names.
fn marked(marker: &Path) -> Option<(String, Name)> {
    let text = atomic::read_small(marker, STATE_FILE_BYTES_MAX).ok()?;
    let end = text.iter().position(|&b| b == b'\n').unwrap_or(text.len());
    let question = serde_json::from_slice(&text[..end]).unwrap_or_default();
    let name = Name::new(OsStr::from_bytes(text.get(end + 1..).unwrap_or_default()));
    Some((question, name))
}

/// The item whose agent asked, ended, and waits in `parked/` for this interrupt to end.
pub fn asker_in_parked(root: &Root, stem: &str) -> Option<Name> {
    let mut all = asked(root, &files(root));
    all.retain(|a| a.stem == stem);
    all.sort_by(|a, b| a.session.cmp(&b.session));
    let (_, name) = marked(&all.pop()?.marker)?;
    atomic::exists(&root.item(Place::Parked, &name)).then_some(name)
}

/// The interrupt that an item in `parked/` waits for, if this was its last session.
pub fn waits_for(root: &Root, session: &str) -> Option<Interrupt> {
    let all = asked(root, &files(root));
    let of_it = all.into_iter().find(|a| a.session == session)?;
    read(root, &of_it.stem)
}

/// The session whose agent waits for this interrupt to end: one that asked and ended, or the one
/// that is frozen. `None`: no such interrupt, or no session waits.
pub fn asker(root: &Root, stem: &str) -> Option<String> {
    if atomic::is_gone(&path(root, stem)) {
        return None;
    }
    // Session ids are version 7 UUIDs: the newest sorts last.
    let mut sessions: Vec<String> = asked(root, &files(root))
        .into_iter()
        .filter(|a| a.stem == stem)
        .map(|a| a.session)
        .collect();
    sessions.sort();
    if let Some(session) = sessions.pop() {
        return Some(session);
    }
    let slot = SlotId::parse(OsStr::new(stem))?;
    let status = root.agent(slot).join("status.json");
    let text = atomic::read_small(&status, STATE_FILE_BYTES_MAX).ok()?;
    let status: SlotStatus = serde_json::from_slice(&text).ok()?;
    status.session.filter(|s| uuid::Uuid::parse_str(s).is_ok())
}

#[cfg(test)]
mod tests {
    use super::super::answers::answer_path;
    use super::super::tests::root;
    use super::super::{end, own, raise};
    use super::*;
    use crate::outcome::Next;
    use crate::record::{Claimed, Finished};

    const SID: &str = "01a20c49-e29c-77d6-975b-03b1acf25a52";

    #[test]
    fn a_slow_releaser_takes_out_no_item_that_has_asked_again() {
        let (_dir, root) = root();
        let name = Name::new("x");
        let parked = root.item(Place::Parked, &name);
        drop(atomic::create(&parked, b"x", 0o600).unwrap());
        let mut record = Record::open(&root, &name).unwrap();
        let mut attempt = |session: &str, n| {
            let claimed = Event::Claimed(Claimed {
                session: session.into(),
                slot: "agent-1".into(),
                attempt: n,
                ..Claimed::default()
            });
            let finished = Event::Finished(Finished {
                session: session.into(),
                next: Some(Next::Parked.into()),
                ..Finished::default()
            });
            for event in [claimed, finished] {
                record.append(&event).unwrap();
            }
        };
        let later = SID.replace("01a20c49", "01a20c50");
        attempt(SID, 1);
        attempt(&later, 2);
        // It had seen that the first attempt was the last.
        assert!(!take_out(&root, &name, SID).unwrap());
        assert!(atomic::exists(&parked) && !atomic::exists(&aside(&root, SID)));
        assert!(take_out(&root, &name, &later).unwrap());
        assert!(atomic::exists(&root.item(Place::Pending, &name)));
        assert!(!take_out(&root, &name, &later).unwrap());
    }

    #[test]
    fn what_asked_goes_back_when_its_interrupt_is_gone_and_not_before() {
        let (_dir, root) = root();
        let name = Name::new(OsStr::from_bytes(b"a\nb\xff"));
        let parked = root.item(Place::Parked, &name);
        drop(atomic::create(&parked, b"x", 0o600).unwrap());
        let mut record = Record::open(&root, &name).unwrap();
        for event in [
            Event::Claimed(Claimed {
                session: SID.into(),
                slot: "agent-1".into(),
                attempt: 1,
                ..Claimed::default()
            }),
            Event::Finished(Finished {
                session: SID.into(),
                next: Some(Next::Parked.into()),
                ..Finished::default()
            }),
        ] {
            record.append(&event).unwrap();
        }
        raise(&root, "agent-1", "which?").unwrap();
        own(&root, SlotId(1)).unwrap().take_notice(&root).unwrap();
        note_asked(&root, SlotId(1), SID, &name, "which?").unwrap();
        assert_eq!(release_answered(&root, &Mutex::default()).0, []);
        atomic::make_dir(&root.session(SID), true).unwrap();
        atomic::replace(&answer_path(&root.session(SID)), b"the left one\n", false).unwrap();
        end(&root, "agent-1").unwrap();
        assert_eq!(
            release_answered(&root, &Mutex::default()).0,
            std::slice::from_ref(&name)
        );
        assert!(atomic::exists(&root.item(Place::Pending, &name)) && !atomic::exists(&parked));
        let lines = crate::record::lines(&root, &name).unwrap();
        let answered = Answered {
            session: SID.into(),
            question: "which?".into(),
            answer: Some("the left one".into()),
        };
        assert_eq!(lines.last().unwrap().event, Event::Answered(answered));
        release_answered(&root, &Mutex::default());
        assert_eq!(files(&root), Vec::<OsString>::new());
    }
}
