//! How far a text stands in JSON as it is: reading and writing what agents say goes over every byte
//! of it, and this is all that most of them need.

/// Where from `begin` on the first byte stands that is not simply one of a string's: a quote, a
/// backslash, or a control character, which no string may hold. Looks at eight at a time.
#[inline(always)]
pub fn plain_end(bytes: &[u8], begin: usize) -> usize {
    let mut at = begin;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        if let Some(n) = first_special(u64::from_le_bytes(*word)) {
            return at + n;
        }
        at += 8;
        if (at - begin).is_multiple_of(MANY) {
            at = plain_many(bytes, at);
        }
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|b| !is_special(**b)).count()
}

/// What of a long text is looked at in one step, which the compiler does with vectors.
const MANY: usize = 32;

#[inline(never)]
fn plain_many(bytes: &[u8], mut at: usize) -> usize {
    while let Some(many) = bytes.get(at..).and_then(<[u8]>::first_chunk::<MANY>) {
        // No early end, for the vectors' sake.
        if many.iter().fold(false, |found, b| found | is_special(*b)) {
            break;
        }
        at += MANY;
    }
    at
}

fn is_special(b: u8) -> bool {
    (b == b'"') | (b == b'\\') | (b < 0x20)
}

/// `is_special` of eight bytes: which is the first one.
#[inline]
fn first_special(word: u64) -> Option<usize> {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = EACH << 7;
    // The high bit of each byte that is less than `n`; of the bytes above the first one also of some
    // that are not, as it borrows of them. None of those that are not ASCII.
    let less = |word: u64, n: u64| word.wrapping_sub(EACH * n) & !word & HIGH;
    let quote = less(word ^ (EACH * u64::from(b'"')), 1);
    let backslash = less(word ^ (EACH * u64::from(b'\\')), 1);
    let found = quote | backslash | less(word, 0x20);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_string_ends_where_it_ends_at_every_place_in_a_word() {
        for length in 0..100 {
            for special in [b'"', b'\\', 0, 0x1f] {
                let mut text = vec![b' '; length];
                assert_eq!(plain_end(&text, 0), length);
                text.push(special);
                text.extend_from_slice(b"\"\x01\\ and more behind it \x80\xff\x7f");
                for begin in 0..=length {
                    assert_eq!(plain_end(&text, begin), length, "{begin} {special}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_word_is_looked_through_as_its_bytes_are(bytes in any::<[u8; 8]>()) {
            let first = bytes.iter().position(|b| is_special(*b));
            prop_assert_eq!(first_special(u64::from_le_bytes(bytes)), first);
        }
    }
}
