//! What a branch changes, with a person's comments among its lines; they go back to the agent together.

use serde::Deserialize;

use super::canvas::Canvas;
use super::keys::Key;
use crate::layout::Name;
use crate::view::diff::{Spot, spots};
use crate::view::{Paint, count_of, short};

/// What `harness review NAME --json` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reviewed {
    state: Option<String>,
    branch: Option<String>,
    base: Option<String>,
    tip: Option<String>,
    moved: bool,
    commits: Option<u64>,
    files_changed: Option<u64>,
    insertions: Option<u64>,
    deletions: Option<u64>,
    conflicts: Option<Vec<String>>,
    gates: Vec<Gate>,
    diff: String,
    diff_is_cut: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Gate {
    gate: String,
    verdict: String,
}

struct Comment {
    /// The line that it is about.
    line: usize,
    text: String,
}

pub(super) struct Diff {
    pub(super) name: Name,
    /// The commit that is shown.
    pub(super) tip: String,
    /// It waits for a person, not to be merged.
    pub(super) is_in_review: bool,
    pub(super) head: String,
    lines: Vec<String>,
    spots: Vec<Spot>,
    /// By line.
    comments: Vec<Comment>,
    /// The line that the cursor is on, and the first that is shown.
    at: usize,
    top: usize,
    /// Columns that are scrolled over.
    aside: usize,
    height: usize,
    find: String,
}

impl Diff {
    /// `None`: it is not what was expected.
    pub(super) fn new(name: Name, json: &[u8]) -> Option<Diff> {
        let reviewed: Reviewed = serde_json::from_slice(json).ok()?;
        let tip = reviewed.tip.clone()?;
        let head = head(&reviewed, &tip);
        let mut lines: Vec<String> = reviewed.diff.lines().map(str::to_owned).collect();
        let bytes: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let spots = spots(&bytes);
        if reviewed.diff_is_cut {
            lines.push("… and more, which are not shown here".into());
        }
        Some(Diff {
            name,
            tip,
            is_in_review: reviewed.state.as_deref() == Some("review"),
            head,
            lines,
            spots,
            comments: Vec::new(),
            at: 0,
            top: 0,
            aside: 0,
            height: 1,
            find: String::new(),
        })
    }

    pub(super) fn comments(&self) -> usize {
        self.comments.len()
    }

    /// What was written about the line at the cursor.
    pub(super) fn comment(&self) -> &str {
        let here = self.comments.iter().find(|c| c.line == self.at);
        here.map_or("", |c| &c.text)
    }

    /// Sets the comment at the cursor; an empty one is none.
    pub(super) fn set_comment(&mut self, text: &str) {
        self.comments.retain(|c| c.line != self.at);
        if !text.trim().is_empty() {
            let (line, text) = (self.at, text.trim().to_owned());
            self.comments.push(Comment { line, text });
            self.comments.sort_by_key(|c| c.line);
        }
    }

    /// Where the cursor stands: `src/x.rs:12`.
    pub(super) fn spot(&self) -> String {
        let spot = self.spots.get(self.at).cloned().unwrap_or_default();
        let says = spot.says("");
        match says.trim_end_matches([':', ' ']) {
            "" => "comment".to_owned(),
            spot => spot.to_owned(),
        }
    }

    /// All comments, each with its place, as the agent is told.
    pub(super) fn told(&self) -> String {
        let told = self.comments.iter().map(|c| {
            let spot = self.spots.get(c.line).cloned().unwrap_or_default();
            spot.says(&c.text)
        });
        told.collect::<Vec<_>>().join("\n")
    }

    pub(super) fn place(&self) -> String {
        format!(
            "{} of {}",
            (self.at + 1).min(self.lines.len()),
            self.lines.len()
        )
    }

    pub(super) fn draw(&mut self, canvas: &mut Canvas, from: u16, to: u16) {
        self.height = usize::from(to.saturating_sub(from)).max(1);
        self.keep_in_sight();
        if self.lines.is_empty() {
            canvas.put((1, from), canvas.width(), Paint::Dim, "it changes nothing");
        }
        let (mut y, mut n) = (from, self.top);
        while y < to && n < self.lines.len() {
            self.draw_line(canvas, y, n);
            y += 1;
            if let Some(comment) = self.comments.iter().find(|c| c.line == n)
                && y < to
            {
                let parts = [(Paint::Yellow, "  >> "), (Paint::Yellow, &*comment.text)];
                canvas.put_all((0, y), canvas.width(), &parts);
                y += 1;
            }
            n += 1;
        }
    }

    fn draw_line(&self, canvas: &mut Canvas, y: u16, n: usize) {
        let line = &self.lines[n];
        let paint = match line.as_bytes().first() {
            Some(b'+') => Paint::Green,
            Some(b'-') => Paint::Red,
            Some(b'@') => Paint::Cyan,
            Some(b' ') | None => Paint::Plain,
            _ => Paint::Dim,
        };
        // The sign stays where it is.
        let mut chars = line.chars();
        let sign: String = chars.by_ref().take(1).collect();
        let rest: String = chars.skip(self.aside).collect();
        let parts = [(paint, &*sign), (paint, &*rest)];
        canvas.put_all((0, y), canvas.width(), &parts);
        if line.starts_with("diff ") {
            canvas.bold(0, y, canvas.width());
        }
        if n == self.at {
            canvas.reverse(y);
        }
    }

