//! Sequences of ledger operations against a model, and among noise.
//!
//! Four bytes are an operation: which, on what, and two more. As long as nobody writes noise into
//! the mapping, each answer is the model's. From then on contexts may be lost, but none runs
//! twice, and nothing panics or hangs.
#![no_main]

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use baton::ledger::{Claim, Departure, Domain, Options, Refusal};
use baton::sys::memory::Mapping;
use libfuzzer_sys::fuzz_target;

const CAPACITY: usize = 5;
/// Words of the header that never change.
const FIXED: usize = 12;

/// A context: its claim if it is active, its tokens, and what the model says of it.
struct Context {
    claim: Option<Claim>,
    tokens: Vec<Departure>,
    /// How often each token has arrived.
    arrived: Vec<u32>,
    /// In transit, with or without time left.
    transit: Option<bool>,
    over: bool,
    told: bool,
}

struct Run {
    domain: Domain,
    mapping: Mapping,
    collect: bool,
    noise: bool,
    contexts: Vec<Context>,
}

impl Run {
    fn new(collect: bool) -> Self {
        let options = Options {
            capacity: CAPACITY as u32,
            processes: 2,
            collect,
        };
        let domain = Domain::inherited_with(&options).expect("memory");
        let fd = domain.fds().expect("descriptors")[0]
            .try_clone_to_owned()
            .expect("a descriptor");
        let mapping = Mapping::from_fd(fd).expect("memory");
        Self {
            domain,
            mapping,
            collect,
            noise: false,
            contexts: Vec::new(),
        }
    }

    fn occupied(&self) -> usize {
        let free = |context: &Context| context.over && (context.told || !self.collect);
        self.contexts
            .iter()
            .filter(|context| !free(context))
            .count()
    }

    /// Checks an answer against the model's, unless there was noise.
    fn expect(&self, answer: bool, expected: bool) {
        assert!(self.noise || answer == expected);
    }

    fn establish(&mut self) {
        if self.occupied() >= CAPACITY {
            // It would sweep, or not if it did just now.
            self.sweep();
        }
        let room = self.occupied() < CAPACITY;
        let claim = self.domain.ledger().establish().ok();
        self.expect(claim.is_some(), room);
        if let Some(claim) = claim {
            self.contexts.push(Context {
                claim: Some(claim),
                tokens: Vec::new(),
                arrived: Vec::new(),
                transit: None,
                over: false,
                told: false,
            });
        }
    }

    fn depart(&mut self, number: usize, in_time: bool) {
        let noise = self.noise;
        let context = &mut self.contexts[number];
        let Some(claim) = context.claim.take() else {
            return;
        };
        match claim.depart(if in_time { u64::MAX } else { 0 }) {
            Ok(token) => {
                assert!(noise || !context.over);
                context.tokens.push(token);
                context.arrived.push(0);
                context.transit = Some(in_time);
            }
            Err(stayed) => {
                assert!(noise || context.over);
                drop(stayed.claim);
            }
        }
    }

    fn arrive(&mut self, number: usize, which: usize, change: u8) {
        let noise = self.noise;
        let context = &mut self.contexts[number];
        if context.tokens.is_empty() {
            return;
        }
        let which = context.tokens.len() - 1 - which % context.tokens.len();
        let mut token = context.tokens[which];
        let bit = usize::from(change >> 2);
        match change & 3 {
            1 => token.id[bit / 8] ^= 1 << (bit % 8),
            2 => token.epoch ^= 1 << (bit % 41),
            3 => token.index ^= 1 << (bit % 24),
            _ => {}
        }
        let changed = token != context.tokens[which];
        let latest = which + 1 == context.tokens.len();
        let answer = self
            .domain
            .ledger()
            .arrive(token.index, &token.id, token.epoch);
        if changed {
            // A changed epoch may be another token's of the same context.
            let real = context.tokens.iter().position(|real| *real == token);
            if let Ok(claim) = answer {
                let real = real.expect("no forged token arrives");
                context.arrived[real] += 1;
                assert!(context.arrived[real] == 1);
                context.transit = None;
                context.claim = Some(claim);
            } else if real == Some(context.tokens.len() - 1) && context.transit == Some(false) {
                context.transit = None;
                context.over = true;
            }
            return;
        }
        match answer {
            Ok(claim) => {
                context.arrived[which] += 1;
                assert!(context.arrived[which] == 1, "a token arrives once");
                assert!(noise || (latest && context.transit == Some(true)));
                context.transit = None;
                context.claim = Some(claim);
            }
            Err(Refusal::Expired) => {
                assert!(noise || (latest && context.transit != Some(true)));
                context.transit = None;
                context.over = true;
            }
            Err(_) => assert!(noise || !latest || context.transit.is_none()),
        }
    }

