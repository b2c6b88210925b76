//! What `harness run` checks of the machine at its start: where it cannot claim or start anything, it
//! says so and ends, instead of meeting the same error with every item.

use super::{Finding, State, confined, disk, host, logins, machine};
use crate::atomic::{self, Moved};
use crate::config::Config;
use crate::error::{Error, Result, advised};
use crate::layout::Root;

/// Returns what to warn of.
///
/// # Errors
/// Permanent: nothing can run here.
pub(in crate::cli) fn at_start(root: &Root, config: &Config) -> Result<Vec<String>> {
    if let Some(refused) = confined::refusal(config) {
        return Err(refused);
    }
    // Without /proc no file can be made without a name, and no keeper be spoken to. The one of another
    // namespace is only less of a help.
    let proc = host::proc();
    if atomic::read_kernel("/proc/self/stat").is_err() {
        return Err(refused(proc));
    }
    let mounts = disk::one_device(root);
    if mounts.state == State::Fail {
        return Err(refused(mounts));
    }
    must_link(root)?;
    let proc = Some(proc).filter(|f| f.state == State::Fail);
    let proc = proc.map(|f| format!("/proc: {}", words(&f)));
    Ok(proc
        .into_iter()
        .chain(disk::no_exec(root).map(|f| words(&f)))
        .chain(confined::warning(config))
        .chain(machine::at_start(config))
        .chain(one_login(root, config))
        .collect())
}

/// That windows which are counted apart are one login's.
pub(in crate::cli) fn one_login(root: &Root, config: &Config) -> Option<String> {
    let finding = logins::shared(root, config)?;
    (finding.state != State::Ok).then(|| words(&finding))
}

fn refused(finding: Finding) -> Error {
    let what_to_do = finding.what_to_do.unwrap_or_default();
    Error::permanent("cannot run here", finding.why).hint(what_to_do)
}

fn words(finding: &Finding) -> String {
    match &finding.what_to_do {
        Some(what_to_do) => advised(&finding.why, what_to_do),
        None => finding.why.clone(),
    }
}

/// A claim is a hard link. What is left here by a process that is killed is removed by the next one.
fn must_link(root: &Root) -> Result<()> {
    let temp = || atomic::temp_beside(&root.harnesses().join("link"));
    let (file, link) = (temp(), temp());
    drop(atomic::create(&file, b"", 0o600)?);
    let linked = atomic::link_new(&file, &link);
    let _gone = (atomic::remove(&file), atomic::remove(&link));
    match linked {
        // Otherwise an aggregating process removed the file meanwhile, as one of a dead process.
        Ok(Moved::Done | Moved::SourceGone | Moved::Taken) => Ok(()),
        Err(e) if e.is_of_host() => Err(e),
        Err(e) => Err(
            Error::permanent("cannot run here", format!("no hard links: {e}"))
                .at_path(&root.state())
                .hint("put the ROOT on a local disk (ext4, xfs, btrfs): each claim is a hard link"),
        ),
    }
}
