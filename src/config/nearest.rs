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
    closest(word, 2, known.into_iter().map(|k| (k, k)))
}

/// The same of names of several words (`fix-the-title-c94289`, `fix.md`), of which people type the first
/// ones.
pub fn nearest_beginning<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let beginnings = |name: &'a str| {
        let ends = name.match_indices(['-', '.', '_']);
        ends.map(move |(end, _)| (&name[..end], name))
    };
    let whole = nearest(word, known.clone());
    whole.or_else(|| closest(word, 1, known.into_iter().flat_map(beginnings)))
}

/// What stands behind the closest of these words.
fn closest<'a>(
    word: &str,
    least: usize,
    known: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<&'a str> {
    let len = word.chars().take(WORD_CHARS_MAX + 1).count();
    if len > WORD_CHARS_MAX {
        return None;
    }
    let word = word.to_lowercase();
    known
        .map(|(k, meant)| (strsim::osa_distance(&word, &k.to_lowercase()), k, meant))
        .filter(|(d, k, _)| *d <= (len / 3).max(least) && *d < k.chars().count())
        .min_by_key(|(d, ..)| *d)
        .map(|(.., meant)| meant)
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
    fn names_of_several_words_are_found_by_their_first_ones() {
        let known = ["fix-the-title-c94289", "b-1", "notes.md"];
        for (word, meant) in [
            ("fix-the-tilte", Some("fix-the-title-c94289")),
            ("fx-the", Some("fix-the-title-c94289")),
            ("ntoes", Some("notes.md")),
            ("b2", Some("b-1")),
            ("q", None),
            ("something", None),
        ] {
            assert_eq!(nearest_beginning(word, known), meant, "{word}");
        }
    }

    #[test]
    fn words_from_outside_stay_short_and_on_one_line() {
        assert_eq!(quoted("a\nb\"\u{1b}"), "\"a\\nb\\\"\\u{1b}\"");
        assert!(quoted(&"x".repeat(1_000)).chars().count() < 90);
    }
}
