//! What a run says to people is on nobody's way: a reader that stalls or goes away holds up neither
//! items nor signals.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};

use crate::journal::Journal;
use crate::support::{DEADLINE, Root, git, kill};

/// A run whose two outputs are one small pipe, and the pipe's other end.
fn into_a_pipe(root: &Root, args: &[&str]) -> (Child, File) {
    into_a_pipe_with(root, args, b"")
}

/// In which this waits to be read.
fn into_a_pipe_with(root: &Root, args: &[&str], before: &[u8]) -> (Child, File) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(before).unwrap();
    let writer = OwnedFd::from(writer);
    let run = root
        .command()
        .arg("run")
        .args(args)
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    (run, File::from(OwnedFd::from(reader)))
}

fn ends(root: &Root, run: &mut Child) -> Option<i32> {
    let end = Instant::now() + DEADLINE;
    let mut status = None;
    root.wait_until("it ends", || {
        status = run.try_wait().unwrap();
        status.is_some() || Instant::now() > end
    });
    let _ended = run.kill();
    status.and_then(|s| s.code())
}

const MANY: usize = 120;

fn many(root: &Root) {
    for n in 0..MANY {
        root.script(format!("item-{n:03}"), ":");
    }
}

fn done(root: &Root) -> usize {
    std::fs::read_dir(root.at("queue/done"))
        .unwrap()
        .flatten()
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .count()
}

#[test]
fn a_reader_that_stops_reading_holds_up_neither_items_nor_signals() {
    let (root, journal) = (Root::plain(), Journal::new());
    many(&root);
    let (mut run, mut pipe) = into_a_pipe(&root, &["--workers", "2"]);
    root.wait_until("all is done", || done(&root) == MANY);
    // Now an agent is at work, and nobody has read anything yet.
    journal.drop_script(&root, "works", "", &journal.wait_for("go"));
    let agent = journal.wait_for_start(&root, "works", 1);
    kill(run.id(), "INT");
    let stopping = root.at("queue/pending/works");
    kill(run.id(), "TERM");
    assert_eq!(ends(&root, &mut run), Some(0));
    assert!(stopping.exists(), "it is put back\n{}", root.picture());
    assert!(!crate::support::is_alive(agent));
    root.assert_nothing_left();
    let mut said = String::new();
    pipe.read_to_string(&mut said).unwrap();
    assert!(said.contains("started     item-0"), "{said}");
}

#[test]
fn what_a_worker_says_of_a_repository_waits_for_no_reader() {
    let root = Root::with_repo();
    root.script("x", ":");
    root.drain();
    let other = root.at("other");
    std::fs::create_dir(&other).unwrap();
    git(&other, &["init", "-q", "-b", "main"]);
    git(&other, &["commit", "-q", "--allow-empty", "-m", "other"]);
    root.config("[repo]\npath = \"other\"\n");
    root.script("y", ":");
    let (mut run, mut pipe) = into_a_pipe_with(&root, &["--workers", "1"], &[b'.'; 4096]);
    root.wait_until("the item is done", || root.is_done("y"));
    let mut said = vec![0; 4096];
    pipe.read_exact(&mut said).unwrap();
    kill(run.id(), "INT");
    assert_eq!(ends(&root, &mut run), Some(0));
    let mut said = String::new();
    pipe.read_to_string(&mut said).unwrap();
    assert_eq!(
        said.matches("is another one than before").count(),
        1,
        "{said}"
    );
}

#[test]
fn a_closed_pipe_ends_nothing() {
    let root = Root::plain();
    many(&root);
    let (mut run, pipe) = into_a_pipe(&root, &["--drain"]);
    drop(pipe);
    assert_eq!(ends(&root, &mut run), Some(0));
    assert_eq!(done(&root), MANY);
}

#[test]
fn a_reader_that_comes_late_gets_every_line_and_the_table() {
    let root = Root::plain();
    many(&root);
    let (mut run, mut pipe) = into_a_pipe(&root, &["--drain"]);
    root.wait_until("all is done", || done(&root) == MANY);
    let mut said = String::new();
    pipe.read_to_string(&mut said).unwrap();
    assert_eq!(ends(&root, &mut run), Some(0));
    for n in 0..MANY {
        let line = format!("succeeded   item-{n:03}:");
        assert!(said.contains(&line), "no {line} in\n{said}");
    }
    assert!(said.contains(&format!("{MANY} done, 0 parked")), "{said}");
    assert!(!said.contains("left out"), "{said}");
}
