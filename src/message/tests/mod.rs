//! Tests of message framing, by subject: what is sent and accepted ([`exchange`]), what is refused
//! ([`refusal`]), what is told about order ([`window`]), how keys move on ([`generation`]), what travels ([`hop`]).

mod exchange;
mod generation;
mod hop;
mod refusal;
mod window;

use proptest::prelude::*;

use super::header::Header;
use super::*;
use crate::codec::{self, Defect, Framing};
use crate::secret::Scratch;

const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
const ALL: Services = Services {
    replay: true,
    sequence: true,
    confidentiality: true,
};
const NONE: Services = Services {
    replay: false,
    sequence: false,
    confidentiality: false,
};

fn suites() -> impl Strategy<Value = Suite> {
    proptest::sample::select(&SUITES[..])
}

/// Initiator and acceptor of one context.
fn pair(suite: Suite, services: Services) -> (Message, Message) {
    let len = suite.secret_len();
    let (initiator, acceptor) = (&[1; 48][..len], &[2; 48][..len]);
    (
        Message::new(suite, true, initiator, acceptor, services),
        Message::new(suite, false, acceptor, initiator, services),
    )
}

fn frozen(message: &Message) -> Vec<u8> {
    let mut out = Scratch::with_capacity(1024);
    codec::encode(&message.freeze().unwrap(), &mut out, 1024).unwrap();
    out.to_vec()
}

fn thaw(bytes: &[u8]) -> Result<Message, Defect> {
    let (frozen, rest) = codec::decode(bytes)?;
    assert!(rest.is_empty());
    Message::thaw(frozen)
}

/// The state after one hop.
fn hop(message: &Message) -> Message {
    thaw(&frozen(message)).ok().unwrap()
}

/// A token of any kind, and what its verification needs.
#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    message: Vec<u8>,
    bytes: Vec<u8>,
}

impl Token {
    fn wrap(sender: &mut Message, confidential: bool, message: &[u8]) -> Self {
        let bytes = sender.wrap(confidential, message).unwrap();
        Self {
            kind: Kind::Wrap,
            message: message.to_vec(),
            bytes,
        }
    }

    fn mic(sender: &mut Message, message: &[u8]) -> Self {
        let bytes = sender.get_mic(message).unwrap().to_vec();
        Self {
            kind: Kind::Mic,
            message: message.to_vec(),
            bytes,
        }
    }

    fn close(sender: &mut Message) -> Self {
        Self {
            kind: Kind::Close,
            message: vec![],
            bytes: sender.close().unwrap().to_vec(),
        }
    }

    fn header(&self) -> Header {
        Header::parse(&self.bytes, self.kind).unwrap()
    }

    /// The same token with other bytes.
    fn with(&self, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..self.clone()
        }
    }

    /// Has it verified, and compares the message.
    fn give(&self, receiver: &mut Message) -> Result<Supplementary, Error> {
        match self.kind {
            Kind::Wrap => {
                let mut bytes = self.bytes.clone();
                let unwrapped = receiver.unwrap(&mut bytes)?;
                assert_eq!(unwrapped.message, self.message);
                assert_eq!(unwrapped.confidential, self.header().confidential);
                Ok(unwrapped.supplementary)
            }
            Kind::Mic => receiver.verify_mic(&self.message, &self.bytes),
            Kind::Close => receiver.process(&self.bytes),
        }
    }

    /// Has it refused, and proves that the receiver did not change.
    fn refused(&self, receiver: &mut Message) -> Error {
        let before = frozen(receiver);
        let error = self.give(receiver).unwrap_err();
        assert_eq!(frozen(receiver), before, "{error:?}");
        error
    }
}

/// One token of each kind, in order, the close token last.
fn tokens(sender: &mut Message, message: &[u8]) -> [Token; 4] {
    [
        Token::wrap(sender, true, message),
        Token::wrap(sender, false, message),
        Token::mic(sender, message),
        Token::close(sender),
    ]
}
