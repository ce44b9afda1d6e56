//! The golden vectors of `spec/vectors/messages/`.
//!
//! Each file is made twice, by a stranger who has only the page (`stranger.rs`) and, as far as a
//! sender makes such a token, by the library; both must give what the file says, byte for byte.
//! Then the library must accept it, or refuse it with the status that stands there.
//! `BATON_WRITE=1 cargo test --test message_vectors` writes the files.

#![allow(clippy::unwrap_used)]

#[path = "message_vectors/file.rs"]
mod file;
#[path = "message_vectors/stranger.rs"]
mod stranger;

use std::collections::BTreeMap;

use baton::codec::{self, Framing};
use baton::crypto::Suite;
use baton::message::{Error, Message, Services};
use baton::secret::Scratch;
use baton::status::Status;

use file::{File, compare};
use stranger::{SUITES, Token, sender_state};

const ALL: Services = Services {
    replay: true,
    sequence: true,
    confidentiality: true,
};

/// Two peers at the start of a context: initiator, acceptor.
fn pair(suite: &stranger::Suite) -> (Message, Message) {
    let code = Suite::from_code(suite.code).unwrap();
    let (initiator, acceptor) = (suite.first_secret(false), suite.first_secret(true));
    (
        Message::new(code, true, &initiator, &acceptor, ALL),
        Message::new(code, false, &acceptor, &initiator, ALL),
    )
}

fn call(kind: u8) -> &'static str {
    ["unwrap", "verify MIC", "process"][usize::from(kind - 1)]
}

/// Has the library take a token; answers the message of a wrap token.
fn give(
    receiver: &mut Message,
    call: &str,
    message: &[u8],
    token: &[u8],
) -> Result<Vec<u8>, Error> {
    match call {
        "unwrap" => {
            let mut token = token.to_vec();
            let unwrapped = receiver.unwrap(&mut token)?;
            Ok(unwrapped.message.to_vec())
        }
        "verify MIC" => receiver
            .verify_mic(message, token)
            .map(|_| message.to_vec()),
        _ => receiver.process(token).map(|_| vec![]),
    }
}

fn thaw(state: &[u8]) -> Message {
    let (frozen, rest) = codec::decode(state).unwrap();
    assert!(rest.is_empty());
    Message::thaw(frozen).ok().unwrap()
}

fn frozen(message: &Message) -> Vec<u8> {
    let mut out = Scratch::with_capacity(512);
    codec::encode(&message.freeze().unwrap(), &mut out, 1024).unwrap();
    out.to_vec()
}

/// The library's own token for the same inputs.
fn made_by_library(token: &Token<'_>) -> Vec<u8> {
    let mut sender = thaw(&sender_state(token));
    match token.kind {
        1 => sender.wrap(token.confidential, token.message).unwrap(),
        2 => sender.get_mic(token.message).unwrap().to_vec(),
        _ => sender.close().unwrap().to_vec(),
    }
}

/// Every combination of suite, direction and kind; generations and numbers at their edges.
fn accepted() -> Vec<(String, &'static str, Token<'static>)> {
    static BLOCKS: [u8; 80] = [0x5a; 80];
    let mut cases = Vec::new();
    for (suite, short) in SUITES.iter().zip(["aes128", "aes256", "chacha20"]) {
        let token = Token {
            suite,
            kind: 1,
            confidential: true,
            from_acceptor: false,
            generation: 0,
            sequence: 0,
            message: b"a message",
        };
        let mut add = |what: &str, comment, token| {
            cases.push((format!("{short}-{what}.txt"), comment, token));
        };
        for (from_acceptor, side) in [(false, "initiator"), (true, "acceptor")] {
            let token = Token {
                from_acceptor,
                ..token
            };
            let plain = Token {
                confidential: false,
                ..token
            };
            add(&format!("{side}-wrap"), "An encrypted wrap token.", token);
            add(
                &format!("{side}-wrap-plain"),
                "A wrap token that is not encrypted.",
                plain,
            );
            add(
                &format!("{side}-mic"),
                "A MIC token.",
                Token { kind: 2, ..plain },
            );
            add(
                &format!("{side}-close"),
                "A close token.",
                Token {
                    kind: 3,
                    message: b"",
                    ..plain
                },
            );
        }
        let at = |generation, sequence| Token {
            generation,
            sequence,
            ..token
        };
        add(
            "empty",
            "The empty message, encrypted.",
            Token {
                message: b"",
                ..at(0, 1)
            },
        );
        add(
            "long",
            "A message of five cipher blocks.",
            Token {
                message: &BLOCKS,
                ..at(0, 255)
            },
        );
        add(
            "generation-1",
            "The first token of generation 1.",
            at(1, 1 << 20),
        );
        add(
            "generation-4",
            "The last generation that a receiver at the start tries.",
            at(4, 5 << 20),
        );
        add("last", "The last sequence number.", at(1, u64::MAX - 1));
    }
    cases
}

