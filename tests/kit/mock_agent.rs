//! `mock-agent`: plays a coding agent's CLI for tests, with no model and no network.
//!
//! `mock-agent claude|codex|gemini|opencode|plain ARGS…` keeps to the contract of that CLI as it was
//! observed: which arguments it refuses and in what words, how it reads its prompt, what it writes,
//! how it ends at a signal. What it plays is said by the last `[[mock:NAME k=v …]]` in its prompt,
//! else by `MOCK_PLAY="NAME k=v …"`, else it is `success`; mock/scenes.rs lists the plays. Sessions
//! are remembered below `$MOCK_HOME/sessions`; without it none is.
//!
//! It knows nothing of harness but the variables that every agent gets. It keeps: a test that passes
//! with the mock is about something that the real CLI does, or is marked as going beyond it.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program for tests: no door of harness is open to it, and it fails by panicking"
)]

mod mock;

fn main() -> std::process::ExitCode {
    mock::main()
}
