//! A person's answer to an agent's question: a file in the folder of the session that asked.
//!
//! Does not know who waits for it. An agent may have put anything there: it is read with care.

use std::path::{Path, PathBuf};

use super::read;
use crate::atomic::{self, OwnDir};
use crate::clock;
use crate::error::Result;
use crate::layout::Root;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::record::Answered;

/// The file for a person's answer: a frozen agent reads it when it resumes, the next attempt's
/// prompt includes it.
pub fn answer_path(session_dir: &Path) -> PathBuf {
    session_dir.join("answer.md")
}

pub(super) fn answer_of(root: &Root, session: &str) -> Option<String> {
    let path = answer_path(&root.session(session));
    let bytes = atomic::read_small(&path, STATE_FILE_BYTES_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|a| !a.is_empty())
}

/// The file for the question that was answered, beside the answer.
fn question_path(session_dir: &Path) -> PathBuf {
    session_dir.join("question.md")
}

/// Keeps a person's answer in the session's folder, and what it answers.
pub fn answer(root: &Root, stem: &str, session: &str, text: &str) -> Result<PathBuf> {
    let dir = root.session(session);
    let folder = OwnDir::open(&dir)?;
    let question = read(root, stem).map(|i| i.reason).unwrap_or_default();
    if !question.is_empty() {
        folder.replace("question.md", format!("{question}\n").as_bytes(), true)?;
    }
    folder.replace("answer.md", format!("{}\n", text.trim()).as_bytes(), true)?;
    Ok(answer_path(&dir))
}

/// Tells the answer in a session's folder from an earlier one; `None`: there is none.
pub fn answer_ns(session_dir: &Path) -> Option<i64> {
    let meta = answer_path(session_dir).symlink_metadata().ok()?;
    Some(clock::mtime_ns(&meta))
}

/// The answer in a session's folder, if its agent did not hear it: it had ended before, or was ended
/// while it was frozen. An agent hears an answer when it goes on. `heard_ns`: the answer that it heard.
pub fn unheard(root: &Root, session: &str, heard_ns: Option<i64>) -> Option<Answered> {
    let dir = root.session(session);
    answer_ns(&dir).filter(|&at| Some(at) != heard_ns)?;
    let answer = answer_of(root, session)?;
    let question = atomic::read_small(&question_path(&dir), STATE_FILE_BYTES_MAX);
    let question = String::from_utf8_lossy(&question.unwrap_or_default()).into_owned();
    Some(Answered {
        session: session.to_owned(),
        question: question.trim().to_owned(),
        answer: Some(answer),
    })
}
