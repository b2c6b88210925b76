//! What each key does.

use std::ffi::OsString;

use super::app::{About, App, Ask, Chosen, Over, Tab, Then};
use super::jobs::For;
use super::keys::Key;
use super::line::Line;
use super::needs::{self, Need};
use super::page::Page;
use crate::inspect::live::Live;
use crate::layout::Name;
use crate::view::{Paint, count_of};

impl App {
    pub(super) fn key(&mut self, key: &Key) {
        self.is_dirty = true;
        if let Some(ask) = self.ask.take() {
            return self.answer(ask, key);
        }
        if self.is_help {
            self.is_help = false;
            return;
        }
        match key {
            Key::Ctrl('c') => self.is_over = true,
            Key::Char('?') => self.is_help = true,
            Key::Char('/') => self.ask = Some(Ask::Line(About::Find, Line::default())),
            _ if self.over.is_some() => self.key_over(key),
            _ => self.key_list(key),
        }
    }

    /// A key for what is asked.
    fn answer(&mut self, ask: Ask, key: &Key) {
        match (ask, key) {
            (_, Key::Esc | Key::Ctrl('c' | 'g')) => self.unsay(),
            (Ask::Sure(_, then), Key::Char('y' | 'Y')) => match then {
                Then::Run(what, args) => self.run(what, args, "…"),
                Then::Close => self.close(),
            },
            (Ask::Sure(..), _) => self.say(Paint::Dim, "nothing was done"),
            (Ask::Line(about, line), Key::Enter) => self.typed(about, &line.text()),
            (Ask::Line(about, mut line), key) => {
                line.key(key);
                self.ask = Some(Ask::Line(about, line));
            }
        }
    }

    fn typed(&mut self, about: About, text: &str) {
        match about {
            About::Answer(slot) => {
                let mut args: Vec<OsString> = vec!["resume".into()];
                if !text.trim().is_empty() {
                    args.push(format!("--answer={text}").into());
                }
                args.extend(["--".into(), slot.into()]);
                self.run(For::Act, args, "…");
            }
            About::Interrupt(_) if text.trim().is_empty() => {
                self.say(Paint::Dim, "no reason, no interrupt: nothing was done");
            }
            About::Interrupt(slot) => {
                let args = ["interrupt", "--", &slot, text];
                self.run(For::Act, args.map(OsString::from).to_vec(), "…");
            }
            About::Comment => {
                if let Some(Over::Diff(diff)) = &mut self.over {
                    diff.set_comment(text);
                }
            }
            About::Find => {
                let found = match &mut self.over {
                    Some(Over::Page(page)) => page.find(text),
                    Some(Over::Diff(diff)) => diff.find(text),
                    None => {
                        self.filter = text.to_owned();
                        self.set_rows();
                        self.count(self.tab) > 0
                    }
                };
                if !found && !text.is_empty() {
                    self.say(Paint::Yellow, format!("nothing has `{text}`"));
                }
            }
        }
    }

