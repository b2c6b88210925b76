//! No process of an item outlives it, however it went away; an agent inherits nothing of the
//! harness's but three descriptors.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::endings::FOREVER;
use crate::journal::Journal;
use crate::support::{Root, kill};
use crate::trouble::{has_mounts, run_to_end, words};

/// A number that only this test's processes have in their command line: finds those that carry
/// nothing else.
pub struct Mark(String);

impl Mark {
    pub fn new() -> Mark {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Mark(format!("10000.{}{n:04}", std::process::id()))
    }

    /// A command line that lives long and is found by `alive`.
    pub fn sleep(&self) -> String {
        format!("sleep {}", self.0)
    }

    pub fn alive(&self) -> Vec<u32> {
        let found = alive_of(std::slice::from_ref(self)).into_iter();
        found.map(|(_, pid)| pid).collect()
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// Shell text that starts one of each kind of process that wants to be left behind.
    fn escapes(&self) -> String {
        let (sleep, mark) = (self.sleep(), &self.0);
        format!(
            "setsid {sleep} &\n\
             ( {sleep} & )\n\
             nohup {sleep} >/dev/null 2>&1 &\n\
             sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' {mark} &\n\
             sh -c 'trap \"\" TERM HUP; setsid setsid {sleep} & exit' &\n\
             setsid sh -c 'exec 0<&- 1>&- 2>&-; exec {sleep}' &\n\
             env -i \"$(command -v setsid)\" \"$(command -v sleep)\" {mark} &\n"
        )
    }
    const ESCAPES: usize = 7;
}

/// Living processes with any of these marks, in one look: which mark, and the pid.
pub fn alive_of(marks: &[Mark]) -> Vec<(usize, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        for arg in line.split(|&b| b == 0) {
            let at = marks.iter().position(|m| m.0.as_bytes() == arg);
            found.extend(at.map(|at| (at, pid)));
        }
    }
    found
}

impl Drop for Mark {
    fn drop(&mut self) {
        for pid in self.alive() {
            kill(pid, "KILL");
        }
    }
}

/// Drops an item that leaves processes behind and goes on with `then`, and waits until they live.
fn leave_behind(root: &Root, journal: &Journal, head: &str, then: &str) -> Mark {
    let mark = Mark::new();
    let body = format!("{}{}\n{then}", mark.escapes(), journal.wait_for("go"));
    journal.drop_script(root, "x", head, &body);
    mark
}

/// Runs it until all are there, then lets `end` bring the attempt to its end.
fn ends_them(head: &str, then: &str, outcome: &str, end: impl Fn(&Root, &Journal, u32)) {
    let (root, journal) = (Root::plain(), Journal::new());
    let mark = leave_behind(&root, &journal, head, then);
    let mut run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("all that it leaves behind live", || {
        mark.alive().len() >= Mark::ESCAPES
    });
    end(&root, &journal, run.pid());
    run.wait();
    assert_eq!(mark.alive(), Vec::<u32>::new(), "{}", run.said());
    let show = root.show("x");
    assert_eq!(show["attempts"][0]["outcome"], outcome, "{show:#}");
    root.assert_nothing_left();
}

#[test]
fn nothing_of_an_item_lives_on_after_a_good_end() {
    ends_them("", "exit 0", "succeeded", |_, journal, _| {
        journal.open("go")
    });
}

#[test]
fn nothing_of_an_item_lives_on_after_a_failure() {
    let head = "#harness retries: 0";
    ends_them(head, "exit 3", "failed", |_, journal, _| journal.open("go"));
}

#[test]
fn nothing_of_an_item_lives_on_after_a_timeout() {
    let head = "#harness retries: 0\n#harness timeout: 1";
    ends_them(head, "", "timed_out", |_, _, _| {});
}

#[test]
fn nothing_of_an_item_lives_on_after_a_cancel() {
    ends_them("", "", "canceled", |root, _, _| {
        let parked = root.at("queue/parked/x");
        fs::rename(root.at("queue/claimed/agent-1/x"), parked).unwrap();
    });
}

#[test]
fn nothing_of_an_item_lives_on_after_a_stop() {
    ends_them("", "", "interrupted", |_, _, pid| kill(pid, "TERM"));
}

#[test]
fn an_agent_that_ignores_sigterm_is_killed_after_its_grace() {
    let (root, journal) = (Root::plain(), Journal::new());
    let ignore = "trap '' TERM INT HUP";
    let head = format!("#harness retries: 0\n#harness timeout: 1\n{ignore}");
    let body = format!("{ignore}\n{}", journal.wait_for("never"));
    journal.drop_script(&root, "x", &head, &body);
    assert_eq!(root.drain().status.code(), Some(1));
    let show = root.show("x");
    assert_eq!(show["outcome"], "timed_out", "{show:#}");
    let attempt = &show["attempts"][0];
    assert_eq!(attempt["signal"], 9, "{show:#}");
    // One second of timeout and two of grace.
    let seconds = attempt["seconds"].as_f64().unwrap();
    assert!((2.9..20.0).contains(&seconds), "{seconds}");
    root.assert_nothing_left();
}

