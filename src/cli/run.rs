//! `harness run`: adds the FILEs, works, and reports at the end what became of the items.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{add, doctor, elsewhere, hidden, init, owners};
use crate::agents;
use crate::atomic;
use crate::config::{self, Config, Overrides};
use crate::control::Order;
use crate::error::Result;
use crate::hold;
use crate::interrupt::{self, ALL};
use crate::layout::{Name, Root, shown};
use crate::local;
use crate::outcome::Outcome;
use crate::quote;
use crate::run::{self, End, Options};
use crate::runtime::{Console, ItemResult, Results};
use crate::service::Manager;
use crate::tokens;
use crate::view::needed::ways;
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, after_work, count_of, took, written};

/// The exit code of a run that left something behind because of trouble with this machine.
const TEMPORARY: u8 = 111;

#[derive(Args)]
pub(super) struct RunArgs {
    /// Agents that run at once [default: `workers` in harness.toml, or 3]
    #[arg(long, short, value_name = "N")]
    workers: Option<usize>,
    /// End when nothing is left to do, items of other processes included
    #[arg(long)]
    drain: bool,
    /// End after this many items
    #[arg(long, value_name = "K")]
    max_items: Option<u64>,
    /// Where this host's own disk is: worktrees and repositories lie there, and ROOT, which hosts may share,
    /// has only queue and state
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
    /// Say only what is wrong
    #[arg(long, short)]
    quiet: bool,
    /// Files to add as items first
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(root: &Root, args: &RunArgs) -> Result<u8> {
    let overrides = Overrides {
        workers: args.workers,
    };
    let manager = Manager::of_environment();
    init::ensure_tree(root)?;
    let text = config::text_of(root)?;
    let config = Config::of_text(root, &text, &overrides)?;
    let root = elsewhere::settle(root, &config)?;
    let root = &match &args.local {
        Some(dir) => local::place(&root, dir)?,
        None => root,
    };
    let mut warnings: Vec<String> = owners::look(root, &config)?
        .into_iter()
        .map(|part| format!("harness: {part}"))
        .collect();
    warnings.extend(doctor::at_start(root, &config)?);
    warnings.extend(hidden::keep_config(root, &text)?);
    for (name, count) in &config.tokens {
        // Gates that need it say so, too; the others need no such file.
        let made = tokens::make(root, name, *count);
        warnings.extend(made.err().map(|e| format!("harness: {e}")));
    }
    let added = add::add_files(root, &args.files)?;
    if atomic::exists(&Order::Stop.path(root)) {
        crate::error::tell(&format!(
            "harness: state/control/stop exists, so nothing is done; `{} resume` removes it",
            quote::harness()
        ));
        manager.ends_at_once("state/control/stop exists, so nothing is done");
        return Ok(0);
    }
    let console = Arc::new(Console::new(args.quiet)?);
    say_panics(&console);
    let voice = console.clone();
    crate::error::tell_through(Some(Box::new(move |line| voice.warn(line))));
    warnings.iter().for_each(|w| console.warn(w));
    greet(&console, root, &config, args, &added);
    left_over(root).iter().for_each(|w| console.warn(w));
    let options = Options {
        drain: args.drain,
        max_items: args.max_items,
    };
    let mut last_words = String::new();
    let code = match run::run(root, config, &options, &console, manager) {
        Ok(End::LetGo) => 0,
        Ok(End::Stuck) => TEMPORARY,
        Ok(End::Finished(results)) => {
            if results.items.is_empty() {
                console.say("harness: no item ended in this run");
            } else if !args.quiet {
                last_words = summary(&results);
            }
            match results.trouble {
                true => TEMPORARY,
                false => u8::from(results.parked > 0),
            }
        }
        // Said here: nothing may wait for a reader, and signals end nothing any more.
        Err(e) => {
            console.warn(&format!("harness: {e}"));
            e.exit_code()
        }
    };
    let told = written(console.end(last_words)).map(|_| code);
    crate::error::tell_through(None);
    after_work(told, "the run is over");
    Ok(code)
}

/// A thread that panics must not wait for a reader either: its slot would not be recovered.
fn say_panics(console: &Arc<Console>) {
    let console = console.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        console.warn(&format!("thread {name} {panic}"));
    }));
}

fn greet(console: &Console, root: &Root, config: &Config, args: &RunArgs, added: &[Name]) {
    let place = root.path().display();
    let slots = count_of(config.harness.workers as u64, "worker");
    let end = if args.drain {
        "until nothing is left to do"
    } else {
        "until Ctrl-C"
    };
    console.say(&format!("harness: {slots} on {place}, {end}"));
    if let Some(dir) = root.local() {
        let dir = shown(dir.as_os_str());
        console.say(&format!("harness: worktrees lie in {dir}"));
    }
    if !added.is_empty() {
        let names: Vec<String> = added.iter().map(Name::shown).collect();
        console.say(&format!("harness: added {}", names.join(", ")));
    }
}

