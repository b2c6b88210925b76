//! A rename that replaces nothing, where the file system has none in one step: NFS, Ceph, Lustre.
//!
//! A link and an unlink are no such rename. Two movers can both link; and who is stopped between the two
//! unlinks later whatever has that name by then, while on another host no lock may tell that he lives. So
//! a file first takes a name that no other move ever has, in the folder that it leaves:
//!
//! | step | a death after it leaves |
//! |---|---|
//! | 1. rename to `.NAME.ID-LINKS.moving~`: one mover wins | the file under that name |
//! | 2. link to the new name, which replaces nothing | both names |
//! | 3. unlink the name on the way | – |
//!
//! Whoever meets such a name ends that move (`end_move`): he takes the file by step 1 himself, so that
//! its mover, if he lives, finds it gone. If it has more links than before its move, step 2 was done. Where
//! it had several, and has as many, that proves nothing: it stays, and a person gives it its name back.
//!
//! A file of another user often cannot be linked (`fs.protected_hardlinks`): step 2 is then a plain
//! rename to a name that was free a moment ago.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{
    Moved, backup_name, exists, folder_of, has_folder, is_gone, is_same, link_new, not_moved,
    open_dir, remove,
};
use crate::clock;
use crate::error::{Error, Result};
use crate::limits::{BACKUPS_MAX, FILE_NAME_BYTES_MAX};
use crate::mutant::planted;

const END: &[u8] = b".moving~";
/// Of the ID: random digits.
const ID_DIGITS: usize = 16;

/// Has the next looks at names in this folder ask a file server, which else may be believed gone, or
/// there, for a minute after they were not: NFS asks when a folder is opened.
pub(crate) fn look_anew(path: &Path) {
    let _gone = open_dir(folder_of(path));
}

/// Moves a file in the steps above. What it says of names may be out of date; see `look_anew`.
pub(super) fn rename_in_steps(from: &Path, to: &Path) -> Result<Moved> {
    if exists(to) {
        return Ok(Moved::Taken);
    }
    let links = match links_of(from) {
        Ok(links) => links,
        Err(_) if is_gone(from) => return Ok(Moved::SourceGone),
        Err(e) => return Err(not_moved(from, to, &e)),
    };
    let way = on_its_way(from, links);
    match fs::rename(from, &way) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound && exists(&way) => {
            // A file server did it, and its answer was lost.
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && (!exists(from) || has_folder(to)) => {
            return Ok(Moved::SourceGone);
        }
        Err(e) => return Err(not_moved(from, to, &e)),
    }
    match arrive(&way, to) {
        Ok(Moved::Taken) => go_back(&way, from).map(|()| Moved::Taken),
        Err(e) => {
            go_back(&way, from)?;
            Err(e)
        }
        moved => moved,
    }
}

/// Gives a file that is on its way its new name, unless that is taken.
fn arrive(way: &Path, to: &Path) -> Result<Moved> {
    let arrived = match link_new(way, to) {
        // Or the answer of a file server was lost.
        Ok(Moved::Taken) if is_same(way, to) => Moved::Done,
        Err(e) if e.errno() == Some(libc::EPERM) && !exists(to) => {
            return match fs::rename(way, to) {
                Ok(()) => Ok(Moved::Done),
                Err(e) if e.kind() == io::ErrorKind::NotFound && !exists(way) => {
                    Ok(Moved::SourceGone)
                }
                Err(e) => Err(not_moved(way, to, &e)),
            };
        }
        Err(e) if e.errno() == Some(libc::EPERM) => Moved::Taken,
        other => other?,
    };
    if arrived == Moved::Done {
        // It is moved: who meets the other name ends that.
        let _left = remove(way);
    }
    Ok(arrived)
}

/// Gives a file the name back that it had, or that of a backup where another has come meanwhile.
fn go_back(way: &Path, home: &Path) -> Result<()> {
    let mut to = home.to_owned();
    for k in 1..BACKUPS_MAX {
        match arrive(way, &to)? {
            Moved::Done | Moved::SourceGone => return Ok(()),
            Moved::Taken => to = backup_name(home, k),
        }
    }
    Err(Error::permanent("cannot keep the file", "too many backups").at_path(home))
}

