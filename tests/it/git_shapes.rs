//! Repositories of every shape, each through a whole life of items by the real binary: what they
//! leave must be there, and all of the user's must be as before, byte for byte. One ROOT for all
//! shapes, over every git of the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::gits::{self, Git, HOOKS, User, hook_text, locks};
use crate::support::{Root, describe, give_away};

/// A world with folders for its repositories, beside ROOT's own.
struct World<'a> {
    root: Root,
    git: &'a Git,
    home: PathBuf,
    told: PathBuf,
    shapes: Vec<Shape>,
}

struct Shape {
    name: &'static str,
    path: PathBuf,
    /// Where it is not to work: what the reason says.
    refused: Option<&'static str>,
}

impl World<'_> {
    fn user(&self, repo: impl Into<PathBuf>) -> User<'_> {
        User {
            git: self.git,
            repo: repo.into(),
            home: self.home.clone(),
            now: 1_700_000_000,
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.at("repos").join(name)
    }

    /// A repository with a commit, a stash, a change that is staged and one that is not.
    fn plain(&self, name: &str, init: &[&str]) -> User<'_> {
        let user = self.user(self.dir(name));
        fs::create_dir_all(&user.repo).unwrap();
        user.git(&[&["init", "-q", "-b", "main"], init].concat());
        user.write("a", "one\n");
        user.write("sub/b", "two\n");
        user.git(&["add", "."]);
        user.git(&["commit", "-q", "-m", "one"]);
        user.write("a", "put away\n");
        user.git(&["stash", "-q"]);
        user.write("staged", "staged\n");
        user.git(&["add", "staged"]);
        user.write("a", "being edited\n");
        user.write("untracked", "mine\n");
        user
    }

    fn add(&mut self, name: &'static str, path: PathBuf) {
        let refused = None;
        self.shapes.push(Shape {
            name,
            path,
            refused,
        });
    }

    fn add_refused(&mut self, name: &'static str, path: PathBuf, why: &'static str) {
        let refused = Some(why);
        self.shapes.push(Shape {
            name,
            path,
            refused,
        });
    }

    fn make_all(&mut self) {
        let path = |user: User<'_>| user.repo;
        self.add("plain", path(self.plain("plain", &[])));

        let user = self.plain("packed", &[]);
        user.git(&["tag", "-a", "-m", "v", "v1"]);
        user.git(&["branch", "odd/#brünch's"]);
        user.git(&["branch", "-q", "harnessed"]);
        user.git(&["gc", "-q"]);
        self.add("packed", path(user));

        self.add(
            "sha256",
            path(self.plain("sha256", &["--object-format=sha256"])),
        );
        if self.git.is_at_least(2, 45) {
            self.add(
                "reftable",
                path(self.plain("reftable", &["--ref-format=reftable"])),
            );
        }

        let user = self.plain("hooks", &[]);
        user.make_hooks(&user.repo.join(".git/hooks"), &self.told);
        self.add("hooks", path(user));

        // Hooks by configuration, which git 2.54 and newer run wherever hooksPath leads.
        let user = self.plain("config-hooks", &[]);
        for hook in HOOKS {
            let (event, command) = (
                format!("hook.my-{hook}.event"),
                format!("hook.my-{hook}.command"),
            );
            user.git(&["config", &event, hook]);
            user.git(&["config", &command, &hook_text(hook, &self.told)]);
        }
        self.add("config-hooks", path(user));

        let user = self.plain("settings", &[]);
        user.make_hooks(&user.repo.join(".git/hooks"), &self.told);
        let monitor = user.repo.join(".git/hooks/post-index-change");
        let told_to_git = "printf 'token\\0/\\0'";
        let text = fs::read_to_string(&monitor).unwrap() + told_to_git;
        let monitor = user.repo.join(".git/hooks/monitor");
        fs::write(&monitor, text).unwrap();
        fs::set_permissions(&monitor, fs::Permissions::from_mode(0o755)).unwrap();
        let included = self.dir("included.config");
        fs::write(
            &included,
            "[user]\n\tname = Included\n[core]\n\tautocrlf = input\n",
        )
        .unwrap();
        for (key, value) in [
            ("core.fsmonitor", monitor.to_str().unwrap()),
            ("core.autocrlf", "true"),
            ("core.untrackedCache", "true"),
            ("include.path", included.to_str().unwrap()),
            ("user.useConfigOnly", "true"),
            ("fetch.prune", "true"),
            ("fetch.fsckObjects", "true"),
            ("transfer.hideRefs", "refs/heads"),
            ("uploadpack.hideRefs", "refs/remotes"),
            ("commit.gpgSign", "true"),
            ("gpg.program", "false"),
            ("core.logAllRefUpdates", "always"),
            ("push.default", "nothing"),
            ("submodule.recurse", "true"),
            ("core.editor", "false"),
        ] {
            user.git(&["config", key, value]);
        }
        self.add("settings", path(user));

        let user = self.plain("lfs", &[]);
        user.git(&["stash", "push", "-q"]);
        user.write(
            ".gitattributes",
            "*.bin filter=lfs diff=lfs merge=lfs -text\n",
        );
        user.write("x.bin", "version https://git-lfs.github.com/spec/v1\n");
        user.git(&["add", "."]);
        user.git(&["commit", "-q", "-m", "lfs"]);
        self.add("lfs", path(user));

        // As `git lfs install` leaves it, on a host that has lost git-lfs.
        let user = self.plain("lfs-lost", &[]);
        user.write(".gitattributes", "*.bin filter=lfs\n");
        user.write("x.bin", "version https://git-lfs.github.com/spec/v1\n");
        user.git(&["add", "."]);
        user.git(&["commit", "-q", "-m", "lfs"]);
        user.git(&[
            "config",
            "filter.lfs.process",
            "/nonexistent/git-lfs filter-process",
        ]);
        user.git(&["config", "filter.lfs.required", "true"]);
        self.add_refused("lfs-lost", path(user), "git-lfs");

        let source = self.plain("source", &[]);
        for n in 2..4 {
            source.write("sub/b", &format!("{n}\n"));
            source.git(&["commit", "-q", "-m", "more", "sub/b"]);
        }
        source.git(&["config", "uploadpack.allowFilter", "true"]);
        source.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        let url = format!("file://{}", source.repo.display());
        let repos = self.root.at("repos");
        for (name, args) in [
            ("bare", vec!["--bare"]),
            ("shallow", vec!["--depth=1"]),
            ("partial", vec!["--filter=blob:none"]),
            ("treeless", vec!["--filter=tree:0"]),
            ("mirror", vec!["--mirror"]),
        ] {
            source.git_at(
                &repos,
                &[&["clone", "-q"], &args[..], &[&url, name]].concat(),
            );
        }
        let here = source.repo.to_str().unwrap();
        source.git_at(&repos, &["clone", "-q", "--shared", here, "borrowing"]);
        source.git_at(&repos, &["clone", "-q", "--sparse", here, "sparse"]);
        let (bare, sparse) = (self.user(self.dir("bare")), self.user(self.dir("sparse")));
        bare.git(&["config", "core.logAllRefUpdates", "true"]);
        sparse.git(&["sparse-checkout", "set", "sub"]);
        source.git(&["worktree", "add", "-q", "-b", "side", "../linked"]);
        drop(source);
        for name in [
            "bare",
            "shallow",
            "partial",
            "treeless",
            "mirror",
            "borrowing",
            "sparse",
            "linked",
        ] {
            self.add(name, self.dir(name));
        }

        let user = self.plain("detached", &[]);
        user.git(&["checkout", "-q", "--detach"]);
        self.add("detached", path(user));

        // A submodule is a repository of its own, and so is what it is part of.
        let user = self.plain("super", &[]);
        let file = ["-c", "protocol.file.allow=always"];
        let lib = self.dir("plain");
        user.git(
            &[
                &file[..],
                &["submodule", "--quiet", "add", lib.to_str().unwrap(), "lib"],
            ]
            .concat(),
        );
        user.git(&["commit", "-q", "-m", "lib"]);
        user.git(&["config", "submodule.lib.update", "none"]);
        let inner = user.repo.join("lib");
        self.add("super", path(user));
        self.add("submodule", inner);

        // A link to it, as in a home directory that was moved.
        let link = self.dir("link");
        std::os::unix::fs::symlink(self.dir("packed"), &link).unwrap();
        self.add("link", link);

        // A branch of his with the name that ours would have.
        let user = self.plain("occupied", &[]);
        user.git(&["branch", "-q", "harness/occupied-work/1"]);
        self.add("occupied", path(user));

        let user = self.plain("taken", &[]);
        user.git(&["branch", "-q", "harness"]);
        self.add_refused("taken", path(user), "harness");

        let unborn = self.user(self.dir("unborn"));
        fs::create_dir_all(&unborn.repo).unwrap();
        unborn.git(&["init", "-q", "-b", "main"]);
        self.add_refused("unborn", path(unborn), "no commits yet");

        let none = self.dir("none");
        fs::create_dir_all(&none).unwrap();
        // Or git would find this project's own repository, where tests are run inside it.
        fs::write(none.join(".git"), "gitdir: nowhere\n").unwrap();
        self.add_refused("none", none, "not a git repository");

        let user = self.plain("of-tomorrow", &[]);
        user.git(&["config", "core.repositoryFormatVersion", "1"]);
        user.git(&["config", "extensions.ofTomorrow", "true"]);
        self.add_refused("of-tomorrow", path(user), "newer git");

        if nix::unistd::geteuid().is_root() {
            let user = self.plain("others", &[]);
            give_away(&user.repo);
            self.add_refused("others", path(user), "safe.directory");
            let user = self.plain("others-safe", &[]);
            give_away(&user.repo);
            let safe = user.repo.to_str().unwrap();
            for safe in [safe, &format!("{safe}/.git")] {
                user.git(&["config", "--global", "--add", "safe.directory", safe]);
            }
            self.add("others-safe", path(user));
        }
    }
}

