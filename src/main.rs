//! The program: find the ROOT, do what was typed, say how it went by the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    match harness::cli::main() {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            harness::cli::fail(&e);
            ExitCode::from(e.exit_code())
        }
    }
}
