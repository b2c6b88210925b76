//! The nearest known word to an unknown one, for error messages.
//!
//! Invariant: the cost is bounded for any input, which is shown short and on one line.

/// Longer words are not compared: they are no typing errors.
const WORD_CHARS_MAX: usize = 64;
/// Characters shown of an unknown word.
const SHOWN_CHARS_MAX: usize = 80;

/// The known word probably meant by `word`: at most a third of its letters (and at least two) may
/// be added, left out, changed or swapped.
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

/// `the nearest is X`, or all known words if none is near.
pub fn advice<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("the nearest is `{near}`"),
        None => {
            let all: Vec<&str> = known.into_iter().collect();
            format!("known are: {}", all.join(", "))
        }
    }
}

/// A foreign word in double quotes: escaped, clipped if long.
pub fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(SHOWN_CHARS_MAX).collect();
    let more = if chars.next().is_some() { "…" } else { "" };
    format!("\"{}{more}\"", head.escape_debug())
}

#[cfg(test)]
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
