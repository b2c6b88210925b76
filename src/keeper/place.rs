//! Places for agents at work on this host, of all trees of this user (`agents` in [limits]).
//!
//! A place is a bound socket whose name says so, in the kernel's abstract names, as with `ports`: the
//! agent's keeper has it, so that it ends with that agent, whoever dies. Invariant: two keepers with the
//! same number of places never have more than that together.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::atomic;

pub(super) struct Place {
    _held: UnixDatagram,
}

fn name() -> String {
    format!("harness-agent-{}-", nix::unistd::geteuid())
}

impl Place {
    /// The lowest one of so many that is free; `None`: none is.
    pub(super) fn take(of: u64) -> Option<Place> {
        let take = |n| {
            let name = SocketAddr::from_abstract_name(format!("{}{n}", name())).ok()?;
            let _held = UnixDatagram::bind_addr(&name).ok()?;
            Some(Place { _held })
        };
        (1..=of).find_map(take)
    }
}

/// How many agents have one. What the kernel does not tell counts as none: then keepers alone decide.
pub(crate) fn taken() -> usize {
    let list = atomic::read_kernel("/proc/net/unix").unwrap_or_default();
    let list = String::from_utf8_lossy(&list);
    let name = format!("@{}", name());
    let is_one = |line: &&str| {
        let last = line.split_whitespace().next_back();
        last.is_some_and(|last| last.starts_with(&name))
    };
    list.lines().filter(is_one).count()
}

pub(crate) fn none_left(of: u64) -> String {
    format!("{of} agents are at work on this host (`agents` in [limits])")
}
