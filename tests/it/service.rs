//! A service manager (systemd, `Type=notify` with a watchdog) hears that a run is ready, lives and ends;
//! what the run starts does not speak in its name. tests/systemd has the same with systemd itself.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::journal::Journal;
use crate::support::{Root, is_alive, skipped};

/// The manager's end of the socket, and the lines that came.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(address: &SocketAddr) -> Manager {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager {
            socket,
            heard: Vec::new(),
        }
    }

    /// Beside ROOT, and told to whatever harness of it is started now, with a watchdog of this time.
    fn of(root: &mut Root, patience: Duration) -> Manager {
        let path = root.at("notify");
        let us = patience.as_micros().to_string();
        let vars = [
            ("NOTIFY_SOCKET", path.clone().into_os_string()),
            ("WATCHDOG_USEC", us.into()),
        ];
        root.env.extend(vars);
        Manager::new(&SocketAddr::from_pathname(path).unwrap())
    }

    fn lines(&mut self) -> &[String] {
        let mut bytes = [0; 4096];
        while let Ok(n) = self.socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            self.heard.extend(text.lines().map(str::to_owned));
        }
        &self.heard
    }

    fn hears(&mut self, root: &Root, line: &str) {
        root.wait_until(&format!("the manager hears {line}"), || {
            self.lines().iter().any(|l| l == line)
        });
    }

    fn count(&mut self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }
}

#[test]
fn a_manager_hears_that_a_run_is_ready_lives_and_stops() {
    let (mut root, journal) = (Root::with_repo(), Journal::new());
    // At rest a turn of the main thread takes a second: here it must be less.
    let mut manager = Manager::of(&mut root, Duration::from_secs(1));
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let mut run = root.start(&["--workers", "2"]);
    manager.hears(&root, "READY=1");
    manager.hears(&root, "STATUS=1 of 2 slots at work, 0 pending");
    journal.open("go");
    root.wait_until("it is done", || root.is_done("x"));
    manager.hears(&root, "STATUS=0 of 2 slots at work, 0 pending");
    let alive = manager.count("WATCHDOG=1");
    assert!(alive > 0, "{:?}", manager.heard);
    let began = Instant::now();
    root.wait_until("it says that it lives", || {
        manager.count("WATCHDOG=1") >= alive + 8
    });
    assert!(
        began.elapsed() < Duration::from_secs(7),
        "only now and then"
    );
    assert_eq!(manager.count("READY=1"), 1);
    assert_eq!(manager.count("STOPPING=1"), 0);
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let last = manager.lines().to_vec();
    let stops = last.iter().position(|l| l == "STOPPING=1");
    let stops = stops.unwrap_or_else(|| panic!("it does not say that it stops: {last:?}"));
    // kill_grace is 2 s in tests; 60 s for what hangs, 30 s for the last steps.
    let told = &last[stops + 1..stops + 3];
    assert_eq!(
        told,
        ["STATUS=stopping the agents", "EXTEND_TIMEOUT_USEC=92000000"]
    );
    assert!(last.contains(&"STATUS=ended".to_owned()), "{last:?}");
    root.assert_nothing_left();
}

#[test]
fn a_manager_hears_by_an_abstract_name_that_a_run_lets_go() {
    let (mut root, journal) = (Root::plain(), Journal::new());
    let name = format!("harness-test-{}", root.path().display());
    root.env.push(("NOTIFY_SOCKET", format!("@{name}").into()));
    let mut manager = Manager::new(&SocketAddr::from_abstract_name(name).unwrap());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let mut run = root.start(&["--workers", "1"]);
    let pid = journal.wait_for_start(&root, "x", 1);
    manager.hears(&root, "READY=1");
    assert_eq!(manager.count("WATCHDOG=1"), 0, "nobody asked for it");
    run.signal("HUP");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    manager.hears(&root, "STOPPING=1");
    manager.hears(&root, "STATUS=let go: agents run on for the next harness");
    assert!(is_alive(pid));
    journal.open("go");
    assert_eq!(root.drain().status.code(), Some(0));
    root.assert_nothing_left();
}

