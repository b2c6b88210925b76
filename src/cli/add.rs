//! `harness add`: puts items durably into the queue, never over an existing one.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::init;
use crate::atomic::{self, Moved, Nameless};
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::item::{self, Kind, Refusal};
use crate::layout::{Name, Place, Root};
use crate::limits::ITEM_BYTES_MAX;
use crate::missing::waited_for;
use crate::record::{By, Event, Record};
use crate::view::{print_json, print_text};

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
    /// Name of the item, for `-`, --prompt or a single file
    #[arg(long, value_name = "NAME")]
    name: Option<OsString>,
    /// Print the names as JSON
    #[arg(long)]
    json: bool,
}

/// An item to be dropped into the queue.
struct NewItem {
    name: OsString,
    bytes: Vec<u8>,
    executable: bool,
}

pub(super) fn add(root: &Root, args: &AddArgs) -> Result<u8> {
    init::ensure_tree(root)?;
    let mut drops = Vec::new();
    for file in &args.files {
        drops.push(read(file)?);
    }
    if let Some(prompt) = &args.prompt {
        drops.push(NewItem {
            name: slug(prompt).into(),
            bytes: prompt.clone().into_bytes(),
            executable: false,
        });
    }
    if drops.is_empty() {
        return Err(Error::usage(
            "nothing to add",
            "give files, `-` for standard input, or --prompt TEXT",
        ));
    }
    if let Some(name) = &args.name {
        match drops.as_mut_slice() {
            [one] => one.name = name.clone(),
            _ => {
                return Err(Error::usage(
                    "cannot use --name",
                    "there is more than one item",
                ));
            }
        }
    }
    let fields = fields_of(args)?;
    // All are checked before the first is added: a command succeeds whole or changes nothing.
    for drop in &mut drops {
        *drop = check(drop, &fields)?;
    }
    let mut names = Vec::new();
    for drop in &drops {
        names.push(place(root, drop)?);
    }
    atomic::sync_dir(&root.place(Place::Pending))?;
    tell_missing(root, &drops);
    if args.json {
        let names: Vec<Value> = names.iter().map(|n| json!({"item": n.shown()})).collect();
        return print_json(&names);
    }
    print_text(&names.iter().map(|n| n.shown() + "\n").collect::<String>())
}

/// Says which of the names that the items wait for is no item. It may still come: no error.
fn tell_missing(root: &Root, drops: &[NewItem]) {
    for drop in drops {
        let name = Name::new(&drop.name);
        let after = item::parse(&name, &drop.bytes, drop.executable).map(|item| item.order.after);
        for dependency in after.unwrap_or_default() {
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
        check(drop, &Map::new())?;
    }
    let names = drops.iter().map(|d| place(root, d)).collect();
    atomic::sync_dir(&root.place(Place::Pending))?;
    names
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
        let name = slug(&String::from_utf8_lossy(&bytes));
        return Ok(NewItem {
            name: name.into(),
            bytes,
            executable: false,
        });
    }
    let what = "cannot add the file";
    let meta = path.metadata().or_fail(what, path)?;
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

/// A name from the first words of a prompt, made unique by a short id.
fn slug(text: &str) -> String {
    let words: Vec<String> = text
        .lines()
        .find(|l| !l.trim().is_empty() && !l.starts_with("---") && !l.starts_with("#!"))
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .take(6)
        .map(str::to_ascii_lowercase)
        .collect();
    let mut stem: String = words.join("-");
    stem.truncate(40);
    if stem.is_empty() {
        stem = "item".into();
    }
    let id = clock::unique().simple().to_string();
    format!("{stem}-{}", &id[26..])
}

fn fields_of(args: &AddArgs) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    if let Some(priority) = &args.priority {
        fields.insert("priority".into(), json!(priority));
    }
    if !args.after.is_empty() {
        fields.insert("after".into(), json!(args.after));
    }
    Ok(fields)
}

/// The file with the command line's fields applied, checked as an item.
fn check(drop: &NewItem, fields: &Map<String, Value>) -> Result<NewItem> {
    let name = Name::new(&drop.name);
    let refused =
        |why: String| Error::permanent("cannot add the item", why).at_path(Path::new(&drop.name));
    if name.bytes().is_empty() || name.bytes().contains(&b'/') {
        return Err(refused("a name is not empty and holds no `/`".into())
            .hint("give another one with --name"));
    }
    if let Some(why) = Name::why_ignored(name.as_os_str()) {
        return Err(refused(format!(
            "a file of this name is left alone: it looks like {why}"
        ))
        .hint("give another one with --name"));
    }
    if name.is_too_long() {
        return Err(refused("its name is longer than 200 bytes".into())
            .hint("give another one with --name"));
    }
    let bytes = with_fields(&name, drop, fields).map_err(|Refusal(why)| refused(why))?;
    let item = item::parse(&name, &bytes, drop.executable).map_err(|Refusal(why)| refused(why))?;
    if let Some(remark) = item.remark() {
        crate::error::tell(&format!("harness: {name}: {remark}"));
    }
    Ok(NewItem {
        name: drop.name.clone(),
        bytes,
        executable: drop.executable,
    })
}

/// Fields given on the command line replace those in the file.
fn with_fields(
    name: &Name,
    drop: &NewItem,
    fields: &Map<String, Value>,
) -> Result<Vec<u8>, Refusal> {
    let bytes = &drop.bytes;
    if fields.is_empty() {
        return Ok(bytes.clone());
    }
    let given = item::parse(name, bytes, drop.executable)?;
    match given.kind {
        Kind::Json => {
            let mut all = given.fields;
            all.extend(fields.clone());
            Ok(serde_json::to_vec_pretty(&all).unwrap_or_else(|_| bytes.clone()))
        }
        Kind::Prompt => {
            let mut all = given.fields;
            all.extend(fields.clone());
            // JSON is valid YAML: one field per line.
            let mut text = b"---\n".to_vec();
            for (key, value) in &all {
                text.extend(format!("{}: {value}\n", Value::from(key.as_str())).into_bytes());
            }
            text.extend(b"---\n");
            let (_, body) = item::split_front_matter(bytes)?;
            text.extend(body);
            Ok(text)
        }
        Kind::Script if item::without_mark(bytes).starts_with(b"#!") => {
            let split = bytes
                .iter()
                .position(|&b| b == b'\n')
                .map_or(bytes.len(), |i| i + 1);
            let (first, rest) = bytes.split_at(split);
            let mut text = first.to_vec();
            if !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            for (key, value) in fields {
                if given.fields.contains_key(key) {
                    return Err(Refusal(format!(
                        "the script has a `#harness {key}` line of its own: change that one"
                    )));
                }
                text.extend(format!("#harness {key}: {value}\n").into_bytes());
            }
            text.extend(rest);
            Ok(text)
        }
        Kind::Script => Err(Refusal(
            "a program has no place for fields; wrap it in a script that begins with `#!`".into(),
        )),
    }
}

/// Writes the complete file into `pending/`, under the first free name.
fn place(root: &Root, drop: &NewItem) -> Result<Name> {
    let pending = root.place(Place::Pending);
    let mode = if drop.executable { 0o755 } else { 0o644 };
    let file = Nameless::new(&pending.join("x"), &drop.bytes, mode, true)?;
    for n in 1..10_000 {
        let name = numbered(&drop.name, n);
        if name.is_too_long() {
            break;
        }
        if file.link(&root.item(Place::Pending, &name))? == Moved::Done {
            Record::open(root, &name)?.append(&Event::Added(By {
                by: "harness add".into(),
            }))?;
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
