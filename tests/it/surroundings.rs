//! What an agent finds around its work besides what git checks out: ports of its own, and the ignored
//! files that `copy` names.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;

use crate::support::{Root, Running};

/// Says its ports, and stays until it is let go.
const WAITS: &str = "echo $HARNESS_PORT $HARNESS_PORTS > \"$HARNESS_ROOT/ports-$HARNESS_ITEM\"\n\
    until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.02; done";

/// The first and the last port that a slot's item was given.
fn ports(root: &Root, item: &str) -> Option<(u16, u16)> {
    let text = fs::read_to_string(root.at(format!("ports-{item}"))).ok()?;
    let (first, range) = text.strip_suffix('\n')?.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    assert_eq!(first, from, "{text}");
    Some((from.parse().unwrap(), to.parse().unwrap()))
}

#[test]
fn eight_slots_of_two_trees_have_ten_ports_each_and_none_of_anothers() {
    let roots = [Root::plain(), Root::plain()];
    let names: Vec<String> = (0..8).map(|n| format!("x{n}")).collect();
    let runs: Vec<Running> = roots
        .iter()
        .map(|root| {
            names.iter().for_each(|name| root.script(name, WAITS));
            root.start(&["--workers", "8", "--drain"])
        })
        .collect();
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let mut bounds = text.split_whitespace().map(|n| n.parse::<u16>().unwrap());
    let (low, high) = (bounds.next().unwrap(), bounds.next().unwrap());
    let mut all = BTreeSet::new();
    for root in &roots {
        for name in &names {
            root.wait_until("it has its ports", || ports(root, name).is_some());
            let (first, last) = ports(root, name).unwrap();
            assert_eq!(last, first + 9);
            assert!(
                last < low || first > high,
                "{first}: a connection may get it"
            );
            for port in first..=last {
                assert!(all.insert(port), "{port} is two slots'");
            }
        }
    }
    assert_eq!(all.len(), 160);
    roots
        .iter()
        .for_each(|root| fs::write(root.at("go"), "").unwrap());
    for mut run in runs {
        assert_eq!(run.wait(), Some(0));
    }
}

#[test]
fn a_slot_keeps_its_ports_until_somebody_else_uses_one() {
    let root = Root::plain();
    fs::write(root.at("go"), "").unwrap();
    let again = |name: &str| {
        root.script(name, WAITS);
        root.ok(&["run", "--drain", "--workers", "1"]);
        ports(&root, name).unwrap()
    };
    let first = again("one");
    assert_eq!(
        again("two"),
        first,
        "another run of harness, and of the keeper"
    );
    let taken = TcpListener::bind(("127.0.0.1", first.1)).unwrap();
    let moved = again("three");
    assert!(moved.0 > first.1 || moved.1 < first.0, "{moved:?}");
    drop(taken);
    assert_eq!(again("four"), first);
}

/// Gates are programs of the project, too, and run where the agent was.
#[test]
fn a_gate_has_the_ports_of_its_slot() {
    let root = Root::with_repo();
    root.config(
        "[repo]\npath = \"repo\"\n[gates.look]\nscript = \"echo $HARNESS_PORT > $HARNESS_ROOT/of-gate\"\n",
    );
    fs::write(root.at("go"), "").unwrap();
    root.script("x", &format!("{WAITS}\necho 1 > made"));
    root.ok(&["run", "--drain", "--workers", "1"]);
    let of_gate = fs::read_to_string(root.at("of-gate")).unwrap();
    let (first, _) = ports(&root, "x").unwrap();
    assert_eq!(of_gate.trim(), first.to_string(), "{}", root.picture());
}
