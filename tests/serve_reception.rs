//! What strangers can do to a server before they are anybody: be many, be slow, talk nonsense.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serving::{Serving, run};

/// Handshakes at once, as the page says.
const MOST: usize = 1024;

//= proves spec/processes.md#handshakes E3
#[test]
fn a_crowd_that_says_nothing_makes_room_and_is_gone_in_time() {
    const BEYOND: usize = 6;
    let limit = baton::sys::process::raise_descriptor_limit().unwrap() as usize;
    if limit < MOST + BEYOND + 500 {
        println!("skipped: {limit} descriptors are too few");
        return;
    }
    // Sessions and handshakes share the descriptors.
    let serving = Serving::start(&["--sessions", "100"]);
    let began = Instant::now();
    let mut crowd: Vec<TcpStream> = (0..MOST + BEYOND)
        .map(|_| TcpStream::connect(serving.address).unwrap())
        .collect();
    let (output, errors, status) = run(serving.connect(&[]), b"well\n");
    assert!(status.success(), "{errors}");
    assert_eq!(output, "well\n");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "nobody before it was slow"
    );
    // Those who had been there for longest, one for each who waited and no more.
    assert_eq!(serving.log.count("dropped: others wait"), BEYOND + 1);
    for gone in &mut crowd[..=BEYOND] {
        assert_eq!(gone.read(&mut [0; 1]).unwrap_or(0), 0, "without a word");
    }
    serving.log.wait_for("dropped: the handshake took too long");
    assert!(began.elapsed() >= Duration::from_secs(10));
}

//= proves spec/processes.md#handshakes E3
#[test]
fn who_is_refused_hears_why_although_it_goes_on_talking() {
    let serving = Serving::start::<&str>(&[]);
    let mut socket = TcpStream::connect(serving.address).unwrap();
    // A record of handshake with a message that is none, and more than buffers hold unread.
    socket
        .write_all(&[0x16, 3, 1, 0, 4, 0xff, 0, 0, 0])
        .unwrap();
    let mut writer = socket.try_clone().unwrap();
    let talking = std::thread::spawn(move || writer.write_all(&vec![0x17; 400_000]).is_ok());
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard).unwrap();
    // A fatal alert, whole, and the end: not a reset.
    assert_eq!(heard[..5], [21, 3, 3, 0, 2]);
    assert_eq!((heard[5], heard.len()), (2, 7));
    assert!(talking.join().unwrap(), "all of it was taken");
    let refused = serving.log.wait_for("refused: ");
    assert!(refused.contains("connection from 127.0.0.1:"), "{refused}");
    let (status, log) = serving.stop();
    assert!(status.success());
    assert_eq!(
        log.iter().filter(|line| line.contains("refused")).count(),
        1
    );
}
