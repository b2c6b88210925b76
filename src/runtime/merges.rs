//! How many branches are merged together: one at first, more while all is green.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::lock;

/// By what is merged into.
#[derive(Default)]
pub(crate) struct Merges(Mutex<BTreeMap<String, usize>>);

impl Merges {
    /// At most `max`.
    pub(crate) fn most(&self, into: &str, max: usize) -> usize {
        lock(&self.0)
            .get(into)
            .copied()
            .unwrap_or(1)
            .clamp(1, max.max(1))
    }

    pub(crate) fn was_green(&self, into: &str, together: usize) {
        let mut all = lock(&self.0);
        let most = all.entry(into.to_owned()).or_insert(1);
        *most = (*most).max(together.saturating_mul(2));
    }

    pub(crate) fn was_red(&self, into: &str) {
        lock(&self.0).insert(into.to_owned(), 1);
    }
}
