//! The table against a model, with owners that die and claims that should be dead.

use core::sync::atomic::AtomicU64;
use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::*;

const CAPACITY: usize = 3;
const OWNERS: u32 = 3;

/// Where a context of the model is.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Active { owner: u32 },
    Transit { deadline: u64 },
    Over { cause: Cause, told: bool },
}

#[derive(Clone, Debug)]
struct Context {
    place: Place,
    hops: usize,
}

/// What the table must answer to the last transition.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Nothing,
    Done(bool),
    Arrived,
    Spent,
    Expired,
    Ended,
    Number(usize),
    Told(BTreeSet<usize>),
}

#[derive(Clone, Debug)]
enum Step {
    Establish {
        owner: u32,
    },
    Depart {
        context: usize,
        hop: usize,
        after: u64,
    },
    Arrive {
        context: usize,
        hop: usize,
        owner: u32,
    },
    End {
        context: usize,
        hop: usize,
    },
    Revoke {
        context: usize,
    },
    Die {
        owner: u32,
    },
    Pass {
        time: u64,
    },
    Sweep,
    Collect,
}

#[derive(Clone, Debug)]
struct Model<const COLLECTED: bool> {
    now: u64,
    contexts: Vec<Context>,
    dead: BTreeSet<u32>,
    answer: Answer,
}

impl<const COLLECTED: bool> Model<COLLECTED> {
    fn occupied(&self) -> usize {
        let frees = |place: &Place| matches!(place, Place::Over { told: true, .. });
        self.contexts
            .iter()
            .filter(|context| !frees(&context.place))
            .count()
    }

    fn end(&mut self, context: usize, cause: Cause) {
        self.contexts[context].place = Place::Over {
            cause,
            told: !COLLECTED,
        };
    }

    /// Whether the claim of this hop is the living one.
    fn runs(&self, context: usize, hop: usize) -> bool {
        let context = &self.contexts[context];
        matches!(context.place, Place::Active { .. }) && context.hops == hop
    }
}

impl<const COLLECTED: bool> ReferenceStateMachine for Model<COLLECTED> {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let answer = Answer::Nothing;
        Just(Self {
            now: 1000,
            contexts: Vec::new(),
            dead: BTreeSet::new(),
            answer,
        })
        .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Step> {
        let owner = 0..OWNERS;
        let fresh = owner.clone().prop_map(|owner| Step::Establish { owner });
        if state.contexts.is_empty() {
            return fresh.boxed();
        }
        let number = state.contexts.len();
        // Mostly the latest contexts and hops, sometimes any that ever was.
        let context = prop_oneof![0..number, number.saturating_sub(CAPACITY)..number];
        let contexts = state.contexts.clone();
        let claim = context.clone().prop_flat_map(move |context| {
            let hops = contexts[context].hops;
            (Just(context), prop_oneof![Just(hops), Just(hops), 0..=hops])
        });
        prop_oneof![
            3 => fresh,
            4 => (claim.clone(), 0..300u64)
                .prop_map(|((context, hop), after)| Step::Depart { context, hop, after }),
            6 => (claim.clone(), owner.clone())
                .prop_map(|((context, hop), owner)| Step::Arrive { context, hop, owner }),
            1 => claim.prop_map(|(context, hop)| Step::End { context, hop }),
            1 => context.prop_map(|context| Step::Revoke { context }),
            1 => owner.prop_map(|owner| Step::Die { owner }),
            1 => (0..200u64).prop_map(|time| Step::Pass { time }),
            1 => Just(Step::Sweep),
            1 => Just(Step::Collect),
        ]
        .boxed()
    }

