//! The protocol of ARCHITECTURE.md as a state machine. Each [`Step`] is one step of its table, or
//! one row of `src/recovery.rs`, and is atomic here because the code does it by one system call
//! (or by calls whose order nobody else can see). What is left out: time, git's own steps, power
//! cuts, holds (`canary`), interrupts, dependencies.
//!
//! An actor is a worker thread: a steady one works in the slot of its number, the others only
//! recover what dead ones left (`worker::Mode`). Killing an actor is `kill -9` of its process; it
//! comes back as a new process. A keeper is killed on its own.

mod steps;

use steps::person;

pub type Id = u8;

/// A fault of the protocol, planted into the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// A slot is recovered without its lease.
    NoLease,
    /// `claimed/AGENT/NAME` is taken without an election.
    NoElection,
    /// The file that was renamed is not compared with the one that was read.
    AnyFile,
    /// The record's `claimed` line comes after the rename.
    TakeBeforeIntend,
    /// Published before it is seen whether the file is still there, and never taken back.
    PublishUnfenced,
    /// What was published of an item taken away is taken back after its claim is given up.
    LateWithdraw,
    /// The file is moved before its end is recorded.
    MoveBeforeRecord,
    /// The claim is given up before the file is moved.
    EarlyLetGo,
    /// Recovery takes the agent of a dead harness for dead.
    NoAdopt,
    /// Recovery looks for signs of a start before it asks the keeper.
    LookThenAsk,
    /// What goes back to `pending/` is renamed over what was dropped meanwhile.
    RenameOver,
    /// A keeper's death is taken for a start that never was.
    RequeueStarted,
    /// An end is recorded while people could still take the file: where it lies afterwards, by its
    /// inode, tells recovery whether it was taken away.
    EndUnfenced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Pending,
    Claimed(Id),
    /// `claimed/AGENT/NAME.~ending~`
    Ending(Id),
    Done,
    Parked,
    Removed,
    /// Renamed over: nobody wanted that.
    Lost,
}

/// A file that was dropped; its inode, so to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct File {
    pub name: Id,
    pub place: Place,
    /// How often a person put it back after its end: each is an item accepted anew.
    pub life: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    Good,
    Bad,
    Unknown,
}

/// `state/sessions/SID` and what it did to the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub file: Id,
    pub life: u8,
    pub slot: Id,
    /// `session.json`, `stdout.log`, `exit.json`.
    pub begun: bool,
    pub stdout: bool,
    pub exit: Option<Exit>,
    pub running: bool,
    pub starts: u8,
    pub published: bool,
    /// Its good end is on record.
    pub done: bool,
    /// A person took the file out of `claimed/` while this was its attempt.
    pub taken: bool,
    /// Its folder was removed as that of one that never started.
    pub discarded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    Done,
    Retry,
    Park,
    /// Canceled: the file is where a person put it.
    Leave,
}

/// What `record::History` makes of `items/NAME.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    pub last: Option<(Id, Id)>,
    pub end: Option<Next>,
    pub started: bool,
    pub failures: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keeper {
    Idle,
    /// A request is in its socket.
    Asked(Id),
    Running(Id),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    pub lease: Option<Id>,
    pub keeper: Option<Keeper>,
    /// Whether a living harness is connected to its keeper.
    pub heard: bool,
}

