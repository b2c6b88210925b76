//! Every folder and file of a ROOT taken away or replaced by something else: a symlink out of it, to
//! itself, to nowhere, a fifo, a device that never ends, a folder for a file and a file for a
//! folder, garbage, a mark that nothing may change it. By a person before the start, and by an agent
//! while it and another one run. harness ends when it is told to, changes nothing outside, and once
//! the thing is put back every item is in one place and what was to be done is done, once.
//!
//! `HARNESS_TRICKS=all` tries all of the table; `HARNESS_TRICKS=PART` those whose name has this part;
//! else a few, by chance (`HARNESS_SOAK_SEED`).

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::support::{Root, Running, describe, git};

/// `AGENT` and `SID` stand for the slot and session of the one who does it. The tree's own folders
/// may be symlinks to folders elsewhere, as a person makes them for another disk.
const FOLDERS: [(&str, bool); 26] = [
    ("queue", true),
    ("queue/pending", true),
    ("queue/claimed", true),
    ("queue/claimed/AGENT", false),
    ("queue/done", true),
    ("queue/parked", true),
    ("state", true),
    ("state/claims", true),
    ("state/exclusive", true),
    ("state/items", true),
    ("state/agents", true),
    ("state/agents/AGENT", false),
    ("state/sessions", true),
    ("state/sessions/SID", false),
    ("state/interrupts", true),
    ("state/holds", true),
    ("state/repos", true),
    ("state/repos/default.git", false),
    ("state/control", true),
    ("state/harnesses", true),
    ("state/ledger", true),
    ("worktrees", true),
    ("worktrees/AGENT", false),
    ("worktrees/AGENT.git", false),
    ("worktrees/AGENT.git/objects", false),
    ("worktrees/AGENT.git/refs", false),
];
const FILES: [&str; 47] = [
    "prompts/bootstrap.md",
    "queue/claimed/AGENT/rogue",
    "queue/pending/waiting",
    "state/status.json",
    "state/metrics.prom",
    "state/aggregator.lock",
    "state/claims/rogue",
    "state/claims/waiting",
    "state/items/rogue.jsonl",
    "state/items/waiting.jsonl",
    "state/agents/AGENT/lease",
    "state/agents/AGENT/marker",
    "state/agents/AGENT/status.json",
    "state/agents/AGENT/heartbeat",
    "state/agents/AGENT/keeper.lock",
    "state/agents/AGENT/keeper.sock",
    "state/agents/AGENT/keeper.log",
    "state/sessions/SID/session.json",
    "state/sessions/SID/item",
    "state/sessions/SID/stdout.log",
    "state/sessions/SID/exit.json",
    "state/control/workers",
    "state/interrupts/AGENT.interrupt",
    "state/repos/default.lock",
    "worktrees/AGENT/.git",
    "worktrees/AGENT.git/HEAD",
    "worktrees/AGENT.git/config",
    "worktrees/AGENT.git/packed-refs",
    "worktrees/AGENT.git/logs/refs/stash",
    "worktrees/AGENT.git/refs/heads/fix",
    "worktrees/AGENT.git/objects/info/alternates",
    "worktrees/AGENT.git/objects/pack/pack-x.idx",
    "worktrees/AGENT.git/worktrees/AGENT/HEAD",
    "worktrees/AGENT.git/worktrees/AGENT/index",
    "worktrees/AGENT.git/worktrees/AGENT/MERGE_HEAD",
    "worktrees/AGENT.git/worktrees/AGENT/rebase-merge/autostash",
    "worktrees/AGENT.git/worktrees/other/gitdir",
    "state/repos/default.git/slots/AGENT/HEAD",
    "state/repos/default.git/slots/AGENT/index",
    "state/repos/default.git/slots/AGENT/commondir",
    "state/repos/default.git/slots/AGENT/given",
    "state/repos/default.git/slots/AGENT/branch",
    "state/repos/default.git/slots/AGENT/MERGE_HEAD",
    "state/repos/default.git/HEAD",
    "state/repos/default.git/config",
    "state/repos/default.git/packed-refs",
    "state/repos/default.git/harness.config",
];
const TRICKS: [&str; 11] = [
    "gone", "huge", "out", "self", "nowhere", "fifo", "device", "socket", "kind", "garbage",
    "fixed",
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Person,
    Agent,
}

#[derive(Clone, Debug)]
struct Case {
    by: By,
    target: &'static str,
    folder: bool,
    /// A symlink to a folder is what a person may have there.
    may_be_link: bool,
    trick: &'static str,
}

impl Case {
    fn name(&self) -> String {
        format!("{:?} {} {}", self.by, self.target, self.trick)
    }
}

