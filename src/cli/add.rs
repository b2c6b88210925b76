//! `harness add`: puts items durably into the queue, never over an existing one.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::compose::compose;
use super::drops::{Added, NewItem, link};
use super::{absent, fields, init};
use crate::agents;
use crate::atomic;
use crate::clock;
use crate::config::{Config, Overrides};
use crate::error::{Context, Error, Result};
use crate::item::{self, Refusal};
use crate::layout::{Name, Place, Root};
use crate::limits::ITEM_BYTES_MAX;
use crate::missing::waited_for;
use crate::quote::{harness, shell_quoted};
use crate::view::{after_work, print_json, print_text};

#[derive(Args)]
pub(super) struct AddArgs {
    /// Files to add: scripts, *.json items or prompts; `-` reads one from standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A prompt as text
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// high, medium, low, or 0 to 9 (9 is first)
    #[arg(long, short, value_name = "PRIORITY")]
    priority: Option<String>,
    /// Start only when this item is done (may be given several times)
    #[arg(long, value_name = "NAME")]
    after: Vec<String>,
    /// The agent that works on it: an agent CLI, or a table [agents.NAME]
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Start no sooner: 2026-12-24T09:00:00Z, '2026-12-24 09:00' (local time) or 2026-12-24
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// Stop an attempt that takes longer: seconds, or 30s, 10m, 1h30m
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Items with the same key never run at once
    #[arg(long, value_name = "KEY")]
    exclusive: Option<String>,
    /// Add nothing, and exit with 0, where an item of that name is in the queue or ever was
    #[arg(long)]
    if_absent: bool,
    /// Name of the item, for `-`, --prompt or a single file
    #[arg(long, value_name = "NAME")]
    name: Option<OsString>,
    /// Print the names as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn add(root: &Root, args: &AddArgs) -> Result<u8> {
    let count = args.files.len() + usize::from(args.prompt.is_some());
    if args.name.is_some() && count > 1 {
        let why = "there is more than one item";
        return Err(Error::usage("cannot use --name", why));
    }
    if args.if_absent && count == 0 {
        let why = "what you write in your editor would be lost where the item is there already";
        return Err(Error::usage("cannot use --if-absent", why)
            .hint("name files, `-` for what standard input brings, or --prompt TEXT"));
    }
    if args.if_absent && has_made_up_name(args) {
        return Err(Error::usage(
            "cannot use --if-absent",
            "a text gets a new name at each time, so it is always absent",
        )
        .hint("give it a name: --name NAME"));
    }
    init::ensure_tree(root)?;
    if count == 0 {
        return compose(root, |text| {
            add_all(root, args, vec![NewItem::of_text(text)])
        });
    }
    let files = args.files.iter().map(|file| read(file));
    let mut drops: Vec<NewItem> = files.collect::<Result<_>>()?;
    let prompt = args.prompt.clone().map(String::into_bytes);
    drops.extend(prompt.map(NewItem::of_text));
    add_all(root, args, drops)
}

fn add_all(root: &Root, args: &AddArgs, mut drops: Vec<NewItem>) -> Result<u8> {
    if let (Some(name), [one]) = (&args.name, drops.as_mut_slice()) {
        one.name = name.clone();
    }
    let fields = fields_of(args);
    let config = match args.agent {
        Some(_) => Some(Config::load(root, &Overrides::default())?),
        None => None,
    };
    // All are checked before the first is added: a command succeeds whole or changes nothing.
    for drop in &mut drops {
        *drop = check(drop, &fields, config.as_ref())?;
    }
    let added = place_all(root, &drops, |drop| match args.if_absent {
        true => absent::place(root, drop),
        false => place(root, drop).map(Added::New),
    })?;
    let config = config.or_else(|| Config::load(root, &Overrides::default()).ok());
    tell_what_waits(root, config.as_ref(), &drops);
    let names: Vec<Name> = added.iter().map(|a| a.name().clone()).collect();
    let printed = match args.json {
        true => {
            let told = added.iter().map(|a| a.told(args.if_absent));
            print_json(&told.collect::<Vec<_>>())
        }
        false => print_text(&names.iter().map(|n| n.shown() + "\n").collect::<String>()),
    };
    let new = added.iter().filter_map(|a| match a {
        Added::New(name) => Some(name.shown()),
        Added::Known(..) => None,
    });
    let new = new.collect::<Vec<_>>().join(", ");
    Ok(after_work(
        printed,
        &format!("in queue/pending/ now: {new}"),
    ))
}