/// How far an actor is. The name, then the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Without a slot.
    Out,
    Recovering,
    Idle,
    Elected(Id),
    /// With the file that was read.
    Read(Id, Id),
    Keyed(Id, Id),
    Intended(Id, Id, Id),
    /// Renamed, not yet on record (only with the fault `TakeBeforeIntend`).
    TookFirst(Id, Id),
    NotWon(Id),
    Taken(Id, Id),
    Begun(Id, Id),
    Starting(Id, Id),
    /// `true`: it was seen that its file is gone, and its agent is told to stop.
    Watching(Id, Id, bool),
    Ended(Id, Id, bool),
    Kept(Id, Id, Next),
    Published(Id, Id, Next),
    /// Its file has its name for the end, or is gone.
    Fenced(Id, Id, Next),
    /// Recorded, `Some` session; or put back.
    Recorded(Id, Option<Id>, Next),
    /// `true`: the file was gone when it was to be moved.
    Moved(Id, Option<Id>, bool),
    Withdraw(Id),
    /// Recovery has looked at the files: whether they show a start.
    Looked(Id, Id, bool),
    PuttingBack(Id, Option<Id>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor {
    pub slot: Option<Id>,
    pub at: At,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub files: Vec<File>,
    pub claims: Vec<Option<Id>>,
    pub key: Option<Id>,
    pub records: Vec<Record>,
    pub sessions: Vec<Session>,
    pub slots: Vec<Slot>,
    pub actors: Vec<Actor>,
    /// What may still happen.
    pub drops: u8,
    pub moves: u8,
    pub kills: u8,
    pub keeper_kills: u8,
}

/// The first field of a step is its actor, of a keeper's its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    // `spool::try_claim`
    Elect(Id, Id),
    Read(Id),
    Key(Id),
    Intend(Id),
    Take(Id),
    Undo(Id),
    // `session::begin`, `keeper::serve`, `session::watch`
    Begin(Id),
    Start(Id),
    Spawn(Id),
    DieStarting(Id),
    Heard(Id),
    SeeItGone(Id),
    End(Id, Exit),
    SeeEnd(Id),
    // `session::conclude`, `Claim::end`
    Keep(Id),
    Publish(Id),
    Fence(Id),
    Record(Id),
    Move(Id),
    LetGo(Id),
    WithdrawLate(Id),
    // `worker`, `recovery`
    Lease(Id, Id),
    Judge(Id, Id),
    Adopt(Id),
    Requeue(Id),
    Settle(Id),
    // The world
    Kill(Id),
    KillKeeper(Id),
    /// A person: by file.
    Drop(Id),
    Cancel(Id),
    Release(Id),
    Retry(Id),
    Remove(Id),
}

#[derive(Clone, Copy)]
pub struct Protocol {
    pub names: Id,
    pub slots: Id,
    /// Actors beyond the slots' own, which only recover.
    pub helpers: Id,
    pub keyed: bool,
    pub drops: u8,
    pub moves: u8,
    pub kills: u8,
    pub keeper_kills: u8,
    /// Whether agents may end badly.
    pub bad: bool,
    pub fault: Fault,
}

const RETRIES: u8 = 1;

impl State {
    pub fn file_at(&self, name: Id, place: Place) -> Option<usize> {
        let here = |f: &File| f.name == name && f.place == place;
        self.files.iter().position(here)
    }

    /// Where a slot has it.
    pub fn held_by(&self, name: Id, slot: Id) -> Option<usize> {
        let claimed = self.file_at(name, Place::Claimed(slot));
        claimed.or_else(|| self.file_at(name, Place::Ending(slot)))
    }

    pub fn session(&self, sid: Id) -> &Session {
        &self.sessions[usize::from(sid)]
    }

    fn session_mut(&mut self, sid: Id) -> &mut Session {
        &mut self.sessions[usize::from(sid)]
    }

    fn slot_of(&self, actor: usize) -> Id {
        self.actors[actor].slot.unwrap_or(0)
    }

    /// `recovery::has_residue`.
    fn has_residue(&self, slot: Id) -> bool {
        let s = &self.slots[usize::from(slot)];
        self.claims.contains(&Some(slot))
            || self.key == Some(slot)
            || s.keeper.is_some()
            || (self.files.iter())
                .any(|f| [Place::Claimed(slot), Place::Ending(slot)].contains(&f.place))
    }

    /// A keeper without harness and without agent ends.
    fn let_keeper_end(&mut self, slot: Id) {
        let slot = &mut self.slots[usize::from(slot)];
        if slot.keeper == Some(Keeper::Idle) && !slot.heard {
            slot.keeper = None;
        }
    }

    /// `atomic::rename_new` to `pending/`, or else, as `Claim::place`, to `parked/`.
    fn return_to_pending(&mut self, file: usize, fault: Fault) {
        let taken = self.file_at(self.files[file].name, Place::Pending);
        self.files[file].place = match taken {
            None => Place::Pending,
            Some(other) if fault == Fault::RenameOver => {
                self.files[other].place = Place::Lost;
                Place::Pending
            }
            Some(_) => Place::Parked,
        };
    }

    fn new_session(&mut self, name: Id, file: Id, slot: Id) -> Id {
        let life = self.files[usize::from(file)].life;
        self.sessions.push(Session {
            file,
            life,
            slot,
            begun: false,
            stdout: false,
            exit: None,
            running: false,
            starts: 0,
            published: false,
            done: false,
            taken: false,
            discarded: false,
        });
        let sid = self.sessions.len() as Id - 1;
        let record = &mut self.records[usize::from(name)];
        record.last = Some((sid, slot));
        (record.end, record.started) = (None, false);
        sid
    }

