use std::collections::BTreeSet;

use super::*;

/// The fields of a state in the order of the page, written by hand.
#[derive(Clone)]
struct Fields {
    suite: u16,
    flags: u8,
    tx_generation: u32,
    tx_secret: Vec<u8>,
    tx_key: Vec<u8>,
    tx_sequence: u64,
    tx_messages: u32,
    tx_bytes: u64,
    rx_generation: u32,
    rx_secret: Vec<u8>,
    rx_key: Vec<u8>,
    rx_next: u64,
    rx_seen: [u128; 2],
    rx_since: u64,
    rx_previous: Option<Vec<u8>>,
}

impl Fields {
    /// A state in the middle of its life.
    fn good() -> Self {
        Self {
            suite: 0x1302,
            flags: 0x0f,
            tx_generation: 2,
            tx_secret: vec![1; 48],
            tx_key: vec![2; 44],
            tx_sequence: 1000,
            tx_messages: 300,
            tx_bytes: 300 * 16 + 5000,
            rx_generation: 3,
            rx_secret: vec![3; 48],
            rx_key: vec![4; 44],
            rx_next: 500,
            rx_seen: [u128::MAX, 7],
            rx_since: 400,
            rx_previous: Some(vec![5; 44]),
        }
    }

    /// The encoding of the page, not of the library.
    fn encode(&self) -> Vec<u8> {
        fn varint(out: &mut Vec<u8>, mut number: u128) {
            while number >= 0x80 {
                out.push(number as u8 | 0x80);
                number >>= 7;
            }
            out.push(number as u8);
        }
        fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
            varint(out, bytes.len() as u128);
            out.extend_from_slice(bytes);
        }
        let mut out = Vec::new();
        varint(&mut out, self.suite.into());
        out.push(self.flags);
        varint(&mut out, self.tx_generation.into());
        bytes(&mut out, &self.tx_secret);
        bytes(&mut out, &self.tx_key);
        varint(&mut out, self.tx_sequence.into());
        varint(&mut out, self.tx_messages.into());
        varint(&mut out, self.tx_bytes.into());
        varint(&mut out, self.rx_generation.into());
        bytes(&mut out, &self.rx_secret);
        bytes(&mut out, &self.rx_key);
        varint(&mut out, self.rx_next.into());
        varint(&mut out, self.rx_seen[0]);
        varint(&mut out, self.rx_seen[1]);
        varint(&mut out, self.rx_since.into());
        match &self.rx_previous {
            None => out.push(0),
            Some(key) => {
                out.push(1);
                bytes(&mut out, key);
            }
        }
        out
    }
}

