//! Interrupts: files in `state/interrupts/` that say a person is needed. An agent, harness or a
//! person creates them: `agent-N.interrupt` for one slot, `all.interrupt` for all. While one exists
//! its slots claim nothing and their agents are frozen. Removing it ends it, for every process and
//! across restarts.
//!
//! Hidden files beside them:
//! - `.agent-N.seen`: a hard link to the interrupt that was handled (context kept, person
//!   notified). Creating it elects who does so. It pins the inode, so a later interrupt is never
//!   mistaken for this one.
//! - `.agent-N.raised`: a hard link to an interrupt that a person or harness raised with a command,
//!   so it is not the agent's question.
//! - `.agent-N.SID.asked`: names the item in `parked/` whose agent asked and ended in session SID.
//!   When the interrupt is gone the item goes back to `pending/`.
//!
//! Knows nothing of sessions or agent processes. Invariant: only a person's command removes an
//! interrupt, and nothing overwrites one.

mod people;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::atomic::{self, Moved, Nameless, OwnDir};
use crate::clock;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::layout::{Name, Place, Root, SlotId};
use crate::lease;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::record::{Answered, Event, Record};
use crate::status::SlotStatus;
use crate::text::{is_obeyed, page};

pub use people::{asker_in_parked, meant, odd, stem_of, waits_for, ways};

/// Stem of the interrupt that holds for every slot.
pub const ALL: &str = "all";
const ENDING: &str = ".interrupt";
/// How often to retry when other processes remove the new `.raised` link as left over.
const RAISE_TRIES: u32 = 100;
/// At most this much of a reason is read.
const REASON_BYTES_MAX: usize = 4 << 10;

/// An existing interrupt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupt {
    /// `agent-N`, or `all`.
    pub stem: String,
    pub path: PathBuf,
    /// Its text, without control characters except newlines; may be empty.
    pub reason: String,
    /// Inode and modification time (ns), to tell it from another one of the same name. The inode
    /// alone is not enough: file systems reuse inode numbers.
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

