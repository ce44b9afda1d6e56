//! Whether a program is a worker: a server's side of `spec/exits.md` that asks what a server asks,
//! and some of what a server never would.
//!
//! Invariant: whatever the program does, the check ends, with bounded memory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::exit::{
    Answer, CheckCertList, Computation, GetServerPublicKey, Point, Question, Reply,
    SessionIdentifier, SetServerPublicKey, UserContext, Verdict,
};
use crate::sys::process::{self, Bounds, Child, Signal};
use crate::worker::{
    FromWorker, Hello, Lines, Refusal, VERSION, read_from_worker, write_accepted, write_cancel,
    write_question, write_refused,
};

/// A fault: the rule's anchor, and what was seen.
struct Fault(&'static str, String);

type Checked<T = ()> = Result<T, Fault>;

fn fault<T>(anchor: &'static str, text: impl Into<String>) -> Checked<T> {
    Err(Fault(anchor, text.into()))
}

/// The program as a process, and its pipes.
struct Candidate {
    child: Child,
    input: Option<OwnedFd>,
    output: OwnedFd,
    lines: Lines,
    deadline: Duration,
    numbers: u64,
}

/// Checks the program, says so to `out`, and answers how many faults there are.
pub(super) fn check(
    program: &Path,
    arguments: &[OsString],
    deadline: Duration,
    out: &mut impl Write,
) -> io::Result<usize> {
    type Check = fn(&mut Candidate) -> Checked;
    let checks: [(&str, Check); 8] = [
        ("says hello", |candidate| candidate.hello().map(drop)),
        ("answers each point", each_point),
        ("passes over types and keys it does not know", unknown),
        ("answers what it cannot use as it should", unusable),
        ("keeps sessions apart", many_sessions),
        ("reads the longest line", longest),
        ("goes on after a cancel", cancelled),
        ("ends when it is refused", refused),
    ];
    let mut faults = 0;
    for (name, check) in checks {
        let mut candidate = Candidate::start(program, arguments, deadline)?;
        let outcome = check(&mut candidate).and_then(|()| candidate.finish());
        candidate.kill();
        match outcome {
            Ok(()) => writeln!(out, "ok     {name}")?,
            Err(Fault(anchor, text)) => {
                faults += 1;
                writeln!(out, "fault  {name}: {text} (spec/exits.md#{anchor})")?;
            }
        }
        out.flush()?;
    }
    writeln!(out, "{} checks, {faults} faults", checks.len())?;
    out.flush()?;
    Ok(faults)
}

impl Candidate {
    fn start(program: &Path, arguments: &[OsString], deadline: Duration) -> io::Result<Self> {
        let (their_input, input) = pipe_with(PipeFlags::CLOEXEC)?;
        let (output, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
        for ours in [&input, &output] {
            rustix::io::ioctl_fionbio(ours, true)?;
        }
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("BATON_EXITS", VERSION.to_string())
            .current_dir("/")
            .stdin(Stdio::from(their_input))
            .stdout(Stdio::from(their_output));
        let child = process::start(&mut command, Bounds::default())?;
        Ok(Self {
            child,
            input: Some(input),
            output,
            lines: Lines::new(Point::LONGEST_LINE),
            deadline,
            numbers: 0,
        })
    }

    fn kill(&mut self) {
        // One that has ended is no error.
        let _ = self.child.kill_group(Signal::KILL);
        // It may have left its group.
        let _ = self.child.kill(Signal::KILL);
        let _ = self.child.wait_until(Instant::now() + self.deadline);
    }

    /// Waits for a descriptor, no longer than until then. Answers whether it is ready.
    fn wait(fd: &OwnedFd, flags: PollFlags, by: Instant) -> bool {
        let left = by.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(fd, flags)];
        matches!(poll(&mut fds, Some(&left)), Ok(1..) | Err(Errno::INTR))
    }

    fn send(&mut self, bytes: &[u8]) -> Checked {
        let by = Instant::now() + self.deadline;
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(input) = &self.input else {
                return fault("end", "its input is closed");
            };
            match rustix::io::write(input, rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if Instant::now() >= by {
                        return fault("lines", "it does not read its input");
                    }
                    Self::wait(input, PollFlags::OUT, by);
                }
                Err(_) => return fault("end", "it closed its input, or ended, before its time"),
            }
        }
        Ok(())
    }

    /// The next line; none at the end.
    fn line(&mut self, what: &str) -> Checked<Option<Vec<u8>>> {
        let by = Instant::now() + self.deadline;
        loop {
            match self.lines.next() {
                Ok(Some(line)) => return Ok(Some(line.to_vec())),
                Ok(None) => {}
                Err(_) => return fault("lines", "a line is too long"),
            }
            let output = &self.output;
            let read = self
                .lines
                .fill(|space| Ok(rustix::io::read(output, &mut *space)?));
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(_) if Instant::now() >= by => {
                    return fault("order", format!("{what}: nothing in time"));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Self::wait(output, PollFlags::IN, by);
                }
                Err(error) => return fault("transport", error.to_string()),
            }
        }
    }

    fn first(&mut self) -> Checked<Hello> {
        let Some(line) = self.line("hello").map_err(|it| Fault("hello", it.1))? else {
            return fault("hello", "it ended, or closed its output, and said nothing");
        };
        match read_from_worker(&line) {
            Ok(FromWorker::Hello(hello)) => Ok(hello),
            Ok(FromWorker::Answer(_)) => fault("hello", "its first line is an answer"),
            Err(garbage) => fault("hello", garbage.to_string()),
        }
    }

    /// Hears its hello and accepts it.
    fn hello(&mut self) -> Checked<Hello> {
        let hello = self.first()?;
        if hello.version != VERSION {
            return fault("hello", format!("it speaks version {}", hello.version));
        }
        if hello.families.is_empty() {
            return fault("families", "it names no family that there is");
        }
        let mut line = Vec::new();
        let deadline = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        write_accepted(&mut line, hello.holds, deadline);
        self.send(&line)?;
        Ok(hello)
    }

    fn write(
        &mut self,
        session: SessionIdentifier,
        context: &UserContext,
        question: &mut Question,
    ) -> (u64, Vec<u8>) {
        self.numbers += 1;
        let mut line = Vec::new();
        // The samples keep their limits.
        let _ = write_question(&mut line, self.numbers, session, context, question);
        (self.numbers, line)
    }

    /// The next answer: its number, and what it says to the question that has it.
    fn answer(
        &mut self,
        asked: &BTreeMap<u64, (SessionIdentifier, Point)>,
    ) -> Checked<(u64, Reply)> {
        let Some(line) = self.line("an answer")? else {
            return fault("end", "it ended, or closed its output, before its time");
        };
        let answer = match read_from_worker(&line) {
            Ok(FromWorker::Answer(answer)) => answer,
            Ok(FromWorker::Hello(_)) => return fault("hello", "it said hello again"),
            Err(garbage) => return fault(garbage.anchor(), garbage.to_string()),
        };
        let number = answer.number;
        let Some((session, point)) = asked.get(&number) else {
            return fault("order", format!("it answered {number}, which is not open"));
        };
        if answer.session != *session {
            return fault(
                "answer",
                format!("its answer to {number} has another session"),
            );
        }
        match answer.reply(*point) {
            Ok(reply) => Ok((number, reply)),
            Err(garbage) => fault(garbage.anchor(), format!("at {point}: {garbage}")),
        }
    }

    fn ask_line(
        &mut self,
        number: u64,
        line: &[u8],
        session: SessionIdentifier,
        point: Point,
    ) -> Checked<Reply> {
        self.send(line)?;
        let asked = BTreeMap::from([(number, (session, point))]);
        Ok(self.answer(&asked)?.1)
    }

    fn ask(&mut self, session: SessionIdentifier, mut question: Question) -> Checked<Reply> {
        let none = UserContext::default();
        let (number, line) = self.write(session, &none, &mut question);
        self.ask_line(number, &line, session, question.point())
    }

    /// Ends its input: it says nothing more and ends well.
    fn finish(&mut self) -> Checked {
        if self.input.take().is_none() {
            return Ok(());
        }
        match self.line("its end").map_err(|it| Fault("end", it.1))? {
            None => {}
            Some(_) => return fault("order", "it wrote more than it was asked"),
        }
        match self.ended()? {
            status if status.success() => Ok(()),
            status => fault("end", format!("at the end of its input: {status}")),
        }
    }

    fn ended(&mut self) -> Checked<ExitStatus> {
        let by = Instant::now() + self.deadline;
        match self.child.wait_until(by) {
            Ok(Some(status)) => Ok(status),
            Ok(None) => fault("end", "it does not end"),
            Err(error) => fault("end", error.to_string()),
        }
    }
}

