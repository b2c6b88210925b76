//! How the view looks: a bar, the figures, one of three lists or what was opened, what needs a person, and the
//! keys.

use std::time::Duration;

use ratatui::layout::Position;

use super::app::{About, App, Ask, Over, Tab};
use super::canvas::{Canvas, Column, Kind};
use super::help;
use super::needs::{Need, clock_of, needs};
use super::queue::Row;
use crate::clock;
use crate::layout::Place;
use crate::status::{Health, Metrics, SlotState, SlotStatus};
use crate::text::one_line;
use crate::view::status::{self, Source, queue_line};
use crate::view::table::wrap;
use crate::view::{Paint, ago, count_of, took};

/// The smallest screen that is drawn on.
pub(super) const WIDTH_MIN: u16 = 40;
pub(super) const HEIGHT_MIN: u16 = 10;
/// Rows of what a command said.
const SAID_ROWS: usize = 3;
/// Rows for the agent's words below the list are worth it from here on.
const PANE_MIN: u16 = 4;

const fn column(title: &'static str, least: u16, most: u16, kind: Kind, rank: u8) -> Column {
    Column {
        title,
        least,
        most,
        kind,
        rank,
    }
}

const AGENTS: [Column; 8] = [
    column("SLOT", 8, 8, Kind::Text, 0),
    column("STATE", 9, 9, Kind::Text, 0),
    column("ITEM", 10, 28, Kind::Name, 0),
    column("FOR", 6, 6, Kind::Number, 2),
    column("TURNS", 5, 5, Kind::Number, 5),
    column("TOKENS", 6, 6, Kind::Number, 4),
    column("COST", 6, 6, Kind::Number, 3),
    column("SAYS", 10, u16::MAX, Kind::Text, 1),
];

const QUEUE: [Column; 6] = [
    column("STATE", 9, 9, Kind::Text, 0),
    column("ITEM", 18, 44, Kind::Name, 0),
    column("AGE", 6, 6, Kind::Number, 2),
    column("TRIES", 5, 5, Kind::Number, 4),
    column("OUTCOME", 11, 11, Kind::Text, 3),
    column("WHY", 10, u16::MAX, Kind::Text, 1),
];

const NEEDS: [Column; 4] = [
    column("WHEN", 11, 11, Kind::Text, 1),
    column("WHAT", 11, 11, Kind::Text, 0),
    column("WHO", 12, 32, Kind::Name, 0),
    column("WHY", 14, u16::MAX, Kind::Text, 0),
];

pub(super) fn draw(app: &mut App, canvas: &mut Canvas) {
    let (width, height) = (canvas.width(), canvas.height());
    if width < WIDTH_MIN || height < HEIGHT_MIN {
        let text =
            format!("{width}x{height} is too small: {WIDTH_MIN}x{HEIGHT_MIN} at least. q quits");
        for (y, line) in (0..).zip(wrap(&text, width.into())) {
            canvas.put((0, y), width, Paint::Plain, &line);
        }
        return;
    }
    if app.is_help {
        return help::draw(app, canvas);
    }
    let keys = height - 1;
    match app.over.take() {
        Some(over) => draw_over(app, over, canvas, keys - 1),
        None => draw_lists(app, canvas, keys),
    }
    draw_message(app, canvas, keys - 1);
    help::draw_keys(app, canvas, keys);
}

fn draw_over(app: &mut App, mut over: Over, canvas: &mut Canvas, to: u16) {
    match &mut over {
        Over::Page(page) => {
            page.draw(canvas, 1, to);
            canvas.bar(0, &page.title, &page.place());
        }
        Over::Diff(diff) => {
            let mut from = 1;
            for line in wrap(&diff.head, canvas.width().into()).iter().take(2) {
                canvas.put((0, from), canvas.width(), Paint::Plain, line);
                from += 1;
            }
            diff.draw(canvas, from, to);
            canvas.bar(0, &diff.name.shown(), &diff.place());
        }
    }
    app.over = Some(over);
}

