//! Prepares an agent's launch: prompt, command line, environment. Writes the prompt's files into
//! the session's folder and runs nothing.
//!
//! Knows no CLI: `agents` does. Invariant: names and texts of users reach the agent as whole
//! arguments, variables or files, never through a shell.

use std::ffi::OsString;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use super::confine;
use super::file::SessionFile;
use super::{Attempt, Failed, Work, gates};
use crate::agents::{self, Agent, Before, Facts, LaunchInputs, Plan};
use crate::atomic;
use crate::config::AgentTable;
use crate::git;
use crate::interrupt;
use crate::keeper::caps::Caps;
use crate::keeper::wire::Spec;
use crate::layout::{DEFAULT_REPO, join};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::outcome::{Outcome, Word};
use crate::runtime::Runtime;
use crate::sandbox::{Env, Said};
use crate::tokens::VARIABLE;

/// How the agent is to be started.
pub(super) struct Launch {
    /// For the keeper.
    pub(super) spec: Spec,
    /// For the session's file. Without command line and environment, which are in `spec`.
    pub(super) plan: Plan,
    pub(super) timeout: Duration,
    /// What confines it, for the session's file.
    pub(super) said: Said,
}

/// `before`: the session of the attempt that this one continues. `red`: gates that the base fails.
pub(super) fn plan(
    rt: &Runtime,
    attempt: &Attempt,
    agent: &Agent<'_>,
    cwd: &Path,
    before: Option<&SessionFile>,
    red: &[String],
) -> Result<Launch, Failed> {
    let dir = &attempt.dir;
    let mut plan = plan_of_agent(rt, attempt, agent, cwd, before, red);
    let prompt_file = join(dir, "prompt.md");
    if let Some(prompt) = &plan.prompt {
        drop(atomic::create(&prompt_file, prompt, 0o600)?);
    }
    if let Some(text) = &plan.bootstrap {
        drop(atomic::create(&dir.join(agents::BOOTSTRAP), text, 0o600)?);
    }
    let env = environment(rt, attempt, agent.table(), std::mem::take(&mut plan.env));
    let slot = attempt.claim.lease().slot;
    let who = confine::who(rt, agent);
    let confined = confine::confine(rt, slot, who, (dir, true), cwd, env);
    let confined = confined.map_err(Failed::Refused)?;
    let env = confined.env;
    let mut argv = std::mem::take(&mut plan.argv);
    let mut timeout = attempt.claim.item.timeout;
    if let Agent::Command(_, table) = agent {
        timeout = timeout.or(table.timeout);
        let path = env.get(&OsString::from("PATH")).cloned().flatten();
        let path = path.or_else(|| std::env::var_os("PATH"));
        let program = argv.first().cloned().unwrap_or_default();
        argv[0] = agents::find_program(&program, cwd, path.as_deref())
            .map_err(|why| Failed::Refused(agents::not_found(agent, &program, why)))?
            .into();
    }
    let spec = Spec {
        session: attempt.file.session.clone(),
        argv,
        cwd: cwd.to_owned(),
        stdin: plan.reads_prompt.then_some(prompt_file),
        stdout: join(dir, "stdout.log"),
        stderr: join(dir, "stderr.log"),
        exit: join(dir, "exit.json"),
        grace: rt.config.harness.kill_grace,
        env: env.into_iter().collect(),
        sandbox: confined.sandbox,
        caps: Caps::of(&rt.config.limits),
    };
    Ok(Launch {
        said: confined.said,
        spec,
        plan,
        timeout: timeout.unwrap_or(rt.config.harness.timeout),
    })
}

/// The agent's plan for the item. A script needs neither placeholders nor a bootstrap text.
fn plan_of_agent(
    rt: &Runtime,
    attempt: &Attempt,
    agent: &Agent<'_>,
    cwd: &Path,
    before: Option<&SessionFile>,
    red: &[String],
) -> Plan {
    let (facts, bootstrap) = match agent {
        Agent::Script => (Facts::default(), None),
        Agent::Command(..) => {
            let template = rt.root.path().join("prompts/bootstrap.md");
            let text = atomic::read_followed(&template, STATE_FILE_BYTES_MAX).ok();
            (facts(rt, attempt, cwd), text)
        }
    };
    let previous = attempt.record.history().previous.as_ref();
    let mut feedback = gates::feedback(rt, previous);
    for line in red {
        feedback.push_str(line);
        feedback.push('\n');
    }
    let before = before.map(|b| Before {
        conversation: attempt.file.resumed.as_deref(),
        reason: b.reason.as_deref().unwrap_or("it is not known why"),
        ended_well: b.outcome.as_ref().and_then(Word::known) == Some(Outcome::Succeeded),
        answered: previous.and_then(|p| p.answered.as_ref()),
    });
    let inputs = LaunchInputs {
        item: &attempt.claim.item,
        facts: &facts,
        session: &attempt.file.session,
        session_dir: &attempt.dir,
        worktree: cwd,
        bootstrap: bootstrap.as_deref(),
        before,
        feedback: &feedback,
        usd_max: attempt.usd_max,
        inherited: &INHERITED,
    };
    agents::plan(agent, &inputs)
}

