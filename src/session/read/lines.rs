//! The lines of an `events.jsonl`, one at a time, also while it grows.
//!
//! Does not know what events mean. Invariants: every whole line is given once and in order; at most
//! one line is in memory; a line that is no event is given as what it is and ends nothing.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::atomic;
use crate::event::Line;

/// Events are clipped when they are written: 8 KiB of text, six bytes each where all is escaped.
/// A longer line is none of ours.
const LINE_BYTES_MAX: usize = 1 << 20;

/// One line.
#[derive(Debug)]
pub enum Got {
    /// An event, and its line as it is in the file.
    Event(Box<Line>, String),
    /// An object that is no event that we know: of a later version, perhaps.
    Unknown(Value, String),
    /// No JSON object, or too long; so many bytes.
    Bad(u64),
}

#[derive(Debug)]
pub struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
    /// All bytes of the line so far, those that are not kept included.
    length: u64,
}

impl Lines {
    pub fn open(path: &Path) -> io::Result<Lines> {
        Ok(Lines {
            reader: BufReader::with_capacity(64 << 10, atomic::open_regular(path)?),
            line: Vec::new(),
            length: 0,
        })
    }

    /// The next whole line. `None`: there is none yet; ask again when the file has grown.
    pub fn next_whole(&mut self) -> Option<Got> {
        loop {
            let bytes = match self.reader.fill_buf() {
                Ok(bytes) if !bytes.is_empty() => bytes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // Trouble with the disk looks like an end: what was read stays good.
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

    /// The next line, at the end of the file also one without a newline: nobody writes any more.
    pub fn next_or_last(&mut self) -> Option<Got> {
        self.next_whole().or_else(|| self.take())
    }

    /// What the bytes of a line are; `None` for an empty one.
    fn take(&mut self) -> Option<Got> {
        let line = std::mem::take(&mut self.line);
        let length = std::mem::take(&mut self.length);
        if length > LINE_BYTES_MAX as u64 {
            return Some(Got::Bad(length));
        }
        if line.trim_ascii().is_empty() {
            return None;
        }
        let Ok(text) = String::from_utf8(line) else {
            return Some(Got::Bad(length));
        };
        if let Some(event) = Line::read(text.as_bytes()) {
            return Some(Got::Event(Box::new(event), text));
        }
        match serde_json::from_str::<Value>(&text) {
            Ok(value @ Value::Object(_)) => Some(Got::Unknown(value, text)),
            _ => Some(Got::Bad(length)),
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
            at: "2026-01-27T10:45:00.000Z".into(),
            body,
            offset: 0,
            length: 1,
        };
        line.write(&mut out);
        out
    }

    fn word(got: Option<Got>) -> String {
        match got {
            None => "none".into(),
            Some(Got::Event(line, _)) => match line.body {
                Body::Text { text, .. } => text,
                other => format!("{other:?}"),
            },
            Some(Got::Unknown(v, _)) => format!("unknown {}", v["event"]),
            Some(Got::Bad(n)) => format!("bad {n}"),
        }
    }

    #[test]
    fn a_growing_file_gives_each_whole_line_once_and_garbage_ends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut file = atomic::open_append(&path).unwrap();
        let mut put = |bytes: &[u8]| file.write_all(bytes).unwrap();
        let mut lines = Lines::open(&path).unwrap();
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
