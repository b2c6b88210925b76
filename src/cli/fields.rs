//! Fields of the command line, put into the text of a new item. They replace those in the text, but what
//! it waits for (`after`) is added to; the user's file stays as it is.

use std::path::Path;

use serde_json::{Map, Value};

use crate::item::{self, Kind, Refusal};
use crate::layout::Name;

const AFTER: &str = "after";

/// Interpreters that do not take a line with `#` for a comment.
const OTHER_COMMENTS: &[&str] = &[
    "node",
    "nodejs",
    "deno",
    "bun",
    "ts-node",
    "tsx",
    "lua",
    "luajit",
    "php",
    "runghc",
    "runhaskell",
    "stack",
    "ocaml",
    "scala",
    "java",
    "kotlin",
    "swift",
    "go",
    "gorun",
    "rust-script",
    "guile",
    "scheme",
    "racket",
    "sbcl",
    "clisp",
    "emacs",
    "clojure",
    "bb",
    "escript",
    "swipl",
    "osascript",
    "dotnet",
];

pub(super) fn put(
    name: &Name,
    bytes: &[u8],
    executable: bool,
    fields: &Map<String, Value>,
) -> Result<Vec<u8>, Refusal> {
    if fields.is_empty() {
        return Ok(bytes.to_vec());
    }
    let given = item::fields(name, bytes, executable)?;
    match item::kind_of(name, bytes, executable) {
        Kind::Json => {
            let all = merged(given, fields);
            Ok(serde_json::to_vec_pretty(&all).unwrap_or_else(|_| bytes.to_vec()))
        }
        Kind::Prompt => {
            let all = merged(given, fields);
            // JSON is valid YAML: one field per line.
            let mut text = b"---\n".to_vec();
            for (key, value) in &all {
                text.extend(format!("{}: {value}\n", Value::from(key.as_str())).into_bytes());
            }
            text.extend(b"---\n");
            let (_, body) = item::split_front_matter(item::without_mark(bytes))?;
            text.extend(body);
            Ok(text)
        }
        Kind::Script if item::without_mark(bytes).starts_with(b"#!") => {
            into_script(bytes, &given, fields)
        }
        Kind::Script => Err(Refusal(
            "a program has no place for fields; wrap it in a script that begins with `#!`".into(),
        )),
    }
}

/// Of what both have, that of the command line; of names to wait for, all.
fn merged(mut given: Map<String, Value>, fields: &Map<String, Value>) -> Map<String, Value> {
    let listed = |value: Option<&Value>| match value {
        Some(Value::Array(names)) => names.clone(),
        Some(Value::Null) | None => Vec::new(),
        Some(name) => vec![name.clone()],
    };
    let mut after = listed(given.get(AFTER));
    for name in listed(fields.get(AFTER)) {
        if !after.contains(&name) {
            after.push(name);
        }
    }
    given.extend(fields.clone());
    if !after.is_empty() {
        given.insert(AFTER.into(), after.into());
    }
    given
}

/// As `#harness` lines after the first line.
fn into_script(
    bytes: &[u8],
    given: &Map<String, Value>,
    fields: &Map<String, Value>,
) -> Result<Vec<u8>, Refusal> {
    let split = bytes.iter().position(|&b| b == b'\n');
    let (first, rest) = bytes.split_at(split.map_or(bytes.len(), |i| i + 1));
    if let Some(program) = without_hash_comments(first) {
        return Err(Refusal(format!(
            "fields of a script are comments that begin with `#`, and `{program}` knows no such \
             comments; start it from a script for `sh`"
        )));
    }
    let mut text = first.to_vec();
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    for (key, value) in fields {
        if given.contains_key(key) {
            return Err(Refusal(format!(
                "the script has a `#harness {key}` line of its own: change that one"
            )));
        }
        text.extend(format!("#harness {key}: {value}\n").into_bytes());
    }
    text.extend(rest);
    Ok(text)
}

/// The interpreter of a first line like `#!/usr/bin/env -S node --test`, if it is one of those.
fn without_hash_comments(first: &[u8]) -> Option<&'static str> {
    let line = String::from_utf8_lossy(item::without_mark(first)).into_owned();
    let mut words = line.strip_prefix("#!")?.split_ascii_whitespace();
    let base = |word: &str| {
        Path::new(word)
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
    };
    let mut program = base(words.next()?)?;
    if program == "env" {
        let is_program = |word: &&str| !word.starts_with('-') && !word.contains('=');
        program = base(words.find(is_program)?)?;
    }
    let plain = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    OTHER_COMMENTS
        .iter()
        .find(|known| **known == plain)
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_that_know_no_hash_comments_are_told_by_their_first_line() {
        for (line, want) in [
            ("#!/bin/sh\n", None),
            ("#!/usr/bin/env python3\n", None),
            ("#!/usr/bin/env node\n", Some("node")),
            ("#! /usr/local/bin/node20 --test", Some("node")),
            ("#!/usr/bin/env -S A=b lua5.4 -x\n", Some("lua")),
            ("#!/usr/bin/env\n", None),
            ("#!\n", None),
        ] {
            assert_eq!(without_hash_comments(line.as_bytes()), want, "{line}");
        }
    }
}