/// A name for one move of a file with so many links. The end of a very long name is cut.
fn on_its_way(home: &Path, links: u32) -> PathBuf {
    let id = clock::unique().simple().to_string();
    let end = format!(".{}-{links}", &id[id.len() - ID_DIGITS..]);
    let name = home.file_name().unwrap_or_default().as_bytes();
    let most = FILE_NAME_BYTES_MAX - 1 - end.len() - END.len();
    let name = &name[..name.len().min(most)];
    home.with_file_name(OsStr::from_bytes(
        &[b".", name, end.as_bytes(), END].concat(),
    ))
}

/// The file that is on its way under this name, and how many links it had.
fn of_way(file: &OsStr) -> Option<(&OsStr, u32)> {
    let rest = file.as_bytes().strip_prefix(b".")?.strip_suffix(END)?;
    let dot = rest.iter().rposition(|b| *b == b'.').filter(|at| *at > 0)?;
    let (name, id) = (&rest[..dot], std::str::from_utf8(&rest[dot + 1..]).ok()?);
    let (digits, links) = id.split_once('-')?;
    let is_id = digits.len() == ID_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    Some((OsStr::from_bytes(name), links.parse().ok()?)).filter(|_| is_id)
}

/// Whether a file has the name of one that is on its way.
pub fn is_on_its_way(file: &OsStr) -> bool {
    of_way(file).is_some()
}

/// How many links it has now: a file server is asked.
fn links_of(path: &Path) -> io::Result<u32> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    Ok(statx(CWD, path, how, StatxFlags::NLINK)?.stx_nlink)
}

/// Ends a move that was begun in this folder, if that is what the file's name says: it has arrived, or
/// has its name back, which is returned. `claims`: where the names are that somebody claims. A name that is
/// claimed is left alone: its claimer may only be slow, and NFS lets him link a file that has another name
/// by now. `None`: whoever worked in this folder is dead.
pub fn end_move(dir: &Path, file: &OsStr, claims: Option<&Path>) -> Result<Option<OsString>> {
    let Some((name, links)) = of_way(file).filter(|_| !planted("move-not-ended")) else {
        return Ok(None);
    };
    if let Some(claim) = claims.map(|claims| claims.join(name)) {
        look_anew(&claim);
        if exists(&claim) {
            return Ok(None);
        }
    }
    let (found, home) = (dir.join(file), dir.join(name));
    // Its user's own links, or that of a move before it which is not clear of it yet: nobody can tell.
    if links > 1 && links_of(&found).is_ok_and(|now| now == links) {
        return Ok(None);
    }
    let way = on_its_way(&home, links);
    match fs::rename(&found, &way) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound && !exists(&way) => return Ok(None),
        Err(e) => return Err(not_moved(&found, &home, &e)),
    }
    let now = links_of(&way).map_err(|e| not_moved(&way, &home, &e))?;
    if now > links {
        return remove(&way).map(|_| None);
    }
    go_back(&way, &home)?;
    Ok(Some(name.to_owned()))
}

