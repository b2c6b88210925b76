//! What an agent, or a gate, plants where harness's own git looks: settings, links, lies about history,
//! what leads elsewhere. Nothing of it acts outside of what its agent may write, on the next item, or on
//! the user's repository. `slots` has what the next agent must not find, `tricks` what stands in the
//! place of anything.

use std::fs;
use std::path::{Path, PathBuf};

use crate::git_carried::{AS, with_submodules};
use crate::support::{Root, describe, git};

/// One slot: each item comes into the last one's worktree.
fn drain(root: &Root) -> String {
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    assert!(
        matches!(out.status.code(), Some(0 | 1)),
        "{}",
        describe(&out)
    );
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A folder outside of all that an agent works in: whatever was planted touches a file there if it acts.
fn marks(root: &Root) -> PathBuf {
    let marks = root.at("marks");
    fs::create_dir_all(&marks).unwrap();
    marks
}

#[track_caller]
fn assert_no_mark(root: &Root, when: &str) {
    let left = fs::read_dir(root.at("marks")).unwrap().flatten();
    let left: Vec<_> = left.map(|e| e.file_name()).collect();
    assert!(
        left.is_empty(),
        "{when}: {left:?} acted\n{}",
        root.picture()
    );
}

fn said(root: &Root, item: &str, file: &str) -> String {
    let show = root.show(item);
    let branch = show["branch"].as_str();
    let branch = branch.unwrap_or_else(|| panic!("{show:#}\n{}", root.picture()));
    git(&root.repo(), &["show", &format!("{branch}:{file}")])
}

/// Shell text that plants every setting that runs a program or leads elsewhere, with the hooks and files
/// beside them, into the repository of the worktree, by hand: no git runs after it.
fn plant_all(marks: &Path) -> String {
    let act = |name: &str| format!("touch '{}/{name}'; cat", marks.display());
    let settings = [
        "core.fsmonitor",
        "core.sshCommand",
        "core.gitProxy",
        "core.pager",
        "core.editor",
        "core.askPass",
        "core.alternateRefsCommand",
        "sequence.editor",
        "credential.helper",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "merge.evil.driver",
        "filter.evil.clean",
        "filter.evil.smudge",
        "gpg.program",
        "gpg.ssh.program",
        "uploadpack.packObjectsHook",
        "hook.evil.command",
        "alias.status",
        "alias.add",
        "remote.origin.uploadpack",
        "pager.status",
        "trailer.evil.command",
    ];
    let mut config = format!(
        "[core]\n\thooksPath = {0}/hooks\n\tworktree = {0}\n\tbare = true\n\tattributesFile = {0}/attributes\n\tsparseCheckout = true\n[commit]\n\tgpgSign = true\n[hook \"evil\"]\n\tevent = pre-commit\n[extensions]\n\tworktreeConfig = true\n[include]\n\tpath = more\n[url \"ext::sh -c touch% {0}/url\"]\n\tinsteadOf = /\n",
        marks.parent().unwrap().join("evil").display()
    );
    for key in settings {
        let (section, name) = key.rsplit_once('.').unwrap();
        let section = match section.split_once('.') {
            Some((first, sub)) => format!("{first} \"{sub}\""),
            None => section.to_owned(),
        };
        let value = act(key).replace('"', "\\\"");
        config.push_str(&format!("[{section}]\n\t{name} = \"{value}\"\n"));
    }
    format!(
        "C=$(git rev-parse --path-format=absolute --git-common-dir); A=$(git rev-parse --path-format=absolute --git-dir)\n\
         for d in \"$C\" \"$A\"; do cat > \"$d/more\" <<'PLANTED'\n{config}PLANTED\n\
         cat \"$d/more\" >> \"$d/config\"; cp \"$d/more\" \"$d/config.worktree\"; mkdir -p \"$d/info\" \"$d/hooks\"\n\
         echo '* filter=evil diff=evil merge=evil' > \"$d/info/attributes\"; echo '*' > \"$d/info/exclude\"; echo '/none' > \"$d/info/sparse-checkout\"\n\
         for h in pre-commit post-commit commit-msg post-checkout post-index-change reference-transaction pre-auto-gc fsmonitor-watchman post-rewrite; do\n\
           printf '#!/bin/sh\\n%s\\n' '{hook}' > \"$d/hooks/$h\"; chmod +x \"$d/hooks/$h\"; done; done\n\
         echo '* filter=evil diff=evil merge=evil' > .gitattributes; rm -f .git; echo \"gitdir: $C\" > .git",
        hook = act("hook").replace('\'', "'\\''"),
    )
}

/// After the agent, after a gate, while a merge is prepared, in recovery after `kill -9`.
#[test]
fn settings_hooks_and_filters_planted_in_a_slots_repository_act_at_no_moment() {
    let root = Root::with_repo();
    let marks = marks(&root);
    let plant = plant_all(&marks);
    fs::write(root.at("plant.sh"), &plant).unwrap();
    root.config(&format!(
        "[repo]\npath = \"repo\"\n[gates.plants]\nscript = \"sh {0}; echo g > gate-left\"\nwhen = [\"before\", \"after\", \"merge\"]\n\
         [gates.sees]\nscript = \"test ! -e gate-left && test -z \\\"$(git status --porcelain)\\\" && ! git config --local filter.evil.clean\"\nwhen = [\"after\", \"merge\"]\n",
        root.at("plant.sh").display()
    ));
    root.script("gated", "echo g > g");
    root.script(
        "agent",
        &format!("#harness gates: none\necho w > w; echo changed > README\n{plant}"),
    );
    root.script(
        "merged",
        &format!("#harness integrate: merge\necho m > m\n{plant}\nrm .gitattributes"),
    );
    root.script("next", "#harness gates: none\n#harness after: [agent]\ntest -z \"$(git status --porcelain)\" && cat README > n");
    let told = drain(&root);
    assert_no_mark(&root, "in a run");
    assert_eq!(said(&root, "agent", "w"), "w\n", "{told}");
    assert_eq!(said(&root, "agent", "README"), "changed\n", "{told}");
    assert_eq!(said(&root, "gated", "g"), "g\n", "{told}");
    assert_eq!(said(&root, "next", "n"), "hello\n", "{told}");
    assert_eq!(
        git(&root.repo(), &["show", "main:m"]),
        "m\n",
        "{told}\n{}",
        root.picture()
    );
    let marked = root.at("ready");
    root.script(
        "killed",
        &format!(
            "#harness gates: none\necho k > k\n{plant}\ntouch '{}'; exit 0",
            marked.display()
        ),
    );
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it has planted", || marked.exists());
    run.kill9();
    drain(&root);
    assert_no_mark(&root, "in recovery");
    assert_eq!(said(&root, "killed", "k"), "k\n");
    let hub = root.at("state/repos/default.git");
    git(&hub, &["fsck", "--no-dangling"]);
    assert_eq!(git(&root.repo(), &["status", "--porcelain"]), "");
    assert!(!git(&root.repo(), &["config", "--list", "--local"]).contains("evil"));
}

/// git runs another git inside each link to a repository, to see whether its files are changed.
#[test]
fn no_filter_runs_in_a_repository_that_an_agent_links_into_its_tree() {
    let root = with_submodules();
    let marks = marks(&root);
    let evil = |dir: &str| {
        format!(
            "sleep 0.05; git -C {dir} config filter.evil.clean 'touch {}/link; cat'; echo '* filter=evil' > {dir}/.gitattributes; echo two > {dir}/a",
            marks.display()
        )
    };
    let linked = format!(
        "git init -q n; echo one > n/a; {AS} -C n add a; {AS} -C n commit -qm n; git -C n remote add origin https://x.invalid/n\n\
         {AS} add n 2>/dev/null; {AS} commit -qm link; {}",
        evil("n")
    );
    root.script("linked", &format!("{linked}; echo w > w"));
    let forgets = format!(
        "{AS} rm -q --cached .gitmodules; {AS} commit -qm forgets; rm .gitmodules; {}; echo w > w",
        evil("lib")
    );
    root.script("forgotten", &format!("#harness after: [linked]\n{forgets}"));
    root.script("begun", &format!("#harness after: [forgotten]\nset -e; mkdir q; cd q; git init -q; echo one > a; {AS} add a; {AS} commit -qm q; cd ..; {AS} add q 2>/dev/null; {AS} commit -qm q; {}", evil("q")));
    root.script("last", "#harness after: [begun]\ntest -z \"$(git status --porcelain)\" && test -e lib/a && ls > seen");
    drain(&root);
    assert_no_mark(&root, "after an agent");
    for (item, file, is) in [
        ("linked", "w", "w\n"),
        ("forgotten", "w", "w\n"),
        ("last", "seen", "README\nlib\nseen\n"),
        ("begun", "q/a", "two\n"),
    ] {
        assert_eq!(said(&root, item, file), is, "{item}");
    }
}

/// Also what the gate wrote there is not what the next one meets.
#[test]
fn no_filter_runs_that_a_gate_planted_in_a_submodule() {
    let root = with_submodules();
    let marks = marks(&root);
    fs::write(
        root.at("plant.sh"),
        format!("sleep 0.05; git -C lib config filter.evil.clean 'touch {}/gate; cat'; echo '* filter=evil' > lib/.gitattributes; echo two > lib/a; echo x > lib/x", marks.display()),
    )
    .unwrap();
    root.config(&format!(
        "[repo]\npath = \"repo\"\n[gates.a]\nscript = \"sh {}\"\nwhen = [\"before\", \"after\", \"merge\"]\n\
         [gates.b]\nscript = \"test ! -e lib/x && test -e lib/deep/a && test $(cat lib/a) = one && test -z \\\"$(git status --porcelain)\\\"\"\nwhen = [\"after\", \"merge\"]\n",
        root.at("plant.sh").display()
    ));
    root.script("one", "#harness integrate: merge\necho w > w");
    let told = drain(&root);
    root.script("two", "test ! -e lib/x && echo v > v");
    drain(&root);
    assert_no_mark(&root, "after a gate");
    assert_eq!(
        git(&root.repo(), &["show", "main:w"]),
        "w\n",
        "{told}\n{}",
        root.picture()
    );
    assert_eq!(said(&root, "two", "v"), "v\n");
}

/// harness makes the repositories of submodules anew, and removes the old ones.
#[test]
fn a_symlink_on_the_way_to_a_submodules_repository_costs_nothing_where_it_leads() {
    let root = with_submodules();
    let victims = root.at("victims");
    let mut before = String::new();
    for (n, part) in ["..", ".", "modules", "modules/lib", "modules/lib/modules"]
        .iter()
        .enumerate()
    {
        // As deep as what is looked for behind the symlink.
        for place in [
            "agent-1/modules/lib/modules/deep",
            "modules/lib/modules/deep",
            "lib/modules/deep",
            "modules/deep",
            "deep",
        ] {
            let dir = victims.join(n.to_string()).join(place);
            fs::create_dir_all(&dir).unwrap();
            for above in dir
                .ancestors()
                .take_while(|d| d.starts_with(victims.join(n.to_string())))
            {
                fs::write(above.join("HEAD"), "mine\n").unwrap();
            }
        }
        let victim = victims.join(n.to_string());
        let text = format!(
            "#harness after: [{before}]\nM=$(git rev-parse --path-format=absolute --git-dir)/{part}; M=$(realpath -s $M)\n\
             echo w > w; echo w > lib/w; mv $M $M.away; ln -s '{}' $M",
            victim.display()
        );
        root.script(format!("i{n}"), &text);
        before = format!("i{n}");
    }
    root.script(
        "last",
        &format!("#harness after: [{before}]\ntest -e lib/deep/a && ls > seen"),
    );
    let listing = || {
        let mut all: Vec<_> = walkdir::WalkDir::new(&victims)
            .into_iter()
            .flatten()
            .map(|e| e.into_path())
            .collect();
        all.sort();
        all
    };
    let (was, told) = (listing(), drain(&root));
    assert_eq!(listing(), was, "{told}");
    assert_eq!(said(&root, "last", "seen"), "README\nlib\nseen\n", "{told}");
}

/// A frozen agent's worktree is looked at, too.
#[test]
fn objects_that_lead_elsewhere_have_nothing_written_there_while_their_agent_is_frozen() {
    let root = Root::with_repo();
    let other = root.at("other");
    fs::create_dir(&other).unwrap();
    git(&other, &["init", "-q"]);
    let theirs = other.join(".git/objects/info/alternates");
    fs::write(&theirs, "/mine\n").unwrap();
    std::os::unix::fs::symlink("away", other.join(".git/objects/link")).unwrap();
    root.script(
        "frozen",
        &format!(
            "O=$(git rev-parse --git-common-dir)/objects; mv $O $O.away; ln -s '{}' $O; mkfifo $O.away/pack.fifo\n\
             echo w > w; echo why > $HARNESS_INTERRUPT; until [ -e $HARNESS_ROOT/go ]; do sleep 0.05; done",
            other.join(".git/objects").display()
        ),
    );
    let _run = root.start(&["--workers", "1"]);
    let sessions = root.at("state/sessions");
    root.wait_until("its worktree was looked at", || {
        let mut all = fs::read_dir(&sessions).into_iter().flatten().flatten();
        all.any(|e| {
            e.path().join("interrupt.diff").exists() || e.path().join("interrupt.md").exists()
        })
    });
    fs::write(root.at("go"), "").unwrap();
    root.ok(&["resume"]);
    root.wait_until("it is done", || root.is_done("frozen"));
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "/mine\n");
    assert!(other.join(".git/objects/link").is_symlink());
    assert_eq!(said(&root, "frozen", "w"), "w\n");
}