    fn end(&mut self, number: usize, dropped: bool) {
        let Some(claim) = self.contexts[number].claim.take() else {
            return;
        };
        let over = std::mem::replace(&mut self.contexts[number].over, true);
        if dropped {
            drop(claim);
        } else {
            self.expect(claim.end().is_ok(), !over);
        }
    }

    fn revoke(&mut self, number: usize) {
        let context = &self.contexts[number];
        let id = match (&context.claim, context.tokens.last()) {
            (_, Some(token)) => token.id,
            (Some(claim), None) => claim.id(),
            (None, None) => return,
        };
        let over = context.over;
        let revoked = self.domain.ledger().revoke(&id);
        self.expect(revoked, !over);
        self.contexts[number].over = true;
        self.contexts[number].transit = None;
    }

    fn sweep(&mut self) {
        let overdue = self
            .contexts
            .iter()
            .filter(|context| context.transit == Some(false));
        let expected = overdue.count();
        let ended = self.domain.sweep().expect("this process has an identity");
        assert!(self.noise || ended == expected);
        for context in &mut self.contexts {
            if context.transit == Some(false) {
                context.transit = None;
                context.over = true;
            }
        }
    }

    fn collect(&mut self) {
        let untold = self
            .contexts
            .iter()
            .filter(|context| context.over && !context.told)
            .count();
        let mut told = Vec::new();
        let count = self
            .domain
            .ledger()
            .collect(|release| told.push(release))
            .unwrap_or(0);
        assert_eq!(count, told.len());
        assert!(self.noise || count == if self.collect { untold } else { 0 });
        for context in &mut self.contexts {
            context.told |= context.over;
        }
    }

    fn write_noise(&mut self, place: usize, value: u8) {
        let words = self.mapping.as_words();
        // Mostly among the entries, at the end.
        let span = if value & 1 == 0 {
            512
        } else {
            words.len() - FIXED
        };
        let place = words.len() - 1 - place % span;
        let word = &words[place];
        // Noise does not put a control word together bit by bit: who can write what he likes can
        // have what he likes.
        let control = place >= words.len() - 512 && place % 8 == 0;
        match value >> 6 {
            0 => word.store(0, SeqCst),
            1 => word.store(u64::MAX, SeqCst),
            2 | 3 if value >> 6 == 2 || control => {
                word.store(u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15), SeqCst)
            }
            _ => drop(word.fetch_xor(1 << (value & 0x3f), SeqCst)),
        }
        self.noise = true;
    }

    fn check(&self) {
        for context in &self.contexts {
            if let Some(claim) = &context.claim {
                assert!(self.noise || claim.check().is_ok() != context.over);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, steps)) = bytes.split_first() else {
        return;
    };
    let mut run = Run::new(first & 1 == 1);
    for step in steps.chunks_exact(4).take(200) {
        let number = usize::from(step[1]);
        let last = run.contexts.len();
        if last == 0 || step[0] % 16 == 0 {
            run.establish();
        } else {
            // Mostly the latest.
            let number = if number < 128 {
                last - 1 - number % last.min(8)
            } else {
                number % last
            };
            match step[0] % 16 {
                1..=3 => run.depart(number, step[2] & 3 != 0),
                4..=7 => run.arrive(number, usize::from(step[2] & 3), step[3]),
                8 => run.end(number, step[2] & 1 == 0),
                9 => run.revoke(number),
                10 => run.sweep(),
                11 => run.collect(),
                12 => drop(run.domain.keyring().expect("keys").rotate(Duration::ZERO)),
                13 if first & 2 == 2 => {
                    run.write_noise(usize::from(step[1]) << 8 | usize::from(step[2]), step[3]);
                }
                _ => run.establish(),
            }
        }
        run.check();
    }
});
