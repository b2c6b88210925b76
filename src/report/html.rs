//! Writes the page: figures, what needs a person and sums as plain HTML, which needs no scripts and prints;
//! the timeline and the list of items are drawn by `page.js` from the data.

use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use crate::budget::money;
use crate::clock::{self, Timestamp};
use crate::layout::{Root, shown};
use crate::quote;
use crate::view::{count_of, line, took};

use super::data::{Data, ITEMS_MAX, Item, name_of};
use super::encode;
use super::failures::{Example, Failures, Group, NAMES_MAX};
use super::figures::{CLASSES, Figures, is_good};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const FRAME: &str = include_str!("page.html");
/// Items in the list of the dearest.
const DEAREST: usize = 10;

pub(super) fn page(root: &Root, data: &Data, failures: &Failures<'_>) -> String {
    let figures = Figures::of(data);
    let zone = TimeZone::system();
    let now = Timestamp::from_millisecond(data.now).unwrap_or_default();
    let offset = zone.to_offset(now);
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let minutes = (offset.seconds() / 60).to_string();
    let parts = [
        ("POLICY", policy),
        ("STYLE", STYLE.to_owned()),
        ("SCRIPT", SCRIPT.to_owned()),
        ("DATA", encode::data(data)),
        ("ZONE", minutes),
        ("ROOT", escaped(&shown(root.path().as_os_str()))),
        (
            "MADE",
            escaped(&format!("{} (UTC{offset})", local(data.now))),
        ),
        ("PERIOD", period(&figures)),
        ("TILES", tiles(data, &figures)),
        ("LEFT_OUT", left_out(data)),
        ("NEEDS", needs(root, data, failures)),
        (
            "NEEDS_COUNT",
            (data.state("parked") + data.state("review")).to_string(),
        ),
        ("OUTCOMES", outcomes(&figures)),
        ("DURATIONS", durations(&figures)),
        ("AGENTS", agents(&figures)),
        ("DEAREST", dearest(data)),
        ("ITEMS_COUNT", data.items.len().to_string()),
    ];
    filled(FRAME, &parts)
}

/// The frame with each `{{NAME}}` replaced, once: what is put in is not looked at again.
fn filled(frame: &str, parts: &[(&str, String)]) -> String {
    let mut out =
        String::with_capacity(frame.len() + parts.iter().map(|p| p.1.len()).sum::<usize>());
    let mut pieces = frame.split("{{");
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or_default();
        let part = parts.iter().find(|(known, _)| *known == name);
        out.push_str(part.map_or("", |(_, text)| text));
        out.push_str(rest);
    }
    out
}

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

/// Text in HTML, in an attribute too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn local(ms: i64) -> String {
    let at = Timestamp::from_millisecond(ms).unwrap_or_default();
    clock::local(&clock::iso(at))
}

