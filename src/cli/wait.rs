//! `harness wait`: until items have ended, whoever works on them. It only looks: the names are looked
//! at when a folder has changed, so that a wait costs a few stats a second, over thousands of names
//! too. It catches no signal: it holds nothing, and a shell sees what ended it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::claimed::Slots;
use super::ended::{self, End, Ended, Standing};
use super::find::{self, At};
use super::show;
use crate::aggregator;
use crate::atomic;
use crate::clock;
use crate::config::value::duration_from_str;
use crate::error::{Error, Result, tell};
use crate::folder::FileStamp;
use crate::interrupt;
use crate::layout::{Name, Place, Root, SlotId};
use crate::quote;
use crate::record;
use crate::view::{count_of, json_line, print_json, written};
use crate::waker::is_reader_gone;

#[derive(clap::Args)]
pub(super) struct WaitArgs {
    #[arg(required = true, value_name = "NAME")]
    names: Vec<OsString>,
    /// Only until the first of them has ended; prints its name
    #[arg(long)]
    any: bool,
    /// Give up after this long, with exit code 124: seconds, or 30s, 10m, 1h30m
    #[arg(long, value_name = "TIME", value_parser = duration_from_str)]
    timeout: Option<Duration>,
    #[command(flatten)]
    lines: super::Lines,
}

/// As `timeout` has it.
const TIMED_OUT: u8 = 124;
/// As a shell has it for SIGPIPE: the reader wants no more, and not all have ended well.
const READER_GONE: u8 = 141;
/// Between two looks at the folders.
const LOOK: Duration = Duration::from_millis(200);
/// While an item lies where it ends and its slot has not let go of it yet.
const LOOK_AT_END: Duration = Duration::from_millis(20);
/// All names are looked at this often without a change: a file system's times may be coarse.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// A change less than this before a look may have another one in its tick.
const TICK_NS: i64 = 100_000_000;
/// Time without a harness, or without a file of an item, before that is believed: a harness may be
/// about to start, a file may be on its way through somebody's editor.
const BELIEVED: Duration = Duration::from_secs(1);
/// An item that neither works nor may start for this long is asked why.
const SLOW: Duration = Duration::from_secs(4);
/// Names in one message, and names that are asked.
const NAMED_MAX: usize = 5;

pub(super) fn wait(root: &Root, args: &WaitArgs) -> Result<u8> {
    let mut wait = Wait::new(root, args)?;
    let give_up = args.timeout.map(|time| clock::instant() + time);
    loop {
        let next = wait.look()?;
        if let Some(code) = next {
            return wait.end(code);
        }
        let now = clock::instant();
        if give_up.is_some_and(|at| at <= now) {
            wait.tell_given_up();
            return wait.end(TIMED_OUT);
        }
        let pause = if wait.is_ending { LOOK_AT_END } else { LOOK };
        let left = give_up.map_or(pause, |at| at.saturating_duration_since(now));
        if is_reader_gone(io::stdout().as_fd(), pause.min(left)) {
            return Ok(READER_GONE);
        }
    }
}

struct Wait<'a> {
    root: &'a Root,
    args: &'a WaitArgs,
    left: Vec<Name>,
    /// Those that have no file at the moment, and since when.
    missing: HashMap<Name, Instant>,
    ended: Vec<Ended>,
    code: u8,
    /// Whether an item is about to have ended.
    is_ending: bool,
    folders: [Option<FileStamp>; Place::ALL.len()],
    looked: Option<Instant>,
    /// Since when no harness is there; `told`: that this was said.
    alone: Option<Instant>,
    told: bool,
    /// Since when it waits, or when it last asked what the items wait for.
    asked: Instant,
    /// What was said of an item: that it is in this state.
    causes: HashSet<(Name, &'static str)>,
}

