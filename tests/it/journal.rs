//! A log outside ROOT that scripts append to (O_APPEND, one short line at a time): what really
//! ran, and how often, whatever the harness says of it. And gates: files that scripts wait for, so
//! that a test decides when an agent ends.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::Root;

pub struct Journal {
    dir: tempfile::TempDir,
}

/// What one attempt wrote.
#[derive(Debug, Clone, Default)]
pub struct Ran {
    pub item: String,
    pub attempt: u32,
    pub pid: u32,
    pub starts: u32,
    /// Exit statuses it was about to end with: one, if it ran to its end.
    pub ends: Vec<i64>,
}

impl Journal {
    pub fn new() -> Journal {
        Journal {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A whole script: `head` holds its `#harness` lines, `body` may `exit`.
    pub fn text(&self, head: &str, body: &str) -> String {
        let log = self.log();
        let log = log.display();
        let who = "$HARNESS_ITEM $HARNESS_SESSION $HARNESS_ATTEMPT";
        format!(
            "#!/bin/sh\n{head}\necho \"start {who} $$\" >>'{log}'\n(\n{body}\n)\ns=$?\n\
             echo \"end {who} $s\" >>'{log}'\nexit $s\n"
        )
    }

    /// Drops such a script.
    pub fn drop_script(&self, root: &Root, name: &str, head: &str, body: &str) {
        root.drop_file(name, self.text(head, body).as_bytes(), 0o755);
    }

    /// Shell text that waits for `open(gate)`.
    pub fn wait_for(&self, gate: &str) -> String {
        let path = self.dir.path().join(gate);
        format!("until [ -e '{}' ]; do sleep 0.02; done", path.display())
    }

    pub fn open(&self, gate: &str) {
        fs::write(self.dir.path().join(gate), "").unwrap();
    }

    pub fn lines(&self) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let words = |l: &str| l.split(' ').map(str::to_owned).collect();
        text.lines().map(words).collect()
    }

    /// By session.
    pub fn ran(&self) -> BTreeMap<String, Ran> {
        let mut all: BTreeMap<String, Ran> = BTreeMap::new();
        for line in self.lines() {
            let ran = all.entry(line[2].clone()).or_default();
            ran.item = line[1].clone();
            ran.attempt = line[3].parse().unwrap();
            match line[0].as_str() {
                "start" => {
                    ran.starts += 1;
                    ran.pid = line[4].parse().unwrap();
                }
                _ => ran.ends.push(line[4].parse().unwrap()),
            }
        }
        all
    }

    /// The attempts of one item that started, oldest first.
    pub fn of(&self, item: &str) -> Vec<Ran> {
        let mut all: Vec<Ran> = self.ran().into_values().collect();
        all.retain(|r| r.item == item);
        all.sort_by_key(|r| r.attempt);
        all
    }

    /// Waits until this many attempts of the item have started; the newest one's pid.
    pub fn wait_for_start(&self, root: &Root, item: &str, starts: usize) -> u32 {
        root.wait_until(&format!("{item} has started {starts} times"), || {
            self.of(item).len() >= starts
        });
        self.of(item)[starts - 1].pid
    }

    /// What must be true of every script whose keeper was never killed: each attempt that the
    /// record knows was started once, at most one ran to a good end and nothing came after it, and
    /// the recorded exit status is the one it really ended with.
    pub fn assert_books(&self, root: &Root, items: &[String]) {
        let ran = self.ran();
        for (sid, r) in &ran {
            assert_eq!(r.starts, 1, "{} {sid} started {} times", r.item, r.starts);
            assert!(r.ends.len() <= 1, "{} {sid}: {:?}", r.item, r.ends);
        }
        for item in items {
            let show = root.show(item);
            let attempts = show["attempts"].as_array().unwrap();
            let story = || format!("{show:#}\n{:?}\n{}", self.of(item), root.picture());
            for sid in ran.iter().filter(|(_, r)| r.item == *item).map(|(s, _)| s) {
                let told = attempts.iter().any(|a| a["session"] == **sid);
                assert!(told, "{item}: {sid} ran and no record says so\n{}", story());
            }
            let mut ended_well = false;
            for a in attempts {
                assert!(!ended_well, "{item} ran again after its end\n{}", story());
                let r = ran.get(a["session"].as_str().unwrap());
                let exit = a["exit_status"].as_i64();
                match r.map(|r| r.ends.as_slice()) {
                    Some(&[status]) => {
                        ended_well = status == 0;
                        // A script that was stopped or timed out may have been at its last line.
                        if matches!(a["outcome"].as_str(), Some("succeeded" | "failed")) {
                            assert_eq!(exit, Some(status), "{item}\n{}", story());
                        }
                    }
                    _ => assert!(!is_good(a), "{item}: no end, yet good\n{}", story()),
                }
            }
            let in_done = root.is_done(item);
            assert_ne!(in_done, root.is_parked(item), "{item}\n{}", story());
            assert_eq!(in_done, ended_well, "{item}\n{}", story());
        }
    }
}

fn is_good(attempt: &Value) -> bool {
    matches!(attempt["outcome"].as_str(), Some("succeeded" | "no_change"))
}
