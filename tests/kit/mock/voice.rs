//! What a scene asks of a CLI, whichever it is.

use std::time::Duration;

use super::stage::Out;

/// How a query ends.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    Good,
    MaxTurns(u64),
    MaxTokens,
    Budget(f64),
    /// The API failed for good.
    Api(Fault),
    /// A usage limit, over at this unix time.
    Limit(i64),
}

/// A failure of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Server,
    Overloaded,
    Auth,
}

impl Fault {
    pub fn status(self) -> u16 {
        match self {
            Fault::Server => 500,
            Fault::Overloaded => 529,
            Fault::Auth => 401,
        }
    }
}

/// A tool call. `kind` is `bash`, `write` or `edit`; each CLI has names of its own for them.
#[derive(Debug, Clone)]
pub struct Call {
    pub id: String,
    pub kind: &'static str,
    /// The command, or the file's path.
    pub what: String,
}

impl Call {
    pub fn new(kind: &'static str, what: impl Into<String>) -> Call {
        Call {
            id: super::line::fresh("toolu_mock_"),
            kind,
            what: what.into(),
        }
    }
}

/// What a tool call came to.
#[derive(Debug, Clone)]
pub struct Done {
    pub output: String,
    pub exit: i32,
}

/// What to do about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Exit with this code after this long, running tools killed or left.
    Exit {
        code: u8,
        after: Duration,
        kill_tools: bool,
    },
    /// Die by it.
    Die {
        kill_tools: bool,
    },
    Ignore,
}

/// Whether a tool call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    Yes,
    /// Denied, and the stream says so.
    No,
    /// It fails, and the stream says nothing.
    Silently,
}

/// Tokens and cost of one run of a session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub turns: u64,
    pub calls: u64,
    pub input: u64,
    pub output: u64,
    pub cost: f64,
}

/// One CLI: how it says things. It says nothing by itself; `scenes` has the plays.
pub trait Voice {
    fn prompt(&self) -> &str;
    /// The conversation's id.
    fn session(&self) -> &str;
    /// Whether this run goes on with an older conversation.
    fn resumed(&self) -> bool;
    /// The most turns, and the most money, that the arguments allow.
    fn limits(&self) -> (Option<u64>, Option<f64>) {
        (None, None)
    }
    /// Something that the CLI answers by itself, without a model.
    fn answers_itself(&self) -> Option<String> {
        None
    }
    /// What comes first, for each query.
    fn begin(&mut self, out: &mut Out);
    /// A turn of the model begins.
    fn turn(&mut self, _out: &mut Out) {}
    fn text(&mut self, out: &mut Out, text: &str);
    fn allows(&self, call: &Call) -> Allowed;
    fn called(&mut self, out: &mut Out, call: &Call);
    fn returned(&mut self, out: &mut Out, call: &Call, done: &Done);
    fn denied(&mut self, out: &mut Out, call: &Call);
    /// A turn ends; `last`: no tool was called.
    fn turned(&mut self, _out: &mut Out, _last: bool) {}
    /// The API failed and is tried again: try `n` of `of`.
    fn retrying(&mut self, out: &mut Out, fault: Fault, n: u64, of: u64);
    /// The last event of a query. The exit code.
    fn end(&mut self, out: &mut Out, end: &End, usage: &Usage) -> u8;
    /// What it does at SIGTERM, SIGINT, SIGHUP; `in_tool`: while a tool runs. It may still speak.
    fn at_signal(&mut self, out: &mut Out, signal: i32, in_tool: bool, usage: &Usage) -> Manner;
    /// A cut event, as it looks when the process dies while it writes.
    fn half(&self) -> &'static str {
        "{\"type\":\"assistant\",\"message\":{\"id\":\"msg_mo"
    }
}