//= proves spec/messages.md#state
#[test]
fn the_state_is_encoded_as_the_page_says() {
    let bytes = Fields::good().encode();
    let message = thaw(&bytes).ok().unwrap();
    assert_eq!(frozen(&message), bytes);
    assert_eq!(message.suite(), Suite::Aes256Gcm);
    assert_eq!(message.services(), ALL);
    for len in 0..bytes.len() {
        assert!(codec::decode::<Frozen<'_>>(&bytes[..len]).is_err());
    }
}

type Change = fn(&mut Fields);

//= proves spec/messages.md#bounds
#[test]
fn a_state_no_run_leads_to_is_not_thawed() {
    let possible: [Change; 14] = [
        |_| (),
        |state| state.flags = 0x3f,
        |state| state.flags = 0,
        |state| (state.tx_sequence, state.tx_messages) = (302, 300),
        |state| (state.tx_sequence, state.tx_messages) = (1 << 20 | 2, 1 << 20),
        |state| (state.tx_messages, state.tx_bytes) = (64, 1 << 36),
        |state| state.tx_bytes = 300 * 16,
        |state| (state.tx_messages, state.tx_bytes) = (3, 3 * ((1 << 30) + 16)),
        |state| state.tx_sequence = u64::MAX,
        |state| (state.tx_generation, state.tx_sequence) = (0, 300),
        |state| state.rx_since = 245,
        |state| (state.rx_since, state.rx_previous) = (244, None),
        |state| state.rx_since = 499,
        |state| (state.rx_generation, state.rx_since, state.rx_previous) = (0, 0, None),
    ];
    for (i, change) in possible.iter().enumerate() {
        let mut state = Fields::good();
        change(&mut state);
        if state.tx_messages == 1 << 20 {
            state.tx_bytes = 1 << 24;
        }
        let message = thaw(&state.encode()).ok();
        assert_eq!(
            message.map(|message| frozen(&message)),
            Some(state.encode()),
            "{i}"
        );
    }

    let impossible: [(&str, Change); 35] = [
        ("an unknown suite", |state| state.suite = 0x1304),
        ("another suite of the same lengths, key too long", |state| {
            state.suite = 0x1303
        }),
        ("an unknown flag", |state| state.flags = 0x4f),
        ("an unknown flag", |state| state.flags = 0x8f),
        ("tx secret short", |state| state.tx_secret.truncate(47)),
        ("tx secret long", |state| state.tx_secret.push(0)),
        ("tx secret empty", |state| state.tx_secret.clear()),
        ("tx key short", |state| state.tx_key.truncate(43)),
        ("tx key long", |state| state.tx_key.push(0)),
        ("tx key empty", |state| state.tx_key.clear()),
        ("rx secret short", |state| state.rx_secret.truncate(47)),
        ("rx secret long", |state| state.rx_secret = vec![0; 4096]),
        ("rx key short", |state| state.rx_key.truncate(11)),
        ("rx key long", |state| state.rx_key = vec![0; 4096]),
        ("previous key short", |state| {
            state.rx_previous = Some(vec![0; 43])
        }),
        ("previous key long", |state| {
            state.rx_previous = Some(vec![0; 45])
        }),
        ("previous key empty", |state| {
            state.rx_previous = Some(vec![])
        }),
        ("previous key missing", |state| state.rx_previous = None),
        ("previous key where none is kept", |state| {
            state.rx_since = 244
        }),
        ("previous key in generation 0", |state| {
            (state.rx_generation, state.rx_since) = (0, 0)
        }),
        ("since in generation 0", |state| {
            (state.rx_generation, state.rx_previous) = (0, None)
        }),
        ("since at next", |state| state.rx_since = 500),
        ("since past next", |state| state.rx_since = u64::MAX),
        ("messages over the limit", |state| {
            (state.tx_messages, state.tx_sequence, state.tx_bytes) =
                ((1 << 20) + 1, 1 << 30, 1 << 30);
        }),
        ("all messages", |state| {
            (state.tx_messages, state.tx_sequence) = (u32::MAX, u64::MAX)
        }),
        ("bytes over the limit", |state| {
            state.tx_bytes = (1 << 36) + 1
        }),
        ("bytes of no messages", |state| state.tx_messages = 0),
        ("too few bytes", |state| state.tx_bytes = 300 * 16 - 1),
        ("too many bytes", |state| {
            (state.tx_messages, state.tx_bytes) = (3, 3 * ((1 << 30) + 16) + 1)
        }),
        ("too few numbers", |state| state.tx_sequence = 301),
        ("more messages than numbers", |state| {
            state.tx_sequence = 299
        }),
        ("numbers that no key protected", |state| {
            state.tx_generation = 0
        }),
        ("next not received", |state| {
            state.rx_seen = [u128::MAX - 1, 0]
        }),
        ("numbers below 0", |state| {
            (state.rx_next, state.rx_seen[1]) = (130, 7)
        }),
        ("closed among no tokens", |state| {
            (state.flags, state.tx_generation, state.tx_sequence) = (0x1f, 0, 0);
            (state.tx_messages, state.tx_bytes) = (0, 0);
        }),
    ];
    for (name, change) in impossible {
        let mut state = Fields::good();
        change(&mut state);
        assert!(thaw(&state.encode()).is_err(), "{name}");
    }
}

#[test]
fn a_hostile_number_is_not_decoded() {
    let good = Fields::good().encode();
    // The suite, a varint of 16 bits, in four bytes; a generation of 33 bits; an option of 2.
    let suite = [&[0x82, 0xa6, 0x84, 0x01], &good[2..]].concat();
    let generation = [&good[..3], &[0xff, 0xff, 0xff, 0xff, 0x1f], &good[4..]].concat();
    let mut option = good.clone();
    let at = option.len() - 46;
    assert_eq!(option[at], 1);
    option[at] = 2;
    for bytes in [suite, generation, option] {
        assert!(codec::decode::<Frozen<'_>>(&bytes).is_err());
    }
}

proptest! {
    /// Whatever is decoded and thawed works, and says the same when it is frozen again.
    //= proves spec/messages.md#bounds
    #[test]
    fn a_hostile_state_is_refused_or_works(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        good in any::<bool>(), noise: Vec<u8>,
    ) {
        let mut bytes = if good { Fields::good().encode() } else { noise };
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let Ok((state, rest)) = codec::decode::<Frozen<'_>>(&bytes) else { return Ok(()) };
        let Ok(mut message) = Message::thaw(state) else { return Ok(()) };
        let used = bytes.len() - rest.len();
        // A varint may be written longer than it needs to be; nothing else has two encodings.
        prop_assert!(frozen(&message).len() <= used);
        let confidential = message.services().confidentiality;
        let _ = message.wrap(confidential, b"message");
        let _ = message.get_mic(b"message");
        let _ = message.unwrap(&mut [1; 40]);
        let _ = message.close();
        prop_assert!(thaw(&frozen(&message)).is_ok());
    }
}

/// What happens to a pair of peers whose tokens anyone may delay, repeat, drop and forge.
#[derive(Clone, Debug)]
enum Step {
    /// The initiator sends a token of this kind, into the network.
    Send(u8, Vec<u8>),
    /// One of the tokens sent so far arrives, counted from the latest.
    Arrive(usize),
    /// The same with one bit flipped.
    Forged(usize, prop::sample::Index),
    /// The sender's present key is used up.
    UsedUp,
    /// The sender, or the receiver, moves to another process.
    Hop(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let message = proptest::collection::vec(any::<u8>(), 0..40);
    let step = prop_oneof![
        4 => (0u8..3, message).prop_map(|(kind, message)| Step::Send(kind, message)),
        4 => prop_oneof![3 => 0usize..3, 1 => 0usize..400].prop_map(Step::Arrive),
        1 => (0usize..3, any::<prop::sample::Index>()).prop_map(|(token, bit)| Step::Forged(token, bit)),
        1 => Just(Step::UsedUp),
        1 => any::<bool>().prop_map(Step::Hop),
    ];
    proptest::collection::vec(step, 1..200)
}

/// What the receiver ought to know: everything it ever received.
#[derive(Default)]
struct Model {
    received: BTreeSet<u64>,
    generation: u32,
    since: u64,
}

impl Model {
    /// Whether the token's key is there, then what is told.
    fn arrive(&mut self, header: Header) -> Result<Supplementary, Error> {
        let (token, number) = (header.generation, header.sequence);
        let next = |received: &BTreeSet<u64>| received.last().map_or(0, |last| last + 1);
        let expected = next(&self.received);
        let kept = expected < self.since + 256;
        if token > self.generation + 4 || token + 1 < self.generation {
            return Err(Error::Forged);
        }
        if token + 1 == self.generation && !kept {
            return Err(Error::Forged);
        }
        if token > self.generation {
            (self.generation, self.since) = (token, number);
        }
        let new = self.received.insert(number);
        let old = number + 256 < expected;
        Ok(Supplementary {
            old,
            duplicate: !old && !new,
            unsequenced: !old && new && number < expected,
            gap: number > expected,
        })
    }
}

proptest! {
    /// Any interleaving of sending, arriving, forging, moving on and hopping is as in the model.
    //= proves spec/messages.md#window
    //= proves spec/messages.md#commit
    //= proves spec/messages.md#forged
    //= proves spec/messages.md#sequence
    #[test]
    fn a_context_behaves_as_its_model_wherever_it_runs(suite in suites(), steps in steps()) {
        let (mut sender, mut receiver) = pair(suite, ALL);
        let mut sent: Vec<Token> = Vec::new();
        let mut model = Model::default();
        for step in steps {
            let back = |sent: &[Token], token: usize| {
                sent.len().checked_sub(1 + token).map(|at| sent[at].clone())
            };
            match step {
                Step::Send(kind, message) => {
                    let token = match kind {
                        0 => Token::wrap(&mut sender, true, &message),
                        1 => Token::wrap(&mut sender, false, &message),
                        _ => Token::mic(&mut sender, &message),
                    };
                    prop_assert_eq!(token.header().sequence, sent.len() as u64);
                    sent.push(token);
                }
                Step::Arrive(token) => if let Some(token) = back(&sent, token) {
                    prop_assert_eq!(token.give(&mut receiver), model.arrive(token.header()));
                }
                Step::Forged(token, bit) => if let Some(token) = back(&sent, token) {
                    let mut bytes = token.bytes.clone();
                    let bit = bit.index(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    token.with(bytes).refused(&mut receiver);
                }
                Step::UsedUp => if sender.state.tx.messages > 0 {
                    sender.state.tx.bytes = BYTES_PER_KEY;
                }
                Step::Hop(true) => receiver = hop(&receiver),
                // A counter set by this test may be one that no traffic leads to.
                Step::Hop(false) => if sender.state.tx.bytes < BYTES_PER_KEY {
                    sender = hop(&sender);
                }
            }
        }
        prop_assert_eq!(receiver.state.rx.generation, model.generation);
        prop_assert_eq!(receiver.state.since, model.since);
    }
}

//= proves spec/messages.md#state
#[test]
fn what_is_remembered_of_a_context_is_small() {
    assert!(
        size_of::<Message>() + size_of::<State>() <= 1500,
        "{}",
        size_of::<State>()
    );
    let sizes = SUITES.map(|suite| frozen(&pair(suite, ALL).0).len());
    assert_eq!(sizes, [137, 201, 169]);
}
