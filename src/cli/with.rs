//! `harness with TOKEN -- COMMAND`: waits for a token, runs the command under it, and ends as that does.
//!
//! Invariant: the command's processes hold the token, too, so that it is not free while they work,
//! whatever becomes of this process; once the command has ended it is free, whatever that left running.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpgrp};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::init;
use crate::atomic;
use crate::config::nearest::advice;
use crate::config::{Config, Overrides, value};
use crate::error::{Context, Error, Result, tell};
use crate::layout::{Root, shown};
use crate::process;
use crate::sys;
use crate::tokens::{self, Token, VARIABLE};

/// How often it is tried to take a token.
const LOOK: Duration = Duration::from_millis(100);
/// What shells say of a program that cannot be executed, or is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const WHAT: &str = "cannot run the command";
const TAKE: &str = "cannot take a token";

#[derive(Args)]
pub(super) struct WithArgs {
    /// Of which token: a name in [tokens] of harness.toml
    #[arg(value_name = "TOKEN")]
    token: String,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn with(root: &Root, args: &WithArgs) -> Result<u8> {
    let name = args.token.as_str();
    // What has one for all of it needs no second.
    if tokens::has(root, name) {
        return run(args, &[]);
    }
    make(root, name)?;
    let token = wait(root, name)?;
    token.hand_on()?;
    let ended = run(args, std::slice::from_ref(&token));
    // Also what the command left running holds it.
    token.let_go();
    ended
}

/// Makes the token's files as harness.toml has them.
fn make(root: &Root, name: &str) -> Result<()> {
    let config = match Config::load(root, &Overrides::default()) {
        Ok(config) => config,
        // An agent may not read it: `harness run` has made them.
        Err(e) if e.is_barred() && value::is_name(name) => return Ok(()),
        Err(e) => return Err(e),
    };
    let Some(count) = config.tokens.get(name) else {
        let why = format!("there is no token `{}`", shown(name.as_ref()));
        let hint = match config.tokens.is_empty() {
            true => format!("say how many there are: `harness config set tokens.{name} 2`"),
            false => advice(name, config.tokens.keys().map(String::as_str)),
        };
        let e = Error::permanent(TAKE, why).at_path(&root.config());
        return Err(e.hint(hint));
    };
    init::ensure_tree(root)?;
    tokens::make(root, name, *count)
}

/// Waits for one, and says so once.
fn wait(root: &Root, name: &str) -> Result<Token> {
    let mut said = false;
    loop {
        if let Some(token) = tokens::try_take(root, name)? {
            return Ok(token);
        }
        if !std::mem::replace(&mut said, true) {
            let all = tokens::all_held(root, name);
            tell(&format!("harness: waits: {all}"));
        }
        process::pause(LOOK);
    }
}

/// Runs the command to its end; its exit code. `under`: what was taken for it.
#[expect(
    clippy::disallowed_methods,
    reason = "the user's own command, in the user's own environment"
)]
fn run(args: &WithArgs, under: &[Token]) -> Result<u8> {
    let Some((program, rest)) = args.command.split_first() else {
        return Err(Error::usage(WHAT, "none is named"));
    };
    let mut command = Command::new(program);
    command.args(rest);
    let before = std::env::var_os(VARIABLE);
    if let Some(list) = tokens::held_by(under, before) {
        command.env(VARIABLE, list);
    }
    let signals = heard().or_fail(WHAT, Path::new(program))?;
    let handle = signals.handle();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            tell(&format!("harness: cannot run {}: {e}", shown(program)));
            return Ok(match e.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            });
        }
    };
    let pid = Pid::from_raw(child.id() as i32);
    let passed_on = std::thread::Builder::new().spawn(move || pass_on(signals, pid));
    let ended = await_end(pid).and_then(|()| {
        // Nothing is sent to its number once that may be another's.
        handle.close();
        let _ended = passed_on.map(std::thread::JoinHandle::join);
        child.wait()
    });
    ended.map(code).or_fail(WHAT, Path::new(program))
}

/// Waits until it has ended, and leaves it to be asked how.
fn await_end(pid: Pid) -> io::Result<()> {
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(nix::errno::Errno::EINTR) => {}
            ended => return ended.map(drop).map_err(io::Error::from),
        }
    }
}

/// As shells have it.
fn code(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| 128 + signal);
    status
        .code()
        .or(signal)
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1)
}

/// The signals that the command is to get. What is ignored here stays ignored there.
fn heard() -> io::Result<Signals> {
    let all = [SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2];
    Signals::new(all.into_iter().filter(|signal| !sys::is_ignored(*signal)))
}

/// Until its handle is closed.
fn pass_on(mut signals: Signals, to: Pid) {
    for signal in signals.forever() {
        // Ctrl-C reaches all that works on the terminal by itself.
        let by_keyboard = [SIGINT, SIGQUIT].contains(&signal) && is_in_foreground();
        if let (false, Ok(signal)) = (by_keyboard, Signal::try_from(signal)) {
            let _gone = nix::sys::signal::kill(to, signal);
        }
    }
}

/// Whether this process works on a terminal.
fn is_in_foreground() -> bool {
    let tty = atomic::open_to_look(Path::new("/dev/tty"));
    let group = tty.and_then(|tty| Ok(rustix::termios::tcgetpgrp(&tty)?));
    group.is_ok_and(|group| group.as_raw_nonzero().get() == getpgrp().as_raw())
}
