//! What git itself does not carry: submodules' commits, repositories that an agent begins in its
//! tree; and what it calls a change and is none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Root, as_nobody, describe, git, skipped};
use crate::trouble::fixes;

pub const AS: &str = "git -c user.name=a -c user.email=a@a.invalid";

/// A ROOT whose repository has the submodule `lib`, which has the submodule `deep`; both checked out.
pub fn with_submodules() -> Root {
    let mut root = Root::with_repo();
    let config = root.at("gitconfig");
    fs::write(&config, "[protocol \"file\"]\n\tallow = always\n").unwrap();
    root.env
        .push(("GIT_CONFIG_GLOBAL", config.into_os_string()));
    for (whole, part) in [("lib", "deep"), ("repo", "lib")] {
        for name in [whole, part] {
            let dir = root.at(name);
            if !dir.exists() {
                fs::create_dir(&dir).unwrap();
                git(&dir, &["init", "-q", "-b", "main"]);
                fs::write(dir.join("a"), "one\n").unwrap();
                git(&dir, &["add", "."]);
                git(&dir, &["commit", "-q", "-m", "one"]);
            }
        }
        let url = format!("../{part}");
        let dir = root.at(whole);
        git(
            &dir,
            &["config", "remote.origin.url", dir.to_str().unwrap()],
        );
        local(&dir, &["submodule", "--quiet", "add", &url, part]);
        git(&dir, &["commit", "-q", "-m", part]);
    }
    local(
        &root.repo(),
        &["submodule", "--quiet", "update", "--init", "--recursive"],
    );
    root
}

/// A git that may fetch from local repositories.
pub fn local(dir: &Path, args: &[&str]) -> String {
    git(dir, &[&["-c", "protocol.file.allow=always"], args].concat())
}

pub fn forget_remotes(root: &Root) {
    for part in ["lib", "deep"] {
        fs::rename(root.at(part), root.at(format!("{part}-moved"))).unwrap();
    }
}

fn drained(root: &Root) {
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
}

#[test]
fn commits_in_submodules_travel_both_ways_without_their_remotes() {
    let root = with_submodules();
    forget_remotes(&root);
    let work = format!(
        "test -e lib/deep/a; cd lib/deep; echo d > b; {AS} add b; {AS} commit -qm deep; cd ..\n\
         {AS} add deep; {AS} commit -qm lib; cd ..; {AS} add lib; {AS} commit -qm top\n\
         echo uncommitted > lib/c"
    );
    root.script("work", &format!("set -e\n{work}"));
    root.script(
        "next",
        "#harness after: [work]\ntest ! -e lib/c && test -e lib/deep/a",
    );
    drained(&root);
    assert_eq!(root.show("next")["outcome"], "no_change");
    let repo = root.repo();
    git(&repo, &["checkout", "-q", "harness/work/1"]);
    git(&repo, &["submodule", "--quiet", "update", "--recursive"]);
    assert_eq!(
        fs::read_to_string(repo.join("lib/c")).unwrap(),
        "uncommitted\n"
    );
    assert_eq!(fs::read_to_string(repo.join("lib/deep/b")).unwrap(), "d\n");
    for module in ["lib", "lib/modules/deep"] {
        let of_user = repo.join(".git/modules").join(module);
        let refs = git(
            &of_user,
            &[
                "for-each-ref",
                "--format=%(refname)",
                "refs/harness",
                "refs/heads/harness",
            ],
        );
        assert_eq!(refs, "refs/heads/harness/work/1\n", "{module}");
    }
}

#[test]
fn a_submodule_that_the_user_has_not_checked_out_is_named_at_the_end() {
    let root = with_submodules();
    let repo = root.repo();
    git(&repo, &["submodule", "--quiet", "deinit", "-f", "lib"]);
    fs::remove_dir_all(repo.join(".git/modules")).unwrap();
    root.script(
        "work",
        &format!("set -e; cd lib; echo x > b; {AS} add b; {AS} commit -qm b"),
    );
    let out = root.drain();
    let said = describe(&out);
    let show = root.show("work");
    let reason = show["attempts"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("submodule lib: your clone has not checked it out"),
        "{show:#}"
    );
    assert!(said.contains("modules/lib.git"), "{said}");
    let hub = root.at("state/repos/default.git/modules/lib.git");
    assert_eq!(git(&hub, &["show", "harness/work/1:b"]), "x\n");
}

