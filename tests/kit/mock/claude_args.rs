//! What claude refuses before it writes any event, in its words and in its order, and what it makes
//! of the rest. As observed of 2.1.330 and 2.1.197; `--dialect 2.1.197` (or `MOCK_CLAUDE_DIALECT`)
//! plays the older one.

use std::ffi::OsString;
use std::path::Path;

use super::args::{Args, Refused, Takes, read_stdin_or_go_on, refuse};
use super::sessions;

/// Which version is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Older,
    Newer,
}

impl Dialect {
    pub fn version(self) -> &'static str {
        match self {
            Dialect::Older => "2.1.197",
            Dialect::Newer => "2.1.330",
        }
    }
}

pub struct Asked {
    pub dialect: Dialect,
    pub prompt: String,
    pub session: String,
    pub resumed: bool,
    pub mode: String,
    pub bypass: bool,
    pub allowed: Vec<String>,
    pub model: String,
    pub turns: Option<u64>,
    pub money: Option<f64>,
    /// Events; without it, only the last answer as text.
    pub stream: bool,
    pub partial: bool,
}

const KNOWN: &[(&[&str], Takes)] = &[
    (&["-p", "--print"], Takes::Nothing),
    (&["--verbose"], Takes::Nothing),
    (&["--output-format"], Takes::One),
    (&["--input-format"], Takes::One),
    (&["--session-id"], Takes::One),
    (&["--resume", "-r"], Takes::Maybe),
    (&["--continue", "-c"], Takes::Nothing),
    (&["--fork-session"], Takes::Nothing),
    (&["--no-session-persistence"], Takes::Nothing),
    (&["--append-system-prompt"], Takes::One),
    (&["--append-system-prompt-file"], Takes::One),
    (&["--system-prompt"], Takes::One),
    (&["--system-prompt-file"], Takes::One),
    (&["--permission-mode"], Takes::One),
    (&["--permission-prompt-tool"], Takes::One),
    (&["--dangerously-skip-permissions"], Takes::Nothing),
    (&["--allowedTools", "--allowed-tools"], Takes::Many),
    (&["--disallowedTools", "--disallowed-tools"], Takes::Many),
    (&["--add-dir"], Takes::Many),
    (&["--mcp-config"], Takes::Many),
    (&["--strict-mcp-config"], Takes::Nothing),
    (&["--settings"], Takes::One),
    (&["--setting-sources"], Takes::One),
    (&["--max-turns"], Takes::One),
    (&["--max-budget-usd"], Takes::One),
    (&["--model"], Takes::One),
    (&["--fallback-model"], Takes::One),
    (&["--include-partial-messages"], Takes::Nothing),
    (&["--disable-slash-commands"], Takes::Nothing),
    (&["--bare"], Takes::Nothing),
    (&["--version", "-v"], Takes::Nothing),
    (&["--dialect"], Takes::One),
];

