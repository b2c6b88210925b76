//! Is there an order of these calls, each within its own time, that a sequential specification
//! accepts? The search of Wing and Gong (1993): try every call that may come next, remember what
//! was tried. Knows nothing of items.

use std::collections::HashSet;
use std::hash::Hash;

/// A call and its time: it took effect at one instant between `begin` and `end`.
#[derive(Debug, Clone)]
pub struct Call<O> {
    pub op: O,
    pub begin: i64,
    pub end: i64,
}

/// What the calls work on, one at a time.
pub trait Spec: Clone + Eq + Hash {
    type Op;
    /// What it may be after the call; nothing, where the call cannot have gone so.
    fn after(&self, op: &Self::Op) -> Vec<Self>;
}

/// The longest order that was found, where no order takes in all calls.
pub fn check<S: Spec>(start: &S, calls: &[Call<S::Op>]) -> Result<(), Vec<usize>> {
    assert!(calls.len() <= 128, "{} calls: too many", calls.len());
    let mut search = Search {
        calls,
        tried: HashSet::new(),
        path: Vec::new(),
        longest: Vec::new(),
    };
    if search.goes_on(start, 0) {
        Ok(())
    } else {
        Err(search.longest)
    }
}

struct Search<'c, S: Spec> {
    calls: &'c [Call<S::Op>],
    tried: HashSet<(u128, S)>,
    path: Vec<usize>,
    longest: Vec<usize>,
}

impl<S: Spec> Search<'_, S> {
    fn goes_on(&mut self, state: &S, done: u128) -> bool {
        let open = |n: &usize| done & (1 << n) == 0;
        let left: Vec<usize> = (0..self.calls.len()).filter(open).collect();
        let Some(first_end) = left.iter().map(|&n| self.calls[n].end).min() else {
            return true;
        };
        if !self.tried.insert((done, state.clone())) {
            return false;
        }
        if self.path.len() > self.longest.len() {
            self.longest = self.path.clone();
        }
        for n in left {
            // What begins after another has ended comes after it.
            if self.calls[n].begin > first_end {
                continue;
            }
            self.path.push(n);
            for next in state.after(&self.calls[n].op) {
                if self.goes_on(&next, done | 1 << n) {
                    return true;
                }
            }
            self.path.pop();
        }
        false
    }
}