/// Whether the name of an item is made from its text, with an id.
fn has_made_up_name(args: &AddArgs) -> bool {
    let stdin = args.files.iter().any(|f| f == Path::new("-"));
    let is_text = args.prompt.is_some() || stdin || args.files.is_empty();
    args.name.is_none() && is_text
}

/// Places them, durably. An error says which of them are in the queue all the same: they are not to be
/// added again.
fn place_all<T>(
    root: &Root,
    drops: &[NewItem],
    mut place: impl FnMut(&NewItem) -> Result<T>,
) -> Result<Vec<T>> {
    let mut added = Vec::new();
    let placed = drops.iter().try_for_each(|drop| {
        added.push(place(drop)?);
        Ok(())
    });
    let synced = match added.is_empty() {
        true => Ok(()),
        false => atomic::sync_dir(&root.place(Place::Pending)),
    };
    placed.and(synced).map_err(|e| match added.len() {
        0 => e,
        n => e.hint(format!(
            "mend that, and add only what is missing: the first {n} of {} are in queue/pending/ now",
            drops.len()
        )),
    })?;
    Ok(added)
}

/// Says of which items the agent cannot be started yet; which of the names that they wait for is no item
/// (it may still come: no error); and that waiting for work is not having it.
fn tell_what_waits(root: &Root, config: Option<&Config>, drops: &[NewItem]) {
    for drop in drops {
        let name = Name::new(&drop.name);
        let Ok(item) = item::parse(&name, &drop.bytes, drop.executable) else {
            continue;
        };
        let lack = config.and_then(|config| {
            let agent = agents::for_item(config, &item);
            agents::for_item_lacks(root, config, &item, &agent)
        });
        if let Some(lack) = lack {
            crate::error::tell(&format!("harness: {name} will wait: {}", lack.reason));
        }
        if item.base.is_none() && !item.order.after.is_empty() {
            crate::error::tell(&format!(
                "harness: {name} waits, but starts from its base, without the work of what it waits \
                 for unless that is merged; `base: after` starts from its branch"
            ));
        }
        for dependency in item.order.after {
            let shown = waited_for(root, &dependency);
            if shown != dependency.shown() {
                crate::error::tell(&format!("harness: {name} waits for {shown}"));
            }
        }
    }
}

/// Adds the files of `harness run FILE…`; returns their names.
pub(super) fn add_files(root: &Root, files: &[PathBuf]) -> Result<Vec<Name>> {
    let drops: Vec<NewItem> = files.iter().map(|f| read(f)).collect::<Result<_>>()?;
    for drop in &drops {
        check(drop, &Map::new(), None)?;
    }
    place_all(root, &drops, |drop| place(root, drop))
}

fn read(path: &Path) -> Result<NewItem> {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = Vec::new();
    let limit = ITEM_BYTES_MAX + 1;
    if path == Path::new("-") {
        std::io::stdin()
            .take(limit)
            .read_to_end(&mut bytes)
            .or_fail("cannot read", Path::new("standard input"))?;
        return Ok(NewItem::of_text(bytes));
    }
    let what = "cannot add the file";
    let meta = path.metadata().map_err(|e| match e.kind() {
        ErrorKind::NotFound => missing(path),
        _ => Error::io(what, path, &e),
    })?;
    if !meta.is_file() {
        return Err(Error::permanent(what, "it is not a regular file").at_path(path));
    }
    atomic::open_followed(path)
        .and_then(|f| f.take(limit).read_to_end(&mut bytes))
        .or_fail(what, path)?;
    let name = path
        .file_name()
        .ok_or_else(|| Error::usage(what, "it has no name").at_path(path))?;
    Ok(NewItem {
        name: name.to_owned(),
        bytes,
        executable: meta.permissions().mode() & 0o111 != 0,
    })
}

