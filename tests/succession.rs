//! Hot restarts of a server of one process: peers do not notice, and whatever goes wrong costs no
//! more than it must.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod restarting;
mod support;

use std::fs;

use restarting::{Client, Newcomers, Server, Talking};

/// That a server takes new connections and serves them.
fn serves(server: &Server) {
    let mut client = Client::connect(server.address).unwrap();
    client.round().unwrap();
    client.close().unwrap();
}

//= proves spec/succession.md#start C2
//= proves spec/succession.md#hand-over C2
//= proves spec/succession.md#accepting
//= proves spec/succession.md#end
//= proves spec/token.md#laden C2
#[test]
fn three_hundred_talking_clients_do_not_notice() {
    let mut server = Server::start("traffic", None, &[]);
    let talking = Talking::start(server.clients(300), 6);
    let newcomers = Newcomers::start(server.address);
    // These do not hear: the server holds as much of theirs as it holds of anyone's.
    let mut lazy = server.clients(3);
    lazy.iter_mut().for_each(Client::flood);
    let mut silent = server.clients(10);
    for _ in 0..3 {
        let count = server.restart();
        assert!(count >= 313, "{count}");
    }
    lazy.iter_mut().try_for_each(Client::drain).unwrap();
    silent.iter_mut().try_for_each(Client::round).unwrap();
    assert!(newcomers.stop().unwrap() > 3);
    for client in talking
        .stop()
        .unwrap()
        .into_iter()
        .chain(lazy)
        .chain(silent)
    {
        client.close().unwrap();
    }
}

//= proves spec/succession.md#start C8
//= proves spec/succession.md#accepting
#[test]
fn fifty_restarts_in_a_row_refuse_nobody() {
    let mut server = Server::start("fifty", None, &[]);
    let talking = Talking::start(server.clients(20), 2);
    let newcomers = Newcomers::start(server.address);
    for round in 0..50 {
        if round % 10 == 0 {
            // What is there then is what is started.
            let other = ["another", "server"][round / 10 % 2];
            let other = restarting::folder().join(other);
            server.replace(|new| fs::hard_link(other, new).unwrap());
        }
        assert!(server.restart() >= 20);
    }
    assert!(newcomers.stop().unwrap() > 50);
    for client in talking.stop().unwrap() {
        client.close().unwrap();
    }
}

/// The old process finishes it, while the new one accepts; then the context follows the others.
//= proves spec/succession.md#accepting C11
#[test]
fn a_handshake_in_progress_is_finished_and_handed_over() {
    let mut server = Server::start("slow", None, &[]);
    let others = server.clients(3);
    let address = server.address;
    let slow = Client::connect_slowly(address, || {
        server.signal(rustix::process::Signal::USR2);
        server.wait("ready");
        // Accepted by the new process: the old one says ACCEPT without waiting for this handshake.
        for _ in 0..3 {
            serves(&server);
        }
        // These moved although it is not done.
        assert_eq!(alive(server.clients(3)).len(), 3);
    });
    let mut slow = slow.unwrap();
    slow.round().unwrap();
    let line = server.wait(" succeeds with ");
    assert_eq!(server.follow(&line), 4);
    slow.close().unwrap();
    others
        .into_iter()
        .for_each(|client| client.close().unwrap());
}

/// A restart that fails before anything was given: everybody goes on, and the next one works.
fn fails(server: &mut Server, reason: &str) {
    let talking = Talking::start(server.clients(10), 2);
    let newcomers = Newcomers::start(server.address);
    server.signal(rustix::process::Signal::USR2);
    let line = server.wait(" goes on with ");
    assert!(line.contains(reason), "{line}");
    newcomers.stop().unwrap();
    for client in talking.stop().unwrap() {
        client.close().unwrap();
    }
}

