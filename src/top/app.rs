//! What the view is about: the lists, what is opened, what a person is asked; and what each key does.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use super::data::Data;
use super::diff::Diff;
use super::ended::Ended;
use super::jobs::{Done, For, Jobs};
use super::line::Line;
use super::needs::{self, Need};
use super::page::{Page, Text};
use super::queue::{Queue, Row};
use crate::clock;
use crate::error::Result;
use crate::inspect::live::Live;
use crate::interrupt;
use crate::layout::{Name, Root, SlotId};
use crate::spool;
use crate::status::SlotStatus;
use crate::view::Paint;

/// Between two looks at the tree.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// How old what is shown may get: durations go on.
const REDRAW: Duration = Duration::from_secs(1);
/// How long what a command said is shown.
const SAID: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Agents,
    Queue,
    Needs,
}

impl Tab {
    pub(super) const ALL: [Tab; 3] = [Tab::Agents, Tab::Queue, Tab::Needs];
}

/// Where a person is in a list.
#[derive(Debug, Clone, Default)]
pub(super) struct List {
    pub(super) at: usize,
    pub(super) top: usize,
    /// What is meant stays meant where rows come and go.
    key: String,
}

/// What fills the screen instead of the lists.
pub(super) enum Over {
    Page(Box<Page>),
    Diff(Diff),
}

/// What a person types, or is asked.
pub(super) enum Ask {
    Line(About, Line),
    Sure(String, Then),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    /// Of this slot's agent.
    Answer(String),
    Interrupt(String),
    Comment,
    Find,
}

pub(super) enum Then {
    Run(For, Vec<std::ffi::OsString>),
    /// Comments that were not sent are forgotten.
    Close,
}

/// What stands in the row that is meant.
pub(super) enum Chosen {
    Nothing,
    Slot(Box<SlotStatus>),
    Item(Row),
    Need(Need),
}

pub(super) struct App {
    pub(super) root: Root,
    pub(super) jobs: Jobs,
    pub(super) data: Data,
    pub(super) queue: Queue,
    ended: Ended,
    pub(super) tab: Tab,
    lists: [List; 3],
    /// The rows of the lists, as found by `filter`.
    pub(super) slots: Vec<SlotStatus>,
    pub(super) items: Vec<Row>,
    pub(super) needs: Vec<Need>,
    pub(super) filter: String,
    pub(super) over: Option<Over>,
    pub(super) ask: Option<Ask>,
    pub(super) is_help: bool,
    pub(super) is_over: bool,
    /// Rows of the list that are on the screen.
    pub(super) height: usize,
    /// What the meant slot's agent says, below the list.
    pub(super) pane: Option<(Live, Text)>,
    said: Option<(Instant, Paint, String)>,
    looked: Option<Instant>,
    pub(super) is_dirty: bool,
    drawn: Option<Instant>,
}

impl App {
    pub(super) fn new(root: &Root) -> Result<App> {
        Ok(App {
            root: root.clone(),
            jobs: Jobs::new(root)?,
            data: Data::new(root),
            queue: Queue::new(root),
            ended: Ended::new(root),
            tab: Tab::Agents,
            lists: Default::default(),
            slots: Vec::new(),
            items: Vec::new(),
            needs: Vec::new(),
            filter: String::new(),
            over: None,
            ask: None,
            is_help: false,
            is_over: false,
            height: 1,
            pane: None,
            said: None,
            looked: None,
            is_dirty: true,
            drawn: None,
        })
    }

    /// Reads what changed, as often as people can see it.
    pub(super) fn look(&mut self) -> Result<()> {
        while let Some(done) = self.jobs.next() {
            self.done(done);
        }
        let now = clock::instant();
        if self.looked.is_some_and(|at| now - at < LOOK) {
            return Ok(());
        }
        self.looked = Some(now);
        let mut is_new = self.data.look(&mut self.jobs)?;
        match (&mut self.over, self.tab) {
            (Some(Over::Page(page)), _) => is_new |= page.look(),
            (Some(Over::Diff(_)), _) => {}
            (None, Tab::Agents) => is_new |= self.look_at_pane(),
            (None, Tab::Queue) => is_new |= self.queue.look(),
            (None, Tab::Needs) => is_new |= self.ended.look(),
        }
        if is_new {
            self.set_rows();
        }
        let is_old = self.drawn.is_none_or(|at| now - at >= REDRAW);
        self.is_dirty |= is_new || is_old;
        Ok(())
    }

