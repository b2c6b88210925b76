//! Interrupts: files in `state/interrupts/` by which an agent, harness or a person says that a
//! person is needed. `agent-N.interrupt` holds for one slot, `all.interrupt` for all. While it
//! exists its slots claim nothing, and an agent at work there is frozen; removing it ends it, in
//! every process and over restarts.
//!
//! Beside it, hidden, so that nobody takes them for interrupts:
//! - `.agent-N.seen`: a hard link to the interrupt that somebody has taken notice of (context kept,
//!   notification sent). The link elects who does that; as it pins the inode, another interrupt
//!   is never taken for it.
//! - `.agent-N.raised`: a hard link to an interrupt that a person or harness raised by a command:
//!   no question of the agent's.
//! - `.agent-N.SID.asked`: the item, in `parked/`, whose agent asked and ended in this session. When
//!   the interrupt is gone the item goes back to `pending/`.
//!
//! Does not know sessions or agents' processes. Keeps: no interrupt is ever removed or overwritten
//! here but by a person's command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::atomic::{self, Moved, Nameless};
use crate::clock;
use crate::error::{Error, Result, is_obeyed};
use crate::folder::Folder;
use crate::layout::{Name, Place, Root, SlotId};
use crate::lease;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::record::{Answered, Event, Record};
use crate::status::SlotStatus;

/// Stem of the interrupt that holds for every slot.
pub const ALL: &str = "all";
const ENDING: &str = ".interrupt";
/// How often the mark of one that is being raised may be taken for a left-over one.
const RAISE_TRIES: u32 = 100;
/// A reason is for people: more than this of it is not read.
const REASON_BYTES_MAX: usize = 4 << 10;

/// An interrupt that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupt {
    /// `agent-N`, or `all`.
    pub stem: String,
    pub path: PathBuf,
    /// Why, without control characters but newlines; empty where nobody said.
    pub reason: String,
    /// Tells it from another one of the same name: inode and modification time in nanoseconds, as a
    /// file system gives the number of a removed file to the next one.
    id: (u64, i64),
}

fn id_of(path: &Path) -> (u64, i64) {
    path.symlink_metadata()
        .map_or((0, 0), |m| (m.ino(), clock::mtime_ns(&m)))
}

pub fn path(root: &Root, stem: &str) -> PathBuf {
    root.interrupt(&[stem, ENDING].concat())
}

fn hidden(root: &Root, stem: &str, ending: &str) -> PathBuf {
    root.interrupt(&format!(".{stem}.{ending}"))
}

fn read(root: &Root, stem: &str) -> Option<Interrupt> {
    let path = path(root, stem);
    if atomic::is_gone(&path) {
        return None;
    }
    // That it exists is what counts: it may be a directory, or not to be read.
    let content = || atomic::read_small(&path, STATE_FILE_BYTES_MAX).unwrap_or_default();
    let (mut id, mut bytes) = (id_of(&path), content());
    for _ in 0..3 {
        // Written just now: these words under the mark of before would count as another interrupt.
        let now = id_of(&path);
        if now == id {
            break;
        }
        (id, bytes) = (now, content());
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_BYTES_MAX)]);
    let plain = |c: &char| *c == '\n' || !is_obeyed(*c);
    Some(Interrupt {
        stem: stem.to_owned(),
        path,
        id,
        reason: text.chars().filter(plain).collect::<String>().trim().into(),
    })
}

/// What holds this slot back: its own interrupt, or that of all.
pub fn of(root: &Root, slot: SlotId) -> Option<Interrupt> {
    own(root, slot).or_else(|| read(root, ALL))
}

/// This slot's own interrupt.
pub fn own(root: &Root, slot: SlotId) -> Option<Interrupt> {
    read(root, &slot.to_string())
}

/// Whether anything holds this slot back.
pub fn stands(root: &Root, slot: SlotId) -> bool {
    let gone = |stem: &str| atomic::is_gone(&path(root, stem));
    !gone(&slot.to_string()) || !gone(ALL)
}

/// What `what` says of the files in the folder of interrupts. Nothing of what it is asked several
/// times a second costs more than a look whether there is anything new.
fn look<T>(root: &Root, known: &Mutex<Folder>, what: impl FnOnce(&[OsString]) -> T) -> Option<T> {
    let dir = root.interrupts();
    let meta = dir.metadata().ok()?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    known.look(&dir, &meta).ok().map(what)
}

/// Whether any stands, of whatever slot. What cannot be listed may hold one.
pub fn any(root: &Root, known: &Mutex<Folder>) -> bool {
    let is_interrupt =
        |f: &OsString| f.as_bytes().ends_with(ENDING.as_bytes()) && !f.as_bytes().starts_with(b".");
    look(root, known, |files| files.iter().any(is_interrupt))
        .unwrap_or_else(|| !atomic::is_gone(&root.interrupts()))
}

