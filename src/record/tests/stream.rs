//! The stream over sockets that block, that do not, and that do as they please.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, BufRead, IoSlice, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::record::{Access, Pass};
use crate::status::{Major, Minor, Status};

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    ended: bool,
}

/// A socket in memory. How much it takes and gives at once is drawn from a script: 0 is
/// `WouldBlock`, 1 is `Interrupted`.
#[derive(Clone, Default)]
struct Fickle {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
    script: Vec<usize>,
    at: usize,
}

impl Fickle {
    /// Bytes that wait in one direction at most.
    const CAPACITY: usize = 30_000;

    fn pair(script: &[usize]) -> (Self, Self) {
        let one = Self {
            script: script.to_vec(),
            ..Self::default()
        };
        let (incoming, outgoing) = (one.outgoing.clone(), one.incoming.clone());
        let other = Self {
            incoming,
            outgoing,
            script: script.to_vec(),
            at: script.len() / 2,
        };
        (one, other)
    }

    fn turn(&mut self) -> io::Result<usize> {
        // Any fixed order could fall into step with the test's own.
        self.at = self
            .at
            .wrapping_mul(0x5851_F42D_4C95_7F2D)
            .wrapping_add(0x1405_7B7E_F767_814F);
        match self.script.get((self.at >> 33) % self.script.len().max(1)) {
            Some(0) => Err(io::ErrorKind::WouldBlock.into()),
            Some(1) => Err(io::ErrorKind::Interrupted.into()),
            Some(bytes) => Ok(*bytes),
            None => Ok(usize::MAX),
        }
    }
}

impl io::Read for Fickle {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        assert!(
            !out.is_empty(),
            "reading into nothing would look like the end"
        );
        let length = self.turn()?.min(out.len());
        let mut pipe = self.incoming.borrow_mut();
        if pipe.bytes.is_empty() && !pipe.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        pipe.bytes.read(&mut out[..length])
    }
}

impl io::Write for Fickle {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let most = self.turn()?;
        let mut pipe = self.outgoing.borrow_mut();
        let length = most.min(data.len()).min(Self::CAPACITY - pipe.bytes.len());
        if length == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        pipe.bytes.extend(&data[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Side = Stream<Record, Fickle>;

fn both(script: &[usize]) -> (Side, Side) {
    let (server, client) = pair(Suite::Aes128Gcm);
    let (here, there) = Fickle::pair(script);
    (Stream::new(server, here), Stream::new(client, there))
}

/// None when the socket would block; no other error.
fn done<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            None
        }
    }
}

fn moved(stream: Side) -> Side {
    let (record, socket) = stream.into_parts();
    let record = hop(&record).unwrap_or(record);
    Stream::new(record, socket)
}

proptest! {
    //= proves spec/records.md#order
    //= proves spec/records.md#buffers
    #[test]
    fn a_socket_that_does_not_block_loses_nothing(
        script in proptest::collection::vec(prop_oneof![Just(0), Just(1), 2..50usize, 2..60_000usize], 1..30)
            .prop_filter("it moves", |script| script.iter().any(|step| *step > 1000)),
        total in 1..200_000usize, chunk in 1..70_000usize, buffer in 1..40_000usize,
        keys in 1..20usize, hops in 1..20usize,
    ) {
        let (mut server, mut client) = both(&script);
        let data = (0..total).map(|i| (i / 3) as u8).collect::<Vec<_>>();
        let (mut said, mut back, mut heard) = (0, Vec::new(), Vec::new());
        let mut buffer = vec![0; buffer];
        for step in 0.. {
            prop_assert!(step < 30_000, "it stands still");
            if step % hops == 0 {
                server = moved(server);
                client = moved(client);
            }
            if let Some(taken) = done(client.write(&data[said..total.min(said + chunk)])) {
                said += taken;
                if said % keys == 0 && said < total {
                    client.channel_mut().key_update(false).unwrap();
                }
            }
            done(client.flush());
            if let Some(length) = done(server.read(&mut buffer)) {
                back.extend_from_slice(&buffer[..length]);
            }
            if let Some(taken) = done(server.write(&back)) {
                back.drain(..taken);
            }
            done(server.flush());
            if let Some(length) = done(client.read(&mut buffer)) {
                heard.extend_from_slice(&buffer[..length]);
            }
            if heard.len() == total {
                break;
            }
        }
        prop_assert!(heard == data);
        while done(client.close_notify()).is_none() {}
        while done(server.read(&mut buffer)) != Some(0) {}
        prop_assert_eq!(server.write(b"half open").unwrap_or(9), 9);
    }
}

