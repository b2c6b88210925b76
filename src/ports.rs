//! A range of ten TCP ports for each slot, so that servers which agents start do not meet.
//!
//! Knows nothing of agents. Invariant: while a range is held, no other slot of any tree gets it: its
//! holder has a socket bound whose name says so, in the kernel's abstract names. These are of the same
//! network namespace as the ports, and end with their process however it dies.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::atomic;
use crate::clock;
use crate::layout::SlotId;
use crate::mutant::planted;

/// Ports of a range.
const SIZE: u16 = 10;
/// From here on: below it are many services' usual ports.
const FIRST: u16 = 10_000;
const LAST: u16 = 65_535;
/// So long a range that was free is taken to be: scripts that take a millisecond start one after the
/// other.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Ports that the kernel gives to connections, where it does not say: Linux' own.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// A slot's range.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u16,
    _held: UnixDatagram,
    /// When nobody else was seen to use a port of it.
    seen_free: Instant,
}

impl Ports {
    /// The range of the slot with this directory: the one that it had, where nobody else uses a port
    /// of it, else the next one. `None`: all are used.
    pub(crate) fn of(slot: &Path, had: Option<Ports>) -> Option<Ports> {
        let usable = |ports: &Ports| ports.all().all(is_free);
        let now = clock::instant();
        if let Some(mut ports) = had {
            if now < ports.seen_free + LOOK_AGAIN {
                return Some(ports);
            }
            if usable(&ports) {
                ports.seen_free = now;
                return Some(ports);
            }
        }
        let all = ranges(ephemeral());
        let begin = begin(slot, all.len());
        let (before, after) = all.split_at(begin);
        let all = after.iter().chain(before).copied();
        all.filter_map(Ports::hold).find(usable)
    }

    fn hold(first: u16) -> Option<Ports> {
        let name = SocketAddr::from_abstract_name(format!("harness-ports-{first}")).ok()?;
        let held = match planted("ports-not-held") {
            true => UnixDatagram::unbound(),
            false => UnixDatagram::bind_addr(&name),
        };
        let _held = held.ok()?;
        let seen_free = clock::instant();
        Some(Ports {
            first,
            _held,
            seen_free,
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = u16> {
        self.first..self.first + SIZE
    }

    /// What an agent finds in its environment.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        let (first, last) = (self.first, self.first + SIZE - 1);
        [
            ("HARNESS_PORT", first.to_string()),
            ("HARNESS_PORTS", format!("{first}-{last}")),
        ]
    }
}

/// Where the slot's search begins: by the tree's path and the slot's number, so that a slot has the same
/// ports every time, and a tree's slots have them side by side.
fn begin(slot: &Path, count: usize) -> usize {
    let name = slot.file_name().unwrap_or_default();
    let number = SlotId::parse(name).map_or(0, |slot| slot.0);
    let tree = slot.parent().unwrap_or(slot).as_os_str().as_bytes();
    let hash = Sha256::digest(tree);
    let hash = hash
        .iter()
        .take(4)
        .fold(0_usize, |sum, &b| sum << 8 | usize::from(b));
    (hash % count.max(1) + number) % count.max(1)
}

/// The first ports of all ranges without a port of those. Where nothing is left, of all.
fn ranges((low, high): (u16, u16)) -> Vec<u16> {
    let all = || (FIRST..=LAST - SIZE).step_by(usize::from(SIZE));
    let apart: Vec<u16> = all()
        .filter(|&first| first + SIZE <= low || first > high)
        .collect();
    match apart.is_empty() {
        true => all().collect(),
        false => apart,
    }
}

fn ephemeral() -> (u16, u16) {
    let text = atomic::read_kernel_text("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    match (words.next().flatten(), words.next().flatten()) {
        (Some(low), Some(high)) => (low, high),
        _ => EPHEMERAL,
    }
}

fn is_free(port: u16) -> bool {
    // Without IPv6 there is no such address, which is no answer.
    let is_used = |e: &std::io::Error| e.kind() == ErrorKind::AddrInUse;
    let v6 = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    let used = v6.as_ref().is_err_and(is_used);
    drop(v6);
    !used && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() || planted("ports-in-use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_apart_from_the_ports_of_connections() {
        let default = ranges(EPHEMERAL);
        assert!(default.len() > 2_000);
        let inside = |first: &u16| first + SIZE > 32_768 && *first <= 60_999;
        assert!(!default.iter().any(inside));
        assert!(default.contains(&32_750) && default.contains(&61_000));
        // A host that gives all of them.
        assert!(ranges((1_024, 65_535)).len() > 5_000);
    }

    #[test]
    fn slots_of_a_tree_begin_side_by_side_and_a_held_range_is_nobody_elses() {
        let (one, two) = (
            Path::new("/r/agents/agent-1"),
            Path::new("/r/agents/agent-2"),
        );
        let count = ranges(ephemeral()).len();
        assert_eq!((begin(one, count) + 1) % count, begin(two, count));
        let first = Ports::of(one, None).unwrap();
        let other = Ports::of(one, None).unwrap();
        assert_ne!(first.first, other.first);
        // Whoever has a port of it makes it move on, and it comes back.
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first.first + 3)).unwrap();
        let was = first.first;
        let mut kept = Ports::of(one, Some(first)).unwrap();
        assert_eq!(kept.first, was);
        kept.seen_free -= LOOK_AGAIN;
        let moved = Ports::of(one, Some(kept)).unwrap();
        assert_ne!(moved.first, was);
        drop((taken, moved, other));
        assert_eq!(Ports::of(one, None).unwrap().first, was);
    }
}
