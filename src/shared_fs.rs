//! Whether other hosts may see a path's file system, and whether its `flock`s hold between them. Both are
//! answered by the mount, as the kernel describes it. What is not known to share locks does not share
//! them: then nobody may be taken for dead because his lock is free.

use std::os::fd::AsRawFd;
use std::path::Path;

use crate::atomic;

/// Types of file systems that several hosts mount, or a guest and its host. `fuse.sshfs` and its like are
/// known by their beginning.
const SHARED: &[&str] = &[
    "9p",
    "acfs",
    "afs",
    "auristorfs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "cvfs",
    "dvs",
    "fakeowner",
    "fhgfs",
    "fuse",
    "gfs2",
    "gpfs",
    "hostfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "panfs",
    "prl_fs",
    "pvfs2",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
    "vxfs",
    "wekafs",
];

/// A mount: the type of its file system, what is mounted, and its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: String,
    source: String,
    options: Vec<String>,
}

/// How far a `flock` of a mount reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locks {
    /// It excludes everybody who can reach the file.
    All,
    /// It excludes processes of this host alone.
    Host,
    /// Nothing that the mount says tells.
    Unknown,
}

/// Whether other hosts may change what is there. What cannot be looked at is taken for shared.
pub(crate) fn is_shared(path: &Path) -> bool {
    mount_of(path).is_none_or(|mount| mount.is_shared())
}

/// Whether a free `flock` proves that nobody holds it, on any host.
pub(crate) fn shares_locks(path: &Path) -> bool {
    mount_of(path).is_some_and(|mount| mount.locks() == Locks::All)
}