//= proves spec/messages.md#keys
//= proves spec/messages.md#next
//= proves spec/messages.md#header
//= proves spec/messages.md#nonce
//= proves spec/messages.md#wrap
//= proves spec/messages.md#integrity
//= proves spec/messages.md#mic
//= proves spec/messages.md#close
#[test]
fn golden_tokens_are_made_and_accepted() {
    let mut files = BTreeMap::new();
    for (name, comment, token) in accepted() {
        let (suite, message) = (token.suite, token.message);
        let bytes = token.make();
        assert_eq!(made_by_library(&token), bytes, "{name}");

        let (mut initiator, mut acceptor) = pair(suite);
        let receiver = if token.from_acceptor {
            &mut initiator
        } else {
            &mut acceptor
        };
        let given = give(receiver, call(token.kind), message, &bytes);
        assert_eq!(given, Ok(message.to_vec()), "{name}");

        let (key, iv) = suite.key(&token.secret());
        let file = File::new(comment)
            .line("suite", suite.name)
            .line(
                "sender",
                if token.from_acceptor {
                    "acceptor"
                } else {
                    "initiator"
                },
            )
            .line(
                "type",
                ["wrap", "MIC", "close"][usize::from(token.kind - 1)],
            )
            .line("encrypted", if token.confidential { "yes" } else { "no" })
            .line("generation", token.generation)
            .line("sequence", token.sequence)
            .hex(
                "secret of generation 0",
                &suite.first_secret(token.from_acceptor),
            )
            .hex("secret", &token.secret())
            .hex("key", &key)
            .hex("iv", &iv)
            .hex("header", &token.header())
            .hex("nonce", &token.nonce(&iv))
            .hex("message", message)
            .hex("token", &bytes);
        assert!(files.insert(name, file).is_none());
    }
    compare("accepted", &files);
}

/// One defect: its name, what it is, the call it is given to, the intact token's kind and whether
/// it is encrypted, what is done to it, and what the library says.
struct Defect(
    &'static str,
    &'static str,
    &'static str,
    u8,
    bool,
    fn(&mut Vec<u8>),
    Error,
);

fn set_generation(token: &mut [u8], generation: u32) {
    token[4..8].copy_from_slice(&generation.to_be_bytes());
}

#[rustfmt::skip]
const DEFECTS: &[Defect] = {
    use Error::{Forged, Malformed, Reflected};
    &[
        Defect("empty", "No token at all.", "unwrap", 1, true, Vec::clear, Malformed),
        Defect("short", "One byte shorter than any token.", "unwrap", 1, true, |token| token.truncate(31), Malformed),
        Defect("type-0", "A type that does not exist.", "unwrap", 1, true, |token| token[0] = 0, Malformed),
        Defect("type-4", "A type that does not exist.", "unwrap", 1, true, |token| token[0] = 4, Malformed),
        Defect("flag-unknown", "A flag that does not exist.", "unwrap", 1, true, |token| token[1] |= 0x04, Malformed),
        Defect("reserved-first", "A reserved byte that is not zero.", "unwrap", 1, true, |token| token[2] = 1, Malformed),
        Defect("reserved-second", "A reserved byte that is not zero.", "unwrap", 1, true, |token| token[3] = 1, Malformed),
        Defect("sequence-end", "The sequence number that is never used.", "unwrap", 1, true, |token| token[8..16].fill(0xff), Malformed),
        Defect("mic-unwrapped", "A MIC token where a wrap token belongs.", "unwrap", 2, false, |_| (), Malformed),
        Defect("close-unwrapped", "A close token where a wrap token belongs.", "unwrap", 3, false, |_| (), Malformed),
        Defect("wrap-as-mic", "A wrap token where a MIC token belongs.", "verify MIC", 1, false, |_| (), Malformed),
        Defect("mic-as-close", "A MIC token where a close token belongs.", "process", 2, false, |_| (), Malformed),
        Defect("mic-encrypted", "A MIC token that claims to be encrypted.", "verify MIC", 2, false, |token| token[1] |= 0x01, Malformed),
        Defect("mic-long", "A MIC token with a byte too many.", "verify MIC", 2, false, |token| token.push(0), Malformed),
        Defect("close-long", "A close token with a byte too many.", "process", 3, false, |token| token.push(0), Malformed),
        Defect("reflected", "A token that claims to be from its receiver.", "unwrap", 1, true, |token| token[1] ^= 0x02, Reflected),
        Defect("plain-as-encrypted", "A plain message that claims to be encrypted.", "unwrap", 1, false, |token| token[1] |= 0x01, Forged),
        Defect("encrypted-as-plain", "An encrypted message that claims to be plain.", "unwrap", 1, true, |token| token[1] &= !0x01, Forged),
        Defect("mic-as-wrap", "A MIC token made into a wrap token of its message.", "unwrap", 2, false, |token| { token[0] = 1; token.splice(16..16, *b"a message"); }, Forged),
        Defect("generation-1", "The generation raised to one that is tried.", "unwrap", 1, true, |token| set_generation(token, 1), Forged),
        Defect("generation-4", "The generation raised to the last that is tried.", "unwrap", 1, true, |token| set_generation(token, 4), Forged),
        Defect("generation-5", "The generation raised to one that is not tried.", "unwrap", 1, true, |token| set_generation(token, 5), Forged),
        Defect("generation-last", "The generation raised to the last.", "unwrap", 1, true, |token| set_generation(token, u32::MAX), Forged),
        Defect("sequence", "Another sequence number.", "unwrap", 1, true, |token| token[15] ^= 1, Forged),
        Defect("ciphertext", "A bit of the ciphertext flipped.", "unwrap", 1, true, |token| token[16] ^= 0x80, Forged),
        Defect("plain-message", "A bit of a plain message flipped.", "unwrap", 1, false, |token| token[24] ^= 1, Forged),
        Defect("tag", "The last bit of the tag flipped.", "unwrap", 1, true, |token| *token.last_mut().unwrap() ^= 1, Forged),
        Defect("cut", "The last byte missing.", "unwrap", 1, true, |token| drop(token.drain(token.len() - 1..)), Forged),
        Defect("extended", "A byte too many.", "unwrap", 1, true, |token| token.push(0), Forged),
        Defect("mic-tag", "The first bit of a MIC's tag flipped.", "verify MIC", 2, false, |token| token[16] ^= 0x80, Forged),
        Defect("close-tag", "The first bit of a close token's tag flipped.", "process", 3, false, |token| token[16] ^= 0x80, Forged),
    ]
};