const CERTIFICATE: &[u8] = b"\x30\x03\x02\x01\x00";

/// A question of this point, as good as one can be that is about nobody.
fn sample(point: Point) -> Question {
    match Question::blank(point) {
        Question::CheckCertList(_) => check_of(vec![CERTIFICATE.to_vec()]),
        Question::Computation(_) => Question::from(Computation {
            key_reference: "none".to_owned(),
            data: vec![0; 32],
            scheme: 0x0403,
            ..Computation::default()
        }),
        Question::GetServerPublicKey(_) => Question::from(GetServerPublicKey {
            key_reference: "none".to_owned(),
            ..GetServerPublicKey::default()
        }),
        Question::SetServerPublicKey(_) => Question::from(SetServerPublicKey {
            public_key: CERTIFICATE.to_vec(),
            ..SetServerPublicKey::default()
        }),
        blank => blank,
    }
}

fn check_of(cert_list: Vec<Vec<u8>>) -> Question {
    Question::from(CheckCertList {
        cert_list,
        ..CheckCertList::default()
    })
}

fn points(hello: &Hello) -> impl Iterator<Item = Point> {
    let here = |point: &Point| hello.families.contains(&point.family());
    Point::ALL.into_iter().filter(here)
}

fn session(number: u8) -> SessionIdentifier {
    SessionIdentifier::from([number; 16])
}

