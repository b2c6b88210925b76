//! The failing tests in a JUnit XML file that a gate wrote.
//!
//! An agent could have put anything in its place: it is read with a bound, no symlink is followed, and
//! a file that was there before the gate ran is removed first.

use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::atomic;
use crate::error::Result;
use crate::text;

/// Largest file that is read: tens of thousands of tests, with their output.
const BYTES_MAX: u64 = 64 << 20;
/// Failing tests that are kept by name, and the length of one.
const TESTS_MAX: usize = 100;
const NAME_CHARS_MAX: usize = 200;

/// Removes what lies there before the gate runs: an old report says nothing.
pub(super) fn remove_old(cwd: &Path, path: &str) -> Result<()> {
    match place(cwd, path) {
        Some(place) if !atomic::is_own_dir(&place) => atomic::remove(&place).map(drop),
        // Nothing that could be read as a report.
        _ => Ok(()),
    }
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file())
}

/// Where the file is; `None`: a folder on the way is a symlink, which may lead anywhere.
fn place(cwd: &Path, path: &str) -> Option<PathBuf> {
    let mut place = cwd.to_owned();
    for part in Path::new(path).components() {
        if !atomic::is_own_dir(&place) {
            return None;
        }
        place.push(part);
    }
    Some(place)
}

/// The names of the failing tests. The error says why the file proves nothing.
pub(super) fn failing(cwd: &Path, path: &str) -> std::result::Result<Vec<String>, String> {
    let shown = crate::layout::shown(path.as_ref());
    let Some(place) = place(cwd, path).filter(|place| is_file(place)) else {
        return Err(format!("its JUnit file {shown} is missing"));
    };
    let bytes = atomic::read_small(&place, BYTES_MAX)
        .map_err(|e| format!("its JUnit file {shown} cannot be read: {e}"))?;
    parse(&bytes).map_err(|why| format!("its JUnit file {shown} is malformed: {why}"))
}

fn parse(bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
    let mut reader = Reader::from_reader(bytes);
    let (mut failing, mut test, mut depth, mut any) = (Vec::new(), String::new(), 0_u32, false);
    let mut note = |test: &str| {
        if failing.len() < TESTS_MAX && failing.last().is_none_or(|last| last != test) {
            failing.push(test.to_owned());
        }
    };
    let mut buffer = Vec::new();
    loop {
        let event = reader
            .read_event_into(&mut buffer)
            .map_err(|e| e.to_string())?;
        let (tag, is_open) = match &event {
            Event::Start(tag) => (Some(tag), true),
            Event::Empty(tag) => (Some(tag), false),
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                (None, false)
            }
            Event::Eof if depth > 0 => return Err("it ends in the middle".to_owned()),
            Event::Eof if !any => return Err("it has no <testsuite>".to_owned()),
            Event::Eof => return Ok(failing),
            _ => (None, false),
        };
        if let Some(tag) = tag {
            depth += u32::from(is_open);
            match tag.local_name().as_ref() {
                "testsuite" | "testsuites" => any = true,
                "testcase" => test = name_of(tag)?,
                "failure" | "error" => note(&test),
                _ => {}
            }
        }
        buffer.clear();
    }
}

/// `CLASS::NAME`, or the name alone.
fn name_of(tag: &BytesStart<'_>) -> std::result::Result<String, String> {
    let mut name = String::new();
    let mut class = String::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|e| e.to_string())?;
        let value = quick_xml::escape::unescape(&attribute.value).map_err(|e| e.to_string())?;
        match attribute.key.local_name().as_ref() {
            "name" => name = value.into_owned(),
            "classname" => class = value.into_owned(),
            _ => {}
        }
    }
    let whole = match class.is_empty() {
        true => name,
        false => format!("{class}::{name}"),
    };
    let whole: String = whole.chars().take(NAME_CHARS_MAX).collect();
    Ok(text::one_line(&whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_tests_are_known_by_name_and_what_is_no_report_is_refused() {
        let report = r#"<?xml version="1.0"?><testsuites><testsuite name="s">
            <testcase classname="a.B" name="ok"/>
            <testcase classname="a.B" name="bad &lt;1&gt;"><failure message="m">x</failure></testcase>
            <testcase name="worse"><error/><failure/></testcase>
            <testcase name="skipped"><skipped/></testcase></testsuite></testsuites>"#;
        let failing = vec!["a.B::bad <1>".to_owned(), "worse".to_owned()];
        assert_eq!(parse(report.as_bytes()), Ok(failing));
        let none = "<testsuite><testcase name='a'/></testsuite>";
        assert_eq!(parse(none.as_bytes()), Ok(Vec::new()));
        for bad in [
            "",
            "x",
            "<a/>",
            "<testsuite><testcase name='a'>",
            "<testsuite></b>",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
