//! Shows a long text: on a terminal through a pager, else as it is.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::Command;

use crate::error::{Context, Result};
use crate::process::foreground;
use crate::view::print_text;

/// Through the user's pager, which git would take, too: `$PAGER`, else `less`.
pub(super) fn show(text: &str) -> Result<u8> {
    let pager = std::env::var_os("PAGER").filter(|pager| !pager.is_empty());
    through(pager.unwrap_or_else(|| "less".into()), text)
}

/// Through this command of a shell. Where it cannot show it, the text is printed.
#[expect(clippy::disallowed_methods, reason = "a person's own pager")]
pub(super) fn through(pager: impl Into<OsString>, text: &str) -> Result<u8> {
    if !std::io::stdout().is_terminal() {
        return print_text(text);
    }
    let (from, mut to) = std::io::pipe().or_fail("cannot make a pipe", Path::new("pager"))?;
    let mut command = Command::new("sh");
    command.arg("-c").arg(pager.into()).stdin(from);
    // As git has it: colours pass, a text that fits on the screen is just printed.
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    let ended = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A reader that has seen enough is no error.
            let _seen = to.write_all(text.as_bytes());
        });
        let ended = foreground::attend(&mut command);
        // Its end of the pipe: nobody reads any more.
        drop(command);
        ended
    });
    match ended {
        Ok(status) if !matches!(status.code(), Some(126 | 127)) => Ok(0),
        _ => print_text(text),
    }
}