/// Its session's folder is the agent's to write in, and the next harness goes by `session.json`.
#[test]
fn a_forged_session_file_changes_neither_branch_nor_base_nor_place_of_its_attempt() {
    let root = Root::with_repo();
    fs::create_dir(root.at("mine")).unwrap();
    fs::write(root.at("mine/out.xml"), "mine\n").unwrap();
    root.config(&format!(
        "[repo]\npath = \"repo\"\n[repos.other]\npath = \"repo\"\n[gates]\nbuiltin = [\"paths\"]\n\
         [gates.place]\nscript = \"pwd > '{}'; echo '<testsuite/>' > out.xml\"\njunit = \"out.xml\"\n",
        root.at("place").display()
    ));
    let forge = |key: &str, value: &str| {
        format!("sed -i 's#\"{key}\": .*#\"{key}\": {value},#' $HARNESS_SESSION_DIR/session.json")
    };
    let commit = format!("echo w > w; {AS} add w; {AS} commit -qm w");
    let all = [
        forge("branch", "\"release/v1\""),
        forge("base_oid", "\"'$(git rev-parse HEAD)'\""),
        forge("base", "\"none\""),
        forge("repo", "\"other\""),
        forge("attempt", "7"),
        forge("head", "\"'$(git rev-parse HEAD^)'\""),
        forge("worktree", &format!("\"{}\"", root.at("mine").display())),
    ]
    .join("\n");
    for (item, more) in [("running", "sleep 1"), ("ended", "")] {
        let ready = root.at(format!("ready-{item}"));
        root.script(item, &format!("#harness retries: 0\n#harness paths: [allowed/**]\n{commit}\n{all}\ntouch '{}'\n{more}", ready.display()));
        let run = root.start(&["--workers", "1"]);
        root.wait_until("it has forged", || ready.exists());
        run.kill9();
        if more.is_empty() {
            root.wait_until("its agent has ended", || {
                let text = fs::read_dir(root.at("state/sessions")).unwrap().flatten();
                text.filter(|e| e.path().join("exit.json").exists()).count() == 2
            });
        }
        let told = drain(&root);
        let show = root.show(item);
        // What it made is outside of its `paths`: the base is what it was.
        assert_eq!(show["outcome"], "gate_failed", "{told}\n{show:#}");
        assert_eq!(show["attempts"][0]["commits"], 1, "{show:#}");
        let place = fs::read_to_string(root.at("place")).unwrap();
        assert!(place.ends_with("/worktrees/agent-1\n"), "{place}");
        let hub = root.at("state/repos/default.git");
        assert_eq!(git(&hub, &["show", &format!("harness/{item}/1:w")]), "w\n");
    }
    let branches = ["for-each-ref", "--format=%(refname)", "refs/heads/"];
    assert_eq!(git(&root.repo(), &branches), "refs/heads/main\n");
    assert_eq!(
        fs::read_to_string(root.at("mine/out.xml")).unwrap(),
        "mine\n"
    );
}