pub fn read(raw: &[OsString]) -> Result<Asked, Refused> {
    let args = match Args::parse(raw, KNOWN) {
        Ok(args) => args,
        Err(flag) => return refuse(1, format!("error: unknown option '{flag}'")),
    };
    let wanted = std::env::var("MOCK_CLAUDE_DIALECT").ok();
    let dialect = match args.get("--dialect").or(wanted.as_deref()) {
        Some("2.1.197") => Dialect::Older,
        _ => Dialect::Newer,
    };
    if args.has("--version") {
        return Err(Refused {
            code: 0,
            stdout: format!("{} (Claude Code)", dialect.version()),
            stderr: String::new(),
        });
    }
    if !args.has("-p") {
        // The real one would open its screen and wait for a person.
        return refuse(1, "mock-agent: claude without -p is not for tests");
    }
    let mode = mode(&args, dialect)?;
    let money = match args.get("--max-budget-usd") {
        None => None,
        Some(text) => match text.parse::<f64>() {
            Ok(money) if money > 0.0 => Some(money),
            _ => {
                return refuse(
                    1,
                    format!(
                        "error: option '--max-budget-usd <amount>' argument '{text}' is invalid. \
                         --max-budget-usd must be a number greater than 0"
                    ),
                );
            }
        },
    };
    let stream = args.get("--output-format") == Some("stream-json");
    if stream && !args.has("--verbose") {
        return refuse(
            1,
            "Error: When using --print, --output-format=stream-json requires --verbose",
        );
    }
    files_exist(&args)?;
    let bypass = args.has("--dangerously-skip-permissions") || mode == "bypassPermissions";
    if bypass && nix::unistd::geteuid().is_root() && std::env::var_os("IS_SANDBOX").is_none() {
        return refuse(
            1,
            "--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons",
        );
    }
    let resume = args.get("--resume").map(str::to_owned);
    let given = args.get("--session-id").map(str::to_owned);
    if given.as_deref().is_some_and(|id| !is_bare_uuid(id)) {
        return refuse(1, "Error: Invalid session ID. Must be a valid UUID.");
    }
    let again = resume.is_some() || args.has("--continue");
    if given.is_some() && again && !args.has("--fork-session") {
        return refuse(
            1,
            "Error: --session-id with --continue or --resume also needs --fork-session.",
        );
    }
    let prompt = prompt(&args)?;
    let persist = !args.has("--no-session-persistence");
    let (session, resumed) = match (&resume, given) {
        (Some(id), _) if sessions::known("claude", id).is_none() => return unknown(id),
        (Some(id), None) if !args.has("--fork-session") => (id.clone(), true),
        (_, given) => {
            let id = given.unwrap_or_else(new_id);
            if persist && !sessions::create("claude", &id) {
                return refuse(1, format!("Error: Session ID {id} is already in use."));
            }
            (id, resume.is_some())
        }
    };
    let split = |list: &[String]| {
        let words = list.iter().flat_map(|l| l.split([',', ' ']));
        words.filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    Ok(Asked {
        dialect,
        prompt,
        session,
        resumed,
        mode,
        bypass,
        allowed: split(args.all("--allowedTools")),
        model: args.get("--model").unwrap_or("claude-mock").to_owned(),
        turns: args
            .get("--max-turns")
            .and_then(|t| t.parse().ok())
            .filter(|&t| t > 0),
        money,
        stream,
        partial: args.has("--include-partial-messages"),
    })
}

fn mode(args: &Args, dialect: Dialect) -> Result<String, Refused> {
    let plain = match dialect {
        Dialect::Older => "default",
        Dialect::Newer => "manual",
    };
    let Some(mode) = args.get("--permission-mode") else {
        return Ok("default".into());
    };
    let choices = [
        "acceptEdits",
        "auto",
        "bypassPermissions",
        plain,
        "dontAsk",
        "plan",
    ];
    // The newer one still takes the older word, and goes on using it in its first event.
    if choices.contains(&mode) || mode == "default" {
        return Ok(mode.replace("manual", "default"));
    }
    refuse(
        1,
        format!(
            "error: option '--permission-mode <mode>' argument '{mode}' is invalid. \
             Allowed choices are {}.",
            choices.join(", ")
        ),
    )
}

fn files_exist(args: &Args) -> Result<(), Refused> {
    for (flag, what) in [
        ("--append-system-prompt-file", "Append system prompt file"),
        ("--system-prompt-file", "System prompt file"),
        ("--settings", "Settings file"),
        ("--mcp-config", "MCP config file"),
    ] {
        for file in args.all(flag) {
            let inline = file.trim_start().starts_with('{');
            if !inline && !Path::new(file).exists() {
                return refuse(1, format!("Error: {what} not found: {file}"));
            }
        }
    }
    Ok(())
}

fn is_bare_uuid(id: &str) -> bool {
    id.len() == 36 && uuid::Uuid::try_parse(id).is_ok()
}

/// Standard input and the argument, joined by a line's end.
fn prompt(args: &Args) -> Result<String, Refused> {
    let argument = args.rest.join(" ");
    let stdin = read_stdin_or_go_on();
    if stdin.len() > 10 << 20 {
        return refuse(
            1,
            "Error: piped stdin input exceeds 10MB. Pass large content as a file path in your prompt instead.",
        );
    }
    let stdin = String::from_utf8_lossy(&stdin);
    let prompt = match (argument.is_empty(), stdin.trim().is_empty()) {
        (true, true) => {
            return refuse(
                1,
                "Error: Input must be provided either through stdin or as a prompt argument when using --print",
            );
        }
        (false, true) => argument,
        (true, false) => stdin.into_owned(),
        (false, false) => format!("{stdin}\n{argument}"),
    };
    Ok(prompt)
}

/// The one refusal that is an event too.
fn unknown<T>(id: &str) -> Result<T, Refused> {
    let why = format!("No conversation found with session ID: {id}");
    let session = new_id();
    Err(Refused {
        code: 1,
        stdout: format!(
            "{{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"duration_ms\":0,\
             \"duration_api_ms\":0,\"is_error\":true,\"num_turns\":0,\"stop_reason\":null,\
             \"session_id\":\"{session}\",\"total_cost_usd\":0,\"usage\":{{\"input_tokens\":0,\
             \"output_tokens\":0}},\"modelUsage\":{{}},\"permission_denials\":[],\
             \"uuid\":\"{session}\",\"errors\":[\"{why}\"],\"result_index\":0}}"
        ),
        stderr: why,
    })
}

/// An id in the form that claude uses for its own sessions, of the random halves of two others.
fn new_id() -> String {
    let (a, b) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.as_bytes()[8..]);
    bytes[8..].copy_from_slice(&b.as_bytes()[8..]);
    let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
    id.to_string()
}