/// The variables that a hook finds, and others that bend git: they lead into another repository.
fn as_in_a_hook(root: &mut Root, other: &Path) {
    let git_dir = other.join(".git");
    root.env.extend([
        ("GIT_DIR", git_dir.clone().into()),
        ("GIT_COMMON_DIR", git_dir.clone().into()),
        ("GIT_INDEX_FILE", git_dir.join("index").into()),
        ("GIT_WORK_TREE", other.into()),
        ("GIT_OBJECT_DIRECTORY", git_dir.join("objects").into()),
        ("GIT_QUARANTINE_PATH", git_dir.join("objects").into()),
        ("GIT_PREFIX", "sub/".into()),
        ("GIT_NAMESPACE", "other".into()),
        ("GIT_DEFAULT_HASH", "sha256".into()),
        ("GIT_CONFIG_PARAMETERS", "'core.bare=true'".into()),
        ("GIT_CONFIG_COUNT", "1".into()),
        ("GIT_CONFIG_KEY_0", "core.worktree".into()),
        ("GIT_CONFIG_VALUE_0", "/".into()),
        ("GIT_AUTHOR_DATE", "no date".into()),
        ("GIT_REFLOG_ACTION", "hook".into()),
        ("GIT_TRACE", "/dev/null".into()),
    ]);
}

