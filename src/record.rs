//! `state/items/NAME.jsonl`: everything that ever happened to an item, one line per event,
//! append-only. Recovery reads it, too: the last line about a session says how far its attempt got.
//! `line` has the events as types, `history` what they mean together.
//!
//! Knows nothing of queues. Invariant: a line is one `write` to a file opened for appending, so
//! lines of several processes never mix; a line cut by a power loss is skipped by every reader.

mod history;
mod line;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::layout::{Name, Root};
use crate::limits::RECORD_BYTES_MAX;
use crate::text;

pub use history::{AttemptEnd, History, LastAttempt, PublishedBranch};
pub use line::*;

/// An item's record, open for appending, with what it held when it was opened.
pub struct Record {
    file: File,
    path: PathBuf,
    /// A line was cut (a full disk): the next one must not be glued to it.
    torn: bool,
    /// Whether the file was new: its directory entry is not durable yet.
    is_new: bool,
    history: History,
}

impl Record {
    pub fn open(root: &Root, name: &Name) -> Result<Record> {
        let path = root.record(name);
        let mut file = atomic::open_append(&path)?;
        let bytes = read_bounded(&mut file, &path)?;
        Ok(Record {
            file,
            path,
            // A line cut by a power loss must spoil no other.
            torn: bytes.last().is_some_and(|&b| b != b'\n'),
            is_new: bytes.is_empty(),
            history: History::of(&lines_of(&bytes)),
        })
    }

    /// What all its lines mean.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Appends an event as of now.
    pub fn append(&mut self, event: &Event) -> Result<()> {
        let line = Stamped {
            at: clock::now_iso(),
            event,
        };
        let mut bytes = Vec::with_capacity(1024);
        if self.torn {
            bytes.push(b'\n');
        }
        text::append_json(&mut bytes, &line)
            .map_err(|e| Error::permanent("cannot write to the item's record", e.to_string()))?;
        bytes.push(b'\n');
        self.write(&bytes)?;
        self.history.fold(event, &line.at);
        Ok(())
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

/// A line of `state/items/NAME.jsonl`: what happened to an item.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Stamped<'a> {
    /// When it happened, RFC 3339 in UTC.
    at: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// All lines of an item's record, oldest first; empty where nothing is recorded.
pub fn lines(root: &Root, name: &Name) -> Result<Vec<Line>> {
    let bytes = bytes_at(&root.record(name))?;
    Ok(lines_of(&bytes))
}

/// Empty where nothing is recorded.
fn bytes_at(path: &Path) -> Result<Vec<u8>> {
    match atomic::read_small(path, RECORD_BYTES_MAX) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|e| Error::io("cannot read the item's record", path, &e)),
    }
}

/// The lines of each item's record whose bytes are wanted, in no order.
pub(crate) fn each(
    root: &Root,
    is_wanted: impl Fn(&[u8]) -> bool,
    mut take: impl FnMut(&[Line]),
) -> Result<()> {
    let (dir, what) = (root.items(), "cannot list the records");
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.or_fail(what, &dir)?,
    };
    for entry in entries {
        let path = entry.or_fail(what, &dir)?.path();
        if path.extension().is_none_or(|e| e != "jsonl") {
            continue;
        }
        let bytes = bytes_at(&path)?;
        if is_wanted(&bytes) {
            take(&lines_of(&bytes));
        }
    }
    Ok(())
}

/// What an item's past means, without opening its record for writing.
pub fn history(root: &Root, name: &Name) -> History {
    History::of(&lines(root, name).unwrap_or_default())
}

/// Whether a person let the item go before `not_before` (ns since 1970), since it was last claimed.
pub fn is_released(root: &Root, name: &Name, not_before: i64) -> bool {
    history(root, name).released_ns == Some(not_before)
}

/// Whether this time (ns since 1970) is the one before which its last attempt's end, or failed
/// start, lets the item not start again.
pub fn is_backoff(root: &Root, name: &Name, at: i64) -> bool {
    let noted = history(root, name).not_before_ns;
    noted.is_some_and(|noted| noted.abs_diff(at) < 2_000_000_000)
}

