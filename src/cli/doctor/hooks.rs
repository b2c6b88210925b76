//! The user's programs in `hooks/`: which are run, which are not and why, and names that are nearly a
//! hook's.

use super::{Finding, ok, warn};
use crate::config::nearest::nearest;
use crate::hooks::{Event, Found, look};
use crate::layout::{Name, Root, shown};

/// Files beside the hooks that nobody takes for one.
const NO_HOOKS: [&str; 3] = [".sample", ".md", ".txt"];

pub(super) fn installed(root: &Root) -> Finding {
    let (mut run, mut not_run) = (Vec::new(), Vec::new());
    for event in Event::HOOKS {
        match look(root, event.as_str()) {
            Found::None => {}
            Found::Runs(_) => run.push(event.as_str()),
            Found::Refused(why) => not_run.push(format!("hooks/{}: {why}", event.as_str())),
        }
    }
    not_run.extend(nearly(root));
    if !not_run.is_empty() {
        return warn(
            not_run.join("; "),
            "correct it, or move it away: it is not run as it is",
        );
    }
    match run.is_empty() {
        true => ok("none"),
        false => ok(run.join(", ")),
    }
}

fn nearly(root: &Root) -> Vec<String> {
    let known = Event::HOOKS.map(Event::as_str);
    let entries = std::fs::read_dir(root.path().join("hooks"));
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name());
    let mut odd: Vec<String> = names
        .filter(|name| !Name::is_ignored(name))
        .map(|name| shown(&name))
        .filter(|name| !known.contains(&&**name) && !NO_HOOKS.iter().any(|end| name.ends_with(end)))
        .filter_map(|name| {
            let stem = name.split('.').next().unwrap_or_default();
            let near = nearest(&name, known).or_else(|| nearest(stem, known))?;
            Some(format!("hooks/{name} is no hook: the nearest is `{near}`"))
        })
        .collect();
    odd.sort();
    odd
}
