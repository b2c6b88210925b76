use super::*;

#[test]
fn names_become_refs_that_git_takes_and_that_differ() {
    for (name, want) in [
        ("fix.md", "fix.md"),
        ("-x", "%2Dx"),
        (".a..b.lock", "%2Ea.%2Eb%2Elock"),
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("a.", "a%2E"),
    ] {
        assert_eq!(Name::new(name).ref_component(), want);
    }
    let long = |end: &str| Name::new(format!("{}{end}", "\u{e9}".repeat(99))).ref_component();
    assert!(long("a").len() <= NAME_BYTES_MAX);
    assert_ne!(long("a"), long("b"));
}

#[test]
fn no_key_of_a_users_is_one_under_which_a_slot_is_moved_back() {
    let root = Root::new("/r");
    let own = root.exclusive_of_lost(SlotId(1));
    let name = own.file_name().and_then(OsStr::to_str).unwrap();
    assert_ne!(root.exclusive(name), own);
}

#[test]
fn no_name_leads_out_of_its_folder() {
    let root = Root::new("/r");
    let below = |path: PathBuf, dir: &str| path.parent() == Some(Path::new(dir));
    for name in ["", ".", "..", "../..", "/etc", "a/b", "a/", "gates/../x"] {
        let all = [
            (root.session(name), "/r/state/sessions"),
            (root.interrupt(name), "/r/state/interrupts"),
            (root.hold(name), "/r/state/holds"),
            (root.item(Place::Done, &Name::new(name)), "/r/queue/done"),
            (root.claim(&Name::new(name)), "/r/state/claims"),
        ];
        for (path, dir) in all {
            assert!(below(path.clone(), dir), "{}", path.display());
        }
        let log = format!("gates/{name}");
        assert_eq!(root.gate_log("s", &log), None, "{log}");
    }
    let log = root.gate_log("../x", "gates/before-test.log").unwrap();
    assert_eq!(
        log,
        Path::new("/r/state/sessions/.%%2E%2E%2Fx/gates/before-test.log")
    );
    for log in ["gates", "gatesx", "g/x", "/gates/x"] {
        assert_eq!(root.gate_log("s", log), None, "{log}");
    }
}

#[test]
fn hostile_names_show_on_one_line() {
    let name = Name::new(OsStr::from_bytes(b"a\nb\x1b[31m\xff\"'"));
    assert_eq!(name.shown(), "a\\nb\\u{1b}[31m\\xff\"'");
}
