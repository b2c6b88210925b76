//! The commands: parses what was typed, and prints results as text or JSON. Results go to standard
//! output, everything else to standard error.

pub mod config;
pub use crate::quote;
pub mod root;
mod owners;
mod elsewhere;
mod place;
mod hidden;
mod seen;
pub mod init;
pub mod doctor;
mod drops;
mod ended;
mod find;
mod claimed;
mod facts;
mod gc;
mod absent;
mod draft;
mod compose;
mod add;
mod branches;
mod budget;
mod waiting;
mod verdicts;
mod comments;
mod complete;
mod clashes;
mod fields;
mod help;
mod list;
mod logs;
mod man;
mod moves;
mod pager;
mod interrupt;
mod resume;
mod report;
mod retry;
mod review;
mod show;
mod session;
mod run;
mod sandbox;
mod schema;
mod submit;
mod tips;
mod top;
mod wait;
mod with;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::{Config, Overrides};
use crate::control::Order;
use crate::error::{Context, Error, Kind, Result, Told};
use crate::keeper;
use crate::layout::Root;
use crate::view::state::State;
use crate::view::{self, json_line, print_json, print_lines, print_text};

/// Drop a file into queue/pending/ and an agent or script works on it in its own git worktree.
#[derive(Parser)]
#[command(
    name = "harness",
    version,
    max_term_width = 100,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "`harness help` lists the pages of the documentation, too, and shows them."
)]
struct Cli {
    /// The directory with harness.toml, queue/ and state/ [default: $HARNESS_ROOT, else the
    /// nearest parent that has a harness.toml or .harness/]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a ROOT: the tree of directories and a harness.toml; never overwrites anything
    Init {
        /// [default: in a git repository .harness/ at its top, else the current directory]
        dir: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// Add items to the queue, durably and never over another; prints their names. With nothing
    /// named, $VISUAL or $EDITOR opens for one
    Add(add::AddArgs),
    /// Work on the queue
    Run(run::RunArgs),
    /// Have an engine start runs on other hosts: a job array of Slurm, for a ROOT that they share
    Submit(submit::SubmitArgs),
    /// Agents, queue and figures
    Status {
        /// Show it again whenever it changes
        #[arg(long, short)]
        watch: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Agents, queue and sessions live on the whole terminal, with keys to answer, approve, cancel …
    Top,
    /// The whole story of one item
    Show {
        name: OsString,
        #[command(flatten)]
        json: Json,
    },
    /// Wait until items have ended: exit code 0 if all are done, 1 if one is parked, 124 at the
    /// timeout
    Wait(wait::WaitArgs),
    /// What an item printed; -f goes on over retries until the item has ended
    Logs(logs::LogsArgs),
    /// Finished branches: what they change, whether their base has them or conflicts
    Branches(branches::BranchesArgs),
    /// Branches that wait for your approval; of one, its gates and its changes
    Review(review::ReviewArgs),
    /// Have reviewed branches merged, as they are now
    Approve(verdicts::ApproveArgs),
    /// Send items back for another attempt, which is told why
    Reject(verdicts::RejectArgs),
    /// Items by state
    List {
        /// Only this state [pending, scheduled, blocked, claimed, review, merge, done, parked]
        #[arg(value_enum)]
        state: Option<State>,
        #[command(flatten)]
        lines: Lines,
    },
    /// What an agent did: its events, tools, errors, times and figures
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Put parked or done items back into the queue
    Retry(retry::RetryArgs),
    /// Move items to queue/parked/, and stop the agents that work on them
    Cancel(Names),
    /// Let a scheduled item start now; take an item from its agent and put it back into the queue
    Release(Names),
    /// Claim nothing new, in any process, until `harness resume`
    Pause,
    /// Freeze a slot's agent (or all) and let the slot claim nothing, until `harness resume`
    Interrupt(interrupt::InterruptArgs),
    /// End `pause`, `drain`, `stop` and interrupts (of one slot, or all)
    Resume(resume::ResumeArgs),
    /// Have every harness process end when nothing is left to do
    Drain,
    /// Remove what nobody needs: sessions of done items, merged branches, unused worktrees, each
    /// older than `limits.keep`
    Gc(gc::GcArgs),
    /// The configuration in force, and where each value comes from; `config set KEY VALUE` changes it
    #[command(args_conflicts_with_subcommands = true)]
    Config {
        #[command(subcommand)]
        command: Option<config::ConfigCommand>,
        #[command(flatten)]
        json: Json,
    },
    /// A page about what agents did: timeline, what needs you, cost; for a browser and for paper
    Report(report::ReportArgs),
    /// What agents have used and reserved, and what is left: by day, window, agent and item
    Budget {
        #[command(flatten)]
        json: Json,
    },
    /// Run a command when one of a token is free: TOKEN is a name in [tokens] of harness.toml
    With(with::WithArgs),
    /// What agents may write, read and reach
    #[command(subcommand)]
    Sandbox(sandbox::SandboxCommand),
    /// The JSON Schema of a file in state/, or of what a command prints with --json
    Schema {
        /// Like status.json, or a command like show or session list [default: lists all]
        name: Vec<String>,
    },
    /// Check this machine and file system, and say how to fix what is missing
    Doctor {
        #[command(flatten)]
        json: Json,
    },
    /// A script that has a shell complete commands, items, sessions, agents …
    Completions { shell: complete::Shell },
    /// Manual pages, for `man`
    Man(man::ManArgs),
    /// Help for a command, or a page of the documentation
    Help(help::HelpArgs),
}

#[derive(Args, Clone, Copy)]
struct Json {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Of a list that may be long.
#[derive(Args, Clone, Copy)]
struct Lines {
    #[command(flatten)]
    json: Json,
    /// Print JSON Lines: the objects of `--json` as they are found, one on a line
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
}

impl Lines {
    /// Prints the list where one of the two was typed; `false`: it is for people.
    fn print<T: Serialize>(self, all: impl Iterator<Item = T>) -> Result<bool> {
        match (self.json.json, self.jsonl) {
            (true, _) => print_json(&all.collect::<Vec<T>>())?,
            (_, true) => print_lines(all)?,
            _ => return Ok(false),
        };
        Ok(true)
    }
}

/// What every command prints where it fails.
#[derive(Serialize, JsonSchema)]
struct Failed {
    /// What went wrong.
    error: Told,
}

#[derive(Args)]
struct Names {
    #[arg(required = true, value_name = "NAME")]
    names: Vec<OsString>,
    #[command(flatten)]
    json: Json,
}

/// Runs the typed command; returns the exit code of a successful one.
pub fn main() -> Result<u8> {
    // Internal commands, which harness itself starts.
    let typed: Vec<_> = std::env::args_os().skip(1).collect();
    match &typed[..] {
        [keeper, dir] if keeper == "keeper" => {
            return keeper::serve(Path::new(dir)).map(|()| 0);
        }
        // So do the shells' scripts.
        [complete, args @ ..] if complete == "complete" => return complete::complete(args),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() => return mistyped(&e),
        Err(e) => return help::print(&e),
    };
    match cli.command {
        Command::Init { dir, json } => {
            let report = match dir.or(cli.root) {
                Some(dir) => init::with_agent(&dir)?,
                None => init::with_agent(&root::for_init(std::env::var_os("HARNESS_ROOT"))?)?,
            };
            let printed = match json.json {
                true => print_json(&report.told()),
                false => print_text(&report.text()),
            };
            Ok(view::after_work(printed, "the tree is made"))
        }
        Command::Schema { name } => schema::schema(&name),
        Command::Doctor { json } => examine(cli.root.as_deref(), json.json),
        Command::Completions { shell } => complete::script(shell),
        Command::Man(args) => man::man(&args),
        Command::Help(args) => help::help(&args),
        other => {
            let root = locate(cli.root.as_deref())?;
            on_root(&root, other)
        }
    }
}

/// A command line that cannot be read.
fn mistyped(e: &clap::Error) -> Result<u8> {
    if let Some(e) = tips::unknown_command(e, &Cli::command()) {
        return Err(e);
    }
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _closed = e.print();
        return Ok(2);
    }
    Err(tips::wrong_usage(&e.render().to_string()))
}

/// Says why a command failed: to people, and in JSON where that was asked for.
pub fn fail(e: &Error) {
    crate::error::tell(&format!("harness: {e}"));
    answer_in_json(e);
}

/// Prints `{"error": …}` on standard output, on one line, where `--json` or `--jsonl` was typed.
fn answer_in_json(e: &Error) {
    let mut options = std::env::args_os().skip(1).take_while(|arg| arg != "--");
    if options.any(|arg| arg == "--json" || arg == "--jsonl")
        && let Ok(line) = json_line(&Failed { error: e.told() })
    {
        let _nobody_reads = print_text(&line);
    }
}

fn locate(given: Option<&Path>) -> Result<Root> {
    let cwd =
        || std::env::current_dir().or_fail("cannot find the current directory", Path::new("."));
    let root = root::find_root(given, std::env::var_os("HARNESS_ROOT"), &cwd)?;
    let from_here = root::find_root(None, None, &cwd);
    if !from_here.is_ok_and(|found| found.path() == root.path()) {
        quote::name_root(&root);
    }
    Ok(root)
}

fn on_root(root: &Root, command: Command) -> Result<u8> {
    match command {
        Command::Add(args) => add::add(root, &args),
        Command::Run(args) => run::run(root, &args),
        Command::Submit(args) => submit::submit(root, &args),
        Command::Status { watch: true, json } => view::watch::watch(root, json.json).map(|()| 0),
        Command::Status { watch: false, json } => {
            list::tell_of_ignored(root);
            view::status::print(root, json.json)
        }
        Command::Top => top::top(root),
        Command::Show { name, json } => show::show(root, &name, json.json),
        Command::List { state, lines } => list::list(root, state, lines),
        Command::Session(command) => session::session(root, command),
        Command::Sandbox(command) => sandbox::sandbox(root, &command),
        Command::Retry(args) => retry::retry(root, &args),
        Command::Cancel(names) => moves::each(root, &names.names, names.json.json, &moves::cancel),
        Command::Release(names) => {
            moves::each(root, &names.names, names.json.json, &moves::release)
        }
        Command::Logs(args) => logs::logs(root, &args),
        Command::Branches(args) => branches::branches(root, &args),
        Command::Review(args) => review::review(root, &args),
        Command::Approve(args) => verdicts::approve(root, &args),
        Command::Reject(args) => verdicts::reject(root, &args),
        Command::Wait(args) => wait::wait(root, &args),
        Command::Report(args) => report::report(root, &args),
        Command::Budget { json } => budget::budget(root, json.json),
        Command::With(args) => with::with(root, &args),
        Command::Pause => interrupt::order(root, Order::Pause),
        Command::Gc(args) => gc::gc(root, &args),
        Command::Drain => interrupt::order(root, Order::Drain),
        Command::Interrupt(args) => interrupt::interrupt(root, &args),
        Command::Resume(args) => resume::resume(root, &args),
        Command::Config { command, json } => config::config(root, command, json.json),
        Command::Init { .. }
        | Command::Schema { .. }
        | Command::Doctor { .. }
        | Command::Completions { .. }
        | Command::Man(_)
        | Command::Help(_) => Ok(0),
    }
}

fn examine(given: Option<&Path>, json: bool) -> Result<u8> {
    // Without a ROOT the machine can still be checked.
    let root = match locate(given) {
        Err(e) if given.is_some() || e.kind() != Kind::Permanent => return Err(e),
        found => found,
    };
    let root = root.map(|root| match Config::load(&root, &Overrides::default()) {
        Ok(config) => elsewhere::placed(&root, &config),
        Err(_) => root,
    });
    let report = doctor::doctor(root.as_ref());
    if json {
        print_json(&report.told())?;
    } else {
        print_text(&report.text())?;
    }
    Ok(report.exit_code())
}