fn each_point(candidate: &mut Candidate) -> Checked {
    let hello = candidate.hello()?;
    let mut context = UserContext::default();
    for point in points(&hello) {
        let mut question = sample(point);
        let (number, line) = candidate.write(session(1), &context, &mut question);
        let reply = candidate.ask_line(number, &line, session(1), point)?;
        if let Answer::Done {
            user_context: Some(new),
            ..
        } = reply.answer
        {
            context = new;
        }
    }
    Ok(())
}

fn unknown(candidate: &mut Candidate) -> Checked {
    let hello = candidate.hello()?;
    candidate.send(b"{\"type\":\"of-a-later-server\",\"number\":1,\"more\":{\"list\":[1]}}\n")?;
    for point in points(&hello) {
        let none = UserContext::default();
        let (number, line) = candidate.write(session(1), &none, &mut sample(point));
        let text = String::from_utf8_lossy(&line);
        let more = "\"of-a-later-server\":{\"list\":[null,1.5e9,\"\\u00e9\"]}";
        let text = text
            .replacen("\"input\":{", &format!("\"input\":{{{more},"), 1)
            .replacen("{\"type\"", &format!("{{{more},\"type\""), 1);
        let _ = candidate.ask_line(number, text.as_bytes(), session(1), point)?;
    }
    Ok(())
}

fn unusable(candidate: &mut Candidate) -> Checked {
    let hello = candidate.hello()?;
    let none = UserContext::default();
    let mut question = sample(Point::SessionInit);
    let (number, line) = candidate.write(session(1), &none, &mut question);
    let text = String::from_utf8_lossy(&line).replace("session-init", "of-a-later-server");
    let reply = candidate.ask_line(number, text.as_bytes(), session(1), Point::SessionInit)?;
    if !matches!(reply.answer, Answer::Nothing) {
        return fault("bad-question", "a point nobody knows is not answered 0");
    }
    for point in points(&hello) {
        if !matches!(point, Point::CheckCertList | Point::Computation) {
            continue;
        }
        for input in [
            "{}",
            "{\"cert_list\":7,\"data\":[]}",
            "{\"cert_list\":[],\"data\":\"\"}",
        ] {
            let (number, line) = candidate.write(session(1), &none, &mut sample(point));
            let text = String::from_utf8_lossy(&line);
            let before = text
                .find("\"input\":")
                .map_or("", |at| text.get(..at).unwrap_or(""));
            let line = format!("{before}\"input\":{input}}}\n");
            let reply = candidate.ask_line(number, line.as_bytes(), session(1), point)?;
            if let Answer::Done {
                verdict: Verdict::Accepted(_),
                ..
            } = reply.answer
            {
                return fault("bad-question", format!("{point} of nothing is accepted"));
            }
        }
    }
    candidate
        .ask(session(1), sample(Point::SessionEnd))
        .map(drop)
}

fn many_sessions(candidate: &mut Candidate) -> Checked {
    let hello = candidate.hello()?;
    let sessions = u8::try_from(hello.holds.min(8)).unwrap_or(8);
    let none = UserContext::default();
    for point in points(&hello) {
        let (mut asked, mut all) = (BTreeMap::new(), Vec::new());
        for number in 1..=sessions {
            let (open, line) = candidate.write(session(number), &none, &mut sample(point));
            asked.insert(open, (session(number), point));
            all.extend(line);
        }
        candidate.send(&all)?;
        while !asked.is_empty() {
            let (number, _) = candidate.answer(&asked)?;
            asked.remove(&number);
        }
    }
    Ok(())
}

fn longest(candidate: &mut Candidate) -> Checked {
    let hello = candidate.hello()?;
    if points(&hello).any(|point| point == Point::CheckCertList) {
        // With the longest user context, too, of every byte there is.
        let bytes = (0..=u8::MAX).cycle().take(UserContext::LIMIT).collect();
        let context = UserContext::new(bytes).unwrap_or_default();
        let mut question = check_of(vec![vec![0x30; 65_536]; 2]);
        let (number, line) = candidate.write(session(1), &context, &mut question);
        let _ = candidate.ask_line(number, &line, session(1), Point::CheckCertList)?;
        let _ = candidate.ask(session(1), sample(Point::SessionEnd))?;
    }
    Ok(())
}

fn cancelled(candidate: &mut Candidate) -> Checked {
    let hello = candidate.hello()?;
    let Some(point) = points(&hello).next() else {
        return Ok(());
    };
    let none = UserContext::default();
    let (number, mut line) = candidate.write(session(1), &none, &mut sample(point));
    write_cancel(&mut line, number, session(1));
    // One that was answered, or never asked, can be cancelled, too.
    write_cancel(&mut line, number + 77, session(2));
    let _ = candidate.ask_line(number, &line, session(1), point)?;
    candidate.ask(session(1), sample(point)).map(drop)
}

fn refused(candidate: &mut Candidate) -> Checked {
    candidate.first()?;
    let mut line = Vec::new();
    write_refused(&mut line, Refusal::Version);
    candidate.send(&line)?;
    candidate.input = None;
    candidate
        .ended()
        .map_err(|it| Fault("refused", it.1))
        .map(drop)
}
