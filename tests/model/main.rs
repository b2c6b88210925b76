//! The protocol of claim, start, finish, recovery, cancel and re-drop, checked exhaustively: every
//! interleaving of actors, keepers, a person and deaths, within the bounds of each world below.
//! `protocol` has the steps, named as in ARCHITECTURE.md; here is what must hold, and the faults
//! of the protocol that must be found. `canary` is a small model of its own. `HARNESS_MODEL=large` looks at larger worlds.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail by panicking, and say how much they looked at"
)]

mod canary;
mod protocol;

use protocol::{Actor, At, Exit, Fault, Id, Place, Protocol, State, Step};
use stateright::{Checker, HasDiscoveries, Model, Property};

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.init()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.steps(state, actions);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        Some(self.after(state, step))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a name has one holder", |_, s| has_one_holder(s)),
            Property::always("an attempt is started once", started_once),
            Property::always(
                "an agent outlives its harness",
                |m: &Protocol, s: &State| {
                    let known = |x: &protocol::Session| x.exit != Some(Exit::Unknown);
                    m.keeper_kills > 0 || s.sessions.iter().all(known)
                },
            ),
            Property::always("what was read is what runs", |_, s| runs_what_was_read(s)),
            Property::always("an item is published once", |_, s| published_once(s)),
            Property::always("what is taken away publishes nothing", |_, s| {
                is_withdrawn(s)
            }),
            Property::always("what is done was done", |_, s| done_was_done(s)),
            Property::always("what has ended well stays published", |_, s: &State| {
                s.sessions.iter().all(|x| !x.done || x.published)
            }),
            Property::always("nothing is lost", |_, s: &State| {
                s.files.iter().all(|f| f.place != Place::Lost)
            }),
            Property::always("everything ends, and nothing is left over", |m, s| {
                ends_clean(m, s)
            }),
            // That the worlds are not empty.
            Property::sometimes("an item ends well", |_, s: &State| {
                s.files.iter().any(|f| f.place == Place::Done)
            }),
        ]
    }
}

/// The name that an actor works on, once it has won the election, until it gives the claim up.
fn name_of(actor: &Actor) -> Option<Id> {
    match actor.at {
        At::Out | At::Recovering | At::Idle | At::Withdraw(_) => None,
        At::Elected(n) | At::NotWon(n) | At::Read(n, _) | At::Keyed(n, _) => Some(n),
        At::TookFirst(n, _) | At::Intended(n, ..) | At::Taken(n, _) => Some(n),
        At::Begun(n, _) | At::Starting(n, _) | At::Watching(n, ..) => Some(n),
        At::Ended(n, ..) | At::Kept(n, ..) | At::Published(n, ..) => Some(n),
        At::Fenced(n, ..) => Some(n),
        At::Recorded(n, ..) | At::Moved(n, ..) | At::Looked(n, ..) => Some(n),
        At::PuttingBack(n, _) => Some(n),
    }
}

fn has_one_holder(s: &State) -> bool {
    let mut names: Vec<Id> = s.actors.iter().filter_map(name_of).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    names.len() == all
}

/// Once each; never two of one file at a time; never forgotten: what goes back as never started
/// never was; and not again after a good end.
fn started_once(_: &Protocol, s: &State) -> bool {
    let running = |file: Id| {
        s.sessions
            .iter()
            .filter(move |x| x.running && x.file == file)
    };
    let again = |sid: usize, x: &protocol::Session| {
        let later = |y: &protocol::Session| (y.file, y.life) == (x.file, x.life) && y.starts > 0;
        s.sessions[sid + 1..].iter().any(later)
    };
    s.sessions.iter().enumerate().all(|(sid, x)| {
        let well = x.exit == Some(Exit::Good) && !x.taken;
        x.starts <= 1 && !(x.discarded && x.starts > 0) && !(well && again(sid, x))
    }) && (0..s.files.len()).all(|f| running(f as Id).count() <= 1)
}

fn runs_what_was_read(s: &State) -> bool {
    s.actors.iter().all(|actor| match actor.at {
        At::Taken(name, sid) | At::Begun(name, sid) => {
            let there = s.file_at(name, Place::Claimed(actor.slot.unwrap_or(0)));
            there.is_none_or(|f| f == usize::from(s.session(sid).file))
        }
        _ => true,
    })
}

fn published_once(s: &State) -> bool {
    let published = s.sessions.iter().filter(|x| x.published);
    let mut lives: Vec<(Id, u8)> = published.map(|x| (x.file, x.life)).collect();
    let all = lives.len();
    lives.sort_unstable();
    lives.dedup();
    lives.len() == all
}

/// At the latest when its claim is given up.
fn is_withdrawn(s: &State) -> bool {
    s.sessions.iter().enumerate().all(|(sid, x)| {
        let name = usize::from(s.files[usize::from(x.file)].name);
        let last = s.records[name].last == Some((sid as Id, x.slot));
        let held = last && s.claims[name] == Some(x.slot);
        !(x.published && x.taken) || held
    })
}

/// In `done/` is what an attempt in this life of it did well and published.
fn done_was_done(s: &State) -> bool {
    s.files.iter().enumerate().all(|(f, file)| {
        let good = |x: &protocol::Session| {
            let its = usize::from(x.file) == f && x.life == file.life;
            its && x.published && x.exit == Some(Exit::Good) && x.starts == 1
        };
        file.place != Place::Done || s.sessions.iter().any(good)
    })
}

