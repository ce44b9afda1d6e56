//! Session processes that were taken over (threat model), forked by the real zygote, with all that
//! a session has: each costs its own session at most. The server, its other sessions and new ones
//! go on, every release is told exactly once, and the server stops in good order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "hostile/deeds.rs"]
mod deeds;
#[path = "hostile/floods.rs"]
mod floods;
mod hostile;
mod serving;
mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use baton::sys::process::Signal;
use deeds::{DEEDS, SLOW_TO_CLOSE, TAKES_ANOTHER_S};
use hostile::{Client, House, releases};
use serving::{signal_to, try_signal};

/// Every deed, one after the other, beside a session that goes on all the time.
fn all_deeds(hops: u32) {
    let house = House::open(hops, DEEDS);
    let mut witness = house.connect();
    witness.talk("first");
    house.serves();
    let mut before = None;
    let mut victims = Vec::new();
    for (number, (name, _)) in DEEDS.iter().enumerate() {
        house.order(number);
        let mut giver = None;
        if *name == TAKES_ANOTHER_S {
            giver = Some(house.connect());
            house.told.wait_for("given away: ");
            house.order(number);
        }
        let victim = house.connect();
        if *name == SLOW_TO_CLOSE {
            house.told.wait_for("ready to be slow");
            signal_to(house.process(), Signal::STOP);
            house.shared[3].store(1, SeqCst);
        }
        house.told.wait_for(&format!("{name}: "));
        if *name == SLOW_TO_CLOSE {
            signal_to(house.process(), Signal::CONT);
        }
        witness.talk(name);
        house.serves();
        if let Some(mut giver) = giver {
            giver.talk("its token was of no use to another");
            giver.finish();
        }
        victims.push(victim);
        before.get_or_insert((house.descriptors(), house.resident()));
    }
    let (descriptors, resident) = before.unwrap();
    // A session has three lines, two descriptors each, its reports and its connection.
    let most = descriptors + 8 * DEEDS.len();
    assert!(house.descriptors() <= most, "{}", house.descriptors());
    assert!(house.resident() < resident + 8192, "{}", house.resident());
    let (ticks, quiet) = (house.ticks(), Instant::now());
    while quiet.elapsed() < Duration::from_secs(1) {
        witness.talk("still here");
        std::thread::sleep(Duration::from_millis(100));
    }
    let spent = house.ticks() - ticks;
    assert!(spent < 20, "{spent} hundredths of a second of a quiet one");
    witness.finish();
    let log = house.stop();
    for (session, count) in releases(&log) {
        assert_eq!(count, 1, "{session} in {log:#?}");
    }
    for victim in victims {
        victim.wait_for_end();
    }
}

//= proves spec/processes.md#session C4
//= proves spec/processes.md#confine
//= proves spec/processes.md#stop
#[test]
fn a_session_that_was_taken_over_costs_itself() {
    all_deeds(0);
}

//= proves spec/processes.md#moving
#[test]
fn a_session_that_moves_and_was_taken_over_costs_itself() {
    all_deeds(3);
}

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Session,
    Zygote,
    Handshaker,
}

impl Kind {
    /// A process of the kind, once there is one.
    fn find(self, house: &House) -> u32 {
        let server = house.process();
        loop {
            // A session leads a group of its own; the zygote is the parent of such.
            let led = serving::all(|number, _, group| number == group && group != server);
            let led: Vec<u32> = led.into_iter().filter(|it| house.is_below(*it)).collect();
            let found = match self {
                Self::Session => led.last().copied(),
                Self::Zygote => {
                    let parents = led.iter().filter_map(|it| serving::parent(*it));
                    parents.into_iter().find(|parent| *parent != server)
                }
                Self::Handshaker => serving::children(server)
                    .into_iter()
                    .find(|child| house.listens(*child)),
            };
            if let Some(found) = found {
                return found;
            }
            std::thread::yield_now();
        }
    }
}

//= proves spec/processes.md#replaced
//= proves spec/sessions.md#release C4
#[test]
fn processes_killed_under_load_cost_what_they_held() {
    let house = House::open(0, DEEDS);
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = house.address;
    // Whether it came to its end: what it was of may have been killed.
    let session = |number: usize| {
        let mut client = Client::connect(address)?;
        for word in 0..number % 5 + 1 {
            client.try_talk(&format!("word {word} of {number}"))?;
        }
        client.try_finish()
    };
    std::thread::scope(|scope| {
        for number in 0..50 {
            let (over, served, session) = (&over, &served, &session);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    if session(number).is_ok() {
                        served.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..10 {
            // One that is killed within a second of its start is replaced later and later.
            let round = Instant::now();
            for kind in [Kind::Session, Kind::Zygote, Kind::Handshaker] {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                std::thread::sleep(Duration::from_millis(random % 50));
                // It may have just ended by itself.
                let _ = try_signal(kind.find(&house), Signal::KILL);
                let before = served.load(SeqCst);
                let patience = Instant::now() + Duration::from_secs(60);
                while served.load(SeqCst) < before + 10 {
                    assert!(Instant::now() < patience, "{kind:?}");
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            let rest = Duration::from_millis(1100).saturating_sub(round.elapsed());
            std::thread::sleep(rest);
        }
        over.store(true, SeqCst);
    });
    assert!(house.log.count("zygote: process ") >= 10);
    assert!(house.log.count("handshaker: process ") >= 10);
    house.serves();
    let log = house.stop();
    for (session, count) in releases(&log) {
        let about: Vec<_> = log.iter().filter(|line| line.contains(&session)).collect();
        assert_eq!(count, 1, "{about:#?}");
    }
}

//= proves spec/processes.md#end
#[test]
fn a_killed_supervisor_leaves_nothing() {
    for _ in 0..10 {
        let house = House::open(0, DEEDS);
        let mut clients: Vec<Client> = (0..5).map(|_| house.connect()).collect();
        clients.iter_mut().for_each(|client| client.talk("well"));
        signal_to(house.process(), Signal::KILL);
        for client in clients {
            client.wait_for_end();
        }
        // Each process of it has the log.
        house.log.all();
    }
}
