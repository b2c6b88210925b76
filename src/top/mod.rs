//! `harness top`: what agents, queue and sessions do right now, on the whole terminal, and keys for what a person
//! does about it.
//!
//! Shows what `status`, `session watch`, `show` and `review` say, and changes nothing itself: a key gives the
//! command that a person would type (`jobs`). Invariants: however it ends, the terminal is as it was found
//! (`screen`); nothing from outside acts on the terminal (`canvas`); work and memory are bounded, whatever is in
//! the tree.

mod keys;
mod signals;
mod screen;
mod line;
mod jobs;
mod data;
mod queue;
mod ended;
mod needs;
mod canvas;
mod page;
mod diff;
mod app;
mod act;
mod help;
mod draw;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::SIGHUP;

use crate::error::{Context, Result};
use crate::layout::Root;
use crate::mutant::planted;
use crate::sys;
use crate::view::Term;
use app::App;
use canvas::Canvas;
use keys::{Key, Keys};
use screen::{Screen, Shown};
use signals::Signals;

/// How long the rest of a key may take: a slow line cuts it.
const KEY: Duration = Duration::from_millis(50);

/// Shows the tree until a person, or a signal, ends it; the exit code.
pub(crate) fn top(root: &Root) -> Result<u8> {
    let signals = Signals::new()?;
    let mut app = App::new(root)?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut screen = Screen::take(stdin.as_fd(), stdout.as_fd(), &signals)?;
    let ended = watch(&mut app, &mut screen, &signals);
    // Before anything is told.
    drop(screen);
    ended
}

fn watch(app: &mut App, screen: &mut Screen, signals: &Signals) -> Result<u8> {
    let has_colors = has_colors();
    let (stdin, waker) = (io::stdin(), app.jobs.waker.clone());
    let mut keys = Keys::default();
    loop {
        if let Some(signal) = signals.ended() {
            return Ok(128 + signal);
        }
        if signals.take_stop() {
            screen::leave();
            sys::stop_here().or_fail("cannot stop", app.root.path())?;
            screen.again()?;
        }
        if signals.take_go_on() {
            screen.again()?;
        }
        app.look()?;
        if app.is_dirty || screen.is_outgrown() {
            let mut canvas = Canvas::new(screen.size(), has_colors);
            draw::draw(app, &mut canvas);
            if screen.show(canvas.buffer, canvas.cursor)? == Shown::Gone {
                return Ok(128 + signals.ended().unwrap_or(SIGHUP as u8));
            }
            app.is_drawn();
        }
        let wait = if keys.is_amid() { KEY } else { app::LOOK };
        let (_, typed) = waker.wait_or(Some(stdin.as_fd()), wait);
        if typed && !read(&stdin, &mut keys) {
            return Ok(128 + signals.ended().unwrap_or(SIGHUP as u8));
        }
        while let Some(key) = keys.next(!typed) {
            obey(app, screen, &key);
        }
        if app.is_over {
            return Ok(0);
        }
    }
}

/// Reads what was typed. `false`: the terminal is gone.
fn read(stdin: &io::Stdin, keys: &mut Keys) -> bool {
    let mut bytes = [0; 4096];
    match nix::unistd::read(stdin, &mut bytes) {
        Ok(0) => false,
        Ok(n) => {
            keys.feed(&bytes[..n]);
            true
        }
        Err(Errno::EINTR | Errno::EAGAIN) => true,
        Err(_) => false,
    }
}

#[expect(clippy::panic, reason = "a planted fault")]
fn obey(app: &mut App, screen: &mut Screen, key: &Key) {
    match key {
        // To all of its job, as a terminal sends it; our own comes back as a signal.
        Key::Ctrl('z') => {
            let _alone = kill(Pid::from_raw(0), Signal::SIGTSTP);
        }
        Key::Ctrl('l') => screen.wipe(),
        Key::Char('!') if planted("top-panics") => panic!("planted"),
        key => app.key(key),
    }
}

/// As everywhere; and terminals without colours are not asked for any.
fn has_colors() -> bool {
    let name = std::env::var("TERM").unwrap_or_default();
    let old = ["vt52", "vt100", "vt102", "vt220"];
    let is_mono = old.contains(&&*name) || name.ends_with("-mono") || name.ends_with("-m");
    Term::of_stdout().color && !is_mono
}
