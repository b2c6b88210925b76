//! What a service manager is told, in systemd's way (`sd_notify(3)`): lines in a datagram to
//! `$NOTIFY_SOCKET`. Without that variable nothing is told.
//!
//! Knows nothing of items. Invariant: nothing waits for the manager. A datagram that it has no room for is
//! dropped; what must arrive is said again. (The crate `sd-notify` waits, and knows no abstract names.)

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::clock;
use crate::limits::{STATUS_TOLD, WATCHDOG_SHARE};

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_TIME: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// What a program that harness starts must not have: it would speak in harness's name.
pub(crate) fn hide(command: &mut Command) {
    for name in [SOCKET, WATCHDOG_TIME, WATCHDOG_PID] {
        command.env_remove(name);
    }
}

/// Whether systemd started this very process as that of a service: the next one is then started in the same
/// cgroup, beside whatever is left of this one.
pub(crate) fn is_main_process() -> bool {
    let pid = std::process::id().to_string();
    std::env::var_os("SYSTEMD_EXEC_PID").is_some_and(|of| *of == *pid)
}

/// The manager that started this process, if one did and wants to hear of it.
pub(crate) struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// Silence for this long, and it ends this process.
    patience: Option<Duration>,
    alive_told: Option<Instant>,
    status_told: Option<(String, Instant)>,
    ready: bool,
}

impl Manager {
    pub(crate) fn of_environment() -> Manager {
        let var = |name: &str| std::env::var_os(name);
        let number = |name: &str| var(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = number(WATCHDOG_PID).is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number(WATCHDOG_TIME).filter(|us| is_ours && *us > 0);
        Manager::new(
            var(SOCKET).as_deref().and_then(address),
            patience.map(Duration::from_micros),
        )
    }

    fn new(to: Option<SocketAddr>, patience: Option<Duration>) -> Manager {
        let open = |to| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, to))
        };
        Manager {
            to: to.and_then(open),
            patience,
            alive_told: None,
            status_told: None,
            ready: false,
        }
    }

    /// Every turn of the main thread. `lives`: whether the threads that it cannot speak for are well, given
    /// how long they may be silent. `status`: one line for people.
    pub(crate) fn turn(
        &mut self,
        lives: impl FnOnce(Duration) -> bool,
        status: impl FnOnce() -> String,
    ) {
        if self.to.is_none() {
            return;
        }
        let now = clock::instant();
        self.say_alive(now, lives);
        let told = self.status_told.as_ref();
        if told.is_some_and(|(_, at)| now - *at < STATUS_TOLD) {
            return;
        }
        let text = status().replace('\n', " ");
        // Once more with the rest: `READY=1` twice says nothing else, and a lost one would be waited for.
        let ready = if self.ready { "" } else { "READY=1\n" };
        if told.is_none_or(|(said, _)| *said != text) || !self.ready {
            self.ready |= self.tell(&format!("{ready}STATUS={text}"));
        }
        self.status_told = Some((text, now));
    }

    fn say_alive(&mut self, now: Instant, lives: impl FnOnce(Duration) -> bool) {
        let Some(patience) = self.patience else {
            return;
        };
        let is_due = |at| now - at >= patience / WATCHDOG_SHARE;
        if self.alive_told.is_none_or(is_due) && lives(patience / 2) && self.tell("WATCHDOG=1") {
            self.alive_told = Some(now);
        }
    }

    /// The longest wait between two turns.
    pub(crate) fn tick_max(&self) -> Duration {
        let of_patience = self.patience.map(|patience| patience / WATCHDOG_SHARE);
        of_patience.unwrap_or(Duration::MAX)
    }

    /// It ends, within this time: until then the manager is to wait, whatever its unit says.
    pub(crate) fn ends(&self, why: &str, within: Duration) {
        let us = within.as_micros();
        self.tell(&format!(
            "STOPPING=1\nSTATUS={why}\nEXTEND_TIMEOUT_USEC={us}"
        ));
    }

    /// It has nothing to do, and that is no failure: a service that ends before it was ready is one.
    pub(crate) fn ends_at_once(&self, why: &str) {
        // Of one datagram only the last state counts.
        self.tell("READY=1");
        self.tell(&format!("STOPPING=1\nSTATUS={why}"));
    }

    fn tell(&self, lines: &str) -> bool {
        let Some((socket, to)) = &self.to else {
            return false;
        };
        socket.send_to_addr(lines.as_bytes(), to).is_ok()
    }
}

/// A path, or `@` and an abstract name.
fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager with a socket of that name, and what it is told.
    fn manager(name: &OsStr, patience: Option<Duration>) -> (UnixDatagram, Manager) {
        let address = address(name).unwrap();
        let heard = UnixDatagram::bind_addr(&address).unwrap();
        heard.set_nonblocking(true).unwrap();
        (heard, Manager::new(Some(address), patience))
    }

    fn next(heard: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 512];
        let n = heard.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    fn abstract_name() -> std::ffi::OsString {
        format!("@harness-test-{}", clock::unique()).into()
    }

    #[test]
    fn the_watchdog_hears_nothing_of_a_run_with_a_thread_that_hangs() {
        let (heard, mut manager) = manager(&abstract_name(), Some(Duration::from_secs(60)));
        let status = || "1 of 3 slots at work".to_owned();
        manager.turn(|_| false, status);
        assert_eq!(
            next(&heard).as_deref(),
            Some("READY=1\nSTATUS=1 of 3 slots at work")
        );
        assert_eq!(next(&heard), None);
        let mut asked = None;
        let lives = |within| {
            asked = Some(within);
            true
        };
        manager.turn(lives, status);
        assert_eq!(asked, Some(Duration::from_secs(30)));
        assert_eq!(next(&heard).as_deref(), Some("WATCHDOG=1"));
        // Not at every turn.
        manager.turn(|_| true, status);
        assert_eq!(next(&heard), None);
    }

    #[test]
    fn a_manager_that_reads_nothing_is_not_waited_for_and_hears_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let (heard, mut manager) = manager(dir.path().join("notify").as_os_str(), None);
        let mut fills = 0;
        while manager.tell("STATUS=fills the queue") {
            fills += 1;
        }
        manager.turn(|_| true, || "idle".into());
        assert!((0..fills).all(|_| next(&heard).is_some()));
        assert_eq!(next(&heard), None);
        manager.status_told = None;
        manager.turn(|_| true, || "idle".into());
        assert_eq!(next(&heard).as_deref(), Some("READY=1\nSTATUS=idle"));
    }

    #[test]
    fn a_name_that_is_no_unix_socket_is_left_alone() {
        assert!(address(OsStr::new("vsock:2:1234")).is_none());
        assert!(address(OsStr::new("")).is_none());
        assert!(address(OsStr::new("notify")).is_none());
    }
}
