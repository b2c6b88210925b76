//! Which CLIs are installed, the scripted model that they talk to, and how harness is told of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::Root;

/// Which CLI; `ClaudeOlder` is the one whose stream differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cli {
    Claude,
    ClaudeOlder,
    Codex,
    Gemini,
    OpenCode,
}

impl Cli {
    pub fn program(self) -> &'static str {
        match self {
            Cli::Claude | Cli::ClaudeOlder => "claude",
            Cli::Codex => "codex",
            Cli::Gemini => "gemini",
            Cli::OpenCode => "opencode",
        }
    }

    /// Its program, where it is installed.
    pub fn find(self) -> Option<PathBuf> {
        let name = self.program();
        let given = std::env::var_os("HARNESS_TEST_CLIS").map(PathBuf::from);
        let bin = match self {
            Cli::ClaudeOlder => "older/node_modules/.bin",
            _ => "node_modules/.bin",
        };
        let dirs = given.iter().map(|d| d.join(bin)).collect::<Vec<_>>();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&path).filter(|_| self != Cli::ClaudeOlder);
        let mut places = dirs.into_iter().chain(path).map(|d| d.join(name));
        places.find(|p| p.is_file())
    }
}

/// The CLI and a model for it, or the reason why its tests are skipped, on standard error.
pub fn ready(cli: Cli) -> Option<(PathBuf, Model)> {
    let missing = match (cli.find(), Model::start()) {
        (Some(program), Some(model)) => return Some((program, model)),
        (None, _) => format!(
            "{} not found (HARNESS_TEST_CLIS is made by tests/kit/install-clis.sh)",
            cli.program()
        ),
        (_, None) => "python3 not found, which the scripted model needs".into(),
    };
    let required = std::env::var("HARNESS_TEST_CLIS_REQUIRED").unwrap_or_default();
    let named = required.split(',').any(|name| name == cli.program());
    assert!(!named, "required, but {missing}");
    // Not eprintln, which the test program keeps to itself.
    let _closed = writeln!(std::io::stderr(), "SKIPPED: {cli:?}: {missing}");
    None
}

/// The scripted model, which ends with this test program at the latest.
pub struct Model {
    child: Child,
    port: u16,
    log: tempfile::NamedTempFile,
}

impl Model {
    pub fn start() -> Option<Model> {
        let log = tempfile::NamedTempFile::new().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kit/fake_model.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args(["--with-parent", "--script", "noop", "--log"])
            .arg(log.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut first = String::new();
        BufReader::new(child.stdout.take()?)
            .read_line(&mut first)
            .ok()?;
        let port = first
            .trim()
            .parse()
            .expect("the scripted model says its port");
        Some(Model { child, port, log })
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests that were served, but for the CLIs' questions beside the conversation.
    pub fn served(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.log.path()).unwrap();
        let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
        lines.filter(|e: &Value| e["tools"] != 0).collect()
    }

    /// Tokens in and out of all that was served.
    pub fn tokens(&self) -> (u64, u64) {
        let of = |e: &Value, n: usize| e["served"][n].as_u64().unwrap();
        let all = self.served();
        (
            all.iter().map(|e| of(e, 0)).sum(),
            all.iter().map(|e| of(e, 1)).sum(),
        )
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// `[harness] agent` and `[agents.real]`.
pub fn configure(root: &Root, cli: Cli, program: &Path, model: &Model) {
    configure_with(root, cli, program, &model.url(), "", &[]);
}

/// The same with `more` keys in the table and `more_env` in its environment, and the model at `url`.
pub fn configure_with(
    root: &Root,
    cli: Cli,
    program: &Path,
    url: &str,
    more: &str,
    more_env: &[(&str, &str)],
) {
    let (keys, mut env) = of_cli(root, cli, url);
    env.extend(more_env.iter().map(|(k, v)| (*k, (*v).to_owned())));
    let env: BTreeMap<&str, String> = env.into_iter().collect();
    // JSON's strings and lists are TOML's.
    let env = env
        .iter()
        .map(|(k, v)| format!("{k} = {}\n", Value::from(v.as_str())));
    root.config_confined(&format!(
        "agent = \"real\"\ntimeout = 120\n[repo]\npath = \"repo\"\n[agents.real]\ncli = {:?}\ncommand = [{}]\n{keys}{more}\n[agents.real.env]\n{}",
        cli.program(),
        Value::from(program.to_string_lossy()),
        env.collect::<String>()
    ));
}

/// Keys and environment that point each CLI at the scripted model.
fn of_cli(root: &Root, cli: Cli, url: &str) -> (String, Vec<(&'static str, String)>) {
    let home = root.at("home");
    fs::create_dir_all(home.join(".gemini")).unwrap();
    fs::create_dir_all(home.join(".codex")).unwrap();
    let home = home.to_string_lossy().into_owned();
    let url = url.to_owned();
    let mut env = vec![
        ("HOME", home.clone()),
        // Whatever is not for loopback fails at once.
        ("HTTPS_PROXY", "http://127.0.0.1:9".into()),
        ("HTTP_PROXY", "http://127.0.0.1:9".into()),
        ("NO_PROXY", "127.0.0.1,localhost".into()),
    ];
    let keys = match cli {
        Cli::Claude | Cli::ClaudeOlder => {
            env.extend([
                ("ANTHROPIC_BASE_URL", url),
                ("ANTHROPIC_API_KEY", "made-up".into()),
                ("CLAUDE_CODE_MAX_RETRIES", "1".into()),
            ]);
            String::new()
        }
        Cli::Codex => {
            env.push(("OPENAI_API_KEY", "made-up".into()));
            env.push(("CODEX_HOME", format!("{home}/.codex")));
            let provider = format!(
                "model_providers.fake={{name=\"fake\",base_url=\"{url}/v1\",env_key=\"OPENAI_API_KEY\",wire_api=\"responses\",request_max_retries=1,stream_max_retries=1}}"
            );
            let args = ["-c", "model_provider=\"fake\"", "-c", &provider];
            let args = Value::from(args.map(Value::from).to_vec());
            format!("model = \"fake-model\"\nargs = {args}\n")
        }
        Cli::Gemini => {
            let settings = root.at("home/.gemini/settings.json");
            fs::write(
                settings,
                r#"{"security":{"auth":{"selectedType":"gemini-api-key"}}}"#,
            )
            .unwrap();
            env.push(("GEMINI_API_KEY", "made-up".into()));
            env.push(("GOOGLE_GEMINI_BASE_URL", url));
            "model = \"fake-model\"\n".into()
        }
        Cli::OpenCode => {
            let provider = json!({"provider": {"fake": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": format!("{url}/v1"), "apiKey": "made-up"},
                "models": {"m": {}},
            }}});
            env.push(("OPENCODE_CONFIG_CONTENT", provider.to_string()));
            env.push(("OPENCODE_DISABLE_MODELS_FETCH", "1".into()));
            "model = \"fake/m\"\n".into()
        }
    };
    (keys, env)
}
