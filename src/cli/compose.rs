//! `harness add` with nothing typed: a person writes the item in an editor of theirs.
//!
//! Knows nothing of items. Invariant: what was written is removed only once it is in the queue, or where
//! it is empty.

use std::io::IsTerminal;

use super::draft::Draft;
use crate::atomic;
use crate::error::{Context, Error, Result, tell};
use crate::layout::Root;
use crate::limits::ITEM_BYTES_MAX;
use crate::quote::{harness, shell_quoted};

/// From this line on the text is cut off, as git does it: a `#` alone begins a heading in a prompt.
const CUT: &str = "# ------------------------ >8 ------------------------";

const HELP: &str = "
# ------------------------ >8 ------------------------
# Write above this line what an agent is to do. Everything from this line on is cut off.
# An empty text adds nothing.
# Fields may come first, between two lines of three hyphens:
#   ---
#   priority: high
#   after: NAME
#   ---
# A text that begins with `#!/bin/sh` is a script, and is run as it is.
";

/// Has a person write a text, and hands it to `record`.
pub(super) fn compose(root: &Root, record: impl FnOnce(Vec<u8>) -> Result<u8>) -> Result<u8> {
    if !std::io::stdin().is_terminal() {
        let why = "no file and no text is named, and standard input is no terminal for an editor";
        return Err(Error::usage("nothing to add", why)
            .hint("name files, `-` for what standard input brings, or --prompt TEXT"));
    }
    let draft = Draft::new(root, "item.md", HELP.as_bytes())?;
    draft.edit("cannot add the item", "nothing was added")?;
    let added = atomic::read_small(&draft.file, ITEM_BYTES_MAX + HELP.len() as u64)
        .or_fail("cannot read what you wrote", &draft.file)
        .map(|written| without_help(&written))
        .and_then(|text| {
            if text.is_empty() {
                tell("harness: the text is empty: nothing was added");
                return Ok(0);
            }
            // As it is to be added again, should this fail.
            atomic::rewrite(&draft.file, &text)?;
            record(text)
        });
    match &added {
        Ok(_) => draft.discard(),
        Err(_) if draft.is_gone() => {}
        Err(_) => {
            let (stays, harness, file) = (draft.stays(), harness(), shell_quoted(&draft.file));
            tell(&format!(
                "harness: {stays}, as it could not be added: mend it there, then `{harness} add - <{file}`"
            ));
        }
    }
    added
}

/// What a person wrote, without blank lines around it. Of the help that is left where the line to cut at
/// was removed, whole lines are dropped.
fn without_help(written: &[u8]) -> Vec<u8> {
    let is_blank = |line: &&[u8]| line.trim_ascii().is_empty();
    let is_help = |line: &[u8]| HELP.lines().skip(1).any(|help| help.as_bytes() == line);
    let lines = written.split(|&b| b == b'\n');
    let mut lines: Vec<&[u8]> = lines
        .take_while(|line| line.trim_ascii_end() != CUT.as_bytes())
        .filter(|line| !is_help(line.trim_ascii_end()))
        .skip_while(is_blank)
        .collect();
    while lines.last().is_some_and(is_blank) {
        lines.pop();
    }
    let mut text = lines.join(&b'\n');
    if !text.is_empty() {
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_is_cut_off_and_headings_stay() {
        let of = |text: &str| String::from_utf8(without_help(text.as_bytes())).expect("UTF-8");
        assert!(HELP.lines().any(|line| line == CUT));
        assert_eq!(of(HELP), "");
        assert_eq!(of(&format!("\n \n{HELP}")), "");
        let text = "---\npriority: high\n---\n# The title\n\n  Fix it.\n";
        assert_eq!(of(&format!("\n{text}\n\n{HELP}after\n")), text);
        assert_eq!(of(&format!("{text}{}", HELP.replace(CUT, ""))), text);
        assert_eq!(of("no newline"), "no newline\n");
    }
}