fn table() -> Vec<Case> {
    let folders = FOLDERS.iter().map(|&(t, link)| (t, true, link));
    let targets = folders.chain(FILES.iter().map(|&t| (t, false, false)));
    let mut all = Vec::new();
    for (target, folder, may_be_link) in targets {
        for trick in TRICKS {
            // Of these a file's content means nothing, or it is the agent's to write.
            if ["garbage", "huge"].contains(&trick) && folder {
                continue;
            }
            for by in [By::Person, By::Agent] {
                all.push(Case {
                    by,
                    target,
                    folder,
                    may_be_link,
                    trick,
                });
            }
        }
    }
    all
}

/// Shell text that does it to `$T`, with what was there kept as `$OUT/aside`, and what a symlink
/// leads to as `$OUT/victim`, and once more as `$OUT/reference`.
fn trick(case: &Case) -> String {
    let victim = if case.may_be_link {
        "mkdir -p \"$OUT/victim\""
    } else if case.folder {
        "mkdir -p \"$OUT/victim\"; echo mine > \"$OUT/victim/mine\"; echo mine > \"$OUT/victim/.1-1.tmp\""
    } else {
        "[ -e \"$OUT/victim\" ] || echo mine > \"$OUT/victim\""
    };
    let aside = "mv \"$T\" \"$OUT/aside\" 2>/dev/null";
    let kind = if case.folder {
        "echo garbage > \"$T\""
    } else {
        "mkdir \"$T\"; echo x > \"$T/inside\""
    };
    let made = match ["/rebase-merge/", "/logs/", "/worktrees/other/", "/objects/"]
        .iter()
        .any(|dir| case.target.contains(dir))
    {
        true => "mkdir -p \"$(dirname \"$T\")\"\n",
        false => "",
    };
    let done = match case.trick {
        "gone" => aside.into(),
        "out" => format!(
            "{aside}\ncp -a \"$OUT/aside\" \"$OUT/victim\" 2>/dev/null\n{victim}\n\
             cp -a \"$OUT/victim\" \"$OUT/reference\"\nln -s \"$OUT/victim\" \"$T\""
        ),
        "self" => format!("{aside}\nln -s \"$(basename \"$T\")\" \"$T\""),
        "nowhere" => format!("{aside}\nln -s \"$OUT/none/such\" \"$T\""),
        "fifo" => format!("{aside}\nmkfifo \"$T\""),
        "device" => format!("{aside}\nmknod \"$T\" c 1 5"),
        "socket" => format!(
            "{aside}\n(cd \"$(dirname \"$T\")\" && python3 -c 'import socket,sys; \
             socket.socket(socket.AF_UNIX).bind(sys.argv[1])' \"$(basename \"$T\")\")"
        ),
        "kind" => format!("{aside}\n{kind}"),
        "garbage" => {
            "cp -a \"$T\" \"$OUT/aside\" 2>/dev/null\nprintf '\\377\\0{\"x' > \"$T\"".into()
        }
        "huge" => format!("{aside}\ntruncate -s 2T \"$T\""),
        "fixed" => "chattr +i \"$T\" 2>/dev/null".into(),
        other => panic!("no trick {other}"),
    };
    format!("{made}{done}")
}

const MEND: &str = "[ \"$TRICK\" = out ] && [ -n \"$LINK\" ] && [ -L \"$T\" ] && exit 0\n\
    [ \"$TRICK\" = gone -o \"$TRICK\" = out ] && [ -n \"$LINK\" ] && [ -d \"$T\" ] && { cp -an \"$OUT/aside/.\" \"$T/\"; exit 0; }\n\
    [ \"$TRICK\" = fixed ] && { chattr -i \"$T\" 2>/dev/null; exit 0; }\n\
    chattr -i \"$T\" 2>/dev/null\n\
    if [ -e \"$OUT/aside\" ] || [ -L \"$OUT/aside\" ]; then rm -rf \"$T\"; mkdir -p \"$(dirname \"$T\")\"; mv \"$OUT/aside\" \"$T\"\n\
    elif [ ! -d \"$T\" ] || [ -L \"$T\" ] || [ -e \"$T/inside\" ]; then rm -rf \"$T\"; fi";

/// How long a run may be silent: while things are odd, and once they are mended, when an item that went
/// back waits for its next try.
const ODD: Duration = Duration::from_millis(2500);
const MENDED: Duration = Duration::from_secs(6);
const LONGEST: Duration = Duration::from_secs(10);

/// One ROOT, the things outside it, and the items.
struct Place {
    root: Root,
    out: tempfile::TempDir,
    trick: &'static str,
    is_link: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Else the folder could not be removed.
        let _done = Command::new("chattr")
            .args(["-R", "-f", "-i"])
            .arg(self.root.path())
            .output();
    }
}

