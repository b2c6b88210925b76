//! Runs programs of the user's for what happens: the executables in `hooks/`, each named after an event,
//! and the command `notify`. Both get the same facts; no shell is involved.
//!
//! `trust` says whether a hook may be run, `run` runs it beside the items. The hooks that an attempt
//! waits for are run by `session`, under its slot's keeper.
//!
//! Knows nothing of why. Invariants: nothing that a program does or prints changes what becomes of an
//! item; none is run that an agent could have put there; each is ended at its time.

mod facts;
mod run;
mod trust;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::atomic;
use crate::layout::Root;
use crate::mutant::planted;
use crate::runtime::Runtime;
pub(crate) use facts::{Facts, OnStdin};
pub(crate) use run::OUTPUT_BYTES_MAX;
use run::{Errand, Log};
pub(crate) use trust::{Found, Hook, look};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A slot has claimed an item: an attempt begins.
    ItemClaimed,
    /// A worktree is at another base than it was set up for.
    WorktreeSetup,
    /// The agent is about to be started.
    BeforeStart,
    /// An attempt is over.
    AfterEnd,
    /// An item needs a person.
    Parked,
    /// A slot waits for a person.
    Interrupt,
    /// A branch is in its base.
    Landed,
    /// Nothing is left to do.
    Idle,
    /// A branch waits for approval.
    Review,
    /// An item is in `done/`.
    Done,
}

impl Event {
    /// Those that have a hook, in the order of an item's life.
    pub(crate) const HOOKS: [Event; 8] = [
        Event::ItemClaimed,
        Event::WorktreeSetup,
        Event::BeforeStart,
        Event::AfterEnd,
        Event::Parked,
        Event::Interrupt,
        Event::Landed,
        Event::Idle,
    ];

    /// The name of its hook, and its word in `notify_on`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Event::ItemClaimed => "item-claimed",
            Event::WorktreeSetup => "worktree-setup",
            Event::BeforeStart => "before-start",
            Event::AfterEnd => "after-end",
            Event::Parked => "parked",
            Event::Interrupt => "interrupt",
            Event::Landed => "landed",
            Event::Idle => "idle",
            Event::Review => "review",
            Event::Done => "done",
        }
    }
}

/// Notes the hooks that are there before this process starts any agent.
pub(crate) fn remember(rt: &Runtime) {
    for event in Event::HOOKS {
        if let Found::Runs(hook) = look(&rt.root, event.as_str()) {
            rt.errands.trust(event.as_str(), hook.stamp);
        }
    }
}

/// Whether anything is there to be run for an event, trusted or not.
pub(crate) fn is_there(root: &Root, event: Event) -> bool {
    atomic::exists(&root.hook(event.as_str()))
}

/// Says what an event's hook is called in messages.
pub(crate) fn title(event: Event) -> String {
    format!("hooks/{}", event.as_str())
}

/// The hook of an event, if it is to be run. Why one is not is said.
pub(crate) fn usable(rt: &Runtime, event: Event) -> Option<Hook> {
    let name = event.as_str();
    let why = match look(&rt.root, name) {
        Found::None => return None,
        Found::Runs(hook)
            if rt.errands.is_trusted(name, hook.stamp) || planted("hook-changed-believed") =>
        {
            return Some(hook);
        }
        Found::Runs(_) => {
            "it came or changed since this run began, and an agent may have done that; the next \
             `harness run` takes it as it is then"
                .to_owned()
        }
        Found::Refused(why) => why,
    };
    rt.console.warn(&format!("hooks/{name} is not run: {why}"));
    None
}

/// Runs what the user wants run for this event; nobody waits for it. `text`: a file for the standard
/// input of `notify`.
pub(crate) fn tell(rt: &Arc<Runtime>, event: Event, facts: &Facts, text: Option<&Path>) {
    let name = event.as_str();
    let harness = &rt.config.harness;
    let notifies = !harness.notify.is_empty() && harness.notify_on.iter().any(|on| on == name);
    let hook = Event::HOOKS
        .contains(&event)
        .then(|| usable(rt, event))
        .flatten();
    if hook.is_none() && !notifies {
        return;
    }
    let told = facts.of(rt, event);
    if let Some(hook) = hook {
        let errand = Errand {
            what: title(event),
            name,
            argv: vec![hook.path.into_os_string()],
            stdin: told.on_stdin(),
            told: &told,
            log: facts.session.as_ref().map(|session| Log {
                session: rt.root.session(session),
                name,
            }),
            item: facts.name.clone(),
        };
        run::beside(rt, errand);
    }
    if notifies {
        let own = |path: &&Path| path.parent().is_some_and(atomic::is_own_dir);
        let text = text.filter(own);
        let errand = Errand {
            what: "the notify command".to_owned(),
            name: "notify",
            argv: harness.notify.iter().map(Into::into).collect(),
            stdin: text.and_then(|path| atomic::open_regular(path).ok()),
            told: &told,
            log: None,
            item: None,
        };
        run::beside(rt, errand);
    }
}

/// A file without a name, in memory: no agent finds it, and nobody waits for its reader or writer.
fn nameless() -> Option<File> {
    let made: Option<OwnedFd> = memfd_create(c"harness", MFdFlags::MFD_CLOEXEC).ok();
    made.map(File::from)
}