/// Raises an interrupt unless one stands already: an older reason is not overwritten. `false`: one
/// stood.
pub fn raise(root: &Root, stem: &str, reason: &str) -> Result<bool> {
    if reason.trim().is_empty() {
        return Err(Error::usage("cannot interrupt", "no reason was given")
            .hint("say why, for whoever looks: harness interrupt agent-1 'which database?'"));
    }
    let to = path(root, stem);
    let raised = hidden(root, stem, "raised");
    // An agent that asks by the command asks all the same.
    let by_agent = std::env::var_os("HARNESS_SESSION").is_some();
    for _ in 0..RAISE_TRIES {
        let file = Nameless::new(&to, format!("{}\n", reason.trim()).as_bytes(), 0o600, false)?;
        file.lock();
        if atomic::is_gone(&to) {
            atomic::remove(&raised)?;
            if !by_agent {
                let _linked = file.link(&raised)?;
            }
        }
        match file.link(&to) {
            // Somebody removed the mark before, in the place of one that was left over: a file that
            // has lost its only name cannot get another.
            Err(e) if e.errno() == Some(nix::errno::Errno::ENOENT as i32) => {}
            done => return Ok(done? == Moved::Done),
        }
    }
    Err(Error::temporary(
        "cannot raise the interrupt",
        "its mark is removed again and again",
    )
    .at_path(&to))
}

impl Interrupt {
    /// Takes notice of it: `true` for whoever does so first, over all processes and restarts.
    pub fn take_notice(&self, root: &Root) -> Result<bool> {
        let seen = hidden(root, &self.stem, "seen");
        for _ in 0..8 {
            match atomic::link_new(&self.path, &seen) {
                Ok(Moved::Done) => return Ok(true),
                Ok(Moved::SourceGone) => return Ok(false),
                Ok(Moved::Taken) => {}
                // Not a file that can be linked (a directory): nobody is told twice of it.
                Err(_) => return Ok(false),
            }
            if id_of(&seen).0 == self.id.0 {
                return Ok(false);
            }
            atomic::remove(&seen)?;
        }
        Ok(false)
    }

    /// Whether a person or harness raised it by a command.
    pub fn was_raised(&self, root: &Root) -> bool {
        id_of(&hidden(root, &self.stem, "raised")).0 == self.id.0
    }

    /// What a summary of it begins with: tells this interrupt from another.
    pub fn mark(&self) -> String {
        format!("<!-- {} {}-{} -->", self.stem, self.id.0, self.id.1)
    }

    /// The first line of the reason, or words for its absence.
    pub fn headline(&self) -> &str {
        match self.reason.lines().next() {
            Some(line) if !line.is_empty() => line,
            _ => "no reason was given",
        }
    }
}

/// Notes that the slot's agent asked and ended: its item waits in `parked/` for the interrupt to
/// go. To be called before the item is moved there.
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

/// An item that waits for the end of an interrupt.
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

/// Puts back into the queue what waited for interrupts that are gone, and clears what is left of
/// these. Any process may; a rename elects which. The names that went back, and what went wrong.
pub fn release_answered(root: &Root, known: &Mutex<Folder>) -> (Vec<Name>, Vec<Error>) {
    let (mut released, mut errors) = (Vec::new(), Vec::new());
    let files = &look(root, known, <[OsString]>::to_vec).unwrap_or_default();
    let is_over = |stem: &str| atomic::is_gone(&path(root, stem));
    for asked in asked(root, files).iter().filter(|a| is_over(&a.stem)) {
        match release(root, asked) {
            Ok(name) => released.extend(name),
            Err(e) => errors.push(e),
        }
    }
    for file in files {
        let bytes = file.as_bytes();
        let of = |ending: &[u8]| bytes.strip_prefix(b".")?.strip_suffix(ending);
        let raised = of(b".raised");
        let stem = of(b".seen").or(raised);
        let Some(stem) = stem.and_then(|s| std::str::from_utf8(s).ok()) else {
            continue;
        };
        let mark = root.interrupts().join(file);
        if is_over(stem) && !(raised.is_some() && lease::is_locked(&mark)) {
            let id = id_of(&mark);
            let _stays = atomic::remove(&mark);
            // It was not left over: its interrupt came only now.
            if raised.is_some() && id_of(&path(root, stem)) == id {
                let _marked = atomic::link_new(&path(root, stem), &mark);
            }
        }
    }
    (released, errors)
}

fn files(root: &Root) -> Vec<OsString> {
    let entries = std::fs::read_dir(root.interrupts()).into_iter().flatten();
    entries.flatten().map(|e| e.file_name()).collect()
}