/// What holds slots or agents back from before this run: nothing may seem to happen.
fn left_over(root: &Root) -> Vec<String> {
    let stems = interrupt::all(root).into_iter();
    let interrupts = stems.filter_map(|stem| {
        let (ways, why) = (ways(root, &stem), interrupt::read(root, &stem)?);
        let whom = match stem.as_str() {
            ALL => "all slots are",
            slot => &format!("{slot} is"),
        };
        let why = why.headline();
        Some(format!(
            "{whom} interrupted from before this run: {why}; what to do: {ways}"
        ))
    });
    let holds = hold::all(root).into_iter().filter(|h| h.until.is_none());
    let holds = holds.map(|h| {
        // The run itself ends it once its cause is gone.
        if agents::is_lack(&h) {
            return agents::who_waits(&h);
        }
        if h.class == hold::BUDGET {
            return format!("{} is held from before this run: {}", h.agent, h.reason);
        }
        let (agent, harness) = (h.agent, quote::harness());
        format!(
            "{agent} is held from before this run: {}; when that is mended: `{harness} resume`",
            h.reason
        )
    });
    interrupts.chain(holds).collect()
}

/// The final table: what became of each item, and where to look.
fn summary(results: &Results) -> String {
    let mut text = format!("\n{}\n", table(results).render(&Term::of_stdout()));
    let ended = results.done + results.review + results.parked + results.claimed;
    if ended > results.items.len() as u64 {
        text.push_str(&format!("(the last {} of {ended})\n", results.items.len()));
    }
    let mut counts = vec![format!("{} done", results.done)];
    counts.extend((results.review > 0).then(|| format!("{} to review", results.review)));
    counts.push(format!("{} parked", results.parked));
    counts.extend((results.claimed > 0).then(|| format!("{} still claimed", results.claimed)));
    counts.push(count_of(results.retried, "retry"));
    text.push_str(&format!("{}.\n", counts.join(", ")));
    let is_merged = |i: &&ItemResult| i.reason.starts_with("merged into");
    let merged = results.items.iter().filter(is_merged).count();
    let harness = quote::harness();
    if results.review > 0 {
        text.push_str(&format!("What waits for your approval: {harness} review\n"));
    } else if let Some(branch) = results.items.iter().find_map(|i| i.branch.as_deref())
        && merged == 0
    {
        text.push_str(&format!(
            "Each branch is in your repository, nothing of yours was changed: git log -p {branch}\n"
        ));
    }
    if let Some(item) = results.items.iter().find(|i| i.has_notes) {
        text.push_str(&format!(
            "* has notes, such as work that its branch does not bring: {harness} show {}\n",
            quote::item(&item.name)
        ));
    }
    let quoted = |item: &ItemResult| quote::item(&item.name);
    let is_parked = |i: &&ItemResult| i.outcome.is_some_and(|outcome| !outcome.is_good());
    if let Some(item) = results.items.iter().rev().find(is_parked) {
        text.push_str(&format!(
            "Parked items need you: `{harness} show {0}` says why, `{harness} retry {0}` tries again.\n",
            quoted(item)
        ));
    } else if let Some(item) = results.items.front() {
        text.push_str(&format!(
            "What happened to an item: {harness} show {}\n",
            quoted(item)
        ));
    }
    text
}

fn table(results: &Results) -> Table {
    let mut table = Table::new(&["~ITEM", "OUTCOME", "?>TRIES", "?>TOOK", "~BRANCH", "WHY"]);
    for item in &results.items {
        let paint = match item.outcome {
            Some(Outcome::Succeeded) => Paint::Green,
            Some(Outcome::NoChange) => Paint::Plain,
            _ => Paint::Red,
        };
        let mark = if item.has_notes { "*" } else { "" };
        let outcome = format!("{}{mark}", item.outcome.map_or("claimed", Outcome::as_str));
        // What was refused or merged took no attempt.
        let took = match item.seconds > 0.0 {
            true => took(item.seconds),
            false => "-".to_owned(),
        };
        table.row(vec![
            Cell::new(item.name.shown()),
            Cell::painted(outcome, paint),
            Cell::new(item.attempt.to_string()),
            Cell::new(took),
            Cell::new(item.branch.as_deref().unwrap_or("-")),
            Cell::new(&item.reason),
        ]);
    }
    table
}
