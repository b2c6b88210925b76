//! The order in which items start.

use crate::item::QueueFields;
use crate::layout::Name;

/// Sorts as the queue does: higher priority, then older file, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// 9 minus the priority: higher priorities sort first.
    pub(super) after_nine: u8,
    /// Nanoseconds since 1970.
    pub(super) mtime: i64,
    pub(super) name: Name,
}

impl Rank {
    pub(super) fn new(name: &Name, fields: &QueueFields, mtime: i64) -> Rank {
        Rank {
            after_nine: 9 - fields.priority.min(9),
            mtime,
            name: name.clone(),
        }
    }
}