//= proves spec/succession.md#start C4
//= proves spec/succession.md#back C4
#[test]
fn a_successor_that_does_not_start_costs_nothing() {
    let mut server = Server::start("broken", None, &[]);
    let bystanders = server.clients(5);
    let good = restarting::folder().join("server");
    fs::remove_file(&server.program).unwrap();
    fails(&mut server, "No such file");
    server.replace(|new| fs::write(new, "nothing").unwrap());
    fails(&mut server, "Permission denied");
    // A program that ends at once.
    server.replace(|new| assert!(fs::copy("/bin/true", new).is_ok()));
    fails(&mut server, "is gone");
    server.replace_by_script("kill -SEGV $$");
    fails(&mut server, "is gone");
    // One that starts the server as its child, and not in its place.
    server.replace_by_script("% \"$@\"\ntrue");
    fails(&mut server, "another process than the one started");
    // One that cannot read its key, and says so.
    server.replace(|new| fs::hard_link(&good, new).unwrap());
    let key = fs::read(&server.key).unwrap();
    fs::write(&server.key, "no key").unwrap();
    fails(&mut server, "the successor refuses: ");
    fs::write(&server.key, key).unwrap();
    assert_eq!(server.restart(), 5);
    bystanders
        .into_iter()
        .for_each(|client| client.close().unwrap());
}

//= proves spec/succession.md#deadlines C4
#[test]
fn a_successor_that_never_says_ready_is_ended() {
    for fault in ["succession.hello=stop", "succession.taken_offer=stop"] {
        let options = ["--ready-ms", "500"];
        let mut server = Server::start(&fault.replace('=', "-"), None, &options);
        server.fault_successor(fault);
        fails(&mut server, "not answered in time");
        serves(&server);
    }
}

//= proves spec/succession.md#descriptors C4
#[test]
fn a_successor_with_too_few_descriptors_gets_nothing() {
    let mut server = Server::start("few", None, &[]);
    let bystanders = server.clients(30);
    let good = restarting::folder().join("server");
    server.replace_by_script("ulimit -n 40\nexec % \"$@\"");
    fails(&mut server, "descriptors and needs 4");
    server.replace(|new| fs::hard_link(&good, new).unwrap());
    assert_eq!(server.restart(), 30);
    bystanders
        .into_iter()
        .for_each(|client| client.close().unwrap());
}

/// The clients that still hear what they say.
fn alive(clients: Vec<Client>) -> Vec<Client> {
    let talks = |mut client: Client| {
        client
            .round()
            .and_then(|()| client.complete())
            .ok()
            .map(|()| client)
    };
    clients.into_iter().filter_map(talks).collect()
}

/// The successor is killed at a step: what it had imported ends, the rest goes on in the old one.
//= proves spec/succession.md#back C3 C4
//= proves spec/succession.md#hand-over C4
#[test]
fn a_successor_killed_at_any_step_costs_only_what_it_had() {
    for (at, (fault, least, most)) in [
        ("succession.hello=kill", 0, 0),
        ("succession.taken_offer=kill", 0, 0),
        ("succession.ready=kill", 0, 0),
        ("passage.received=kill", 0, 0),
        ("bundle.opened=kill", 0, 0),
        ("ledger.arrive.checked=kill@3", 2, 2),
        ("import.claimed=kill@7", 7, 7),
        ("succession.taking=kill", 20, 20),
        ("passage.received=stop", 0, 0),
        ("import.claimed=stop@7", 7, 7),
    ]
    .into_iter()
    .enumerate()
    {
        let options = ["--answer-ms", "500"];
        let mut server = Server::start(&format!("killed-{at}"), None, &options);
        server.fault_successor(fault);
        let mut clients = server.clients(20);
        // Each has half a record in the server.
        clients
            .iter_mut()
            .for_each(|client| client.round().unwrap());
        server.signal(rustix::process::Signal::USR2);
        let line = server.wait(" goes on with ");
        let clients = alive(clients);
        let lost = 20 - clients.len();
        assert!(
            (least..=most).contains(&lost),
            "{fault}: {lost} lost: {line}"
        );
        assert!(
            line.contains(&format!("goes on with {}, ", 20 - lost)),
            "{fault}: {line}"
        );
        serves(&server);
        // And once more, this time to its end.
        server.replace(|new| fs::hard_link(restarting::folder().join("server"), new).unwrap());
        assert_eq!(server.restart(), clients.len(), "{fault}");
        clients
            .into_iter()
            .for_each(|client| client.close().unwrap());
    }
}

