//! `harness submit`, and what `harness status` says of it, with commands of Slurm's that only write down
//! what they were given. `slurm` has the real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Root, describe};

/// Puts `sbatch`, `squeue` and `scontrol` before all others. The first keeps its arguments and its script, and
/// answers what `bin/answer` says; the second prints `bin/queue`, or fails where that is missing.
pub fn with_slurm(root: &mut Root) -> PathBuf {
    let bin = root.at("bin");
    fs::create_dir(&bin).unwrap();
    let here = bin.display();
    let sbatch = format!(
        "cd '{here}'; printf '%s\\0' \"$@\" > args; for last; do :; done; cp \"$last\" script; . ./answer"
    );
    for (name, body) in [
        ("sbatch", sbatch.as_str()),
        ("squeue", &format!("cat '{here}/queue'")),
        (
            "scontrol",
            "echo 'ClusterName = c'; echo 'KillWait = 30 sec'",
        ),
    ] {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(bin.join("answer"), "echo 7").unwrap();
    fs::write(bin.join("queue"), "").unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", bin.display());
    root.env.push(("PATH", path.into()));
    bin
}

fn words(path: PathBuf) -> Vec<String> {
    let bytes = fs::read(path).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn status(root: &Root) -> Value {
    serde_json::from_str(&root.ok(&["status", "--json"])).unwrap()
}

#[test]
fn what_is_submitted_is_a_job_array_of_drains_and_stays_on_record() {
    let mut root = Root::plain();
    root.env.push(("HARNESS_KILL_GRACE", "40".into()));
    let bin = with_slurm(&mut root);
    let out = root.exits(
        0,
        &[
            "submit",
            "--nodes",
            "3",
            "--workers",
            "2",
            "--time",
            "1:00:00",
            "--mem",
            "2G",
            "--local",
            "$SCRATCH/it's",
            "--json",
            "--",
            "--partition=long",
        ],
    );
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&told["id"], &told["cluster"]), (&"7".into(), &"c".into()));
    // The tests' folder is no shared one.
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("ROOT lies on this host's own"), "{said}");
    let args = words(bin.join("args"));
    for want in [
        "--array=1-3",
        "--cpus-per-task=2",
        "--requeue",
        "--open-mode=append",
        "--signal=B:TERM@75",
        "--time=1:00:00",
        "--mem=2G",
    ] {
        assert!(args.iter().any(|a| a == want), "{want}: {args:?}");
    }
    assert_eq!(args[args.len() - 2], "--partition=long");
    // Half of what Slurm leaves between SIGTERM and SIGKILL is the agents'.
    let script = fs::read_to_string(bin.join("script")).unwrap();
    let path = root.path().canonicalize().unwrap();
    let want = format!(
        "#!/bin/sh\nexport HARNESS_KILL_GRACE=15\nexec '{}' --root '{}' run --drain --workers 2 --local \"${{SCRATCH:?}}\"'/it'\\''s'\n",
        env!("CARGO_BIN_EXE_harness"),
        path.display()
    );
    assert_eq!(script, want);
    let record = fs::read_to_string(root.at("state/jobs/slurm-7.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&record).unwrap(), told);
    // Slurm has a copy of the script.
    assert_eq!(fs::read_dir(root.at("state/jobs")).unwrap().count(), 1);
    fs::remove_file(bin.join("args")).unwrap();
    let dry = root.ok(&["submit", "--dry-run"]);
    assert!(!bin.join("args").exists(), "nothing is handed over");
    assert!(dry.starts_with("sbatch --parsable "), "{dry}");
    let script = "<<'END'\n#!/bin/sh\nexport HARNESS_KILL_GRACE=15\nexec ";
    assert!(dry.contains(script), "{dry}");
    assert!(dry.ends_with("run --drain --workers 3\nEND\n"), "{dry}");
    let first = root.ok(&["submit"]);
    assert!(
        first.starts_with("slurm job 7: 1 run of 3 workers each"),
        "{first}"
    );
}

#[test]
fn status_says_what_waits_in_the_queue_what_failed_and_what_is_not_known() {
    let mut root = Root::plain();
    let bin = with_slurm(&mut root);
    root.ok(&["submit", "--nodes", "3"]);
    let of = |queue: &str| {
        fs::write(bin.join("queue"), queue).unwrap();
        let told = status(&root)["submissions"].clone();
        (told, root.ok(&["status"]))
    };
    let (told, text) =
        of("c 7 1 8 RUNNING 0 None\nc 7 2 9 PENDING 0 Resources\nc 7 3 7 PENDING 0 Resources\n");
    assert_eq!(
        (&told[0]["id"], &told[0]["waiting"]),
        (&"7".into(), &2.into())
    );
    assert!(
        text.contains("slurm job 7: 2 of 3 runs wait in its queue: Resources"),
        "{text}"
    );
    let (told, text) =
        of("c 7 1 8 FAILED 32512 NonZeroExitCode\nc 7 2 9 FAILED 256 NonZeroExitCode\n");
    assert_eq!(told[0]["failed"], 1, "exit code 1 is of the items: {told}");
    assert!(text.contains("1 of 3 runs FAILED: exit code 127"), "{text}");
    assert!(text.contains("state/jobs/slurm-7_*.log"), "{text}");
    // Another cluster's job of that number is none of ours; ours has ended.
    let (told, _) = of("d 7 1 8 PENDING 0 Resources\n");
    assert_eq!(told, Value::Array(Vec::new()));
    fs::remove_file(bin.join("queue")).unwrap();
    let told = status(&root)["submissions"].clone();
    assert_eq!(told[0]["waiting"], Value::Null);
    let text = root.ok(&["status"]);
    assert!(
        text.contains("is not known: Slurm cannot be asked (squeue)"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_submitted_is_said_with_what_to_do() {
    let mut root = Root::plain();
    let fails = |root: &Root, code, args: &[&str], wants: &[&str]| {
        let out = root.exits(code, &[&["submit"], args].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        for want in wants.iter().chain(&["what to do"]) {
            assert!(said.contains(want), "{want}: {}", describe(&out));
        }
    };
    let empty = root.at("empty");
    fs::create_dir(&empty).unwrap();
    root.env.push(("PATH", empty.into()));
    fails(&root, 100, &[], &["sbatch is not found in PATH"]);
    root.env.clear();
    let bin = with_slurm(&mut root);
    fs::write(
        bin.join("answer"),
        "echo 'sbatch: error: Invalid qos' >&2; exit 1",
    )
    .unwrap();
    fails(
        &root,
        111,
        &[],
        &["sbatch: error: Invalid qos", "squeue --me"],
    );
    fs::write(bin.join("answer"), "echo what").unwrap();
    fails(&root, 111, &[], &["it prints no job's number"]);
    assert_eq!(fs::read_dir(root.at("state/jobs")).unwrap().count(), 0);
    fails(&root, 2, &["--local", "here"], &["is not absolute"]);
    fails(&root, 2, &["--time", "1"], &["too short"]);
    fails(&root, 2, &["--", "script.sh"], &["is no option of sbatch"]);
    assert!(
        !bin.join("args").exists() || !words(bin.join("args")).contains(&"script.sh".to_owned())
    );
    let odd = root.at("a\\b");
    fs::create_dir(&odd).unwrap();
    root.ok(&["init", odd.to_str().unwrap()]);
    fails(
        &root,
        100,
        &["--root", odd.to_str().unwrap()],
        &["it has a backslash"],
    );
}

#[test]
fn a_slow_answer_is_said_to_be_waited_for() {
    let mut root = Root::plain();
    let bin = with_slurm(&mut root);
    root.ok(&["init", root.path().to_str().unwrap()]);
    let go = root.at("go").display().to_string();
    let waits = format!("until [ -e '{go}' ]; do sleep 0.05; done; echo 7");
    fs::write(bin.join("answer"), waits).unwrap();
    let log = root.at("said");
    let said = || fs::read_to_string(&log).unwrap();
    let mut command = root.command();
    command
        .arg("submit")
        .stderr(fs::File::create(&log).unwrap());
    let mut submit = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    root.wait_until("it says what it waits for", || {
        said().contains("Slurm does not answer yet; waiting for it")
    });
    fs::write(&go, "").unwrap();
    assert!(submit.wait().unwrap().success(), "{}", said());
    assert_eq!(said().lines().count(), 1, "{}", said());
}

#[test]
fn gc_takes_old_records_and_logs_and_nothing_of_what_slurm_still_knows() {
    let mut root = Root::plain();
    root.config("[repo]\npath = \"none\"\n[limits]\nkeep = 60\n");
    let bin = with_slurm(&mut root);
    for id in [7, 70] {
        fs::write(bin.join("answer"), format!("echo {id}")).unwrap();
        root.ok(&["submit"]);
        fs::write(root.at(format!("state/jobs/slurm-{id}_1.log")), "x").unwrap();
    }
    let left = |root: &Root| fs::read_dir(root.at("state/jobs")).unwrap().count();
    root.ok(&["gc"]);
    assert_eq!(left(&root), 4, "they are young");
    for file in fs::read_dir(root.at("state/jobs")).unwrap() {
        let file = fs::File::options()
            .append(true)
            .open(file.unwrap().path())
            .unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    fs::remove_file(bin.join("queue")).unwrap();
    root.ok(&["gc"]);
    assert_eq!(left(&root), 4, "Slurm does not answer");
    fs::write(bin.join("queue"), "c 7 1 7 PENDING 0 Resources\n").unwrap();
    let said = root.ok(&["gc"]);
    assert!(said.contains("removed 2 files of submitted runs"), "{said}");
    assert!(root.at("state/jobs/slurm-7_1.log").exists());
}