    /// The line `requeued`.
    fn requeue(&mut self, name: Id, sid: Id) {
        let record = &mut self.records[usize::from(name)];
        if record.last.is_some_and(|(last, _)| last == sid) {
            (record.last, record.end, record.started) = (None, None, false);
        }
    }
}

impl Protocol {
    pub fn init(&self) -> State {
        State {
            files: Vec::new(),
            claims: vec![None; usize::from(self.names)],
            key: None,
            records: vec![Record::default(); usize::from(self.names)],
            sessions: Vec::new(),
            slots: vec![Slot::default(); usize::from(self.slots)],
            actors: vec![
                Actor {
                    slot: None,
                    at: At::Out
                };
                usize::from(self.slots + self.helpers)
            ],
            drops: self.drops,
            moves: self.moves,
            kills: self.kills,
            keeper_kills: self.keeper_kills,
        }
    }

    pub fn steps(&self, s: &State, steps: &mut Vec<Step>) {
        for (n, actor) in s.actors.iter().enumerate() {
            let a = n as Id;
            self.steps_of(s, a, actor, steps);
            if s.kills > 0 && actor.at != At::Out {
                steps.push(Step::Kill(a));
            }
        }
        for (n, slot) in s.slots.iter().enumerate() {
            let n = n as Id;
            match slot.keeper {
                Some(Keeper::Asked(_)) => {
                    steps.push(Step::Spawn(n));
                    if s.keeper_kills > 0 {
                        steps.push(Step::DieStarting(n));
                    }
                }
                Some(Keeper::Running(_)) => {
                    steps.push(Step::End(n, Exit::Good));
                    if self.bad {
                        steps.push(Step::End(n, Exit::Bad));
                    }
                }
                _ => {}
            }
            if s.keeper_kills > 0 && slot.keeper.is_some() {
                steps.push(Step::KillKeeper(n));
            }
        }
        for name in 0..self.names {
            if s.drops > 0 && s.file_at(name, Place::Pending).is_none() {
                steps.push(Step::Drop(name));
            }
        }
        if s.moves == 0 {
            return;
        }
        for (n, file) in s.files.iter().enumerate() {
            let n = n as Id;
            let free = s.file_at(file.name, Place::Pending).is_none();
            match file.place {
                Place::Pending => steps.extend([Step::Cancel(n), Step::Remove(n)]),
                Place::Claimed(_) => {
                    steps.push(Step::Cancel(n));
                    if free {
                        steps.push(Step::Release(n));
                    }
                }
                Place::Done | Place::Parked if free => steps.push(Step::Retry(n)),
                _ => {}
            }
        }
    }

    fn steps_of(&self, s: &State, a: Id, actor: &Actor, steps: &mut Vec<Step>) {
        let keeper = |slot: Option<Id>| s.slots[usize::from(slot.unwrap_or(0))].keeper;
        let slot = actor.slot;
        match actor.at {
            At::Out => {
                for n in 0..self.slots {
                    let free = s.slots[usize::from(n)].lease.is_none();
                    let unfenced = self.fault == Fault::NoLease && s.has_residue(n);
                    if (free || unfenced) && (n == a || s.has_residue(n)) {
                        steps.push(Step::Lease(a, n));
                    }
                }
            }
            At::Idle => {
                // The index (`ready`) offers no name or key in flight; it may be wrong by then.
                for name in 0..self.names {
                    let free = s.claims[usize::from(name)].is_none() && s.key.is_none();
                    if s.file_at(name, Place::Pending).is_some() && free {
                        steps.push(Step::Elect(a, name));
                    }
                }
            }
            At::Elected(_) => steps.push(Step::Read(a)),
            At::Read(..) => steps.push(Step::Key(a)),
            At::Keyed(..) if self.fault == Fault::TakeBeforeIntend => steps.push(Step::Take(a)),
            At::Keyed(..) | At::TookFirst(..) => steps.push(Step::Intend(a)),
            At::Intended(..) => steps.push(Step::Take(a)),
            At::NotWon(_) => steps.push(Step::Undo(a)),
            At::Taken(..) => steps.push(Step::Begin(a)),
            At::Begun(..) => steps.push(Step::Start(a)),
            At::Starting(..) => {
                if !matches!(keeper(slot), Some(Keeper::Asked(_))) {
                    steps.push(Step::Heard(a));
                }
            }
            At::Watching(name, sid, told) => {
                let place = Place::Claimed(slot.unwrap_or(0));
                if !told && s.file_at(name, place).is_none() {
                    steps.push(Step::SeeItGone(a));
                }
                if keeper(slot) != Some(Keeper::Running(sid)) {
                    steps.push(Step::SeeEnd(a));
                }
            }
            At::Ended(..) => steps.push(Step::Keep(a)),
            At::Kept(..) => steps.push(Step::Publish(a)),
            At::Published(..) => steps.push(Step::Fence(a)),
            At::Fenced(..) => steps.push(Step::Record(a)),
            At::Recorded(..) => steps.push(Step::Move(a)),
            At::Moved(..) => steps.push(Step::LetGo(a)),
            At::Withdraw(_) => steps.push(Step::WithdrawLate(a)),
            At::Recovering => {
                let n = slot.unwrap_or(0);
                let mine = (0..self.names).filter(|&name| {
                    s.claims[usize::from(name)] == Some(n) || s.held_by(name, n).is_some()
                });
                let before = steps.len();
                steps.extend(mine.map(|name| Step::Judge(a, name)));
                let asked = matches!(keeper(slot), Some(Keeper::Asked(_)));
                if steps.len() == before && !asked {
                    steps.push(Step::Settle(a));
                }
            }
            At::Looked(..) => {
                // A keeper answers when it has read all that a dead harness asked.
                if !matches!(keeper(slot), Some(Keeper::Asked(_))) {
                    steps.push(Step::Adopt(a));
                }
            }
            At::PuttingBack(..) => steps.push(Step::Requeue(a)),
        }
    }