/// Where nothing can happen any more but deaths and people's deeds, everything has ended.
fn ends_clean(m: &Protocol, s: &State) -> bool {
    let mut steps = Vec::new();
    m.steps(s, &mut steps);
    let of_the_world = |step: &Step| {
        matches!(
            step,
            Step::Kill(_)
                | Step::KillKeeper(_)
                | Step::Drop(_)
                | Step::Cancel(_)
                | Step::Release(_)
                | Step::Retry(_)
                | Step::Remove(_)
        )
    };
    if !steps.iter().all(of_the_world) {
        return true;
    }
    let ended = |f: &protocol::File| !matches!(f.place, Place::Pending | Place::Claimed(_));
    s.files.iter().all(ended)
        && s.claims.iter().all(Option::is_none)
        && s.key.is_none()
        && s.sessions.iter().all(|x| !x.running)
        && s.actors.iter().all(|a| matches!(a.at, At::Idle | At::Out))
}

/// One name, dropped twice; two slots.
const WORLD: Protocol = Protocol {
    names: 1,
    slots: 2,
    helpers: 0,
    keyed: false,
    drops: 2,
    moves: 0,
    kills: 0,
    keeper_kills: 0,
    bad: false,
    fault: Fault::None,
};

fn check(what: &str, world: Protocol) {
    let begun = std::time::Instant::now();
    let checker = world.checker().threads(2).spawn_bfs().join();
    println!(
        "{what}: {} states, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    checker.assert_properties();
}

/// The worlds are small so that all of them together end within half a minute of a debug build;
/// with the variable set, larger ones are looked at as well.
fn large() -> bool {
    std::env::var("HARNESS_MODEL").is_ok_and(|v| v == "large")
}

#[test]
fn a_name_dropped_twice_with_a_death_and_a_person() {
    check(
        "a death and a deed",
        Protocol {
            moves: 1,
            kills: 1,
            ..WORLD
        },
    );
    if large() {
        check(
            "two deaths and a deed",
            Protocol {
                moves: 1,
                kills: 2,
                ..WORLD
            },
        );
        check(
            "three actors",
            Protocol {
                helpers: 1,
                moves: 1,
                kills: 1,
                ..WORLD
            },
        );
    }
}

#[test]
fn one_item_with_deaths_of_harness_and_keeper_and_a_person() {
    let one = Protocol { drops: 1, ..WORLD };
    check(
        "a deed and a keeper's death",
        Protocol {
            moves: 1,
            keeper_kills: 1,
            ..one
        },
    );
    check(
        "both deaths",
        Protocol {
            kills: 1,
            keeper_kills: 1,
            bad: true,
            ..one
        },
    );
    if large() {
        let one = Protocol { bad: true, ..one };
        check(
            "one of each",
            Protocol {
                moves: 1,
                kills: 1,
                keeper_kills: 1,
                ..one
            },
        );
        check(
            "two deaths of harnesses, one of a keeper",
            Protocol {
                kills: 2,
                keeper_kills: 1,
                ..one
            },
        );
    }
}

#[test]
fn two_names_with_one_key() {
    let two = Protocol {
        names: 2,
        keyed: true,
        ..WORLD
    };
    check("a key and a death", Protocol { kills: 1, ..two });
    if large() {
        check(
            "a key, a death and a deed",
            Protocol {
                kills: 1,
                moves: 1,
                ..two
            },
        );
    }
}

#[test]
fn every_fault_of_the_protocol_is_found() {
    let deed = Protocol { moves: 1, ..WORLD };
    let death = Protocol {
        kills: 1,
        drops: 1,
        ..WORLD
    };
    let again = Protocol { kills: 1, ..WORLD };
    let deaths = Protocol {
        keeper_kills: 1,
        ..death
    };
    let both = Protocol {
        moves: 1,
        kills: 1,
        drops: 1,
        ..WORLD
    };
    let faults = [
        (Fault::NoLease, WORLD, "a name has one holder"),
        (Fault::NoElection, WORLD, "a name has one holder"),
        (Fault::AnyFile, deed, "what was read is what runs"),
        (Fault::TakeBeforeIntend, again, "what is done was done"),
        (
            Fault::PublishUnfenced,
            both,
            "what is taken away publishes nothing",
        ),
        (
            Fault::LateWithdraw,
            both,
            "what is taken away publishes nothing",
        ),
        (Fault::MoveBeforeRecord, death, "what is done was done"),
        (Fault::EarlyLetGo, WORLD, "a name has one holder"),
        (Fault::NoAdopt, death, "an agent outlives its harness"),
        (Fault::LookThenAsk, death, "an attempt is started once"),
        (Fault::RenameOver, again, "nothing is lost"),
        (Fault::RequeueStarted, deaths, "an attempt is started once"),
        (
            Fault::EndUnfenced,
            both,
            "what has ended well stays published",
        ),
    ];
    for (fault, world, property) in faults {
        let world = Protocol { fault, ..world };
        let checker = world.checker().finish_when(HasDiscoveries::AnyFailures);
        let checker = checker.spawn_bfs().join();
        let found = checker.discoveries();
        let failed: Vec<&str> = found
            .keys()
            .copied()
            .filter(|p| *p != "an item ends well")
            .collect();
        println!(
            "{fault:?}: {failed:?} after {} states",
            checker.unique_state_count()
        );
        let path = found.get(property).map(|p| p.clone().into_actions());
        assert!(path.is_some(), "{fault:?} is not found by {property:?}");
        println!("    {:?}", path.unwrap_or_default());
    }
}
