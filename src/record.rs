//! `state/items/NAME.jsonl`: everything that ever happened to an item, one line per event,
//! append-only. It is also the log that recovery reads: the last line about a session says how
//! far its attempt got.
//!
//! Knows nothing of queues. Invariant: a line is one `write` to a file opened for appending, so
//! lines of several processes never mix; a line cut by a power loss is skipped by every reader.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::layout::{Name, Root};
use crate::limits::RECORD_BYTES_MAX;
use crate::mutant::planted;

/// An item's record, open for appending, with what it held when it was opened.
pub struct Record {
    file: File,
    path: PathBuf,
    /// A line was cut (a full disk): the next one must not be glued to it.
    torn: bool,
    /// Whether the file was new: its directory entry is not durable yet.
    is_new: bool,
    history: History,
    /// Lines appended since, of which the history does not know yet.
    unfolded: Vec<u8>,
    /// Lines that wait for the next one, to be written with it.
    held: Vec<u8>,
}

/// What the past of an item means for its next attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Attempts so far; the next one has this number plus one.
    pub attempts: u32,
    /// Failed attempts since a person (or `add`) last put the item into `pending/`.
    pub failures: u32,
    /// Attempts in a row that never started, since one did or a person stepped in.
    pub requeues: u32,
    /// The attempt before the last one, which ended.
    pub previous: Option<LastAttempt>,
    /// The last attempt, as far as it is recorded.
    pub last: Option<LastAttempt>,
    /// What attempts had said that they publish, as long as their end is not recorded.
    pub publishing: Vec<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastAttempt {
    pub session: String,
    pub slot: String,
    pub attempt: u32,
    /// What was said when its agent had been started (`started` or `adopted`).
    pub started: Option<Value>,
    /// Set once its end is recorded: (`done`, `parked`, `retry`, `pending`, `left`), the outcome,
    /// and for a retry the instant before which it must not start (ns since 1970).
    pub end: Option<(String, String, Option<i64>)>,
    /// What it asked, and a person's answer if one was written.
    pub answered: Option<(String, Option<String>)>,
    /// The branch that its end published, with the commit.
    pub published: Option<(String, String)>,
    /// The file's: tells whether it was taken away, or moved at its end and then taken from there.
    pub inode: Option<u64>,
}

impl LastAttempt {
    fn is_done(&self) -> bool {
        self.end.as_ref().is_some_and(|(next, ..)| next == "done")
    }
}

impl Record {
    pub fn open(root: &Root, name: &Name) -> Result<Record> {
        let path = root.record(name);
        let mut file = atomic::open_append(&path)?;
        let bytes = read_bounded(&mut file, &path)?;
        let mut history = History::default();
        for event in lines(&bytes) {
            history.fold(&event);
        }
        Ok(Record {
            file,
            path,
            // A line cut by a power loss must spoil no other.
            torn: bytes.last().is_some_and(|&b| b != b'\n'),
            is_new: bytes.is_empty(),
            history,
            unfolded: Vec::new(),
            held: Vec::new(),
        })
    }

    /// What all its lines mean.
    pub fn history(&mut self) -> &History {
        for event in lines(&std::mem::take(&mut self.unfolded)) {
            self.history.fold(&event);
        }
        &self.history
    }