fn draw_lists(app: &mut App, canvas: &mut Canvas, keys: u16) {
    let width = canvas.width();
    let root = app.root.path().display().to_string();
    canvas.bar(0, &format!("harness  {root}"), &standing(app));
    let mut y = 1;
    let status = &app.data.status;
    let lines = match app.data.source {
        None => vec![("reading the tree …".to_owned(), 1)],
        Some(_) => vec![(queue_line(status), 2), (figures(&status.metrics), 1)],
    };
    for (text, rows) in lines {
        for line in wrap(&text, width.into()).iter().take(rows) {
            canvas.put((0, y), width, Paint::Plain, line);
            y += 1;
        }
    }
    draw_tabs(app, canvas, y);
    y += 1;
    // What needs a person stands on every list.
    let urgent = needs(&app.data.status);
    let room = if canvas.height() < 20 { 1 } else { 3 };
    let rows = urgent.len().min(room);
    let bottom = keys - 1 - u16::try_from(rows).unwrap_or(0);
    match app.tab {
        Tab::Agents => draw_agents(app, canvas, y, bottom),
        Tab::Queue => draw_queue(app, canvas, y, bottom),
        Tab::Needs => draw_needs(app, canvas, y, bottom),
    }
    draw_urgent(&urgent, canvas, bottom, rows);
}

/// Of today: what a narrow terminal has room for comes first.
fn figures(m: &Metrics) -> String {
    let mut parts = vec![format!(
        "{} done, {} failed",
        m.completed_today, m.failed_today
    )];
    parts.extend((m.cost_usd > 0.0).then(|| format!("${:.2}", m.cost_usd)));
    let tokens = m.input_tokens + m.output_tokens;
    parts.extend((tokens > 0).then(|| format!("{} tokens", short(tokens))));
    parts.push(format!("{} in the last hour", m.throughput_per_hour));
    if m.average_seconds > 0.0 {
        parts.push(format!("{} each", took(m.average_seconds)));
    }
    format!("today  {}", parts.join(", "))
}

/// Who works here.
fn standing(app: &App) -> String {
    let status = &app.data.status;
    let orders: Vec<&str> = status.control.iter().map(String::as_str).collect();
    let order = match &orders[..] {
        [] => "",
        all if all.contains(&"stop") => "STOPPING, ",
        all if all.contains(&"pause") => "PAUSED, ",
        _ => "DRAINING, ",
    };
    match app.data.source {
        None => String::new(),
        Some(Source::NoHarness) => format!("{order}NO HARNESS RUNS"),
        Some(Source::Silent) => "A HARNESS DOES NOT REPORT".to_owned(),
        Some(Source::Live) => {
            let workers: usize = status.harnesses.iter().map(|h| h.workers).sum();
            let up = status.harnesses.iter().map(|h| h.uptime_seconds).max();
            let up = clock::human(Duration::from_secs(up.unwrap_or(0)));
            format!("{order}{}, up {up}", count_of(workers as u64, "worker"))
        }
    }
}

fn draw_tabs(app: &App, canvas: &mut Canvas, y: u16) {
    let queue = &app.data.status.work_queue;
    let waits = queue.total.saturating_sub(queue.claimed);
    let names = [
        format!("1 Agents {}", app.data.status.agents.len()),
        format!("2 Queue {waits}"),
        format!("3 Events {}", needs(&app.data.status).len()),
    ];
    let mut x = 0;
    for (tab, name) in Tab::ALL.into_iter().zip(names) {
        let text = match tab == app.tab {
            true => format!("[{name}]"),
            false => format!(" {name} "),
        };
        let used = canvas.put((x, y), canvas.width(), Paint::Plain, &text);
        if tab == app.tab {
            canvas.bold(x, y, used);
        }
        x += used + 1;
    }
    if !app.filter.is_empty() {
        let text = format!("only `{}` (esc ends)", app.filter);
        canvas.put((x + 1, y), canvas.width(), Paint::Yellow, &text);
    }
}

/// Draws the rows that fit, with the one that is meant; where it ended.
fn draw_rows(
    app: &mut App,
    canvas: &mut Canvas,
    (from, to): (u16, u16),
    columns: &[Column],
    texts: impl Fn(&mut App, usize) -> Vec<(Paint, String)>,
) -> u16 {
    canvas.heads(from, columns);
    app.fit_list(usize::from(to.saturating_sub(from + 1)));
    let (at, top, count) = (app.list().at, app.list().top, app.count(app.tab));
    let mut y = from + 1;
    for n in top..count {
        if y >= to {
            break;
        }
        let texts = texts(app, n);
        canvas.row(y, columns, &texts);
        if n == at {
            canvas.reverse(y);
        }
        y += 1;
    }
    y
}

