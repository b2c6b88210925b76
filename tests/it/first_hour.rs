//! The first hour in a project of one's own: where ROOT is made and found, what the project's tools see
//! of it, and the configuration changed by a command.

mod minute;
mod projects;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use crate::support::{DEADLINE, Root, describe, git, pause, run_within};

/// A git repository with one commit in which nobody has used harness yet.
struct Project {
    dir: tempfile::TempDir,
    path: String,
}

impl Project {
    fn new() -> Project {
        Project::of(&[("src/deep/a", "one\n")])
    }

    /// One with these files in its first commit.
    fn of(files: &[(&str, &str)]) -> Project {
        let dir = tempfile::Builder::new()
            .prefix("project-")
            .tempdir()
            .unwrap();
        let project = Project {
            dir,
            path: "/usr/bin:/bin".into(),
        };
        for (name, text) in files {
            let file = project.top().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        git(&project.top(), &["init", "-q", "-b", "main"]);
        git(&project.top(), &["add", "."]);
        git(&project.top(), &["commit", "-q", "-m", "one"]);
        project
    }

    fn top(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join("project")
    }

    fn in_folder(&self, dir: &Path, args: &[&str]) -> Output {
        let mut c = Command::new(env!("CARGO_BIN_EXE_harness"));
        c.current_dir(dir)
            .args(args)
            .env_remove("HARNESS_ROOT")
            .env("PATH", &self.path);
        run_within(DEADLINE, c).unwrap_or_else(|_| panic!("harness {args:?} does not end"))
    }

    #[track_caller]
    fn ok_in(&self, dir: &Path, args: &[&str]) -> String {
        let out = self.in_folder(dir, args);
        assert!(out.status.success(), "harness {args:?}: {}", describe(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.ok_in(&self.top(), args)
    }

    #[track_caller]
    fn refused(&self, args: &[&str], code: i32) -> String {
        let out = self.in_folder(&self.top(), args);
        assert_eq!(
            out.status.code(),
            Some(code),
            "{args:?}: {}",
            describe(&out)
        );
        String::from_utf8(out.stderr).unwrap()
    }

    /// Installs programs of these names, and no other agent CLI.
    fn install(&mut self, names: &[&str]) {
        let bin = self.dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        for name in names {
            let file = bin.join(name);
            fs::write(&file, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        self.path = format!("{}:/usr/bin:/bin", bin.display());
    }

    fn toml(&self) -> String {
        fs::read_to_string(self.top().join(".harness/harness.toml")).unwrap()
    }

    fn status(&self) -> String {
        git(
            &self.top(),
            &[
                "status",
                "--porcelain",
                "--ignored=no",
                "--untracked-files=all",
            ],
        )
    }
}

#[test]
fn in_a_repository_root_is_made_out_of_everybodys_way_and_found_from_everywhere() {
    let p = Project::new();
    let said = p.ok_in(&p.top().join("src/deep"), &["init"]);
    let root = p.top().join(".harness");
    assert!(said.contains(root.to_str().unwrap()), "{said}");
    assert!(
        said.contains("../../.harness/queue/pending") || said.contains(".harness/queue/pending/"),
        "{said}"
    );
    assert_eq!(p.status(), "");
    let seen = fs::read_dir(p.top())
        .unwrap()
        .flatten()
        .map(|e| e.file_name());
    let mut seen: Vec<_> = seen.collect();
    seen.sort();
    assert_eq!(seen, [".git", ".harness", "src"]);

    p.ok_in(
        &p.top().join("src"),
        &["add", "--prompt", "x", "--name", "one"],
    );
    let again = p.ok_in(&p.top().join("src"), &["init"]);
    assert!(again.contains("already"), "{again}");
    let linked = p.dir.path().join("linked");
    git(
        &p.top(),
        &["worktree", "add", "-q", linked.to_str().unwrap()],
    );
    // A file that was committed is in the linked worktree, too, and is no ROOT there.
    git(&p.top(), &["add", "-f", ".harness/harness.toml"]);
    git(&p.top(), &["commit", "-q", "-m", "toml"]);
    git(&linked, &["merge", "-q", "main"]);
    assert!(linked.join(".harness/harness.toml").exists());
    for dir in [
        p.top(),
        p.top().join("src/deep"),
        linked.clone(),
        linked.join("src"),
        root.join("queue"),
    ] {
        let list = p.ok_in(&dir, &["list", "pending"]);
        assert!(list.contains("one"), "{dir:?}: {list}");
    }
    assert!(p.ok_in(&linked, &["init"]).contains("already"));
    assert!(!linked.join(".harness/queue").exists());
}

#[test]
fn a_root_at_the_top_stays_the_root_and_a_folder_that_is_named_is_one() {
    let p = Project::new();
    fs::write(p.top().join("harness.toml"), "").unwrap();
    p.ok_in(&p.top().join("src"), &["init"]);
    assert!(p.top().join("queue/pending").is_dir() && !p.top().join(".harness").exists());
    p.ok(&["init", "tools/jobs"]);
    assert!(p.top().join("tools/jobs/queue/pending").is_dir());
    let bare = p.dir.path().join("plain");
    fs::create_dir(&bare).unwrap();
    p.ok_in(&bare, &["init"]);
    assert!(bare.join("queue/pending").is_dir());
}

#[test]
fn git_clean_takes_neither_the_queue_nor_records_nor_an_agents_work() {
    let p = Project::new();
    p.ok(&["init"]);
    let root = p.top().join(".harness");
    fs::write(root.join("harness.toml"), "[harness]\nworkers = 2\n").unwrap();
    let script = "#!/bin/sh\ntest $HARNESS_ITEM = two || exit 0\necho half > half\necho > \"$HARNESS_SESSION_DIR/began\"\nwhile [ ! -e \"$HARNESS_ROOT/go\" ]; do sleep 0.05; done\necho whole > half\n";
    for name in ["one", "two"] {
        fs::write(root.join("queue/pending").join(name), script).unwrap();
    }
    p.ok(&["run", "--max-items", "1"]);
    let mut run = Command::new(env!("CARGO_BIN_EXE_harness"));
    run.current_dir(p.top())
        .args(["run", "--drain"])
        .env_remove("HARNESS_ROOT");
    let mut run = run.stdout(std::process::Stdio::null()).spawn().unwrap();
    let began = || {
        walkdir::WalkDir::new(root.join("state/sessions"))
            .into_iter()
            .flatten()
            .any(|e| e.file_name() == "began")
    };
    let end = Instant::now() + DEADLINE;
    while !began() {
        assert!(Instant::now() < end, "no agent begins to work");
        pause();
    }

    git(&p.top(), &["clean", "-q", "-fdx"]);
    assert!(root.join("queue/done/one").exists() && root.join("state/items/one.jsonl").exists());
    assert!(!root.join("harness.toml").exists() && !root.join(".gitignore").exists());
    assert_eq!(p.status(), "", "what was spared is not shown");
    let looked = describe(&p.in_folder(&p.top(), &["config"]));
    assert!(
        looked.contains("harness.toml is gone, so every key has its default"),
        "{looked}"
    );
    git(&p.top(), &["add", "-A"]);
    assert_eq!(p.status(), "");
    fs::write(root.join("go"), "").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0));
    fs::remove_file(root.join("go")).unwrap();
    assert_eq!(git(&p.top(), &["show", "harness/two/1:half"]), "whole\n");

    // The configuration comes back with the next command that writes, once, and from a copy that
    // `init` and `config set` keep, too.
    p.ok(&["config", "set", "workers", "4"]);
    for command in [
        &["run", "--drain"][..],
        &["add", "--prompt", "x"],
        &["init"],
        &["config", "set", "retry.max", "1"],
    ] {
        git(&p.top(), &["clean", "-q", "-fdx"]);
        let out = p.in_folder(&p.top(), command);
        let told = describe(&out);
        assert!(out.status.success(), "{told}");
        assert_eq!(told.matches("it is back as it was").count(), 1, "{told}");
        assert!(p.toml().contains("[harness]\nworkers = 4\n"), "{told}");
    }
    let toml = p.toml();
    assert!(toml.contains("[retry]\nmax = 1\n"), "{toml}");
    assert!(!describe(&p.in_folder(&p.top(), &["init"])).contains("it is back"));
    assert_eq!(p.status(), "");
}

#[test]
fn one_line_of_gits_exclude_file_hides_root_and_no_other_is_touched() {
    let p = Project::new();
    let exclude = p.top().join(".git/info/exclude");
    fs::write(&exclude, "mine").unwrap();
    p.ok(&["init", "odd [name] x"]);
    p.ok(&["init"]);
    p.ok(&["init"]);
    let lines = "mine\n/odd\\ \\[name]\\ x/\n/.harness/\n";
    assert_eq!(fs::read_to_string(&exclude).unwrap(), lines);
    git(&p.top(), &["clean", "-q", "-fdx"]);
    assert_eq!(p.status(), "");
    // The user's own link, or a repository that is not ours to write into, stops nobody.
    fs::rename(&exclude, p.dir.path().join("own")).unwrap();
    fs::write(p.dir.path().join("own"), "").unwrap();
    symlink(p.dir.path().join("own"), &exclude).unwrap();
    p.ok(&["init"]);
    assert_eq!(fs::read(p.dir.path().join("own")).unwrap(), b"");
    fs::remove_file(&exclude).unwrap();
    fs::remove_dir(p.top().join(".git/info")).unwrap();
    p.ok(&["init"]);
    assert_eq!(fs::read_to_string(&exclude).unwrap(), "/.harness/\n");
    assert_eq!(
        exclude.metadata().unwrap().permissions().mode() & 0o444,
        0o444
    );
}

#[test]
fn the_only_agent_that_is_installed_runs_prompts_and_of_several_a_person_chooses() {
    let mut p = Project::new();
    p.install(&["codex"]);
    let said = p.ok(&["init"]);
    assert!(said.contains("prompts run with codex"), "{said}");
    assert!(p.toml().contains("\n[harness]\nagent = \"codex\"\n"));

    let mut p = Project::new();
    p.install(&["codex", "claude"]);
    let said = p.ok(&["init"]);
    assert!(said.contains("harness config set agent claude"), "{said}");
    assert!(p.toml().contains("\n#[harness]\n"));
    // What the template leaves open can be appended.
    fs::write(
        p.top().join(".harness/harness.toml"),
        p.toml() + "[harness]\nworkers = 7\n",
    )
    .unwrap();
    assert!(p.ok(&["config"]).contains("workers"));

    let said = Project::new().ok(&["init"]);
    assert!(said.contains("install an agent CLI"), "{said}");
}

#[test]
fn a_key_is_set_by_a_command_or_refused_and_the_file_stays() {
    let p = Project::new();
    p.ok(&["init"]);
    let file = p.top().join(".harness/harness.toml");
    let own = p.dir.path().join("own.toml");
    fs::rename(&file, &own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&own, &file).unwrap();
    assert_eq!(
        p.ok(&["config", "set", "agent", "claude"]),
        "harness.agent = \"claude\"\n"
    );
    assert_eq!(
        p.ok(&["config", "set", "agents.mine.command", "[\"cat\"]"]),
        "agents.mine.command = [\"cat\"]\n"
    );
    p.ok(&["config", "set", "agent", "mine"]);
    assert!(file.symlink_metadata().unwrap().is_symlink());
    assert_eq!(own.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let text = p.toml();
    assert!(
        text.contains("\n[harness]\nagent = \"mine\"\n")
            && text.contains("# Seconds between SIGTERM")
    );

    for (key, value, why) in [
        ("agent", "nobody", "no agent"),
        ("workers", "0", "from 1 to 1024"),
        ("wrokers", "3", "`workers`"),
        ("agents.mine.model", "x", "needs `cli`"),
        ("agents.new.model", "x", "needs `cli`"),
    ] {
        let out = p.in_folder(&p.top(), &["config", "set", key, value]);
        let told = String::from_utf8(out.stderr).unwrap();
        assert!(matches!(out.status.code(), Some(2 | 100)), "{told}");
        assert!(told.contains(why), "{key} {value}: {told}");
    }
    assert_eq!(p.toml(), text);
    let json = p.ok(&["config", "set", "retry.max", "0", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["key"], &json["value"]),
        (&"retry.max".into(), &0.into())
    );
}

#[test]
fn what_is_said_twice_is_named_with_its_first_line() {
    let p = Project::new();
    p.ok(&["init"]);
    let file = p.top().join(".harness/harness.toml");
    fs::write(
        &file,
        "[harness]\nworkers = 2\n\n[repo]\npath = \"auto\"\n[harness]\nagent = \"claude\"\n",
    )
    .unwrap();
    let told = p.refused(&["config"], 100);
    assert!(
        told.contains("line 6: the table [harness] is there already, in line 1"),
        "{told}"
    );
    fs::write(
        &file,
        "[repo]\n[harness]\nworkers = 2\n# more\nworkers = 3\n",
    )
    .unwrap();
    let told = p.refused(&["config"], 100);
    assert!(
        told.contains("line 5: `workers` in [harness] is set already, in line 3"),
        "{told}"
    );
}

#[test]
fn worktrees_lie_where_the_configuration_wants_them_and_belong_to_one_root() {
    let root = Root::with_repo();
    let far = root.at("far/trees");
    let repo = "[repo]\npath = \"repo\"\n";
    let elsewhere = format!("worktrees = \"far/trees\"\n{repo}");
    root.config(&elsewhere);
    root.script("one", "pwd > where");
    assert_eq!(root.drain().status.code(), Some(0));
    let wrote = git(&root.repo(), &["show", "harness/one/1:where"]);
    let tree = Path::new(wrote.trim());
    assert_eq!(tree.parent().unwrap(), fs::canonicalize(&far).unwrap());
    assert!(tree.join(".git").exists());
    assert!((1..=3).all(|n| !root.at(format!("worktrees/agent-{n}")).exists()));

    let other = Root::plain();
    other.config(&format!(
        "worktrees = \"{}\"\n[repo]\npath = \"none\"\n",
        far.display()
    ));
    let out = other.harness(&["run", "--drain"]);
    assert_eq!(out.status.code(), Some(100), "{}", describe(&out));
    assert!(
        describe(&out).contains("has its worktrees there"),
        "{}",
        describe(&out)
    );

    // The work of a running agent is in the folder of before.
    root.script("two", "echo > \"$HARNESS_SESSION_DIR/began\"; sleep 100");
    let run = root.start(&[]);
    root.wait_until("it works", || {
        !root.ok(&["list", "claimed"]).trim().is_empty()
    });
    run.kill9();
    root.config(repo);
    let out = root.exits(100, &["run", "--drain"]);
    assert!(
        describe(&out).contains("items are worked on in"),
        "{}",
        describe(&out)
    );
    root.config(&elsewhere);
    root.ok(&["cancel", "two"]);
    root.drain();
    root.config(repo);
    root.script("three", "pwd > where");
    root.drain();
    assert!(
        root.is_done("three")
            && (1..=3).any(|n| root.at(format!("worktrees/agent-{n}/.git")).exists())
    );
    root.config("worktrees = \"queue/pending\"\n");
    assert_eq!(root.harness(&["run", "--drain"]).status.code(), Some(100));
}

#[test]
fn an_item_begins_with_the_work_of_the_one_that_it_waits_for_where_it_says_so() {
    let root = Root::with_repo();
    root.script("one", "echo 1 > one");
    root.script("idle", "true");
    root.drop_file(
        "two",
        b"#!/bin/sh\n#harness after: one\n#harness base: after\ncat one > two\n",
        0o755,
    );
    root.drop_file(
        "without",
        b"#!/bin/sh\n#harness after: one\ntest ! -e one\n",
        0o755,
    );
    root.drop_file(
        "plain",
        b"#!/bin/sh\n#harness after: idle\n#harness base: after\ncat README > copy\n",
        0o755,
    );
    assert_eq!(root.drain().status.code(), Some(0), "{}", root.picture());
    assert_eq!(git(&root.repo(), &["show", "harness/two/1:two"]), "1\n");
    let parent = git(
        &root.repo(),
        &["rev-parse", "harness/two/1~1", "harness/one/1"],
    );
    let (parent, one) = parent.trim().split_once('\n').unwrap();
    assert_eq!(parent, one);
    assert_eq!(root.show("two")["attempts"][0]["commits"], 1);
    assert_eq!(
        git(&root.repo(), &["show", "harness/plain/1:copy"]),
        "hello\n"
    );

    root.drop_file(
        "many",
        b"#!/bin/sh\n#harness after: [one, two]\n#harness base: after\n",
        0o755,
    );
    root.drop_file("none", b"#!/bin/sh\n#harness base: after\n", 0o755);
    let drained = root.drain();
    assert_eq!(drained.status.code(), Some(1));
    let said = describe(&drained);
    let end = said
        .lines()
        .find(|l| l.starts_with("Parked items need you"));
    assert!(
        end.is_some_and(|l| ["retry many`", "retry none`"].iter().any(|r| l.contains(r))),
        "{said}"
    );
    for (name, why) in [("many", "names 2 items"), ("none", "there is no `after`")] {
        let reason = root.show(name)["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(why), "{reason}");
    }
    let added = root.harness(&["add", "--prompt", "x", "--after", "one"]);
    assert!(
        describe(&added).contains("`base: after` starts from its branch"),
        "{}",
        describe(&added)
    );
}

#[test]
fn prompts_without_an_agent_wait_behind_one_hold_and_begin_once_there_is_one() {
    let root = Root::plain();
    for n in 0..50 {
        root.drop_file(format!("p{n}.md"), b"do it\n", 0o644);
    }
    let added = root.harness(&["add", "--prompt", "x", "--name", "said.md"]);
    let said = describe(&added);
    assert!(said.contains("said.md will wait: no agent is"), "{said}");
    fs::remove_file(root.at("queue/pending/said.md")).unwrap();
    root.script("works", "true");
    let out = root.exits(111, &["run", "--drain"]);
    assert!(root.is_done("works") && !root.is_parked("p0.md"));
    let said = describe(&out);
    assert_eq!(
        said.matches("prompts without an agent wait").count(),
        1,
        "{said}"
    );
    assert!(said.contains("harness config set agent NAME"), "{said}");
    assert!(
        said.contains("50 items stay in pending/ (p0.md, p1.md, p10.md, …)"),
        "{said}"
    );
    let status = root.ok(&["status"]);
    assert!(
        status.contains("PROMPTS WITHOUT AN AGENT WAIT: no agent is configured"),
        "{status}"
    );

    let hold = fs::read(root.at("state/holds/none.hold")).unwrap();
    root.ok(&["config", "set", "agent", "claude"]);
    assert!(!root.at("state/holds/none.hold").exists());
    // A run ends it as well, where a person has changed the file.
    fs::write(root.at("state/holds/none.hold"), hold).unwrap();
    root.config(
        "agent = \"mine\"\n[repo]\npath = \"none\"\n[agents.mine]\ncommand = [\"my-tool\"]\n",
    );
    let run = root.start(&["--drain"]);
    root.wait_until("it says that the program is missing", || {
        run.said().contains("my-tool is not found")
    });
    assert!(!root.at("state/holds/none.hold").exists());
    assert!(run.said().contains("prompts without an agent wait no more"));
    drop(run);
    let bin = root.at("bin");
    fs::create_dir(&bin).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut steady = root.command();
    steady.args(["run", "--drain"]).env("PATH", &path);
    fs::write(
        bin.join("my-tool"),
        "#!/bin/sh\ncat > \"$HARNESS_SESSION_DIR/seen\"\n",
    )
    .unwrap();
    fs::set_permissions(bin.join("my-tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let out = run_within(DEADLINE, steady).unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    assert!(root.is_done("p0.md") && root.is_done("p49.md"));
    assert!(!root.at("state/holds/mine.hold").exists());
}

#[test]
fn a_program_that_is_installed_while_its_items_wait_ends_the_hold() {
    let root = Root::plain();
    let tool = root.at("my tool");
    let toml = format!(
        "agent = \"mine\"\n[repo]\npath = \"none\"\n[agents.mine]\ncommand = [\"{}\"]\n",
        tool.display()
    );
    root.config(&toml);
    root.drop_file("p.md", b"do it\n", 0o644);
    let run = root.start(&[]);
    root.wait_until("it says what is missing", || {
        run.said().contains("items for mine wait")
    });
    fs::write(root.at("made"), "#!/bin/sh\ncat\n").unwrap();
    fs::set_permissions(root.at("made"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(root.at("made"), &tool).unwrap();
    root.wait_until("it is done", || root.is_done("p.md"));
}
