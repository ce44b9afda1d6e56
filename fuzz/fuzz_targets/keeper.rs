//! What a hostile member says to the keeper of a domain.
//!
//! The first byte says the role, and whether the connection greets first. Then messages: two bytes
//! of length, and the bytes; a message whose length has its highest bit set is sent with a
//! descriptor. Held is: the keeper goes on, another member's context stays its own, what the
//! hostile one had is released, and the connection takes nothing of the keeper's with it.

#![no_main]

use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use baton::ledger::keeper::{Keeper, Options, Role};
use baton::sys::socket;
use libfuzzer_sys::fuzz_target;

const HELLO: &[u8] = b"\x01BTK\x01";
const ESTABLISH: &[u8] = &[2];

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

struct World {
    keeper: Keeper,
    /// Another member, with one context.
    witness: OwnedFd,
}

fn hear(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut answer = vec![0; 32_768];
    let got = socket::recv_with_fds(socket, &mut answer, &mut Vec::new(), false).ok()?;
    answer.truncate(got.len);
    Some(answer)
}

impl World {
    fn new() -> Self {
        let options = Options {
            ledger: baton::ledger::Options {
                capacity: 64,
                processes: 16,
                collect: true,
            },
            quota: 16,
            longest_transit: Duration::from_secs(1),
        };
        let mut keeper = Keeper::new(&options).expect("memory");
        let (_, witness) = keeper.connect(Role::Member).expect("descriptors");
        let mut world = Self { keeper, witness };
        assert_eq!(world.ask(HELLO)[0], 0x81);
        assert_eq!(world.ask(ESTABLISH)[0], 0x82);
        world
    }

    fn turn(&mut self) {
        while self.keeper.turn(Some(Duration::ZERO)).expect("it waits") > 0 {}
    }

    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        socket::send_now(&self.witness, request).expect("there is room");
        self.turn();
        hear(&self.witness).expect("an answer")
    }

    fn run(&mut self, how: u8, mut bytes: &[u8]) {
        let role = Role::ALL[usize::from(how) % Role::ALL.len()];
        let (id, hostile) = self.keeper.connect(role).expect("descriptors");
        if how < 128 {
            socket::send_now(&hostile, HELLO).expect("there is room");
            self.turn();
            assert_eq!(hear(&hostile).expect("a welcome")[0], 0x81);
        }
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let length = u16::from_be_bytes(*length);
            let with_descriptor = length >> 15 == 1;
            let (message, rest) = rest.split_at(rest.len().min(usize::from(length & 0x7fff)));
            bytes = rest;
            let fds = with_descriptor.then(|| self.witness.as_fd());
            let parts = [IoSlice::new(message)];
            if socket::send_with_fds(&hostile, &parts, fds.as_slice()).is_err() {
                break;
            }
            self.turn();
            while hear(&hostile).is_some_and(|answer| !answer.is_empty()) {}
        }
        self.keeper.remove(id);
        let mut released = 0;
        self.keeper.releases(|_| released += 1);
        // The witness is served, and its context is where it was.
        let open = [&[4][..], &[0; 24]].concat();
        assert_eq!(self.ask(&open), [0xff, 11]);
        assert_eq!(self.keeper.members(), 1);
        assert!(self.keeper.census().active == 1 && released <= 64);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else {
        return;
    };
    WORLD.with_borrow_mut(|world| {
        world.run(*how, bytes);
        // What is in transit goes on without its exporter, until its deadline: not for ever here.
        if world.keeper.census().transit > 32 {
            for listed in world.keeper.list() {
                if listed.holder.is_none() {
                    world.keeper.revoke(&listed.id);
                }
            }
            world.keeper.releases(|_| ());
        }
    });
});
