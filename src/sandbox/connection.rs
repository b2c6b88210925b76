//! Recognises in a line that a program printed that the sandbox refused it a TCP port.
//!
//! A port that is not granted is refused whatever else is wrong, so it is enough that a line tells of a
//! connection that failed, and of its port: curl and git do not say why.

use super::Refused;
use super::plan::Planned;
use crate::config::Network;

/// How curl, and git with it, tell of a connection that failed.
pub(super) const FAILED: &str = "failed to connect to ";

/// What a line says of a connection that the kernel refuses, in lower case: all words of one row.
const SAID: [&[&str]; 8] = [
    &["connect", "permission denied"],
    &["connect", "eacces"],
    &["listen", "permission denied"],
    &["listen", "eacces"],
    &["bind", "permission denied"],
    &["urlopen error", "permission denied"],
    &[FAILED, " port "],
    // What bash calls a connection.
    &["/dev/tcp/", "permission denied"],
];

/// Sockets that have a path are no matter of ports.
const ELSEWHERE: [&str; 2] = ["unix", ".sock"];

/// What the sandbox refused, if it was that. `before`: the line before it.
pub(super) fn refused(before: &str, line: &str, planned: &Planned) -> Option<Refused> {
    let open: &[u16] = match planned.said.network {
        Network::Open => return None,
        Network::None => &[],
        Network::Ports(ref ports) => ports,
    };
    if planned.sandbox.is_none() || !planned.said.holds.iter().any(|what| what == "network") {
        return None;
    }
    let lower = line.to_ascii_lowercase();
    let is_said = |words: &&[&str]| words.iter().all(|word| lower.contains(word));
    let is_python = lower.ends_with("[errno 13] permission denied")
        && [".connect(", ".bind("]
            .iter()
            .any(|call| before.contains(call));
    if !is_python && !SAID.iter().any(is_said) || ELSEWHERE.iter().any(|w| lower.contains(w)) {
        return None;
    }
    let port = port(&lower);
    if port.is_some_and(|port| open.contains(&port)) {
        return None;
    }
    let mut ports: Vec<String> = open.iter().map(u16::to_string).collect();
    let what = match port {
        Some(port) => format!("TCP port {port}"),
        None => "this TCP port".to_owned(),
    };
    ports.push(port.map_or("PORT".to_owned(), |port| port.to_string()));
    Some(Refused {
        printed: line.trim().chars().take(PRINTED).collect(),
        text: format!(
            "the sandbox does not let it use {what}; to allow it: `network = [{}]` in {}",
            ports.join(", "),
            planned.network_of
        ),
    })
}

/// So much of a line is looked for in an item's reason, which is short.
const PRINTED: usize = 60;

/// The port that a line names: `port 443`, or the last one behind an address.
fn port(line: &str) -> Option<u16> {
    let number = |text: &str| {
        let digits = text.find(|c: char| !c.is_ascii_digit());
        let digits = &text[..digits.unwrap_or(text.len())];
        digits.parse::<u16>().ok().filter(|port| *port != 0)
    };
    let named = line.split(" port ").skip(1).find_map(number);
    named.or_else(|| match line.split_once("/dev/tcp/") {
        Some((_, rest)) => rest.split('/').nth(1).and_then(number),
        None => line.rsplit(':').find_map(number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Said, Sandbox};

    fn planned(network: Network) -> Planned {
        let said = Said {
            holds: vec!["files".into(), "network".into()],
            network,
            ..Said::default()
        };
        Planned::of(Sandbox::default(), said, "[agents.claude]")
    }

    #[test]
    fn a_port_that_is_refused_is_named_with_its_key() {
        let none = planned(Network::None);
        let some = planned(Network::Ports(vec![80, 443]));
        let lines = [
            (
                "curl: (7) Failed to connect to example.com port 8443 after 0 ms: Could not connect to server",
                8443,
            ),
            (
                "fatal: unable to access 'https://example.com/x/': Failed to connect to example.com port 8443 after 1 ms: Couldn't connect to server",
                8443,
            ),
            (
                "ssh: connect to host example.com port 22: Permission denied",
                22,
            ),
            (
                "Error: connect EACCES 192.0.2.7:8443 - Local (0.0.0.0:0)",
                8443,
            ),
            ("Error: listen EACCES: permission denied :::8080", 8080),
            (
                "2026/11/30 12:34:56 main.go:42: dial tcp 192.0.2.7:8443: connect: permission denied",
                8443,
            ),
            ("listen tcp :8080: bind: permission denied", 8080),
            (
                "Connecting to example.com (example.com)|192.0.2.7|:8080... failed: Permission denied.",
                8080,
            ),
            (
                "bash: line 1: /dev/tcp/192.0.2.7/8080: Permission denied",
                8080,
            ),
            (
                "nc: connect to 192.0.2.7 port 8080 (tcp) failed: Permission denied",
                8080,
            ),
        ];
        for (line, port) in lines {
            let refused = refused("", line, &none).unwrap_or_else(|| panic!("{line}"));
            let key =
                format!("TCP port {port}; to allow it: `network = [{port}]` in [agents.claude]");
            assert!(refused.text.contains(&key), "{line}: {}", refused.text);
            let refused = super::refused("", line, &some).unwrap();
            let key = format!("`network = [80, 443, {port}]`");
            assert!(refused.text.contains(&key), "{line}: {}", refused.text);
        }
        for (before, line) in [
            ("", "bash: connect: Permission denied"),
            ("", "<urlopen error [Errno 13] Permission denied>"),
            (
                "    sock.connect(sa)",
                "PermissionError: [Errno 13] Permission denied",
            ),
        ] {
            let refused = refused(before, line, &none).unwrap();
            assert!(refused.text.contains("`network = [PORT]`"), "{line}");
        }
    }

    #[test]
    fn what_is_granted_or_refused_by_others_is_not_laid_to_the_sandbox() {
        let ports = planned(Network::Ports(vec![443]));
        let refusal = "curl: (7) Failed to connect to example.com port 443 after 0 ms: Could not connect to server";
        assert_eq!(refused("", refusal, &ports), None);
        assert_eq!(refused("", refusal, &planned(Network::Open)), None);
        let mut weak = planned(Network::None);
        weak.said.holds = vec!["files".into()];
        assert_eq!(refused("", refusal, &weak), None);
        let none = planned(Network::None);
        for line in [
            "curl: (6) Could not resolve host: example.com",
            "connect ECONNREFUSED 192.0.2.7:443",
            "cat: /srv/x: Permission denied",
            "PermissionError: [Errno 13] Permission denied",
            "connect() to unix:/run/x failed (13: Permission denied)",
            "connected to 192.0.2.7:443",
        ] {
            assert_eq!(refused("", line, &none), None, "{line}");
        }
    }
}
