//! Which hooks are run, and which are not, as an agent or another user could have put them there.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use serde_json::Value;

use super::{notes, put, ran, said, session};
use crate::support::{NOBODY, Root, git, skipped};

/// What stands in the place of a hook, and what is said of it.
type Odd = (&'static str, fn(&Root, &Path), &'static str);

const ODD: [Odd; 12] = [
    (
        "a folder",
        |_, at| fs::create_dir(at).unwrap(),
        "is no regular file",
    ),
    (
        "a fifo",
        |_, at| {
            let path = CString::new(at.to_str().unwrap()).unwrap();
            nix::unistd::mkfifo(path.as_c_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        },
        "is no regular file",
    ),
    (
        "no program",
        |_, at| put(at, "echo hello\n"),
        "neither a program nor a script that begins with `#!`",
    ),
    (
        "not executable",
        |root, at| {
            evil(root, at);
            fs::set_permissions(at, fs::Permissions::from_mode(0o644)).unwrap();
        },
        "is not executable: chmod +x, or remove it",
    ),
    (
        "written by all",
        |root, at| {
            evil(root, at);
            fs::set_permissions(at, fs::Permissions::from_mode(0o777)).unwrap();
        },
        "may be written by everybody: chmod go-w",
    ),
    (
        "with another name",
        |root, at| {
            evil(root, &root.at("other"));
            fs::hard_link(root.at("other"), at).unwrap();
        },
        "has another name",
    ),
    (
        "a link into a worktree",
        |root, at| {
            fs::create_dir_all(root.at("worktrees/agent-1")).unwrap();
            evil(root, &root.at("worktrees/agent-1/evil"));
            symlink("../worktrees/agent-1/evil", at).unwrap();
        },
        "lies where agents may write",
    ),
    (
        "a link to a link into a session",
        |root, at| {
            fs::create_dir_all(root.at("state/sessions/s")).unwrap();
            evil(root, &root.at("state/sessions/s/evil"));
            symlink(root.at("state/sessions/s/evil"), root.at("hooks/.between")).unwrap();
            symlink(".between", at).unwrap();
        },
        "lies where agents may write",
    ),
    (
        "a link into a folder for all",
        |root, at| {
            fs::create_dir_all(root.at("for-all")).unwrap();
            evil(root, &root.at("for-all/evil"));
            fs::set_permissions(root.at("for-all"), fs::Permissions::from_mode(0o777)).unwrap();
            symlink("../for-all/evil", at).unwrap();
        },
        "may be written by everybody: chmod go-w",
    ),
    (
        "a link to itself",
        |_, at| symlink(at.file_name().unwrap(), at).unwrap(),
        "a symlink that leads nowhere",
    ),
    (
        "another user's",
        |root, at| {
            evil(root, at);
            let _for_root_only = chown(at, Some(NOBODY), None);
        },
        "belongs to nobody",
    ),
    (
        "in a folder through another user's link",
        |root, at| {
            fs::create_dir_all(root.at("mine")).unwrap();
            evil(root, &root.at("mine/evil"));
            symlink("mine", root.at("turned")).unwrap();
            let path = root.at("turned");
            let _for_root_only = std::os::unix::fs::lchown(path, Some(NOBODY), None);
            symlink("../turned/evil", at).unwrap();
        },
        "belongs to nobody",
    ),
];

/// What must never be run.
fn evil(root: &Root, at: &Path) {
    let text = format!("#!/bin/sh\ntouch {}\n", root.at("evil-ran").display());
    put(at, &text);
}

#[test]
fn what_an_agent_or_another_user_could_have_put_there_is_not_run_and_said() {
    let is_root = nix::unistd::geteuid().is_root();
    for (kind, make, words) in ODD {
        if words.contains("nobody") && !is_root {
            skipped("a hook of another user's: needs root");
            continue;
        }
        let root = Root::plain();
        make(&root, &root.at("hooks/after-end"));
        root.script("x", ":");
        let out = root.drain();
        let text = said(&out);
        assert!(root.is_done("x"), "{kind}: {text}");
        assert!(!root.at("evil-ran").exists(), "{kind}");
        assert!(
            text.contains("hooks/after-end") && text.contains(words),
            "{kind}: {text}"
        );
        let doctor = said(&root.harness(&["doctor"]));
        let seen = doctor.contains("hooks/after-end") && doctor.contains(words);
        assert!(seen, "{kind}: {doctor}");
    }
}

/// An item's script that puts programs of its own into `hooks/`.
fn meddles(root: &Root) -> String {
    let evil = format!("#!/bin/sh\\ntouch {}\\n", root.at("evil-ran").display());
    format!(
        "#!/bin/sh\n#harness retries: 0\n\
         cd \"$HARNESS_ROOT/hooks\"\n\
         printf '{evil}' >after-end; chmod 755 after-end\n\
         printf '{evil}' >parked; touch -r landed parked\n\
         printf '{evil}' >new; chmod 755 new; mv new idle\n\
         printf '{evil}' >\"$HARNESS_SESSION_DIR/evil\"; chmod 755 \"$HARNESS_SESSION_DIR/evil\"\n\
         ln -s \"$HARNESS_SESSION_DIR/evil\" interrupt; ln -f \"$HARNESS_SESSION_DIR/evil\" landed\n\
         exit 1\n"
    )
}

#[test]
fn what_an_agent_without_a_sandbox_writes_into_hooks_is_not_run_and_said() {
    let root = Root::plain();
    notes(&root, "parked");
    notes(&root, "landed");
    root.drop_file("x", meddles(&root).as_bytes(), 0o755);
    let text = said(&root.drain());
    assert!(root.is_parked("x"), "{text}");
    assert!(!root.at("evil-ran").exists(), "{text}");
    assert_eq!(ran(&root, "parked").len(), 0);
    for name in ["after-end", "parked", "idle"] {
        let why = format!("hooks/{name} is not run: it came or changed since this run began");
        assert!(text.contains(&why), "{name}: {text}");
    }
}

#[test]
fn an_agent_in_its_sandbox_changes_no_hook_and_hooks_have_none() {
    let root = Root::with_repo();
    root.config_confined("[repo]\npath = \"repo\"\n");
    for name in ["parked", "before-start", "worktree-setup"] {
        notes(&root, name);
    }
    root.drop_file("x", meddles(&root).as_bytes(), 0o755);
    let text = said(&root.drain());
    assert!(root.is_parked("x"), "{text}");
    let file = fs::read(session(&root, "x").join("session.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    if file["sandbox"]["landlock"] == 0 {
        return skipped("a sandbox: this kernel has no Landlock");
    }
    assert!(!root.at("evil-ran").exists(), "{text}");
    assert!(!text.contains("is not run"), "{text}");
    let names = fs::read_dir(root.at("hooks")).unwrap().flatten();
    let mut names: Vec<_> = names
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [".gitignore", "before-start", "parked", "worktree-setup"]
    );
    // Each wrote into ROOT, where no agent may.
    for name in ["parked", "before-start", "worktree-setup"] {
        assert_eq!(ran(&root, name).len(), 1, "{name}: {text}");
    }
}

#[test]
fn no_branch_of_an_agents_brings_a_hook_into_a_tree_in_its_repository() {
    let root = Root::plain();
    let top = root.path();
    git(top, &["init", "-q", "-b", "main"]);
    fs::write(top.join("README"), "hello\n").unwrap();
    git(top, &["add", "README"]);
    git(top, &["commit", "-q", "-m", "one"]);
    let config = "[repo]\npath = \".\"\n[integrate]\nmode = \"merge\"\nbatch = 8\n";
    root.config(config);
    let commits = |what: &str| format!("{what}\ngit add -f .; git commit -qm made");
    let evil = format!(
        "printf '#!/bin/sh\\ntouch {}\\n'",
        root.at("evil-ran").display()
    );
    for name in ["a", "b"] {
        root.script(name, &commits(&format!("echo 1 >{name}")));
    }
    root.script(
        "hook",
        &commits(&format!(
            "mkdir hooks; {evil} >hooks/landed; chmod +x hooks/landed"
        )),
    );
    root.script(
        "link",
        &commits("mkdir tools; touch tools/x; ln -s tools hooks"),
    );
    root.script("config", &commits("echo 'x = 1' >harness.toml"));
    let text = said(&root.drain());
    for name in ["a", "b"] {
        assert!(root.is_done(name), "{name}: {text}");
        assert!(top.join(name).exists(), "{name}: {text}");
    }
    for (name, file) in [
        ("hook", "hooks/landed"),
        ("link", "hooks"),
        ("config", "harness.toml"),
    ] {
        assert!(root.is_parked(name), "{name}: {text}");
        let why = root.show(name)["reason"].as_str().unwrap().to_owned();
        let words =
            format!("1 file would be changed: {file}, by which harness runs programs as you");
        assert!(why.contains(&words), "{name}: {why}");
        assert!(
            why.contains(&format!("`git merge harness/{name}/1`")),
            "{why}"
        );
    }
    assert!(!root.at("hooks/landed").exists());
    root.drain();
    assert!(!root.at("evil-ran").exists());
}

#[test]
fn a_link_to_a_program_of_the_users_is_run() {
    let root = Root::plain();
    fs::create_dir(root.at("tools")).unwrap();
    put(
        &root.at("tools/tell"),
        "#!/bin/sh\necho \"$HARNESS_EVENT\" >>\"$HARNESS_ROOT/ran-tell\"\n",
    );
    symlink("../tools/tell", root.at("hooks/after-end")).unwrap();
    symlink(root.at("tools/tell"), root.at("hooks/item-claimed")).unwrap();
    root.script("x", ":");
    root.drain();
    let mut all = ran(&root, "tell");
    all.sort();
    assert_eq!(all, ["after-end", "item-claimed"]);
}

#[test]
fn doctor_names_the_hooks_that_are_run_and_those_with_nearly_a_hooks_name() {
    let root = Root::plain();
    notes(&root, "parked");
    for (name, near) in [
        ("after_end", "after-end"),
        ("landed.sh", "landed"),
        ("Before-Start", "before-start"),
        ("worktreesetup", "worktree-setup"),
    ] {
        notes(&root, name);
        let text = said(&root.harness(&["doctor"]));
        let words = format!("hooks/{name} is no hook: the nearest is `{near}`");
        assert!(text.contains(&words), "{name}: {text}");
        fs::remove_file(root.at("hooks").join(name)).unwrap();
    }
    // What is not meant as one.
    for name in ["parked~", "landed.sample", "README.md"] {
        fs::write(root.at("hooks").join(name), "x").unwrap();
    }
    let text = root.ok(&["doctor"]);
    let line = text
        .lines()
        .find(|l| l.contains("  hooks "))
        .unwrap_or_default();
    assert!(line.starts_with("ok") && line.ends_with("parked"), "{text}");
}