    /// Appends an event: `fields` is an object; its instant and kind are put in front.
    pub fn append(&mut self, event: &str, fields: impl Serialize) -> Result<()> {
        let mut bytes = Vec::with_capacity(1024);
        if self.torn {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(&self.held);
        encode(&mut bytes, event, &fields)?;
        self.write(&bytes)?;
        self.unfolded.extend_from_slice(&bytes);
        self.held.clear();
        Ok(())
    }

    /// Appends a `claimed` event and takes it into the history, which whoever claims asks next.
    pub fn append_claim(&mut self, claimed: &Claimed<'_>) -> Result<()> {
        self.history();
        self.append("claimed", claimed)?;
        self.unfolded.clear();
        self.history.claim(LastAttempt {
            session: claimed.session.to_owned(),
            slot: claimed.slot.to_owned(),
            attempt: claimed.attempt,
            inode: Some(claimed.inode),
            ..LastAttempt::default()
        });
        Ok(())
    }

    /// Appends an event together with the next one: for what only the story would miss.
    pub fn hold(&mut self, event: &str, fields: impl Serialize) -> Result<()> {
        encode(&mut self.held, event, &fields)
    }

    /// One `write`. What it could not write whole is no line: the caller may try again.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let what = "cannot write to the item's record";
        let written = self.file.write(bytes).or_fail(what, &self.path)?;
        self.torn = written < bytes.len() && (written > 0 || self.torn);
        if written < bytes.len() {
            return Err(
                Error::temporary(what, "it was cut short: is the disk full?")
                    .at_path(&self.path)
                    .hint("free some disk space (or inodes: `df -i`)"),
            );
        }
        Ok(())
    }

    /// Makes all lines so far survive a power cut.
    pub fn sync(&mut self) -> Result<()> {
        self.file
            .sync_data()
            .or_fail("cannot sync the item's record", &self.path)?;
        if self.is_new
            && let Some(folder) = self.path.parent()
        {
            atomic::sync_dir(folder)?;
            self.is_new = false;
        }
        Ok(())
    }
}

/// The fields of a `claimed` event.
#[derive(Debug, Serialize)]
pub struct Claimed<'a> {
    pub session: &'a str,
    pub slot: &'a str,
    pub attempt: u32,
    pub harness_pid: u32,
    /// The file's.
    pub inode: u64,
}

/// Appends an event's line to `out`.
fn encode(out: &mut Vec<u8>, event: &str, fields: &impl Serialize) -> Result<()> {
    let at = clock::now_iso();
    for part in ["{\"at\":\"", &at, "\",\"event\":\"", event, "\""] {
        out.extend_from_slice(part.as_bytes());
    }
    let begin = out.len();
    serde_json::to_writer(&mut *out, fields)
        .map_err(|e| Error::permanent("cannot write to the item's record", e.to_string()))?;
    // One object of both: `{…}` becomes `,…}`.
    match &out[begin..] {
        b"{}" => drop(out.remove(begin)),
        _ => out[begin] = b',',
    }
    out.push(b'\n');
    Ok(())
}

/// All events of an item, oldest first; empty where nothing is recorded.
pub fn events(root: &Root, name: &Name) -> Result<Vec<Value>> {
    let path = root.record(name);
    match atomic::read_small(&path, RECORD_BYTES_MAX) {
        Ok(bytes) => Ok(lines(&bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("cannot read the item's record", &path, &e)),
    }
}

/// What an item's past means, without opening its record for writing.
pub fn history(root: &Root, name: &Name) -> History {
    let mut history = History::default();
    for event in events(root, name).unwrap_or_default() {
        history.fold(&event);
    }
    history
}

/// Whether a person let the item go before `not_before` (ns since 1970), since it was last claimed.
pub fn is_released(root: &Root, name: &Name, not_before: i64) -> bool {
    let events = events(root, name).unwrap_or_default();
    let mut last = events.iter().rev();
    last.find(|e| matches!(e["event"].as_str(), Some("claimed" | "released")))
        .is_some_and(|e| e["not_before_ns"].as_i64() == Some(not_before))
}

/// Whether this time (ns since 1970) is the one before which its last attempt's end, or failed
/// start, lets the item not start again.
pub fn is_backoff(root: &Root, name: &Name, at: i64) -> bool {
    let events = events(root, name).unwrap_or_default();
    let mut last = events.iter().rev();
    let last = last.find(|e| matches!(e["event"].as_str(), Some("finished" | "requeued")));
    last.and_then(|e| e["not_before_ns"].as_i64())
        .is_some_and(|noted| noted.abs_diff(at) < 2_000_000_000)
}

fn read_bounded(file: &mut File, path: &std::path::Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .or_fail("cannot read the item's record", path)?;
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return Err(Error::permanent(
            "cannot use the item's record",
            format!("it is larger than {} MiB", RECORD_BYTES_MAX >> 20),
        )
        .at_path(path)
        .hint("move it away; the item's attempts are then counted from one again"));
    }
    Ok(bytes)
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|&b| b == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(Value::is_object)
        .collect()
}