/// git runs a filter in the worktree: what its command finds there is the agent's.
#[test]
fn a_filter_of_the_users_runs_no_program_of_the_worktree() {
    let root = Root::with_repo();
    let (marks, repo) = (marks(&root), root.repo());
    fs::write(repo.join("filter.sh"), "#!/bin/sh\nsed s/plain/$1/\n").unwrap();
    fs::write(
        repo.join(".gitattributes"),
        "*.x filter=own\n*.y filter=odd\n",
    )
    .unwrap();
    git(
        &repo,
        &["config", "filter.own.clean", "sh ./filter.sh clean"],
    );
    git(
        &repo,
        &["config", "filter.own.smudge", "sh ./filter.sh smudge # %f"],
    );
    git(
        &repo,
        &[
            "config",
            "filter.odd.clean",
            "printf '%%s' %f; echo \"a  'b'\"; cat > /dev/null",
        ],
    );
    fs::write(repo.join("f.x"), "plain\n").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-q", "-m", "filters"]);
    let planted = format!(
        "printf '#!/bin/sh\\ntouch {}/filter; cat\\n' > filter.sh",
        marks.display()
    );
    root.script(
        "one",
        &format!("cp f.x seen; {planted}; echo plain > g.x; echo y > 'g h.y'"),
    );
    root.script("two", "#harness after: [one]\ncp f.x seen");
    drain(&root);
    assert_no_mark(&root, "after an agent");
    assert_eq!(said(&root, "one", "seen"), "clean\n");
    assert_eq!(said(&root, "one", "g.x"), "clean\n");
    assert_eq!(said(&root, "one", "g h.y"), "g h.ya  'b'\n");
    assert_eq!(said(&root, "two", "seen"), "clean\n");
}

