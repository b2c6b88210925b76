//! Checks how well agents can be confined here.

use super::{Finding, ok, warn};
use crate::config::{Config, SandboxKeys, SandboxMode};
use crate::error::Error;
use crate::sandbox::{self, Strength};

const NEWER: &str =
    "use a newer kernel with `landlock` among its security modules (`lsm=` at boot)";

/// What the kernel holds of a sandbox; `None`: the configuration cannot be read.
pub(super) fn strength(config: Option<&Config>) -> Option<Finding> {
    let table = &config?.sandbox;
    if table.mode == SandboxMode::Off {
        return Some(warn(
            "`mode` in [sandbox] is \"off\": agents may do what you may",
            "`harness config set sandbox.mode on`",
        ));
    }
    let strength = sandbox::strength();
    if let Some(why) = strength.why_none() {
        return Some(warn(format!("agents may do what you may: {why}"), NEWER));
    }
    let lacks = strength.lacks(&table.network);
    let Strength(version) = strength;
    let held = strength.holds().join(", ");
    let found = format!("Landlock {version} holds {held}");
    if !lacks.is_empty() {
        return Some(warn(
            format!("{found}, but not {}", lacks.join(", ")),
            NEWER,
        ));
    }
    Some(ok(match nix::unistd::geteuid().is_root() {
        false => found,
        true => format!("{found}; agents run as root, without most of its capabilities"),
    }))
}

/// Why nothing may start here at all.
pub(super) fn refusal(config: &Config) -> Option<Error> {
    let why = sandbox::why_refused(config, &SandboxKeys::default())?;
    let refused = Error::permanent("cannot run here", why);
    Some(refused.hint(format!("{NEWER}; or `harness config set sandbox.mode on`")))
}

/// What to warn of at the start of a run.
pub(super) fn warning(config: &Config) -> Option<String> {
    if config.sandbox.mode != SandboxMode::On {
        return None;
    }
    let strength = sandbox::strength();
    let lacks = strength.lacks(&config.sandbox.network);
    match strength.why_none() {
        Some(why) => Some(format!(
            "agents are not confined and may do what you may: {why}; what to do: {NEWER}"
        )),
        None if lacks.is_empty() => None,
        None => Some(format!(
            "agents are confined but for {}; what to do: {NEWER}",
            lacks.join(", ")
        )),
    }
}