/// The mount that a file or folder is on. A symlink is followed.
pub(crate) fn mount_of(path: &Path) -> Option<Mount> {
    let file = atomic::open_to_look(path).ok()?;
    let info = atomic::read_kernel_text(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    let mounts = atomic::read_kernel("/proc/self/mountinfo").ok()?;
    mount_in(&String::from_utf8_lossy(&mounts), id.trim())
}

/// `36 35 0:30 ROOT POINT options tags… - TYPE SOURCE options`
fn mount_in(mountinfo: &str, id: &str) -> Option<Mount> {
    let is_it = |line: &&str| line.split(' ').next() == Some(id);
    let line = mountinfo.lines().find(is_it)?;
    let mut fields = line.split_once(" - ")?.1.split(' ');
    Some(Mount {
        kind: fields.next()?.to_owned(),
        source: fields.next()?.to_owned(),
        options: fields.next()?.split(',').map(str::to_owned).collect(),
    })
}

impl Mount {
    fn is_shared(&self) -> bool {
        // A server's path is mounted, as with a type that nobody has listed.
        let is_remote = self.source.starts_with("//") || self.source.contains(":/");
        is_remote || self.kind.starts_with("fuse.") || SHARED.contains(&self.kind.as_str())
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }

    /// The value of an option `name=value`.
    fn value(&self, name: &str) -> Option<&str> {
        let value = |o: &'_ String| o.strip_prefix(name)?.strip_prefix('=').map(str::len);
        let option = self.options.iter().find(|o| value(o).is_some())?;
        option.get(name.len() + 1..)
    }

    pub(crate) fn locks(&self) -> Locks {
        if !self.is_shared() {
            return Locks::All;
        }
        match self.kind.as_str() {
            // `local_lock=posix` keeps only locks of the other kind (fcntl) to the host.
            "nfs" | "nfs4" => match self.value("local_lock") {
                _ if self.has("nolock") => Locks::Host,
                Some("none" | "posix") => Locks::All,
                Some("all" | "flock") => Locks::Host,
                _ => Locks::Unknown,
            },
            "lustre" if self.has("flock") => Locks::All,
            "lustre" => Locks::Host,
            "ceph" | "gpfs" => Locks::All,
            "gfs2" | "ocfs2" if self.has("localflocks") => Locks::Host,
            "gfs2" => Locks::All,
            _ => Locks::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /mnt/a rw,relatime shared:7 master:2 - nfs4 srv:/export rw,vers=4.2,proto=tcp,local_lock=none,addr=10.0.0.1
31 22 0:27 / /mnt/b rw - nfs srv:/export rw,vers=3,nolock,local_lock=all
32 22 0:27 / /mnt/c rw - nfs srv:/export rw,vers=3,local_lock=posix
33 22 0:27 / /mnt/d rw - nfs srv:/export rw,vers=3,local_lock=flock
34 22 0:27 / /mnt/e rw - nfs srv:/export rw
35 22 0:28 / /mnt/f rw - lustre 10.0.0.1@tcp:/fs rw,flock,lazystatfs
36 22 0:29 / /mnt/g rw - lustre 10.0.0.1@tcp:/fs rw,localflock
37 22 0:29 / /mnt/h rw - lustre 10.0.0.1@tcp:/fs rw
38 22 0:30 / /mnt/i\\040j rw - ceph 10.0.0.1:6789:/ rw,name=a
39 22 0:31 / /mnt/k rw - gpfs gpfs1 rw
40 22 0:32 / /mnt/l rw - fuse.sshfs me@host: rw
41 22 8:17 / /mnt/m rw - fuseblk /dev/sdb1 rw
42 22 0:33 / /mnt/n rw - cifs //srv/share rw
43 22 0:34 / /mnt/o rw - somefs srv:/x rw
44 22 0:35 / /mnt/p rw - tmpfs tmpfs rw
45 22 253:0 / /mnt/q rw - gfs2 /dev/dm-0 rw,localflocks
46 22 253:0 / /mnt/r rw - gfs2 /dev/dm-0 rw
47 22 0:36 / /mnt/s rw - 9p share rw,trans=virtio
48 22 0:37 / /mnt/t rw - overlay overlay rw,lowerdir=/a:/b
4 22 0:38 / /mnt/u rw - nfs broken";

    #[test]
    fn a_mount_says_whether_it_is_shared_and_how_far_its_locks_reach() {
        let expected = [
            ("22", "ext4", false, Locks::All),
            ("30", "nfs4", true, Locks::All),
            ("31", "nfs", true, Locks::Host),
            ("32", "nfs", true, Locks::All),
            ("33", "nfs", true, Locks::Host),
            ("34", "nfs", true, Locks::Unknown),
            ("35", "lustre", true, Locks::All),
            ("36", "lustre", true, Locks::Host),
            ("37", "lustre", true, Locks::Host),
            ("38", "ceph", true, Locks::All),
            ("39", "gpfs", true, Locks::All),
            ("40", "fuse.sshfs", true, Locks::Unknown),
            ("41", "fuseblk", false, Locks::All),
            ("42", "cifs", true, Locks::Unknown),
            ("43", "somefs", true, Locks::Unknown),
            ("44", "tmpfs", false, Locks::All),
            ("45", "gfs2", true, Locks::Host),
            ("46", "gfs2", true, Locks::All),
            ("47", "9p", true, Locks::Unknown),
            ("48", "overlay", false, Locks::All),
        ];
        for (id, kind, shared, locks) in expected {
            let mount = mount_in(MOUNTS, id).unwrap();
            let found = (mount.kind.as_str(), mount.is_shared(), mount.locks());
            assert_eq!(found, (kind, shared, locks), "{id}");
        }
        assert_eq!(mount_in(MOUNTS, "30").unwrap().value("vers"), Some("4.2"));
        assert_eq!(mount_in(MOUNTS, "4"), None);
        assert_eq!(mount_in(MOUNTS, "3"), None);
    }

    #[test]
    fn a_local_file_or_folder_is_not_shared_and_its_locks_hold_for_all() {
        // The kernel's own file system is on every machine of tests, and never on a server.
        for path in ["/proc", "/proc/version"] {
            let mount = mount_of(Path::new(path)).unwrap();
            assert_eq!((mount.kind.as_str(), mount.locks()), ("proc", Locks::All));
            assert!(!is_shared(Path::new(path)));
        }
        assert!(is_shared(Path::new("/no/such/path")));
    }
}
