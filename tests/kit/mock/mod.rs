//! From the command line to the exit code: finds the CLI, lets it read its arguments and prompt,
//! finds the play, plays it. Keeps: a refusal writes to standard error only and starts nothing.

mod args;
mod claude;
mod claude_args;
mod claude_result;
mod codex;
mod gemini;
mod line;
mod opencode;
mod part;
mod plain;
mod scenes;
mod sessions;
mod stage;
mod voice;
mod world;

use std::ffi::OsString;
use std::process::ExitCode;

use args::Refused;
use part::Part;
use stage::Stage;
use voice::Voice;

pub fn main() -> ExitCode {
    // A broken pipe ends nobody: the real CLIs keep working when their reader is gone.
    let mut args = std::env::args_os().skip(1);
    let cli = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let code = match cli.to_str() {
        Some("__sit") => world::sit(&rest),
        Some("__detach") => world::detach(&rest),
        Some("claude") => run(claude::Claude::open(&rest)),
        Some("codex") => run(codex::Codex::open(&rest)),
        Some("gemini") => run(gemini::Gemini::open(&rest)),
        Some("opencode") => run(opencode::OpenCode::open(&rest)),
        Some("plain") => run(plain::Plain::open(&rest)),
        _ => {
            eprintln!("usage: mock-agent claude|codex|gemini|opencode|plain ARGS…");
            2
        }
    };
    ExitCode::from(code)
}

fn run<V: Voice>(opened: Result<V, Refused>) -> u8 {
    let voice = match opened {
        Ok(voice) => voice,
        Err(Refused {
            code,
            stdout,
            stderr,
        }) => {
            if !stdout.is_empty() {
                println!("{stdout}");
            }
            eprintln!("{stderr}");
            return code;
        }
    };
    let part = Part::choose(voice.prompt());
    let mut stage = Stage::new(voice, &part);
    let end = scenes::play(&part, &mut stage);
    end.unwrap_or_else(|left| left.0)
}
