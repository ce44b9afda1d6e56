//! What the tests of the program share: a `baton serve` of their own, its log, and the programs
//! that talk to it. Nothing here sleeps: what is waited for is a line, a byte or a process's end.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The longest that anything is waited for: far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// This project's program.
pub fn baton() -> Command {
    Command::new(env!("CARGO_BIN_EXE_baton"))
}

/// A peer's program; none, with a line that says so, when it is not installed. With
/// BATON_TEST_NO_SKIP=1 the test fails instead.
pub fn program(name: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        return Some(Command::new(name));
    }
    assert!(
        std::env::var_os("BATON_TEST_NO_SKIP").is_none_or(|value| value != "1"),
        "{name} is not installed"
    );
    eprintln!("skipped: {name} is not installed");
    None
}

/// Lines that a program writes, as they come.
#[derive(Clone)]
pub struct Lines(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    pub fn of(source: impl Read + Send + 'static) -> Self {
        let shared = Self(Arc::default());
        let written = shared.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                written.0.0.lock().unwrap().lines.push(line);
                written.0.1.notify_all();
            }
            written.0.0.lock().unwrap().ended = true;
            written.0.1.notify_all();
        });
        shared
    }

    /// Waits for a line that holds `text`, the `nth` of them counting from 1, and answers it.
    pub fn wait_for_nth(&self, nth: usize, text: &str) -> String {
        let (lock, condition) = &*self.0;
        let guard = lock.lock().unwrap();
        let find = |written: &Written| {
            written
                .lines
                .iter()
                .filter(|line| line.contains(text))
                .nth(nth - 1)
                .cloned()
        };
        let waiting = |written: &mut Written| find(written).is_none() && !written.ended;
        let (guard, _) = condition
            .wait_timeout_while(guard, PATIENCE, waiting)
            .unwrap();
        find(&guard).unwrap_or_else(|| panic!("no line {nth} with {text:?} in {:#?}", guard.lines))
    }

    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_nth(1, text)
    }

    /// Waits for the end, and answers all lines.
    pub fn all(&self) -> Vec<String> {
        let (lock, condition) = &*self.0;
        let guard = lock.lock().unwrap();
        let waiting = |written: &mut Written| !written.ended;
        let (guard, late) = condition
            .wait_timeout_while(guard, PATIENCE, waiting)
            .unwrap();
        assert!(!late.timed_out(), "no end of {:#?}", guard.lines);
        guard.lines.clone()
    }

    /// All lines so far.
    pub fn so_far(&self) -> Vec<String> {
        self.0.0.lock().unwrap().lines.clone()
    }

    /// The lines so far that hold `text`.
    pub fn count(&self, text: &str) -> usize {
        self.0
            .0
            .lock()
            .unwrap()
            .lines
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }
}

/// A running `baton serve`. Dropped, it is killed.
pub struct Serving {
    child: Child,
    state: Arc<TempDir>,
    greeting: Vec<String>,
    pub address: SocketAddr,
    pub log: Lines,
}

impl Serving {
    /// Starts the server on a free port, with a state folder of its own.
    pub fn start<S: AsRef<OsStr>>(arguments: &[S]) -> Self {
        Self::start_with(arguments, |_| {})
    }

    /// [`Serving::start`], with a log that goes elsewhere.
    pub fn start_with_errors<S: AsRef<OsStr>>(arguments: &[S], errors: Stdio) -> Self {
        Self::start_with(arguments, |command| {
            command.stderr(errors);
        })
    }

    /// [`Serving::start`], with more to say about the process.
    pub fn start_with<S: AsRef<OsStr>>(arguments: &[S], change: impl FnOnce(&mut Command)) -> Self {
        Self::start_in(&Arc::new(tempfile::tempdir().unwrap()), arguments, change)
    }

    /// [`Serving::start`] on the state of an earlier one.
    pub fn start_in<S: AsRef<OsStr>>(
        state: &Arc<TempDir>,
        arguments: &[S],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        Self::try_start_in(state, arguments, change)
            .unwrap_or_else(|log| panic!("not started: {:#?}", log.all()))
    }

