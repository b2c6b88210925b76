//! A schema as a strict reader would have it: nothing but what is declared.

use jsonschema::Validator;
use serde_json::Value;

/// Times are in UTC, too.
pub fn validator(schema: &Value) -> Validator {
    let is_utc = |text: &str| text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok();
    jsonschema::options()
        .should_validate_formats(true)
        .with_format("date-time", is_utc)
        .build(schema)
        .unwrap()
}

/// No other fields, words or kinds than those that are declared.
pub fn closed(schema: &Value) -> Value {
    let mut schema = schema.clone();
    close(&mut schema, true);
    schema
}

/// `is_whole`: it describes a value; else it is a part of what does.
fn close(schema: &mut Value, is_whole: bool) {
    let Some(keys) = schema.as_object_mut() else {
        return;
    };
    let parts = ["oneOf", "anyOf", "allOf"];
    for part in parts {
        let Some(Value::Array(all)) = keys.get_mut(part) else {
            continue;
        };
        let has_words = all
            .iter()
            .any(|one| one.get("enum").or(one.get("const")).is_some());
        let is_any_word = |one: &Value| has_words && *one == serde_json::json!({"type": "string"});
        let is_any_kind = |one: &Value| {
            let fields = one.get("properties").and_then(Value::as_object);
            fields.is_some_and(|fields| fields.values().any(|f| f.get("not").is_some()))
        };
        all.retain(|one| !is_any_word(one) && !is_any_kind(one));
        all.iter_mut().for_each(|one| close(one, false));
    }
    if let Some(Value::Object(definitions)) = keys.get_mut("$defs") {
        definitions.values_mut().for_each(|one| close(one, false));
    }
    if let Some(Value::Object(fields)) = keys.get_mut("properties") {
        fields.values_mut().for_each(|one| close(one, true));
    }
    if let Some(Value::Array(all)) = keys.get_mut("prefixItems") {
        all.iter_mut().for_each(|one| close(one, true));
    }
    for rest in ["items", "additionalProperties"] {
        if let Some(one) = keys.get_mut(rest) {
            close(one, true);
        }
    }
    let describes = |key: &&str| keys.contains_key(*key);
    if is_whole && parts.iter().chain(&["properties", "$ref"]).any(describes) {
        keys.insert("unevaluatedProperties".into(), false.into());
    }
}

/// Each field that is declared anywhere, with its schema.
pub fn each_field(schema: &Value, take: &mut dyn FnMut(&str, &Value)) {
    match schema {
        Value::Object(keys) => {
            for (name, field) in keys
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                take(name, field);
            }
            keys.values().for_each(|one| each_field(one, take));
        }
        Value::Array(all) => all.iter().for_each(|one| each_field(one, take)),
        _ => {}
    }
}
