//! The first hour as a new user lives it, in a Python, a Node and a Rust project: ten items, a question,
//! a failure, a cancel, and the project's own tests, `git status` and `git clean -fdx` meanwhile.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::Project;
use crate::support::{DEADLINE, describe, git, kill, pause, run_within, skipped};

/// The items, and what becomes of them if nobody helps.
const ITEMS: [(&str, &str); 10] = [
    (
        "fix.md",
        "---\npriority: high\ntitle: Fix the typo\n---\nFix it. [[mock:success file=fix.txt]]\n",
    ),
    (
        "look.json",
        "{\"prompt\": \"[[mock:noop]]\", \"priority\": 2, \"labels\": [\"a\"]}",
    ),
    (
        "migrate",
        "#!/bin/sh\n#harness exclusive: db\nmkdir $HARNESS_ROOT/../../shared/db && echo 1 > migrated && rmdir $HARNESS_ROOT/../../shared/db\n",
    ),
    (
        "seed",
        "#!/bin/sh\n#harness exclusive: db\nmkdir $HARNESS_ROOT/../../shared/db && echo 1 > seeded && rmdir $HARNESS_ROOT/../../shared/db\n",
    ),
    ("base", "#!/bin/sh\necho one > one.txt\n"),
    (
        "next",
        "#!/bin/sh\n#harness after: base\n#harness base: after\ncat one.txt > two.txt\n",
    ),
    (
        "flaky",
        "#!/bin/sh\n#harness retries: 1\ntest -e $HARNESS_ROOT/mended || { echo 'no server' >&2; exit 3; }\n",
    ),
    (
        "later.md",
        "---\nnot_before: 2099-01-01\n---\n[[mock:success file=later.txt]]\n",
    ),
    (
        "ask.md",
        "Ask me. [[mock:question text=Which_one? file=q.txt]]\n",
    ),
    ("long", "#!/bin/sh\necho began; while :; do sleep 1; done\n"),
];

/// One of the three projects, and how its owner tests it.
struct Kind {
    files: &'static [(&'static str, &'static str)],
    /// A folder that is ignored, with a file in it.
    ignored: &'static str,
    /// Programs to be found on PATH, and the command.
    test: Vec<PathBuf>,
    args: Vec<&'static str>,
}

/// A `harness run` in the background; it is killed at the end of the test.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

struct Hour {
    p: Project,
    kind: Kind,
}

impl Hour {
    fn begin(kind: Kind) -> Hour {
        let mut p = Project::of(kind.files);
        let bin = p.dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let mock = env!("CARGO_BIN_EXE_mock-agent");
        let claude = bin.join("claude");
        fs::write(&claude, format!("#!/bin/sh\nexec {mock} claude \"$@\"\n")).unwrap();
        fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
        for program in &kind.test {
            symlink(program, bin.join(program.file_name().unwrap())).unwrap();
        }
        p.path = format!("{}:/usr/bin:/bin", bin.display());
        let file = p.top().join(kind.ignored);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
        Hour { p, kind }
    }

    fn code(&self, dir: &Path, args: &[&str]) -> (Option<i32>, String) {
        let out: Output = self.p.in_folder(dir, args);
        (out.status.code(), describe(&out))
    }

    #[track_caller]
    fn waits(&self, names: &[&str], code: i32) {
        let args = [&["wait", "--timeout", "60"], names].concat();
        let (got, said) = self.code(&self.p.top(), &args);
        let list = self.p.ok(&["list"]);
        assert_eq!(got, Some(code), "{names:?}: {said}\n{list}");
    }

    /// The project's own tests pass, and git sees what it saw before.
    #[track_caller]
    fn undisturbed(&self) {
        assert_eq!(self.p.status(), "");
        let Some(program) = self.kind.test.first() else {
            return;
        };
        let mut tests = Command::new(program.file_name().unwrap());
        tests.args(&self.kind.args).current_dir(self.p.top());
        tests
            .env("PATH", &self.p.path)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let out = run_within(DEADLINE, tests).unwrap_or_else(|out| panic!("{}", describe(&out)));
        assert!(out.status.success(), "{}", describe(&out));
        assert_eq!(self.p.status(), "");
    }