    /// [`Serving::start_in`]; of a server that ends before it listens, its log.
    pub fn try_start_in<S: AsRef<OsStr>>(
        state: &Arc<TempDir>,
        arguments: &[S],
        change: impl FnOnce(&mut Command),
    ) -> Result<Self, Lines> {
        let mut command = baton();
        command.args(["serve", "--listen", "127.0.0.1:0", "--state"]);
        command.arg(state.path().join("baton"));
        // To a pipe it would be JSON.
        if arguments
            .iter()
            .all(|argument| argument.as_ref() != "--log")
        {
            command.args(["--log", "human"]);
        }
        command.args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A group of its own, so that nothing of it can signal the test program.
        command.process_group(0);
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let log = match child.stderr.take() {
            Some(errors) => Lines::of(errors),
            None => Lines::of(std::io::empty()),
        };
        let mut greeting = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            greeting.push(line.unwrap());
            if greeting
                .last()
                .is_some_and(|line| line.contains(" connect "))
            {
                break;
            }
        }
        let address = greeting.iter().find_map(|line| {
            line.strip_prefix("Baton listens on ")?
                .split(' ')
                .next()?
                .parse()
                .ok()
        });
        let Some(address) = address else {
            child.wait().unwrap();
            return Err(log);
        };
        Ok(Self {
            child,
            state: Arc::clone(state),
            greeting,
            address,
            log,
        })
    }

    pub fn state(&self) -> &Arc<TempDir> {
        &self.state
    }

    /// A file of the development identity.
    pub fn identity(&self, name: &str) -> PathBuf {
        self.state.path().join("baton/identity").join(name)
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The line to try that the server printed for a program.
    pub fn line_for(&self, program: &str) -> String {
        let line = self.greeting.iter().find(|line| line.contains(program));
        line.unwrap_or_else(|| panic!("no {program} in {:#?}", self.greeting))
            .trim()
            .to_owned()
    }

    /// `openssl s_client` to this server, its certificate checked.
    pub fn openssl(&self, arguments: &[&str]) -> Option<Command> {
        let mut openssl = program("openssl")?;
        openssl
            .args(["s_client", "-verify_return_error", "-connect"])
            .arg(self.address.to_string());
        openssl
            .arg("-CAfile")
            .arg(self.identity("ca.pem"))
            .args(arguments);
        Some(openssl)
    }

    /// `curl` to `path` of this server, its certificate checked.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Option<Command> {
        let mut curl = program("curl")?;
        curl.args(["--silent", "--show-error", "--max-time", "120", "--cacert"]);
        curl.arg(self.identity("ca.pem")).args(arguments);
        curl.arg(format!("https://localhost:{}{path}", self.address.port()));
        Some(curl)
    }

    /// `baton connect` to this server.
    pub fn connect(&self, arguments: &[&str]) -> Command {
        let mut connect = baton();
        connect
            .arg("connect")
            .arg("--ca")
            .arg(self.identity("ca.pem"));
        connect.args(arguments).arg(self.address.to_string());
        connect
    }

    /// The processes that run sessions: each session has a process group of its own.
    pub fn sessions(&self) -> Vec<u32> {
        let server = self.process();
        let own = group(server);
        living(|parent, group| own.contains(&parent) && group != server)
    }

    pub fn signal(&self, signal: Signal) {
        signal_to(self.process(), signal);
    }

    /// Tells the server to stop, and waits until it has.
    pub fn stop(mut self) -> (ExitStatus, Vec<String>) {
        self.signal(Signal::TERM);
        let log = self.log.all();
        (self.child.wait().unwrap(), log)
    }

    /// Whether the server has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal_to(process: u32, signal: Signal) {
    try_signal(process, signal).unwrap();
}

/// [`signal_to`] of a process that may have ended.
pub fn try_signal(process: u32, signal: Signal) -> rustix::io::Result<()> {
    kill_process(Pid::from_raw(process as i32).unwrap(), signal)
}

/// Waits until a process has ended, whosever child it is.
pub fn wait_for_end(process: u32) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    // Without such a process there is no descriptor, and nothing to wait for.
    let Ok(ended) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    let limit = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&ended, PollFlags::IN)];
    assert_eq!(
        poll(&mut fds, Some(&limit)).unwrap(),
        1,
        "process {process} has not ended"
    );
}

/// The session and the process in a log line that says who runs it.
pub fn runner(line: &str) -> (String, u32) {
    let session = line.split("session ").nth(1).unwrap()[..32].to_owned();
    let process = line
        .split("; process ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    (session, process.parse().unwrap())
}

/// A client whose input the test holds open.
pub struct Talking {
    child: Child,
    pub input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
    pub errors: Lines,
}

impl Talking {
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let errors = Lines::of(child.stderr.take().unwrap());
        Self {
            child,
            input,
            output,
            errors,
        }
    }

    pub fn say(&mut self, text: &str) {
        use std::io::Write;
        // A client that has died is noticed by what it does not answer.
        let _ = self.input.as_mut().unwrap().write_all(text.as_bytes());
    }

    /// The next line of output; empty at its end.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// Everything until the end of the output.
    pub fn hear_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.output.read_to_end(&mut all).unwrap();
        all
    }

    /// Gives away the output, to be read elsewhere.
    pub fn split(self) -> (ChildStdin, impl Read + Send + 'static, Lines, Child) {
        let Self {
            child,
            input,
            output,
            errors,
        } = self;
        (input.unwrap(), output, errors, child)
    }

    /// Ends the input and waits for the client's end.
    pub fn finish(mut self) -> ExitStatus {
        drop(self.input.take());
        self.child.wait().unwrap()
    }

    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command with `input`, and answers its output, errors and status.
pub fn run(mut command: Command, input: &[u8]) -> (String, String, ExitStatus) {
    use std::io::Write;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer: JoinHandle<()> = std::thread::spawn(move || {
        // A program that ends early does not read all.
        let _ = to.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status)
}

/// Living processes whose parent is `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    living(|its_parent, _| its_parent == parent)
}

/// Living processes of a process group.
pub fn group(group: u32) -> Vec<u32> {
    living(|_, its_group| its_group == group)
}

/// Living processes that are `wanted` by parent and group.
fn living(wanted: impl Fn(u32, u32) -> bool) -> Vec<u32> {
    all(|_, parent, group| wanted(parent, group))
}

/// A living process's parent.
pub fn parent(process: u32) -> Option<u32> {
    family(process).map(|(parent, _)| parent)
}

/// Living processes that are `wanted` by number, parent and group.
///
/// All processes are looked at: the kernel's list of one process's children leaves some out when
/// another ends while it is read.
pub fn all(wanted: impl Fn(u32, u32, u32) -> bool) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str()?.parse().ok()
    });
    let is_wanted = |number: &u32| {
        family(*number).is_some_and(|(parent, group)| wanted(*number, parent, group))
    };
    numbers.filter(is_wanted).collect()
}

/// A living process's parent and group.
fn family(process: u32) -> Option<(u32, u32)> {
    // A process that has just ended has no such file.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit(") ").next()?.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (!ended).then_some((parent, group))
}
