use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::atomic;
use crate::clock;

const BOUNDS: Bounds<'static> = Bounds {
    spare: 0,
    ends: &|| None,
    skips: &|_, _| false,
};

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Case {
        let dir = tempfile::tempdir().unwrap();
        for name in ["from", "to"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Case { dir }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.at("from").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn copy(&self, path: &str, bounds: &Bounds<'_>) -> Result<Copied, Failed> {
        settle_clock(&self.at("from"));
        let mut from = Beneath::open(&self.at("from")).unwrap();
        let mut to = Beneath::open(&self.at("to")).unwrap();
        copy(&mut from, Path::new(path), &mut to, OsStr::new("0"), bounds)
    }
}

/// Waits until what is there is older than what is made now, by the file system's own clock.
fn settle_clock(dir: &Path) {
    let ctime = |m: fs::Metadata| (m.ctime(), m.ctime_nsec());
    let all = walkdir::WalkDir::new(dir).into_iter().flatten();
    let newest = all.filter_map(|e| e.metadata().ok()).map(ctime).max();
    let mark = dir.with_file_name("clock");
    loop {
        let _gone = fs::remove_file(&mark);
        fs::write(&mark, "").unwrap();
        if Some(ctime(mark.metadata().unwrap())) > newest {
            return;
        }
        std::thread::yield_now();
    }
}

fn told(result: Result<Copied, Failed>) -> String {
    match result {
        Ok(copied) => format!("copied, without {:?}", copied.first_left_out),
        Err(Failed::Written) => "written".to_owned(),
        Err(Failed::Other(why)) => why,
    }
}

#[test]
fn a_copy_has_contents_modes_times_and_symlinks_and_is_the_originals_in_nothing() {
    let case = Case::new();
    case.file("t/deep/file", "one");
    case.file("t/run", "two");
    fs::hard_link(case.at("from/t/run"), case.at("from/t/also")).unwrap();
    fs::set_permissions(case.at("from/t/run"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(case.at("from/t/deep"), fs::Permissions::from_mode(0o555)).unwrap();
    for (name, target) in [
        ("in", "deep/file"),
        ("up", "../t/run"),
        ("out", "../../x"),
        ("abs", "/etc/passwd"),
        ("round", "deep/../../.."),
    ] {
        symlink(target, case.at("from/t").join(name)).unwrap();
    }
    nix::unistd::mkfifo(&case.at("from/t/fifo"), Mode::S_IRWXU).unwrap();
    for path in ["t/run", "t/deep/file", "t/deep", "t"] {
        atomic::set_mtime(&case.at("from").join(path), 1_000_000_000_123_456_789).unwrap();
    }
    let copied = case.copy("t", &BOUNDS).unwrap();
    assert_eq!(copied.left_out, 4, "{copied:?}");
    assert!(copied.newest >= 1_000_000_000_123_456_789);
    for path in ["run", "deep/file", "deep", ""] {
        let theirs = case.at("from/t").join(path).metadata().unwrap();
        let ours = case.at("to/0").join(path).metadata().unwrap();
        assert_eq!(
            (ours.mtime(), ours.mtime_nsec()),
            (1_000_000_000, 123_456_789),
            "{path}"
        );
        let more = if ours.is_dir() { 0o700 } else { 0 };
        assert_eq!(ours.mode() & 0o777, theirs.mode() & 0o777 | more, "{path}");
        assert_ne!(ours.ino(), theirs.ino());
    }
    let run = case.at("to/0/run").metadata().unwrap();
    assert_eq!(
        (run.mode() & 0o7000, run.nlink()),
        (0, 1),
        "nobody else's rights, and no hard link"
    );
    assert_eq!(fs::read_to_string(case.at("to/0/in")).unwrap(), "one");
    assert_eq!(
        fs::read_link(case.at("to/0/up")).unwrap(),
        Path::new("../t/run")
    );
    for gone in ["out", "abs", "round", "fifo"] {
        assert!(!atomic::exists(&case.at("to/0").join(gone)), "{gone}");
    }
    fs::set_permissions(case.at("from/t/deep"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_hole_is_copied_as_one() {
    use std::os::unix::fs::FileExt;
    let case = Case::new();
    case.file("sparse", "begin");
    let file = fs::File::options()
        .write(true)
        .open(case.at("from/sparse"))
        .unwrap();
    file.write_all_at(b"middle", 40 << 30).unwrap();
    file.set_len(60 << 30).unwrap();
    case.copy("sparse", &BOUNDS).unwrap();
    let copy = fs::File::open(case.at("to/0")).unwrap();
    let meta = copy.metadata().unwrap();
    assert_eq!(meta.len(), 60 << 30);
    assert!(meta.blocks() < 1_000, "{} blocks", meta.blocks());
    let mut bytes = [0; 6];
    copy.read_exact_at(&mut bytes, 40 << 30).unwrap();
    assert_eq!(&bytes, b"middle");
    copy.read_exact_at(&mut bytes[..5], 0).unwrap();
    assert_eq!(&bytes[..5], b"begin");
}

#[test]
fn no_symlink_on_the_way_is_followed() {
    let case = Case::new();
    case.file("real/secret", "s");
    symlink("real", case.at("from/way")).unwrap();
    symlink("real/secret", case.at("from/link")).unwrap();
    assert_ne!(
        told(case.copy("way/secret", &BOUNDS)),
        "copied, without None"
    );
    assert!(fs::read_dir(case.at("to")).unwrap().next().is_none());
    // A symlink itself stays one.
    case.copy("link", &BOUNDS).unwrap();
    assert!(case.at("to/0").is_symlink());
    let mut to = Beneath::open(&case.at("from")).unwrap();
    assert!(!to.has_room_for(Path::new("way/new")) && to.has_room_for(Path::new("real/new")));
    assert!(
        !to.has_room_for(Path::new("real/secret")) && to.has_room_for(Path::new("new/deep/er"))
    );
}

#[test]
fn what_somebody_writes_in_meanwhile_is_no_copy() {
    let case = Case::new();
    for n in 0..600 {
        case.file(&format!("t/d{}/f{n}", n % 7), "x");
    }
    // Every 256 entries it is asked whether to go on.
    let touch = |path: &'static str| {
        let file = case.at("from").join(path);
        move || {
            fs::write(&file, "changed").unwrap();
            None
        }
    };
    for path in ["t/d0/f0", "t/d6/new", "t/d3/f598"] {
        let ends = touch(path);
        let bounds = Bounds {
            ends: &ends,
            ..BOUNDS
        };
        assert_eq!(told(case.copy("t", &bounds)), "written", "{path}");
        fs::remove_dir_all(case.at("to/0")).unwrap();
    }
    assert_eq!(told(case.copy("t", &BOUNDS)), "copied, without None");
}

#[test]
fn a_copy_ends_where_it_is_told_to_and_leaves_out_what_is_not_wanted() {
    let case = Case::new();
    for n in 0..300 {
        case.file(&format!("t/f{n}"), "x");
    }
    case.file("t/cache/big", "x");
    let ends = || Some("enough".to_owned());
    let told_why = told(case.copy(
        "t",
        &Bounds {
            ends: &ends,
            ..BOUNDS
        },
    ));
    assert!(told_why.ends_with(": enough"), "{told_why}");
    fs::remove_dir_all(case.at("to/0")).unwrap();
    let full = Bounds {
        spare: u64::MAX,
        ..BOUNDS
    };
    // Shared blocks take no room.
    let why = told(case.copy("t", &full));
    assert!(
        why.contains("disk_free_min") || why == "copied, without None",
        "{why}"
    );
    fs::remove_dir_all(case.at("to/0")).unwrap();
    let skips = |path: &Path, is_folder: bool| is_folder && path == Path::new("t/cache");
    case.copy(
        "t",
        &Bounds {
            skips: &skips,
            ..BOUNDS
        },
    )
    .unwrap();
    assert_eq!(fs::read_dir(case.at("to/0")).unwrap().count(), 300);
    fs::remove_dir_all(case.at("to/0")).unwrap();
    // A folder in a folder in a folder.
    let mut deep = "d".to_owned();
    for _ in 0..COPY_DEPTH_MAX + 3 {
        deep.push_str("/d");
    }
    case.file(&deep, "x");
    let told = told(case.copy("d", &BOUNDS));
    assert!(told.contains("too deep"), "{told}");
}

#[test]
fn only_what_is_the_same_gets_the_sources_time() {
    let old = |n: i64| 1_000_000_000_000_000_000 + n;
    let case = Case::new();
    for name in ["same", "dir/same", "other/file", "more/x"] {
        case.file(name, "same");
        atomic::set_mtime(&case.at("from").join(name), old(1)).unwrap();
    }
    case.file("bytes", "abc");
    case.file("runs", "x");
    case.file("more/extra", "x");
    symlink("same", case.at("from/link")).unwrap();
    for name in ["dir", "other", "more", "bytes"] {
        atomic::set_mtime(&case.at("from").join(name), old(2)).unwrap();
    }
    for name in ["same", "dir/same", "other/file", "more/x"] {
        let path = case.at("to").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "same").unwrap();
    }
    fs::write(case.at("to/bytes"), "abd").unwrap();
    fs::write(case.at("to/runs"), "x").unwrap();
    fs::set_permissions(case.at("to/runs"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("other", case.at("to/link")).unwrap();
    let files = [
        "bytes",
        "dir/same",
        "link",
        "more/x",
        "other/file",
        "runs",
        "same",
        "gone",
    ];
    let mtime = |name: &str| clock::mtime_ns(&case.at("to").join(name).symlink_metadata().unwrap());
    let settle = |newest: i64, is_new: bool| {
        let ages = Ages {
            sources: vec![Beneath::open(&case.at("from")).unwrap()],
            copied: [Path::new("dir/brought")].into(),
            newest,
            is_new,
        };
        let mut ours = Beneath::open(&case.at("to")).unwrap();
        super::settle(&mut ours, ages, files.iter().map(Into::into)).unwrap();
    };
    let begun = clock::now_ns() - 50_000_000;
    settle(old(5), true);
    for (name, at) in [
        ("same", 1),
        ("dir/same", 1),
        ("other/file", 1),
        ("dir", 2),
        ("other", 2),
        ("more/x", 1),
    ] {
        assert_eq!(mtime(name), old(at), "{name}");
    }
    for name in ["bytes", "runs", "link", "more"] {
        assert!(mtime(name) >= begun, "{name} is another one");
    }
    // Where something was built already no time goes back, and nothing is older than the newest copy.
    atomic::set_mtime(&case.at("to/same"), old(7)).unwrap();
    let ahead = clock::now_ns() + 3_600_000_000_000;
    settle(ahead, false);
    assert_eq!((mtime("same"), mtime("dir/same")), (old(7), old(1)));
    assert!(mtime("bytes") > ahead);
}
