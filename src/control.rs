//! Control files in `state/control/`. While a file exists, its order holds for every process and
//! across restarts; removing it ends it.
//!
//! `pause`: claim nothing. `drain`: end when nothing is left to do. `stop`: claim nothing, let
//! agents finish, end. `workers`: how many slots the whole ROOT has.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::atomic;
use crate::error::Result;
use crate::layout::Root;
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

    /// The order that is meant by its word.
    pub(crate) fn of(word: &OsStr) -> Option<Order> {
        Order::ALL.into_iter().find(|order| word == order.file())
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
    /// `workers` is unreadable or invalid, or being written: its previous value still holds.
    pub workers_unclear: bool,
    /// What is wrong with `workers`, as a message.
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
        // Unreadable is not removed: the previous value still holds.
        orders.workers_unclear = !atomic::is_gone(&path);
        return orders;
    };
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned();
    match text.trim().parse::<usize>() {
        Ok(n) if n <= WORKERS_MAX => orders.workers = Some(n),
        // `echo 5 >` between truncating and writing.
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

/// Gives an order; does nothing new if it is given already.
pub fn give(root: &Root, order: Order, why: &str) -> Result<()> {
    atomic::make_dir(&root.control(), true)?;
    atomic::replace(&order.path(root), format!("{why}\n").as_bytes(), false)
}

/// Removes one order. `false`: it was not given.
pub(crate) fn end(root: &Root, order: Order) -> Result<bool> {
    atomic::take_away(&order.path(root))
}

/// Removes every order but `workers`; returns those that existed.
pub fn resume(root: &Root) -> Result<Vec<Order>> {
    let mut ended = Vec::new();
    for order in Order::ALL {
        if end(root, order)? {
            ended.push(order);
        }
    }
    Ok(ended)
}