fn draw_agents(app: &mut App, canvas: &mut Canvas, from: u16, to: u16) {
    let count = u16::try_from(app.slots.len()).unwrap_or(u16::MAX);
    let room = to - from;
    // The list first; a third for the agent's words where it does not fit.
    let list = match count.saturating_add(1 + PANE_MIN) > room {
        true => (room - room / 3).min(count.saturating_add(1)),
        false => count + 1,
    };
    let list = if room - list < PANE_MIN { room } else { list };
    let now = clock::now();
    let row = |app: &mut App, n: usize| {
        let slot = &app.slots[n];
        agent_row(slot, now)
    };
    let end = draw_rows(app, canvas, (from, from + list), &AGENTS, row);
    if app.slots.is_empty() {
        let text = match app.data.source {
            None => "",
            Some(Source::NoHarness) => "no slots: `harness run` starts some",
            Some(_) if !app.filter.is_empty() => "no agent has that",
            Some(_) => "no slots yet",
        };
        canvas.put((1, from + 1), canvas.width(), Paint::Dim, text);
    }
    if to - end < PANE_MIN {
        return;
    }
    if let Some((live, text)) = &mut app.pane {
        let title = format!("-- {} ", live.title);
        let used = canvas.put((0, end), canvas.width(), Paint::Dim, &title);
        let rest = canvas.width() - used;
        canvas.put((used, end), rest, Paint::Dim, &"-".repeat(rest.into()));
        text.draw_end(canvas, end + 1, to);
    }
}

fn agent_row(slot: &SlotStatus, now: clock::Timestamp) -> Vec<(Paint, String)> {
    let (state, paint) = state_of(slot);
    let says = slot.reason.as_deref().or(slot.last_message.as_deref());
    let number = |n: u64| if n == 0 { String::new() } else { short(n) };
    let since = slot.claimed_at.as_deref().and_then(|at| ago(at, now));
    let cost = match slot.cost_usd > 0.0 {
        true => format!("${:.2}", slot.cost_usd),
        false => String::new(),
    };
    let plain = |text: String| (Paint::Plain, text);
    vec![
        plain(slot.id.clone()),
        (paint, state.to_owned()),
        plain(slot.item.clone().unwrap_or_default()),
        plain(since.unwrap_or_default()),
        plain(number(slot.turns)),
        plain(number(slot.input_tokens + slot.output_tokens)),
        plain(cost),
        plain(one_line(says.unwrap_or_default())),
    ]
}

/// As `status` shows it, but for an interrupt: here it can be answered.
fn state_of(slot: &SlotStatus) -> (&'static str, Paint) {
    match (slot.health, slot.state) {
        (Health::Dead | Health::Stalled, _) => status::state_of(slot),
        (_, SlotState::Interrupted) => ("asks", Paint::Yellow),
        _ => status::state_of(slot),
    }
}

/// `950`, `51k`, `1.2M`: five cells at most.
fn short(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{}k", n / 1_000),
        1_000_000..100_000_000 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{}M", n / 1_000_000),
    }
}

fn draw_queue(app: &mut App, canvas: &mut Canvas, from: u16, to: u16) {
    let row = |app: &mut App, n: usize| {
        let row = app.items[n].clone();
        item_row(app, &row)
    };
    let end = draw_rows(app, canvas, (from, to), &QUEUE, row);
    if app.items.is_empty() && app.data.source.is_some() {
        let text = "nothing waits and nothing has ended: `harness add`, or drop a file into queue/pending/";
        canvas.put((1, from + 1), canvas.width(), Paint::Dim, text);
    } else if app.queue.is_cut() && end < to {
        let text = "(of a folder with more, 200 are shown: `harness list` shows all)";
        canvas.put((1, end), canvas.width(), Paint::Dim, text);
    }
}

