//! A live connection moves through a hundred processes while its client, which knows nothing of
//! it, talks on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod serving;

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};

use baton::crypto::Sha256;
use serving::{Serving, Talking, run, runner};

const MIB: usize = 1 << 20;
/// Of upload, in MiB.
const UPLOAD: usize = 200;

/// Bytes that differ from one MiB to the next, and hold none of the letters that `s_client` takes
/// as commands at the beginning of a line.
struct Pattern {
    base: Vec<u8>,
}

impl Pattern {
    fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let base = (0..MIB)
            .map(|index| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if index % 64 == 63 {
                    b'\n'
                } else {
                    b"0123456789abcdef"[(state >> 60) as usize]
                }
            })
            .collect();
        Self { base }
    }

    fn mib(&self, number: usize) -> [&[u8]; 2] {
        let (head, tail) = self.base.split_at(number * 7919 % MIB);
        [tail, head]
    }

    fn sum(&self) -> String {
        let mut sum = Sha256::new();
        (0..UPLOAD)
            .flat_map(|number| self.mib(number))
            .for_each(|part| sum.update(part));
        hex(sum)
    }
}

fn hex(sum: Sha256) -> String {
    sum.finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Sums what comes in a thread of its own, and tells how much has come.
struct Echo {
    counted: Receiver<usize>,
    came: usize,
    sum: std::thread::JoinHandle<String>,
}

impl Echo {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let (count, counted) = channel();
        let sum = std::thread::spawn(move || {
            let (mut sum, mut bytes) = (Sha256::new(), vec![0; MIB]);
            loop {
                match source.read(&mut bytes).unwrap() {
                    0 => return hex(sum),
                    length => {
                        sum.update(&bytes[..length]);
                        let _ = count.send(length);
                    }
                }
            }
        });
        Self {
            counted,
            came: 0,
            sum,
        }
    }

    /// Waits until so much has come in all.
    fn wait_for(&mut self, bytes: usize) {
        while self.came < bytes {
            self.came += self.counted.recv().expect("the client lives");
        }
    }
}

//= proves spec/sessions.md#hop C2 C8
#[test]
fn an_upload_by_openssl_survives_a_hundred_hops_and_key_updates() {
    let serving = Serving::start(&["--hops", "100", "--hop-every", "2000000"]);
    let Some(openssl) = serving.openssl(&["-brief"]) else {
        return;
    };
    let (mut input, output, errors, mut child) = Talking::start(openssl).split();
    let mut echo = Echo::of(output);
    let pattern = Pattern::new();
    let mut updates = 0;
    for number in 0..UPLOAD {
        pattern
            .mib(number)
            .iter()
            .for_each(|part| input.write_all(part).unwrap());
        if number % 10 == 9 {
            // A command is one only when it is read alone: all before has been read once it is
            // back, and the command itself once s_client says so.
            echo.wait_for((number + 1) * MIB);
            // K asks the server to move its key too, k does not.
            input
                .write_all(if number % 20 == 9 { b"K\n" } else { b"k\n" })
                .unwrap();
            updates += 1;
            errors.wait_for_nth(updates, "KEYUPDATE");
        }
    }
    echo.wait_for(UPLOAD * MIB);
    drop(input);
    assert!(child.wait().unwrap().success(), "{:#?}", errors.all());
    assert_eq!(echo.sum.join().unwrap(), pattern.sum());
    let ended = serving.log.wait_for(" ended: ");
    let bytes = UPLOAD * MIB;
    assert!(
        ended.contains(&format!(
            "finished; {bytes} bytes in, {bytes} out, 101 hops; released: closed"
        )),
        "{ended}"
    );
    assert_eq!(serving.log.count("no hop"), 0);
}

//= proves C2 C8
#[test]
fn an_upload_by_curl_survives_a_hundred_hops() {
    let serving = Serving::start(&["--http", "--hops", "100", "--hop-every", "2000000"]);
    let pattern = Pattern::new();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for number in 0..UPLOAD {
        pattern
            .mib(number)
            .iter()
            .for_each(|part| file.write_all(part).unwrap());
    }
    for method in ["PUT", "POST"] {
        let upload = file.path().to_str().unwrap();
        let Some(curl) = serving.curl("/sum", &["--upload-file", upload, "--request", method])
        else {
            return;
        };
        let (sum, errors, status) = run(curl, b"");
        assert!(status.success(), "{errors}");
        assert_eq!(sum.trim(), pattern.sum());
    }
    for number in 1..=2 {
        let ended = serving.log.wait_for_nth(number, " ended: ");
        assert!(ended.contains("101 hops; released: closed"), "{ended}");
    }
    assert_eq!(serving.log.count("no hop"), 0);
}

//= proves spec/sessions.md#data C2 C8
#[test]
fn an_upload_of_messages_survives_a_hundred_hops() {
    let serving = Serving::start(&["--hops", "100", "--hop-every", "200000"]);
    let pattern = Pattern::new();
    let (mut input, output, errors, mut child) =
        Talking::start(serving.connect(&["--message"])).split();
    let echo = Echo::of(output);
    for number in 0..UPLOAD {
        pattern
            .mib(number)
            .iter()
            .for_each(|part| input.write_all(part).unwrap());
    }
    drop(input);
    assert!(child.wait().unwrap().success(), "{:#?}", errors.all());
    assert_eq!(echo.sum.join().unwrap(), pattern.sum());
    let ended = serving.log.wait_for(" ended: ");
    assert!(ended.contains("101 hops; released: closed"), "{ended}");
}

#[test]
fn a_command_keeps_running_while_its_session_moves() {
    let serving = Serving::start(&["--hops", "20", "--exec", "sh", "-c", "echo $$; exec cat"]);
    let mut talking = Talking::start(serving.connect(&[]));
    let command = talking.hear();
    for number in 0..20 {
        talking.say(&format!("line {number}\n"));
        assert_eq!(talking.hear(), format!("line {number}\n"));
    }
    let (_, first) = runner(&serving.log.wait_for("runs it"));
    assert!(talking.finish().success());
    let ended = serving.log.wait_for(" hops; released");
    assert!(ended.contains("21 hops"), "{ended}");
    let command = command.trim();
    assert_ne!(command, first.to_string());
    // Its status is known to the server, which none of the session's processes outlived.
    serving
        .log
        .wait_for(&format!("command {command} ended with status 0"));
}

#[test]
fn a_quiet_connection_moves_once_for_each_exchange() {
    let serving = Serving::start(&["--hops", "2"]);
    let mut talking = Talking::start(serving.connect(&[]));
    let (_, first) = runner(&serving.log.wait_for("runs it"));
    talking.say("one\n");
    assert_eq!(talking.hear(), "one\n");
    // The first process ends once the second has acknowledged.
    serving::wait_for_end(first);
    talking.say("two\n");
    assert_eq!(talking.hear(), "two\n");
    assert!(talking.finish().success());
    let ended = serving.log.wait_for(" ended: ");
    assert!(ended.contains("8 bytes in, 8 out, 3 hops"), "{ended}");
}
