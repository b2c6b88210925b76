//! A text that a person writes in an editor of theirs, for `harness add` and `harness review --edit`.
//!
//! Does not know what is written. Invariant: a text that a person has changed is removed only by
//! `discard`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Result, tell};
use crate::layout::{Root, join, shown};
use crate::process::foreground;
use crate::quote::shell_quoted;

/// A file in a private folder of its own.
pub(super) struct Draft {
    dir: PathBuf,
    pub(super) file: PathBuf,
    /// As it was given to the person.
    begun: Vec<u8>,
}

impl Draft {
    /// Its name tells editors how to colour it.
    pub(super) fn new(root: &Root, name: &str, text: &[u8]) -> Result<Draft> {
        let above = root.drafts();
        atomic::make_dir(&above, true)?;
        let dir = join(&above, clock::unique().simple().to_string());
        atomic::make_dir_new(&dir, true)?;
        let file = join(&dir, name);
        drop(atomic::create(&file, text, 0o600)?);
        let begun = text.to_vec();
        Ok(Draft { dir, file, begun })
    }

    /// Another file in its folder, for as long as that is there.
    pub(super) fn beside(&self, name: &str, text: &[u8]) -> Result<PathBuf> {
        let path = join(&self.dir, name);
        drop(atomic::create(&path, text, 0o600)?);
        Ok(path)
    }

    /// Has a person write. `nothing`: what has not happened where the editor ends badly.
    pub(super) fn edit(&self, what: &str, nothing: &str) -> Result<()> {
        let status = run_editor(&self.file).or_fail("cannot start your editor", &self.file)?;
        if status.success() {
            return Ok(());
        }
        let now = atomic::read_small(&self.file, self.begun.len() as u64 + 1);
        match now.is_ok_and(|now| now == self.begun) {
            true => self.discard(),
            false => self.keep(),
        }
        let (variable, editor) = editor();
        let editor = shown(&editor);
        let why = format!("{nothing}: your editor `{editor}` ended with {status}");
        let hint = format!("name another in ${variable} if that was not on purpose");
        Err(Error::permanent(what, why).hint(hint))
    }

    /// Whether there is no text any more: the editor has removed it.
    pub(super) fn is_gone(&self) -> bool {
        atomic::is_gone(&self.file)
    }

    /// Says where it stays.
    pub(super) fn keep(&self) {
        if self.is_gone() {
            return;
        }
        tell(&format!("harness: {}", self.stays()));
    }

    pub(super) fn stays(&self) -> String {
        format!("what you wrote stays in {}", shell_quoted(&self.file))
    }

    pub(super) fn discard(&self) {
        let _stays = atomic::discard_tree(&self.dir, "a draft in which nothing is left to record");
    }
}

/// The variable that says which editor, and what it says.
fn editor() -> (&'static str, OsString) {
    let set = |key| {
        Some((
            key,
            std::env::var_os(key).filter(|value| !value.is_empty())?,
        ))
    };
    let named = set("VISUAL").or_else(|| set("EDITOR"));
    named.unwrap_or_else(|| ("EDITOR", "vi".into()))
}

/// As git starts it: by a shell, since people write options into these variables.
#[expect(clippy::disallowed_methods, reason = "a person's own editor")]
fn run_editor(file: &Path) -> std::io::Result<ExitStatus> {
    let (_, mut script) = editor();
    let name = script.clone();
    script.push(OsString::from(" \"$@\""));
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(name).arg(file);
    // Where our result goes into a pipe (`item=$(harness add)`), the screen of the editor does not.
    if !std::io::stdout().is_terminal() {
        command.stdout(Stdio::from(std::io::stderr()));
    }
    foreground::attend(&mut command)
}