    fn preconditions(state: &Self, step: &Step) -> bool {
        match *step {
            Step::Establish { owner } | Step::Die { owner } => !state.dead.contains(&owner),
            Step::Arrive { context, owner, .. } => {
                context < state.contexts.len() && !state.dead.contains(&owner)
            }
            Step::Depart { context, hop, .. } | Step::End { context, hop } => {
                // The dead do nothing.
                state
                    .contexts
                    .get(context)
                    .is_some_and(|found| match found.place {
                        Place::Active { owner } => {
                            found.hops != hop || !state.dead.contains(&owner)
                        }
                        _ => true,
                    })
            }
            Step::Revoke { context } => context < state.contexts.len(),
            Step::Pass { .. } | Step::Sweep | Step::Collect => true,
        }
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.answer = match *step {
            Step::Establish { owner } => {
                let room = state.occupied() < CAPACITY;
                if room {
                    state.contexts.push(Context {
                        place: Place::Active { owner },
                        hops: 0,
                    });
                }
                Answer::Done(room)
            }
            Step::Depart {
                context,
                hop,
                after,
            } => {
                let runs = state.runs(context, hop);
                if runs {
                    state.contexts[context].hops += 1;
                    state.contexts[context].place = Place::Transit {
                        deadline: state.now + after,
                    };
                }
                Answer::Done(runs)
            }
            Step::Arrive {
                context,
                hop,
                owner,
            } => match state.contexts[context].place {
                Place::Transit { deadline } if state.contexts[context].hops == hop => {
                    if state.now < deadline {
                        state.contexts[context].place = Place::Active { owner };
                        Answer::Arrived
                    } else {
                        state.end(context, Cause::Expired);
                        Answer::Expired
                    }
                }
                Place::Over { cause, .. } if state.contexts[context].hops == hop => match cause {
                    Cause::Expired => Answer::Expired,
                    _ => Answer::Ended,
                },
                _ => Answer::Spent,
            },
            Step::End { context, hop } => {
                let runs = state.runs(context, hop);
                if runs {
                    state.end(context, Cause::Closed);
                }
                Answer::Done(runs)
            }
            Step::Revoke { context } => {
                let over = matches!(state.contexts[context].place, Place::Over { .. });
                if !over {
                    state.end(context, Cause::Revoked);
                }
                Answer::Done(!over)
            }
            Step::Die { owner } => {
                state.dead.insert(owner);
                Answer::Nothing
            }
            Step::Pass { time } => {
                state.now += time;
                Answer::Nothing
            }
            Step::Sweep => {
                let mut ended = 0;
                for context in 0..state.contexts.len() {
                    let cause = match state.contexts[context].place {
                        Place::Active { owner } if state.dead.contains(&owner) => Cause::OwnerDied,
                        Place::Transit { deadline } if state.now >= deadline => Cause::Expired,
                        _ => continue,
                    };
                    state.end(context, cause);
                    ended += 1;
                }
                // Their slots are free for others.
                state.dead.clear();
                Answer::Number(ended)
            }
            Step::Collect => {
                let mut told = BTreeSet::new();
                for (number, context) in state.contexts.iter_mut().enumerate() {
                    if let Place::Over {
                        told: already @ false,
                        ..
                    } = &mut context.place
                    {
                        *already = true;
                        told.insert(number);
                    }
                }
                Answer::Told(told)
            }
        };
        state
    }
}

/// The table, and every control word it ever gave.
struct Real<const COLLECTED: bool> {
    words: Vec<AtomicU64>,
    layout: Layout,
    contexts: Vec<Seen>,
    /// The context each entry was given last.
    latest: HashMap<usize, usize>,
    dead: BTreeSet<u32>,
    now: u64,
}

struct Seen {
    index: usize,
    id: [u64; 2],
    /// The control words of its activations, by hop; the last may be missing.
    active: HashMap<usize, Control>,
    /// The epoch of each departure, by hop.
    epochs: HashMap<usize, u64>,
}

impl<const COLLECTED: bool> Real<COLLECTED> {
    fn table(&self) -> Table<'_, AtomicU64> {
        Table::new(&self.words, &self.layout, COLLECTED)
    }
}

impl<const COLLECTED: bool> StateMachineTest for Real<COLLECTED> {
    type SystemUnderTest = Self;
    type Reference = Model<COLLECTED>;

    fn init_test(_: &Model<COLLECTED>) -> Self {
        let layout = Layout::new((CAPACITY as u64, 1)).expect("within bounds");
        Self {
            words: (0..layout.len).map(|_| AtomicU64::new(0)).collect(),
            layout,
            contexts: Vec::new(),
            latest: HashMap::new(),
            dead: BTreeSet::new(),
            now: 1000,
        }
    }

