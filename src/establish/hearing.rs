//! The initiator's hello, before an acceptor is made for it.

use super::{Framing, TOKEN_LIMIT, Tokens, token};
use crate::record::Alert;
use crate::tls::{Ear, Heard, Hello};

/// Listens to an initiator's first bytes, in either framing, until its hello is whole, so that how
/// it is answered can depend on it. The bytes are kept for the acceptor.
///
/// It holds what came in: at most the longest hello, 64 KiB, and what came with its last bytes.
pub struct Hearing {
    framing: Option<Framing>,
    ear: Ear,
    tokens: Tokens,
    bytes: Vec<u8>,
}

/// What an initiator is told in answer to its hello that is not let in: a fatal alert, in the clear.
pub fn refusal(framing: Framing, alert: Alert) -> Vec<u8> {
    // TLSPlaintext of RFC 8446 5.1 and 6: alert, TLS 1.2 by name, two bytes; fatal.
    let record = [21, 3, 3, 0, 2, 2, alert.0];
    match framing {
        Framing::Record => record.to_vec(),
        Framing::Message => Tokens::frame(&record),
    }
}

/// What a [`Hearing`] has come to.
pub enum Listened {
    /// The initiator has to say more.
    More,
    /// Its hello, and the bytes that an acceptor of this framing is to be fed with.
    Hello(Box<Hello>, Framing, Vec<u8>),
    /// It is no hello; whoever is fed with the bytes says what is wrong.
    None(Vec<u8>),
}

impl Hearing {
    /// Nothing was heard. Without a framing the first byte tells it.
    pub fn new(framing: Option<Framing>) -> Self {
        Self {
            framing,
            ear: Ear::default(),
            tokens: Tokens::new(TOKEN_LIMIT),
            bytes: Vec::new(),
        }
    }

    /// Hears `input`. After anything but [`Listened::More`] it has heard all.
    //= spec/port.md#hello
    pub fn hear(&mut self, mut input: &[u8]) -> Listened {
        self.bytes.extend_from_slice(input);
        let Some(first) = input.first() else {
            return Listened::More;
        };
        let framing = self.framing.or_else(|| Framing::of(*first));
        let heard = match framing {
            None => Heard::Nothing,
            Some(Framing::Record) => self.ear.hear(input),
            Some(Framing::Message) => match self.tokens.next(&mut input) {
                Ok(None) => Heard::Part,
                Ok(Some(token)) => {
                    match token::unwrap(&token).map(|flight| self.ear.hear(flight)) {
                        Ok(heard @ Heard::Whole(_)) => heard,
                        // The first token holds all of it.
                        _ => Heard::Nothing,
                    }
                }
                Err(_) => Heard::Nothing,
            },
        };
        self.framing = framing;
        match (heard, framing) {
            (Heard::Part, _) => Listened::More,
            (Heard::Whole(hello), Some(framing)) => {
                Listened::Hello(hello, framing, core::mem::take(&mut self.bytes))
            }
            _ => Listened::None(core::mem::take(&mut self.bytes)),
        }
    }
}