/// What the placeholders in prompts and command lines stand for.
pub(super) fn facts(rt: &Runtime, attempt: &Attempt, cwd: &Path) -> Facts {
    let (file, dir) = (&attempt.file, &attempt.dir);
    let interrupt = interrupt::inbox(dir);
    [
        ("PROMPT_FILE", join(dir, "prompt.md").into_os_string()),
        ("ITEM_FILE", join(dir, "item").into_os_string()),
        ("SESSION_ID", file.session.clone().into()),
        ("SESSION_DIR", dir.as_os_str().to_owned()),
        ("WORKTREE", cwd.as_os_str().to_owned()),
        ("WORK_ITEM", attempt.claim.name.as_os_str().to_owned()),
        ("SLOT", file.slot.clone().into()),
        ("AGENT", file.agent.clone().into()),
        ("BRANCH", file.branch.clone().unwrap_or_default().into()),
        ("ATTEMPT", file.attempt.to_string().into()),
        ("ITERATION", file.attempt.to_string().into()),
        ("RIG", rig(attempt.work.as_deref())),
        ("ROOT", rt.root.path().as_os_str().to_owned()),
        ("INTERRUPT_FILE", interrupt.into_os_string()),
    ]
    .into()
}

/// The repository's name in `[repos.NAME]`; for `[repo]`, the name of its directory.
fn rig(work: Option<&Work>) -> OsString {
    let Some(repo) = work.map(|w| w.hub.repo()) else {
        return OsString::new();
    };
    match repo.path.file_name() {
        Some(dir) if repo.name == DEFAULT_REPO => dir.to_owned(),
        _ => repo.name.clone().into(),
    }
}

/// The names of the variables that this process was started with.
static INHERITED: LazyLock<Vec<OsString>> =
    LazyLock::new(|| std::env::vars_os().map(|(name, _)| name).collect());

/// What holds for every agent and gate: git's own variables are those of nobody's hook.
pub(crate) fn neutral() -> Env {
    let mut env = Env::new();
    // A harness started from a git hook must not hand on the hook's repository. How the caller
    // reaches the network, and where their settings are, holds for agents too.
    for key in INHERITED.iter().filter(|key| git::directs_git(key)) {
        env.insert(key.clone(), None);
    }
    // Nor the tokens of whoever started it.
    env.insert(VARIABLE.into(), None);
    let settings = git::inherited_settings();
    for (n, (key, value)) in settings.iter().enumerate() {
        env.insert(format!("GIT_CONFIG_KEY_{n}").into(), Some(key.clone()));
        env.insert(format!("GIT_CONFIG_VALUE_{n}").into(), Some(value.clone()));
        let count = (n + 1).to_string();
        env.insert("GIT_CONFIG_COUNT".into(), Some(count.into()));
    }
    env
}

/// The changes to harness's own environment (`None` removes a variable). `env`: what the agent's
/// CLI needs; the user's `env`, in the agent's table and in the item, overrides it.
pub(super) fn environment(
    rt: &Runtime,
    attempt: &Attempt,
    table: Option<&AgentTable>,
    mut env: Env,
) -> Env {
    let (claim, file, dir) = (&attempt.claim, &attempt.file, &attempt.dir);
    env.extend(neutral());
    let interrupt = interrupt::inbox(dir);
    let mut set = |key: &str, value: OsString| env.insert(key.into(), Some(value));
    for (key, value) in table.iter().flat_map(|table| &table.env) {
        set(key, value.into());
    }
    for (key, value) in &claim.item.env {
        set(key, value.into());
    }
    set("HARNESS_ROOT", rt.root.path().as_os_str().to_owned());
    set("HARNESS_ITEM", claim.name.as_os_str().to_owned());
    set("HARNESS_ITEM_FILE", join(dir, "item").into_os_string());
    set("HARNESS_SESSION", file.session.clone().into());
    set("HARNESS_SESSION_DIR", dir.as_os_str().to_owned());
    set("HARNESS_SLOT", file.slot.clone().into());
    set("HARNESS_AGENT", file.agent.clone().into());
    set("HARNESS_ATTEMPT", file.attempt.to_string().into());
    set(
        "HARNESS_BRANCH",
        file.branch.clone().unwrap_or_default().into(),
    );
    set("HARNESS_INTERRUPT", interrupt.clone().into_os_string());
    set("SESSION_ID", file.session.clone().into());
    set("INTERRUPT_FILE", interrupt.into_os_string());
    set("ITERATION", file.attempt.to_string().into());
    env
}