/// Each would lead a git that believes the submodule's `.git` or settings into the user's repository.
#[test]
fn a_submodule_that_leads_to_the_users_repository_leads_nobody_there() {
    let root = with_submodules();
    let repo = root.repo();
    let user = repo.join(".git");
    let refs = || git(&repo, &["for-each-ref", "--format=%(refname)"]);
    fs::write(repo.join("untracked"), "mine\n").unwrap();
    let tricks = [
        format!("rm -rf lib/.git; echo 'gitdir: {}' > lib/.git", user.display()),
        format!("git -C lib config core.worktree '{}'", repo.display()),
        "git -C lib config filter.evil.clean 'touch ../../evil; cat'; echo '* filter=evil' > lib/.gitattributes".to_owned(),
        format!("rm -rf lib; ln -s '{}' lib", repo.display()),
        format!("git -C lib config core.fsmonitor \"touch '{}'\"", repo.join("evil").display()),
    ];
    for (n, trick) in tricks.iter().enumerate() {
        root.script(
            format!("trick{n}"),
            &format!("echo w > w; echo x > lib/evil; {trick}"),
        );
    }
    let before = refs();
    root.script("last", "test -e lib/deep/a && test ! -e lib/evil");
    drained(&root);
    for n in 0..tricks.len() {
        assert!(
            root.is_done(&format!("trick{n}")),
            "{:#}",
            root.show(&format!("trick{n}"))
        );
    }
    assert!(root.is_done("last"), "{:#}", root.show("last"));
    let after: Vec<String> = refs()
        .lines()
        .filter(|r| !r.contains("/harness/"))
        .map(str::to_owned)
        .collect();
    assert_eq!(after.join("\n"), before.trim_end());
    assert_eq!(
        fs::read_to_string(user.join("HEAD")).unwrap(),
        "ref: refs/heads/main\n"
    );
    assert_eq!(git(&repo, &["status", "--porcelain"]), "?? untracked\n");
    let evil = |dir: PathBuf| dir.join("evil").exists();
    assert!(!evil(root.at("worktrees")) && !evil(root.path().to_owned()) && !evil(repo.clone()));
}

/// Its URL is nobody's, or `.gitmodules` says nothing of it.
#[test]
fn a_submodule_that_cannot_be_had_parks_its_item_and_a_bare_link_none() {
    let root = with_submodules();
    let repo = root.repo();
    git(&repo, &["submodule", "--quiet", "deinit", "-f", "lib"]);
    fs::remove_dir_all(repo.join(".git/modules")).unwrap();
    forget_remotes(&root);
    git(&repo, &["branch", "bare"]);
    root.script("lost", "true");
    git(&repo, &["checkout", "-q", "bare"]);
    git(&repo, &["rm", "-q", "--cached", ".gitmodules"]);
    git(&repo, &["commit", "-q", "-m", "no .gitmodules"]);
    root.script("bare", "#harness base: bare\n: > made");
    git(&repo, &["checkout", "-q", "-f", "main"]);
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    assert!(root.is_done("bare"), "{:#}", root.show("bare"));
    let show = root.show("lost");
    assert!(root.is_parked("lost"), "{show:#}");
    assert!(
        show["reason"].as_str().unwrap().contains("submodule lib"),
        "{show:#}"
    );
}