fn release(root: &Root, asked: &Asked) -> Result<Option<Name>> {
    let session = asked.session.as_str();
    let Ok(text) = atomic::read_small(&asked.marker, STATE_FILE_BYTES_MAX) else {
        return Ok(None);
    };
    let end = text.iter().position(|&b| b == b'\n').unwrap_or(text.len());
    let question: String = serde_json::from_slice(&text[..end]).unwrap_or_default();
    let name = Name::new(OsStr::from_bytes(text.get(end + 1..).unwrap_or_default()));
    let fits = !name.bytes().is_empty() && !name.is_too_long();
    if !fits || name.bytes().iter().any(|b| b"/\0".contains(b)) {
        // None of ours.
        return atomic::remove(&asked.marker).map(|_| None);
    }
    if atomic::exists(&root.claim(&name)) {
        // On its way into parked/.
        return Ok(None);
    }
    let parked = root.item(Place::Parked, &name);
    let mut record = Record::open(root, &name)?;
    let last = record.history().last.as_ref();
    let waits = last.is_some_and(|l| l.session == session && l.end.is_some());
    let mut released = None;
    // A person may have moved it, or it may have had another life since.
    if waits && atomic::exists(&parked) {
        let answer = answer_of(root, session);
        record.append(&Event::Answered(Answered {
            session: session.to_owned(),
            question,
            answer,
        }))?;
        record.sync()?;
        if let Err(e) = atomic::set_mtime(&parked, clock::now_ns())
            && atomic::exists(&parked)
        {
            return Err(e);
        }
        // Gone: another process was faster.
        if atomic::rename_new(&parked, &root.item(Place::Pending, &name))? == Moved::Done {
            released = Some(name);
        }
    }
    atomic::remove(&asked.marker)?;
    Ok(released)
}

/// The session whose agent waits for this interrupt to end: one that asked and ended, or the one
/// that is frozen. `None`: no interrupt stands there, or nobody waits.
pub fn asker(root: &Root, stem: &str) -> Option<String> {
    if atomic::is_gone(&path(root, stem)) {
        return None;
    }
    // Version 7: the newest is the largest.
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

/// Where a person's answer goes: the agent finds it there when it goes on, the next attempt's
/// prompt has it.
pub fn answer_path(session_dir: &Path) -> PathBuf {
    session_dir.join("answer.md")
}

fn answer_of(root: &Root, session: &str) -> Option<String> {
    let path = answer_path(&root.session(session));
    let bytes = atomic::read_small(&path, STATE_FILE_BYTES_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|a| !a.is_empty())
}

/// Ends an interrupt. `false`: none stood.
pub fn end(root: &Root, stem: &str) -> Result<bool> {
    atomic::remove(&path(root, stem))
}

/// The stems of all interrupts that stand.
pub fn all(root: &Root) -> Vec<String> {
    let ending = OsString::from(ENDING).into_vec();
    let mut stems: Vec<String> = files(root)
        .iter()
        .filter(|f| f.as_bytes().first() != Some(&b'.'))
        .filter_map(|f| {
            f.as_bytes()
                .strip_suffix(ending.as_slice())
                .map(<[u8]>::to_vec)
        })
        .filter_map(|stem| String::from_utf8(stem).ok())
        .collect();
    stems.sort();
    stems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Next;
    use crate::record::{Claimed, Finished};

    const SID: &str = "01a20c49-e29c-77d6-975b-03b1acf25a52";

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (dir, private) in root.dirs() {
            atomic::make_dir(&dir, private).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn an_interrupt_is_noticed_once_and_its_successor_again() {
        let (_dir, root) = root();
        assert!(raise(&root, "agent-1", "why").unwrap());
        assert!(!raise(&root, "agent-1", "another").unwrap());
        let first = of(&root, SlotId(1)).unwrap();
        assert_eq!(first.headline(), "why");
        assert!(first.take_notice(&root).unwrap());
        assert!(!first.take_notice(&root).unwrap());
        assert!(of(&root, SlotId(2)).is_none());
        end(&root, "agent-1").unwrap();
        // Nobody cleared the mark of the first one.
        raise(&root, "agent-1", "second").unwrap();
        assert!(own(&root, SlotId(1)).unwrap().take_notice(&root).unwrap());
        end(&root, "agent-1").unwrap();
        release_answered(&root, &Mutex::default());
        assert_eq!(files(&root), Vec::<OsString>::new());
    }

    #[test]
    fn the_mark_of_one_that_is_being_raised_is_left_alone() {
        let (_dir, root) = root();
        let mark = hidden(&root, "agent-1", "raised");
        let file = Nameless::new(&mark, b"why\n", 0o600, false).unwrap();
        file.lock();
        assert_eq!(file.link(&mark).unwrap(), Moved::Done);
        release_answered(&root, &Mutex::default());
        assert!(atomic::exists(&mark));
        // Whoever raised it died.
        drop(file);
        release_answered(&root, &Mutex::default());
        assert!(atomic::is_gone(&mark));
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
