//! What the tests of the exits share: pools of real worker processes, most of them hostile scripts
//! for /bin/sh, and a log that is read afterwards. What is waited for is an event of the pool.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use baton::exit::{
    Answer, Cause, CheckCertList, Failure, Question, Reply, SessionEnd, SessionIdentifier,
    SessionInit, UserContext, Verdict,
};
use baton::pool::{Completion, Configuration, Event, Pool, State};

/// Far more than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What every script begins with: hello, and functions to answer.
pub const PRELUDE: &str = r#"
field() { rest=${line#*\""$1"\":}; rest=${rest%%[,\}]*}; rest=${rest#\"}; printf '%s' "${rest%\"}"; }
hello() { printf '{"type":"hello","version":1,"families":["tls"],"holds":%s}\n' "$1"; read -r line; }
question() { IFS= read -r line || exit 0; number=$(field number); session=$(field session); point=$(field point); }
say() { printf '{"type":"answer","number":%s,"session":"%s",%s}\n' "$number" "$session" "$1"; }
good() { say '"return_code":1,"status":0'; }
serve() { while :; do question; good; done; }
"#;

/// A pool and its log.
pub struct Driven {
    pub pool: Pool,
    pub log: Rc<RefCell<Vec<String>>>,
    pub done: Vec<Completion>,
    pub marks: Vec<&'static str>,
}

/// Workers that run `script` behind the prelude.
pub fn script(script: &str) -> Configuration {
    let mut configuration = Configuration::new("test", "/bin/sh");
    let text = format!("{PRELUDE}{script}");
    configuration.arguments = vec!["-c".into(), text.into()];
    // What is waited for comes at once; what never comes is not waited for long.
    configuration.deadline = Duration::from_secs(30);
    configuration.grace = Duration::from_millis(300);
    configuration
}

pub fn session(number: u8) -> SessionIdentifier {
    SessionIdentifier::from([number; 16])
}

pub fn init() -> Question {
    SessionInit::default().into()
}

pub fn check(certificate: &[u8]) -> Question {
    Question::from(CheckCertList {
        cert_list: vec![certificate.to_vec()],
        ..CheckCertList::default()
    })
}

pub fn end() -> Question {
    Question::from(SessionEnd {
        cause: Cause::Closed,
        ..SessionEnd::default()
    })
}

/// The program of an example, which cargo builds with the tests.
pub fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(name)
}

/// Builds an example where the tests are built alone.
pub fn build_example(name: &str) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "--example", name]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo tells a test about its package would make build scripts run again.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(name);
        }
    }
    assert!(cargo.status().unwrap().success());
}

/// A file of `examples/`.
pub fn source(name: &str) -> PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    examples.join(name)
}

/// Python's own path; none, with a line that says so, where there is none.
pub fn python() -> Option<PathBuf> {
    // What is found may be a script that starts the real one: that needs the environment.
    let script = "import sys; print(sys.executable)";
    let output = Command::new("python3").args(["-c", script]).output().ok();
    let path = output.and_then(|output| String::from_utf8(output.stdout).ok());
    let path = path.map(|path| PathBuf::from(path.trim_end()));
    let found = path.filter(|path| path.is_absolute());
    if found.is_none() {
        assert!(
            std::env::var_os("BATON_TEST_NO_SKIP").is_none_or(|value| value != "1"),
            "python3 is not installed"
        );
        println!("skipped: python3 is not installed");
    }
    found
}

/// How a reply reads: `1/0`, `1/-1 revoked`, `0`, `-1 died`.
pub fn shown(reply: &Reply) -> String {
    match &reply.answer {
        Answer::Done { verdict, .. } => match verdict {
            Verdict::Accepted(_) => "1/0".to_owned(),
            Verdict::Refused(reason) => format!("1/-1 {reason}"),
        },
        Answer::Nothing => "0".to_owned(),
        Answer::Fatal(failure) => format!("-1 {}", failure.name()),
    }
}

pub fn is_failure(reply: &Reply, failure: Failure) -> bool {
    matches!(&reply.answer, Answer::Fatal(it) if *it == failure)
}

impl Driven {
    pub fn new(configuration: Configuration) -> Self {
        configuration.check().unwrap();
        let log: Rc<RefCell<Vec<String>>> = Rc::default();
        let lines = Rc::clone(&log);
        let log_line = move |session: Option<SessionIdentifier>, text: std::fmt::Arguments<'_>| {
            let session = session.map_or_else(String::new, |session| format!("session {session}"));
            lines.borrow_mut().push(format!("{session}{text}"));
        };
        Self {
            pool: Pool::new(configuration, Box::new(log_line)).unwrap(),
            log,
            done: Vec::new(),
            marks: Vec::new(),
        }
    }

    pub fn ask(&mut self, session: SessionIdentifier, question: Question, tag: u64) -> u64 {
        let context = UserContext::default();
        self.pool.ask(session, &context, question, tag)
    }

    fn take_events(&mut self) {
        while let Some(event) = self.pool.next_event() {
            match event {
                Event::Completed(completion) => self.done.push(completion),
                Event::Stop => self.marks.push("stop"),
                Event::Resume => self.marks.push("resume"),
                _ => {}
            }
        }
    }

    /// Turns until it is so.
    pub fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        self.take_events();
        while !so(self) {
            assert!(
                begin.elapsed() < PATIENCE,
                "{what}: never; log:\n{}",
                self.log.borrow().join("\n")
            );
            self.pool.turn(Some(Duration::from_secs(1))).unwrap();
            self.take_events();
        }
    }

    /// Waits for the completion with this tag.
    pub fn completion(&mut self, tag: u64) -> Completion {
        self.until(&format!("completion {tag}"), |this| {
            this.done.iter().any(|done| done.tag == tag)
        });
        let place = self.done.iter().position(|done| done.tag == tag).unwrap();
        self.done.remove(place)
    }

    /// Asks, waits, and answers how the reply reads.
    pub fn call(&mut self, session: SessionIdentifier, question: Question) -> String {
        let tag = u64::MAX;
        self.ask(session, question, tag);
        shown(&self.completion(tag).reply)
    }

    /// Waits for a line of the log.
    pub fn logged(&mut self, text: &str) {
        self.until(&format!("in the log: {text}"), |this| {
            this.log.borrow().iter().any(|line| line.contains(text))
        });
    }

    /// Lines of the log that have `text`.
    pub fn count(&self, text: &str) -> usize {
        let log = self.log.borrow();
        log.iter().filter(|line| line.contains(text)).count()
    }

    /// Workers in this state.
    pub fn in_state(&self, state: State) -> usize {
        self.pool
            .workers()
            .filter(|(_, its, ..)| *its == state)
            .count()
    }

    /// Waits until as many workers as this wait for sessions, and nobody else is there.
    pub fn whole(&mut self, workers: usize) {
        self.until("the pool is whole", |this| {
            this.in_state(State::Free) == workers && this.pool.workers().count() == workers
        });
    }
}
