//! Finds the branch that makes a batch red. Pure: `red` runs the gates.

/// What of a batch of `n` is green, and which one is the first red one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The longest beginning of the batch that was found green; 0: none was.
    pub(super) green: usize,
    /// The one behind it, counted from 0.
    pub(super) culprit: usize,
}

/// All `n` together are red. `red(k)`: whether the first `k` are. Asks at most log2(n) times, rounded up.
pub(super) fn first_red<E>(
    n: usize,
    mut red: impl FnMut(usize) -> Result<bool, E>,
) -> Result<Found, E> {
    let (mut green, mut bad) = (0, n);
    while bad - green > 1 {
        let middle = green.midpoint(bad);
        match red(middle)? {
            true => bad = middle,
            false => green = middle,
        }
    }
    Ok(Found {
        green,
        culprit: bad - 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_sixteen_is_found_by_four_questions() {
        for n in 1..=16 {
            for guilty in 0..n {
                let mut asked = 0;
                let red = |k: usize| {
                    asked += 1;
                    Ok::<_, ()>(k > guilty)
                };
                let found = first_red(n, red);
                let wanted = Found {
                    green: guilty,
                    culprit: guilty,
                };
                assert_eq!(found, Ok(wanted), "{guilty} of {n}");
                assert!(asked <= 4, "{asked} questions for {guilty} of {n}");
            }
        }
    }
}
