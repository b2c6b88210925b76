//! Runs a program that a person works with, a pager or an editor, on this process's terminal.
//!
//! Invariant: Ctrl-C there is for that program alone: this process waits for its end.

use std::io;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGQUIT};

/// Runs it to its end.
pub(crate) fn attend(command: &mut Command) -> io::Result<ExitStatus> {
    let mut heard = Vec::new();
    for signal in [SIGINT, SIGQUIT] {
        // A handler: what is ignored here would be ignored there.
        match signal_hook::flag::register(signal, Arc::default()) {
            Ok(id) => heard.push(id),
            Err(e) => {
                unhear(heard);
                return Err(e);
            }
        }
    }
    let ended = command.status();
    unhear(heard);
    ended
}

fn unhear(ids: Vec<signal_hook::SigId>) {
    for id in ids {
        signal_hook::low_level::unregister(id);
    }
}