//= proves spec/messages.md#malformed
//= proves spec/messages.md#reflection
//= proves spec/messages.md#ahead
//= proves spec/messages.md#forged
#[test]
fn golden_defects_are_refused() {
    let mut files = BTreeMap::new();
    let suite = &SUITES[0];
    for &Defect(name, comment, given_to, kind, confidential, damage, error) in DEFECTS {
        let message: &[u8] = if kind == 3 { b"" } else { b"a message" };
        let intact = Token {
            suite,
            kind,
            confidential,
            from_acceptor: false,
            generation: 0,
            sequence: 7,
            message,
        };
        let intact = intact.make();
        let mut token = intact.clone();
        damage(&mut token);

        let (_, mut acceptor) = pair(suite);
        let before = frozen(&acceptor);
        assert_eq!(
            give(&mut acceptor, given_to, message, &token),
            Err(error),
            "{name}"
        );
        assert_eq!(frozen(&acceptor), before, "{name}");
        // The defect is all that was wrong with it.
        assert!(
            give(&mut acceptor, call(kind), message, &intact).is_ok(),
            "{name}"
        );

        let status = Status::from(error);
        let file = File::new(comment)
            .line("suite", suite.name)
            .line("receiver", "acceptor")
            .hex("initiator secret", &suite.first_secret(false))
            .hex("acceptor secret", &suite.first_secret(true))
            .hex("message", message)
            .hex("intact", &intact)
            .hex("token", &token)
            .line("given to", given_to)
            .line("status", status.major().name())
            .line("minor", status.minor().code());
        assert!(files.insert(format!("{name}.txt"), file).is_none());
    }
    compare("refused", &files);
}

//= proves spec/messages.md#state
#[test]
fn golden_states_go_on_where_they_were() {
    let mut files = BTreeMap::new();
    for (suite, name) in SUITES.iter().zip(["aes128", "aes256", "chacha20"]) {
        let (initiator, mut acceptor) = pair(suite);
        let start = sender_state(&Token {
            suite,
            kind: 1,
            confidential: true,
            from_acceptor: false,
            generation: 0,
            sequence: 0,
            message: b"",
        });
        assert_eq!(frozen(&initiator), start);

        // The acceptor has sent one token and received numbers 0 and 2 of generation 0 and the
        // first of generation 1: holes in the window, and a previous key.
        acceptor.wrap(true, b"an answer").unwrap();
        for (generation, sequence) in [(0, 0), (0, 2), (1, 130)] {
            let token = Token {
                suite,
                kind: 1,
                confidential: true,
                from_acceptor: false,
                generation,
                sequence,
                message: b"",
            };
            give(&mut acceptor, "unwrap", b"", &token.make()).unwrap();
        }
        let states = [
            ("start", "An initiator at the start.", start, false, 0),
            (
                "later",
                "An acceptor with holes in its window and a previous key.",
                frozen(&acceptor),
                true,
                1,
            ),
        ];
        for (what, comment, state, from_acceptor, sequence) in states {
            let next = Token {
                suite,
                kind: 1,
                confidential: true,
                from_acceptor,
                generation: 0,
                sequence,
                message: b"a message",
            };
            let mut message = thaw(&state);
            assert_eq!(frozen(&message), state);
            assert_eq!(message.wrap(true, b"a message").unwrap(), next.make());
            let file = File::new(comment)
                .hex("state", &state)
                .hex("next message", b"a message")
                .hex("next token", &next.make());
            files.insert(format!("{name}-{what}.txt"), file);
        }
    }
    compare("states", &files);
}
