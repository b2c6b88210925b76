//! Standing orders: files in `state/control/` and `state/interrupts/`. While a file exists, its
//! order holds, in every process and over restarts; removing it ends it.
//!
//! `pause`: claim nothing. `drain`: end when nothing is left to do. `stop`: claim nothing, let
//! agents finish, end. `workers`: how many slots the whole ROOT has.

use std::path::PathBuf;

use crate::atomic;
use crate::error::{Error, Result};
use crate::layout::{Root, SlotId};
use crate::limits::{STATE_FILE_BYTES_MAX, WORKERS_MAX};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Pause,
    Drain,
    Stop,
}

impl Order {
    pub const ALL: [Order; 3] = [Order::Pause, Order::Drain, Order::Stop];

    pub fn file(self) -> &'static str {
        match self {
            Order::Pause => "pause",
            Order::Drain => "drain",
            Order::Stop => "stop",
        }
    }

    pub fn path(self, root: &Root) -> PathBuf {
        root.control().join(self.file())
    }
}

/// What the files say at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    pub pause: bool,
    pub drain: bool,
    pub stop: bool,
    pub workers: Option<usize>,
    /// The `workers` file is just being written: what it said before still holds.
    pub workers_unclear: bool,
    /// What is wrong with `workers`, for people.
    pub complaint: Option<String>,
}

pub fn read(root: &Root) -> Orders {
    let mut orders = Orders {
        pause: !atomic::is_gone(&Order::Pause.path(root)),
        drain: atomic::exists(&Order::Drain.path(root)),
        stop: atomic::exists(&Order::Stop.path(root)),
        ..Orders::default()
    };
    let path = root.control().join("workers");
    let Ok(bytes) = atomic::read_small(&path, STATE_FILE_BYTES_MAX) else {
        // Not read is not removed: what it said before still holds.
        orders.workers_unclear = !atomic::is_gone(&path);
        return orders;
    };
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned();
    match text.trim().parse::<usize>() {
        Ok(n) if n <= WORKERS_MAX => orders.workers = Some(n),
        // An `echo 5 >` caught between its two steps.
        _ if text.trim().is_empty() => orders.workers_unclear = true,
        _ => {
            orders.workers_unclear = true;
            orders.complaint = Some(format!(
                "state/control/workers says {:?}, not a number from 0 to {WORKERS_MAX}; it is ignored",
                text.trim()
            ));
        }
    }
    orders
}

/// Gives an order. Giving it twice is giving it once.
pub fn give(root: &Root, order: Order, why: &str) -> Result<()> {
    atomic::make_dir(&root.control(), true)?;
    atomic::replace(&order.path(root), format!("{why}\n").as_bytes(), false)
}

/// Ends every standing order but `workers`; says which there were.
pub fn resume(root: &Root) -> Result<Vec<Order>> {
    let mut ended = Vec::new();
    for order in Order::ALL {
        if atomic::remove(&order.path(root))? {
            ended.push(order);
        }
    }
    Ok(ended)
}

/// Why this slot must claim nothing now, if it must not: an interrupt for it or for all.
pub fn interrupt_of(root: &Root, slot: SlotId) -> Option<String> {
    let dir = root.interrupts();
    let own = dir.join(format!("{slot}.interrupt"));
    [own, dir.join("all.interrupt")].into_iter().find_map(|p| {
        if atomic::is_gone(&p) {
            return None;
        }
        // That it exists is what counts; the text is only for people.
        let bytes = atomic::read_small(&p, STATE_FILE_BYTES_MAX).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned();
        Some(text.lines().next().unwrap_or_default().to_owned())
    })
}

/// Raises an interrupt for a slot unless one stands already: an older reason is not overwritten.
pub fn interrupt(root: &Root, slot: SlotId, reason: &str) -> Result<()> {
    let path = root.interrupts().join(format!("{slot}.interrupt"));
    if atomic::exists(&path) {
        return Ok(());
    }
    if reason.is_empty() {
        return Err(Error::usage("cannot interrupt", "no reason was given"));
    }
    atomic::replace(&path, format!("{reason}\n").as_bytes(), false)
}
