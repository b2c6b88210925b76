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

mod answers;
mod asked;
mod people;

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::atomic::{self, Moved, Nameless};
use crate::clock;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::layout::{Root, SlotId, join};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::text::{is_obeyed, page};

pub use answers::{answer, answer_ns, answer_path, unheard};
pub use asked::{asker, asker_in_parked, forget_asked, note_asked, release_answered, waits_for};
pub use people::{meant, odd, stem_of, ways};

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
    root.interrupt(&file_of(stem))
}

/// The name of the interrupt with this stem.
pub(crate) fn file_of(stem: &str) -> String {
    [stem, ENDING].concat()
}

/// The file by which an agent raises one: in its session's folder, as it may not write where they are.
pub fn inbox(dir: &Path) -> PathBuf {
    join(dir, "interrupt")
}

/// Moves what an agent has put there to where everybody looks, `to`. Where its slot has one already, it
/// stays.
pub(crate) fn move_in(inbox: &Path, to: &Path) -> Result<Moved> {
    match atomic::rename_new(inbox, to) {
        // state/interrupts or state/sessions lies on another disk.
        Err(e) if e.errno() == Some(nix::errno::Errno::EXDEV as i32) => {
            let text = atomic::read_small(inbox, STATE_FILE_BYTES_MAX).unwrap_or_default();
            let linked = Nameless::new(to, &text, 0o600, false)?.link(to)?;
            if linked == Moved::Done {
                atomic::remove(inbox)?;
            }
            Ok(linked)
        }
        moved => moved,
    }
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
    // Opened, so that NFS asks its server.
    let meta = atomic::open_dir(&dir).ok()?.metadata().ok()?;
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
    // An agent's own question, although it used the command: no `.raised` link, and by its own door. A hook
    // of the user's has a session's name, too, and an event's.
    let has = |name| std::env::var_os(name).is_some();
    let by_agent = has("HARNESS_SESSION") && !has("HARNESS_EVENT");
    let inbox = std::env::var_os("HARNESS_INTERRUPT").filter(|_| by_agent && is_own(root, stem));
    let to = inbox.map_or_else(|| path(root, stem), PathBuf::from);
    let raised = hidden(root, stem, "raised");
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

/// Whether this process is of an agent that works in this slot of this ROOT.
fn is_own(root: &Root, stem: &str) -> bool {
    let is = |name: &str, value: &OsStr| std::env::var_os(name).is_some_and(|v| v == value);
    is("HARNESS_ROOT", root.path().as_os_str()) && is("HARNESS_SLOT", OsStr::new(stem))
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

fn files(root: &Root) -> Vec<OsString> {
    let entries = std::fs::read_dir(root.interrupts()).into_iter().flatten();
    entries.flatten().map(|e| e.file_name()).collect()
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

    pub(super) fn root() -> (tempfile::TempDir, Root) {
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
}
