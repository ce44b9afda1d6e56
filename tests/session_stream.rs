//! A message-framing context as a stream: what a peer may send, what ends a direction, and what
//! ends the session.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use baton::context::Context;
use baton::establish::Tokens;
use baton::ledger::Domain;
use baton::message::Message;
use baton::session::channel::{Channel, Messages, Opened};
use baton::status::{Minor, Status};
use baton::transfer::Export;
use std::os::fd::AsFd;

/// A stream and its peer's context.
fn stream() -> (Domain, Messages, Context<Message>) {
    let domain = support::domain();
    let (context, peer) = support::pair::<Message>(&domain);
    (domain, Messages::new(context, Vec::new()), peer)
}

fn token(peer: &mut Context<Message>, text: &[u8]) -> Vec<u8> {
    Tokens::frame(&peer.wrap(true, text).unwrap())
}

/// Everything that can be read now, and what comes then.
fn read(stream: &mut Messages) -> Result<(Vec<u8>, Opened), Status> {
    let (mut all, mut part) = (Vec::new(), [0; 5]);
    loop {
        match stream.read(&mut part)? {
            Opened::Data(length) => all.extend_from_slice(&part[..length]),
            other => return Ok((all, other)),
        }
    }
}

//= proves spec/sessions.md#data
#[test]
fn messages_become_a_stream_in_whatever_pieces_they_come() {
    let (_domain, mut stream, mut peer) = stream();
    for piece in [1, 3, 100] {
        let mut bytes = token(&mut peer, b"one message");
        bytes.extend(token(&mut peer, b", and another"));
        let mut all = Vec::new();
        for part in bytes.chunks(piece) {
            stream.feed(part).unwrap();
            let (text, then) = read(&mut stream).unwrap();
            assert_eq!(then, Opened::More);
            all.extend(text);
        }
        assert_eq!(all, b"one message, and another");
    }
}

//= proves spec/sessions.md#data
#[test]
fn a_token_that_is_announced_too_long_ends_the_session() {
    let (_domain, mut stream, _peer) = stream();
    stream.feed(&65_537u32.to_be_bytes()).unwrap();
    assert!(read(&mut stream).is_err());
}

//= proves spec/sessions.md#end
#[test]
fn a_close_token_ends_its_direction_and_not_the_other() {
    let (_domain, mut stream, mut peer) = stream();
    stream.feed(&token(&mut peer, b"last")).unwrap();
    stream.feed(&Tokens::frame(&peer.close().unwrap())).unwrap();
    assert_eq!(
        read(&mut stream).unwrap(),
        (b"last".to_vec(), Opened::Ended)
    );
    let mut out = Vec::new();
    stream.write(b"answer", &mut out).unwrap();
    stream.finish(&mut out).unwrap();
    stream.close(&mut out);
    let (mut tokens, mut input) = (Tokens::new(100), &out[..]);
    let mut answer = tokens.next(&mut input).unwrap().unwrap();
    assert_eq!(peer.unwrap(&mut answer).unwrap().message, b"answer");
    let close = tokens.next(&mut input).unwrap().unwrap();
    peer.process_context_token(&close).unwrap();
    assert_eq!(tokens.next(&mut input).unwrap(), None, "it is said once");
}

#[test]
fn an_empty_message_ends_nothing() {
    let (_domain, mut stream, mut peer) = stream();
    stream.feed(&token(&mut peer, b"")).unwrap();
    stream.feed(&token(&mut peer, b"more")).unwrap();
    assert_eq!(read(&mut stream).unwrap(), (b"more".to_vec(), Opened::More));
}

//= proves spec/sessions.md#order
#[test]
fn a_token_that_is_missing_repeated_or_forged_ends_the_session() {
    type Tampered = fn(&mut Context<Message>) -> Vec<u8>;
    let tampered: [Tampered; 5] = [
        |peer| token(peer, b"again").repeat(2),
        |peer| {
            token(peer, b"withheld");
            token(peer, b"behind a gap")
        },
        |peer| {
            token(peer, b"withheld");
            Tokens::frame(&peer.close().unwrap())
        },
        |peer| {
            let first = token(peer, b"first");
            [token(peer, b"second"), first].concat()
        },
        |peer| {
            let mut forged = token(peer, b"forged");
            *forged.last_mut().unwrap() ^= 1;
            forged
        },
    ];
    for tamper in tampered {
        let (_domain, mut stream, mut peer) = stream();
        stream.feed(&tamper(&mut peer)).unwrap();
        let status = read(&mut stream).unwrap_err();
        assert_eq!(status.minor(), Minor::MessageForged);
    }
}

//= proves spec/sessions.md#hop C2
#[test]
fn a_half_read_token_and_an_unread_message_move_along() {
    let (domain, mut stream, mut peer) = stream();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut bytes = token(&mut peer, b"opened and half read");
    bytes.extend(token(&mut peer, b", whole and unopened"));
    bytes.extend(token(&mut peer, b", cut"));
    let (now, later) = bytes.split_at(bytes.len() - 7);
    stream.feed(now).unwrap();
    let mut part = [0; 10];
    assert_eq!(stream.read(&mut part).unwrap(), Opened::Data(10));
    let how = Export::default().tied_to(socket.as_fd()).unwrap();
    let Ok(sealed) = stream.export(&how) else {
        panic!("not exported")
    };
    let Ok(mut stream) = Messages::import(&domain, sealed, socket.as_fd()) else {
        panic!("not imported")
    };
    let (text, then) = read(&mut stream).unwrap();
    assert_eq!(
        (&text[..], then),
        (&b" half read, whole and unopened"[..], Opened::More)
    );
    stream.feed(later).unwrap();
    assert_eq!(
        read(&mut stream).unwrap(),
        (b", cut".to_vec(), Opened::More)
    );
}
