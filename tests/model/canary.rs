//! Holds that are over (ARCHITECTURE.md) as a state machine: one slot of all processes tries first, and the
//! others follow when it has been answered. Each [`Step`] is one change of `NAME.hold` or `NAME.canary`, or
//! one look at them. What is left out: time, but for the end of a hold; budgets; a person who removes a file.

use stateright::{Checker, HasDiscoveries, Model, Property};

type Id = u8;

/// A fault of the protocol, planted into the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A canary's file is written over another one's.
    NoElection,
    /// Whoever is elected does not look at the hold once more.
    NoSecondLook,
    /// The canary goes before the new hold stands.
    FreeBeforeHeld,
    /// An adopted agent is no canary any more.
    AdoptedForgets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Hold {
    Gone,
    Stands,
    /// Its time is over.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Agent {
    None,
    Runs,
    /// It has met the limit again, and no hold says so yet.
    Limited,
}

/// Where a slot is. `bool`: as the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Its harness is dead.
    Out,
    Idle,
    /// It has seen a hold that is over.
    SawOver,
    SawNoCanary,
    Linked,
    Admitted(bool),
    Runs(bool),
    /// Its agent was answered: the hold goes, then the canary.
    Lifts,
    /// Its agent has met the limit again.
    Met,
    GivesBack,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    hold: Hold,
    canary: Option<Id>,
    slots: Vec<At>,
    /// What its session tells of its agent, be its harness alive or not.
    agents: Vec<Agent>,
    /// Starts since the hold was raised, but for what was given back untried.
    tries: u8,
    limits: u8,
    kills: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look(Id),
    Link(Id),
    LookAgain(Id),
    Start(Id),
    /// It is taken away before its agent was started.
    Cancel(Id),
    /// Its agent is answered.
    Answer(Id),
    LiftHold(Id),
    MeetLimit(Id),
    Raise(Id),
    GiveBack(Id),
    End(Id),
    Recover(Id),
    Kill(Id),
    HoldEnds,
}

#[derive(Clone, Copy, Debug)]
struct World {
    slots: Id,
    limits: u8,
    kills: u8,
    fault: Fault,
}

impl World {
    fn steps(&self, s: &State, steps: &mut Vec<Step>) {
        // Whoever waits for another one's answer does nothing.
        let may_look = |id| match s.hold {
            Hold::Gone => true,
            Hold::Stands => false,
            Hold::Over => s.canary.is_none_or(|canary| canary == id),
        };
        for (n, at) in s.slots.iter().enumerate() {
            let id = n as Id;
            match at {
                At::Out => steps.push(Step::Recover(id)),
                At::Idle if may_look(id) => steps.push(Step::Look(id)),
                At::SawOver => steps.push(Step::Look(id)),
                At::Idle | At::Done => {}
                At::SawNoCanary => steps.push(Step::Link(id)),
                At::Linked => steps.push(Step::LookAgain(id)),
                At::Admitted(_) => steps.extend([Step::Start(id), Step::Cancel(id)]),
                At::Runs(true) => steps.extend([Step::Answer(id), Step::MeetLimit(id)]),
                At::Runs(false) => steps.extend([Step::End(id), Step::MeetLimit(id)]),
                At::Lifts => steps.push(Step::LiftHold(id)),
                At::Met => steps.push(Step::Raise(id)),
                At::GivesBack => steps.push(Step::GiveBack(id)),
            }
            if s.kills > 0 && *at != At::Out && *at != At::Done {
                steps.push(Step::Kill(id));
            }
        }
        if s.limits == 0 {
            steps.retain(|step| !matches!(step, Step::MeetLimit(_)));
        }
        if s.hold == Hold::Stands {
            steps.push(Step::HoldEnds);
        }
    }

    fn after(&self, s: &State, step: Step) -> State {
        let mut s = s.clone();
        match step {
            Step::HoldEnds => s.hold = Hold::Over,
            Step::Kill(id) => {
                s.kills -= 1;
                s.slots[usize::from(id)] = At::Out;
            }
            Step::Look(id) | Step::Link(id) | Step::LookAgain(id) => {
                let at = self.elect(&mut s, step, id);
                s.slots[usize::from(id)] = at;
            }
            Step::Start(id) | Step::Cancel(id) | Step::Answer(id) | Step::LiftHold(id) => {
                let at = self.attempt(&mut s, step, id);
                s.slots[usize::from(id)] = at;
            }
            Step::MeetLimit(id) | Step::Raise(id) | Step::GiveBack(id) => {
                let at = self.give_back(&mut s, step, id);
                s.slots[usize::from(id)] = at;
            }
            Step::End(id) => {
                s.agents[usize::from(id)] = Agent::None;
                s.slots[usize::from(id)] = At::Done;
            }
            Step::Recover(id) => self.recover(&mut s, id),
        }
        s
    }

