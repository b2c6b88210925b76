//! A command line as it is typed in bash, up to the cursor: its words without their quotes, and a word as it
//! has to stand there.
//!
//! Nothing is expanded. Invariant: what is put into the line is that one word, whatever is in it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

/// What is typed so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Without quotes. The last one is being typed, and may be empty.
    pub(super) words: Vec<OsString>,
    last: Typed,
}

/// How the last word begins: this decides how it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Typed {
    Bare,
    /// Its first character is a quote that is still open, and no other means anything.
    InQuotes,
    /// In another way (`$(`, `x"y`): nothing is put there.
    Otherwise,
    /// It is the file of a redirection.
    File,
}

impl Line {
    pub(super) fn read(line: &[u8]) -> Line {
        let mut words = Vec::new();
        let (mut word, mut open, mut last) = (Vec::new(), None, Typed::Bare);
        // Whether a word has begun: `''` is one, too.
        let mut is_word = false;
        let mut bytes = line.iter().copied();
        while let Some(b) = bytes.next() {
            match (open, b) {
                (None, b' ' | b'\t' | b'\n') => {
                    let done = std::mem::take(&mut word);
                    if is_word && last != Typed::File {
                        words.push(OsString::from_vec(done));
                    }
                    // `> file` is one word and more.
                    if is_word || last != Typed::File {
                        last = Typed::Bare;
                    }
                    is_word = false;
                    continue;
                }
                (None, b'<' | b'>') => {
                    (is_word, last) = (false, Typed::File);
                    word.clear();
                    continue;
                }
                (None, b'\'' | b'"') => {
                    open = Some(b);
                    last = match (is_word, last) {
                        (false, Typed::Bare) => Typed::InQuotes,
                        _ => last.otherwise(),
                    };
                }
                (Some(quote), b) if quote == b => (open, last) = (None, last.otherwise()),
                (None, b'\\') => word.extend(bytes.next()),
                (_, b) => {
                    let means_more = match open {
                        None => !is_plain(char::from(b)),
                        Some(_) => MEANS_MORE_IN_QUOTES.contains(char::from(b)),
                    };
                    if means_more {
                        last = last.otherwise();
                    }
                    word.push(b);
                }
            }
            is_word = true;
        }
        words.push(OsString::from_vec(word));
        Line { words, last }
    }

    /// Whether the shell alone knows what may stand there.
    pub(super) fn is_redirected(&self) -> bool {
        self.last == Typed::File
    }

    /// What bash puts in the place of `replaced`, the end of the last word that it would exchange (after a
    /// `=` or `:` it keeps what is before), so that the word becomes `word`. `None`: it cannot.
    pub(super) fn put(&self, word: &str, replaced: &OsStr) -> Option<String> {
        // In quotes bash leaves out the open one, and a space there is none between words.
        let replaced = match self.last {
            Typed::InQuotes => replaced.to_owned(),
            _ => Line::read(replaced.as_encoded_bytes()).words.pop()?,
        };
        let replaced = replaced.as_encoded_bytes();
        let typed = self.words.last()?.as_encoded_bytes();
        let kept = typed.strip_suffix(replaced)?;
        let rest = std::str::from_utf8(word.as_bytes().strip_prefix(kept)?).ok()?;
        match self.last {
            Typed::Bare => Some(escaped(rest)),
            // bash itself ends the quotes.
            Typed::InQuotes => {
                let means_more = rest.contains(|c| MEANS_MORE_IN_QUOTES.contains(c));
                (!means_more).then(|| rest.to_owned())
            }
            Typed::Otherwise | Typed::File => None,
        }
    }
}

impl Typed {
    fn otherwise(self) -> Typed {
        match self {
            Typed::File => Typed::File,
            _ => Typed::Otherwise,
        }
    }
}

const MEANS_MORE_IN_QUOTES: &str = "'\"$`\\!";

/// Whether it is itself to every shell, wherever it stands.
fn is_plain(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || "_-./,+@%:=".contains(c)
}

/// With a backslash before each character that a shell could take for more than itself.
fn escaped(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    for c in word.chars() {
        if !is_plain(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        Line::read(line.as_bytes()).words
    }

    #[test]
    fn words_are_read_as_a_shell_reads_them() {
        assert_eq!(words("harness show "), ["harness", "show", ""]);
        assert_eq!(words(r"harness  show a\ b"), ["harness", "show", "a b"]);
        assert_eq!(words("h 'a b' '' \"x y"), ["h", "a b", "", "x y"]);
        assert_eq!(words("h a\\"), ["h", "a"]);
        assert_eq!(words("h >file a 2> f b"), ["h", "a", "b"]);
        assert_eq!(words(""), [""]);
    }

    #[test]
    fn what_is_put_into_the_line_is_that_word_or_nothing() {
        let put = |line: &str, word: &str, replaced: &str| {
            Line::read(line.as_bytes()).put(word, replaced.as_ref())
        };
        let odd = "a $(b)'\"\\;*~é";
        let safe = put("h a", odd, "a").unwrap();
        assert_eq!(safe, "a\\ \\$\\(b\\)\\'\\\"\\\\\\;\\*\\~é");
        // What was put there is read as that word.
        assert_eq!(words(&format!("h {safe}")), ["h", odd]);
        let agent = put("h --agent=cl", "--agent=claude", "cl");
        assert_eq!(agent.unwrap(), "claude");
        assert_eq!(put("h \"a", "a b", "a").unwrap(), "a b");
        assert_eq!(put("h 'a", "a;b", "a").unwrap(), "a;b");
        for quote in ['"', '\''] {
            let within = |typed: &str, word| put(&format!("h {quote}{typed}"), word, typed);
            for typed in ["a", "a ", "a b", "a b>"] {
                assert_eq!(within(typed, "a b>c").unwrap(), "a b>c");
            }
            assert_eq!(within(" ", " a").unwrap(), " a");
        }
        for odd in ["a'", "a\"", "a$b", "a`b", "a\\", "a!"] {
            assert_eq!(put("h \"a", odd, "a"), None);
            assert_eq!(put("h 'a", odd, "a"), None);
        }
        // What is typed would make more of it than a word.
        for typed in [
            "x'a", "$(", "`", "\"$(", "\"`", "${", "a;", "'a'", "~", ">a",
        ] {
            let line = format!("h {typed}");
            for word in [odd, "xa b", "$(touch a)", "`a`", "${a}", "a;b", "~", ">a"] {
                for replaced in ["", "a"] {
                    assert_eq!(put(&line, word, replaced), None, "{line} {word}");
                }
            }
        }
    }

    #[test]
    fn the_file_of_a_redirection_is_the_shells() {
        let is_file = |line: &str| Line::read(line.as_bytes()).is_redirected();
        assert!(is_file("h x >f") && is_file("h x 2> f") && is_file("h <") && is_file("h > \"f"));
        assert!(!is_file("h > f ") && !is_file("h > f x") && !is_file("h \\>f"));
    }
}