/// The second of two bundles is under way when the successor is killed.
//= proves spec/succession.md#back C4
#[test]
fn a_successor_killed_between_two_parcels_costs_the_first_at_most() {
    let mut server = Server::start("between", None, &[]);
    server.fault_successor("passage.received=kill@2");
    let clients = server.clients(300);
    server.signal(rustix::process::Signal::USR2);
    let line = server.wait(" goes on with ");
    let clients = alive(clients);
    assert_eq!(clients.len(), 300 - 253, "{line}");
    clients
        .into_iter()
        .for_each(|client| client.close().unwrap());
    serves(&server);
}

/// More than the socket between the two holds: what is not taken waits, and comes back when the
/// successor takes no more.
//= proves spec/succession.md#hand-over C4
//= proves spec/succession.md#back C4
#[test]
fn much_luggage_waits_for_room_and_comes_back() {
    let options = ["--answer-ms", "1000"];
    let mut server = Server::start("much", None, &options);
    let mut clients = server.clients(16);
    std::thread::scope(|all| {
        for client in &mut clients {
            all.spawn(|| client.flood());
        }
    });
    server.fault_successor("passage.received=stop@2");
    server.signal(rustix::process::Signal::USR2);
    let line = server.wait(" goes on with ");
    // The first parcel was taken.
    let left = |left: &usize| line.contains(&format!(" goes on with {left}, "));
    let left = (1..16).find(left).unwrap_or_else(|| panic!("{line}"));
    assert!(left > 8, "{line}");
    server.replace(|new| fs::hard_link(restarting::folder().join("server"), new).unwrap());
    assert_eq!(server.restart(), left);
    let drained = std::thread::scope(|all| {
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| all.spawn(|| client.drain().is_ok()))
            .collect();
        let drained = threads.into_iter().map(|thread| thread.join().unwrap());
        drained.filter(|drained| *drained).count()
    });
    assert_eq!(drained, left);
}

/// The first of two bundles was sent when the old process is killed.
//= proves spec/succession.md#orphan C4
#[test]
fn an_old_process_killed_between_two_parcels_costs_the_second() {
    let mut server = Server::start("half", Some("bundle.departed=kill@2"), &[]);
    let clients = server.clients(300);
    server.signal(rustix::process::Signal::USR2);
    let line = server.wait(" orphaned with ");
    assert_eq!(server.follow(&line), 253);
    let clients = alive(clients);
    assert_eq!(clients.len(), 253);
    clients
        .into_iter()
        .for_each(|client| client.close().unwrap());
    serves(&server);
}

/// The old process is killed at a step: what it had sent goes on in the successor.
//= proves spec/succession.md#orphan C3 C4
//= proves spec/token.md#words
#[test]
fn an_old_process_killed_at_any_step_costs_only_what_it_had_not_sent() {
    for (at, (fault, left)) in [
        ("succession.offered=kill", 0),
        ("bundle.encoded=kill", 0),
        ("bundle.sealed=kill", 0),
        ("bundle.departed=kill", 0),
        ("passage.sending=kill", 0),
        ("passage.sent=kill", 20),
        ("succession.accepting=kill", 20),
        ("succession.ended=kill", 20),
    ]
    .into_iter()
    .enumerate()
    {
        let mut server = Server::start(&format!("old-{at}"), Some(fault), &[]);
        let mut clients = server.clients(20);
        clients
            .iter_mut()
            .for_each(|client| client.round().unwrap());
        server.signal(rustix::process::Signal::USR2);
        // After END there is nothing left to be orphaned of.
        let ended = fault.starts_with("succession.ended");
        let line = server.wait(if ended {
            " succeeds with "
        } else {
            " orphaned with "
        });
        assert_eq!(server.follow(&line), left, "{fault}");
        let clients = alive(clients);
        assert_eq!(clients.len(), left, "{fault}");
        clients
            .into_iter()
            .for_each(|client| client.close().unwrap());
        serves(&server);
    }
}

/// Before the offer the successor has nothing to go on with.
//= proves spec/succession.md#orphan
#[test]
fn an_old_process_killed_before_the_offer_leaves_nobody() {
    let mut server = Server::start("unborn", Some("succession.started=kill"), &[]);
    let clients = server.clients(3);
    server.signal(rustix::process::Signal::USR2);
    server.wait_for_end();
    assert!(alive(clients).is_empty());
}