fn read_bounded(file: &mut File, path: &Path) -> Result<Vec<u8>> {
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

fn lines_of(bytes: &[u8]) -> Vec<Line> {
    bytes
        .split(|&b| b == b'\n')
        .filter_map(Line::parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Next, Outcome, Word};
    use serde_json::json;

    /// A place for records, and an item's name.
    fn fresh() -> (tempfile::TempDir, Root, Name) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        atomic::make_dir(&root.items(), true).unwrap();
        (dir, root, Name::new("x"))
    }

    fn claimed(session: &str, attempt: u32) -> Event {
        Event::Claimed(Claimed {
            session: session.into(),
            slot: "agent-1".into(),
            attempt,
            ..Claimed::default()
        })
    }

    fn finished(session: &str, next: Next, published: Option<&str>) -> Event {
        Event::Finished(Finished {
            session: session.into(),
            next: Some(next.into()),
            published: published.map(str::to_owned),
            ..Finished::default()
        })
    }

    fn requeued(session: &str) -> Event {
        Event::Requeued(Requeued {
            session: session.into(),
            ..Requeued::default()
        })
    }

    #[test]
    fn history_survives_garbage_and_cut_lines() {
        let (_dir, root, name) = fresh();
        let mut r = Record::open(&root, &name).unwrap();
        assert!(r.is_new);
        for attempt in [1, 2] {
            let sid = format!("s{attempt}");
            r.append(&claimed(&sid, attempt)).unwrap();
            r.append(&finished(&sid, Next::Retry, None)).unwrap();
        }
        let cut = b"garbage\n[1]\n\xff\n{\"event\":\"fini";
        r.write(cut).unwrap();
        let mut r = Record::open(&root, &name).unwrap();
        let counts = |h: &History| (h.attempts, h.failures);
        assert_eq!(counts(r.history()), (2, 2));
        let by = "a person".to_owned();
        r.append(&Event::Retried(By { by })).unwrap();
        let mut r = Record::open(&root, &name).unwrap();
        assert_eq!(counts(r.history()), (2, 0));
        let previous = |h: &History| h.previous.clone().map(|p| p.session);
        assert_eq!(previous(r.history()).as_deref(), Some("s1"));
        // One that never started was none, and hides none.
        for _ in 0..2 {
            r.append(&claimed("s3", 3)).unwrap();
            assert_eq!(previous(r.history()).as_deref(), Some("s2"));
            r.append(&requeued("s3")).unwrap();
        }
        assert_eq!(&history(&root, &name), r.history());
        assert_eq!(lines(&root, &name).unwrap().len(), 9);
        // What was announced is known until the end of that attempt is.
        for session in ["s3", "s3", "s4"] {
            let session = session.to_owned();
            let announced = Publishing {
                session,
                ..Publishing::default()
            };
            r.append(&Event::Publishing(announced)).unwrap();
        }
        for sid in ["s3", "s5"] {
            r.append(&finished(sid, Next::Parked, None)).unwrap();
        }
        let left = history(&root, &name).publishing;
        assert_eq!((left.len(), left[0].session.as_str()), (1, "s4"));
        r.append(&finished("s5", Next::Done, Some("b"))).unwrap();
        assert!(r.history().publishing.is_empty());
        assert_eq!(&history(&root, &name), r.history());
    }

    #[test]
    fn an_attempt_whose_host_was_lost_decides_nothing_when_it_comes_late() {
        let mut h = History::default();
        let lost = |sid: &str, attempt: u32, next: Next| {
            let Event::Finished(mut end) = finished(sid, next, None) else {
                unreachable!()
            };
            (end.attempt, end.end.lost) = (Some(attempt), true);
            Event::Finished(end)
        };
        let late = |next: Next, published: Option<&str>| {
            let Event::Finished(mut end) = finished("s1", next, published) else {
                unreachable!()
            };
            end.attempt = Some(1);
            Event::Finished(end)
        };
        let announced = |h: &History| {
            h.publishing
                .iter()
                .map(|p| p.session.clone())
                .collect::<Vec<_>>()
        };
        let next = |h: &History| {
            h.last
                .as_ref()
                .unwrap()
                .end
                .clone()
                .map(|end| end.next.unwrap())
        };
        h.fold(&claimed("s1", 1), "");
        let publishing = Publishing {
            session: "s1".into(),
            ..Publishing::default()
        };
        h.fold(&Event::Publishing(publishing), "");
        h.fold(&lost("s1", 1, Next::Pending), "");
        // What it may have published is taken back by whoever publishes next.
        assert_eq!((h.lost, announced(&h)), (1, vec!["s1".to_owned()]));
        // It finds its item taken away.
        h.fold(&late(Next::Left, None), "");
        assert_eq!(next(&h), Some(Next::Pending.into()));
        // It was faster after all; and whoever took it for lost comes late.
        let mut done = h.clone();
        done.fold(&late(Next::Done, Some("b")), "");
        done.fold(&lost("s1", 1, Next::Pending), "");
        assert_eq!((done.lost, next(&done)), (0, Some(Next::Done.into())));
        // Another attempt has begun.
        h.fold(&claimed("s2", 2), "");
        h.fold(&late(Next::Done, Some("b")), "");
        let canceled = Canceled {
            session: "s1".into(),
            reason: "its file was taken away".into(),
            ..Canceled::default()
        };
        h.fold(&Event::Canceled(canceled), "");
        assert_eq!((next(&h), h.branch.clone(), h.lost), (None, None, 1));
        assert_ne!(h.reason.as_deref(), Some("its file was taken away"));
        h.fold(&lost("s2", 2, Next::Pending), "");
        assert_eq!(h.lost, 2);
        h.fold(
            &Event::Retried(By {
                by: "a person".into(),
            }),
            "",
        );
        assert_eq!(h.lost, 0);
    }

    #[test]
    fn an_answer_holds_until_its_item_is_done() {
        let mut h = History::default();
        let mut attempt = |n: u32, next: Next, answer: Option<&str>| {
            let sid = format!("s{n}");
            h.fold(&claimed(&sid, n), "");
            let answered = h.previous.as_ref().and_then(|p| p.answered.clone());
            h.fold(&finished(&sid, next, None), "");
            if let Some(answer) = answer {
                let event = Answered {
                    session: sid,
                    question: "?".into(),
                    answer: Some(answer.into()),
                };
                h.fold(&Event::Answered(event), "");
            }
            answered.and_then(|a| a.answer)
        };
        assert_eq!(attempt(1, Next::Parked, Some("yes")), None);
        assert_eq!(attempt(2, Next::Retry, None).as_deref(), Some("yes"));
        assert_eq!(attempt(3, Next::Done, None).as_deref(), Some("yes"));
        assert_eq!(attempt(4, Next::Retry, None), None);
    }

    #[test]
    fn who_was_approved_waits_to_be_merged_wherever_its_attempt_sent_it() {
        for next in [Next::Review, Next::Parked] {
            let mut h = History::default();
            h.fold(&claimed("s1", 1), "");
            h.fold(&finished("s1", next, Some("b")), "");
            assert!(!h.last.as_ref().unwrap().is_for_merging());
            let approved = Reviewed {
                commit: "c".into(),
                ..Reviewed::default()
            };
            h.fold(&Event::Approved(approved), "");
            assert!(h.last.as_ref().unwrap().waits_to_merge());
            assert!(h.last.as_ref().unwrap().is_for_merging());
        }
    }

    #[test]
    fn a_persons_comment_holds_until_an_attempt_has_left_a_branch_and_an_approval_ends_it() {
        let mut h = History::default();
        let attempt = |h: &mut History, n: u32, next: Next, published: Option<&str>| {
            let sid = format!("s{n}");
            h.fold(&claimed(&sid, n), "");
            let rejected = h.previous.as_ref().and_then(|p| p.rejected.clone());
            let mut end = finished(&sid, next, published);
            if let Event::Finished(finished) = &mut end {
                finished.end.head = published.map(str::to_owned);
            }
            h.fold(&end, "");
            rejected.and_then(|r| r.comment)
        };
        let reviewed = |comment: Option<&str>| Reviewed {
            commit: "c".into(),
            comment: comment.map(str::to_owned),
            ..Reviewed::default()
        };
        assert_eq!(attempt(&mut h, 1, Next::Review, Some("b1")), None);
        h.fold(&Event::Rejected(reviewed(Some("old"))), "");
        h.fold(&Event::Rejected(reviewed(Some("why"))), "");
        for n in [2, 3] {
            let told = attempt(&mut h, n, Next::Retry, None);
            assert_eq!(told.as_deref(), Some("why"));
        }
        let told = attempt(&mut h, 4, Next::Review, Some("b4"));
        assert_eq!(told.as_deref(), Some("why"));
        h.fold(&Event::Rejected(reviewed(Some("no"))), "");
        h.fold(&Event::Approved(reviewed(None)), "");
        let last = h.last.clone().unwrap();
        assert_eq!(
            (last.rejected, last.published.unwrap().head),
            (None, "c".into())
        );
        assert_eq!(attempt(&mut h, 5, Next::Review, Some("b5")), None);
    }

    #[test]
    fn what_a_newer_version_wrote_breaks_no_line() {
        let at = "2026-01-27T10:45:00Z";
        let line = |object: serde_json::Value| Line::of(object).unwrap();
        let later = json!({"at": at, "event": "celebrated", "into": "main"});
        let unknown = line(later.clone());
        assert_eq!(unknown.object, later);
        assert_eq!(
            unknown.event,
            Event::Unknown(later.as_object().unwrap().clone())
        );
        let odd = line(json!({
            "at": at, "event": "finished", "session": "s", "outcome": "merged_late",
            "next": "elsewhere", "notes": [{"text": "later"}], "commits": "many", "later": 1,
        }));
        let Event::Finished(finished) = &odd.event else {
            panic!("{odd:?}");
        };
        assert_eq!(finished.session, "s");
        assert_eq!(
            finished.end.outcome,
            Some(Word::Newer("merged_late".into()))
        );
        assert_eq!(finished.next, Some(Word::Newer("elsewhere".into())));
        assert_eq!((finished.end.commits, finished.end.notes.len()), (None, 0));
        assert_eq!(odd.object["later"], 1);
        let mut h = History::default();
        h.fold(&claimed("s", 1), at);
        h.fold(&odd.event, at);
        assert!(h.last.unwrap().end.is_some());
    }

    #[test]
    fn an_event_is_written_as_one_flat_object() {
        let (_dir, root, name) = fresh();
        let mut r = Record::open(&root, &name).unwrap();
        let event = Event::Finished(Finished {
            session: "s".into(),
            end: End {
                outcome: Some(Outcome::NoChange.into()),
                ..End::default()
            },
            next: Some(Next::Done.into()),
            ..Finished::default()
        });
        r.append(&event).unwrap();
        let lines = lines(&root, &name).unwrap();
        let object = &lines[0].object;
        let words = ["event", "session", "outcome", "next"].map(|key| object[key].as_str());
        assert_eq!(words, ["finished", "s", "no_change", "done"].map(Some));
        assert_eq!((&lines[0].event, lines[0].at.is_empty()), (&event, false));
    }
}
