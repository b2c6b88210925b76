//! Any file name becomes a ref that git takes, a file of its own in `state/`, a word that a shell
//! gives back unchanged, and one line of text; two names never become the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;

use harness::cli::quote::shell_quoted;
use harness::layout::{Name, Root};
use proptest::prelude::*;

/// Pieces that one of the encodings gives a meaning to.
const PIECES: &[&[u8]] = &[
    b".",
    b"..",
    b"%",
    b"%2E",
    b"%25",
    b"%%",
    b"~",
    b".lock",
    b".jsonl",
    b"-",
    b"--",
    b"@{",
    b" ",
    b"\n",
    b"\t",
    b"\\",
    b"\\x0a",
    b"'",
    b"\"",
    b"$(x)",
    b"`x`",
    b";",
    b"*",
    b"?",
    b"[",
    b"^",
    b":",
    b"a",
    b"A",
    b"1",
    b"\x1b[2J",
    b"\x7f",
    b"\xff",
    b"\xc3\xa9",
    b"\xc3",
    "\u{202e}".as_bytes(),
    "\u{9b}".as_bytes(),
    b"HEAD",
    b"{{ROOT}}",
    b"!",
];

fn a_name() -> impl Strategy<Value = OsString> {
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    let long = (prop::collection::vec(piece, 1..12), 1..40usize);
    long.prop_filter_map("a file name", |(pieces, times)| {
        let mut bytes = pieces.concat();
        if times > 30 {
            bytes = bytes.repeat(times);
        }
        bytes.retain(|b| *b != 0 && *b != b'/');
        bytes.truncate(255);
        let name = !bytes.is_empty() && bytes != b"." && bytes != b"..";
        name.then(|| OsString::from_vec(bytes))
    })
}

/// Every name of a set has an image of its own.
fn apart<T: Ord + std::fmt::Debug>(
    names: &BTreeSet<OsString>,
    of: impl Fn(&Name) -> T,
) -> Result<(), TestCaseError> {
    let mut seen = BTreeMap::new();
    for name in names {
        if let Some(other) = seen.insert(of(&Name::new(name)), name) {
            return Err(TestCaseError::fail(format!(
                "{name:?} and {other:?} are one"
            )));
        }
    }
    Ok(())
}

/// One name and what differs from it as little as can be.
fn neighbours(name: &OsStr) -> BTreeSet<OsString> {
    let b = name.as_bytes();
    let component = Name::new(name).ref_component().into_bytes();
    let shown = Name::new(name).shown().into_bytes();
    let mut all: BTreeSet<Vec<u8>> = [b.to_vec(), component, shown].into();
    for more in PIECES {
        all.insert([b, *more].concat());
        all.insert([*more, b].concat());
    }
    all.insert(b[..b.len() - 1].to_vec());
    all.insert(b.to_ascii_uppercase());
    all.retain(|n| {
        !n.is_empty() && n.len() <= 255 && n != b"." && n != b".." && !n.contains(&b'/')
    });
    all.into_iter().map(OsString::from_vec).collect()
}

proptest! {
    #[test]
    fn fuzz_two_names_never_have_one_ref_or_one_file(name in a_name()) {
        let root = Root::new("/r");
        let names = neighbours(&name);
        apart(&names, |n| n.ref_component())?;
        apart(&names, |n| root.record(n))?;
        apart(&names, |n| root.claim(n))?;
        for n in names.iter().map(Name::new) {
            for (path, dir) in [(root.record(&n), root.items()), (root.claim(&n), root.claims())] {
                prop_assert_eq!(path.parent(), Some(dir.as_path()));
                prop_assert!(path.file_name().unwrap().len() <= 255, "{path:?}");
            }
            prop_assert!(n.ref_component().len() <= 200);
        }
        // Keys are names too, of 64 bytes at most.
        let keys: BTreeSet<OsString> = names.into_iter().filter(|n| n.len() <= 64).collect();
        let mut seen = BTreeSet::new();
        for key in keys.iter().filter_map(|k| k.to_str()) {
            prop_assert!(seen.insert(root.exclusive(key)), "{key:?}");
        }
    }

    #[test]
    fn fuzz_a_name_is_one_line_of_text(name in a_name()) {
        let shown = Name::new(&name).shown();
        prop_assert!(!shown.is_empty() && !shown.chars().any(char::is_control), "{shown:?}");
        let quoted = shell_quoted(Path::new(&name));
        prop_assert!(!quoted.chars().any(char::is_control), "{quoted:?}");
    }
}

/// Many names for one process each, which is what this costs.
fn some_names() -> impl Strategy<Value = Vec<OsString>> {
    prop::collection::vec(a_name(), 40)
}

fn cases(n: u32) -> ProptestConfig {
    let all = ProptestConfig::default();
    let cases = (all.cases / 256).max(1) * n;
    ProptestConfig { cases, ..all }
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn fuzz_a_shell_gives_the_words_back_that_messages_show(names in some_names()) {
        let words: Vec<String> = names.iter().map(|n| shell_quoted(Path::new(n))).collect();
        let script = format!("printf '%s\\0' {}", words.join(" "));
        let out = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
        let got: Vec<&[u8]> = out.stdout.split(|&b| b == 0).take(names.len()).collect();
        let want: Vec<&[u8]> = names.iter().map(|n| n.as_bytes()).collect();
        prop_assert_eq!(got, want, "{}", script);
    }

    #[test]
    fn fuzz_git_takes_every_name_as_a_branch(names in some_names()) {
        let dir = tempfile::tempdir().unwrap();
        let git = |args: &[&str], input: &[u8]| {
            use std::io::Write;
            let mut child = Command::new("git").arg("-C").arg(dir.path()).args(args)
                .stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            child.wait_with_output().unwrap()
        };
        git(&["init", "-q", "--bare"], b"");
        let tree = git(&["mktree"], b"");
        let tree = String::from_utf8(tree.stdout).unwrap();
        let commit = git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit-tree", tree.trim(), "-m", "x"], b"");
        let commit = String::from_utf8(commit.stdout).unwrap();
        let names: BTreeSet<OsString> = names.into_iter().collect();
        let mut orders = String::new();
        for name in &names {
            orders.push_str(&format!("create refs/heads/harness/{}/1 {}\n", Name::new(name).ref_component(), commit.trim()));
        }
        let made = git(&["update-ref", "--stdin"], orders.as_bytes());
        prop_assert!(made.status.success(), "{}\n{orders}", String::from_utf8_lossy(&made.stderr));
        let listed = git(&["for-each-ref"], b"");
        prop_assert_eq!(listed.stdout.split(|&b| b == b'\n').count() - 1, names.len());
    }
}
