//! `[budget]`: what agents may cost.

use std::time::Duration;

use serde::Deserialize;

use super::seconds;

/// `[budget]`; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct BudgetTable {
    pub day_usd: f64,
    pub day_tokens: u64,
    /// All attempts of an item, since a person last gave it to the queue.
    pub item_usd: f64,
    pub item_tokens: u64,
    /// As long as there is this ROOT.
    pub total_usd: f64,
    pub total_tokens: u64,
    /// How long a window of a subscription lasts.
    #[serde(deserialize_with = "seconds")]
    pub window: Duration,
    pub window_tokens: u64,
    /// Share of a window that is left to the person, 0 to 1.
    pub reserve_for_people: f64,
    /// Whether a window is spent no faster than it passes.
    pub pace: bool,
}