/// Fields of /proc/PID/stat behind the command's name: state, parent, group, session, terminal.
fn stat(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = text.rsplit(')').next().unwrap().to_owned();
    rest.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn an_agent_inherits_three_descriptors_and_neither_session_nor_group_nor_blocked_signals() {
    let root = Root::plain();
    let mark = Mark::new();
    root.config(&format!(
        "[repo]\npath = \"none\"\n[agents.plain]\ncommand = [\"sleep\", \"{}\"]\nstdin = \"none\"\n",
        mark.0
    ));
    root.drop_file("x", b"---\nagent: plain\n---\nlook\n", 0o644);
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("the agent runs", || mark.alive().len() == 1);
    let agent = mark.alive()[0];
    root.wait_until("the agent is recorded", || {
        root.events("x").iter().any(|e| e == "started")
    });
    let fds = |pid: u32| {
        let dir = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let mut all: Vec<(String, String)> = dir
            .map(|e| {
                let to = fs::read_link(e.path()).unwrap_or_default();
                (
                    e.file_name().into_string().unwrap(),
                    to.display().to_string(),
                )
            })
            .collect();
        all.sort();
        all
    };
    let open = fds(agent);
    let numbers: Vec<&str> = open.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{open:?}");
    assert_eq!(open[0].1, "/dev/null");
    assert!(open[1].1.ends_with("/stdout.log"), "{open:?}");
    assert!(open[2].1.ends_with("/stderr.log"), "{open:?}");
    let keeper = root.keeper("agent-1");
    for (_, to) in fds(keeper) {
        let leaked = [
            "/lease",
            "aggregator.lock",
            "/harnesses/",
            "/queue/",
            "/repos/",
        ];
        assert!(!leaked.iter().any(|l| to.contains(l)), "keeper has {to}");
    }
    let (harness, kept, of_agent) = (stat(run.pid()), stat(keeper), stat(agent));
    assert_eq!(of_agent[2], agent.to_string(), "its own process group");
    assert_ne!(of_agent[3], harness[3], "not the harness's session");
    assert_eq!(of_agent[3], kept[3]);
    assert_eq!(kept[3], keeper.to_string(), "the keeper leads a session");
    assert_eq!(of_agent[4], "0", "no controlling terminal");
    // A blocked SIGTERM would reach no agent.
    let status = fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
    let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:\t"));
    assert_eq!(blocked, Some("0000000000000000"), "{status}");
    // The environment is readable by the owner alone, as /proc has it.
    assert_eq!(fs::metadata(&open[1].1).unwrap().mode() & 0o077, 0);
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(mark.alive(), Vec::<u32>::new());
    root.assert_nothing_left();
}

/// On a terminal Ctrl-C goes to the whole foreground group: agents must not be in it.
#[test]
fn ctrl_c_on_a_terminal_does_not_reach_agents() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let mut run = root.start(&["--workers", "1"]);
    let agent = journal.wait_for_start(&root, "x", 1);
    // What the terminal's driver does.
    let group: i32 = stat(run.pid())[2].parse().unwrap();
    for pid in [agent, root.keeper("agent-1")] {
        assert_ne!(stat(pid)[2], group.to_string());
    }
    run.signal("INT");
    root.wait_until("it heard", || run.said().contains("waiting for 1 agent"));
    journal.open("go");
    assert_eq!(run.wait(), Some(0));
    assert!(root.is_done("x"));
    root.assert_nothing_left();
}

/// Its numbers are neither the highest nor the lowest when the kernel has begun to count anew.
/// Only by looks at all processes it took 95 s, where it takes 1 to 4.
#[test]
fn what_forks_for_ever_is_ended_among_many_processes_whatever_its_numbers_are() {
    if !has_mounts() {
        return;
    }
    let root = Root::plain();
    root.config("[repo]\npath = \"none\"\n");
    fs::write(root.at("forks"), FOREVER).unwrap();
    let stray = "setsid sh $HARNESS_ROOT/forks & sleep 1000";
    root.script("x", &format!("#harness retries: 0\n{stray}"));
    let (bin, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
    let script = format!(
        "next() {{ echo $1 >/proc/sys/kernel/ns_last_pid; }}
        others() {{ for _ in $(seq 200); do sleep 100 & done; }}
        others; next 20000; others; next 1000
        HARNESS_CGROUP=off timeout 60 {bin} --root {dir} run --drain --workers 1 & p=$!
        until [ -s {dir}/forks-so-far ]; do sleep 0.1; done
        kill -9 $(pgrep -f '[k]eeper {dir}/state'); wait $p; echo CODE $?
        n=$(wc -c <{dir}/forks-so-far); sleep 0.3; [ $n = $(wc -c <{dir}/forks-so-far) ] && echo GONE"
    );
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", &script]);
    let said = words(&run_to_end(command));
    let wanted = ["keeper of x died", "CODE 1", "GONE"];
    assert!(wanted.iter().all(|w| said.contains(w)), "{said}");
}
