//! What servers are told while one comes after another, and what they tell the service manager.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clients;
mod serving;
mod takeover;

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use clients::{Client, Clients};
use rustix::process::Signal;
use serving::{Serving, Talking, baton, run, signal_to, wait_for_end};
use takeover::{answers, releases, says, stop, taken_over, takes_over, wait_for_stop};

/// A new server that is told to stop says so, ends in good order, and leaves all as it was.
fn gives_up(child: &mut Child, serving: &Serving, nth: usize) {
    assert_eq!(child.wait().unwrap().code(), Some(1));
    serving
        .log
        .wait_for_nth(nth, "told to stop before it was the server");
}

/// Where the new server has begun to wait, or is about to.
//= proves spec/takeover.md#told-to-stop C4
#[test]
fn a_new_server_told_to_stop_gives_up_wherever_it_waits() {
    let serving = Serving::start(&["--hops", "100", "--hop-every", "4"]);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "before\n");
    let mut nth = 0;
    for signal in [Signal::TERM, Signal::INT] {
        for step in ["takeover.ready", "takeover.kept", "takeover.taking"] {
            let (mut child, _log) = takes_over(&serving, &[], Some(&format!("{step}=stop")));
            wait_for_stop(child.id());
            signal_to(child.id(), signal);
            signal_to(child.id(), Signal::CONT);
            nth += 1;
            gives_up(&mut child, &serving, nth);
            serving.log.wait_for_nth(nth, "this one goes on");
            says(&mut talking, "still\n");
            answers(&serving);
        }
    }
    // For its own processes: nobody writes the certificate that it reads.
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("certificate");
    rustix::fs::mkfifoat(rustix::fs::CWD, &name, 0o600.into()).unwrap();
    let key = serving.identity("server-key.pem");
    let certificate = [
        "--cert",
        name.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];
    let (mut child, _log) = takes_over(&serving, &certificate, None);
    // Somebody reads: it is the handshaker.
    let open = OpenOptions::new().write(true).open(&name).unwrap();
    signal_to(child.id(), Signal::TERM);
    gives_up(&mut child, &serving, nth + 1);
    drop(open);
    says(&mut talking, "still\n");
    assert!(talking.finish().success());
    let (status, log) = serving.stop();
    assert!(status.success());
    assert!(releases(&log).values().all(|count| *count == 1), "{log:#?}");
}

/// Where the old one is late.
//= proves spec/takeover.md#told-to-stop C4
#[test]
fn a_new_server_told_to_stop_does_not_wait_for_the_old_one() {
    for step in [
        "takeover.pieces",
        "takeover.given",
        "takeover.taken",
        "keeper.moved_out",
    ] {
        let fault = format!("{step}=stop");
        let serving = Serving::start_with::<&str>(&[], |command| {
            command.env("BATON_FAULT", &fault);
        });
        let mut talking = Talking::start(serving.connect(&[]));
        says(&mut talking, "before\n");
        let (mut child, _log) = takes_over(&serving, &[], None);
        wait_for_stop(serving.process());
        let told = Instant::now();
        signal_to(child.id(), Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(1), "{step}");
        // Less than the time it has.
        assert!(told.elapsed() < Duration::from_secs(4), "{step}");
        signal_to(serving.process(), Signal::CONT);
        serving.log.wait_for("this one goes on");
        says(&mut talking, "still\n");
        answers(&serving);
        assert!(talking.finish().success());
    }
}

/// It is the server: it stops as one.
//= proves spec/takeover.md#told-to-stop C4
#[test]
fn a_new_server_told_to_stop_once_it_has_begun_stops_as_any() {
    let serving = Serving::start::<&str>(&[]);
    let (mut child, log) = takes_over(&serving, &[], Some("takeover.told=stop"));
    wait_for_stop(child.id());
    signal_to(child.id(), Signal::TERM);
    signal_to(child.id(), Signal::CONT);
    assert!(child.wait().unwrap().success());
    log.wait_for("stopping: ");
    wait_for_end(serving.process());
}

/// A reload is not forgotten by a server that goes on.
//= proves spec/takeover.md#reload
#[test]
fn a_reload_under_way_is_begun_anew_by_a_server_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("baton.toml");
    std::fs::write(&file, "").unwrap();
    let serving = Serving::start(&["--config", file.to_str().unwrap()]);
    for (nth, goes_on) in [(1, true), (2, false)] {
        // The handshaker of the new terms waits for its certificate.
        let name = folder.path().join(format!("certificate{nth}"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &name, 0o600.into()).unwrap();
        let key = serving.identity("server-key.pem");
        let text = format!("cert = {name:?}\nkey = {key:?}\n");
        std::fs::write(&file, text).unwrap();
        serving.signal(Signal::HUP);
        let open = OpenOptions::new().write(true).open(&name).unwrap();
        let fault = goes_on.then_some("takeover.kept=kill");
        // Whoever reads it from here on has it at once.
        let certificate = folder.path().join("server.pem");
        std::fs::copy(serving.identity("server.pem"), &certificate).unwrap();
        std::fs::rename(&certificate, &name).unwrap();
        let (mut child, _log) = takes_over(&serving, &[], fault);
        serving
            .log
            .wait_for_nth(nth, "configuration not read to the end");
        drop(open);
        if !goes_on {
            taken_over(&serving.log, 1);
            stop(child.id());
            child.wait().unwrap();
            continue;
        }
        serving.log.wait_for("this one goes on");
        child.wait().unwrap();
        serving.log.wait_for("configuration read: ");
        answers(&serving);
    }
}