impl Place {
    fn path(&self, case: &Case, agent: &str, sid: &str) -> PathBuf {
        self.root
            .at(case.target.replace("AGENT", agent).replace("SID", sid))
    }

    fn shell(&self, target: &Path, text: &str) {
        let out = Command::new("sh")
            .args(["-c", text])
            .env("T", target)
            .env("OUT", self.out.path())
            .env("TRICK", self.trick)
            .env("LINK", if self.is_link { "yes" } else { "" })
            .output()
            .unwrap();
        assert!(out.stderr.is_empty(), "{}", describe(&out));
    }

    fn said(&self) -> String {
        let logs = (1..)
            .map(|n| self.root.at(format!("run-{n}.log")))
            .take_while(|p| p.exists());
        logs.map(|p| fs::read_to_string(p).unwrap()).collect()
    }

    /// Where an item is.
    fn places(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for dir in ["pending", "done", "parked"] {
            if self
                .root
                .at("queue")
                .join(dir)
                .join(name)
                .symlink_metadata()
                .is_ok()
            {
                found.push(dir.to_owned());
            }
        }
        for slot in fs::read_dir(self.root.at("queue/claimed"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if slot.path().join(name).symlink_metadata().is_ok() {
                found.push(slot.file_name().to_string_lossy().into_owned());
            }
        }
        found
    }

    /// Lets it go on for as long as it has anything to do, then it must end when it is told to.
    /// Returns how long it took to end when it was told to.
    fn see_it_end(&self, run: &mut Running, patience: Duration) -> Duration {
        let mut last = (Instant::now(), self.said().len());
        let begun = Instant::now();
        while run.child.try_wait().unwrap().is_none() {
            let said = self.said().len();
            if said != last.1 {
                last = (Instant::now(), said);
            }
            // It may go on for ever, trying again, as what it needs may be put back at any time.
            if last.0.elapsed() > patience || begun.elapsed() > LONGEST {
                let told = Instant::now();
                run.signal("TERM");
                run.wait();
                return told.elapsed();
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Duration::ZERO
    }

    /// Commands that only look neither hang nor fail by accident.
    fn look(&self) {
        for words in [
            &["list"][..],
            &["status"],
            &["show", "rogue"],
            &["show", "waiting"],
            &["session", "list"],
        ] {
            let out = self.root.harness(words);
            let ok = matches!(out.status.code(), Some(0 | 1 | 2 | 100 | 111));
            assert!(
                ok && !String::from_utf8_lossy(&out.stderr).contains("panicked"),
                "{words:?}: {}",
                describe(&out)
            );
        }
    }

    fn assert_victim_unharmed(&self) {
        let (victim, reference) = (
            self.out.path().join("victim"),
            self.out.path().join("reference"),
        );
        if reference.is_file() || reference.is_dir() {
            let out = Command::new("diff")
                .args(["-r", "--no-dereference", "--exclude=keeper.sock"])
                .arg(&reference)
                .arg(&victim)
                .output()
                .unwrap();
            assert!(out.status.success(), "outside of ROOT: {}", describe(&out));
        }
    }
}

fn script(root: &Root, name: &str, head: &str, body: &str) {
    root.script(name, &format!("{head}\n{body}\necho {name} > {name}.txt\ngit add -A && git -c user.name=a -c user.email=a@b commit -qm {name}\n"));
}

fn attempt(case: &Case) {
    let place = Place {
        root: Root::with_repo(),
        out: tempfile::tempdir().unwrap(),
        trick: case.trick,
        is_link: case.may_be_link && case.target.starts_with("queue"),
    };
    let root = &place.root;
    let out = place.out.path().to_owned();
    let tricked = out.join("tricked");
    let head = "#harness retries: 1";
    // Makes the tree whole: slots, hub, worktrees, sessions.
    script(root, "first", head, "");
    root.ok(&["run", "--drain", "--workers", "1"]);
    let old = root.show("first")["attempts"][0]["session"]
        .as_str()
        .unwrap()
        .to_owned();
    let target = match case.by {
        By::Person => {
            script(root, "waiting", head, "");
            let target = place.path(case, "agent-1", &old);
            place.shell(&target, &trick(case));
            let mut run = root.start(&["--drain", "--workers", "2"]);
            place.see_it_end(&mut run, ODD);
            target
        }
        By::Agent => {
            let wait = format!(
                "until [ -e '{}' ]; do sleep 0.02; done; sleep 0.3",
                tricked.display()
            );
            script(root, "bystander", head, &wait);
            // Files of nobody, to be claimed while things are odd.
            let path = root.at("").display().to_string()
                + &case
                    .target
                    .replace("AGENT", "$HARNESS_SLOT")
                    .replace("SID", "$HARNESS_SESSION");
            let body = format!(
                "T=\"{path}\"; OUT='{}'\n[ -e $OUT/tricked ] || {{ exec 2>/dev/null\n\
                 echo \"$T\" > $OUT/.new; mv $OUT/.new $OUT/tricked\n{}\n}}",
                out.display(),
                trick(case),
            );
            script(root, "rogue", head, &body);
            script(root, "waiting", "#harness after: [bystander]", "");
            let mut run = root.start(&["--drain", "--workers", "2"]);
            root.wait_until("it has done it", || tricked.exists());
            let took = place.see_it_end(&mut run, ODD);
            // A stop ends a git that hangs after 20 s.
            let hung = case.trick == "fifo" && took > Duration::from_secs(15);
            assert!(!hung, "a git waits on the fifo: {}", place.said());
            PathBuf::from(fs::read_to_string(&tricked).unwrap().trim())
        }
    };
    // An agent's own git writes into the repository that its worktree is of.
    let of_git = case.by == By::Agent && case.target.starts_with("state/repos/default.git");
    if !case.may_be_link && !of_git {
        place.assert_victim_unharmed();
    }
    place.look();
    let first = place.said();
    assert!(
        !first.contains("panicked") && !first.contains("thread failed"),
        "{first}"
    );
    place.shell(&target, MEND);
    root.harness(&["resume"]);
    // A person who sees what is parked tries it again.
    for item in ["bystander", "waiting", "rogue"] {
        if place.places(item) == ["parked"] {
            root.harness(&["retry", item]);
        }
    }
    let mut last = root.start(&["--drain", "--workers", "2"]);
    place.see_it_end(&mut last, MENDED);
    let items: &[&str] = match case.by {
        By::Person => &["waiting"],
        By::Agent => &["bystander", "waiting", "rogue"],
    };
    let dropped = case.target.ends_with("/waiting") || case.target.ends_with("/rogue");
    for item in items {
        let places = place.places(item);
        // What was in its place is refused, and kept in parked/ as what it is.
        let odd_too = dropped && places.len() == 2 && places.iter().any(|p| p == "parked");
        assert!(
            places.len() == 1 || odd_too,
            "{item} is in {places:?}\n{}\n{}",
            place.said(),
            root.picture()
        );
        if *item != "rogue" && !dropped {
            // An agent that takes the folder away takes away what another has in it: that is canceled
            // and in parked/, and what waits for it waits.
            let hurt = case.by == By::Agent
                && !place.root.is_done("bystander")
                && ["parked", "pending"].contains(&places[0].as_str())
                && place.said().contains(item);
            assert!(
                places == ["done"] || hurt,
                "{item} is in {places:?}\n{}\n{}",
                place.said(),
                root.picture()
            );
            if places == ["done"] {
                let branches = git(
                    &root.repo(),
                    &[
                        "for-each-ref",
                        "--format=%(refname)",
                        &format!("refs/heads/harness/{item}/"),
                    ],
                );
                assert_eq!(
                    branches.lines().count(),
                    1,
                    "{item}: {branches}\n{}",
                    place.said()
                );
            }
        }
    }
    git(&root.repo(), &["fsck", "--no-dangling"]);
    assert_eq!(git(&root.repo(), &["status", "--porcelain"]), "");
    // There the symlink itself would count as what is left.
    if (case.target, case.trick) != ("queue/claimed", "out") {
        root.assert_nothing_left();
    }
}

#[test]
fn nothing_put_in_the_place_of_anything_leads_out_hangs_or_loses_an_item() {
    let wanted = std::env::var("HARNESS_TRICKS").unwrap_or_default();
    let mut cases = table();
    match wanted.as_str() {
        "all" => {}
        "" => {
            let mut dice = Dice::new();
            cases = (0..8)
                .map(|_| cases[dice.below(cases.len() as u64) as usize].clone())
                .collect();
        }
        part => cases.retain(|c| c.name().contains(part)),
    }
    let (all, queue, failed) = (cases.len(), Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().pop() else {
                        break;
                    };
                    let begun = Instant::now();
                    let result = catch_unwind(AssertUnwindSafe(|| attempt(&case)));
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    println!(
                        "{}: {word} {:.1} s",
                        case.name(),
                        begun.elapsed().as_secs_f64()
                    );
                    if let Err(why) = result {
                        let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                        println!("{}", why.chars().take(3000).collect::<String>());
                        failed
                            .lock()
                            .unwrap()
                            .push(format!("=== {}\n{why}", case.name()));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{all} tricks, {} failed", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
