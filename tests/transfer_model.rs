//! Any interleaving of wrap, unwrap, export, import and fork, against a model that says what each
//! must answer (C1 to C4, C8).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use baton::context::Context;
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::Record;
use baton::status::{Major, Minor};
use baton::transfer::{Export, Token, import};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use support::{Talk, domain, in_child, pair, talk};

/// Where the context is, as the promises say.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Here,
    InTransit,
    Ended,
}

/// The model: the place, and how many tokens were ever made (the last is the one that counts).
#[derive(Clone, Debug)]
struct Model {
    place: Place,
    tokens: usize,
}

#[derive(Clone, Debug)]
enum Step {
    /// The context says this to its peer.
    Say(Vec<u8>),
    /// The peer says this; the context hears it, or it waits on the way.
    Hear(Vec<u8>),
    Export,
    /// Import of one of the tokens made so far, counted from the latest.
    Import(usize),
    /// Import of the latest with one bit flipped.
    ImportDamaged(usize),
    /// A forked child tries everything.
    Fork,
    Drop,
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self {
            place: Place::Here,
            tokens: 0,
        })
        .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let text = || prop::collection::vec(any::<u8>(), 0..400);
        prop_oneof![
            6 => text().prop_map(Step::Say),
            6 => text().prop_map(Step::Hear),
            6 => Just(Step::Export),
            6 => Just(Step::Import(0)),
            3 => (1..4_usize).prop_map(Step::Import),
            2 => (0..4096_usize).prop_map(Step::ImportDamaged),
            1 => Just(Step::Fork),
            1 => Just(Step::Drop),
        ]
        .boxed()
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        match (step, &model.place) {
            (Step::Export, Place::Here) => {
                model.place = Place::InTransit;
                model.tokens += 1;
            }
            (Step::Import(0), Place::InTransit) => model.place = Place::Here,
            (Step::Drop, Place::Here) => model.place = Place::Ended,
            _ => {}
        }
        model
    }
}

/// The real thing.
struct Real<F: Talk> {
    domain: Domain,
    context: Option<Context<F>>,
    peer: Context<F>,
    tokens: Vec<Token>,
    /// What the peer has said and the context has not heard, in order.
    under_way: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<F: Talk> Real<F> {
    fn hear_all(&mut self) {
        let Some(context) = self.context.as_mut() else {
            return;
        };
        for (bytes, text) in self.under_way.drain(..) {
            assert_eq!(F::hear(context, bytes).unwrap(), text);
        }
    }

    fn import(&mut self, place: &Place, back: usize) {
        let Some(at) = self.tokens.len().checked_sub(back + 1) else {
            return;
        };
        let imported = import::<F>(&self.domain, self.tokens[at].as_bytes(), None);
        if back == 0 && *place == Place::InTransit {
            self.context = Some(imported.unwrap());
        } else {
            assert_eq!(imported.unwrap_err().major(), Major::NoContext);
        }
    }

    fn import_damaged(&self, bit: usize) {
        let Some(token) = self.tokens.last() else {
            return;
        };
        let mut bytes = token.as_bytes().to_vec();
        let at = bit % (bytes.len() * 8);
        bytes[at / 8] ^= 1 << (at % 8);
        let refused = import::<F>(&self.domain, &bytes, None).unwrap_err();
        assert_eq!(refused.major(), Major::DefectiveToken);
    }

    fn fork(&mut self) {
        let code = in_child(|| {
            if let Some(mut context) = self.context.take() {
                assert_eq!(
                    F::say(&mut context, b"x").unwrap_err().minor(),
                    Minor::ContextForked
                );
                let refused = context.export(&Export::default()).unwrap_err();
                assert_eq!(refused.status.minor(), Minor::ContextForked);
            }
            0
        });
        assert_eq!(code, Some(0));
    }
}

struct Test<F>(std::marker::PhantomData<F>);

impl<F: Talk> StateMachineTest for Test<F> {
    type SystemUnderTest = Real<F>;
    type Reference = Model;

    fn init_test(_: &Model) -> Real<F> {
        let domain = domain();
        let (context, peer) = pair::<F>(&domain);
        Real {
            domain,
            context: Some(context),
            peer,
            tokens: Vec::new(),
            under_way: Vec::new(),
        }
    }

    fn apply(mut real: Real<F>, after: &Model, step: Step) -> Real<F> {
        // The model has already taken the step; what was before follows from what is here.
        let before = match (&real.context, &after.place) {
            (Some(_), _) => Place::Here,
            (None, Place::Ended) => Place::Ended,
            (None, _) => Place::InTransit,
        };
        match step {
            Step::Say(text) => {
                if let Some(context) = real.context.as_mut() {
                    let said = F::say(context, &text).unwrap();
                    assert_eq!(F::hear(&mut real.peer, said).unwrap(), text);
                }
            }
            Step::Hear(text) => {
                let said = F::say(&mut real.peer, &text).unwrap();
                real.under_way.push((said, text));
                real.hear_all();
            }
            Step::Export => {
                if let Some(context) = real.context.take() {
                    real.tokens
                        .push(context.export(&Export::default()).unwrap());
                }
            }
            Step::Import(back) => {
                real.import(&before, back);
                real.hear_all();
            }
            Step::ImportDamaged(bit) => real.import_damaged(bit),
            Step::Fork => real.fork(),
            Step::Drop => drop(real.context.take()),
        }
        real
    }

    fn check_invariants(real: &Real<F>, model: &Model) {
        assert_eq!(real.context.is_some(), model.place == Place::Here);
        assert_eq!(real.tokens.len(), model.tokens);
        if let Some(context) = &real.context {
            context.check().unwrap();
        }
    }

    fn teardown(mut real: Real<F>, _: Model) {
        if let Some(context) = real.context.as_mut() {
            talk(context, &mut real.peer);
        }
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_of_messages_and_hops_is_as_the_model_says(
        sequential 1..40 => Test<Message>
    );

    #[test]
    fn any_interleaving_of_records_and_hops_is_as_the_model_says(
        sequential 1..40 => Test<Record>
    );
}