/// An unconfined agent can write there. What it put there ends before the next git of harness's.
#[test]
fn settings_planted_in_harness_own_repository_act_on_nobody() {
    let mut root = Root::with_repo();
    let marks = marks(&root);
    // Where harness was started, there is none.
    root.env.push(("GIT_CONFIG_GLOBAL", "settings".into()));
    let evil = format!(
        "[filter \\\"evil\\\"]\\n\\tclean = touch {0}/filter; cat\\n\\tsmudge = touch {0}/smudge; cat\\n[user]\\n\\tname = Mallory\\n",
        marks.display()
    );
    root.script(
        "plants",
        &format!(
            "H=$HARNESS_ROOT/state/repos/default.git; echo w > w; echo '* filter=evil' > .gitattributes; printf \"{evil}\" > settings\n\
             printf \"{evil}\" >> $H/config; printf \"{evil}\" > $H/harness.config; printf \"{evil}\" > $H/slots/agent-1/config.worktree\n\
             mkdir -p $H/info; echo '* filter=evil' > $H/info/attributes; echo '*' > $H/info/exclude; git rev-parse HEAD > $H/info/grafts\n\
             git init -q --bare $HARNESS_ROOT/evil; printf \"{evil}\" >> $HARNESS_ROOT/evil/config; echo $HARNESS_ROOT/evil > $H/slots/agent-1/commondir\n\
             echo $H/objects > $HARNESS_ROOT/evil/objects/info/alternates"
        ),
    );
    root.script("next", "#harness after: [plants]\ntest -z \"$(git status --porcelain)\" && git config user.name > n && echo x > x");
    let told = drain(&root);
    assert_no_mark(&root, "after an agent");
    assert_eq!(said(&root, "plants", "w"), "w\n", "{told}");
    assert_eq!(said(&root, "next", "x"), "x\n", "{told}");
    assert_eq!(said(&root, "next", "n"), "harness\n", "{told}");
    assert!(!root.at("state/repos/default.git/info").exists());
}