    /// Scrolls so that the cursor, and a comment below it, is on the screen.
    fn keep_in_sight(&mut self) {
        self.top = self.top.min(self.at);
        loop {
            let between = self
                .comments
                .iter()
                .filter(|c| (self.top..=self.at).contains(&c.line));
            let rows = self.at - self.top + 1 + between.count();
            if rows <= self.height || self.top >= self.at {
                return;
            }
            self.top += 1;
        }
    }

    /// `false`: not a key of a diff.
    pub(super) fn key(&mut self, key: &Key) -> bool {
        let last = self.lines.len().saturating_sub(1);
        let page = self.height.max(2) - 1;
        let file = |line: &String| line.starts_with("diff ");
        let to = match key {
            Key::Up | Key::Char('k') => self.at.saturating_sub(1),
            Key::Down | Key::Char('j') => self.at + 1,
            Key::PageUp | Key::Char('b') | Key::Ctrl('b') => self.at.saturating_sub(page),
            Key::PageDown | Key::Char(' ' | 'f') | Key::Ctrl('f') => self.at + page,
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => last,
            // The next and the last file.
            Key::Tab | Key::Char(']') => {
                let next = self.lines.iter().skip(self.at + 1).position(file);
                next.map_or(self.at, |n| self.at + 1 + n)
            }
            Key::BackTab | Key::Char('[') => {
                let before = self.lines.iter().take(self.at).rposition(file);
                before.unwrap_or(0)
            }
            Key::Left => {
                self.aside = self.aside.saturating_sub(16);
                return true;
            }
            Key::Right => {
                self.aside = (self.aside + 16).min(10_000);
                return true;
            }
            Key::Char('n') => return self.found(true),
            Key::Char('N') => return self.found(false),
            _ => return false,
        };
        self.at = to.min(last);
        true
    }

    pub(super) fn find(&mut self, text: &str) -> bool {
        self.find = text.to_lowercase();
        self.found(true)
    }

    /// Goes to the next line that has it, over the end.
    fn found(&mut self, forward: bool) -> bool {
        let count = self.lines.len();
        let way = (1..=count).map(|step| match forward {
            true => (self.at + step) % count,
            false => (self.at + count - step) % count,
        });
        let has =
            |n: &usize| !self.find.is_empty() && self.lines[*n].to_lowercase().contains(&self.find);
        let found = way.into_iter().find(has);
        self.at = found.unwrap_or(self.at);
        found.is_some()
    }
}

fn head(reviewed: &Reviewed, tip: &str) -> String {
    let branch = reviewed.branch.as_deref().unwrap_or("?");
    let base = reviewed.base.as_deref().unwrap_or("?");
    let mut words = vec![format!("{branch} at {}", short(tip))];
    words.extend(reviewed.commits.map(|n| count_of(n, "commit")));
    words.extend(reviewed.files_changed.map(|n| count_of(n, "file")));
    if let Some((more, less)) = reviewed.insertions.zip(reviewed.deletions) {
        words.push(format!("+{more} -{less}"));
    }
    match &reviewed.conflicts {
        Some(paths) if !paths.is_empty() => {
            let n = count_of(paths.len() as u64, "file");
            words.push(format!("CONFLICTS with {base} in {n}"));
        }
        _ => words.push(format!("for {base}")),
    }
    let is_bad = |gate: &&Gate| gate.verdict != "green";
    let bad = reviewed.gates.iter().filter(is_bad);
    words.extend(bad.map(|gate| format!("gate {} {}", gate.gate, gate.verdict)));
    let green = reviewed
        .gates
        .iter()
        .filter(|g| g.verdict == "green")
        .count();
    words.extend((green > 0).then(|| count_of(green as u64, "green gate")));
    words.extend(reviewed.moved.then(|| "MOVED since its attempt".to_owned()));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;

    const DIFF: &str =
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n";

    fn diff() -> Diff {
        let json = serde_json::json!({
            "state": "review", "branch": "harness/x/1", "base": "main", "tip": "0123456789abcdef",
            "moved": false, "commits": 1, "files_changed": 1, "insertions": 1, "deletions": 1,
            "conflicts": null, "gates": [{"gate": "test", "verdict": "flaky"}], "diff": DIFF,
        });
        Diff::new(Name::new("x"), json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn comments_are_told_with_their_places_in_the_order_of_the_lines() {
        let mut diff = diff();
        assert_eq!(
            diff.head,
            "harness/x/1 at 012345678, 1 commit, 1 file, +1 -1, for main, gate test flaky"
        );
        diff.key(&Key::End);
        assert_eq!(diff.spot(), "x:2");
        diff.set_comment(" why three? ");
        diff.key(&Key::Home);
        diff.set_comment("all in all good");
        assert_eq!(diff.told(), "x: all in all good\nx:2: why three?");
        assert_eq!(diff.comment(), "all in all good");
        diff.set_comment("");
        assert_eq!((diff.comments(), &*diff.told()), (1, "x:2: why three?"));
        assert!(diff.find("TWO") && diff.at == 5);
    }

    #[test]
    fn the_cursor_and_its_comment_stay_on_the_screen() {
        let mut diff = diff();
        let mut canvas = Canvas::new(Rect::new(0, 0, 20, 3), true);
        diff.key(&Key::End);
        diff.set_comment("why?");
        diff.draw(&mut canvas, 0, 3);
        let text: String = canvas.buffer.content().iter().map(|c| c.symbol()).collect();
        assert!(
            text.contains("+three") && text.contains(">> why?"),
            "{text}"
        );
        for key in [Key::PageUp, Key::PageDown, Key::Up, Key::Tab, Key::BackTab] {
            diff.key(&key);
            diff.draw(&mut canvas, 0, 3);
            assert!((diff.top..diff.top + 3).contains(&diff.at));
        }
    }
}
