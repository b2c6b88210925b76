//! Reads an `events.jsonl` line by line, also while it is being written.
//!
//! Does not know what events mean. Invariants: every complete line is returned once and in order;
//! at most one line is in memory; a line that is no event does not end the reading.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use crate::atomic;
use crate::event::Line;

/// Longer lines are not harness's: it clips an event to 8 KiB, at most 48 KiB when escaped.
const LINE_BYTES_MAX: usize = 1 << 20;

/// One line of the file.
#[derive(Debug)]
pub(super) enum Entry {
    /// An event, with its line from the file.
    Event(Box<Line>, String),
    /// A JSON object that this version does not know as an event, with its line.
    Unknown(Value, String),
    /// No JSON object, or longer than `LINE_BYTES_MAX`; its length in bytes.
    Bad(u64),
}

#[derive(Debug)]
pub(super) struct EventReader {
    reader: BufReader<File>,
    line: Vec<u8>,
    /// Length of the line so far, including bytes beyond `LINE_BYTES_MAX`.
    length: u64,
}

impl EventReader {
    pub(super) fn open(path: &Path) -> io::Result<EventReader> {
        Ok(EventReader {
            reader: BufReader::with_capacity(64 << 10, atomic::open_regular(path)?),
            line: Vec::new(),
            length: 0,
        })
    }

    /// Passes over what lies more than so many bytes before the end, up to the beginning of a line; how
    /// many bytes that were.
    pub(super) fn catch_up(&mut self, most: u64) -> u64 {
        let Ok(at) = self.reader.stream_position() else {
            return 0;
        };
        let end = self.reader.get_ref().metadata().map_or(0, |m| m.len());
        let to = end.saturating_sub(most);
        if to <= at || self.reader.seek(SeekFrom::Start(to)).is_err() {
            return 0;
        }
        (self.line, self.length) = (Vec::new(), 0);
        // The line into which that leads. Its end may not be written yet: then what is read next is cut.
        let mut rest = (&mut self.reader).take(most);
        let passed = rest.skip_until(b'\n').unwrap_or(0);
        to - at + passed as u64
    }

    /// The next complete line. `None`: none yet; ask again when the file has grown.
    pub(super) fn next_whole(&mut self) -> Option<Entry> {
        loop {
            let bytes = match self.reader.fill_buf() {
                Ok(bytes) if !bytes.is_empty() => bytes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // A disk error counts as the end of the file: what was read stays valid.
                Ok(_) | Err(_) => return None,
            };
            let end = bytes.iter().position(|&b| b == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            self.length += part.len() as u64;
            if self.length <= LINE_BYTES_MAX as u64 {
                self.line.extend(part);
            } else {
                self.line = Vec::new();
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some()
                && let Some(got) = self.take()
            {
                return Some(got);
            }
        }
    }

    /// Like `next_whole`, but at the end of the file also a line without a newline, for a file that
    /// nobody writes any more.
    pub(super) fn next_or_last(&mut self) -> Option<Entry> {
        self.next_whole().or_else(|| self.take())
    }

    /// Parses the buffered line; `None` if it is empty.
    fn take(&mut self) -> Option<Entry> {
        let line = std::mem::take(&mut self.line);
        let length = std::mem::take(&mut self.length);
        if length > LINE_BYTES_MAX as u64 {
            return Some(Entry::Bad(length));
        }
        if line.trim_ascii().is_empty() {
            return None;
        }
        let Ok(text) = String::from_utf8(line) else {
            return Some(Entry::Bad(length));
        };
        if let Some(event) = Line::read(text.as_bytes()) {
            return Some(Entry::Event(Box::new(event), text));
        }
        match serde_json::from_str::<Value>(&text) {
            Ok(value @ Value::Object(_)) => Some(Entry::Unknown(value, text)),
            _ => Some(Entry::Bad(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic;
    use crate::event::Body;
    use std::io::Write;

    fn text(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let body = Body::Text {
            text: text.into(),
            delta: false,
            clipped: false,
        };
        let line = Line {
            at: "2026-01-27T10:45:00.000Z",
            body,
            offset: 0,
            length: 1,
        };
        line.write(&mut out);
        out
    }

    fn word(got: Option<Entry>) -> String {
        match got {
            None => "none".into(),
            Some(Entry::Event(line, _)) => match line.body {
                Body::Text { text, .. } => text,
                other => format!("{other:?}"),
            },
            Some(Entry::Unknown(v, _)) => format!("unknown {}", v["event"]),
            Some(Entry::Bad(n)) => format!("bad {n}"),
        }
    }

    #[test]
    fn a_growing_file_gives_each_whole_line_once_and_garbage_ends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut file = atomic::open_append(&path).unwrap();
        let mut put = |bytes: &[u8]| file.write_all(bytes).unwrap();
        let mut lines = EventReader::open(&path).unwrap();
        assert_eq!(word(lines.next_whole()), "none");
        let one = text("one");
        put(&one[..9]);
        assert_eq!(word(lines.next_whole()), "none");
        put(&one[9..]);
        put(b"\n  \nnull\n\xff\xfe\n{\"event\":\"later\"}\n");
        put(&vec![b'x'; LINE_BYTES_MAX + 5]);
        put(b"\n");
        put(&text("two"));
        put(text("cut").trim_ascii_end());
        let want = ["one", "bad 4", "bad 2", "unknown \"later\""];
        for want in want {
            assert_eq!(word(lines.next_whole()), want);
        }
        let long = format!("bad {}", LINE_BYTES_MAX + 5);
        assert_eq!(word(lines.next_whole()), long);
        assert_eq!(word(lines.next_whole()), "two");
        assert_eq!(word(lines.next_whole()), "none");
        assert_eq!(word(lines.next_or_last()), "cut");
        assert_eq!(word(lines.next_or_last()), "none");
    }
}
