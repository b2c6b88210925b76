//! The doors for reading: an agent may have put anything in the place of a file that harness reads.
//! No open here waits for a writer at a fifo, and no read is without a bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::mutant::planted;

/// Flags for opening what an agent could have put there: never waits at a fifo, follows no symlink,
/// takes no terminal.
pub const SAFE_OPEN_FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;

fn open(path: &Path, flags: i32) -> io::Result<File> {
    let blocks = planted("fifo-waited-for");
    let flags = if blocks {
        flags & !libc::O_NONBLOCK
    } else {
        flags
    };
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

/// Opens whatever is there but a symlink: the caller looks at what it is.
pub(crate) fn open_safely(path: &Path) -> io::Result<File> {
    open(path, SAFE_OPEN_FLAGS)
}

/// Opens a regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    regular(open_safely(path)?)
}

/// Opens a regular file of a person, who may have made it a symlink.
pub(crate) fn open_followed(path: &Path) -> io::Result<File> {
    regular(open_to_look(path)?)
}

/// Opens a file only to look at it or its locks. Follows a symlink: nothing of it is read.
pub(crate) fn open_to_look(path: &Path) -> io::Result<File> {
    open(path, SAFE_OPEN_FLAGS & !libc::O_NOFOLLOW)
}

/// Opens a folder. Follows a symlink: a person may have put the tree's folders on another disk.
pub fn open_dir(path: &Path) -> io::Result<File> {
    open(path, libc::O_DIRECTORY)
}

/// From now on reading does not change the file's access time, where the file is our own.
pub(crate) fn leave_atime(file: &File) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let _of_others = fcntl_getfl(file).and_then(|now| fcntl_setfl(file, now | OFlags::NOATIME));
}

/// The content of a regular file. An error where it is something else or larger than `max` bytes.
pub(crate) fn read_small(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_open(&open_regular(path)?, max)
}

/// `read_small` for a file of a person, who may have made it a symlink.
pub(crate) fn read_followed(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_open(&open_followed(path)?, max)
}

/// What is left to read of an open file. An error where that is more than `max` bytes.
pub(crate) fn read_open(file: &File, max: u64) -> io::Result<Vec<u8>> {
    // Most are smaller than this: one call reads all of it.
    let mut bytes = Vec::with_capacity(2048);
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is larger than {max} bytes"),
        ));
    }
    Ok(bytes)
}

/// The last bytes of a regular file, at most `max`, and whether anything stands before them.
pub(crate) fn read_tail(path: &Path, max: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = open_regular(path)?;
    let from = file.metadata()?.len().saturating_sub(max);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(max).read_to_end(&mut end)?;
    Ok((end, from > 0))
}

/// Copies a regular file to a new one.
pub(crate) fn copy(from: &Path, to: &Path, max: u64) -> io::Result<()> {
    let from = open_regular(from)?;
    if from.metadata()?.len() > max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut options = OpenOptions::new();
    let mut to = options.write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut from.take(max), &mut to).map(drop)
}

/// A file that the kernel makes (`/proc`, `/sys`): no agent can put anything in its place.
pub(crate) fn read_kernel(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    debug_assert!(
        ["/proc/", "/sys/"]
            .iter()
            .any(|top| path.as_ref().starts_with(top)),
        "{}",
        path.as_ref().display()
    );
    fs::read(path)
}

/// `read_kernel` as text.
pub(crate) fn read_kernel_text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read_kernel(path)?).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::{create, make_dir};
    use super::*;

    #[test]
    fn only_a_regular_file_of_the_right_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        drop(create(&at("file"), b"12345", 0o600).unwrap());
        symlink("file", at("link")).unwrap();
        make_dir(&at("folder"), true).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_small(&at("file"), 5).unwrap(), b"12345");
        assert_eq!(read_followed(&at("link"), 5).unwrap(), b"12345");
        assert_eq!(read_tail(&at("file"), 2).unwrap(), (b"45".to_vec(), true));
        assert!(read_small(&at("file"), 4).is_err());
        for odd in ["link", "folder", "fifo", "none"] {
            assert!(read_small(&at(odd), 5).is_err(), "{odd}");
            assert!(read_tail(&at(odd), 5).is_err(), "{odd}");
        }
        assert!(read_followed(&at("fifo"), 5).is_err());
        assert!(open_dir(&at("fifo")).is_err() && open_dir(&at("folder")).is_ok());
    }
}
