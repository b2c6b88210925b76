//! Conflicts that an agent is to solve: the merge is begun where it works, and what it leaves unresolved is
//! never taken for its work.

use std::fs;

use crate::merging::{approve, files, finish, is_in, of_base, parked, set};
use crate::support::{Root, git};

#[test]
fn an_agent_is_asked_once_to_solve_a_conflict() {
    let root = Root::with_repo();
    set(&root, "mode = \"review\"\non_conflict = \"agent\"\n", "");
    let body = "echo $HARNESS_ITEM $HARNESS_ATTEMPT >README";
    finish(&root, &[("a", body), ("b", body)]);
    approve(&root, &["a", "b"]);
    root.drain();
    assert!(root.is_done("a"), "{}", root.picture());
    assert!(is_in(&root, "review", "b"), "{}", root.picture());
    let attempts = |root: &Root| root.show("b")["attempts"].as_array().unwrap().len();
    assert_eq!(attempts(&root), 2);
    // Whatever it did, one that conflicts again is a person's.
    fs::write(root.repo().join("README"), "of a person\n").unwrap();
    git(&root.repo(), &["commit", "-qam", "mine"]);
    approve(&root, &["b"]);
    root.drain();
    parked(&root, "b", "conflict");
    assert_eq!(attempts(&root), 2);
}

/// A ROOT whose prompts run as shell text, in their first attempt and in later ones.
fn root_with(more: &str, later: &str) -> Root {
    let root = Root::with_repo();
    let agent = root.at("agent.sh");
    let first = "echo $HARNESS_ITEM >README; git commit -qam $HARNESS_ITEM";
    let text = format!("[ $HARNESS_ATTEMPT = 1 ] || {{ {later}\nexit; }}\n{first}\n");
    fs::write(&agent, text).unwrap();
    set(
        &root,
        "mode = \"merge\"\non_conflict = \"agent\"\n",
        &format!(
            "[agents.own]\ncommand = [\"sh\", \"{}\", \"{{{{PROMPT_FILE}}}}\"]\n{more}",
            agent.display()
        ),
    );
    for name in ["a.md", "b.md"] {
        let text = format!("---\nagent: own\nretries: 0\n---\nwork on {name}\n");
        root.drop_file(name, text.as_bytes(), 0o644);
    }
    root
}

/// The one of the two that landed second.
fn second(root: &Root) -> &'static str {
    let conflicts = |name: &&str| {
        let show = root.show(name);
        show["attempts"].as_array().unwrap().len() == 2
    };
    ["a.md", "b.md"].into_iter().find(conflicts).unwrap()
}

#[test]
fn the_merge_is_begun_where_an_agent_is_to_solve_its_conflict() {
    let solves = "cp \"$1\" $HARNESS_ROOT/told; git status --short >$HARNESS_ROOT/saw; cp README $HARNESS_ROOT/marked
        git rev-parse MERGE_HEAD main >$HARNESS_ROOT/heads; echo both >README; git add README; git commit -q --no-edit";
    let root = root_with("", solves);
    root.drain();
    assert!(
        root.is_done("a.md") && root.is_done("b.md"),
        "{}",
        root.picture()
    );
    let read = |name: &str| fs::read_to_string(root.at(name)).unwrap();
    assert_eq!(read("saw"), "UU README\n");
    assert!(read("marked").contains("<<<<<<< ") && read("marked").contains(">>>>>>> "));
    let heads = read("heads");
    let heads: Vec<&str> = heads.lines().collect();
    assert_eq!(heads[0], heads[1]);
    let told = read("told");
    for part in [
        "conflicts with main",
        "- README",
        "is begun in the current directory",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(of_base(&root, &["show", "main:README"]), "both");
    // Its merge has both parents, and is in the base.
    let branch = format!("harness/{}/2", second(&root));
    let parents = of_base(&root, &["log", "-1", "--format=%P", &branch]);
    assert!(parents.ends_with(heads[0]), "{parents}");
    assert_eq!(files(&root, "main"), ["README"]);
    root.assert_nothing_left();
}

#[test]
fn what_an_agent_leaves_unresolved_is_not_taken_for_its_work() {
    for (later, reason, outcome) in [
        // It says that it was done.
        (
            ":",
            "it left a merge unfinished: README not resolved",
            "failed",
        ),
        (
            "git merge --abort",
            "it conflicts with main in README",
            "conflict",
        ),
        (
            "git merge --abort; git rebase main; :",
            "it left a rebase unfinished",
            "failed",
        ),
    ] {
        let root = root_with("", later);
        root.drain();
        let name = second(&root);
        assert!(root.is_parked(name), "{later}\n{}", root.picture());
        let show = root.show(name);
        assert!(
            show["reason"].as_str().unwrap().contains(reason),
            "{later}: {show:#}"
        );
        assert_eq!(show["outcome"], outcome);
        let text = of_base(&root, &["show", "main:README"]);
        assert!(!text.contains("<<<"), "{later}: {text}");
        if outcome == "conflict" {
            parked(&root, name, "conflict");
        }
        root.assert_nothing_left();
    }
}

#[test]
fn what_an_agent_resolved_and_did_not_commit_is_committed_as_the_merge() {
    let root = root_with("", "echo both >README; git add README");
    root.drain();
    assert!(
        root.is_done("a.md") && root.is_done("b.md"),
        "{}",
        root.picture()
    );
    assert_eq!(of_base(&root, &["show", "main:README"]), "both");
    let branch = format!("harness/{}/2", second(&root));
    let parents = of_base(&root, &["log", "-1", "--format=%P", &branch]);
    assert_eq!(parents.split(' ').count(), 2);
    root.assert_nothing_left();
}
