//! Opens and reads files that an agent may have replaced by anything: no open here blocks on a
//! fifo, and every read is bounded.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;

/// Flags for opening what an agent may have put there: never blocks on a fifo, follows no symlink,
/// gets no controlling terminal.
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

/// Opens anything but a symlink; the caller checks what it is.
pub(crate) fn open_safely(path: &Path) -> io::Result<File> {
    open(path, SAFE_OPEN_FLAGS)
}

/// Opens a regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    regular(open_safely(path)?)
}

/// Opens a person's regular file, which may be a symlink.
pub(crate) fn open_followed(path: &Path) -> io::Result<File> {
    regular(open_to_look(path)?)
}

/// Opens a file only for its metadata or locks. Follows a symlink: nothing of it is read.
pub(crate) fn open_to_look(path: &Path) -> io::Result<File> {
    open(path, SAFE_OPEN_FLAGS & !libc::O_NOFOLLOW)
}

/// Opens a folder. Follows a symlink: a person may have put the tree's folders on another disk.
pub fn open_dir(path: &Path) -> io::Result<File> {
    open(path, libc::O_DIRECTORY)
}

/// Opens a folder that is no symlink.
pub(super) fn open_own_dir(path: &Path) -> io::Result<File> {
    open(path, SAFE_OPEN_FLAGS | libc::O_DIRECTORY)
}

/// From now on reads do not change the access time, if the file is our own.
pub(crate) fn leave_atime(file: &File) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let _of_others = fcntl_getfl(file).and_then(|now| fcntl_setfl(file, now | OFlags::NOATIME));
}

/// The content of a regular file. An error if it is anything else or larger than `max` bytes.
pub(crate) fn read_small(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_open(&open_regular(path)?, max)
}

/// `read_small` for a person's file, which may be a symlink.
pub(crate) fn read_followed(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_open(&open_followed(path)?, max)
}

/// The rest of an open file. An error if that is more than `max` bytes.
pub(crate) fn read_open(file: &File, max: u64) -> io::Result<Vec<u8>> {
    // Most files are smaller than this: one call reads everything.
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

/// The last bytes of a regular file, at most `max`, and whether there are any before them.
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

/// Reads a file of the kernel's (`/proc`, `/sys`), which no agent can replace.
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

/// Whether the file has this content, of a state file's size.
pub(crate) fn holds(path: &Path, content: &[u8]) -> bool {
    read_small(path, STATE_FILE_BYTES_MAX).is_ok_and(|now| now == content)
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