    fn key_list(&mut self, key: &Key) {
        let at = self.list().at;
        match key {
            Key::Char('q') => self.is_over = true,
            Key::Esc => {
                self.unsay();
                self.filter.clear();
                self.set_rows();
            }
            Key::Tab | Key::Right => self.turn_to(Tab::ALL[(self.tab as usize + 1) % 3]),
            Key::BackTab | Key::Left => self.turn_to(Tab::ALL[(self.tab as usize + 2) % 3]),
            Key::Char(c @ '1'..='3') => self.turn_to(Tab::ALL[*c as usize - '1' as usize]),
            Key::Up | Key::Char('k') => self.go(at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.go(at + 1),
            Key::PageUp | Key::Ctrl('b') => self.go(at.saturating_sub(self.height)),
            Key::PageDown | Key::Ctrl('f') | Key::Char(' ') => self.go(at + self.height),
            Key::Home | Key::Char('g') => self.go(0),
            Key::End | Key::Char('G') => self.go(usize::MAX - 1),
            Key::Enter => match self.tab {
                Tab::Agents => self.show_session(),
                Tab::Queue | Tab::Needs => self.show_story(),
            },
            Key::Char('l') => self.show_session(),
            Key::Char('s') => self.show_story(),
            // What is approved is looked at before.
            Key::Char('d' | 'y' | 'm') => match self.name() {
                Some(name) => {
                    self.say(Paint::Dim, format!("looking at what {name} changes …"));
                    self.show_diff(name);
                }
                None => self.say(Paint::Yellow, "no item is in this row"),
            },
            Key::Char('p') => self.pause(),
            Key::Char('a') => self.ask_answer(),
            Key::Char('i') => self.ask_interrupt(),
            Key::Char('c') => self.ask_cancel(),
            Key::Char('r') => match self.name() {
                Some(name) => self.run(For::Act, of_item("retry", &name), "…"),
                None => self.say(Paint::Yellow, "no item is in this row"),
            },
            Key::Char('e') => self.ask_end(),
            Key::Char('R') => {
                let question = "end pauses, holds and interrupts, for all slots?".to_owned();
                let then = Then::Run(For::Act, vec!["resume".into()]);
                self.ask = Some(Ask::Sure(question, then));
            }
            _ => {}
        }
    }

    fn show_session(&mut self) {
        match self.session() {
            Some(sid) => {
                let live = Live::new(&self.root, &sid);
                self.open(Over::Page(Page::of_session(live).into()));
            }
            None => self.say(Paint::Yellow, "nothing has run here yet"),
        }
    }

    fn show_story(&mut self) {
        match self.name() {
            Some(name) => {
                self.jobs
                    .start(For::Story(name.clone()), of_item("show", &name));
            }
            None => self.say(Paint::Yellow, "no item is in this row"),
        }
    }

    fn pause(&mut self) {
        let is_paused = self
            .data
            .status
            .control
            .iter()
            .any(|order| order == "pause");
        let args: &[&str] = match is_paused {
            true => &["resume", "pause"],
            false => &["pause"],
        };
        self.run(For::Act, args.iter().map(OsString::from).collect(), "…");
    }

    /// The slot that asks: the one in the row, else the only one.
    fn ask_answer(&mut self) {
        let all = &self.data.status.interrupts;
        let here = match self.chosen() {
            Chosen::Slot(slot) => Some(slot.id),
            Chosen::Need(need) => need.slot,
            _ => None,
        };
        let asks = |slot: &String| all.iter().any(|i| i.slot == *slot);
        let slot = match (here.filter(asks), all.as_slice()) {
            (Some(slot), _) => slot,
            (None, [only]) => only.slot.clone(),
            (None, []) => return self.say(Paint::Yellow, "nobody asks anything"),
            (None, _) => return self.say(Paint::Yellow, "several ask: choose one of them first"),
        };
        self.ask = Some(Ask::Line(About::Answer(slot), Line::default()));
    }

    fn ask_interrupt(&mut self) {
        match self.chosen() {
            Chosen::Slot(slot) => {
                self.ask = Some(Ask::Line(About::Interrupt(slot.id), Line::default()));
            }
            _ => self.say(Paint::Yellow, "choose an agent first (1)"),
        }
    }

    fn ask_cancel(&mut self) {
        match self.name() {
            Some(name) => {
                let question = format!("cancel {name}?");
                let then = Then::Run(For::Act, of_item("cancel", &name));
                self.ask = Some(Ask::Sure(question, then));
            }
            None => self.say(Paint::Yellow, "no item is in this row"),
        }
    }

    /// The hold, or the order, in the row.
    fn ask_end(&mut self) {
        let (word, name) = match self.chosen() {
            Chosen::Need(Need {
                word,
                resumes: Some(name),
                ..
            }) => (word, name),
            _ => return self.say(Paint::Yellow, "choose a hold or an order first (3)"),
        };
        let question = match word.as_str() {
            needs::HELD => format!("end the hold of {name}?"),
            _ => format!("end {name}?"),
        };
        let args = vec!["resume".into(), "--".into(), name.into()];
        self.ask = Some(Ask::Sure(question, Then::Run(For::Act, args)));
    }

    fn key_over(&mut self, key: &Key) {
        let is_moved = match &mut self.over {
            Some(Over::Page(page)) => page.key(key),
            Some(Over::Diff(diff)) => diff.key(key),
            None => false,
        };
        if is_moved {
            return;
        }
        match (key, &self.over) {
            (Key::Char('q') | Key::Esc, Some(Over::Diff(diff))) if diff.comments() > 0 => {
                let comments = count_of(diff.comments() as u64, "comment");
                let question = format!("forget {comments} that were not sent?");
                self.ask = Some(Ask::Sure(question, Then::Close));
            }
            (Key::Char('q') | Key::Esc, _) => self.close(),
            (Key::Char('y'), Some(Over::Diff(_))) => self.approve(),
            (Key::Char('m') | Key::Enter, Some(Over::Diff(diff))) => {
                let line = Line::new(diff.comment());
                self.ask = Some(Ask::Line(About::Comment, line));
            }
            (Key::Char('s'), Some(Over::Diff(_))) => self.ask_send(),
            _ => {}
        }
    }

    /// For the commit that is shown, and no other.
    fn approve(&mut self) {
        let Some(Over::Diff(diff)) = &self.over else {
            return;
        };
        if diff.comments() > 0 {
            let why = "your comments would be lost: s sends them, or remove them first";
            return self.say(Paint::Yellow, why);
        }
        if !diff.is_in_review {
            return self.say(
                Paint::Yellow,
                "it is approved already, and waits to be merged",
            );
        }
        let mut args: Vec<OsString> = vec!["approve".into(), "--commit".into()];
        args.extend([diff.tip.clone().into(), "--".into()]);
        args.push(diff.name.as_os_str().into());
        self.run(For::Verdict(diff.name.clone()), args, "…");
    }

    fn ask_send(&mut self) {
        let Some(Over::Diff(diff)) = &self.over else {
            return;
        };
        if diff.comments() == 0 {
            return self.say(
                Paint::Yellow,
                "nothing to send: m writes a comment on a line",
            );
        }
        let mut args: Vec<OsString> = vec!["reject".into(), "--commit".into()];
        args.extend([diff.tip.clone().into()]);
        args.push(format!("--comment={}", diff.told()).into());
        args.extend(["--".into(), diff.name.as_os_str().into()]);
        let comments = count_of(diff.comments() as u64, "comment");
        let question = format!("send {} back to its agent, with {comments}?", diff.name);
        let then = Then::Run(For::Verdict(diff.name.clone()), args);
        self.ask = Some(Ask::Sure(question, then));
    }
}

/// `COMMAND -- NAME`
fn of_item(command: &str, name: &Name) -> Vec<OsString> {
    vec![command.into(), "--".into(), name.as_os_str().into()]
}