fn item_row(app: &mut App, row: &Row) -> Vec<(Paint, String)> {
    let now = clock::now_ns();
    let age = |since: i64| {
        let seconds = (now - since).max(0) as u64 / 1_000_000_000;
        clock::human(Duration::from_secs(seconds))
    };
    let waits = (row.start_ns > now).then(|| age(2 * now - row.start_ns));
    let (word, paint) = match (row.place, &waits) {
        (Place::Review, _) => ("review", Paint::Yellow),
        (Place::Parked, _) => ("parked", Paint::Red),
        (Place::Merge, _) => ("merge", Paint::Cyan),
        (Place::Pending, Some(_)) => ("scheduled", Paint::Cyan),
        (Place::Pending, None) => ("pending", Paint::Plain),
        (Place::Done, _) => ("done", Paint::Green),
    };
    let past = app.queue.past(&row.name);
    let why = match waits {
        Some(waits) => format!("not before {waits} from now"),
        None => one_line(&past.why),
    };
    let tries = match past.tries {
        0 => String::new(),
        n => n.to_string(),
    };
    vec![
        (paint, word.to_owned()),
        (Paint::Plain, row.name.shown()),
        (Paint::Plain, age(row.since_ns)),
        (Paint::Plain, tries),
        (Paint::Plain, past.outcome.clone()),
        (Paint::Plain, why),
    ]
}

fn draw_needs(app: &mut App, canvas: &mut Canvas, from: u16, to: u16) {
    let row = |app: &mut App, n: usize| {
        let need = &app.needs[n];
        vec![
            (Paint::Dim, clock_of(&need.at)),
            (need.paint, need.word.clone()),
            (Paint::Plain, need.who.clone()),
            (Paint::Plain, need.text.clone()),
        ]
    };
    draw_rows(app, canvas, (from, to), &NEEDS, row);
    if app.needs.is_empty() {
        canvas.put(
            (1, from + 1),
            canvas.width(),
            Paint::Dim,
            "nothing needs you, and nothing has ended yet",
        );
    }
}

fn draw_urgent(urgent: &[Need], canvas: &mut Canvas, y: u16, rows: usize) {
    for (n, need) in urgent.iter().take(rows).enumerate() {
        let y = y + u16::try_from(n).unwrap_or(0);
        let more = match urgent.len() - rows {
            more if more > 0 && n + 1 == rows => format!(" (+{more} more: 3)"),
            _ => String::new(),
        };
        let room = canvas
            .width()
            .saturating_sub(u16::try_from(more.len()).unwrap_or(0));
        let text = format!("! {} {}: {}", need.who, need.word, need.text);
        let used = canvas.put((0, y), room, need.paint, &text);
        canvas.put((used, y), canvas.width(), Paint::Plain, &more);
    }
}

/// What is asked, or what the last command said.
fn draw_message(app: &App, canvas: &mut Canvas, y: u16) {
    let width = canvas.width();
    let Some(ask) = &app.ask else {
        if let Some((paint, text)) = app.said() {
            let lines = wrap(text, width.into());
            // A long one covers what is above it: it says what to do.
            let shown = lines.iter().take(SAID_ROWS).rev();
            let rows = u16::try_from(shown.len()).unwrap_or(1);
            for (y, line) in (y + 1 - rows..=y).rev().zip(shown) {
                canvas.clear(y);
                canvas.put((0, y), width, paint, line);
            }
        }
        return;
    };
    match ask {
        Ask::Sure(question, _) => {
            let room = width.saturating_sub(16);
            let used = canvas.put((0, y), room, Paint::Yellow, question);
            canvas.put((used, y), width, Paint::Plain, " y: yes, n: no");
        }
        Ask::Line(about, line) => {
            let label = match about {
                About::Answer(slot) => format!("answer {slot}: "),
                About::Interrupt(slot) => format!("why interrupt {slot}: "),
                About::Comment => match &app.over {
                    Some(Over::Diff(diff)) => format!("{}: ", diff.spot()),
                    _ => String::new(),
                },
                About::Find => "find: ".to_owned(),
            };
            let used = canvas.put((0, y), width / 2, Paint::Yellow, &label);
            let room = width - used;
            let (text, cursor) = line.shown(room.into());
            canvas.put((used, y), room, Paint::Plain, &text);
            let cursor = u16::try_from(cursor).unwrap_or(room);
            canvas.cursor = Some(Position::new((used + cursor).min(width - 1), y));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [7, 999, 51_234, 1_234_567, 123_456_789].map(short);
        assert_eq!(shown, ["7", "999", "51k", "1.2M", "123M"]);
    }
}
