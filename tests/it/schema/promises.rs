//! What a version of a schema has promised it keeps: `promises.txt` has each field with its type and each
//! word, and only grows. Written anew with `HARNESS_WRITE_TABLE=1 cargo test --test it promises`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{names, schema};
use crate::support::Root;

/// One line for each field, with its type, and for each word.
fn promises(name: &str, schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(schema, schema, id(name, schema) + " ", &mut found);
    found
}

fn id(name: &str, schema: &Value) -> String {
    let version = schema["$id"].as_str().unwrap().rsplit(':').next().unwrap();
    format!("{name}:{version}")
}

fn walk(whole: &Value, schema: &Value, at: String, found: &mut BTreeSet<String>) {
    let schema = resolved(whole, schema);
    let fields = schema.get("properties").and_then(Value::as_object);
    // A kind of event is named by its word.
    let word = fields.and_then(|f| f.values().find_map(|f| f.get("const")?.as_str()));
    let at = match word {
        Some(word) => format!("{at}({word})"),
        None => at,
    };
    for (name, field) in fields.into_iter().flatten() {
        let at = format!("{at}.{name}");
        found.insert(format!("{at} {}", type_of(whole, field)));
        walk(whole, field, at, found);
    }
    for part in ["oneOf", "anyOf", "allOf"] {
        for one in schema
            .get(part)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            walk(whole, one, at.clone(), found);
        }
    }
    for one in schema
        .get("prefixItems")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        walk(whole, one, format!("{at}[]"), found);
    }
    for (rest, shown) in [("items", "[]"), ("additionalProperties", ".*")] {
        if let Some(one) = schema.get(rest).filter(|one| one.is_object()) {
            let at = format!("{at}{shown}");
            found.insert(format!("{at} {}", type_of(whole, one)));
            walk(whole, one, at, found);
        }
    }
    for word in schema
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        found.insert(format!("{at} = {word}"));
    }
    if let Some(word) = schema.get("const") {
        found.insert(format!("{at} = {word}"));
    }
}

fn resolved<'s>(whole: &'s Value, schema: &'s Value) -> &'s Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(to) => whole.pointer(to.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

fn type_of(whole: &Value, schema: &Value) -> String {
    fn add(whole: &Value, schema: &Value, all: &mut BTreeSet<String>) {
        let schema = resolved(whole, schema);
        match schema.get("type") {
            Some(Value::Array(types)) => {
                all.extend(types.iter().map(|t| t.as_str().unwrap().to_owned()));
            }
            Some(one) => drop(all.insert(one.as_str().unwrap().to_owned())),
            None => {}
        }
        for part in ["oneOf", "anyOf"] {
            let parts = schema.get(part).and_then(Value::as_array);
            parts
                .into_iter()
                .flatten()
                .for_each(|one| add(whole, one, all));
        }
    }
    let mut all = BTreeSet::new();
    add(whole, schema, &mut all);
    match all.is_empty() {
        true => "any".to_owned(),
        false => all.into_iter().collect::<Vec<_>>().join("|"),
    }
}

#[test]
fn no_field_or_word_of_a_version_vanishes_or_gets_another_type() {
    let root = Root::plain();
    let mut now = BTreeSet::new();
    let mut versions = BTreeSet::new();
    let mut seen: Vec<(String, Value)> = Vec::new();
    for name in names(&root) {
        let whole = schema(&root, &name);
        let mut same = whole.clone();
        same["$id"].take();
        same["title"].take();
        let promised = match seen.iter().find(|(_, other)| *other == same) {
            Some((other, _)) => BTreeSet::from([format!("{} as {other}", id(&name, &whole))]),
            None => promises(&name, &whole),
        };
        seen.push((name, same));
        versions.extend(promised.iter().map(|line| version_of(line).to_owned()));
        now.extend(promised);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/schema/promises.txt");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let before: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    // Another version of the same name may promise something else.
    let name_of = |version: &str| version.split(':').next().unwrap().to_owned();
    let names: BTreeSet<String> = versions.iter().map(|v| name_of(v)).collect();
    let is_over = |version: &str| names.contains(&name_of(version)) && !versions.contains(version);
    let is_broken = |line: &&String| !now.contains(*line) && !is_over(version_of(line));
    let broken: Vec<&String> = before.iter().filter(is_broken).collect();
    assert!(
        broken.is_empty(),
        "promised, and no longer so: a new version in `ALL` of src/cli/schema.rs, or keep it: {broken:#?}"
    );
    let new: Vec<&String> = now.difference(&before).collect();
    if std::env::var_os("HARNESS_WRITE_TABLE").is_some() {
        let table: String = now.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, table).unwrap();
        return;
    }
    assert!(
        new.is_empty(),
        "if that is meant: HARNESS_WRITE_TABLE=1 cargo test --test it promises: {new:#?}"
    );
}

fn version_of(line: &str) -> &str {
    line.split(' ').next().unwrap()
}
