//! What the names in `--json` say. Which there are, and that no others are written: `schema`.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::agents::{play, root_with};
use crate::schema::asks;
use crate::support::{Root, describe};

/// A tree with an item in every state, answered questions, a hold, failures and a conversation.
fn full_tree() -> Root {
    let root = root_with("claude", "");
    play(&root, "good.md", "success file=x.txt");
    root.script("bad", "#harness retries: 1\nexit 3");
    for name in ["finished", "other"] {
        root.script(name, "#harness integrate: review\necho $0 > README");
    }
    root.drop_file("refused.json", b"{", 0o644);
    root.harness(&["run", "--drain", "--workers", "1"]);
    let mut run = asks(&root);
    assert_eq!(run.wait(), Some(1), "{}", run.said());
    root.script("later", "#harness not_before: 2100-01-01\ntrue");
    root.script("waits", "#harness after: [later, nobody]\ntrue");
    fs::write(
        root.at("state/holds/codex.hold"),
        r#"{"reason":"no credit"}"#,
    )
    .unwrap();
    fs::write(root.at("state/interrupts/agent1.interrupt"), "x").unwrap();
    root
}

#[test]
fn a_command_that_fails_says_so_in_json_where_json_was_asked_for() {
    let root = Root::plain();
    for (args, code, what) in [
        (&["show", "nope", "--json"][..], 100, "no such item"),
        (&["session", "latest", "--json"], 100, "no such session"),
        (&["show", "a/b", "--json"], 2, "not an item's name"),
        (&["list", "nonsense", "--json"], 2, "wrong usage"),
        (&["status", "--frobnicate", "--json"], 2, "wrong usage"),
        (&["remove", "x", "--json"], 2, "cannot do that"),
        (
            &["add", "no-such-file", "--json"],
            100,
            "cannot add the file",
        ),
    ] {
        let out = root.exits(code, args);
        assert!(!out.stderr.is_empty(), "people are told, too");
        let told: Value = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", describe(&out)));
        let error = &told["error"];
        let names: BTreeSet<&str> = error
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(names, ["hint", "what", "where", "why"].into(), "{args:?}");
        assert_eq!(error["what"], what, "{args:?}: {told}");
        assert!(
            error["why"].as_str().is_some_and(|w| !w.is_empty()),
            "{told}"
        );
        // Without it standard output stays empty.
        let plain: Vec<&str> = args.iter().copied().filter(|a| *a != "--json").collect();
        let out = root.harness(&plain);
        assert!(out.stdout.is_empty(), "{plain:?}: {}", describe(&out));
    }
    // Of several names each has its own answer.
    root.script("x", "true");
    let out = root.exits(100, &["cancel", "x", "nope", "--json"]);
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(told[1]["error"]["what"], "no such item", "{told}");
}

#[test]
fn list_says_in_words_for_programs_why_an_item_waits() {
    let root = full_tree();
    let list: Value = serde_json::from_str(&root.ok(&["list", "--json"])).unwrap();
    let of = |name: &str| {
        let mut all = list.as_array().unwrap().iter();
        all.find(|i| i["item"] == name)
            .unwrap_or_else(|| panic!("{name}: {list:#}"))
            .clone()
    };
    assert_eq!(of("later")["reason_class"], "not_before");
    assert_eq!(of("later")["not_before"], "2100-01-01T00:00:00.000Z");
    assert_eq!(of("waits")["reason_class"], "after");
    assert_eq!(
        of("waits")["waits_for"],
        serde_json::json!(["later", "nobody"])
    );
    assert_eq!(of("asks")["reason_class"], "interrupt");
    let good = of("good.md");
    assert_eq!(
        (&good["branch"], &good["priority"]),
        (&"harness/good.md/1".into(), &5.into())
    );
    assert_eq!(
        (&good["slot"], &good["agent"]),
        (&"agent-1".into(), &"claude".into())
    );
    for key in ["modified_at", "claimed_at", "started_at", "ended_at"] {
        assert!(good[key].is_string(), "{key}: {good:#}");
    }
    assert!(good["seconds"].is_number());
    for (key, value) in good.as_object().unwrap() {
        assert_eq!(root.show("good.md")[key], *value, "{key}");
    }
}

#[test]
fn all_that_are_parked_go_back_but_for_those_that_wait_for_an_answer() {
    let root = full_tree();
    for (all, stays) in [
        (
            &["retry", "--all", "failed"][..],
            "1 item that was parked as failed is back",
        ),
        (
            &["retry", "--all"],
            "1 item waits for an answer and stays parked",
        ),
    ] {
        let said = describe(&root.harness(all));
        assert!(said.contains(stays), "{said}");
        assert!(root.is_parked("asks"), "{}", root.picture());
    }
    assert!(!root.is_parked("bad") && !root.is_parked("refused.json"));
}