    fn run(&self, dir: &Path) -> Run {
        let log = fs::File::create(self.p.dir.path().join("run.log")).unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_harness"));
        run.arg("run").current_dir(dir).env("PATH", &self.p.path);
        run.env_remove("HARNESS_ROOT").stdin(Stdio::null());
        let run = run.stdout(log.try_clone().unwrap()).stderr(log);
        Run(run.spawn().unwrap())
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_so() {
            let log = fs::read_to_string(self.p.dir.path().join("run.log"));
            assert!(Instant::now() < end, "in vain until {what}: {log:?}");
            pause();
        }
    }

    fn slot_of(&self, name: &str) -> Option<String> {
        let show: Value = serde_json::from_str(&self.p.ok(&["show", name, "--json"])).unwrap();
        Some(show["attempts"][0]["slot"].as_str()?.to_owned())
    }
}

fn live(kind: Kind) {
    let hour = Hour::begin(kind);
    let (p, top) = (&hour.p, hour.p.top());
    hour.undisturbed();
    let said = p.ok_in(&top.join("sub"), &["init"]);
    assert!(said.contains("prompts run with claude"), "{said}");
    let is_node = top.join("package.json").exists();
    assert_eq!(said.contains("tools of Node"), is_node, "{said}");
    for (key, value) in [("stagger", "0"), ("retry.delay", "0.05"), ("workers", "4")] {
        p.ok(&["config", "set", key, value]);
    }
    // What two scripts share, and what agents may write besides their own.
    fs::create_dir(p.dir.path().join("shared")).unwrap();
    p.ok(&["config", "set", "sandbox.write", "[\"../../shared\"]"]);
    let root = top.join(".harness");
    for (name, text) in ITEMS {
        fs::write(root.join("queue/pending").join(name), text).unwrap();
    }
    hour.undisturbed();
    assert_eq!(p.ok(&["list", "pending"]).lines().count(), 1 + 8);
    let mut run = hour.run(&top.join("sub"));
    let asked = || {
        let slot = hour.slot_of("ask.md");
        slot.filter(|s| {
            root.join("state/interrupts")
                .join(format!("{s}.interrupt"))
                .exists()
        })
    };
    hour.until("ask.md asks", || asked().is_some());
    hour.until("long began", || p.ok(&["list", "claimed"]).contains("long"));

    // At work: a careless clean takes what is ignored, and nothing of the agents'.
    git(&top, &["clean", "-q", "-fdx"]);
    assert!(!top.join(hour.kind.ignored).exists());
    hour.undisturbed();
    git(&top, &["add", "-A"]);
    hour.undisturbed();

    let linked = p.dir.path().join("linked");
    git(&top, &["worktree", "add", "-q", linked.to_str().unwrap()]);
    let slot = asked().unwrap();
    p.ok_in(&linked, &["resume", &slot, "--answer", "the left one"]);
    hour.waits(&["ask.md"], 0);
    hour.waits(&["flaky"], 1);
    assert!(
        p.ok(&["logs", "flaky"]).contains("no server")
            || p.ok(&["show", "flaky"]).contains("no server")
    );
    fs::write(root.join("mended"), "").unwrap();
    p.ok_in(&linked.join("sub"), &["retry", "flaky"]);
    hour.waits(&["flaky"], 0);
    p.ok(&["cancel", "long"]);
    hour.waits(&["long"], 1);
    assert_eq!(p.ok(&["logs", "long"]), "began\n");
    p.ok(&["release", "later.md"]);
    hour.waits(
        &[
            "fix.md",
            "look.json",
            "migrate",
            "seed",
            "base",
            "next",
            "later.md",
        ],
        0,
    );
    kill(run.0.id(), "INT");
    assert!(run.0.wait().unwrap().code().is_some());
    at_rest(&hour);
}

