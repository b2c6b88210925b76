//! `harness review NAME --edit`: a person writes comments into the changes, in an editor of theirs.
//!
//! Invariant: what was written is lost only where the person wanted that: its file stays, and is named,
//! where it could not be recorded.

use super::draft::Draft;
use super::waiting::Waiting;
use super::{moves, verdicts};
use crate::error::{Error, Result, tell};
use crate::git::{Edit, Look, edits};
use crate::layout::Root;
use crate::quote::{harness, item};
use crate::view::diff::spots;
use crate::view::{count_of, safe};

/// An editor reads it whole, and so does a person.
const DIFF_BYTES_MAX: usize = 32 << 20;

/// Has a person write into the changes between two commits; what was written sends the item back.
pub(super) fn edit(
    root: &Root,
    look: &Look<'_>,
    waiting: &Waiting,
    (from, tip): (&str, &str),
) -> Result<u8> {
    let what = "cannot edit the changes";
    let name = &waiting.name;
    let diff = look.diff(from, tip)?;
    if diff.truncated || diff.stdout.len() > DIFF_BYTES_MAX {
        let (harness, arg) = (harness(), item(name));
        return Err(Error::permanent(what, "there are too many for an editor")
            .hint(format!("`{harness} reject {arg} --comment TEXT`")));
    }
    let mut text = head(waiting).into_bytes();
    text.extend(&diff.stdout);
    // Of a name that editors know to colour.
    let file = format!("{}.diff", name.ref_component());
    let draft = Draft::new(root, &file, &text)?;
    let shown = draft.beside("shown", &text)?;
    draft.edit(what, "nothing was sent back")?;
    // What it took to write it is not to be lost from here on.
    let kept = |e| {
        draft.keep();
        Err(e)
    };
    let written = edits(&shown, &draft.file).map(|edits| comments(&text, &edits));
    let (comments, ignored) = match written {
        Ok(written) => written,
        Err(e) => return kept(e),
    };
    if ignored > 0 {
        let lines = count_of(ignored, "changed line");
        tell(&format!("harness: {lines} of the diff itself: ignored"));
    }
    if comments.is_empty() {
        draft.discard();
        tell(&format!(
            "harness: {name}: you added no line: nothing happens"
        ));
        return Ok(0);
    }
    let comment = comments.join("\n");
    let act: &dyn Fn(&Root, &_) -> _ = &|root: &Root, name: &_| {
        verdicts::reject_one(root, name, Some(tip), "harness review --edit", &comment)
    };
    let sent = verdicts::check(&comment).and_then(|()| moves::wherever_it_is(root, name, act));
    match sent {
        Ok(_) => {
            draft.discard();
            let n = count_of(comments.len() as u64, "comment");
            tell(&format!("harness: {name}: back in the queue, with {n}"));
            Ok(0)
        }
        Err(e) => kept(e),
    }
}

fn head(waiting: &Waiting) -> String {
    let branch = waiting.branch.as_ref();
    let base = branch.and_then(|b| b.base.as_deref()).unwrap_or("its base");
    format!(
        "# {}: what {} changes, for {}.\n\
         # Write below the lines that you mean, on lines of your own: the next attempt gets them, each with\n\
         # its place. Without such a line nothing happens. What you change in the other lines is ignored.\n",
        safe(&waiting.name.shown()),
        safe(branch.map_or("?", |b| &b.name)),
        safe(base),
    )
}

/// What a person added, each with the file and line that it stands behind; and how many lines of the
/// diff itself were changed.
fn comments(text: &[u8], edits: &[Edit]) -> (Vec<String>, u64) {
    let lines: Vec<&[u8]> = text.split(|&b| b == b'\n').collect();
    let spots = spots(&lines);
    let (mut all, mut ignored) = (Vec::new(), 0);
    for edit in edits {
        let end = (edit.at + edit.gone).min(lines.len());
        let gone = &lines[edit.at.min(end)..end];
        let mut words: Vec<String> = Vec::new();
        let mut say = |words: &mut Vec<String>, behind: usize| {
            let text = std::mem::take(words).join("\n");
            let text = text.trim_matches('\n');
            if !text.trim().is_empty() {
                let spot = behind.checked_sub(1).and_then(|at| spots.get(at));
                all.push(spot.cloned().unwrap_or_default().says(text));
            }
        };
        let mut from = 0;
        for new in &edit.new {
            match (from..gone.len()).find(|&at| is_changed(gone[at], new)) {
                Some(at) => {
                    say(&mut words, edit.at + at);
                    from = at + 1;
                    ignored += u64::from(!new.is_empty());
                }
                None => words.push(String::from_utf8_lossy(new).trim_end().to_owned()),
            }
        }
        // Behind what it was written over.
        say(&mut words, end);
    }
    (all, ignored)
}

/// Whether a line is one of the diff with a few characters changed, not one that a person added where
/// that one was.
fn is_changed(old: &[u8], new: &[u8]) -> bool {
    let (old, new) = (old.trim_ascii_end(), new.trim_ascii_end());
    if old == new {
        return true;
    }
    if old.first() != new.first() {
        return false;
    }
    let same = |a: &mut dyn Iterator<Item = (u8, u8)>| a.take_while(|(a, b)| a == b).count();
    let shorter = old.len().min(new.len());
    let front = same(&mut old.iter().copied().zip(new.iter().copied()));
    let back = same(&mut old.iter().rev().copied().zip(new.iter().rev().copied()));
    let kept = (front + back).min(shorter);
    kept * 2 >= old.len().max(new.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;
    use crate::view::diff::SAMPLE;

    #[test]
    fn what_is_added_is_a_comment_and_what_is_changed_is_none() {
        let at = |line: &str| SAMPLE.lines().position(|l| l == line).unwrap();
        let edit = |at: usize, gone: usize, new: &[&str]| Edit {
            at,
            gone,
            new: new.iter().map(|l| l.as_bytes().to_vec()).collect(),
        };
        let said = |edits: &[Edit]| comments(SAMPLE.as_bytes(), edits);
        let behind = at("+eleven") + 1;
        assert_eq!(
            said(&[edit(behind, 0, &["", "+ why?", "", "  and how? ", ""])]),
            (vec!["src/a b.rs:11: + why?\n\n  and how?".into()], 0)
        );
        // A line that lost its end, and one that was written over another.
        assert_eq!(said(&[edit(at("+eleven"), 1, &["+elev"])]), (Vec::new(), 1));
        assert_eq!(
            said(&[edit(at("+eleven"), 1, &["not so: use ten", "+eleven "])]),
            (vec!["src/a b.rs:10: not so: use ten".into()], 1)
        );
        assert_eq!(
            said(&[edit(at("+eleven"), 1, &["use ten"])]),
            (vec!["src/a b.rs:11: use ten".into()], 0)
        );
        assert_eq!(said(&[edit(at(" one"), 2, &[])]), (Vec::new(), 0));
        assert_eq!(said(&[edit(1, 0, &["all in all"])]).0, ["all in all"]);
        assert_eq!(said(&[edit(999, 9, &["x"])]).0.len(), 1);
    }
}