    pub fn after(&self, s: &State, step: Step) -> State {
        let mut s = s.clone();
        match step {
            Step::Kill(a) => {
                s.kills -= 1;
                let a = usize::from(a);
                if let Some(slot) = s.actors[a].slot.take() {
                    let held = &mut s.slots[usize::from(slot)];
                    if held.lease == Some(a as Id) {
                        held.lease = None;
                    }
                    held.heard = false;
                    s.let_keeper_end(slot);
                }
                s.actors[a].at = At::Out;
            }
            Step::KillKeeper(n) | Step::DieStarting(n) => {
                // Its agent runs on.
                s.keeper_kills -= 1;
                let keeper = s.slots[usize::from(n)].keeper.take();
                if let (Step::DieStarting(_), Some(Keeper::Asked(sid))) = (step, keeper) {
                    s.session_mut(sid).stdout = true;
                }
            }
            Step::Spawn(n) => {
                if let Some(Keeper::Asked(sid)) = s.slots[usize::from(n)].keeper {
                    let session = s.session_mut(sid);
                    (session.stdout, session.running) = (true, true);
                    session.starts += 1;
                    s.slots[usize::from(n)].keeper = Some(Keeper::Running(sid));
                }
            }
            Step::End(n, exit) => {
                if let Some(Keeper::Running(sid)) = s.slots[usize::from(n)].keeper {
                    let session = s.session_mut(sid);
                    (session.running, session.exit) = (false, Some(exit));
                    s.slots[usize::from(n)].keeper = Some(Keeper::Idle);
                    s.let_keeper_end(n);
                }
            }
            Step::Drop(name) => {
                s.drops -= 1;
                s.files.push(File {
                    name,
                    place: Place::Pending,
                    life: 0,
                });
            }
            Step::Cancel(f) | Step::Release(f) | Step::Retry(f) | Step::Remove(f) => {
                s.moves -= 1;
                person(&mut s, step, usize::from(f));
            }
            Step::Elect(a, _) | Step::Lease(a, _) | Step::Judge(a, _) => {
                self.act(&mut s, usize::from(a), step);
            }
            Step::Read(a)
            | Step::Key(a)
            | Step::Intend(a)
            | Step::Take(a)
            | Step::Undo(a)
            | Step::Begin(a)
            | Step::Start(a)
            | Step::Heard(a)
            | Step::SeeItGone(a)
            | Step::SeeEnd(a)
            | Step::Keep(a)
            | Step::Publish(a)
            | Step::Fence(a)
            | Step::Record(a)
            | Step::Move(a)
            | Step::LetGo(a)
            | Step::WithdrawLate(a)
            | Step::Adopt(a)
            | Step::Requeue(a)
            | Step::Settle(a) => self.act(&mut s, usize::from(a), step),
        }
        s
    }
}
