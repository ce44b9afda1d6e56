use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::ask::{Error, ask};
use super::*;

/// A loop with a control socket in it and nothing else: `status` is answered with `sessions`
/// sessions, all else is unsupported.
struct Looping {
    folder: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(usize, usize)>>,
}

fn session() -> answer::Session {
    answer::Session {
        session: "ab".repeat(16),
        remote: "[2001:db8::1]:1".parse().unwrap(),
        local: "[2001:db8::2]:2".parse().unwrap(),
        user: Some("\u{1}".repeat(1024)),
        process: u32::MAX,
        since: u64::MAX,
        seconds: u64::MAX,
        framing: "message".to_owned(),
        cipher: "TLS_CHACHA20_POLY1305_SHA256".to_owned(),
        hops: u64::MAX,
        received: Some(u64::MAX),
        sent: Some(u64::MAX),
    }
}

impl Looping {
    fn start(sessions: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("private/control");
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (mut keys, poller) = (Keys::default(), Poller::new().unwrap());
            let mut control = Control::open(&path, &mut keys, &poller).unwrap();
            ready.send(()).unwrap();
            let (mut most, mut turns) = (0, 0);
            while !told.load(Ordering::Relaxed) {
                let limit = Some(Duration::from_millis(50));
                let due = control
                    .next_due()
                    .map(|due| due.saturating_duration_since(Instant::now()));
                let events = poller.wait(due.min(limit).or(limit)).unwrap();
                turns += events.len();
                for (key, _) in events {
                    assert!(control.has(key));
                    let Some(asked) = control.hear(key, &mut keys, &poller) else {
                        continue;
                    };
                    assert_eq!(asked.process, crate::sys::process::pid());
                    let answer = match asked.request {
                        Request::Status {} => Answer::Sessions {
                            sessions: vec![session(); sessions],
                        },
                        Request::Takeover {} => {
                            let (mut socket, asker) =
                                control.take_out(asked.client, &poller).unwrap();
                            assert_eq!(asker.process, asked.process);
                            socket.write_all(b"taken\n").unwrap();
                            continue;
                        }
                        _ => Answer::error(Code::Unsupported, "not here"),
                    };
                    control.answer(asked.client, &answer, &poller);
                }
                control.expire(&poller);
                most = most.max(control.clients.len());
            }
            control.close(&poller);
            (most, turns)
        });
        is_ready.recv().unwrap();
        Self {
            folder,
            stop,
            thread: Some(thread),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("private/control")
    }

    fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(self.path()).unwrap();
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    /// The most clients there were, and how often the loop was woken.
    fn stop(&mut self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Looping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Under `no_new_privs`, as some run their tests, the gate refuses this very process.
fn may_ask() -> bool {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let may = text.contains("NoNewPrivs:\t0");
    if !may {
        eprintln!("skipped: no_new_privs is set");
    }
    may
}

fn all(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A server that has not read everything resets: what it said came before.
    let _ = socket.read_to_end(&mut bytes);
    bytes
}

fn code(line: &[u8]) -> Option<Code> {
    match Answer::from_line(line)? {
        Answer::Error { code, .. } => Some(code),
        _ => None,
    }
}

const STATUS: &[u8] = b"{\"version\":1,\"request\":\"status\"}\n";

//= proves spec/control.md#exchange
#[test]
fn one_question_gets_one_answer_whatever_it_is() {
    if !may_ask() {
        return;
    }
    let mut looping = Looping::start(1);
    let answer = ask(&looping.path(), &Request::Status {}).unwrap();
    assert_eq!(
        answer,
        Answer::Sessions {
            sessions: vec![session()]
        }
    );
    match ask(&looping.path(), &Request::Sessions {}) {
        Err(Error::Told(text)) => assert_eq!(text, "not here"),
        other => panic!("{other:?}"),
    }
    let long = [vec![b' '; MAX_REQUEST - STATUS.len()], STATUS.to_vec()].concat();
    let longer = [&b" "[..], &long].concat();
    for (asked, expected) in [
        (&b"\n"[..], Some(Code::Malformed)),
        (b"\xff\n", Some(Code::Malformed)),
        (&longer, Some(Code::Malformed)),
        (&vec![b'x'; 1 << 20], Some(Code::Malformed)),
        (&long, None),
        (&[STATUS, STATUS].concat(), None),
    ] {
        let mut socket = looping.connect();
        let writer = std::thread::spawn({
            let (mut socket, asked) = (socket.try_clone().unwrap(), asked.to_vec());
            move || drop(socket.write_all(&asked))
        });
        let line = all(&mut socket);
        writer.join().unwrap();
        assert_eq!(code(&line), expected);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
    // In pieces, and without its end.
    let mut socket = looping.connect();
    for byte in STATUS {
        socket.write_all(&[*byte]).unwrap();
    }
    assert!(Answer::from_line(&all(&mut socket)).is_some());
    let mut socket = looping.connect();
    socket.write_all(&STATUS[..STATUS.len() - 1]).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(code(&all(&mut socket)), Some(Code::Malformed));
    let mut socket = looping.connect();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(all(&mut socket), b"");

    // The connection itself.
    let mut socket = looping.connect();
    socket
        .write_all(b"{\"version\":1,\"request\":\"takeover\"}\n")
        .unwrap();
    let mut line = String::new();
    io::BufReader::new(&socket).read_line(&mut line).unwrap();
    assert_eq!(line, "taken\n");
    looping.stop();
}

//= proves spec/control.md#bounds
#[test]
fn silent_and_slow_clients_are_dropped_and_hold_up_nobody_for_ever() {
    if !may_ask() {
        return;
    }
    // Some 6 KiB each: far more than a socket takes at once.
    let mut looping = Looping::start(500);
    let began = Instant::now();
    let mut silent: Vec<UnixStream> = (0..MOST_CLIENTS).map(|_| looping.connect()).collect();
    // Behind them, and served when they are gone.
    let mut slow = looping.connect();
    slow.write_all(STATUS).unwrap();
    for socket in &mut silent {
        assert_eq!(all(socket), b"", "dropped without a word");
    }
    assert!(began.elapsed() >= ASK_LIMIT);
    let mut first = [0];
    slow.read_exact(&mut first).unwrap();
    let began = Instant::now();
    let answer = ask(&looping.path(), &Request::Status {}).unwrap();
    assert!(matches!(answer, Answer::Sessions { sessions } if sessions.len() == 500));
    assert!(began.elapsed() < TAKE_LIMIT, "while another is slow");
    // It takes nothing more, until it is dropped.
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(&slow, PollFlags::HUP)];
    poll(&mut fds, None).unwrap();
    let rest = all(&mut slow);
    assert!(!rest.ends_with(b"\n"), "{} bytes", rest.len());
    let (most, turns) = looping.stop();
    assert_eq!(most, MOST_CLIENTS);
    assert!(turns < 10_000, "{turns} turns");
}

//= proves spec/control.md#bounds
#[test]
fn answers_that_wait_are_bounded() {
    if !may_ask() {
        return;
    }
    let mut looping = Looping::start(1000);
    let one = to_line(&Answer::Sessions {
        sessions: vec![session(); 1000],
    });
    assert!(one.len() < (1 << 20) + 1000 * (8 << 10));
    let mut waiting: Vec<UnixStream> = Vec::new();
    let enough = MOST_UNTAKEN / one.len() + 1;
    assert!(enough < MOST_CLIENTS);
    for _ in 0..enough {
        let mut socket = looping.connect();
        socket.write_all(STATUS).unwrap();
        socket.read_exact(&mut [0]).unwrap();
        waiting.push(socket);
    }
    let mut late = looping.connect();
    late.write_all(STATUS).unwrap();
    assert_eq!(code(&all(&mut late)), Some(Code::Busy));
    looping.stop();
}

//= proves spec/control.md#place
//= proves spec/control.md#stale
#[test]
fn a_socket_is_this_users_alone_and_a_live_one_is_left_alone() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let mut looping = Looping::start(1);
    let path = looping.path();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let open = |path: &Path| {
        let poller = Poller::new().unwrap();
        Control::open(path, &mut Keys::default(), &poller).map(|control| (control, poller))
    };
    assert!(matches!(open(&path), Err(Absent::Taken(_))));
    looping.stop();
    assert!(!path.exists(), "removed at the end");

    // A stale one, of a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (mut control, poller) = open(&path).unwrap();
    // Another's is not removed.
    std::fs::remove_file(&path).unwrap();
    let (mut second, second_poller) = open(&path).unwrap();
    control.close(&poller);
    assert!(path.exists());
    second.close(&second_poller);
    assert!(!path.exists());

    // What is no socket is nothing to replace, and others' folders are no place.
    std::fs::write(&path, "precious").unwrap();
    assert!(open(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    symlink("elsewhere", &path).unwrap();
    assert!(open(&path).is_err());
    let folder = looping.folder.path();
    for mode in [0o755, 0o770, 0o707] {
        let loose = folder.join(format!("{mode:o}"));
        std::fs::create_dir(&loose).unwrap();
        std::fs::set_permissions(&loose, PermissionsExt::from_mode(mode)).unwrap();
        assert!(matches!(
            open(&loose.join("control")),
            Err(Absent::Folder(_))
        ));
    }
    symlink(folder.join("private"), folder.join("link")).unwrap();
    assert!(open(&folder.join("link/control")).is_err());
    assert!(matches!(open(Path::new("/")), Err(Absent::Name(_))));
    // Longer than a socket's address may be.
    let deep = folder.join("d".repeat(120)).join("control");
    let (mut control, poller) = open(&deep).unwrap();
    assert!(place::connect(&deep).is_ok());
    control.close(&poller);
}
