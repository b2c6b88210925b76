//! What holds for every adapter in the list, how each CLI is started, what is removed from the
//! environment, and streams that no recording contains.

mod classes;
mod messages;
mod stderr;

use std::ffi::OsString;

use super::lenient_json::BLOCKS_MAX;
use super::*;
use crate::event::{Body, Class, Limit, Tokens};
use crate::outcome::Exit;

fn ask() -> Ask {
    Ask {
        session_uuid: "0188dc03-4821-45c1-b6ec-12fb32f7d8f7".into(),
        worktree: "/w".into(),
        ..Ask::default()
    }
}

fn full() -> Ask {
    Ask {
        bootstrap_file: Some("/s/bootstrap.md".into()),
        model: Some("m".into()),
        max_turns: Some(50),
        budget_usd: Some(2.5),
        tools: vec!["Bash".into(), "Edit".into()],
        settings: Some("/s/settings.json".into()),
        config_dir: Some("/c".into()),
        extra_args: vec!["--debug".into()],
        ..ask()
    }
}

fn line(name: &str, ask: &Ask) -> String {
    let launch = by_name(name).unwrap().launch(ask);
    let args: Vec<String> = launch
        .args
        .into_iter()
        .map(|a| a.into_string().unwrap())
        .collect();
    args.join(" ")
}

fn env<'a>(launch: &'a Launch, name: &str) -> Option<Option<&'a str>> {
    let value = launch.env.get(&OsString::from(name))?;
    Some(value.as_ref().map(|v| v.to_str().unwrap()))
}

#[test]
fn every_adapter_is_known_by_the_name_in_the_list_and_says_how_to_install_it() {
    let names: Vec<&str> = all().iter().map(|a| a.about().name).collect();
    assert_eq!(names, NAMES);
    assert_eq!(DIALECTS, [&[NO_EVENTS], NAMES].concat());
    for adapter in all() {
        let about = adapter.about();
        assert_eq!(by_name(about.name).unwrap().about(), about);
        assert!(!about.login.is_empty() && !about.env_prefix.is_empty());
        assert_eq!(
            about.not_installed(),
            format!(
                "{} is not installed: npm install -g {}",
                about.program, about.package
            )
        );
    }
    assert!(by_name(NO_EVENTS).is_none());
}

#[test]
fn every_adapter_stands_in_the_documents_that_name_them() {
    let (last, first) = NAMES.split_last().unwrap();
    let first = first.join(", ");
    for (document, text) in [
        ("README.md", include_str!("../../README.md")),
        ("docs/agents.md", include_str!("../../docs/agents.md")),
        (
            "docs/configuration.md",
            include_str!("../../docs/configuration.md"),
        ),
        ("harness.toml", include_str!("../../harness.toml")),
    ] {
        let lists = [", ", " and ", " or "].map(|and| format!("{first}{and}{last}"));
        // `agent = "claude"     # or codex, gemini, opencode, qwen, or a program of your own`
        let others = format!("or {}", NAMES[1..].join(", "));
        let found = lists
            .iter()
            .chain([&others])
            .any(|list| text.contains(list));
        assert!(found, "{document} does not list {}", NAMES.join(", "));
    }
}

#[test]
fn every_adapter_does_what_it_is_asked_for_or_says_that_it_cannot() {
    for adapter in all() {
        let name = adapter.about().name;
        let (plain, full) = (adapter.launch(&ask()), adapter.launch(&full()));
        assert_eq!(plain.unsupported, [""; 0], "{name}");
        let has = |text: &str| {
            let args = full.args.iter().map(|a| a.to_str().unwrap());
            let env = full.env.values().flatten().map(|v| v.to_str().unwrap());
            args.chain(env).any(|a| a == text)
        };
        for (key, value) in [
            ("model", "m"),
            ("max_turns", "50"),
            ("budget_usd", "2.5"),
            ("tools", "Bash,Edit"),
            ("settings", "/s/settings.json"),
            ("config_dir", "/c"),
        ] {
            assert_ne!(has(value), full.unsupported.contains(&key), "{name}: {key}");
        }
        assert!(has("--debug"), "{name}: further arguments");
        assert_ne!(has("/s/bootstrap.md"), full.bootstrap_in_prompt, "{name}");
        assert!(!plain.bootstrap_in_prompt, "{name}");
        let resumed = Ask {
            resume: Some("old".into()),
            ..ask()
        };
        let args = line(name, &resumed);
        assert!(args.split(' ').any(|a| a == "old"), "{args}");
        assert!(!args.contains(&resumed.session_uuid), "{args}");
    }
}