//= proves spec/records.md#half-close
//= proves spec/records.md#truncation
#[test]
fn a_connection_cut_short_is_not_one_that_closed() {
    let (mut server, mut client) = both(&[]);
    client.write_all(b"cut").unwrap();
    client.socket().outgoing.borrow_mut().ended = true;
    let mut text = String::new();
    let error = server.read_to_string(&mut text).unwrap_err();
    assert_eq!(
        (text.as_str(), error.kind()),
        ("cut", io::ErrorKind::UnexpectedEof)
    );
    assert_eq!(error.downcast::<Error>().unwrap(), Error::Truncated);
    assert_eq!(Status::from(Error::Truncated).minor(), Minor::Truncated);
    server.write_all(b"still sent").unwrap();

    let (mut server, mut client) = both(&[]);
    client.write_all(b"whole").unwrap();
    client.close_notify().unwrap();
    client.socket().outgoing.borrow_mut().ended = true;
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "whole");
    assert_eq!(server.read(&mut [0; 9]).unwrap(), 0);
    server.write_all(b"and back").unwrap();
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 8);
    assert_eq!(
        client.write(b"x").unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
}

//= proves spec/records.md#alert-out
#[test]
fn a_fatal_error_sends_its_alert_and_stays() {
    let (mut server, mut client) = both(&[]);
    client
        .socket()
        .outgoing
        .borrow_mut()
        .bytes
        .extend([20, 3, 3, 0, 1, 1]);
    for _ in 0..3 {
        let error = server.read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.downcast::<Error>().unwrap(), Error::Unexpected);
    }
    assert_eq!(
        server.write(b"x").unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    let error = client.read(&mut [0; 9]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert!(
        error.to_string().contains("unexpected_message (10)"),
        "{error}"
    );
}

#[test]
fn answers_are_sent_by_reads_and_lines_are_read_where_they_were_opened() {
    let (mut server, mut client) = both(&[]);
    client.write_all(b"one\ntwo\nthr").unwrap();
    client.channel_mut().key_update(true).unwrap();
    client.write_all(b"ee\n").unwrap();
    let mut line = String::new();
    for expected in ["one\n", "two\n", "three\n"] {
        line.clear();
        server.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }
    assert_eq!(done(server.fill_buf().map(<[u8]>::len)), None);
    // The answer is on its way, although the server wrote nothing.
    assert_eq!(server.socket().outgoing.borrow().bytes.len(), 5 + OVERHEAD);
    assert_eq!(server.channel().buffered(), 0);
    server.channel_mut().write(b"x").unwrap();
    server.flush().unwrap();
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 1);
}

//= proves spec/records.md#idle
#[test]
fn a_stream_that_waits_holds_no_buffers() {
    let (mut server, mut client) = both(&[]);
    let mut buffer = vec![0; 25_000];
    for _ in 0..20 {
        assert_eq!(client.write(&buffer).unwrap(), buffer.len());
        let mut read = 0;
        while let Some(length) = done(server.read(&mut buffer[..999])) {
            read += length;
        }
        assert_eq!(read, buffer.len());
        assert_eq!(server.channel().input.capacity(), 0);
    }
}