    fn apply(mut real: Self, model: &Model<COLLECTED>, step: Step) -> Self {
        let answer =
            match step {
                Step::Establish { owner } => {
                    let number = real.contexts.len();
                    let id = [number as u64 + 1, 7];
                    let made = real
                        .table()
                        .establish(owner, id, number * 64, &|_| Ok(()))
                        .expect("memory is always backed");
                    if let Some((index, control)) = made {
                        let active = HashMap::from([(0, control)]);
                        real.contexts.push(Seen {
                            index,
                            id,
                            active,
                            epochs: HashMap::new(),
                        });
                        real.latest.insert(index, number);
                    }
                    Answer::Done(made.is_some())
                }
                Step::Depart {
                    context,
                    hop,
                    after,
                } => {
                    let seen = &real.contexts[context];
                    let departed = seen.active.get(&hop).and_then(|control| {
                        real.table().depart(seen.index, *control, real.now + after)
                    });
                    if let Some(transit) = departed {
                        real.contexts[context]
                            .epochs
                            .insert(hop + 1, transit.serial());
                    }
                    Answer::Done(departed.is_some())
                }
                Step::Arrive {
                    context,
                    hop,
                    owner,
                } => {
                    let seen = &real.contexts[context];
                    // Hop 0 had no token: as one, its epoch is that of the establishment.
                    let epoch = seen.epochs.get(&hop).copied();
                    let epoch = epoch.unwrap_or_else(|| seen.active[&0].serial());
                    let arrived = real
                        .table()
                        .arrive(seen.index, seen.id, epoch, owner, real.now);
                    match arrived {
                        Ok(control) => {
                            real.contexts[context].active.insert(hop, control);
                            Answer::Arrived
                        }
                        Err(Refusal::Spent) => Answer::Spent,
                        Err(Refusal::Expired) => Answer::Expired,
                        Err(Refusal::Ended) if real.latest[&seen.index] != context => {
                            // The entry is another context's: that is all it can say.
                            model.answer.clone()
                        }
                        Err(Refusal::Ended) => Answer::Ended,
                        Err(refusal) => panic!("{refusal}"),
                    }
                }
                Step::End { context, hop } => {
                    let seen = &real.contexts[context];
                    Answer::Done(seen.active.get(&hop).is_some_and(|control| {
                        real.table().over(seen.index, *control, Cause::Closed)
                    }))
                }
                Step::Revoke { context } => {
                    Answer::Done(real.table().revoke(real.contexts[context].id))
                }
                Step::Die { owner } => {
                    real.dead.insert(owner);
                    Answer::Nothing
                }
                Step::Pass { time } => {
                    real.now += time;
                    Answer::Nothing
                }
                Step::Sweep => {
                    let ended = real
                        .table()
                        .sweep(real.now, |owner| real.dead.contains(&owner));
                    real.dead.clear();
                    Answer::Number(ended)
                }
                Step::Collect => {
                    let mut told = BTreeSet::new();
                    while let Some(taken) = real.table().take(0, 0) {
                        let number = taken.id[0] as usize - 1;
                        assert!(told.insert(number), "told once");
                        assert!(!taken.repeated);
                        let Place::Over { cause, .. } = model.contexts[number].place else {
                            panic!("not over");
                        };
                        assert_eq!(taken.control.cause(), Some(cause));
                        real.table().give_back(&taken, true);
                    }
                    Answer::Told(told)
                }
            };
        assert_eq!(answer, model.answer);
        real
    }

    fn check_invariants(real: &Self, model: &Model<COLLECTED>) {
        let census = real.table().census();
        let count = |is: fn(&Place) -> bool| model.contexts.iter().filter(|c| is(&c.place)).count();
        assert_eq!(
            census.active,
            count(|place| matches!(place, Place::Active { .. }))
        );
        assert_eq!(
            census.transit,
            count(|place| matches!(place, Place::Transit { .. }))
        );
        assert_eq!(
            census.ended,
            count(|place| matches!(place, Place::Over { told: false, .. }))
        );
        // Of all control words ever given for a context, at most one is the entry's.
        for seen in &real.contexts {
            let entry = real.table().entry(seen.index).expect("in use");
            let alive = seen
                .active
                .values()
                .filter(|control| entry[CONTROL].get() == control.0);
            assert!(alive.count() <= 1);
        }
    }
}

//= proves spec/ledger.md#states
//= proves spec/ledger.md#refusals
//= proves C3
prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_model_does(sequential 1..60 => Real<false>);

    #[test]
    fn the_table_does_what_the_model_does_when_releases_are_collected(
        sequential 1..60 => Real<true>
    );
}