/// `end_move` of all that is in a folder. What fails is met again.
pub(crate) fn end_moves(dir: &Path, claims: Option<&Path>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let _met_again = end_move(dir, &entry.file_name(), claims);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{create, read_small};
    use super::*;

    struct Folders(tempfile::TempDir);

    impl Folders {
        fn new() -> Folders {
            let dir = tempfile::tempdir().unwrap();
            for name in ["from", "to"] {
                fs::create_dir(dir.path().join(name)).unwrap();
            }
            Folders(dir)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str) -> PathBuf {
            drop(create(&self.at(name), name.as_bytes(), 0o600).unwrap());
            self.at(name)
        }

        /// What both hold: `from/x: content`.
        fn all(&self) -> Vec<String> {
            let entries = |dir| fs::read_dir(self.at(dir)).unwrap().flatten();
            let entries = entries("from").chain(entries("to"));
            let shown = |e: fs::DirEntry| {
                let path = e.path();
                let (dir, name) = (path.parent().unwrap(), path.file_name().unwrap());
                let content = read_small(&path, 999).unwrap();
                format!(
                    "{}/{}: {}",
                    dir.file_name().unwrap().display(),
                    name.display(),
                    String::from_utf8_lossy(&content)
                )
            };
            let mut all: Vec<String> = entries.map(shown).collect();
            all.sort();
            all
        }
    }

    #[test]
    fn a_file_moved_in_steps_replaces_nothing_and_is_in_one_place() {
        let f = Folders::new();
        let (from, to) = (f.file("from/x"), f.at("to/x"));
        assert_eq!(rename_in_steps(&from, &to).unwrap(), Moved::Done);
        assert_eq!(f.all(), ["to/x: from/x"]);
        assert_eq!(
            rename_in_steps(&from, &f.at("to/y")).unwrap(),
            Moved::SourceGone
        );
        f.file("from/x2");
        let taken = rename_in_steps(&f.at("from/x2"), &to).unwrap();
        assert_eq!(taken, Moved::Taken);
        assert_eq!(f.all(), ["from/x2: from/x2", "to/x: from/x"]);
        let odd = f.at("from/link");
        std::os::unix::fs::symlink("nowhere", &odd).unwrap();
        assert_eq!(
            rename_in_steps(&odd, &f.at("to/link")).unwrap(),
            Moved::Done
        );
        assert_eq!(
            fs::read_link(f.at("to/link")).unwrap(),
            Path::new("nowhere")
        );
        assert!(rename_in_steps(&to, &f.at("no/folder/x")).is_err());
        assert!(exists(&to));
    }

    #[test]
    fn wherever_a_mover_dies_the_next_one_ends_its_move() {
        for (own_links, linked) in [(0, false), (0, true), (1, false), (1, true)] {
            let f = Folders::new();
            let (from, to) = (f.file("from/x"), f.at("to/x"));
            for n in 0..own_links {
                fs::hard_link(&from, f.at(&format!("own-{n}"))).unwrap();
            }
            let way = on_its_way(&from, links_of(&from).unwrap());
            fs::rename(&from, &way).unwrap();
            if linked {
                fs::hard_link(&way, &to).unwrap();
            }
            end_moves(&f.at("from"), None);
            if own_links > 0 && !linked {
                let all = f.all();
                assert!(
                    all.len() == 1 && all[0].ends_with(".moving~: from/x"),
                    "{all:?}"
                );
                continue;
            }
            let place = if linked { "to/x" } else { "from/x" };
            assert_eq!(
                f.all(),
                [format!("{place}: from/x")],
                "{own_links} {linked}"
            );
            // Its mover had only slept.
            assert_eq!(arrive(&way, &f.at("to/late")).unwrap(), Moved::SourceGone);
            assert_eq!(f.all().len(), 1);
        }
    }

    #[test]
    fn a_file_whose_names_are_both_taken_meanwhile_is_kept_as_a_backup() {
        let f = Folders::new();
        let from = f.file("from/x");
        let way = on_its_way(&from, 1);
        fs::rename(&from, &way).unwrap();
        fs::write(&from, "new").unwrap();
        end_moves(&f.at("from"), None);
        assert_eq!(f.all(), ["from/x.~1~: from/x", "from/x: new"]);
    }

    #[test]
    fn only_names_of_files_on_their_way_are_taken_for_such() {
        let long = "n".repeat(FILE_NAME_BYTES_MAX);
        for name in ["x", "a.b.md", ".hidden", "x.~ending~", long.as_str()] {
            let way = on_its_way(Path::new(name), 3);
            let (found, links) = of_way(way.as_os_str()).unwrap();
            assert!(way.as_os_str().len() <= FILE_NAME_BYTES_MAX);
            assert!(
                name.starts_with(found.to_str().unwrap()) && links == 3,
                "{name}"
            );
            assert!(name.len() > 200 || found == name);
        }
        for name in [
            "x",
            ".x.moving~",
            ".x.1-1.moving~",
            "..0123456789abcdef-1.moving~",
        ] {
            assert_eq!(of_way(OsStr::new(name)), None, "{name}");
        }
    }
}
