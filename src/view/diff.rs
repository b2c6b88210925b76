//! Where each line of a diff stands, for comments on it.

use crate::git::hunk;

/// Where a line of a diff stands on its new side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spot {
    file: Option<String>,
    /// 0: none.
    line: usize,
}

impl Spot {
    /// `FILE:LINE: words`
    pub(crate) fn says(&self, words: &str) -> String {
        match (&self.file, self.line) {
            (None, _) => words.to_owned(),
            (Some(file), 0) => format!("{file}: {words}"),
            (Some(file), line) => format!("{file}:{line}: {words}"),
        }
    }
}

/// Where each line of a diff stands. What is before the first file stands nowhere.
pub(crate) fn spots(lines: &[&[u8]]) -> Vec<Spot> {
    let mut spot = Spot::default();
    // Lines of the hunk that are still to come, on each side.
    let mut left = (0, 0);
    let mut all = Vec::with_capacity(lines.len());
    for line in lines {
        let mark = line.first().copied();
        match mark {
            Some(b'-') if left.0 > 0 => left.0 -= 1,
            Some(b'+') if left.1 > 0 => {
                left.1 -= 1;
                spot.line += 1;
            }
            Some(b' ') | None if left.0 > 0 && left.1 > 0 => {
                left = (left.0 - 1, left.1 - 1);
                spot.line += 1;
            }
            Some(b'@') => {
                if let Some(((_, old), (first, new))) = hunk(line) {
                    left = (old, new);
                    // Of a side without lines, git names the line before it.
                    spot.line = if new == 0 {
                        first
                    } else {
                        first.saturating_sub(1)
                    };
                }
            }
            Some(b'\\') => {}
            _ => spot = spot.header(&String::from_utf8_lossy(line)),
        }
        all.push(spot.clone());
    }
    all
}

impl Spot {
    /// A line before a file's first hunk.
    fn header(self, line: &str) -> Spot {
        let named = |file: &str| Spot {
            // git ends a name that has a space with a tab.
            file: Some(file.trim_end_matches('\t').to_owned()),
            line: 0,
        };
        if let Some(both) = line.strip_prefix("diff --git ") {
            // Of a name with ` b/` in it, a later line says more.
            let (_, new) = both.rsplit_once(" b/").unwrap_or_default();
            return named(new);
        }
        for sign in ["+++ b/", "--- a/", "rename to ", "copy to "] {
            if let Some(file) = line.strip_prefix(sign) {
                return named(file);
            }
        }
        for sign in ["+++ \"b/", "--- \"a/"] {
            if let Some(file) = line.strip_prefix(sign) {
                return named(&format!("\"{file}"));
            }
        }
        Spot { line: 0, ..self }
    }
}

/// One of each kind of line, for tests.
#[cfg(test)]
pub(crate) const SAMPLE: &str = "\
# head
diff --git a/src/a b.rs b/src/a b.rs
index 1..2 100644
--- a/src/a b.rs\t
+++ b/src/a b.rs\t
@@ -1,3 +1,3 @@ fn x()
 one
-two
+--- b/two
 three
@@ -10 +10,2 @@
 ten
+eleven
diff --git a/gone b/gone
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-x
diff --git a/old b/new
rename from old
rename to new
Binary files differ
";

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_diff_stands_somewhere_on_its_new_side() {
        let lines: Vec<&[u8]> = SAMPLE.as_bytes().split(|&b| b == b'\n').collect();
        let spots = spots(&lines);
        let of = |line: &str| {
            let at = SAMPLE.lines().position(|l| l == line).unwrap();
            spots[at].says("w")
        };
        for (line, want) in [
            ("# head", "w"),
            ("diff --git a/src/a b.rs b/src/a b.rs", "src/a b.rs: w"),
            ("@@ -1,3 +1,3 @@ fn x()", "src/a b.rs: w"),
            (" one", "src/a b.rs:1: w"),
            ("-two", "src/a b.rs:1: w"),
            ("+--- b/two", "src/a b.rs:2: w"),
            (" three", "src/a b.rs:3: w"),
            ("@@ -10 +10,2 @@", "src/a b.rs:9: w"),
            ("+eleven", "src/a b.rs:11: w"),
            ("-x", "gone: w"),
            ("rename to new", "new: w"),
            ("Binary files differ", "new: w"),
        ] {
            assert_eq!(of(line), want, "{line}");
        }
    }
}
