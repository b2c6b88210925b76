//! One line of JSON with its keys in the order given: the real streams are not sorted, and a reader
//! that only ever met sorted keys has not been tested.

use serde_json::Value;

/// `{"a":1,"b":2}` from `[("a", 1), ("b", 2)]`, without a line's end.
pub fn object(fields: &[(&str, Value)]) -> String {
    let inner: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("{}:{value}", Value::from(*key)))
        .collect();
    format!("{{{}}}", inner.join(","))
}

/// `2026-01-27T10:45:00.123Z`
pub fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A fresh id, unguessable enough for tests.
pub fn fresh(prefix: &str) -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    // The end of a version 7 id is its random half.
    format!("{prefix}{}", &id[16..])
}