/// The manager's ear is full, then gone for a moment: it is told all the same, before the old server
/// ends.
//= proves spec/takeover.md#main
//= proves spec/service.md#notify
#[test]
fn a_manager_that_cannot_be_told_at_once_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("notify");
    for gone in [false, true] {
        let ear = UnixDatagram::bind(&name).unwrap();
        ear.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let serving = Serving::start_with::<&str>(&[], |command| {
            command.env("NOTIFY_SOCKET", &name);
        });
        let mut talking = Talking::start(serving.connect(&[]));
        says(&mut talking, "before\n");
        let ear = if gone {
            std::fs::remove_file(&name).unwrap();
            None
        } else {
            let filling = UnixDatagram::unbound().unwrap();
            filling.set_nonblocking(true).unwrap();
            while filling.send_to(b"FILLING=1", &name).is_ok() {}
            Some(ear)
        };
        signal_to(serving.process(), Signal::USR2);
        let process = taken_over(&serving.log, 1);
        // The new one serves already; the old one is still there, and can be told to stop.
        says(&mut talking, "after\n");
        answers(&serving);
        assert!(serving::parent(serving.process()).is_some());
        let ear = ear.unwrap_or_else(|| UnixDatagram::bind(&name).unwrap());
        let told = format!("MAINPID={process}");
        let mut heard = [0; 4096];
        loop {
            let length = ear.recv(&mut heard).unwrap();
            if heard[..length] == *told.as_bytes() {
                break;
            }
        }
        wait_for_end(serving.process());
        assert!(talking.finish().success());
        stop(process);
        std::fs::remove_file(&name).unwrap();
    }
}

/// What was told to the one that is the server no more is passed on as long as it is there.
//= proves spec/takeover.md#signals
//= proves spec/takeover.md#main
#[test]
fn a_server_that_waits_for_its_manager_passes_on_what_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("notify");
    let serving = Serving::start_with::<&str>(&[], |command| {
        command.env("NOTIFY_SOCKET", &name);
    });
    signal_to(serving.process(), Signal::USR2);
    let process = taken_over(&serving.log, 1);
    signal_to(serving.process(), Signal::TERM);
    wait_for_end(process);
    serving.log.wait_for("stopped");
    drop(UnixDatagram::bind(&name).unwrap());
}

const THREADS: usize = 8;
/// Comes right behind the handshake, so that it travels with the context.
const BEHIND: [u8; 14_000] = [b'b'; 14_000];

fn is_served(mut client: Client) {
    let mut heard = vec![0; BEHIND.len()];
    client.0.read_exact(&mut heard).unwrap();
    assert_eq!(heard, BEHIND);
}

fn metrics(serving: &Serving) -> Command {
    let mut metrics = baton();
    metrics.arg("metrics").arg("--state");
    metrics.arg(serving.state().path().join("baton"));
    metrics
}

/// Orders for which a zygote's link has no room yet are the next server's to give.
//= proves spec/takeover.md#estate C4
#[test]
fn a_zygote_that_does_not_hear_holds_up_no_takeover() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = file.path().to_str().unwrap();
    // The kernel sends SIGHUP to a process group with a stopped process when the last one ends whose
    // parent could start it again: with a configuration it ends nobody.
    let serving = Serving::start(&["--sessions", "2000", "--config", config]);
    answers(&serving);
    let clients = Clients::new(&serving.identity("ca.pem"));
    // The one that answers for a session is its zygote: its child.
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "before\n");
    let zygote = serving::parent(serving.sessions()[0]).unwrap();
    signal_to(zygote, Signal::STOP);
    let count = 240;
    let waiting = AtomicUsize::new(0);
    let process = std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                // What is not accepted waits for the next server.
                let share = (0..count / THREADS).map(|_| {
                    let client = clients.connect_saying(serving.address, &BEHIND).unwrap();
                    waiting.fetch_add(1, SeqCst);
                    client
                });
                share.collect::<Vec<_>>().into_iter().for_each(is_served);
            });
        }
        // Full: the handshaker has been told to accept nothing more.
        while !run(metrics(&serving), b"")
            .0
            .contains("\nbaton_accepting 0\n")
        {
            assert!(waiting.load(SeqCst) < count);
        }
        signal_to(serving.process(), Signal::USR2);
        let process = taken_over(&serving.log, 1);
        wait_for_end(serving.process());
        signal_to(zygote, Signal::CONT);
        process
    });
    assert!(talking.finish().success());
    serving.log.wait_for_nth(count + 2, "released: ");
    stop(process);
    let log = serving.log.all();
    let released = releases(&log);
    assert!(released.len() == count + 2 && released.values().all(|count| *count == 1));
}