impl<'a> Wait<'a> {
    /// All names must be items'.
    fn new(root: &'a Root, args: &'a WaitArgs) -> Result<Wait<'a>> {
        let mut left = Vec::new();
        let (mut seen, mut unknown) = (HashSet::new(), Vec::new());
        for typed in &args.names {
            let name = find::name(typed)?;
            if !seen.insert(name.clone()) {
                continue;
            }
            match ended::standing(root, &name)? {
                Standing::Nowhere => unknown.push(find::unknown(root, &name)),
                _ => left.push(name),
            }
        }
        let last = unknown.pop();
        for e in unknown {
            tell(&format!("harness: {e}"));
        }
        match last {
            Some(e) => Err(e),
            None => Ok(Wait {
                root,
                args,
                left,
                missing: HashMap::new(),
                ended: Vec::new(),
                code: 0,
                is_ending: false,
                folders: [None; Place::ALL.len()],
                looked: None,
                alone: None,
                told: false,
                asked: clock::instant(),
                causes: HashSet::new(),
            }),
        }
    }

    /// The exit code, once there is nothing left to wait for.
    fn look(&mut self) -> Result<Option<u8>> {
        let now = clock::instant();
        let is_due = self.looked.is_none_or(|at| now - at >= LOOK_ANYWAY);
        if !(self.folders_changed() || is_due || self.is_ending || !self.missing.is_empty()) {
            return Ok(None);
        }
        self.looked = Some(now);
        self.is_ending = false;
        let mut names = std::mem::take(&mut self.left).into_iter();
        for name in names.by_ref() {
            let standing = ended::standing(self.root, &name)?;
            if !matches!(standing, Standing::Nowhere) {
                self.missing.remove(&name);
            }
            match standing {
                Standing::Ended(place) => {
                    let end = End::of(self.root, &name, place);
                    self.code = self.code.max(u8::from(!end.is_done));
                    let line = if self.args.any {
                        name.shown()
                    } else {
                        end.line()
                    };
                    if !self.tell(end.told(), &line)? {
                        return Ok(Some(READER_GONE));
                    }
                    if self.args.any {
                        break;
                    }
                    continue;
                }
                Standing::Nowhere if self.is_removed(&name, now) => {
                    self.removed(&name)?;
                    continue;
                }
                Standing::Ending => self.is_ending = true,
                Standing::Waits | Standing::Nowhere => {}
            }
            self.left.push(name);
        }
        if self.left.is_empty() || (self.args.any && !self.ended.is_empty()) {
            return Ok(Some(self.code));
        }
        self.tell_alone(now)?;
        self.tell_causes(now)?;
        Ok(None)
    }

    fn folders_changed(&mut self) -> bool {
        let mut is_fresh = false;
        let folders = Place::ALL.map(|place| {
            let meta = self.root.place(place).metadata().ok()?;
            is_fresh |= clock::now_ns() - clock::mtime_ns(&meta) < TICK_NS;
            Some(FileStamp::of(&meta))
        });
        let was = std::mem::replace(&mut self.folders, folders);
        was != folders || is_fresh
    }

    fn is_removed(&mut self, name: &Name, now: Instant) -> bool {
        let since = *self.missing.entry(name.clone()).or_insert(now);
        now - since >= BELIEVED
    }

    /// An item that will not end: somebody removed its file.
    fn removed(&mut self, name: &Name) -> Result<()> {
        if !self.root.stands() {
            let why = "it was moved or removed";
            return Err(Error::permanent("cannot wait in this ROOT", why).at_path(self.root.path()));
        }
        self.missing.remove(name);
        tell(&format!(
            "harness: {name} is no longer in queue/: somebody moved it out or removed it"
        ));
        self.code = 1;
        self.tell(Ended::not(name, "gone"), "").map(drop)
    }

    /// Says once that nobody works.
    fn tell_alone(&mut self, now: Instant) -> Result<()> {
        if self.told {
            return Ok(());
        }
        if aggregator::any_harness_alive(self.root)? {
            self.alone = None;
        } else if now - *self.alone.get_or_insert(now) >= BELIEVED {
            self.told = true;
            tell("harness: no harness is running: `harness run` starts one; waiting all the same");
        }
        Ok(())
    }

    /// Says of the first items, once for each state, what they wait for: it may be a person.
    fn tell_causes(&mut self, now: Instant) -> Result<()> {
        if now - self.asked < SLOW {
            return Ok(());
        }
        self.asked = now;
        for name in self.left.iter().take(NAMED_MAX) {
            let places = find::places(self.root, name);
            let (state, why) = match places.first().map(|found| found.place) {
                Some(At::Claimed(slot)) => ("claimed", self.why_held(slot, name)),
                Some(At::Pending) => {
                    let history = record::history(self.root, name);
                    let at = places.first();
                    let (state, stands) = show::state_of(self.root, name, at, &history)?;
                    (state, stands.reason)
                }
                _ => continue,
            };
            if let Some(why) = why
                && self.causes.insert((name.clone(), state))
            {
                tell(&format!("harness: {name} is {state}: {why}"));
            }
        }
        Ok(())
    }

    /// Why a slot does not work on its item.
    fn why_held(&self, slot: SlotId, name: &Name) -> Option<String> {
        match interrupt::of(self.root, slot) {
            Some(one) => Some(format!(
                "{slot} is frozen: {}; {}",
                one.headline(),
                interrupt::ways(quote::harness(), &one.stem, Some(name))
            )),
            None => Slots::look(self.root).works(slot).err(),
        }
    }

    fn tell_given_up(&self) {
        let mut names: Vec<String> = self.left.iter().take(NAMED_MAX).map(Name::shown).collect();
        if let Some(more @ 1..) = self.left.len().checked_sub(NAMED_MAX) {
            names.push(format!("and {more} more"));
        }
        let time = clock::human(self.args.timeout.unwrap_or_default());
        let (count, verb) = match self.left.len() {
            1 => (count_of(1, "item"), "has"),
            n => (count_of(n as u64, "item"), "have"),
        };
        let names = names.join(", ");
        tell(&format!(
            "harness: after {time} {count} {verb} not ended: {names}"
        ));
    }

    /// Says at once how an item ended, but as one list with `--json`. `false`: the reader is gone.
    fn tell(&mut self, ended: Ended, line: &str) -> Result<bool> {
        let going = match (self.args.lines.json.json, self.args.lines.jsonl) {
            (true, _) => true,
            (_, true) => say(json_line(&ended)?.trim_end())?,
            _ if line.is_empty() => true,
            _ => say(line)?,
        };
        self.ended.push(ended);
        Ok(going)
    }

    fn end(mut self, code: u8) -> Result<u8> {
        for name in std::mem::take(&mut self.left) {
            if code == TIMED_OUT {
                let is_claimed = atomic::exists(&self.root.claim(&name));
                let state = if is_claimed { "claimed" } else { "pending" };
                self.tell(Ended::not(&name, state), "")?;
            }
        }
        if self.args.lines.json.json {
            print_json(&self.ended)?;
        }
        Ok(code)
    }
}

/// `false`: the reader is gone.
fn say(line: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    written(writeln!(out, "{line}").and_then(|()| out.flush()))
}