/// A name that no file has; with a space in it, probably a prompt.
fn missing(path: &Path) -> Error {
    let here = std::env::current_dir().unwrap_or_else(|_| ".".into());
    let why = format!("there is no file of this name in {}", here.display());
    let text = match path.to_string_lossy().contains(' ') {
        true => shell_quoted(path),
        false => "'TEXT'".to_owned(),
    };
    let hint = format!("a prompt is added with: {} add --prompt {text}", harness());
    Error::permanent("cannot add the file", why)
        .at_path(path)
        .hint(hint)
}

fn fields_of(args: &AddArgs) -> Map<String, Value> {
    let mut fields = Map::new();
    for (key, text) in [
        ("priority", &args.priority),
        ("agent", &args.agent),
        ("not_before", &args.not_before),
        ("timeout", &args.timeout),
        ("exclusive", &args.exclusive),
    ] {
        if let Some(text) = text {
            fields.insert(key.into(), json!(text));
        }
    }
    if !args.after.is_empty() {
        fields.insert("after".into(), json!(args.after));
    }
    fields
}

/// The file with the command line's fields applied, checked as an item. `config`: its agent is
/// looked up, too.
fn check(drop: &NewItem, fields: &Map<String, Value>, config: Option<&Config>) -> Result<NewItem> {
    let name = Name::new(&drop.name);
    let refused =
        |why: String| Error::permanent("cannot add the item", why).at_path(Path::new(&drop.name));
    if name.bytes().is_empty() || name.bytes().contains(&b'/') {
        return Err(refused("a name is not empty and holds no `/`".into())
            .hint("give another one with --name"));
    }
    if let Some(why) = Name::why_ignored(name.as_os_str()) {
        return Err(refused(format!(
            "a file of this name is left alone, as it looks like {why}"
        ))
        .hint("give another one with --name"));
    }
    if name.is_too_long() {
        return Err(refused("its name is longer than 200 bytes".into())
            .hint("give another one with --name"));
    }
    let refusal = |Refusal(why)| refused(why);
    let bytes = fields::put(&name, &drop.bytes, drop.executable, fields).map_err(refusal)?;
    let item = item::parse(&name, &bytes, drop.executable);
    // What is wrong in the file itself is told by the file's own lines.
    let item = item.map_err(|why| match fields.contains_key("after") {
        true => why,
        false => item::parse(&name, &drop.bytes, drop.executable)
            .err()
            .unwrap_or(why),
    });
    let item = item.map_err(refusal)?;
    if let Some(config) = config {
        agents::for_item(config, &item).map_err(refusal)?;
    }
    if let Some(remark) = item.remark() {
        crate::error::tell(&format!("harness: {name}: {remark}"));
    }
    if item
        .order
        .not_before
        .is_some_and(|at| at <= clock::now_ns())
    {
        crate::error::tell(&format!(
            "harness: {name}: its `not_before` is past: it may start at once"
        ));
    }
    Ok(NewItem {
        name: drop.name.clone(),
        bytes,
        executable: drop.executable,
    })
}

/// Writes the complete file into `pending/`, under the first free name.
fn place(root: &Root, drop: &NewItem) -> Result<Name> {
    let file = drop.written(root)?;
    for n in 1..10_000 {
        let name = numbered(&drop.name, n);
        if name.is_too_long() {
            break;
        }
        if link(root, &file, &name)? {
            return Ok(name);
        }
    }
    Err(Error::permanent(
        "cannot add the item",
        "its name and 10,000 numbered ones are taken",
    )
    .at_path(Path::new(&drop.name)))
}

/// `fix.md`, `fix-2.md`, `fix-3.md`, …
fn numbered(name: &std::ffi::OsStr, n: u32) -> Name {
    if n == 1 {
        return Name::new(name);
    }
    let path = Path::new(name);
    let mut out = path.file_stem().unwrap_or(name).to_owned();
    out.push(format!("-{n}"));
    if let Some(extension) = path.extension() {
        out.push(".");
        out.push(extension);
    }
    Name::new(out)
}
