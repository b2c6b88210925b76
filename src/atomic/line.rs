//! A file that is one line of fixed length, such as a heartbeat.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{SAFE_OPEN_FLAGS, replace};
use crate::error::Result;

/// Overwrites a file's only line with one of the same length, in one call; cheaper than a new file.
/// If the file is missing or anything else (an agent replaced it, perhaps by a hard link to a
/// foreign file), it is replaced.
pub(crate) fn put_line(path: &Path, line: &[u8]) -> Result<()> {
    let in_place = || {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .custom_flags(SAFE_OPEN_FLAGS)
            .open(path)?;
        let meta = file.metadata()?;
        let is_ours = meta.is_file() && meta.nlink() == 1 && meta.len() == line.len() as u64;
        Ok::<_, io::Error>(is_ours && file.write_at(line, 0)? == line.len())
    };
    match in_place() {
        Ok(true) => Ok(()),
        _ => replace(path, line, false),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::{Moved, link_new, remove};
    use super::*;

    #[test]
    fn a_line_is_written_in_place_and_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (line, other) = (dir.path().join("line"), dir.path().join("other"));
        put_line(&line, b"one\n").unwrap();
        let inode = line.metadata().unwrap().ino();
        put_line(&line, b"two\n").unwrap();
        assert_eq!(line.metadata().unwrap().ino(), inode);
        assert_eq!(fs::read(&line).unwrap(), b"two\n");
        let tricks: [&dyn Fn(); 3] = [
            &|| symlink(&other, &line).unwrap(),
            &|| assert_eq!(link_new(&other, &line).unwrap(), Moved::Done),
            &|| replace(&line, b"longer\n", false).unwrap(),
        ];
        for trick in tricks {
            replace(&other, b"kept", false).unwrap();
            assert!(remove(&line).unwrap());
            trick();
            put_line(&line, b"new\n").unwrap();
            assert!(line.symlink_metadata().unwrap().is_file());
            assert_eq!(fs::read(&line).unwrap(), b"new\n");
            assert_eq!(fs::read(&other).unwrap(), b"kept");
        }
    }
}