fn live(git: &Git) {
    let mut root = Root::plain();
    let home = root.at("home");
    fs::create_dir(&home).unwrap();
    fs::create_dir(root.at("repos")).unwrap();
    git.lead(&mut root, &home);
    let told = root.at("hooks-ran");
    let mut w = World {
        root,
        git,
        home,
        told,
        shapes: Vec::new(),
    };
    w.make_all();
    let other = w.plain("other", &[]).repo;
    as_in_a_hook(&mut w.root, &other);
    let mut config = "interrupt_on = []\n[repo]\npath = \"none\"\n".to_owned();
    for shape in &w.shapes {
        let path = shape.path.to_str().unwrap();
        config.push_str(&format!("[repos.{}]\npath = \"{path}\"\n", shape.name));
    }
    w.root.config(&config);
    let works = |s: &&Shape| s.refused.is_none();
    let before: Vec<_> = w
        .shapes
        .iter()
        .filter(works)
        .map(|s| w.user(&s.path).bytes())
        .collect();
    let before_other = w.user(&other).bytes();

    for shape in &w.shapes {
        let name = shape.name;
        let item = |end: &str, after: &str, body: &str| {
            let head = format!("#harness repo: {name}\n#harness retries: 0\n{after}");
            let text = format!("#!/bin/sh\n{head}\nset -e\n{body}\n");
            w.root
                .drop_file(format!("{name}-{end}"), text.as_bytes(), 0o755);
        };
        let commit = "git add by-agent && git -c user.name=a -c user.email=a@b -c commit.gpgSign=false commit -qm by-agent";
        item(
            "work",
            "",
            &format!(
                "[ -f sub/b ]; echo {name} > by-agent; {commit}; echo {name} > 'left over'; echo >> sub/b"
            ),
        );
        if shape.refused.is_some() {
            continue;
        }
        item(
            "nothing",
            &format!("#harness after: [{name}-work]"),
            "[ ! -e by-agent ]",
        );
        item(
            "fails",
            &format!("#harness after: [{name}-work]"),
            "echo half > half; exit 3",
        );
    }
    let out = w.root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    w.root.assert_nothing_left();

    let mut checked = before.iter();
    for shape in &w.shapes {
        let user = w.user(&shape.path);
        let name = shape.name;
        let show = w.root.show(&format!("{name}-work"));
        if let Some(why) = shape.refused {
            let reason = show["reason"].as_str().unwrap_or_default();
            assert!(w.root.is_parked(&format!("{name}-work")), "{show:#}");
            assert!(reason.contains(why), "{name}: {show:#}");
            continue;
        }
        assert_eq!(show["outcome"], "succeeded", "{name}: {show:#}");
        let branch = show["branch"].as_str().unwrap();
        let wanted = format!("harness/{name}-work/1");
        let mut expected = vec![branch];
        if name == "occupied" {
            expected.insert(0, &wanted);
            assert!(branch.starts_with(&format!("{wanted}-")), "{show:#}");
            let tips = user.git(&["rev-parse", "main", &wanted]);
            assert_eq!(tips.lines().next(), tips.lines().last(), "his branch");
        } else {
            assert_eq!(branch, wanted);
        }
        assert_eq!(show["attempts"][0]["commits"], 2, "{show:#}");
        assert_eq!(
            user.git(&["show", &format!("{branch}:by-agent")]),
            format!("{name}\n")
        );
        assert_eq!(
            user.git(&["show", &format!("{branch}:left over")]),
            format!("{name}\n")
        );
        let nothing = w.root.show(&format!("{name}-nothing"));
        assert_eq!(nothing["outcome"], "no_change", "{nothing:#}");
        let fails = w.root.show(&format!("{name}-fails"));
        assert_eq!(fails["attempts"][0]["outcome"], "failed", "{fails:#}");
        let hub = w.root.at(format!("state/repos/{name}.git"));
        assert_eq!(
            user.git_at(&hub, &["show", &format!("harness/{name}-fails/1:half")]),
            "half\n"
        );
        let list = user.git(&[
            "for-each-ref",
            "--format=%(refname:short)",
            "refs/heads/harness",
        ]);
        let mine: Vec<&str> = list
            .lines()
            .filter(|b| b.starts_with(&format!("harness/{name}-")))
            .collect();
        assert_eq!(mine, expected, "{name}");
        let (now, before) = (user.bytes(), checked.next().unwrap());
        for (old, new) in before.iter().zip(&now) {
            assert_eq!(
                (&old.0, String::from_utf8_lossy(&old.1)),
                (&new.0, String::from_utf8_lossy(&new.1)),
                "{name}"
            );
        }
        assert_eq!(before.len(), now.len(), "{name}");
        assert_eq!(locks(&user.git_dir()), Vec::<PathBuf>::new(), "{name}");
        user.assert_sound(&shape.path);
        user.assert_sound(&hub);
    }
    assert_eq!(
        w.user(&other).bytes(),
        before_other,
        "the repository of the environment"
    );
    let told = fs::read_to_string(&w.told).unwrap_or_default();
    assert_eq!(told, "", "hooks ran");
}

#[test]
fn repositories_of_every_shape_stay_as_they_are() {
    for git in &gits::all() {
        live(git);
    }
}