fn human(seconds: f64) -> String {
    clock::human(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// `34k`, `1.2M`.
fn short(n: u64) -> String {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match units.into_iter().find(|(unit, _)| n >= *unit) {
        Some((unit, letter)) if n < unit * 10 => format!("{:.1}{letter}", n as f64 / unit as f64),
        Some((unit, letter)) => format!("{}{letter}", n / unit),
        None => n.to_string(),
    }
}

fn period(figures: &Figures) -> String {
    match figures.from.zip(figures.to) {
        None => "Nothing has run yet.".to_owned(),
        Some((from, to)) => {
            let (from_text, to_text) = (local(from), local(to));
            let to_text = match to_text.split_once(' ') {
                Some((day, time)) if from_text.starts_with(day) => time,
                _ => &to_text,
            };
            let long = human((to - from) as f64 / 1_000.0);
            format!("{from_text} to {to_text}, {long}")
        }
    }
}

fn tiles(data: &Data, figures: &Figures) -> String {
    let mut out = String::new();
    let mut tile = |class: &str, value: String, what: &str, more: String| {
        let _infallible = write!(
            out,
            "<div class=\"tile {class}\"><b>{value}</b><span>{what}</span><small>{more}</small></div>"
        );
    };
    let (done, parked) = (data.state("done"), data.state("parked"));
    let of_all = |n: u64| match done + parked {
        0 => String::new(),
        all => format!("{:.0} %", n as f64 * 100.0 / all as f64),
    };
    tile("good", done.to_string(), "done", of_all(done));
    let is_bad = if parked > 0 { "bad" } else { "" };
    tile(is_bad, parked.to_string(), "parked", of_all(parked));
    let review = data.state("review");
    if review > 0 {
        tile("warn", review.to_string(), "to review", String::new());
    }
    let (claimed, pending) = (
        data.state("claimed"),
        data.state("pending") + data.state("merge"),
    );
    if claimed + pending > 0 {
        let more = format!("{claimed} at work");
        tile("", (claimed + pending).to_string(), "not over", more);
    }
    let retries = match figures.retries {
        0 => String::new(),
        n => count_of(n, "retry"),
    };
    tile("", figures.attempts.to_string(), "attempts", retries);
    tile("", human(figures.seconds), "agents' time", String::new());
    if figures.cost_usd > 0.0 {
        let each = match done {
            0 => String::new(),
            n => format!("${:.2} a done item", figures.cost_usd / n as f64),
        };
        tile("", format!("${:.2}", figures.cost_usd), "cost", each);
    }
    if figures.tokens > 0 {
        tile("", short(figures.tokens), "tokens", String::new());
    }
    out
}

fn left_out(data: &Data) -> String {
    let Some(older) = &data.older else {
        return String::new();
    };
    let (items, attempts) = (
        count_of(older.items, "item"),
        count_of(older.attempts, "attempt"),
    );
    format!(
        "<p class=\"note\">This page tells the newest {ITEMS_MAX} items one by one. Before them: {items} with \
         {attempts}, of which {} went well and {} were parked, for {}.</p>",
        older.done,
        older.parked,
        money(older.cost_usd)
    )
}

fn needs(root: &Root, data: &Data, failures: &Failures<'_>) -> String {
    let mut out = String::new();
    let harness = escaped(&quote::harness_at(root));
    let review = data.state("review");
    if review > 0 {
        let waiting = data
            .items
            .iter()
            .rev()
            .filter(|item| item.state == "review");
        let _infallible = write!(
            out,
            "<article class=\"group warn\"><h3>{} for your approval</h3><p>{}</p>\
             <p class=\"do\"><code>{harness} review</code></p></article>",
            if review == 1 {
                "1 branch waits".to_owned()
            } else {
                format!("{review} branches wait")
            },
            names(waiting, review as usize)
        );
    }
    for group in &failures.groups {
        out.push_str(&of_group(group, &harness));
    }
    if failures.left_out > 0 {
        let _infallible = write!(
            out,
            "<p class=\"note\">And {} parked for other reasons: <code>{harness} list parked</code></p>",
            count_of(failures.left_out as u64, "item")
        );
    }
    if out.is_empty() {
        out.push_str(
            "<p class=\"note\">Nothing: no item is parked, and no branch waits for approval.</p>",
        );
    }
    out
}

/// Names of items, as many as are read.
fn names<'i>(items: impl Iterator<Item = &'i Item>, count: usize) -> String {
    let shown: Vec<String> = items
        .take(NAMES_MAX)
        .map(|item| format!("<span class=\"name\">{}</span>", escaped(&name_of(item))))
        .collect();
    let more = count.saturating_sub(shown.len());
    let mut text = shown.join(" ");
    if more > 0 {
        let _infallible = write!(text, " and {more} more");
    }
    text
}

fn of_group(group: &Group<'_>, harness: &str) -> String {
    let n = group.items.len();
    let outcome = match group.outcome {
        "" => "parked".to_owned(),
        outcome => outcome.replace('_', " "),
    };
    let mut out = format!(
        "<article class=\"group bad\"><h3><span class=\"count\">{n}×</span> \
         <span class=\"mark\">{}</span> {}</h3>",
        escaped(&line(&outcome)),
        escaped(group.reason)
    );
    if n > group.examples.len() {
        let _infallible = write!(out, "<p>{}</p>", names(group.items.iter().copied(), n));
    }
    for example in &group.examples {
        out.push_str(&of_example(example, harness));
    }
    out.push_str("</article>");
    out
}

fn of_example(example: &Example<'_>, harness: &str) -> String {
    let name = escaped(&name_of(example.item));
    let mut out = format!("<section class=\"example\"><h4><span class=\"name\">{name}</span>");
    if let Some(attempt) = example.attempt {
        let agent = escaped(&line(&attempt.agent));
        let slot = escaped(&line(&attempt.slot));
        let at = attempt.ended.map(local).unwrap_or_default();
        let took = took(attempt.seconds);
        let _infallible = write!(
            out,
            " <small>attempt {}, {agent} on {slot}, {at}, took {took}</small>",
            attempt.number
        );
    }
    out.push_str("</h4>");
    for (title, lines) in &example.evidence {
        let (title, lines) = (escaped(title), escaped(lines.trim_end()));
        let _infallible = write!(
            out,
            "<figure><figcaption>{title}</figcaption><pre>{lines}</pre></figure>"
        );
    }
    let item = escaped(&quote::item(&example.item.name));
    let _infallible = write!(
        out,
        "<p class=\"do\"><code>{harness} show {item}</code> <code>{harness} retry {item}</code></p></section>"
    );
    out
}

/// Rows with a bar each.
fn bars(rows: impl Iterator<Item = (String, u64, &'static str)>) -> String {
    let rows: Vec<_> = rows.collect();
    let most = rows.iter().map(|(_, n, _)| *n).max().unwrap_or(0).max(1);
    let all = rows.iter().map(|(_, n, _)| n).sum::<u64>().max(1);
    let mut out = String::from("<table class=\"bars\"><tbody>");
    for (name, n, class) in &rows {
        let width = (*n as f64 * 100.0 / most as f64).max(if *n > 0 { 0.7 } else { 0.0 });
        let share = *n as f64 * 100.0 / all as f64;
        let _infallible = write!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"bar\"><svg viewBox=\"0 0 100 10\" \
             preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"{class}\" width=\"{width:.1}\" \
             height=\"10\"/></svg></td><td class=\"n\">{n}</td><td class=\"n\">{share:.0} %</td></tr>",
            escaped(name)
        );
    }
    out.push_str("</tbody></table>");
    out
}

/// The colour of an outcome: `page.js` has the same.
fn class_of(outcome: &str) -> &'static str {
    match outcome {
        "running" => "run",
        "succeeded" => "good",
        "no_change" => "same",
        "canceled" | "limited" | "interrupted" | "left" => "warn",
        _ => "bad",
    }
}