/// What harness does not read of it is not taken for nothing.
#[test]
fn refs_that_cannot_be_read_are_kept_with_their_repository() {
    let root = Root::with_repo();
    let work = format!(
        "git checkout -q -b aside; echo a > a; {AS} add a; {AS} commit -qm aside; git checkout -q -; git pack-refs --all"
    );
    root.script(
        "huge",
        &format!("{work}; truncate -s 300M $(git rev-parse --git-common-dir)/packed-refs"),
    );
    root.script("alone", &format!("#harness after: [huge]\ngit worktree add -q --detach $PWD/../alone; cd ../alone; echo b > b; {AS} add b; {AS} commit -qm b"));
    root.script("last", "#harness after: [alone]\nls > seen");
    drain(&root);
    assert_eq!(said(&root, "last", "seen"), "README\nseen\n");
    let notes = root.show("huge")["attempts"][0]["notes"].to_string();
    assert!(
        notes.contains("packed-refs in its repository cannot be read"),
        "{notes}"
    );
    let kept = root.at("worktrees/agent-1.git.~1~/packed-refs");
    assert_eq!(kept.metadata().unwrap().len(), 300 << 20);
    // Its commit is in no branch, and nothing else changed.
    let hub = root.at("state/repos/default.git");
    let salvaged = git(
        &hub,
        &[
            "for-each-ref",
            "--format=%(refname) %(subject)",
            "refs/harness/salvage",
        ],
    );
    assert!(
        salvaged.contains("/alone/1/detached/") && salvaged.contains(" b\n"),
        "{salvaged}"
    );
}

