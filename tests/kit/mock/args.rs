//! Command lines as the real CLIs read them: known flags with their number of values, the rest
//! refused; and prompts from standard input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Why a CLI does not begin, in its own words.
pub struct Refused {
    pub code: u8,
    pub stdout: String,
    pub stderr: String,
}

pub fn refuse<T>(code: u8, stderr: impl Into<String>) -> Result<T, Refused> {
    Err(Refused {
        code,
        stdout: String::new(),
        stderr: stderr.into(),
    })
}

/// How many values a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    One,
    /// One, or none where another flag or nothing follows.
    Maybe,
    /// All that follow up to the next flag: also a prompt that stands there.
    Many,
}

#[derive(Default)]
pub struct Args {
    given: BTreeMap<&'static str, Vec<String>>,
    pub rest: Vec<String>,
}

impl Args {
    /// Reads arguments. `known` maps each spelling to the flag's name and its number of values.
    /// `Err`: the argument that is not known.
    pub fn parse(args: &[OsString], known: &[(&[&'static str], Takes)]) -> Result<Args, String> {
        let mut out = Args::default();
        let mut words = args
            .iter()
            .map(|a| a.to_string_lossy().into_owned())
            .peekable();
        while let Some(word) = words.next() {
            if word == "--" {
                out.rest.extend(words.by_ref());
                break;
            }
            if word == "-" || !word.starts_with('-') {
                out.rest.push(word);
                continue;
            }
            let (flag, joined) = match word.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (word.clone(), None),
            };
            let Some((names, takes)) = known.iter().find(|(n, _)| n.contains(&flag.as_str()))
            else {
                return Err(flag);
            };
            let values = out.given.entry(names[0]).or_default();
            let is_value = |w: &String| !w.starts_with('-') || w == "-";
            match (takes, joined) {
                (_, Some(value)) => values.push(value),
                (Takes::Nothing, None) => {}
                (Takes::One, None) => values.extend(words.next()),
                (Takes::Maybe, None) => values.extend(words.next_if(is_value)),
                (Takes::Many, None) => {
                    while let Some(value) = words.next_if(is_value) {
                        values.push(value);
                    }
                }
            }
        }
        Ok(out)
    }

    pub fn has(&self, flag: &str) -> bool {
        self.given.contains_key(flag)
    }

    /// The flag's last value.
    pub fn get(&self, flag: &str) -> Option<&str> {
        self.given.get(flag)?.last().map(String::as_str)
    }

    pub fn all(&self, flag: &str) -> &[String] {
        self.given.get(flag).map_or(&[], Vec::as_slice)
    }
}

/// Standard input to its end, for ever if it stays open: what codex and opencode do.
pub fn read_stdin() -> Vec<u8> {
    let mut bytes = Vec::new();
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let _unreadable = stdin.lock().read_to_end(&mut bytes);
    }
    bytes
}

/// As claude: silence for three seconds is an empty input, with a warning.
pub fn read_stdin_or_go_on() -> Vec<u8> {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(3000u16)) == Ok(0) {
        eprintln!("Warning: no stdin data received in 3s, proceeding without it.");
        return Vec::new();
    }
    read_stdin()
}