#[test]
fn what_agents_finish_is_waited_for_before_a_manager_hears_of_the_end() {
    let (mut root, journal) = (Root::plain(), Journal::new());
    let mut manager = Manager::of(&mut root, Duration::from_secs(60));
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let mut run = root.start(&["--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    run.signal("INT");
    let ends = "STATUS=1 of 1 slot at work, 0 pending; ending when the agents have finished";
    manager.hears(&root, ends);
    // It would give the run a minute and a half from here.
    assert_eq!(manager.count("STOPPING=1"), 0);
    journal.open("go");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(manager.count("STOPPING=1"), 1);
    root.assert_nothing_left();
}

#[test]
fn a_run_that_has_nothing_to_do_is_no_failed_service() {
    let mut root = Root::plain();
    let mut manager = Manager::of(&mut root, Duration::from_secs(60));
    fs::write(root.at("state/control/stop"), "").unwrap();
    root.ok(&["run"]);
    let why = "STATUS=state/control/stop exists, so nothing is done";
    assert_eq!(manager.lines(), ["READY=1", "STOPPING=1", why]);
    fs::remove_file(root.at("state/control/stop")).unwrap();
    root.ok(&["run", "--drain"]);
    assert_eq!(manager.count("READY=1"), 2, "{:?}", manager.heard);
}

#[test]
fn what_a_run_starts_does_not_speak_in_its_name() {
    let mut root = Root::with_repo();
    root.config(
        "[repo]\npath = \"repo\"\n[gates.look]\nscript = \"env >>$HARNESS_ROOT/gate.env\"\n",
    );
    let _manager = Manager::of(&mut root, Duration::from_secs(60));
    let pid = std::process::id().to_string();
    root.env.push(("WATCHDOG_PID", pid.into()));
    root.script("x", "env >$HARNESS_ROOT/agent.env; date >made");
    let hook = "#!/bin/sh\nenv >$HARNESS_ROOT/hook.env\n";
    fs::write(root.at("hooks/after-end"), hook).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.at("hooks/after-end"), mode).unwrap();
    assert_eq!(root.drain().status.code(), Some(0), "{}", root.picture());
    for file in ["agent.env", "gate.env", "hook.env"] {
        let env = fs::read_to_string(root.at(file)).unwrap();
        assert!(env.contains("HARNESS_ROOT="), "{file}: {env}");
        let has = |name: &str| env.lines().any(|l| l.starts_with(name));
        assert!(!has("NOTIFY_SOCKET=") && !has("WATCHDOG_"), "{file}: {env}");
    }
}

/// The unit and the program agree: where harness lives, by which signals it ends, which exit codes are no
/// failure; and systemd knows what it says.
#[test]
fn the_unit_says_what_the_program_does() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    let unit = fs::read_to_string(dir.join("harness@.service")).unwrap();
    for line in [
        "Type=notify",
        "KillMode=process",
        "KillSignal=SIGTERM",
        "RestartKillSignal=SIGHUP",
        "Delegate=yes",
        "DelegateSubgroup=harness-run",
        "RestartPreventExitStatus=2 100",
        "SuccessExitStatus=1",
    ] {
        assert!(unit.lines().any(|l| l == line), "{line} is not in the unit");
    }
    let own = fs::read_to_string(dir.join("../../src/process/cgroup.rs")).unwrap();
    assert!(own.contains("LEAF: &str = \"harness-run\""));
    // Where there is a systemd: as an instance, with a program that is there.
    let temp = tempfile::tempdir().unwrap();
    let text = unit.replace("/usr/bin/harness", env!("CARGO_BIN_EXE_harness"));
    fs::write(temp.path().join("harness@tmp.service"), text).unwrap();
    let verified = std::process::Command::new("systemd-analyze")
        .args(["--user", "verify", "--man=no"])
        .arg(temp.path().join("harness@tmp.service"))
        .env("XDG_RUNTIME_DIR", temp.path())
        .output();
    let Ok(verified) = verified else {
        return skipped("`systemd-analyze verify` of the unit: there is none here");
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let newer = "Unknown key 'DelegateSubgroup' in section [Service], ignoring.";
    let newer_name = newer.replace("key", "key name");
    let wrong: Vec<&str> = said
        .lines()
        .filter(|l| !l.contains(newer) && !l.contains(&newer_name))
        .collect();
    assert!(verified.status.success() && wrong.is_empty(), "{wrong:?}");
}

/// `contrib/deb/build` makes what lies in `target/`; everything else in the package is in this repository.
#[test]
fn the_package_has_only_files_that_there_are() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(top.join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let version = manifest["package"]["version"].as_str().unwrap();
    let changelog = fs::read_to_string(top.join(deb["changelog"].as_str().unwrap())).unwrap();
    assert!(
        changelog.starts_with(&format!("harness ({version}-")),
        "contrib/deb/changelog begins with another version than {version}"
    );
    let build = fs::read_to_string(top.join("contrib/deb/build")).unwrap();
    for asset in deb["assets"].as_array().unwrap() {
        let from = asset[0].as_str().unwrap();
        if let Some(made) = from.strip_prefix("target/package/") {
            let first = made.split('/').next().unwrap();
            assert!(
                build.contains(&format!("$out/{first}")),
                "{from} is not made"
            );
            continue;
        }
        let folder = from.strip_suffix("*").or(from.strip_suffix("*.md"));
        let is_there = top.join(folder.unwrap_or(from)).exists();
        assert!(is_there || from == "target/release/harness", "{from}");
    }
}
