//! What an agent may touch: tried from inside, by an agent that means harm and by one that only works.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::{
    DEADLINE, NOBODY, Root, as_nobody, describe, git, give_away, run_within, skipped,
};

/// By python3, as a shell has no such system calls.
const EVIL: &str = include_str!("input/evil.py");

/// A tree whose agents are confined, and a home folder with things that they must not touch.
struct Place {
    root: Root,
    home: tempfile::TempDir,
}

impl Place {
    fn new(more: &str) -> Place {
        let mut root = Root::with_repo();
        let home = tempfile::Builder::new().prefix("home-").tempdir().unwrap();
        root.env.push(("HOME", home.path().into()));
        root.config_confined(&format!("{more}\n[repo]\npath = \"repo\"\n"));
        let place = Place { root, home };
        for (file, text) in [(".ssh/id", "secret"), (".bashrc", "mine"), ("open/x", "x")] {
            let path = place.at(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    fn at(&self, below: &str) -> PathBuf {
        self.home.path().join(below)
    }

    /// Runs a script alone; what it printed.
    fn printed(&self, name: &str, body: &str) -> String {
        self.root.script(name, body);
        self.root.drain();
        let show = self.root.show(name);
        let session = show["attempts"][0]["session"].as_str().unwrap().to_owned();
        let log = self.root.at(format!("state/sessions/{session}/stdout.log"));
        fs::read_to_string(log).unwrap()
    }
}

/// Tries each command; prints `NAME: yes` where it succeeded, `NAME: no` otherwise.
fn tries(commands: &[(&str, &str)]) -> String {
    let one = |(name, command): &(&str, &str)| {
        format!(
            "if ( {command} ) >/dev/null 2>&1; then echo '{name}: yes'; else echo '{name}: no'; fi\n"
        )
    };
    commands.iter().map(one).collect()
}

#[test]
fn what_is_not_granted_is_refused_by_every_means() {
    let place = Place::new("");
    let root = &place.root;
    let repo = root.repo().display().to_string();
    let checkout = format!("echo x > {repo}/evil");
    let hooks = format!("echo x > {repo}/.git/hooks/pre-commit");
    let refused = [
        ("write to the home folder", "echo x > $HOME/evil"),
        ("append to .bashrc", "echo x >> $HOME/.bashrc"),
        ("truncate .bashrc", "truncate -s 0 $HOME/.bashrc"),
        (
            "replace .bashrc by rename",
            "echo x > b; mv -f b $HOME/.bashrc",
        ),
        (
            "link .bashrc and write",
            "ln $HOME/.bashrc b2 && echo x >> b2",
        ),
        (
            "write .bashrc through a symlink",
            "ln -s $HOME/.bashrc b3 && echo x >> b3",
        ),
        (
            "remove .bashrc",
            "rm -f $HOME/.bashrc; test ! -e $HOME/.bashrc",
        ),
        ("read a secret", "cat $HOME/.ssh/id"),
        (
            "read a secret through /proc",
            "cat /proc/self/root$HOME/.ssh/id",
        ),
        ("drop an item", "echo x > $HARNESS_ROOT/queue/pending/evil"),
        (
            "move an item",
            "mv $HARNESS_ROOT/queue/claimed/$HARNESS_SLOT/* $HARNESS_ROOT/queue/done/",
        ),
        (
            "write the status",
            "echo x > $HARNESS_ROOT/state/status.json",
        ),
        (
            "write to a record",
            "echo x >> $HARNESS_ROOT/state/items/$HARNESS_ITEM.jsonl",
        ),
        (
            "write to the hub",
            "echo x > $HARNESS_ROOT/state/repos/default.git/config",
        ),
        (
            "make a hook of harness",
            "echo x > $HARNESS_ROOT/hooks/landed",
        ),
        (
            "change the configuration",
            "echo x >> $HARNESS_ROOT/harness.toml",
        ),
        ("read the configuration", "cat $HARNESS_ROOT/harness.toml"),
        ("write to the checkout", &checkout),
        ("make a hook of git", &hooks),
        ("write to /tmp", "echo x > /tmp/harness-evil"),
        (
            "read a lock that a keeper obeys",
            "cat $HARNESS_ROOT/state/agents/$HARNESS_SLOT/lease",
        ),
        ("signal the keeper", "kill -0 $PARENT"),
        (
            "read the environment of the keeper",
            "cat /proc/$PARENT/environ | grep -q .",
        ),
        ("enter the root of the keeper", "ls /proc/$PARENT/root/"),
    ];
    let printed = place.printed("evil", &format!("PARENT=$PPID\n{}", tries(&refused)));
    let said: Vec<&str> = printed.lines().filter(|l| !l.ends_with(": no")).collect();
    assert_eq!(said, Vec::<&str>::new(), "{printed}");
    assert_eq!(printed.lines().count(), refused.len(), "{printed}");
    assert_eq!(fs::read_to_string(place.at(".bashrc")).unwrap(), "mine");
    assert!(!root.at("queue/pending/evil").exists());
    assert_eq!(git(&root.repo(), &["status", "--porcelain"]), "");
}

/// Two slots at once, one of which attacks the other, its keeper and its user. `run` runs harness.
fn no_means_gets_through(place: &Place, run: impl FnOnce()) {
    let root = &place.root;
    fs::write(place.at("open/evil.py"), EVIL).unwrap();
    fs::create_dir_all(place.at(".cache")).unwrap();
    let bin = env!("CARGO_BIN_EXE_harness");
    let python = "python3 $HOME/open/evil.py";
    root.script("victim", &format!("exec {python} victim $HOME/.cache/met"));
    let attack = format!("export EVIL_HARNESS={bin}; exec {python} $HOME $HOME/.cache/met");
    root.script("evil", &attack);
    run();
    let show = root.show("evil");
    let session = show["attempts"][0]["session"].as_str().unwrap();
    let log = root.at(format!("state/sessions/{session}/stdout.log"));
    let printed = fs::read_to_string(log).unwrap();
    let said: Vec<&str> = printed.lines().filter(|l| !l.ends_with(": no")).collect();
    assert_eq!(said, Vec::<&str>::new(), "{printed}\n{}", root.picture());
    assert!(
        printed.lines().count() > 50,
        "{printed}\n{}",
        root.picture()
    );
    assert_eq!(fs::read_to_string(place.at(".bashrc")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(place.at(".ssh/id")).unwrap(), "secret");
    let made = fs::read_dir(place.home.path()).unwrap().flatten();
    let names = made.map(|e| e.file_name().to_string_lossy().into_owned());
    let evil: Vec<_> = names.filter(|name| name.starts_with("evil")).collect();
    assert_eq!(evil, Vec::<String>::new());
    assert_eq!(git(&root.repo(), &["branch", "--list", "evil"]), "");
}

fn has_python() -> bool {
    std::process::Command::new("python3")
        .arg("-V")
        .output()
        .is_ok_and(|out| out.status.success())
}

#[test]
fn no_system_call_of_an_agent_gets_through() {
    if !has_python() {
        return skipped("system calls of an agent that means harm: no python3");
    }
    let place = Place::new("");
    no_means_gets_through(&place, || drop(place.root.drain()));
}

#[test]
fn no_system_call_of_an_ordinary_users_agent_gets_through() {
    if !has_python() || !nix::unistd::geteuid().is_root() {
        return skipped("an ordinary user's agent that means harm: needs root, and python3");
    }
    let place = Place::new("");
    no_means_gets_through(&place, || {
        let harness = as_nobody(&place.root);
        give_away(place.home.path());
        let run = harness(&["run", "--drain", "--workers", "3"]);
        let out = run_within(DEADLINE, run).unwrap_or_else(|out| panic!("{}", describe(&out)));
        assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
        give_away_to_us(&place);
    });
}

/// What a test reads afterwards with git, which trusts nobody else's repository.
fn give_away_to_us(place: &Place) {
    for entry in walkdir::WalkDir::new(place.root.repo())
        .into_iter()
        .flatten()
    {
        std::os::unix::fs::lchown(entry.path(), Some(0), Some(0)).unwrap();
    }
}

#[test]
fn what_work_needs_is_granted() {
    let place = Place::new("");
    let granted = [
        (
            "write to the worktree",
            "mkdir -p a/b && echo x > a/b/c && mv a/b/c d && ln d e",
        ),
        ("commit", "git add . && git commit -qm work"),
        ("care of git", "git gc -q && git stash list"),
        ("write to the session", "echo x > $HARNESS_SESSION_DIR/note"),
        ("a temporary file", "test -w $(mktemp)"),
        (
            "devices",
            "echo x > /dev/null; head -c 1 /dev/urandom; echo y > /dev/stderr",
        ),
        (
            "the cache",
            "mkdir -p $HOME/.cache/tool && echo x > $HOME/.cache/tool/y",
        ),
        ("read what is open", "cat $HOME/open/x /etc/passwd"),
        ("list a folder with secrets", "ls $HOME $HOME/.ssh"),
        ("signal its own", "sleep 60 & kill $!"),
    ];
    let printed = place.printed("good", &tries(&granted));
    let said: Vec<&str> = printed.lines().filter(|l| !l.ends_with(": yes")).collect();
    assert_eq!(said, Vec::<&str>::new(), "{printed}");
    assert_eq!(printed.lines().count(), granted.len(), "{printed}");
    let branch = git(
        &place.root.repo(),
        &["log", "--format=%s", "-1", "harness/good/1"],
    );
    assert_eq!(branch, "work\n");
}

#[test]
fn a_temporary_folder_is_empty_at_each_start_and_goes_with_its_slot() {
    let place = Place::new("");
    let root = &place.root;
    let printed = |name: &str, body: &str| {
        root.script(name, &format!("{{ {body}; }} >$HARNESS_SESSION_DIR/said"));
        root.ok(&["run", "--drain", "--workers", "1"]);
        let show = root.show(name);
        let session = show["attempts"][0]["session"].as_str().unwrap().to_owned();
        fs::read_to_string(root.at(format!("state/sessions/{session}/said"))).unwrap()
    };
    // Both in one run, and then in another.
    let closes =
        "echo x >$TMPDIR/old; mkdir -p $TMPDIR/a/b; chmod 500 $TMPDIR/a $TMPDIR; echo $TMPDIR";
    root.script("closes", closes);
    let looks = "stat -c %a $TMPDIR; ls -A $TMPDIR; touch $TMPDIR/x; echo $TMPDIR";
    let first = printed("looks", looks);
    let folder = first
        .strip_prefix("700\n")
        .unwrap_or_else(|| panic!("{first}"));
    assert!(!PathBuf::from(folder.trim()).exists(), "{folder}");
    assert_eq!(printed("again", looks), first);
}

#[test]
fn the_environment_has_what_is_listed_and_no_token() {
    let mut place = Place::new("[sandbox]\nenv_pass = [\"MINE_*\"]\n");
    for (name, value) in [
        ("SSH_AUTH_SOCK", "/s"),
        ("GITHUB_TOKEN", "t"),
        ("ANTHROPIC_API_KEY", "k"),
        ("MINE_TOO", "passed"),
        ("LC_ALL", "C"),
    ] {
        place.root.env.push((name, value.into()));
    }
    let printed = place.printed("look", "env");
    let has = |name: &str| printed.lines().any(|l| l.starts_with(&format!("{name}=")));
    for name in [
        "MINE_TOO",
        "LC_ALL",
        "PATH",
        "HOME",
        "TMPDIR",
        "HARNESS_ITEM",
    ] {
        assert!(has(name), "{name}\n{printed}");
    }
    for name in ["SSH_AUTH_SOCK", "GITHUB_TOKEN", "ANTHROPIC_API_KEY"] {
        assert!(!has(name), "{name}\n{printed}");
    }
}

#[test]
fn a_grant_that_an_agent_led_elsewhere_is_left_out() {
    let place = Place::new("");
    let data = place.at("data");
    fs::create_dir_all(data.join("out")).unwrap();
    let write = |list: &str| {
        let text = format!("[agents.script]\nwrite = [{list}]\n[repo]\npath = \"repo\"\n");
        place.root.config_confined(&text);
    };
    write("\"~/data\", \"~/data/out\"");
    // It may write there, and leads the second grant to what it may not.
    let swap = "rm -r $HOME/data/out && ln -s $HOME/.ssh $HOME/data/out && echo done";
    assert_eq!(place.printed("swap", swap), "done\n");
    let printed = place.printed(
        "use",
        &tries(&[
            ("the granted folder", "echo x > $HOME/data/y"),
            ("through the link", "echo x > $HOME/data/out/evil"),
            ("the place itself", "echo x > $HOME/.ssh/evil"),
        ]),
    );
    assert_eq!(
        printed,
        "the granted folder: yes\nthrough the link: no\nthe place itself: no\n"
    );
    let said = place.root.ok(&["sandbox", "explain", "script"]);
    assert!(
        said.contains("data/out") && said.contains("where agents write"),
        "{said}"
    );
    // A person's own symlink is followed.
    fs::create_dir(place.at("disk")).unwrap();
    symlink(place.at("disk"), place.at("linked")).unwrap();
    write("\"~/linked\"");
    place.printed("linked", "echo x > $HOME/linked/y");
    assert!(place.at("disk/y").exists());
}

#[test]
fn a_cache_that_an_agent_led_to_a_secret_is_left_out() {
    let place = Place::new("");
    let lead = "mkdir -p $HOME/.cache && rm -rf $HOME/.cache/pip && ln -s $HOME/.ssh $HOME/.cache/pip && ln -s /usr $HOME/.cache/opencode && echo done";
    assert_eq!(place.printed("lead", lead), "done\n");
    let printed = place.printed(
        "use",
        &tries(&[
            ("write", "echo x > $HOME/.ssh/evil"),
            ("read", "cat $HOME/.ssh/id"),
            ("through the link", "cat $HOME/.cache/pip/id"),
            ("the cache", "echo x > $HOME/.cache/x"),
        ]),
    );
    assert_eq!(
        printed,
        "write: no\nread: no\nthrough the link: no\nthe cache: yes\n"
    );
}

#[test]
fn what_is_never_granted_is_left_out_and_said() {
    let place = Place::new("");
    let root = &place.root;
    fs::create_dir(place.at("theirs")).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(place.at("theirs"), Some(NOBODY), None).unwrap();
    }
    let (all, repo) = (root.path().display(), root.repo().display().to_string());
    let asked = [
        "~".to_owned(),
        format!("{all}"),
        format!("{all}/queue"),
        format!("{all}/queue/pending"),
        format!("{all}/state"),
        repo.clone(),
        format!("{repo}/.git/hooks"),
        "~/gone".to_owned(),
        "~/theirs".to_owned(),
    ];
    let list = asked.map(|path| format!("\"{path}\"")).join(", ");
    let text = format!("[sandbox]\nwrite = [{list}]\n[repo]\npath = \"repo\"\n");
    root.config_confined(&text);
    let checkout = format!("echo x > {repo}/evil");
    let hook = format!("echo x > {repo}/.git/hooks/evil");
    let mut refused = vec![
        ("the home folder", "echo x > $HOME/evil"),
        ("ROOT", "echo x > $HARNESS_ROOT/evil"),
        ("an item", "echo x > $HARNESS_ROOT/queue/pending/evil"),
        ("a record", "echo x >> $HARNESS_ROOT/state/items/evil"),
        ("the checkout", &checkout),
        ("its hooks", &hook),
    ];
    if is_root {
        refused.push(("of another user", "echo x > $HOME/theirs/evil"));
    }
    let printed = place.printed("evil", &tries(&refused));
    assert_eq!(printed.matches(": no").count(), refused.len(), "{printed}");
    let show = root.show("evil");
    let session = show["attempts"][0]["session"].as_str().unwrap();
    let file = root.at(format!("state/sessions/{session}/session.json"));
    let said = fs::read_to_string(file).unwrap();
    let left_out = said.matches("is not granted").count();
    // Nobody but root can make a folder another user's.
    assert_eq!(left_out, 8 + usize::from(is_root), "{said}");
    assert!(said.contains("it does not exist"), "{said}");
}

#[test]
fn what_is_denied_in_a_granted_place_is_denied() {
    let place = Place::new(
        "[sandbox]\nwrite = [\"~/data\"]\ndeny = [\"~/data/private\", \"~/.cache/keys\", \"/dev/shm\"]\n",
    );
    for name in ["data/private", "data/open", ".cache/keys", ".cache/tool"] {
        fs::create_dir_all(place.at(name)).unwrap();
        fs::write(place.at(name).join("x"), "x").unwrap();
    }
    let printed = place.printed(
        "evil",
        &tries(&[
            ("beside", "echo y > $HOME/data/open/x"),
            ("a cache", "echo y > $HOME/.cache/tool/x"),
            ("read", "cat $HOME/data/private/x"),
            ("write", "echo y > $HOME/data/private/x"),
            ("read a cache", "cat $HOME/.cache/keys/x"),
            ("shared memory", "echo y > /dev/shm/harness-evil"),
            ("move it", "mv $HOME/data/private $HOME/data/open/p"),
        ]),
    );
    let want = "beside: yes\na cache: yes\nread: no\nwrite: no\nread a cache: no\n\
                shared memory: no\nmove it: no\n";
    assert_eq!(printed, want);
}

#[test]
fn secrets_that_a_variable_leads_elsewhere_are_denied_there_and_at_their_usual_place() {
    let mut place = Place::new("");
    let files = [
        "conf/gh/hosts",
        "cargo/credentials.toml",
        "account/login",
        ".claude/login",
        ".config/gh/hosts",
    ];
    for file in files {
        fs::create_dir_all(place.at(file).parent().unwrap()).unwrap();
        fs::write(place.at(file), "secret").unwrap();
    }
    for (var, at) in [
        ("XDG_CONFIG_HOME", "conf"),
        ("CARGO_HOME", "cargo"),
        ("CLAUDE_CONFIG_DIR", "account"),
    ] {
        let at = place.at(at).into();
        place.root.env.push((var, at));
    }
    let read = files.map(|file| format!("cat $HOME/{file} && echo {file}"));
    let printed = place.printed("reads", &(read.join("; ") + "; cat $HOME/open/x"));
    assert_eq!(printed, "x");
}

#[test]
fn where_a_gate_runs_is_not_for_its_agent_to_say() {
    let gate =
        "[gates.look]\nscript = 'echo x > out; echo x > $HOME/evil; pwd > $HOME/.cache/where'\n";
    let place = Place::new(gate);
    let root = &place.root;
    fs::create_dir_all(place.at(".cache")).unwrap();
    let body = "sed -i \"s#\\\"worktree\\\": *\\\"[^\\\"]*\\\"#\\\"worktree\\\":\\\"$HOME\\\"#\" $HARNESS_SESSION_DIR/session.json\n\
         echo w > w; git add w; git commit -qm w; touch $HOME/.cache/forged\n\
         until [ -e $HOME/.cache/go ]; do sleep 0.02; done";
    root.script("forges", body);
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it is forged", || place.at(".cache/forged").exists());
    run.kill9();
    fs::write(place.at(".cache/go"), "").unwrap();
    root.drain();
    let ran = fs::read_to_string(place.at(".cache/where")).unwrap();
    assert!(
        ran.contains("/worktrees/agent-"),
        "{ran}\n{}",
        root.picture()
    );
    assert!(!place.at("evil").exists() && !place.at("out").exists());
}

#[test]
fn what_was_refused_is_said_with_the_key_that_would_allow_it() {
    let place = Place::new("");
    fs::create_dir(place.at("out")).unwrap();
    place
        .root
        .script("tries", "#harness retries: 0\necho x > $HOME/out/x");
    place.root.drain();
    let show = place.root.show("tries");
    let reason = show["reason"].as_str().unwrap();
    let want = format!("`write = [\"{}\"]`", place.at("out").display());
    assert!(reason.contains(&want), "{reason}");
}

#[test]
fn what_a_gate_was_refused_is_said_with_the_key_that_would_allow_it() {
    let place = Place::new(
        "[gates.fine]\nscript = 'cat ~/.ssh/id; exit 0'\n\
         [gates.out]\nscript = 'echo other; echo x > $HOME/out/x'\non_failure = \"park\"\n\
         [gates.tests]\nscript = 'cat ~/.ssh/id; echo 2 of 3 tests fail; exit 1'\nrequired = false",
    );
    let root = &place.root;
    fs::create_dir(place.at("out")).unwrap();
    root.script("x", "echo 1 > made");
    let said = describe(&root.drain());
    let allowed = |key: &str, path: &str| {
        format!("`{key} = [\"{}\"]` in [sandbox]", place.at(path).display())
    };
    let out = format!(
        "Permission denied; the sandbox does not let it write {}; to allow it: {}",
        place.at("out/x").display(),
        allowed("write", "out")
    );
    let (json, shown) = (root.show("x"), root.ok(&["show", "x"]));
    let reason = json["reason"].as_str().unwrap();
    for (told, by) in [
        (reason, "its reason"),
        (&*said, "the run"),
        (&*shown, "show"),
    ] {
        assert!(told.contains(&out), "{by}: {told}");
    }
    let gate = |name: &str| {
        let events = json["events"].as_array().unwrap();
        let ran = events.iter().find(|e| e["gate"] == name).unwrap();
        (
            ran["verdict"].as_str().unwrap(),
            ran["reason"].as_str().unwrap(),
        )
    };
    assert_eq!(gate("fine"), ("green", ""));
    let (verdict, reason) = gate("tests");
    assert_eq!(verdict, "red");
    let end = format!("to let it read: {}", allowed("read", ".ssh"));
    let end_of_file = format!("to let it read: {}", allowed("read", ".ssh/id"));
    assert!(
        reason.ends_with(&end) || reason.ends_with(&end_of_file),
        "{reason}"
    );
}

#[test]
fn a_port_that_was_refused_is_said_with_the_key_that_would_allow_it() {
    let place = Place::new("[sandbox]\nnetwork = [443]\n[agents.script]\nnetwork = [80]\n");
    let root = &place.root;
    if !root.ok(&["sandbox", "explain"]).contains("network") {
        return skipped("what the sandbox refuses in the network: the kernel restricts no ports");
    }
    let body = "#harness retries: 0\nexec bash -c 'exec 3<>/dev/tcp/127.0.0.1/9'";
    root.script("dials", body);
    root.drain();
    let reason = root.show("dials")["reason"].as_str().unwrap().to_owned();
    let want = "the sandbox does not let it use TCP port 9; \
                to allow it: `network = [80, 9]` in [agents.script]";
    assert!(reason.contains(want), "{reason}");
}

#[test]
fn a_question_reaches_its_person_from_a_confined_agent() {
    let place = Place::new("");
    let root = &place.root;
    root.script("asks", "echo 'which one?' > $HARNESS_INTERRUPT; sleep 60");
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it is asked", || {
        root.at("state/interrupts/agent-1.interrupt").exists()
    });
    let said = || root.ok(&["status"]).contains("which one?");
    root.wait_until("status shows it", said);
    root.ok(&["cancel", "asks"]);
    root.ok(&["resume", "agent-1"]);
    run.signal("TERM");
    run.wait();
}
