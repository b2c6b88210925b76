//! `harness submit`: hands runs to an engine, which places, limits and restarts them. No process of ours
//! stays here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Json, init};
use crate::agents;
use crate::atomic;
use crate::clock;
use crate::config::{Config, Overrides};
use crate::engine::{self, Order};
use crate::error::{Error, Result, tell};
use crate::layout::{Root, shown};
use crate::quote::{self, shell_quoted};
use crate::shared_fs;
use crate::submission::Submission;
use crate::view::{after_work, count_of, print_json, print_text};

const WHAT: &str = "cannot submit";
/// A controller that answers at all does so sooner.
const SLOW: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Slurm,
}

#[derive(Args)]
pub(super) struct SubmitArgs {
    /// What starts the runs
    #[arg(long, value_enum, default_value = "slurm")]
    engine: Engine,
    /// How many runs, each on one node
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Agents at once on each node; as many processors are asked for [default: `workers` in harness.toml, or 3]
    #[arg(long, short, value_name = "W")]
    workers: Option<usize>,
    /// The longest time of a run, as the engine writes it (`4:00:00`)
    #[arg(long, value_name = "T")]
    time: Option<String>,
    /// The memory of a run, as the engine writes it (`8G`)
    #[arg(long, value_name = "M")]
    mem: Option<String>,
    /// Where each node's own disk is, for worktrees and repositories: an absolute path, in which variables are
    /// looked up there ('$TMPDIR')
    #[arg(long, value_name = "DIR")]
    local: Option<OsString>,
    /// Only print what would be submitted, as a command for a shell
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    json: Json,
    /// Options for the engine's own command
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

pub(super) fn submit(root: &Root, args: &SubmitArgs) -> Result<u8> {
    let Engine::Slurm = args.engine;
    let overrides = Overrides {
        workers: args.workers,
    };
    let config = Config::load(root, &overrides)?;
    check(root, args)?;
    let program = std::env::current_exe().map_err(|e| Error::io(WHAT, Path::new("harness"), &e))?;
    let slow = say_if_slow();
    let configured = config.harness.kill_grace;
    // The engine ends all at once, whatever still saves its work.
    let grace = engine::kill_wait().map_or(configured, |wait| configured.min(wait / 2));
    let script = root.jobs().join(format!("{}.sh", clock::unique().simple()));
    let order = Order {
        root: root.path(),
        logs: &root.jobs(),
        script: &script,
        nodes: args.nodes,
        workers: config.harness.workers,
        grace,
        time: args.time.as_deref(),
        memory: args.mem.as_deref(),
        options: &args.options,
    };
    if let Some(why) = engine::why_too_short(&order) {
        return Err(Error::usage(WHAT, why).hint("give it more"));
    }
    let text = script_for(&order, &program, args.local.as_deref(), grace < configured);
    let lossy = |words: &[OsString]| words.iter().map(|w| w.to_string_lossy().into()).collect();
    let mut told = Submission {
        engine: "slurm".to_owned(),
        nodes: order.nodes,
        workers: order.workers,
        script: String::from_utf8_lossy(&text).into_owned(),
        command: lossy(&engine::words(&order)),
        logs: root.jobs().join("slurm-*.log").to_string_lossy().into(),
        ..Submission::default()
    };
    warn_if_unshared(root, &order);
    if args.dry_run {
        return match args.json.json {
            true => print_json(&told),
            false => print_text(&typed(&engine::words(&order), &told.script)),
        };
    }
    let job = hand_over(root, &order, &text)?;
    drop(slow);
    told.logs = root
        .jobs()
        .join(format!("slurm-{}_*.log", job.id))
        .to_string_lossy()
        .into();
    told.cluster = Some(job.cluster).filter(|name| !name.is_empty());
    told.id = Some(job.id);
    told.submitted_at = Some(clock::now_iso());
    if let Err(e) = told.record(root) {
        // It is submitted all the same.
        tell(&format!("harness: {e}"));
    }
    let printed = match args.json.json {
        true => print_json(&told),
        false => print_text(&in_words(&told)),
    };
    Ok(after_work(printed, "the runs are submitted"))
}

/// A command line, with what it reads, to paste into a shell.
fn typed(words: &[OsString], script: &str) -> String {
    let quoted = words.iter().map(|word| shell_quoted(Path::new(word)));
    let command = quoted.collect::<Vec<_>>().join(" ");
    // A path may have lines, too.
    let mut end = "END".to_owned();
    while script.lines().any(|line| line == end) {
        end.push('_');
    }
    format!("{command} <<'{end}'\n{script}{end}\n")
}

/// Says what is waited for, where an engine takes long to answer. Ends when the other end of the channel does.
fn say_if_slow() -> Option<mpsc::Sender<()>> {
    let (waits, over) = mpsc::channel();
    let says = move || {
        if over.recv_timeout(SLOW) == Err(mpsc::RecvTimeoutError::Timeout) {
            tell(
                "harness: Slurm does not answer yet; waiting for it for a minute at most, Ctrl-C ends that",
            );
        }
    };
    let thread = std::thread::Builder::new().name("slow".into());
    // Without it, it is only not said.
    thread.spawn(says).ok().map(|_ended_with_us| waits)
}

fn in_words(told: &Submission) -> String {
    let (runs, slots) = (
        count_of(told.nodes.into(), "run"),
        count_of(told.workers as u64, "worker"),
    );
    let (id, harness) = (told.id.as_deref().unwrap_or_default(), quote::harness());
    let logs = shown(OsStr::new(&told.logs));
    format!(
        "slurm job {id}: {runs} of {slots} each; `{harness} status` shows them, `scancel {id}` ends them, \
         what they say is in {logs}\n"
    )
}

fn check(root: &Root, args: &SubmitArgs) -> Result<()> {
    if let Some(why) = engine::why_unusable(root.path()) {
        let hint =
            "move ROOT to a path without it, or start `harness run --drain` in a job of your own";
        return Err(Error::permanent(WHAT, why).at_path(root.path()).hint(hint));
    }
    if let Some(first) = args
        .options
        .iter()
        .take(1)
        .find(|o| !o.as_bytes().starts_with(b"-"))
        .or(args.options.iter().find(|o| *o == "--"))
    {
        let why = format!(
            "{} is no option of sbatch, which would take it for the script",
            shown(first)
        );
        return Err(Error::usage(WHAT, why)
            .hint("write sbatch's options after `--`, as in `-- --partition=long`"));
    }
    if let Some(dir) = args
        .local
        .as_ref()
        .filter(|d| !d.as_bytes().starts_with(b"/") && !d.as_bytes().starts_with(b"$"))
    {
        let why = format!(
            "--local {} is not absolute, and each node has a folder of its own",
            shown(dir)
        );
        return Err(Error::usage(WHAT, why)
            .hint("name it from / on, or by a variable of the nodes: --local '$TMPDIR'"));
    }
    Ok(())
}

/// A head node may share what is a disk of its own, so this is no reason to refuse.
fn warn_if_unshared(root: &Root, order: &Order<'_>) {
    if order.nodes < 2 || shared_fs::is_shared(root.path()) {
        return;
    }
    let kind = shared_fs::mount_of(root.path()).map(|mount| mount.kind);
    let kind = kind.as_deref().unwrap_or("a file system");
    let path = shell_quoted(root.path());
    tell(&format!(
        "harness: ROOT lies on this host's own {kind}: {path}: a node that does not see it at this path can do nothing; \
         what to do: see that this host shares it with the nodes, or move it to a file system that they share"
    ));
}

/// What a node executes. The shell gives way to harness, so that the signals for the batch script are harness's.
fn script_for(order: &Order<'_>, program: &Path, local: Option<&OsStr>, is_cut: bool) -> Vec<u8> {
    let mut text = b"#!/bin/sh\n".to_vec();
    if is_cut {
        let seconds = order.grace.as_secs_f64();
        text.extend(format!("export HARNESS_KILL_GRACE={seconds}\n").bytes());
    }
    text.extend(b"exec ");
    text.extend(quote::sh_word(program.as_os_str()));
    text.extend(b" --root ");
    text.extend(quote::sh_word(order.root.as_os_str()));
    text.extend(format!(" run --drain --workers {}", order.workers).bytes());
    if let Some(local) = local {
        text.extend(b" --local ");
        text.extend(quote::sh_word_with_variables(local));
    }
    text.push(b'\n');
    text
}

fn hand_over(root: &Root, order: &Order<'_>, text: &[u8]) -> Result<engine::Job> {
    let path = std::env::var_os("PATH");
    if agents::find_program(OsStr::new("sbatch"), Path::new("/"), path.as_deref()).is_err() {
        let hint =
            "run this where Slurm's commands are (a login node), or add their folder to PATH";
        return Err(Error::permanent(WHAT, "sbatch is not found in PATH").hint(hint));
    }
    init::ensure_tree(root)?;
    atomic::make_dir(&root.jobs(), true)?;
    drop(atomic::create(order.script, text, 0o700)?);
    let submitted = engine::submit(order);
    // Slurm has a copy of its own, and the record another.
    let _left = atomic::remove(order.script);
    submitted.map_err(|why| {
        let hint =
            "mend what sbatch says; `squeue --me` shows whether it was accepted all the same";
        Error::temporary(WHAT, format!("sbatch: {why}"))
            .at_path(root.path())
            .hint(hint)
    })
}