fn outcomes(figures: &Figures) -> String {
    bars(figures.outcomes.iter().map(|(outcome, n)| {
        let name = line(&outcome.replace('_', " "));
        (name, *n, class_of(outcome))
    }))
}

fn durations(figures: &Figures) -> String {
    let classes = CLASSES.iter().zip(figures.durations);
    bars(classes.map(|((_, name), n)| ((*name).to_owned(), n, "plain")))
}

fn agents(figures: &Figures) -> String {
    let mut out = String::from(
        "<table class=\"figures\"><thead><tr><th>Agent</th><th>Attempts</th><th>Went well</th><th>Median</th>\
         <th>9 of 10</th><th>Longest</th><th>Tokens in</th><th>Tokens out</th><th>Cost</th></tr></thead><tbody>",
    );
    for (name, agent) in &figures.agents {
        let name = match name.as_str() {
            "" => "(not started)".to_owned(),
            name => line(name),
        };
        let quantile = |share| agent.quantile(share).map(took).unwrap_or_default();
        let cells = [
            agent.attempts.to_string(),
            format!(
                "{:.0} %",
                agent.good as f64 * 100.0 / agent.attempts.max(1) as f64
            ),
            quantile(0.5),
            quantile(0.9),
            quantile(1.0),
            short(agent.input_tokens),
            short(agent.output_tokens),
            match agent.cost_usd > 0.0 {
                true => format!("${:.2}", agent.cost_usd),
                false => "–".to_owned(),
            },
        ];
        let cells: String = cells.iter().map(|c| format!("<td>{c}</td>")).collect();
        let _infallible = write!(
            out,
            "<tr><th scope=\"row\">{}</th>{cells}</tr>",
            escaped(&name)
        );
    }
    out.push_str("</tbody></table>");
    out
}

/// The items that cost most; where nothing is known to cost, that took longest.
fn dearest(data: &Data) -> String {
    let sum = |item: &Item, of: fn(&super::attempts::Attempt) -> f64| -> f64 {
        item.attempts.iter().map(of).sum()
    };
    let mut rows: Vec<(f64, f64, &Item)> = data
        .items
        .iter()
        .map(|item| (sum(item, |a| a.cost_usd), sum(item, |a| a.seconds), item))
        .filter(|(cost, seconds, _)| *cost > 0.0 || *seconds > 0.0)
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let mut out = String::from(
        "<table class=\"figures\"><thead><tr><th>Item</th><th>State</th><th>Tries</th><th>Took</th><th>Tokens</th>\
         <th>Cost</th></tr></thead><tbody>",
    );
    for (cost, seconds, item) in rows.into_iter().take(DEAREST) {
        let tokens = item
            .attempts
            .iter()
            .map(|a| a.input_tokens.saturating_add(a.output_tokens));
        let tokens = tokens.fold(0, u64::saturating_add);
        let good = item.attempts.last().is_some_and(|a| is_good(&a.outcome));
        let class = if good { "good" } else { "" };
        let _infallible = write!(
            out,
            "<tr><th scope=\"row\"><span class=\"name\">{}</span></th><td class=\"{class}\">{}</td><td>{}</td>\
             <td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(&name_of(item)),
            item.state,
            item.attempts.len() + item.left_out,
            took(seconds),
            short(tokens),
            if cost > 0.0 {
                format!("${cost:.2}")
            } else {
                "–".to_owned()
            },
        );
    }
    out.push_str("</tbody></table>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_the_page_is_not_looked_at_again() {
        let parts = [("A", "{{B}}".to_owned()), ("B", "b".to_owned())];
        assert_eq!(filled("<{{A}}|{{B}}>", &parts), "<{{B}}|b>");
        assert_eq!(escaped("<a b='\"&"), "&lt;a b=&#39;&quot;&amp;");
        assert_eq!(
            (short(999), short(1_234), short(56_789_000)),
            ("999".into(), "1.2k".into(), "56M".into())
        );
    }

    /// Both are written into their elements as they are.
    #[test]
    fn style_and_script_do_not_end_their_elements() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</"));
        assert!(!SCRIPT.contains("<!--") && !SCRIPT.contains("innerHTML"));
    }
}
