//! `harness sandbox explain`: what an agent may write, read and reach, and why.

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Json, elsewhere};
use crate::adapters;
use crate::config::nearest::advice;
use crate::config::{AgentTable, Config, Network, Overrides, SCRIPT};
use crate::error::{Error, Result};
use crate::layout::{DEFAULT_REPO, Root, SlotId};
use crate::sandbox::{self, Asked, Env, Grant, Planned, Said, Who};
use crate::view::{print_json, print_text};

#[derive(Subcommand)]
pub(super) enum SandboxCommand {
    /// What an agent may write, read and reach, and why
    Explain(Explain),
}

#[derive(Args)]
pub(super) struct Explain {
    /// An [agents.NAME], a CLI, or `script` [default: the agent of prompts, else script]
    agent: Option<String>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn sandbox(root: &Root, command: &SandboxCommand) -> Result<u8> {
    let SandboxCommand::Explain(args) = command;
    let config = Config::load(root, &Overrides::default())?;
    let root = elsewhere::placed(root, &config);
    let name = args.agent.as_deref().or(config.harness.agent.as_deref());
    let name = name.unwrap_or(SCRIPT);
    let planned = planned(&root, &config, name)?;
    match args.json.json {
        true => print_json(&told(name, &planned))?,
        false => print_text(&text(name, &planned))?,
    };
    Ok(0)
}

fn planned(root: &Root, config: &Config, name: &str) -> Result<Planned> {
    let agent = match (name, config.agent(name)) {
        (SCRIPT, _) => None,
        (_, Some(agent)) => Some(agent),
        (_, None) => {
            let known = config.agents.keys().map(String::as_str);
            let known = known.chain(adapters::NAMES.iter().copied()).chain([SCRIPT]);
            let known: std::collections::BTreeSet<&str> = known.collect();
            let why = format!("there is no agent `{name}`");
            let near = advice(name, known);
            return Err(Error::usage("cannot explain a sandbox", why).hint(near));
        }
    };
    // Of the folders that are made for each start, those of the first slot.
    let slot = SlotId(1);
    let (worktree, session) = (root.worktree(slot, DEFAULT_REPO), root.session("SID"));
    let asked = Asked {
        root,
        config,
        who: Who::agent(config, agent),
        worktree: &worktree,
        temp: &sandbox::temp_path(root, slot),
        session: Some(&session),
        env: agent.map_or_else(Env::new, |(_, table)| env_of(table)),
        makes: false,
    };
    sandbox::plan(asked).map_err(|why| {
        Error::permanent(format!("agent {name} does not start"), why)
            .hint("a newer kernel, or `sandbox = \"on\"`, which takes what there is")
    })
}

/// What its table sets.
fn env_of(table: &AgentTable) -> Env {
    let set = table.env.iter();
    set.map(|(name, value)| (name.into(), Some(value.into())))
        .collect()
}

fn text(name: &str, planned: &Planned) -> String {
    let said = &planned.said;
    if planned.sandbox.is_none() {
        return format!(
            "{name}: not confined, it may do what you may: {}\n",
            said.notes.join("; ")
        );
    }
    let mut out = format!(
        "{name}: confined; Landlock {} of this kernel holds {}\n",
        said.landlock,
        said.holds.join(", ")
    );
    out.push_str("Writes, reads and executes, here for slot agent-1:\n");
    list(&mut out, &planned.write);
    out.push_str("Reads everything else, but not the content of:\n");
    list(&mut out, &planned.deny);
    if !planned.read.is_empty() {
        out.push_str("Reads nevertheless:\n");
        list(&mut out, &planned.read);
    }
    let network = match &planned.said.network {
        Network::Open => "open".to_owned(),
        Network::None => "no TCP".to_owned(),
        Network::Ports(ports) => format!("TCP ports {ports:?}"),
    };
    out.push_str(&format!("Network: {network}\n"));
    let names = planned.env.keys().map(|name| name.to_string_lossy());
    let names: Vec<_> = names.collect();
    out.push_str(&format!("Environment: {}\n", names.join(" ")));
    out.push_str(
        "To change it: `write`, `read`, `deny`, `network`, `env_pass` in [sandbox] or [agents.NAME] of harness.toml\n",
    );
    out
}

fn list(out: &mut String, grants: &[Grant]) {
    for grant in grants {
        let path = shown(&grant.path);
        let because = &grant.because;
        out.push_str(&match &grant.left_out {
            None => format!("  {path}  ({because})\n"),
            Some(why) => format!("  not {path}  ({because}): {why}\n"),
        });
    }
}

/// What an agent may write, read and reach.
#[derive(Serialize, JsonSchema)]
pub(super) struct Explained<'p> {
    agent: &'p str,
    /// How strong it is.
    sandbox: &'p Said,
    /// What it writes, reads and executes, here for slot agent-1.
    write: Vec<Granted<'p>>,
    /// What it reads although it lies below what is denied.
    read: Vec<Granted<'p>>,
    /// What it cannot read. It reads everything else.
    deny: Vec<Granted<'p>>,
    /// The names of its variables.
    environment: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Granted<'p> {
    /// A folder with all below it, or a file.
    path: String,
    /// Whose wish it is.
    because: &'p str,
    /// Why it is not granted; `None`: it is.
    left_out: Option<&'p str>,
}

fn told<'p>(agent: &'p str, planned: &'p Planned) -> Explained<'p> {
    let grants = |grants: &'p [Grant]| -> Vec<Granted<'p>> {
        let one = |grant: &'p Grant| Granted {
            path: shown(&grant.path),
            because: &grant.because,
            left_out: grant.left_out.as_deref(),
        };
        grants.iter().map(one).collect()
    };
    let names = planned.env.keys().map(|name| name.to_string_lossy());
    Explained {
        agent,
        sandbox: &planned.said,
        write: grants(&planned.write),
        read: grants(&planned.read),
        deny: grants(&planned.deny),
        environment: names.map(std::borrow::Cow::into_owned).collect(),
    }
}

fn shown(path: &std::path::Path) -> String {
    crate::layout::shown(path.as_os_str())
}