    pub(super) fn is_drawn(&mut self) {
        (self.is_dirty, self.drawn) = (false, Some(clock::instant()));
    }

    fn look_at_pane(&mut self) -> bool {
        let meant = self.slots.get(self.list().at);
        let sid = meant.and_then(|slot| slot.session.clone());
        let shown = self.pane.as_ref().map(|(live, _)| live.sid.clone());
        if sid != shown {
            self.pane = sid.map(|sid| (Live::new(&self.root, &sid), Text::default()));
        }
        let Some((live, text)) = &mut self.pane else {
            return shown.is_some();
        };
        let new = live.look();
        let is_new = !new.is_empty();
        text.add(new);
        is_new || shown.is_none()
    }

    /// Makes the lists' rows anew; what was meant stays meant.
    pub(super) fn set_rows(&mut self) {
        let filter = self.filter.to_lowercase();
        let has = |parts: &[&str]| {
            let mut parts = parts.iter();
            filter.is_empty() || parts.any(|part| part.to_lowercase().contains(&filter))
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let all = self.data.status.agents.iter();
        let slots = all.filter(|s| has(&[&s.id, &text(&s.item), &text(&s.last_message)]));
        self.slots = slots.cloned().collect();
        let items = self.queue.rows().filter(|row| has(&[&row.name.shown()]));
        self.items = items.cloned().collect();
        let needs = needs::needs(&self.data.status).into_iter();
        let needs = needs.chain(needs::ended(&self.ended));
        self.needs = needs.filter(|n| has(&[&n.who, &n.text, &n.word])).collect();
        for tab in Tab::ALL {
            let (count, list) = (self.count(tab), &self.lists[tab as usize]);
            let at = match list.key.is_empty() || self.key_of(tab, list.at) == list.key {
                true => list.at,
                false => {
                    let same = |&n: &usize| self.key_of(tab, n) == list.key;
                    (0..count).find(same).unwrap_or(list.at)
                }
            };
            self.choose(tab, at);
        }
    }

    pub(super) fn count(&self, tab: Tab) -> usize {
        match tab {
            Tab::Agents => self.slots.len(),
            Tab::Queue => self.items.len(),
            Tab::Needs => self.needs.len(),
        }
    }

    fn key_of(&self, tab: Tab, n: usize) -> String {
        let key = match tab {
            Tab::Agents => self.slots.get(n).map(|slot| slot.id.clone()),
            Tab::Queue => self
                .items
                .get(n)
                .map(|row| format!("{} {}", row.place.dir(), row.name)),
            Tab::Needs => self
                .needs
                .get(n)
                .map(|n| format!("{} {} {}", n.word, n.who, n.at)),
        };
        key.unwrap_or_default()
    }

    fn choose(&mut self, tab: Tab, at: usize) {
        let at = at.min(self.count(tab).saturating_sub(1));
        let key = self.key_of(tab, at);
        let list = &mut self.lists[tab as usize];
        (list.at, list.key) = (at, key);
    }

    pub(super) fn list(&self) -> &List {
        &self.lists[self.tab as usize]
    }

    /// So many rows of it are on the screen: it is scrolled so that what is meant is among them.
    pub(super) fn fit_list(&mut self, rows: usize) {
        self.height = rows.max(1);
        let count = self.count(self.tab);
        let list = &mut self.lists[self.tab as usize];
        let most = count.saturating_sub(self.height);
        list.top = list
            .top
            .min(list.at)
            .min(most)
            .max((list.at + 1).saturating_sub(self.height));
    }

    pub(super) fn go(&mut self, to: usize) {
        self.choose(self.tab, to);
        // What another agent says comes at once.
        self.looked = None;
    }

    pub(super) fn turn_to(&mut self, tab: Tab) {
        self.tab = tab;
        self.queue.hurry();
        self.looked = None;
    }

    pub(super) fn chosen(&self) -> Chosen {
        let at = self.list().at;
        let found = match self.tab {
            Tab::Agents => self
                .slots
                .get(at)
                .cloned()
                .map(|slot| Chosen::Slot(slot.into())),
            Tab::Queue => self.items.get(at).cloned().map(Chosen::Item),
            Tab::Needs => self.needs.get(at).cloned().map(Chosen::Need),
        };
        found.unwrap_or(Chosen::Nothing)
    }

    /// The item that is meant: by its own name, which text cannot always say.
    pub(super) fn name(&self) -> Option<Name> {
        match self.chosen() {
            Chosen::Item(row) => Some(row.name),
            Chosen::Slot(slot) => self.claimed(&slot.id, slot.item.as_deref()?),
            Chosen::Need(need) => match (&need.slot, &need.session) {
                (Some(slot), _) => {
                    let claimed = self.data.status.agents.iter().find(|a| a.id == *slot);
                    let claimed = claimed.and_then(|a| a.item.clone());
                    claimed
                        .and_then(|item| self.claimed(slot, &item))
                        .or_else(|| interrupt::asker_in_parked(&self.root, slot))
                }
                (None, Some(_)) => Some(Name::new(&need.who)),
                _ => None,
            },
            Chosen::Nothing => None,
        }
    }

    fn claimed(&self, slot: &str, item: &str) -> Option<Name> {
        let slot = SlotId::parse(OsStr::new(slot))?;
        let names = spool::claimed_in(&self.root, slot).ok()?;
        names.into_iter().find(|name| name.shown() == item)
    }

    /// The session that is meant: the newest of what is in the row.
    pub(super) fn session(&mut self) -> Option<String> {
        match self.chosen() {
            Chosen::Slot(slot) => slot.session,
            Chosen::Item(row) => self.queue.past(&row.name).session.clone(),
            Chosen::Need(need) => match &need.slot {
                Some(slot) => interrupt::asker(&self.root, slot),
                None => need.session,
            },
            Chosen::Nothing => None,
        }
    }

    pub(super) fn say(&mut self, paint: Paint, text: impl Into<String>) {
        self.said = Some((clock::instant(), paint, text.into()));
        self.is_dirty = true;
    }

    pub(super) fn said(&self) -> Option<(Paint, &str)> {
        let (at, paint, text) = self.said.as_ref()?;
        (clock::instant() - *at < SAID).then_some((*paint, text.as_str()))
    }

    /// What was to come has come; what was said for good stays.
    fn arrived(&mut self) {
        if matches!(self.said, Some((_, Paint::Dim, _))) {
            self.said = None;
        }
    }

    pub(super) fn unsay(&mut self) {
        self.said = None;
    }

    pub(super) fn open(&mut self, over: Over) {
        self.over = Some(over);
        self.looked = None;
    }

    pub(super) fn close(&mut self) {
        self.over = None;
        self.queue.hurry();
        self.looked = None;
    }

    pub(super) fn run(&mut self, what: For, args: Vec<std::ffi::OsString>, says: &str) {
        match self.jobs.start(what, args) {
            true => self.say(Paint::Dim, says),
            false => self.say(
                Paint::Red,
                "too many commands run at once: wait for one to end",
            ),
        }
    }

    fn done(&mut self, done: Done) {
        self.is_dirty = true;
        if done.what == For::Status {
            let is_new = self.data.made(&done);
            if !done.is_good {
                self.say(Paint::Red, done.said);
            }
            if is_new {
                self.set_rows();
            }
            return;
        }
        let paint = match done.is_good {
            true => Paint::Green,
            false => Paint::Red,
        };
        match done.what {
            For::Story(name) if done.is_good => {
                self.arrived();
                let text = String::from_utf8_lossy(&done.out);
                self.open(Over::Page(Page::new(name.shown(), &text).into()));
                return;
            }
            For::Diff(name) if done.is_good => {
                match (done.is_cut, Diff::new(name, &done.out)) {
                    (false, Some(diff)) => {
                        self.arrived();
                        self.open(Over::Diff(diff));
                    }
                    _ => self.say(
                        Paint::Red,
                        "these changes are too many for this view: `harness review NAME` shows them",
                    ),
                }
                return;
            }
            For::Verdict(name) => self.judged(&name, done.is_good),
            _ => {}
        }
        self.say(paint, done.said);
        self.data.hurry();
        self.queue.hurry();
        self.looked = None;
    }

    /// A person's word on what is shown was taken, or refused.
    fn judged(&mut self, of: &Name, is_good: bool) {
        let Some(Over::Diff(diff)) = &self.over else {
            return;
        };
        if diff.name != *of {
            return;
        }
        if is_good {
            self.close();
        } else if diff.comments() == 0 {
            // What is there now is shown, for another look.
            self.show_diff(of.clone());
        }
    }

    pub(super) fn show_diff(&mut self, name: Name) {
        let args = vec![
            "review".into(),
            "--json".into(),
            "--".into(),
            name.as_os_str().into(),
        ];
        self.jobs.start(For::Diff(name), args);
    }
}
