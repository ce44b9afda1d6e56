//! Per-message tokens: raw ones, damaged ones past authentication, and hostile states.
//!
//! The input is a suite (one byte) and steps: what to do (one byte), how many bytes belong to it
//! (one byte), these bytes. The secrets are those of `spec/vectors/messages/`, so that tokens
//! from there are authentic here. Held is, at every step: what was refused changed nothing, what
//! was sent is accepted as it was sent, and what was damaged is not.

#![no_main]

use baton::codec::{self, Framing};
use baton::crypto::Suite;
use baton::message::{Error, Message, Services};
use baton::secret::Scratch;
use libfuzzer_sys::fuzz_target;

const ALL: Services = Services {
    replay: true,
    sequence: true,
    confidentiality: true,
};

fn frozen(message: &Message) -> Vec<u8> {
    let mut out = Scratch::with_capacity(512);
    let state = message.freeze().expect("this process made it");
    codec::encode(&state, &mut out, 1024).expect("a state has a bounded size");
    out.to_vec()
}

fn thaw(bytes: &[u8]) -> Option<Message> {
    let (state, _) = codec::decode(bytes).ok()?;
    Message::thaw(state).ok()
}

/// A token of each type goes to its call; the type is the sender's, not what the bytes claim.
#[derive(Clone)]
struct Token {
    kind: u8,
    message: Vec<u8>,
    bytes: Vec<u8>,
}

impl Token {
    fn give(&self, receiver: &mut Message) -> Result<Vec<u8>, Error> {
        match self.kind {
            0 | 1 => {
                let mut bytes = self.bytes.clone();
                receiver
                    .unwrap(&mut bytes)
                    .map(|unwrapped| unwrapped.message.to_vec())
            }
            2 => receiver
                .verify_mic(&self.message, &self.bytes)
                .map(|_| self.message.clone()),
            _ => receiver.process(&self.bytes).map(|_| Vec::new()),
        }
    }

    /// Gives it, and holds that a refusal changes nothing.
    fn try_on(&self, receiver: &mut Message) -> Result<Vec<u8>, Error> {
        let before = frozen(receiver);
        let given = self.give(receiver);
        assert!(given.is_ok() || frozen(receiver) == before);
        given
    }
}

/// Makes a token of a kind: 0 encrypted, 1 plain, 2 MIC.
fn make(sender: &mut Message, kind: u8, message: &[u8]) -> Result<Token, Error> {
    let bytes = match kind {
        0 => sender.wrap(true, message)?,
        1 => sender.wrap(false, message)?,
        _ => sender.get_mic(message)?.to_vec(),
    };
    let message = message.to_vec();
    Ok(Token {
        kind,
        message,
        bytes,
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&suite, mut steps)) = data.split_first() else {
        return;
    };
    let suites = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
    let suite = suites[usize::from(suite) % 3];
    let secret = |first: u8| (first..).take(suite.secret_len()).collect::<Vec<u8>>();
    let (initiator, acceptor) = (secret(0), secret(0x80));
    let mut sender = Message::new(suite, true, &initiator, &acceptor, ALL);
    let mut receiver = Message::new(suite, false, &acceptor, &initiator, ALL);
    let mut sent: Vec<Token> = Vec::new();
    // Whether the receiver has accepted a token that the sender did not make: it may then be in a
    // generation that the sender is not.
    let mut astray = false;

    while let [step, len, rest @ ..] = steps {
        let (piece, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        steps = rest;
        let of_sent = |sent: &[Token]| {
            let at = usize::from(*piece.first()?);
            sent.get(at % sent.len().max(1)).cloned()
        };
        match step % 6 {
            // Raw bytes, to one of the calls.
            0 => {
                let Some((&kind, bytes)) = piece.split_first() else {
                    continue;
                };
                let bytes = bytes.to_vec();
                let message = b"a message".to_vec();
                let raw = Token {
                    kind: kind % 4,
                    message,
                    bytes,
                };
                astray |= raw.try_on(&mut receiver).is_ok();
            }
            // A token is sent.
            1 => {
                let Some((&kind, message)) = piece.split_first() else {
                    continue;
                };
                if sent.len() < 64 {
                    sent.extend(make(&mut sender, kind % 3, message));
                }
            }
            // It arrives, perhaps not for the first time.
            2 => {
                if let Some(token) = of_sent(&sent) {
                    let given = token.try_on(&mut receiver);
                    assert!(given == Ok(token.message) || astray && given.is_err());
                }
            }
            // It arrives damaged.
            3 => {
                if let Some(mut token) = of_sent(&sent) {
                    let intact = token.bytes.clone();
                    let (_, damage) = piece.split_at(1);
                    for (byte, damage) in token.bytes.iter_mut().zip(damage) {
                        *byte ^= damage;
                    }
                    let given = token.try_on(&mut receiver);
                    assert!(given.is_err() || token.bytes == intact);
                }
            }
            // The receiver moves to another process.
            4 => receiver = thaw(&frozen(&receiver)).expect("what was frozen thaws"),
            // A hostile state: damaged, or made up.
            _ => {
                let mut state = frozen(&receiver);
                for (byte, damage) in state.iter_mut().zip(piece) {
                    *byte ^= damage;
                }
                for state in [&state[..], piece] {
                    let Some(mut hostile) = thaw(state) else {
                        continue;
                    };
                    assert!(thaw(&frozen(&hostile)).is_some());
                    for token in &sent {
                        let _ = token.try_on(&mut hostile);
                    }
                    for kind in 0..3 {
                        let _ = make(&mut hostile, kind, b"a message");
                    }
                    let _ = hostile.close();
                    assert!(thaw(&frozen(&hostile)).is_some());
                }
            }
        }
    }
});
