//! What a queue of files costs at least: claim by rename, start, wait, rename to `done/`. No
//! records, no leases, no recovery: the yardstick of `bench/run.py`, not something to use.
//!
//! `bare-loop DIR WORKERS [--watch] [--fsync]`: works on DIR/pending until it is empty, or with
//! `--watch` for ever, by inotify. `--fsync`: every transition (claim, output and status, done)
//! survives a power cut.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a yardstick: no layer of harness is in it"
)]

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crossbeam_channel::Receiver;
use rustix::fs::inotify;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = PathBuf::from(&args[1]);
    let workers: usize = args[2].parse().unwrap();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let (watch, fsync) = (has("--watch"), has("--fsync"));
    for sub in ["pending", "claimed", "done", "out"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let (send, names) = crossbeam_channel::unbounded();
    let pending = dir.join("pending");
    let events = watch.then(|| {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        let what = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&fd, &pending, what).unwrap();
        fd
    });
    for entry in fs::read_dir(&pending).unwrap() {
        send.send(entry.unwrap().file_name()).unwrap();
    }
    thread::scope(|scope| {
        for _ in 0..workers {
            let (dir, names) = (&dir, names.clone());
            scope.spawn(move || work(dir, &names, fsync));
        }
        if let Some(fd) = events {
            tell(&fd, &send);
        }
        drop(send);
    });
}

fn tell(fd: &OwnedFd, send: &crossbeam_channel::Sender<std::ffi::OsString>) {
    use std::os::unix::ffi::OsStringExt;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    while let Ok(event) = reader.next() {
        if let Some(name) = event.file_name() {
            let name = name.to_bytes().to_vec();
            send.send(std::ffi::OsString::from_vec(name)).unwrap();
        }
    }
}

fn work(dir: &Path, names: &Receiver<std::ffi::OsString>, fsync: bool) {
    let sync = |path: &Path| {
        if fsync {
            File::open(path).unwrap().sync_all().unwrap();
        }
    };
    for name in names {
        let (pending, claimed) = (dir.join("pending"), dir.join("claimed"));
        let at = claimed.join(&name);
        if fs::rename(pending.join(&name), &at).is_err() {
            continue;
        }
        sync(&claimed);
        sync(&pending);
        let out = dir.join("out").join(&name);
        let log = File::create(&out).unwrap();
        let status = Command::new(&at)
            .stdin(Stdio::null())
            .stdout(log)
            .status()
            .unwrap();
        let (temp, done) = (out.with_extension("tmp"), out.with_extension("status"));
        fs::write(&temp, format!("{status}\n")).unwrap();
        sync(&temp);
        fs::rename(&temp, &done).unwrap();
        sync(&dir.join("out"));
        fs::rename(&at, dir.join("done").join(&name)).unwrap();
        sync(&dir.join("done"));
        sync(&claimed);
    }
}