#[test]
fn a_project_that_an_agent_begins_in_its_tree_is_its_work() {
    let root = Root::with_repo();
    let begin =
        format!("git init -q && echo code > main.js && {AS} add . && {AS} commit -qm begin");
    root.script(
        "scaffold",
        &format!("mkdir -p app/in && cd app && {begin} && echo more > late.js && cd in && {begin}"),
    );
    root.script(
        "linked",
        &format!("mkdir web && cd web && {begin} && cd .. && {AS} add web 2>/dev/null && {AS} commit -qm web"),
    );
    root.script("cloned", "git clone -q . other");
    drained(&root);
    let repo = root.repo();
    for file in [
        "scaffold/1:app/main.js",
        "scaffold/1:app/in/main.js",
        "linked/1:web/main.js",
    ] {
        assert_eq!(
            git(&repo, &["show", &format!("harness/{file}")]),
            "code\n",
            "{file}"
        );
    }
    assert_eq!(
        git(&repo, &["show", "harness/scaffold/1:app/late.js"]),
        "more\n"
    );
    let show = root.show("cloned");
    assert_eq!(show["outcome"], "no_change", "{show:#}");
    assert!(
        show["attempts"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("other is a repository of its own"),
        "{show:#}"
    );
    let told = root.ok(&["show", "cloned"]);
    let says = "other is a repository of its own";
    assert_eq!(told.matches(says).count(), 1, "{told}");
}

/// It cannot be moved out of its tree: the whole tree is kept.
#[test]
fn a_note_names_the_folder_where_an_immutable_repository_is_kept() {
    let root = Root::with_repo();
    root.script("leaves", "git clone -q . other; chattr +i other");
    let run = || root.harness(&["run", "--drain", "--workers", "1"]);
    run();
    let other = root.at("worktrees/agent-1/other");
    if !other.exists() || !fixes("+i", &other) {
        return skipped("attributes on this file system");
    }
    let show = root.show("leaves");
    let reason = show["attempts"][0]["reason"].as_str().unwrap();
    let kept = root.at("worktrees/agent-1").display().to_string();
    root.script("next", "ls > seen");
    run();
    let there = root.at("worktrees/agent-1.~1~/other");
    let is_there = there.exists();
    let _free = [fixes("-i", &there), fixes("-i", &other)];
    assert!(reason.contains(&format!("({kept}.~N~)")), "{reason}");
    assert!(is_there, "{}", root.picture());
    assert!(root.is_done("next"), "{:#}", root.show("next"));
}

#[test]
fn a_file_that_git_calls_changed_in_a_fresh_checkout_is_no_work() {
    let root = Root::with_repo();
    let repo = root.repo();
    fs::write(repo.join("w.txt"), "one\r\ntwo\r\n").unwrap();
    fs::write(repo.join("v.txt"), "one\r\ntwo\r\n").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-q", "-m", "crlf"]);
    fs::write(repo.join(".gitattributes"), "*.txt text\n").unwrap();
    git(&repo, &["add", ".gitattributes"]);
    git(&repo, &["commit", "-q", "-m", "attributes"]);
    root.script("nothing", "true");
    root.script(
        "commits",
        &format!("echo new > new; {AS} add new; {AS} commit -qm new"),
    );
    root.script("leaves", "echo new > new; printf 'three\\n' > v.txt");
    for _ in 0..2 {
        drained(&root);
        root.script("again", "true");
    }
    assert_eq!(root.show("nothing")["outcome"], "no_change");
    assert_eq!(root.show("again")["outcome"], "no_change");
    let changed = |name: &str| {
        git(
            &repo,
            &["diff", "--name-only", "main", &format!("harness/{name}/1")],
        )
    };
    assert_eq!(changed("commits"), "new\n");
    assert_eq!(changed("leaves"), "new\nv.txt\n");
    assert_eq!(root.show("commits")["attempts"][0]["commits"], 1);
}

/// A container that ran as root left some of it; some has only the wrong mode.
#[test]
fn what_nobody_can_read_is_named_and_stops_neither_its_item_nor_the_next() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("files of another user: needs root");
    }
    let root = Root::with_repo();
    let waits = root.at("worktrees/agent-1/waits");
    root.script(
        "leaves",
        "echo good > good; mkdir -p own ro; echo o > own/o; echo m > mode; echo r > ro/r\n\
         chmod 000 own mode; chmod 555 ro; touch waits; while [ ! -e go ]; do sleep 0.02; done; rm waits go",
    );
    root.script(
        "next",
        "#harness after: [leaves]\n[ ! -e dist ] && [ ! -e cache ] && ls > listing",
    );
    root.script("other", "echo z > z");
    let mut run = as_nobody(&root)(&["run", "--drain", "--workers", "1"])
        .env("HOME", root.path())
        .spawn()
        .unwrap();
    root.wait_until("the agent waits", || waits.exists());
    let tree = root.at("worktrees/agent-1");
    for (dir, file) in [("dist", "key"), ("cache", "c")] {
        fs::create_dir(tree.join(dir)).unwrap();
        fs::write(tree.join(dir).join(file), "of root\n").unwrap();
    }
    fs::set_permissions(tree.join("dist/key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(tree.join("cache"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(tree.join("go"), "").unwrap();
    root.wait_until("it has ended", || run.try_wait().unwrap().is_some());
    for name in ["leaves", "next", "other"] {
        assert!(
            root.is_done(name),
            "{:#}\n{}",
            root.show(name),
            root.picture()
        );
    }
    let show = root.show("leaves");
    let reason = show["attempts"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("dist/key") && reason.contains("cache"),
        "{reason}"
    );
    let repo = root.repo();
    let safe = format!("safe.directory={}", repo.display());
    let files = git(
        &repo,
        &[
            "-c",
            &safe,
            "ls-tree",
            "-r",
            "--name-only",
            "harness/leaves/1",
        ],
    );
    assert_eq!(files, "README\ngood\nmode\nown/o\nro/r\n");
    let kept = root.at("worktrees/agent-1.~1~");
    assert!(kept.join("dist/key").exists() && kept.join("cache/c").exists());
}

/// Each is left uncommitted but where it says otherwise.
#[test]
fn submodules_that_an_agent_moves_adds_and_removes_come_with_the_branch() {
    let root = with_submodules();
    let extra = root.at("extra");
    git(root.path(), &["clone", "-q", "--no-local", "deep", "extra"]);
    let items = [
        ("moved", "git mv lib libs".to_owned()),
        (
            "into",
            "mkdir f; git mv lib f/lib; echo w > f/lib/w".to_owned(),
        ),
        (
            "within",
            format!("git mv lib libs; cd libs; echo w > w; {AS} add w; {AS} commit -qm w"),
        ),
        (
            "whole",
            format!(
                "git mv lib libs; cd libs; echo w > w; {AS} add w; {AS} commit -qm w; cd ..; {AS} add libs; {AS} commit -qm m"
            ),
        ),
        (
            "deeper",
            "cd lib; git mv deep deeper; echo w > deeper/w".to_owned(),
        ),
        ("removed", "git rm -q lib".to_owned()),
        ("ended", "git submodule --quiet deinit -f lib".to_owned()),
        (
            "url",
            "git submodule --quiet set-url lib ../other".to_owned(),
        ),
        (
            "added",
            format!("git submodule --quiet add '{}' extra", extra.display()),
        ),
        (
            "out",
            // Another slot's tree, as far as a path says.
            "git mv lib libs; mkdir ../other; echo gitdir: none > ../other/.git; echo o > o
             git config -f .gitmodules submodule.lib.path ../other"
                .to_owned(),
        ),
        (
            "last",
            "test -e lib/deep/a; test -z \"$(git status --porcelain)\"; ls > listing".to_owned(),
        ),
    ];
    let mut before = String::new();
    for (name, body) in &items {
        root.script(name, &format!("#harness after: [{before}]\nset -e; {body}"));
        before = (*name).to_owned();
    }
    drained(&root);
    assert_eq!(root.show("ended")["outcome"], "no_change");
    let show = root.show("added");
    let reason = show["attempts"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "finished with 1 commit");
    let other = fs::read_to_string(root.at("worktrees/other/.git"));
    assert_eq!(other.unwrap(), "gitdir: none\n");
    let repo = root.repo();
    assert_eq!(
        git(&repo, &["show", "harness/last/1:listing"]),
        "README\nlib\nlisting\n"
    );
    for (name, files) in [
        ("moved", &["libs/deep/a"][..]),
        ("into", &["f/lib/w", "f/lib/deep/a"]),
        ("within", &["libs/w", "libs/deep/a"]),
        ("whole", &["libs/w", "libs/deep/a"]),
        ("deeper", &["lib/deeper/w"]),
        ("removed", &[]),
        ("url", &["lib/deep/a"]),
        ("added", &["extra/a", "lib/deep/a"]),
    ] {
        let copy = root.at(name);
        let cp = Command::new("cp").arg("-a").args([&repo, &copy]).status();
        assert!(cp.unwrap().success());
        local(&copy, &["submodule", "--quiet", "deinit", "-f", "--all"]);
        git(&copy, &["checkout", "-q", &format!("harness/{name}/1")]);
        local(
            &copy,
            &["submodule", "--quiet", "update", "--init", "--recursive"],
        );
        for file in files {
            assert!(copy.join(file).exists(), "{name}: {file}");
        }
        assert_eq!(git(&copy, &["status", "--porcelain"]), "", "{name}");
    }
}

/// The modes are those of an agent that is not root.
#[test]
fn folders_that_an_agent_closed_lose_nothing_and_stop_no_later_item() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("an agent whom modes stop: needs root");
    }
    let root = with_submodules();
    let begin = |n: &str| {
        format!("git init -q {n}; cd {n}; echo x > x; {AS} add x; {AS} commit -qm x; cd ..")
    };
    let closing = [
        ("n1", format!("{}; chmod 555 n1", begin("n1"))),
        ("n2", format!("{}; chmod 000 n2", begin("n2"))),
        ("n3", format!("{}; chmod 000 n3/.git", begin("n3"))),
        (
            "n4",
            format!("mkdir p; cd p; {}; chmod 555 n4 .", begin("n4")),
        ),
        ("s1", "echo s > lib/s; chmod 555 lib".to_owned()),
        ("s2", "echo s > lib/s; chmod 000 lib".to_owned()),
        (
            "s3",
            "echo s > lib/deep/s; chmod 555 lib/deep lib".to_owned(),
        ),
        ("t1", "echo t > t; chmod 555 .".to_owned()),
        ("t2", "echo t > t; chmod 000 .".to_owned()),
    ];
    let whole =
        "test -e lib/deep/a && test \"$(ls -A | tr '\\n' ' ')\" = '.git .gitmodules README lib '";
    let mut before = String::new();
    for (name, body) in &closing {
        root.script(name, &format!("#harness after: [{before}]\nset -e; {body}"));
        root.script(
            format!("{name}-next"),
            &format!("#harness after: [{name}]\n{whole}"),
        );
        before = format!("{name}-next");
    }
    let mut run = as_nobody(&root)(&["run", "--drain", "--workers", "1"]);
    let out = run.env("HOME", root.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    let repo = root.repo();
    let show = |dir: &Path, what: &str| {
        let safe = format!("safe.directory={}", dir.display());
        git(dir, &["-c", &safe, "show", what])
    };
    for file in ["n1/1:n1/x", "n2/1:n2/x", "n3/1:n3/x", "n4/1:p/n4/x"] {
        assert_eq!(show(&repo, &format!("harness/{file}")), "x\n");
    }
    for file in ["t1/1:t", "t2/1:t"] {
        assert_eq!(show(&repo, &format!("harness/{file}")), "t\n");
    }
    let lib = repo.join(".git/modules/lib");
    for (dir, file) in [
        (lib.clone(), "s1/1:s"),
        (lib.clone(), "s2/1:s"),
        (lib.join("modules/deep"), "s3/1:s"),
    ] {
        assert_eq!(show(&dir, &format!("harness/{file}")), "s\n");
    }
}