/// Afterwards: what the items left, and the same clean checkout.
fn at_rest(hour: &Hour) {
    let (p, top) = (&hour.p, hour.p.top());
    assert_eq!(git(&top, &["show", "harness/next/1:two.txt"]), "one\n");
    let branches =
        || -> Vec<Value> { serde_json::from_str(&p.ok(&["branches", "--json"])).unwrap() };
    let all = branches();
    assert_eq!(all.len(), 7, "{all:?}");
    assert!(
        all.iter()
            .all(|b| b["merged"] == false && b["conflicts"] == serde_json::json!([]))
    );
    git(&top, &["merge", "-q", "harness/fix.md/1"]);
    let merged = |b: &Value| b["item"] == "fix.md" && b["merged"] == true;
    assert!(branches().iter().any(merged));
    for args in [
        &["status"][..],
        &["show", "ask.md"],
        &["session", "summary", "ask.md"],
        &["session", "list"],
        &["gc"],
        &["doctor"],
    ] {
        p.ok_in(&top.join("sub"), args);
    }
    git(&top, &["clean", "-q", "-fdx"]);
    hour.undisturbed();
    p.ok(&[
        "add",
        "--prompt",
        "[[mock:success file=more.txt]]",
        "--name",
        "more",
    ]);
    assert_eq!(hour.code(&top, &["run", "--drain", "--quiet"]).0, Some(0));
    assert_eq!(
        git(&top, &["show", "harness/more/1:more.txt"]),
        "hello from mock-agent\n"
    );
    hour.undisturbed();
}

/// Where a program lies, by PATH. Otherwise the project has no tests of its own, which is said.
fn found(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name));
    let found: Vec<_> = found.filter(|file| file.exists()).take(1).collect();
    if found.is_empty() {
        skipped(&format!(
            "no `{name}`, so a project's own tests are not run"
        ));
    }
    found
}

#[test]
fn the_first_hour_in_a_python_project() {
    live(Kind {
        files: &[
            (
                "pyproject.toml",
                "[project]\nname = \"calc\"\nversion = \"0.1\"\n",
            ),
            (".gitignore", ".venv\n__pycache__\n.pytest_cache\n"),
            ("calc/__init__.py", "def add(a, b):\n    return a + b\n"),
            ("tests/__init__.py", ""),
            (
                "tests/test_calc.py",
                "import unittest\nfrom calc import add\n\n\nclass T(unittest.TestCase):\n    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n",
            ),
            ("sub/notes.txt", "x\n"),
        ],
        ignored: ".venv/lib/x.py",
        test: found("python3"),
        args: vec!["-m", "unittest", "-q"],
    });
}

#[test]
fn the_first_hour_in_a_node_project() {
    live(Kind {
        files: &[
            (
                "package.json",
                "{\"name\": \"calc\", \"scripts\": {\"test\": \"node --test\"}}\n",
            ),
            (".gitignore", "node_modules\n"),
            ("sub/calc.js", "exports.add = (a, b) => a + b;\n"),
            (
                "test/calc.test.js",
                "const assert = require('node:assert');\nrequire('node:test')('add', () => assert.equal(require('../sub/calc.js').add(1, 2), 3));\n",
            ),
        ],
        ignored: "node_modules/x/index.js",
        test: found("node"),
        // Without a file, Node 20 looks into every folder, `.git` too.
        args: vec!["--test", "test/calc.test.js"],
    });
}

#[test]
fn the_first_hour_in_a_rust_project() {
    // Not a proxy, which would look for a toolchain by the folder that it is started in.
    let cargo = std::env::var_os("CARGO").map(PathBuf::from);
    let rustc = cargo.as_ref().map(|cargo| cargo.with_file_name("rustc"));
    let test: Vec<_> = cargo
        .into_iter()
        .chain(rustc)
        .filter(|p| p.exists())
        .collect();
    if test.len() < 2 {
        skipped("no $CARGO beside a rustc, so a project's own tests are not run");
    }
    live(Kind {
        files: &[
            (
                "Cargo.toml",
                "[package]\nname = \"calc\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
            ),
            (".gitignore", "target\nCargo.lock\n"),
            (
                "src/lib.rs",
                "pub fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n\n#[test]\nfn adds() {\n    assert_eq!(add(1, 2), 3);\n}\n",
            ),
            ("sub/notes.txt", "x\n"),
        ],
        ignored: "target/x",
        test,
        args: vec!["test", "-q", "--offline", "--lib"],
    });
}
