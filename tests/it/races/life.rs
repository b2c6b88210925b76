//! The sequential specification of an item's life: what a name's files and its holder are, and what
//! each deed of a person and each step of a harness makes of them. A file is known by the number in
//! it (`Drop`), an attempt by its session.

use super::linear::Spec;

pub type Number = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    Pending,
    Claimed(u32),
    Done,
    Parked,
}

/// How a person's `mv` went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    Moved,
    /// The file was not there.
    Gone,
    /// Another one was where it was to go.
    Taken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    Drop(Number, How),
    Move(Place, Place, How),
    Remove(Place, How),
    /// `harness cancel`, `retry`, `release`, and whether they said that they did it.
    Cancel(bool),
    Retry(bool),
    Release(bool),
    /// An older file makes room; half of a move into `done/` or `parked/`.
    Backup(Place),
    /// The claim is won and its file taken, by this session in this slot.
    Take(String, u32),
    /// As `Take`, or nothing: the record says later that it was not won.
    TryTake(String, u32),
    /// What was tried is undone.
    PutBack(String),
    /// Its script ran at this instant, of this file.
    Runs(String, Number),
    /// Its end: where the record says that its file goes.
    Finish(String, Next),
    /// Everything there is at the end, older files included; and whose work was published.
    See(Vec<(Place, Number)>, Option<Vec<Number>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Next {
    Done,
    Parked,
    Pending,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Life {
    /// At most one file in each place, by place.
    files: Vec<(Place, Number)>,
    older: Vec<(Place, Number)>,
    /// Session, slot, and the number of the file that it took.
    holder: Option<(String, u32, Number)>,
    published: Vec<Number>,
}

impl Life {
    fn at(&self, place: Place) -> Option<Number> {
        let mut here = self.files.iter().filter(|(p, _)| *p == place);
        here.next().map(|(_, n)| *n)
    }

    fn without(&self, place: Place) -> Life {
        let mut next = self.clone();
        next.files.retain(|(p, _)| *p != place);
        next
    }

    fn with(mut self, place: Place, number: Number) -> Life {
        self.files.push((place, number));
        self.files.sort_unstable();
        self
    }

    fn backed_up(&self, place: Place) -> Life {
        let mut next = self.without(place);
        next.older.extend(self.at(place).map(|n| (place, n)));
        next.older.sort_unstable();
        next
    }

    fn moved(&self, from: Place, to: Place, how: How) -> Vec<Life> {
        match (self.at(from), self.at(to), how) {
            (Some(n), None, How::Moved) => vec![self.without(from).with(to, n)],
            (None, _, How::Gone) | (Some(_), Some(_), How::Taken) => vec![self.clone()],
            _ => Vec::new(),
        }
    }

    /// Into `done/` or `parked/`, as harness does it.
    fn placed(&self, from: Place, to: Place) -> Vec<Life> {
        self.backed_up(to).moved(from, to, How::Moved)
    }

    fn any(&self, of: &[Place], to: impl Fn(&Life, Place) -> Vec<Life>) -> Vec<Life> {
        of.iter().flat_map(|&from| to(self, from)).collect()
    }

    fn claimed(&self) -> Vec<Place> {
        let places = self.files.iter().map(|(place, _)| *place);
        places.filter(|p| matches!(p, Place::Claimed(_))).collect()
    }

    fn take(&self, session: &str, slot: u32) -> Vec<Life> {
        match (self.at(Place::Pending), &self.holder) {
            (Some(n), None) => {
                let mut next = self.without(Place::Pending).with(Place::Claimed(slot), n);
                next.holder = Some((session.to_owned(), slot, n));
                vec![next]
            }
            _ => Vec::new(),
        }
    }

    /// The holder's file leaves `claimed/`, if nobody took it, and the claim is given up.
    fn ended(&self, session: &str, next: Next) -> Vec<Life> {
        let Some((_, slot, number)) = self.holder.clone().filter(|(s, ..)| s == session) else {
            return Vec::new();
        };
        let from = Place::Claimed(slot);
        let taken_away = self.at(from).is_none();
        let ended = match next {
            _ if taken_away => vec![self.clone()],
            Next::Done => self.placed(from, Place::Done),
            Next::Pending if self.at(Place::Pending).is_none() => {
                self.moved(from, Place::Pending, How::Moved)
            }
            Next::Pending | Next::Parked => self.placed(from, Place::Parked),
        };
        let given_up = ended.into_iter().map(|mut life| {
            life.holder = None;
            if next == Next::Done && !taken_away {
                life.published.push(number);
                life.published.sort_unstable();
            }
            life
        });
        given_up.collect()
    }
}

impl Spec for Life {
    type Op = Op;

    fn after(&self, op: &Op) -> Vec<Life> {
        let same = || vec![self.clone()];
        let only = |so: bool| if so { vec![self.clone()] } else { Vec::new() };
        match op {
            Op::Drop(n, How::Moved) => match self.at(Place::Pending) {
                None => vec![self.clone().with(Place::Pending, *n)],
                Some(_) => Vec::new(),
            },
            Op::Drop(_, _) => only(self.at(Place::Pending).is_some()),
            Op::Move(from, to, how) => self.moved(*from, *to, *how),
            Op::Remove(from, How::Moved) if self.at(*from).is_some() => vec![self.without(*from)],
            Op::Remove(from, how) => only(*how == How::Gone && self.at(*from).is_none()),
            // What could not be done has done nothing (but perhaps a backup).
            Op::Cancel(false) | Op::Retry(false) | Op::Release(false) => same(),
            Op::Cancel(true) => {
                let from = [&self.claimed()[..], &[Place::Pending]].concat();
                self.any(&from, |s, from| s.placed(from, Place::Parked))
            }
            Op::Retry(true) => self.any(&[Place::Parked, Place::Done], |s, from| {
                s.moved(from, Place::Pending, How::Moved)
            }),
            // Of a waiting item only its time is changed.
            Op::Release(true) => {
                let mut all = self.any(&self.claimed(), |s, from| {
                    s.moved(from, Place::Pending, How::Moved)
                });
                all.extend(only(self.at(Place::Pending).is_some()));
                all
            }
            Op::Backup(place) => vec![self.clone(), self.backed_up(*place)],
            Op::Take(session, slot) => self.take(session, *slot),
            Op::TryTake(session, slot) => [same(), self.take(session, *slot)].concat(),
            Op::PutBack(session) => match &self.holder {
                Some((s, ..)) if s == session => self.ended(session, Next::Pending),
                _ => same(),
            },
            Op::Runs(session, number) => {
                let its = |(s, _, n): &(String, u32, Number)| s == session && n == number;
                only(self.holder.as_ref().is_some_and(its))
            }
            Op::Finish(session, next) => self.ended(session, *next),
            Op::See(files, published) => {
                let mut all = [&self.files[..], &self.older[..]].concat();
                all.sort_unstable();
                let told = published.as_ref().is_none_or(|p| *p == self.published);
                only(all == *files && told && self.holder.is_none())
            }
        }
    }
}
