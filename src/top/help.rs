//! The keys: those of the moment at the bottom, all of them on a page.

use super::app::{About, App, Ask, Chosen, Over, Tab};
use super::canvas::Canvas;
use crate::view::Paint;

/// Each key with what it does; an empty key is a heading.
const ALL: &[(&str, &str)] = &[
    ("", "LISTS"),
    ("tab 1 2 3", "agents, queue, events and what needs you"),
    ("up down j k", "choose a row; PgUp PgDn g G"),
    ("enter", "an agent's events as they come; an item's story"),
    ("l  s", "what it said and printed; its story"),
    ("/", "only rows that have a text; esc ends it"),
    ("", "WHAT YOU CAN DO"),
    ("a", "answer the agent that asks"),
    ("d", "what a branch in review changes"),
    ("y", "approve it, once you have seen its changes"),
    ("m", "comment its changes, for the next attempt"),
    ("r", "retry a parked or done item"),
    ("c", "cancel an item (asks once)"),
    ("i", "interrupt an agent: it is frozen until a"),
    ("p", "start nothing new, or go on"),
    ("e", "end the hold or order in the row (asks)"),
    ("R", "end all pauses, holds, interrupts (asks)"),
    ("", "CHANGES"),
    (
        "m enter",
        "in changes: comment on the line; empty removes it",
    ),
    ("s", "in changes: send all comments back to the agent"),
    ("y", "in changes: approve exactly the commit that is shown"),
    ("[ ]", "in changes: the file before, the next"),
    ("", "ANYWHERE"),
    ("/ n N", "find, the next, the one before"),
    ("ctrl-l", "draw anew; ctrl-z stop, fg goes on"),
    ("q esc", "back; q quits, and so does ctrl-c"),
];

/// All keys; in two columns where that fits.
pub(super) fn draw(app: &App, canvas: &mut Canvas) {
    let width = canvas.width();
    canvas.bar(0, "harness top: keys", "any key goes back");
    let rows = usize::from(canvas.height() - 2);
    let columns = if width >= 100 && rows < ALL.len() {
        2
    } else {
        1
    };
    let room = width / columns;
    let split = match columns {
        1 => ALL.len(),
        _ => ALL
            .iter()
            .position(|k| k.1 == "CHANGES")
            .unwrap_or(ALL.len()),
    };
    // Where even that is too much, headings go first.
    let is_tight = ALL.len() > rows;
    let (mut x, mut y) = (0, 1);
    for (n, (key, what)) in ALL.iter().enumerate() {
        if n == split {
            (x, y) = (room, 1);
        }
        if key.is_empty() {
            if columns == 1 && is_tight {
                continue;
            }
            let used = canvas.put((x, y), room, Paint::Plain, what);
            canvas.bold(x, y, used);
        } else {
            canvas.put((x + 1, y), 11, Paint::Cyan, key);
            canvas.put((x + 13, y), room.saturating_sub(13), Paint::Plain, what);
        }
        y += 1;
    }
    draw_keys(app, canvas, canvas.height() - 1);
}

/// The keys that mean something now, the most wanted first.
pub(super) fn draw_keys(app: &App, canvas: &mut Canvas, y: u16) {
    let mut keys = keys_of(app);
    let width = usize::from(canvas.width());
    let length = |keys: &[(&str, &str)]| -> usize {
        keys.iter()
            .map(|(key, what)| key.len() + what.len() + 3)
            .sum()
    };
    // Help and the way out stay.
    while length(&keys) > width && keys.len() > 2 {
        keys.remove(keys.len() - 3);
    }
    let mut x = 0;
    for (key, what) in keys {
        let used = canvas.put((x, y), canvas.width(), Paint::Cyan, key);
        canvas.bold(x, y, used);
        x += used + 1;
        x += canvas.put((x, y), canvas.width(), Paint::Plain, what) + 2;
    }
}

const QUIT: &str = "?:keys,q:quit";
const BACK: &str = "?:keys,q:back";

/// Whether a hold or an order is in the row.
fn ends_something(app: &App) -> bool {
    matches!(app.chosen(), Chosen::Need(need) if need.resumes.is_some())
}

/// `KEY:WHAT` of each, help and the way out last.
fn keys_of(app: &App) -> Vec<(&'static str, &'static str)> {
    let over = app.over.as_ref();
    let (some, ends): (&str, &str) = match (&app.ask, over) {
        (Some(Ask::Line(About::Answer(_), _)), _) => {
            ("enter:send (empty: just go on)", "esc:not now")
        }
        (Some(Ask::Line(..)), _) => ("enter:takes it", "esc:not now"),
        (Some(Ask::Sure(..)), _) => ("y:yes", "n:no"),
        (None, Some(Over::Diff(diff))) => match diff.comments() {
            0 => ("m:comment,y:approve,[ ]:file,/:find", BACK),
            _ => ("s:send,m:comment,[ ]:file,/:find", BACK),
        },
        (None, Some(Over::Page(page))) => match page.follows() {
            true => ("up:scroll,/:find", BACK),
            false => ("up down:scroll,G:end,/:find", BACK),
        },
        (None, None) => match app.tab {
            Tab::Agents if app.data.status.interrupts.is_empty() => (
                "enter:events,c:cancel,i:interrupt,p:pause,tab:queue,s:story,/:find",
                QUIT,
            ),
            Tab::Agents => (
                "a:answer,enter:events,c:cancel,p:pause,tab:queue,s:story",
                QUIT,
            ),
            Tab::Queue => (
                "enter:story,d:diff,r:retry,c:cancel,l:log,tab:events,/:find",
                QUIT,
            ),
            Tab::Needs if ends_something(app) => ("e:end it,R:resume all,p:pause,tab:agents", QUIT),
            Tab::Needs => (
                "enter:story,a:answer,r:retry,l:log,R:resume all,tab:agents",
                QUIT,
            ),
        },
    };
    let both = some.split(',').chain(ends.split(','));
    both.filter_map(|key| key.split_once(':')).collect()
}