    /// `elect`
    fn elect(&self, s: &mut State, step: Step, id: Id) -> At {
        match (step, s.slots[usize::from(id)]) {
            (Step::Look(_), At::Idle) => match s.hold {
                Hold::Gone => At::Admitted(false),
                Hold::Stands => At::Idle,
                Hold::Over => At::SawOver,
            },
            (Step::Look(_), _) => match s.canary {
                Some(canary) if canary == id => At::Admitted(true),
                Some(_) if self.fault != Fault::NoElection => At::Idle,
                _ => At::SawNoCanary,
            },
            (Step::Link(_), _) if s.canary.is_some() && self.fault != Fault::NoElection => At::Idle,
            (Step::Link(_), _) => {
                s.canary = Some(id);
                At::Linked
            }
            _ if s.hold == Hold::Over || self.fault == Fault::NoSecondLook => At::Admitted(true),
            _ => At::GivesBack,
        }
    }

    /// `start` and `answered`
    fn attempt(&self, s: &mut State, step: Step, id: Id) -> At {
        let first = s.slots[usize::from(id)] == At::Admitted(true);
        match step {
            // Asked once more right before the start.
            Step::Start(_) if s.hold == Hold::Stands => At::GivesBack,
            Step::Start(_) => {
                s.agents[usize::from(id)] = Agent::Runs;
                s.tries += u8::from(first);
                At::Runs(first)
            }
            Step::Cancel(_) if first => At::GivesBack,
            Step::Cancel(_) => At::Idle,
            Step::Answer(_) => At::Lifts,
            // Read once more: a newer one stays.
            _ => {
                if s.hold == Hold::Over {
                    s.hold = Hold::Gone;
                    s.tries = 0;
                }
                At::GivesBack
            }
        }
    }

    /// `met again` and `given back`
    fn give_back(&self, s: &mut State, step: Step, id: Id) -> At {
        let others = s.canary.filter(|canary| *canary != id);
        match step {
            Step::MeetLimit(_) => {
                s.limits -= 1;
                s.agents[usize::from(id)] = Agent::Limited;
                if self.fault == Fault::FreeBeforeHeld {
                    s.canary = others;
                }
                At::Met
            }
            Step::Raise(_) => {
                s.hold = Hold::Stands;
                s.tries = 0;
                s.agents[usize::from(id)] = Agent::None;
                At::GivesBack
            }
            _ => {
                s.canary = others;
                match s.agents[usize::from(id)] {
                    Agent::Runs => At::Runs(false),
                    _ => At::Idle,
                }
            }
        }
    }

    /// Whoever takes the slot of a dead harness.
    fn recover(&self, s: &mut State, id: Id) {
        let is_canary = s.canary == Some(id);
        s.slots[usize::from(id)] = match s.agents[usize::from(id)] {
            Agent::Runs if is_canary && self.fault != Fault::AdoptedForgets => At::Runs(true),
            Agent::Runs => At::Runs(false),
            Agent::Limited => At::Met,
            Agent::None => At::GivesBack,
        };
    }
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let slots = usize::from(self.slots);
        vec![State {
            hold: Hold::Over,
            canary: None,
            slots: vec![At::Idle; slots],
            agents: vec![Agent::None; slots],
            tries: 0,
            limits: self.limits,
            kills: self.kills,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.steps(state, actions);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        Some(self.after(state, step))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one tries first", |_, s: &State| s.tries <= 1),
            Property::always("nothing is left over", |m: &World, s: &State| {
                let mut steps = Vec::new();
                m.steps(s, &mut steps);
                steps.retain(|step| !matches!(step, Step::Kill(_)));
                let is_done = s.slots.iter().all(|at| *at == At::Done);
                !steps.is_empty() || is_done && s.hold == Hold::Gone && s.canary.is_none()
            }),
            Property::sometimes("all follow", |_, s: &State| {
                s.slots.iter().all(|at| *at == At::Done)
            }),
        ]
    }
}

const WORLD: World = World {
    slots: 3,
    limits: 1,
    kills: 1,
    fault: Fault::None,
};

#[test]
fn one_slot_tries_first_and_the_others_follow() {
    let larger = World {
        limits: 2,
        kills: 2,
        ..WORLD
    };
    for world in [WORLD, larger] {
        let checker = world.checker().threads(2).spawn_bfs().join();
        println!("{world:?}: {} states", checker.unique_state_count());
        checker.assert_properties();
    }
}

#[test]
fn every_fault_of_holds_is_found() {
    for (fault, property) in [
        (Fault::NoElection, "one tries first"),
        (Fault::NoSecondLook, "one tries first"),
        (Fault::FreeBeforeHeld, "one tries first"),
        (Fault::AdoptedForgets, "nothing is left over"),
    ] {
        let world = World { fault, ..WORLD };
        let checker = world.checker().finish_when(HasDiscoveries::AnyFailures);
        let found = checker.spawn_bfs().join().discoveries();
        let path = found.get(property).map(|path| path.clone().into_actions());
        assert!(path.is_some(), "{fault:?} is not found by {property:?}");
        println!("{fault:?}: {:?}", path.unwrap_or_default());
    }
}