impl History {
    /// The number of the next attempt.
    pub fn next_attempt(&self) -> u32 {
        // A record is a file: an agent may have written any number into it.
        self.attempts.saturating_add(1)
    }

    fn claim(&mut self, next: LastAttempt) {
        self.attempts = self.attempts.max(next.attempt);
        let mut before = self.last.take();
        // An answer holds until its item is done, however many attempts that takes.
        if let Some(done) = before.as_mut().filter(|b| b.is_done()) {
            done.answered = None;
        }
        let answered = before.as_ref().and_then(|b| b.answered.clone());
        if before.as_ref().is_some_and(|b| b.end.is_some()) {
            self.previous = before;
        }
        self.last = Some(LastAttempt { answered, ..next });
    }

    fn fold(&mut self, e: &Value) {
        let text = |key: &str| e[key].as_str().unwrap_or_default().to_owned();
        match e["event"].as_str().unwrap_or_default() {
            "claimed" => {
                let attempt = e["attempt"].as_u64().unwrap_or(0);
                self.claim(LastAttempt {
                    session: text("session"),
                    slot: text("slot"),
                    attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
                    inode: e["inode"].as_u64(),
                    ..LastAttempt::default()
                });
            }
            "publishing" => {
                self.publishing.retain(|p| p["session"] != e["session"]);
                self.publishing.push(e.clone());
            }
            "finished" => {
                // Whoever publishes takes back first what others had said.
                let published = e["published"].is_string();
                let others = |p: &Value| !published && p["session"] != e["session"];
                self.publishing.retain(others);
                let next = text("next");
                match next.as_str() {
                    "retry" if planted("retry-not-counted") => {}
                    "retry" => self.failures = self.failures.saturating_add(1),
                    "done" | "parked" => self.failures = 0,
                    _ => {}
                }
                let session = text("session");
                if let Some(last) = self.last.as_mut().filter(|l| l.session == session) {
                    last.end = Some((next, text("outcome"), e["not_before_ns"].as_i64()));
                    last.published = match (e["published"].as_str(), e["head"].as_str()) {
                        (Some(branch), Some(head)) => Some((branch.into(), head.into())),
                        _ => None,
                    };
                }
            }
            "answered" => {
                let answer = e["answer"].as_str().map(str::to_owned);
                let (session, question) = (text("session"), text("question"));
                if let Some(last) = self.last.as_mut().filter(|l| l.session == session) {
                    last.answered = Some((question, answer));
                }
            }
            "started" | "adopted" => {
                self.requeues = 0;
                let session = text("session");
                if let Some(last) = self.last.as_mut().filter(|l| l.session == session) {
                    last.started.get_or_insert_with(|| e.clone());
                }
            }
            // The attempt never started: its number is free again.
            "requeued" => {
                self.requeues = self.requeues.saturating_add(1);
                let session = text("session");
                if self.last.as_ref().is_some_and(|l| l.session == session) {
                    self.attempts = self.attempts.saturating_sub(1);
                    self.last = None;
                }
            }
            "added" | "retried" | "refused" | "parked" => {
                self.failures = 0;
                self.requeues = 0;
            }
            "released" => self.requeues = 0,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A place for records, and an item's name.
    fn fresh() -> (tempfile::TempDir, Root, Name) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        atomic::make_dir(&root.items(), true).unwrap();
        (dir, root, Name::new("x"))
    }

    #[test]
    fn history_survives_garbage_and_cut_lines() {
        let (_dir, root, name) = fresh();
        let mut r = Record::open(&root, &name).unwrap();
        assert!(r.is_new);
        for (attempt, next) in [(1, "retry"), (2, "retry")] {
            let sid = format!("s{attempt}");
            r.append(
                "claimed",
                json!({"session": sid, "slot": "agent-1", "attempt": attempt}),
            )
            .unwrap();
            r.append(
                "finished",
                json!({"session": sid, "outcome": "failed", "next": next}),
            )
            .unwrap();
        }
        let cut = b"garbage\n[1]\n\xff\n{\"event\":\"fini";
        r.write(cut).unwrap();
        let mut r = Record::open(&root, &name).unwrap();
        let counts = |h: &History| (h.attempts, h.failures);
        assert_eq!(counts(r.history()), (2, 2));
        r.append("retried", json!({"by": "a person"})).unwrap();
        let mut r = Record::open(&root, &name).unwrap();
        assert_eq!(counts(r.history()), (2, 0));
        let previous = |h: &History| h.previous.clone().map(|p| p.session);
        assert_eq!(previous(r.history()).as_deref(), Some("s1"));
        // One that never started was none, and hides none.
        for _ in 0..2 {
            let third = json!({"session": "s3", "slot": "agent-1", "attempt": 3});
            r.append("claimed", &third).unwrap();
            assert_eq!(previous(r.history()).as_deref(), Some("s2"));
            r.append("requeued", &third).unwrap();
        }
        assert_eq!(
            &history(&root, &name),
            Record::open(&root, &name).unwrap().history()
        );
        assert_eq!(&history(&root, &name), r.history());
        assert_eq!(events(&root, &name).unwrap().len(), 9);
        // What was to be published is known until the end of that attempt is.
        for sid in ["s3", "s3", "s4"] {
            r.append("publishing", json!({"session": sid})).unwrap();
        }
        for sid in ["s3", "s5"] {
            r.append("finished", json!({"session": sid})).unwrap();
        }
        let left = history(&root, &name).publishing;
        assert_eq!((left.len(), left[0]["session"].as_str()), (1, Some("s4")));
        r.append("finished", json!({"session": "s5", "published": "b"}))
            .unwrap();
        assert!(r.history().publishing.is_empty());
    }

    #[test]
    fn what_is_held_is_written_with_the_next_line_and_claims_are_known_at_once() {
        let (_dir, root, name) = fresh();
        let mut r = Record::open(&root, &name).unwrap();
        r.append("retried", json!({})).unwrap();
        let claimed = |attempt| Claimed {
            session: "s",
            slot: "agent-2",
            attempt,
            harness_pid: 3,
            inode: 4,
        };
        r.append_claim(&claimed(1)).unwrap();
        r.hold("started", json!({"session": "s", "pid": 7}))
            .unwrap();
        assert_eq!(&history(&root, &name), r.history());
        assert!(r.history().last.as_ref().unwrap().started.is_none());
        r.append("finished", json!({"session": "s", "next": "retry"}))
            .unwrap();
        r.append_claim(&claimed(2)).unwrap();
        assert_eq!(&history(&root, &name), r.history());
        let previous = r.history().previous.clone().unwrap();
        assert_eq!(previous.started.unwrap()["pid"], 7);
        let kinds: Vec<_> = events(&root, &name).unwrap();
        let kinds: Vec<_> = kinds.iter().map(|e| e["event"].as_str().unwrap()).collect();
        let want = ["retried", "claimed", "started", "finished", "claimed"];
        assert_eq!(kinds, want);
    }

    #[test]
    fn an_answer_holds_until_its_item_is_done() {
        let mut h = History::default();
        let mut attempt = |n: u32, next: &str, answer: Option<&str>| {
            let sid = format!("s{n}");
            h.fold(&json!({"event": "claimed", "session": sid, "attempt": n}));
            let answered = h.previous.as_ref().and_then(|p| p.answered.clone());
            h.fold(&json!({"event": "finished", "session": sid, "next": next}));
            if let Some(answer) = answer {
                h.fold(&json!({"event": "answered", "session": sid, "question": "?", "answer": answer}));
            }
            answered.and_then(|(_, answer)| answer)
        };
        assert_eq!(attempt(1, "parked", Some("yes")), None);
        assert_eq!(attempt(2, "retry", None).as_deref(), Some("yes"));
        assert_eq!(attempt(3, "done", None).as_deref(), Some("yes"));
        assert_eq!(attempt(4, "retry", None), None);
    }
}
