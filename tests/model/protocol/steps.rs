//! What each step does to the files, links, locks and records.

use super::*;

impl Protocol {
    pub(super) fn act(&self, s: &mut State, a: usize, step: Step) {
        let slot = s.slot_of(a);
        let claimed = Place::Claimed(slot);
        let fault = self.fault;
        let at = s.actors[a].at;
        let next = match (step, at) {
            // `atomic::link_new(marker, claims/NAME)`
            (Step::Elect(_, name), _) => {
                if fault != Fault::NoElection {
                    s.claims[usize::from(name)] = Some(slot);
                }
                At::Elected(name)
            }
            // `spool::read_whole`
            (Step::Read(_), At::Elected(name)) => match s.file_at(name, Place::Pending) {
                Some(f) => At::Read(name, f as Id),
                None => give_up(s, name, slot),
            },
            (Step::Key(_), At::Read(name, f)) => {
                if !self.keyed {
                    At::Keyed(name, f)
                } else if s.key.is_none() {
                    s.key = Some(slot);
                    At::Keyed(name, f)
                } else {
                    give_up(s, name, slot)
                }
            }
            // `spool::note_claim`
            (Step::Intend(_), At::Keyed(name, f)) => {
                At::Intended(name, f, s.new_session(name, f, slot))
            }
            (Step::Intend(_), At::TookFirst(name, f)) => {
                At::Taken(name, s.new_session(name, f, slot))
            }
            // `rename(pending/NAME, claimed/AGENT/NAME)`, and whether it is the file that was read
            (Step::Take(_), At::Keyed(name, f) | At::Intended(name, f, _)) => {
                let found = s.file_at(name, Place::Pending);
                if let Some(found) = found {
                    s.files[found].place = claimed;
                }
                let right = fault == Fault::AnyFile && found.is_some();
                if right || found == Some(usize::from(f)) {
                    match at {
                        At::Intended(_, _, sid) => At::Taken(name, sid),
                        _ => At::TookFirst(name, f),
                    }
                } else {
                    let last = s.records[usize::from(name)].last;
                    if let (At::Intended(..), Some((sid, _))) = (at, last) {
                        s.requeue(name, sid);
                    }
                    At::NotWon(name)
                }
            }
            (Step::Undo(_), At::NotWon(name)) => {
                if let Some(f) = s.file_at(name, claimed) {
                    s.return_to_pending(f, fault);
                }
                give_up(s, name, slot)
            }
            // The session's folder, the worktree, `session.json`
            (Step::Begin(_), At::Taken(name, sid)) => {
                s.session_mut(sid).begun = true;
                At::Begun(name, sid)
            }
            // `session::begin::start`: a keeper where there is none, and the request
            (Step::Start(_), At::Begun(name, sid)) => {
                let slot = &mut s.slots[usize::from(slot)];
                if !matches!(slot.keeper, Some(Keeper::Running(_) | Keeper::Asked(_))) {
                    slot.keeper = Some(Keeper::Asked(sid));
                }
                slot.heard = true;
                At::Starting(name, sid)
            }
            (Step::Heard(_), At::Starting(name, sid)) => {
                if s.session(sid).stdout {
                    s.records[usize::from(name)].started = true;
                    At::Watching(name, sid, false)
                } else {
                    // `session::give_back`
                    At::PuttingBack(name, Some(sid))
                }
            }
            (Step::SeeItGone(_), At::Watching(name, sid, _)) => At::Watching(name, sid, true),
            // The keeper's word, or `watch::post_mortem`: what still runs is ended first
            (Step::SeeEnd(_), At::Watching(name, sid, told)) => {
                let session = s.session_mut(sid);
                session.running = false;
                session.exit.get_or_insert(Exit::Unknown);
                At::Ended(name, sid, told)
            }
            // `conclude::collect`, then `verdict` with its look at the file
            (Step::Keep(_), At::Ended(name, sid, told)) => {
                let ours = s.file_at(name, claimed).is_some() && !told;
                let again = s.records[usize::from(name)].failures < RETRIES;
                let next = match s.session(sid).exit {
                    Some(Exit::Good) if fault == Fault::PublishUnfenced => Next::Done,
                    _ if !ours => Next::Leave,
                    Some(Exit::Good) => Next::Done,
                    _ if again => Next::Retry,
                    _ => Next::Park,
                };
                At::Kept(name, sid, next)
            }
            // `Hub::publish` as a compare-and-swap; of what is canceled, what a harness that died
            // right here may have published is taken back
            (Step::Publish(_), At::Kept(name, sid, next)) => {
                match next {
                    Next::Done => s.session_mut(sid).published = true,
                    Next::Leave => s.session_mut(sid).published = false,
                    _ => {}
                }
                if fault == Fault::MoveBeforeRecord {
                    At::Recorded(name, Some(sid), next)
                } else {
                    At::Published(name, sid, next)
                }
            }
            // `Claim::fence`; of what a person took away, what was published is taken back
            (Step::Fence(_), At::Published(name, sid, next)) => {
                let here = s.file_at(name, claimed);
                match (here, fault) {
                    _ if next == Next::Leave => At::Fenced(name, sid, next),
                    (_, Fault::PublishUnfenced | Fault::EndUnfenced | Fault::MoveBeforeRecord) => {
                        At::Fenced(name, sid, next)
                    }
                    (Some(f), _) => {
                        s.files[f].place = Place::Ending(slot);
                        At::Fenced(name, sid, next)
                    }
                    (None, Fault::LateWithdraw) => At::Fenced(name, sid, Next::Leave),
                    (None, _) => {
                        s.session_mut(sid).published = false;
                        At::Fenced(name, sid, Next::Leave)
                    }
                }
            }
            (Step::Record(_), At::Fenced(name, sid, next)) => {
                s.session_mut(sid).done = next == Next::Done;
                let record = &mut s.records[usize::from(name)];
                record.end = Some(next);
                match next {
                    Next::Retry => record.failures += 1,
                    Next::Done | Next::Park => record.failures = 0,
                    Next::Leave => {}
                }
                if fault == Fault::EarlyLetGo {
                    s.claims[usize::from(name)] = None;
                }
                if fault == Fault::MoveBeforeRecord {
                    At::Moved(name, Some(sid), false)
                } else {
                    At::Recorded(name, Some(sid), next)
                }
            }
            // `Claim::place`
            (Step::Move(_), At::Recorded(name, sid, next)) => {
                let here = s.held_by(name, slot);
                if let Some(f) = here {
                    match next {
                        Next::Done => s.files[f].place = Place::Done,
                        Next::Park | Next::Leave => s.files[f].place = Place::Parked,
                        Next::Retry => s.return_to_pending(f, fault),
                    }
                }
                match sid {
                    Some(sid) if fault == Fault::MoveBeforeRecord && next != Next::Leave => {
                        At::Published(name, sid, next)
                    }
                    _ => At::Moved(name, sid, here.is_none()),
                }
            }
            // `Claim::end`: the key, then the claim. Where the file is gone by now, it was moved before
            // a death: it was fenced before its end was recorded.
            (Step::LetGo(_), At::Moved(name, sid, gone)) => {
                let taken = sid.filter(|&sid| {
                    let file = &s.files[usize::from(s.session(sid).file)];
                    gone && matches!(file.place, Place::Pending | Place::Parked)
                });
                if let (Some(sid), Fault::EndUnfenced) = (taken, fault) {
                    s.session_mut(sid).published = false;
                }
                let idle = give_up(s, name, slot);
                match taken {
                    Some(sid) if fault == Fault::LateWithdraw => At::Withdraw(sid),
                    _ => idle,
                }
            }
            (Step::WithdrawLate(_), At::Withdraw(sid)) => {
                s.session_mut(sid).published = false;
                At::Idle
            }
            // `Lease::try_take`
            (Step::Lease(_, n), _) => {
                s.actors[a].slot = Some(n);
                s.slots[usize::from(n)].lease = Some(a as Id);
                At::Recovering
            }
            // `recovery::recover_item`
            (Step::Judge(_, name), _) => self.judge(s, name, slot),
            // `recovery::adopt`, then what the files say
            (Step::Adopt(_), At::Looked(name, sid, started)) => {
                let held = &mut s.slots[usize::from(slot)];
                let runs = held.keeper == Some(Keeper::Running(sid)) && fault != Fault::NoAdopt;
                held.heard |= held.keeper.is_some();
                let session = s.session(sid);
                let started = match fault {
                    Fault::LookThenAsk => started,
                    Fault::RequeueStarted => session.exit.is_some(),
                    _ => started || session.stdout || session.exit.is_some(),
                };
                if runs || started {
                    if fault == Fault::NoAdopt {
                        s.slots[usize::from(slot)].keeper = None;
                    }
                    At::Watching(name, sid, false)
                } else {
                    At::PuttingBack(name, Some(sid))
                }
            }
            // `recovery::put_back`, `session::give_back`
            (Step::Requeue(_), At::PuttingBack(name, sid)) => {
                if let Some(sid) = sid {
                    s.requeue(name, sid);
                    s.session_mut(sid).discarded = true;
                }
                At::Recorded(name, None, Next::Retry)
            }
            // The end of `recovery::recover`: what a keeper runs that no claim speaks of is ended
            (Step::Settle(_), _) => {
                if s.key == Some(slot) {
                    s.key = None;
                }
                if let Some(Keeper::Running(sid)) = s.slots[usize::from(slot)].keeper.take() {
                    let session = s.session_mut(sid);
                    (session.running, session.exit) = (false, Some(Exit::Bad));
                }
                At::Idle
            }
            (step, at) => unreachable!("{step:?} at {at:?}"),
        };
        s.actors[a].at = next;
        self.rest(s, a, step);
    }

