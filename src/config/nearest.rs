//! The nearest known word to an unknown one, for error messages.
//!
//! Keeps: input of any size costs a bounded time, and is shown short and on one line.

/// Longer words are not compared: nobody mistypes that much.
const WORD_CHARS_MAX: usize = 64;
/// How much of an unknown word is shown.
const SHOWN_CHARS_MAX: usize = 80;

/// The known word that `word` was probably meant to be: at most a third of its letters (and at
/// least two) added, left out, changed or swapped.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let len = word.chars().take(WORD_CHARS_MAX + 1).count();
    if len > WORD_CHARS_MAX {
        return None;
    }
    known
        .into_iter()
        .map(|k| {
            (
                strsim::osa_distance(&word.to_lowercase(), &k.to_lowercase()),
                k,
            )
        })
        .filter(|(d, k)| *d <= (len / 3).max(2) && *d < k.chars().count())
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// `the nearest is X`, or all that there is where nothing is near.
pub fn advice<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("the nearest is `{near}`"),
        None => {
            let all: Vec<&str> = known.into_iter().collect();
            format!("known are: {}", all.join(", "))
        }
    }
}

/// A word from outside in double quotes: escaped, cut where long.
pub fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(SHOWN_CHARS_MAX).collect();
    let more = if chars.next().is_some() { "…" } else { "" };
    format!("\"{}{more}\"", head.escape_debug())
}

#[cfg(test)]
#[allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_words_find_theirs() {
        let known = ["workers", "timeout", "kill_grace", "max"];
        assert_eq!(nearest("wrokers", known), Some("workers"));
        assert_eq!(nearest("Worker", known), Some("workers"));
        assert_eq!(nearest("kill-grace", known), Some("kill_grace"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest(&"w".repeat(1 << 20), known), None);
    }

    #[test]
    fn words_from_outside_stay_short_and_on_one_line() {
        assert_eq!(quoted("a\nb\"\u{1b}"), "\"a\\nb\\\"\\u{1b}\"");
        assert!(quoted(&"x".repeat(1_000)).chars().count() < 90);
    }
}