#[test]
fn claude_is_called_with_all_that_was_asked_for() {
    assert_eq!(
        line("claude", &full()),
        "-p --output-format stream-json --verbose --session-id 0188dc03-4821-45c1-b6ec-12fb32f7d8f7 \
         --append-system-prompt-file /s/bootstrap.md --model m --permission-mode acceptEdits \
         --allowedTools Bash,Edit --max-turns 50 --max-budget-usd 2.5 --settings /s/settings.json \
         --strict-mcp-config --debug"
    );
    let launch = by_name("claude").unwrap().launch(&full());
    assert_eq!(env(&launch, "CLAUDE_CONFIG_DIR"), Some(Some("/c")));
    assert!(launch.unsupported.is_empty() && !launch.bootstrap_in_prompt);
}

#[test]
fn claude_runs_no_hooks_of_a_worktree_and_no_servers_that_nobody_asked_for() {
    let plain = line("claude", &ask());
    assert!(plain.contains(r#"--settings {"disableAllHooks":true}"#));
    assert!(plain.contains("--strict-mcp-config"));
    assert!(plain.contains("--allowedTools Bash,Edit,Write,Read,Glob,Grep --"));
    let with_tools = Ask {
        tools: vec!["mcp__files__read".into()],
        budget_usd: Some(0.0),
        ..ask()
    };
    let args = line("claude", &with_tools);
    assert!(!args.contains("--strict-mcp-config") && !args.contains("budget"));
}

#[test]
fn a_resumed_conversation_gets_no_new_name() {
    let resumed = Ask {
        resume: Some("old".into()),
        ..ask()
    };
    let flags = [
        ("claude", "--resume old"),
        ("codex", "exec resume --json"),
        ("gemini", "--resume old"),
        ("opencode", "--session old"),
        ("qwen", "--resume old"),
    ];
    assert_eq!(
        flags.map(|(name, _)| name),
        NAMES,
        "one line for every adapter"
    );
    for (name, flag) in flags {
        let args = line(name, &resumed);
        assert!(args.contains(flag), "{args}");
    }
    // Its `resume` has no -C.
    assert!(line("codex", &resumed).ends_with(" old -"));
    assert!(!line("codex", &resumed).contains(" -C "));
}

#[test]
fn the_others_are_called_as_they_want_it_and_say_what_they_cannot_do() {
    assert_eq!(
        line("codex", &full()),
        "exec --json --skip-git-repo-check -C /w --dangerously-bypass-approvals-and-sandbox \
         -c analytics.enabled=false -m m --debug -"
    );
    assert_eq!(
        line("gemini", &full()),
        "-o stream-json --approval-mode yolo --skip-trust \
         --session-id 0188dc03-4821-45c1-b6ec-12fb32f7d8f7 -m m --debug"
    );
    assert_eq!(
        line("opencode", &full()),
        "run --format json --auto -m m --debug"
    );
    assert_eq!(
        line("qwen", &full()),
        "-o stream-json --approval-mode yolo --session-id 0188dc03-4821-45c1-b6ec-12fb32f7d8f7 \
         -m m --max-session-turns 50 --allowed-tools Bash,Edit --allowed-mcp-server-names none --debug"
    );
    let unsupported = |name: &str| by_name(name).unwrap().launch(&full()).unsupported;
    assert_eq!(
        unsupported("codex"),
        ["max_turns", "budget_usd", "tools", "settings"]
    );
    assert_eq!(unsupported("gemini"), ["max_turns", "budget_usd", "tools"]);
    assert_eq!(unsupported("qwen"), ["budget_usd"]);
    let sandboxed = Ask {
        permission_mode: Some("read-only".into()),
        ..ask()
    };
    let args = line("codex", &sandboxed);
    assert!(args.contains(r#"-c sandbox_mode="read-only" -c approval_policy="never""#));
    assert!(!args.contains("bypass"));
}

#[test]
fn what_a_session_left_in_the_environment_is_removed_and_what_a_person_set_is_not() {
    for name in [
        "CLAUDECODE",
        "CLAUDE_CODE_SESSION_ID",
        "CLAUDE_CODE_CHILD_SESSION",
        "CLAUDE_CODE_ENTRYPOINT",
        "CLAUDE_CODE_SSE_PORT",
        "CLAUDE_CODE_SESSION_ACCESS_TOKEN",
        "CODEX_SANDBOX",
        "CODEX_THREAD_ID",
        "GEMINI_CLI",
        "QWEN_CODE",
        "QWEN_CODE_SESSION_ID",
        "OPENCODE",
        "OPENCODE_PID",
    ] {
        assert!(is_of_a_session(name.as_ref()), "{name}");
    }
    for name in [
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "CLAUDE_CODE_USE_BEDROCK",
        "CLAUDE_CONFIG_DIR",
        "CLAUDE_CODE_MAX_RETRIES",
        "CODEX_HOME",
        "CODEX_API_KEY",
        "GEMINI_API_KEY",
        "GEMINI_CLI_HOME",
        "OPENCODE_CONFIG_CONTENT",
        "OPENAI_API_KEY",
        "PATH",
    ] {
        assert!(!is_of_a_session(name.as_ref()), "{name}");
    }
    let ask = Ask {
        inherited: ["PATH", "CLAUDECODE", "GEMINI_CLI_NO_RELAUNCH"]
            .map(OsString::from)
            .to_vec(),
        ..ask()
    };
    let launch = by_name("gemini").unwrap().launch(&ask);
    assert_eq!(env(&launch, "CLAUDECODE"), Some(None));
    assert_eq!(env(&launch, "PATH"), None);
    // Our own variables are set even if one of that name was inherited.
    assert_eq!(env(&launch, "GEMINI_CLI_NO_RELAUNCH"), Some(Some("true")));
}

/// The figures and the events of a stream.
fn read(parser: &mut Parser, stream: &str) -> (Figures, Vec<Body>) {
    let lines = stream.split('\n').map(str::as_bytes);
    let out = lines.flat_map(|line| parser.line(line)).collect();
    (parser.figures().clone(), out)
}

fn class(fault: Option<Fault>) -> Option<Class> {
    fault.map(|f| f.class)
}

#[test]
fn a_repeated_message_is_counted_once_whatever_stands_between() {
    let message = |id: &str| {
        format!(
            r#"{{"type":"assistant","message":{{"id":"{id}","usage":{{"input_tokens":10,"output_tokens":1}},"content":[]}}}}"#
        )
    };
    let mut parser = by_name("claude").unwrap().parser(None);
    let lines = ["a", "a", "b", "a", "b"].map(message).join("\n");
    let (figures, _) = read(&mut parser, &lines);
    assert_eq!((figures.turns, figures.input_tokens), (2, 20));
}

#[test]
fn results_without_figures_by_model_are_added_up() {
    let result = r#"{"usage":{"input_tokens":5,"output_tokens":2},"total_cost_usd":0.5,"is_error":false,"subtype":"success","type":"result","result":"ok"}"#;
    let mut parser = by_name("claude").unwrap().parser(None);
    let (figures, _) = read(&mut parser, &format!("{result}\n{result}"));
    assert_eq!((figures.input_tokens, figures.results), (10, 2));
    assert_eq!(figures.cost_usd, Some(0.5), "cost is a running total");
}

#[test]
fn a_good_result_and_a_bad_exit_are_a_fault() {
    let result = r#"{"type":"result","subtype":"success","is_error":false,"result":"ok"}"#;
    let mut parser = by_name("claude").unwrap().parser(None);
    read(&mut parser, result);
    assert_eq!(parser.fault(Exit::Code(0), b""), None);
    for exit in [Exit::Code(143), Exit::Signal(15)] {
        assert_eq!(class(parser.fault(exit, b"")), Some(Class::Interrupted));
    }
    let class = class(parser.fault(Exit::Code(1), b""));
    assert_eq!(class, Some(Class::Unknown));
}

#[test]
fn denials_without_a_commit_are_a_permission_fault() {
    let fault = permission_fault(2, Some(0));
    assert_eq!(class(fault), Some(Class::Permission));
    for (denials, commits) in [(0, Some(0)), (2, Some(1)), (2, None)] {
        assert_eq!(permission_fault(denials, commits), None);
    }
}

#[test]
fn a_resumed_codex_counts_from_where_it_was() {
    let end = r#"{"type":"turn.completed","usage":{"input_tokens":9200,"cached_input_tokens":200,"output_tokens":392}}"#;
    let previous = Figures {
        conversation: Some(Tokens {
            input: 4_500,
            output: 196,
            cache_read: 100,
            cache_write: 0,
        }),
        ..Figures::default()
    };
    let mut parser = by_name("codex").unwrap().parser(Some(&previous));
    let (figures, _) = read(&mut parser, end);
    assert_eq!(
        (figures.input_tokens, figures.cache_read_tokens),
        (4_500, 100)
    );
    assert_eq!(figures.output_tokens, 196);
    assert_eq!(figures.conversation.map(Tokens::total), Some(9_592));
    // A total below the previous one belongs to another conversation.
    let new = r#"{"type":"turn.completed","usage":{"input_tokens":10,"output_tokens":1}}"#;
    let mut parser = by_name("codex").unwrap().parser(Some(&previous));
    assert_eq!(read(&mut parser, new).0.input_tokens, 10);
}

#[test]
fn a_line_that_was_too_long_may_have_been_the_result() {
    let mut parser = by_name("claude").unwrap().parser(None);
    parser.line(br#"{"type":"system","subtype":"init","session_id":"s"}"#);
    assert!(parser.fault(Exit::Code(0), b"").is_some());
    parser.too_long(br#"{"result":"xxxx"#);
    assert_eq!(parser.figures().malformed, 1);
    assert_eq!(parser.fault(Exit::Code(0), b""), None);
}

#[test]
fn invalid_utf8_spoils_neither_line_nor_type() {
    let mut parser = by_name("claude").unwrap().parser(None);
    parser.line(
        b"{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"text\",\"text\":\"a\xffb\"}]}}",
    );
    let text = Some("a\u{fffd}b");
    assert_eq!(parser.figures().last_message.as_deref(), text);
    assert_eq!(parser.figures().malformed, 0);
}

#[test]
fn blocks_without_end_are_read_up_to_a_bound_and_counted() {
    let blocks = vec!["{}"; BLOCKS_MAX + 7].join(",");
    let line = format!(r#"{{"type":"assistant","message":{{"content":[{blocks}]}}}}"#);
    let mut parser = by_name("claude").unwrap().parser(None);
    let (_, out) = read(&mut parser, &line);
    assert!(out.len() < BLOCKS_MAX + 10);
    let more = out.iter().any(
        |b| matches!(b, Body::Other { detail: Some(d), .. } if d == "7 more blocks in this line"),
    );
    assert!(more);
}

#[test]
fn unknown_types_are_kept_by_their_names() {
    for adapter in all() {
        let mut parser = adapter.parser(None);
        let (figures, out) = read(&mut parser, r#"{"type":"brand_new","x":[1]}"#);
        let kept = matches!(&*out, [Body::Other { name, .. }] if name == "brand_new");
        assert!(kept && figures.other == 1, "{out:?}");
    }
}

#[test]
fn exit_codes_that_a_cli_has_of_its_own_mean_what_it_says() {
    let turns = Class::LimitsReached {
        limit: Limit::Turns,
    };
    for (name, code, expected) in [
        ("qwen", 53, turns),
        ("gemini", 53, turns),
        ("gemini", 41, Class::Auth),
        ("gemini", 173, Class::RateLimit),
        ("gemini", 244, Class::Overloaded),
        ("codex", 2, Class::Spawn),
        ("claude", 1, Class::Spawn),
    ] {
        let parser = by_name(name).unwrap().parser(None);
        let fault = parser.fault(Exit::Code(code), b"");
        assert_eq!(class(fault), Some(expected), "{name} {code}");
    }
}

#[test]
fn each_message_of_many_is_counted_once() {
    let shapes: [fn(u32) -> String; 3] = [
        |n| format!("msg_{n}"),
        |n| format!("msg_01{n:022}"),
        |n| format!("{n:08}"),
    ];
    for id in shapes {
        let mut parser = by_name("claude").unwrap().parser(None);
        for n in (0..500).chain(250..500) {
            let line = serde_json::json!({"type": "assistant", "message": {"id": id(n)}});
            parser.line(line.to_string().as_bytes());
        }
        assert_eq!(parser.figures().turns, 500, "{}", id(0));
    }
}