/// The interrupt of this stem.
pub fn read(root: &Root, stem: &str) -> Option<Interrupt> {
    let path = path(root, stem);
    if atomic::is_gone(&path) {
        return None;
    }
    // Only its existence counts: it may be a directory, or unreadable.
    let content = || atomic::read_small(&path, STATE_FILE_BYTES_MAX).unwrap_or_default();
    let (mut id, mut bytes) = (id_of(&path), content());
    for _ in 0..3 {
        // Read again if it was just written: id and text must belong together.
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

/// The interrupt that pauses this slot: its own, or the one for all.
pub fn of(root: &Root, slot: SlotId) -> Option<Interrupt> {
    own(root, slot).or_else(|| read(root, ALL))
}

/// This slot's own interrupt.
pub fn own(root: &Root, slot: SlotId) -> Option<Interrupt> {
    read(root, &slot.to_string())
}

/// Whether an interrupt pauses this slot.
pub fn stands(root: &Root, slot: SlotId) -> bool {
    let gone = |stem: &str| atomic::is_gone(&path(root, stem));
    !gone(&slot.to_string()) || !gone(ALL)
}

/// Calls `what` with the file names in the folder of interrupts. Asked several times a second, so
/// the folder is only listed again when it changed. `None`: it cannot be listed.
fn look<T>(root: &Root, known: &Mutex<Folder>, what: impl FnOnce(&[OsString]) -> T) -> Option<T> {
    let dir = root.interrupts();
    let meta = dir.metadata().ok()?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    known.look(&dir, &meta).ok().map(what)
}

/// Whether any interrupt exists. A folder that cannot be listed counts as having one.
pub fn any(root: &Root, known: &Mutex<Folder>) -> bool {
    look(root, known, |files| {
        files.iter().any(|f| people::stem_of_file(f).is_some())
    })
    .unwrap_or_else(|| !atomic::is_gone(&root.interrupts()))
}

/// Raises an interrupt. `false`: one exists already, and its reason is kept.
pub fn raise(root: &Root, stem: &str, reason: &str) -> Result<bool> {
    if reason.trim().is_empty() {
        return Err(Error::usage("cannot interrupt", "no reason was given")
            .hint("say why, for whoever looks: harness interrupt agent-1 'which database?'"));
    }
    let to = path(root, stem);
    let raised = hidden(root, stem, "raised");
    // An agent's own question, although it used the command: no `.raised` link.
    let by_agent = std::env::var_os("HARNESS_SESSION").is_some();
    for _ in 0..RAISE_TRIES {
        let file = Nameless::new(
            &to,
            format!("{}\n", page(reason.trim())).as_bytes(),
            0o600,
            false,
        )?;
        file.lock();
        if atomic::is_gone(&to) {
            atomic::remove(&raised)?;
            if !by_agent {
                let _linked = file.link(&raised)?;
            }
        }
        match file.link(&to) {
            // Another process removed our `.raised` link as left over. A file that lost its only
            // name cannot be linked again: start over with a new one.
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
    /// Elects who handles it: `true` for the first caller, over all processes and restarts.
    pub fn take_notice(&self, root: &Root) -> Result<bool> {
        let seen = hidden(root, &self.stem, "seen");
        for _ in 0..8 {
            match self.link_mark(&seen)? {
                Moved::Done => return Ok(true),
                Moved::SourceGone => return Ok(false),
                Moved::Taken => {}
            }
            if self.is_marked(&seen) {
                return Ok(false);
            }
            atomic::remove(&seen)?;
        }
        Ok(false)
    }

    /// A hard link, which pins its inode; for what cannot be linked (a directory) a file that names it.
    fn link_mark(&self, seen: &Path) -> Result<Moved> {
        match atomic::link_new(&self.path, seen) {
            Err(_) => Nameless::new(seen, self.unlinked().as_bytes(), 0o600, false)?.link(seen),
            linked => linked,
        }
    }

    fn is_marked(&self, seen: &Path) -> bool {
        let named = || atomic::read_small(seen, STATE_FILE_BYTES_MAX).ok();
        id_of(seen).0 == self.id.0 || named().is_some_and(|n| n == self.unlinked().as_bytes())
    }

    /// Without a link, its birth tells it from a successor with the same inode number.
    fn unlinked(&self) -> String {
        format!("{} {:?}\n", self.id.0, crate::folder::DirId::of(&self.path))
    }

    /// Whether a person or harness raised it with a command.
    pub fn was_raised(&self, root: &Root) -> bool {
        id_of(&hidden(root, &self.stem, "raised")).0 == self.id.0
    }

    /// The first line of this interrupt's summary; it tells interrupts apart.
    pub fn mark(&self) -> String {
        format!("<!-- {} {}-{} -->", self.stem, self.id.0, self.id.1)
    }

    /// The first line of the reason, or a text that says there is none.
    pub fn headline(&self) -> &str {
        match self.reason.lines().next() {
            Some(line) if !line.is_empty() => line,
            _ => "no reason was given",
        }
    }
}

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

fn files(root: &Root) -> Vec<OsString> {
    let entries = std::fs::read_dir(root.interrupts()).into_iter().flatten();
    entries.flatten().map(|e| e.file_name()).collect()
}

fn release(root: &Root, asked: &Asked) -> Result<Option<Name>> {
    let session = asked.session.as_str();
    let Some((question, name)) = people::marked(&asked.marker) else {
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

/// The file for a person's answer: a frozen agent reads it when it resumes, the next attempt's
/// prompt includes it.
pub fn answer_path(session_dir: &Path) -> PathBuf {
    session_dir.join("answer.md")
}

fn answer_of(root: &Root, session: &str) -> Option<String> {
    let path = answer_path(&root.session(session));
    let bytes = atomic::read_small(&path, STATE_FILE_BYTES_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|a| !a.is_empty())
}

/// The file for the question that was answered, beside the answer.
fn question_path(session_dir: &Path) -> PathBuf {
    session_dir.join("question.md")
}

/// Keeps a person's answer in the session's folder, and what it answers.
pub fn answer(root: &Root, stem: &str, session: &str, text: &str) -> Result<PathBuf> {
    let dir = root.session(session);
    let folder = OwnDir::open(&dir)?;
    let question = read(root, stem).map(|i| i.reason).unwrap_or_default();
    if !question.is_empty() {
        folder.replace("question.md", format!("{question}\n").as_bytes(), true)?;
    }
    folder.replace("answer.md", format!("{}\n", text.trim()).as_bytes(), true)?;
    Ok(answer_path(&dir))
}

/// Tells the answer in a session's folder from an earlier one; `None`: there is none.
pub fn answer_ns(session_dir: &Path) -> Option<i64> {
    let meta = answer_path(session_dir).symlink_metadata().ok()?;
    Some(clock::mtime_ns(&meta))
}

/// The answer in a session's folder, if its agent did not hear it: it had ended before, or was ended
/// while it was frozen. An agent hears an answer when it goes on. `heard_ns`: the answer that it heard.
pub fn unheard(root: &Root, session: &str, heard_ns: Option<i64>) -> Option<Answered> {
    let dir = root.session(session);
    answer_ns(&dir).filter(|&at| Some(at) != heard_ns)?;
    let answer = answer_of(root, session)?;
    let question = atomic::read_small(&question_path(&dir), STATE_FILE_BYTES_MAX);
    let question = String::from_utf8_lossy(&question.unwrap_or_default()).into_owned();
    Some(Answered {
        session: session.to_owned(),
        question: question.trim().to_owned(),
        answer: Some(answer),
    })
}

/// Removes an interrupt. `false`: there was none.
pub fn end(root: &Root, stem: &str) -> Result<bool> {
    atomic::take_away(&path(root, stem))
}

/// The stems of all existing interrupts that are for anybody.
pub fn all(root: &Root) -> Vec<String> {
    let files = files(root);
    let stems = files.iter().filter_map(|f| people::stem_of_file(f));
    let mut stems: Vec<String> = stems.collect();
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
        // The process that raised it dies.
        drop(file);
        release_answered(&root, &Mutex::default());
        assert!(atomic::is_gone(&mark));
    }

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
