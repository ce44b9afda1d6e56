//! What a TLS client does to a connection that has just moved: records cut at every byte, a
//! close_notify in flight, and what a server must refuse, with the alert that says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use baton::context::Context;
use baton::cred::Anchors;
use baton::establish::{Initiator, InitiatorConfig, Step};
use baton::ledger::Domain;
use baton::name::Name;
use baton::record::{Alert, Error, Read as Found, Record};
use serving::{Serving, runner, wait_for_end};

/// A client whose records the test can touch.
struct Client {
    context: Context<Record>,
    socket: TcpStream,
}

impl Client {
    fn connect(serving: &Serving) -> Self {
        let anchors = Anchors::from_pem_file(&serving.identity("ca.pem")).unwrap();
        let config = Arc::new(InitiatorConfig::builder(anchors).build().unwrap());
        let target = Name::host_based_service("test@localhost").unwrap();
        let mut socket = TcpStream::connect(serving.address).unwrap();
        let mut initiator = Initiator::<Record>::new(config, target).unwrap();
        let mut input = Vec::new();
        loop {
            match initiator.step(&input).unwrap() {
                Step::Continue { next, output } => {
                    socket.write_all(&output).unwrap();
                    initiator = next;
                }
                Step::Done { finished, output } => {
                    socket.write_all(&output).unwrap();
                    let domain = Domain::inherited(1).unwrap();
                    return Self {
                        context: finished.activate(&domain).unwrap(),
                        socket,
                    };
                }
                Step::Password(never) => match never {},
            }
            let mut bytes = [0; 4096];
            let length = socket.read(&mut bytes).unwrap();
            input = bytes[..length].to_vec();
        }
    }

    fn record(&mut self, text: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        self.context.seal(text, &mut record).unwrap();
        record
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Reads until `length` bytes of plaintext have come, or what came instead.
    fn hear(&mut self, length: usize) -> Result<Vec<u8>, Option<Error>> {
        let mut heard = Vec::new();
        let mut part = [0; 256];
        while heard.len() < length {
            match self.context.read(&mut part) {
                Ok(Found::Data(count)) => heard.extend_from_slice(&part[..count]),
                Ok(Found::Closed) => return Err(None),
                Ok(_) => {
                    let mut bytes = [0; 4096];
                    let count = self.socket.read(&mut bytes).unwrap();
                    assert_ne!(count, 0, "closed without an alert");
                    assert_eq!(self.context.feed(&bytes[..count]).unwrap(), count);
                }
                Err(_) => return Err(self.context.failure()),
            }
        }
        Ok(heard)
    }
}

/// Waits until the session has left `process`, and answers the process it is in now.
fn moved(serving: &Serving, process: u32) -> u32 {
    wait_for_end(process);
    let now = serving.sessions();
    *now.iter()
        .find(|child| **child != process)
        .expect("a process runs the session")
}

//= proves spec/sessions.md#hop C2 C8
#[test]
fn a_record_is_cut_at_each_byte_across_a_hop() {
    let serving = Serving::start(&["--hops", "1000"]);
    let mut client = Client::connect(&serving);
    let (_, mut process) = runner(&serving.log.wait_for("runs it"));
    let length = client.context.record_len(4);
    for cut in 1..length {
        let record = client.record(b"text");
        client.send(&record[..cut]);
        // A connection that falls silent in the middle of a record moves with what it has.
        process = moved(&serving, process);
        client.send(&record[cut..]);
        assert_eq!(client.hear(4).unwrap(), b"text", "cut at {cut}");
        // And once more for the other half.
        process = moved(&serving, process);
    }
    let ended = client
        .context
        .close_notify()
        .and_then(|()| client.context.take_output())
        .unwrap();
    client.send(&ended[..ended.len() / 2]);
    moved(&serving, process);
    client.send(&ended[ended.len() / 2..]);
    assert_eq!(client.hear(1), Err(None), "closed in good order");
    let told = serving.log.wait_for("ended: finished");
    assert!(told.contains("1001 hops; released: closed"), "{told}");
}

/// Lets a session hop, sends it what `spoil` makes of a record, and answers the alert.
fn refused(spoil: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Option<Error> {
    let serving = Serving::start(&["--hops", "1"]);
    let mut client = Client::connect(&serving);
    let (_, process) = runner(&serving.log.wait_for("runs it"));
    let record = client.record(b"before");
    client.send(&record);
    assert_eq!(client.hear(6).unwrap(), b"before");
    moved(&serving, process);
    let record = client.record(b"after");
    client.send(&spoil(record));
    let alert = client.hear(1).expect_err("an alert");
    let ended = serving.log.wait_for(" ended: ");
    assert!(ended.contains("2 hops; released: closed"), "{ended}");
    alert
}

#[test]
fn a_change_cipher_spec_after_a_hop_is_unexpected() {
    let alert = refused(|_| vec![20, 3, 3, 0, 1, 1]);
    assert_eq!(alert, Some(Error::PeerAlert(Alert::UNEXPECTED_MESSAGE)));
}

#[test]
fn a_bad_record_after_a_hop_is_a_bad_record() {
    let alert = refused(|mut record| {
        *record.last_mut().unwrap() ^= 1;
        record
    });
    assert_eq!(alert, Some(Error::PeerAlert(Alert::BAD_RECORD_MAC)));
}

#[test]
fn a_record_that_is_too_long_after_a_hop_overflows() {
    let alert = refused(|_| [&[23, 3, 3, 0x41, 1][..], &[0; 100]].concat());
    assert_eq!(alert, Some(Error::PeerAlert(Alert::RECORD_OVERFLOW)));
}
