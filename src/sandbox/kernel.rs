//! Landlock: how much of it the kernel has, and its application to the calling thread.
//!
//! Runs in the keeper, in a thread that lives for one start: what is applied to a thread holds for the
//! processes that it starts, and ends with it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities,
};

use super::{Sandbox, places, readable};
use crate::config::Network;

/// The newest version whose rights are asked for. Those of later ones (sockets by path: 9) were not
/// tried on any kernel yet.
const NEWEST: ABI = ABI::V7;
/// Version 1 refuses every rename between folders, without which cargo, npm and git do not work.
const OLDEST: u32 = 2;
/// What each version brought, and the Linux that has it.
const BROUGHT: [(u32, &str, &str); 5] = [
    (OLDEST, "files", "5.19"),
    (3, "truncation", "6.2"),
    (4, "network", "6.7"),
    (5, "devices", "6.10"),
    (6, "signals", "6.12"),
];

/// How much of Landlock the kernel has: its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Strength(pub(crate) u32);

impl Strength {
    /// What it holds, in words.
    pub(crate) fn holds(self) -> Vec<&'static str> {
        let held = BROUGHT.iter().filter(|(since, ..)| self.0 >= *since);
        held.map(|(_, what, _)| *what).collect()
    }

    /// What is missing of all that a sandbox promises; empty: nothing.
    pub(crate) fn lacks(self, network: &Network) -> Vec<String> {
        let asked = |what: &str| what != "network" || *network != Network::Open;
        let missing = BROUGHT.iter();
        let missing = missing.filter(|(since, what, _)| self.0 < *since && asked(what));
        missing
            .map(|(_, what, kernel)| format!("{what} (Linux {kernel})"))
            .collect()
    }

    /// Why there is no sandbox at all.
    pub(crate) fn why_none(self) -> Option<&'static str> {
        match self.0 {
            0 => Some("this kernel has no Landlock, or it is not enabled (`lsm=` at boot)"),
            1 => Some(
                "this kernel's Landlock (version 1) refuses every rename between folders: Linux 5.19 is needed",
            ),
            _ => None,
        }
    }
}

/// Asks the kernel, once. A thread restricts itself in nothing that matters and ends: that is how its
/// version is told without code of our own for the system call.
pub(crate) fn strength() -> Strength {
    static KNOWN: OnceLock<Strength> = OnceLock::new();
    *KNOWN.get_or_init(|| Strength(asked_of_kernel()))
}

fn asked_of_kernel() -> u32 {
    let ask = || {
        let all = AccessFs::from_all(ABI::V1);
        let ruleset = Ruleset::default().handle_access(all)?.create()?;
        ruleset.restrict_self()
    };
    match std::thread::spawn(ask).join() {
        Ok(Ok(RestrictionStatus {
            landlock:
                LandlockStatus::Available {
                    effective_abi,
                    kernel_abi,
                },
            ..
        })) => kernel_abi.map_or(effective_abi as u32, |n| n as u32),
        _ => 0,
    }
}

/// Restricts the calling thread and all that it starts from now on. Sets `no_new_privs` too, so that
/// programs with the setuid bit run without what it would give.
///
/// # Errors
/// The kernel refuses, or a tree to be written cannot be opened without following a symlink. The
/// thread may then be restricted in part and must start nothing.
pub(crate) fn enforce(sandbox: &Sandbox) -> io::Result<()> {
    let all = AccessFs::from_all(NEWEST);
    let mut ruleset = Ruleset::default().handle_access(all).map_err(refused)?;
    ruleset = ruleset.scope(Scope::from_all(NEWEST)).map_err(refused)?;
    if sandbox.network != Network::Open {
        let tcp = AccessNet::from_all(NEWEST);
        ruleset = ruleset.handle_access(tcp).map_err(refused)?;
    }
    let mut rules = ruleset.create().map_err(refused)?;

    let read = AccessFs::Execute | AccessFs::ReadFile;
    // Names are no secret: without this nothing above a denied place could be listed.
    let top = Path::new("/");
    rule(&mut rules, hold(top)?, AccessFs::ReadDir.into())?;
    readable::trees_in(top, &sandbox.deny, &mut |tree| {
        match openat(
            tree.folder,
            tree.name,
            HELD | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(tree) => rule(&mut rules, tree, read),
            // It is gone by now, and nobody then misses it.
            Err(_) => Ok(()),
        }
    })?;
    for tree in &sandbox.read {
        rule(&mut rules, hold(tree).map_err(|e| at(tree, &e))?, read)?;
    }
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    for tree in &sandbox.write {
        rule(&mut rules, hold(tree).map_err(|e| at(tree, &e))?, write)?;
    }
    // Text is compared quicker than paths.
    let denied = |device: &Path| {
        sandbox
            .deny
            .iter()
            .any(|d| d.as_os_str() == device.as_os_str())
    };
    for device in places::devices().into_iter().filter(|d| !denied(d)) {
        if let Ok(device) = hold(&device) {
            rule(&mut rules, device, write)?;
        }
    }
    if let Network::Ports(ports) = &sandbox.network {
        for port in ports {
            let port = NetPort::new(*port, AccessNet::from_all(NEWEST));
            rules = rules.add_rule(port).map_err(refused)?;
        }
    }
    let own = capabilities(None)?;
    if !own.permitted.is_empty() {
        drop_capabilities(own)?;
    }
    let status = rules.restrict_self().map_err(refused)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(io::Error::other("the kernel has no Landlock")),
        _ => Ok(()),
    }
}

/// What root keeps of its capabilities: what containers commonly leave it. With more it could load
/// modules, trace everybody, or read the memory of all processes (CAP_PERFMON passes over Landlock).
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE);

fn drop_capabilities(own: CapabilitySets) -> io::Result<()> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT.contains(one) {
            continue;
        }
        // An error: the kernel has no capability of that number; or it stays, without CAP_SETPCAP, and
        // nothing that is executed gains it: no_new_privs.
        if remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
    let kept = CapabilitySets {
        effective: own.effective & KEPT,
        permitted: own.permitted & KEPT,
        inheritable: own.inheritable & KEPT,
    };
    Ok(set_capabilities(None, kept)?)
}

fn rule(rules: &mut RulesetCreated, tree: OwnedFd, rights: BitFlags<AccessFs>) -> io::Result<()> {
    let rule = PathBeneath::new(tree, rights);
    rules.add_rule(rule).map(drop).map_err(refused)
}

/// Opens it as nothing but a place, without following a symlink anywhere in the path.
fn hold(path: &Path) -> io::Result<OwnedFd> {
    // With NOFOLLOW a symlink at the end would be opened itself, instead of refused.
    let held = openat2(CWD, path, HELD, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    Ok(held)
}

const HELD: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

fn at(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn refused(e: RulesetError) -> io::Error {
    io::Error::other(format!("Landlock: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_symlink_is_followed_to_a_grant() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("there/in")).unwrap();
        std::os::unix::fs::symlink("there", base.join("link")).unwrap();
        assert!(hold(&base.join("there/in")).is_ok());
        assert!(hold(&base.join("link")).is_err());
        assert!(hold(&base.join("link/in")).is_err());
    }
}