    /// An item that was recovered is followed by the next; a helper then gives the slot up.
    fn rest(&self, s: &mut State, a: usize, step: Step) {
        let Some(slot) = s.actors[a].slot.filter(|_| s.actors[a].at == At::Idle) else {
            return;
        };
        if !matches!(step, Step::Settle(_)) && usize::from(slot) != a {
            s.actors[a].at = At::Recovering;
        } else if usize::from(slot) != a {
            s.actors[a] = Actor {
                slot: None,
                at: At::Out,
            };
            let held = &mut s.slots[usize::from(slot)];
            (held.lease, held.heard) = (None, false);
            s.let_keeper_end(slot);
        } else if s.claims.contains(&Some(slot)) {
            s.actors[a].at = At::Recovering;
        }
    }

    /// Whether no end of this slot's last attempt is on record.
    fn ends_nowhere(&self, s: &State, name: Id, slot: Id) -> bool {
        let record = &s.records[usize::from(name)];
        let its = record.last.is_some_and(|(_, of)| of == slot);
        !its || record.end.is_none()
    }

    fn judge(&self, s: &mut State, name: Id, slot: Id) -> At {
        let claim = &mut s.claims[usize::from(name)];
        if claim.is_some_and(|holder| holder != slot) {
            if let Some(f) = s.held_by(name, slot) {
                s.return_to_pending(f, self.fault);
            }
            return At::Recovering;
        }
        *claim = Some(slot);
        // `Claim::unfence`: its end is not on record.
        let unended = self.ends_nowhere(s, name, slot);
        if let Some(f) = s.file_at(name, Place::Ending(slot)).filter(|_| unended) {
            s.files[f].place = Place::Claimed(slot);
        }
        let record = s.records[usize::from(name)].clone();
        match record.last.filter(|(_, of)| *of == slot) {
            None => At::PuttingBack(name, None),
            Some((sid, _)) => match record.end {
                Some(next) => At::Recorded(name, Some(sid), next),
                None => {
                    let session = s.session(sid);
                    let started = record.started || session.stdout || session.exit.is_some();
                    At::Looked(name, sid, started)
                }
            },
        }
    }
}

/// The claim, and the key before it, if they are this slot's.
fn give_up(s: &mut State, name: Id, slot: Id) -> At {
    if s.key == Some(slot) {
        s.key = None;
    }
    if s.claims[usize::from(name)] == Some(slot) {
        s.claims[usize::from(name)] = None;
    }
    At::Idle
}

/// `mv` and `rm`, or the commands that do the same.
pub(super) fn person(s: &mut State, step: Step, f: usize) {
    let file = &mut s.files[f];
    if let Place::Claimed(slot) = file.place {
        let last = s.records[usize::from(file.name)].last;
        if let Some((sid, _)) = last.filter(|(_, of)| *of == slot) {
            s.sessions[usize::from(sid)].taken = true;
        }
    }
    if let Step::Retry(_) = step {
        file.life += 1;
        s.records[usize::from(file.name)].failures = 0;
    }
    file.place = match step {
        Step::Cancel(_) => Place::Parked,
        Step::Remove(_) => Place::Removed,
        _ => Place::Pending,
    };
}