/// The user's git looks at sizes and seconds only, and at no change times.
#[test]
fn a_change_whose_times_an_agent_set_back_is_seen() {
    let mut root = Root::with_repo();
    let settings = root.at("settings");
    fs::write(
        &settings,
        "[core]\n\ttrustctime = false\n\tcheckStat = minimal\n",
    )
    .unwrap();
    root.env.push(("GIT_CONFIG_GLOBAL", settings.into()));
    root.script("zero", ":");
    drain(&root);
    // Its index is to be a second younger than its files: git reads those of the same second anyway.
    let file = root.at("worktrees/agent-1/README");
    let old = || file.metadata().unwrap().modified().unwrap().elapsed();
    root.wait_until("a second is over", || old().unwrap().as_millis() > 1100);
    fs::write(root.repo().join("new"), "new\n").unwrap();
    git(&root.repo(), &["add", "new"]);
    git(&root.repo(), &["commit", "-q", "-m", "new"]);
    root.script(
        "one",
        "touch -r README ../ref; printf 'HELLO\\n' > README; touch -r ../ref README; rm ../ref",
    );
    root.script("two", "cat README > seen");
    drain(&root);
    assert_eq!(said(&root, "one", "README"), "HELLO\n");
    assert_eq!(said(&root, "two", "seen"), "hello\n");
}

/// A name that is in another submodule's repository, a command for a URL, a command for an update.
#[test]
fn a_submodule_that_an_agent_describes_leads_into_no_repository_and_runs_nothing() {
    let mut root = with_submodules();
    let marks = marks(&root);
    let settings = root.at("allows");
    fs::write(&settings, "[protocol]\n\tallow = always\n").unwrap();
    root.env.push(("GIT_CONFIG_GLOBAL", settings.into()));
    let describe = |name: &str, path: &str, more: &str| {
        format!("printf '[submodule \"{name}\"]\\n\\tpath = {path}\\n\\t{more}\\n' >> .gitmodules")
    };
    let mut named = String::new();
    for name in ["lib/logs", "lib/refs/remotes/origin"] {
        // Before `lib`, whose repository is made anew with all that is in it.
        let path = name.replace("lib/", "a-").replace('/', "-");
        named.push_str(&format!(
            "git init -q --separate-git-dir $HARNESS_ROOT/t {path} && mkdir -p $G0/modules/{name} && cp -a $HARNESS_ROOT/t/. $G0/modules/{name}/ && rm -rf $HARNESS_ROOT/t && echo \"gitdir: $G0/modules/{name}\" > {path}/.git\n\
             cd {path}; echo n > n; {AS} add n; {AS} commit -qm n; cd ..; {}; {AS} add .gitmodules {path}; {AS} commit -qm {path}\n",
            describe(name, &path, "url = ../none")
        ));
    }
    root.script(
        "named",
        &format!("G0=$(git rev-parse --path-format=absolute --git-dir)\n{named}\necho w > w"),
    );
    drain(&root);
    assert_eq!(said(&root, "named", "w"), "w\n");
    let lib = root.repo().join(".git/modules/lib");
    let branches = ["for-each-ref", "--format=%(refname)", "refs/heads/harness"];
    assert_eq!(git(&lib, &branches), "");
    for (item, more) in [
        (
            "url",
            format!("url = ext::sh -c touch%% {}/url", marks.display()),
        ),
        (
            "update",
            format!("url = ../x\\n\\tupdate = !touch {}/update", marks.display()),
        ),
    ] {
        let link = format!(
            "{}; git update-index --add --cacheinfo 160000,{},evil; {AS} add .gitmodules; {AS} commit -qm evil",
            describe("evil", "evil", &more),
            "1".repeat(40)
        );
        root.script(item, &format!("#harness after: [named]\n{link}"));
        let next = format!("#harness after: [{item}]\n#harness base: after\necho x > x");
        root.script(format!("after-{item}"), &next);
    }
    drain(&root);
    assert_no_mark(&root, "in a run");
}