/// A channel that its process loses after some uses.
struct Lost {
    record: Record,
    uses: usize,
    tickets: Vec<Vec<u8>>,
}

impl Access for Lost {
    fn record(&mut self, _: Pass) -> Result<&mut Record, Status> {
        self.uses = self.uses.checked_sub(1).ok_or(Minor::ContextRevoked)?;
        Ok(&mut self.record)
    }

    fn ticket(&mut self, ticket: Vec<u8>) {
        self.tickets.push(ticket);
    }
}

#[test]
fn a_channel_that_is_lost_neither_reads_nor_writes() {
    for uses in 0..4 {
        let (server, client) = pair(Suite::Aes128Gcm);
        let (here, there) = Fickle::pair(&[]);
        let mut client = Stream::new(client, there);
        client.write_all(b"data").unwrap();
        let mut channel = Lost {
            record: server,
            uses,
            tickets: vec![],
        };
        let mut server = Stream::new(&mut channel, here);
        for error in [
            server.read(&mut [0; 9]).unwrap_err(),
            server.write(b"data").unwrap_err(),
            server.fill_buf().unwrap_err(),
            server.flush().unwrap_err(),
            server.close_notify().unwrap_err(),
        ] {
            let status = error.downcast::<Status>().unwrap();
            assert_eq!(status.major(), Major::NoContext);
        }
        assert!(
            client.socket().incoming.borrow().bytes.is_empty(),
            "nothing was sealed"
        );
    }
}

//= proves spec/records.md#ticket
#[test]
fn tickets_are_handed_to_the_channel() {
    let (_, client) = pair(Suite::Aes128Gcm);
    let mut forger = Forger::new(Suite::Aes128Gcm, true);
    let (here, _there) = Fickle::pair(&[]);
    let records = [
        forger.record(22, &ticket(3).repeat(2)),
        forger.record(23, b"data"),
    ]
    .concat();
    here.incoming.borrow_mut().bytes.extend(records);
    let mut channel = Lost {
        record: client,
        uses: usize::MAX,
        tickets: vec![],
    };
    let mut stream = Stream::new(&mut channel, here);
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 4);
    assert_eq!(channel.tickets, vec![ticket(3)[4..].to_vec(); 2]);
}

#[test]
fn a_blocking_socket_carries_megabytes_both_ways_past_rustls() {
    for server in [true, false] {
        let limits = Limits::default().records(20).received(20);
        let (ours, mut theirs) = peer::established(Suite::Aes256Gcm, server, 2, limits);
        let (here, mut there) = UnixStream::pair().unwrap();
        const TOTAL: usize = 3_000_000;
        let echo = thread::spawn(move || {
            let mut buffer = vec![0; 40_000];
            loop {
                let length = there.read(&mut buffer).unwrap();
                let (data, closed) = theirs.feed(&buffer[..length]).unwrap();
                for piece in data.chunks(10_000) {
                    theirs.write(piece);
                    there.write_all(&theirs.output()).unwrap();
                }
                if closed {
                    theirs.close();
                    there.write_all(&theirs.output()).unwrap();
                    return;
                }
            }
        });
        let mut reading = Stream::new(ours, here);
        let data = (0..TOTAL).map(|i| (i % 253) as u8).collect::<Vec<_>>();
        let mut heard = vec![0; TOTAL];
        for (said, heard) in data.chunks(60_000).zip(heard.chunks_mut(60_000)) {
            let (left, right) = said.split_at(1000);
            let written = reading
                .write_vectored(&[IoSlice::new(left), IoSlice::new(right)])
                .unwrap();
            reading.write_all(&said[written..]).unwrap();
            reading.read_exact(heard).unwrap();
            let (record, socket) = reading.into_parts();
            reading = Stream::new(hop(&record).unwrap(), socket);
        }
        assert!(heard == data);
        reading.close_notify().unwrap();
        assert_eq!(reading.read(&mut [0; 9]).unwrap(), 0);
        echo.join().unwrap();
    }
}
