//! What it costs to ask an exit.
//!
//! `exit_call_over_pingpong`: the time of one question about a chain of three certificates to a worker
//! in Rust and back through the pool, over that of as many bytes to another process and back over a
//! bare socket pair; what bare pipes take is printed, too. All processes are on one processor: where
//! the kernel puts them otherwise changes either side fourfold from run to run. Ours is all there is: the question written as JSON and base64, the pool's
//! bookkeeping and its `epoll`, the worker that reads it strictly and writes an answer, the answer
//! read. Theirs is `write` and `read` on both sides, and nothing looks at the bytes. Turns of
//! [`BATCH`] calls, one after the other; each pair of turns gives one ratio, the figure is the median.
//!
//! `exit_calls_per_s`: calls a second through the pool to four workers, [`AT_ONCE`] sessions asking at
//! once, the same question; the median of the turns. On a machine with few processors they are shared
//! by the pool and its workers.
//!
//! `BATON_BENCH_QUICK=1` takes some 4 s, else it is 20.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench prints, and stops when it fails"
)]

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use baton::exit::{
    Answer, CheckCertList, CheckCertListOutput, Override, Question, SessionEnd, SessionIdentifier,
    UserContext, Verdict,
};
use baton::pool::{Completion, Configuration, Event, Pool};
use baton::worker::{Worker, write_answer, write_question};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Calls of one turn.
const BATCH: usize = 200;
/// Sessions that ask at once.
const AT_ONCE: u8 = 64;
/// What this program is, when its first argument says so.
const WORKER: &str = "exit-worker";
const ECHO: &str = "ping-pong";

fn session(number: u8) -> SessionIdentifier {
    SessionIdentifier::from([number; 16])
}

/// About what three certificates with keys on P-256 and names of usual length are.
fn question() -> CheckCertList {
    let certificate = |size: usize| (0..size).map(|at| (at * 37 % 251) as u8).collect();
    CheckCertList {
        cert_list: vec![certificate(620), certificate(580), certificate(540)],
        time: 1_700_000_000,
        ..CheckCertList::default()
    }
}

fn output() -> CheckCertListOutput {
    CheckCertListOutput {
        peer_name: Override::Replace("ada@example.test".to_owned()),
    }
}

fn be_worker() {
    let worker = Worker::new().holds(256);
    let ended = worker
        .on(|_, _: CheckCertList| Answer::accepted(output()))
        .serve();
    ended.unwrap();
}

fn be_echo(asked: usize, answered: usize) {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut question, answer) = (vec![0; asked], vec![b'a'; answered - 1]);
    let answer = [&answer[..], b"\n"].concat();
    while input.read_exact(&mut question).is_ok() {
        output.write_all(&answer).unwrap();
        output.flush().unwrap();
    }
}

fn pool(workers: usize) -> Pool {
    let mut configuration = Configuration::new("bench", std::env::current_exe().unwrap());
    configuration.arguments = vec![WORKER.into()];
    configuration.holds = 256;
    (configuration.start, configuration.maximum) = (workers, workers);
    let mut pool = Pool::new(configuration, Box::new(|_, _| ())).unwrap();
    while pool
        .workers()
        .any(|(_, state, ..)| state == baton::pool::State::Starting)
    {
        pool.turn(None).unwrap();
    }
    pool
}

fn completion(pool: &mut Pool) -> Completion {
    loop {
        match pool.next_event() {
            Some(Event::Completed(completion)) => return completion,
            Some(_) => {}
            None => pool.turn(None).unwrap(),
        }
    }
}

fn accepted(completion: &Completion) {
    let answer = &completion.reply.answer;
    let Answer::Done {
        verdict: Verdict::Accepted(_),
        ..
    } = answer
    else {
        panic!("{answer:?}");
    };
}

/// A turn of calls, one after the other: microseconds each.
fn calls(pool: &mut Pool, question: &CheckCertList) -> f64 {
    let none = UserContext::default();
    let start = Instant::now();
    for _ in 0..BATCH {
        pool.ask(session(1), &none, Question::from(question.clone()), 1);
        accepted(&completion(pool));
    }
    start.elapsed().as_secs_f64() * 1e6 / BATCH as f64
}

struct Echo {
    child: Child,
    to: File,
    from: File,
    asked: Vec<u8>,
    answered: usize,
}

impl Echo {
    /// Of the sizes that question and answer have.
    fn start(pipes: bool) -> Self {
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        let none = UserContext::default();
        let mut question = Question::from(question());
        write_question(&mut asked, 100, session(1), &none, &mut question).unwrap();
        let mut reply = Answer::accepted(output()).into();
        let point = question.point();
        write_answer(&mut answered, 100, session(1), point, &mut reply).unwrap();
        let [to, from, input, output]: [OwnedFd; 4] = match pipes {
            true => {
                let (input, to) = pipe().unwrap();
                let (from, output) = pipe().unwrap();
                [to.into(), from.into(), input.into(), output.into()]
            }
            false => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let again = |socket: &UnixStream| OwnedFd::from(socket.try_clone().unwrap());
                let (from, output) = (again(&ours), again(&theirs));
                [ours.into(), from, theirs.into(), output]
            }
        };
        let child = Command::new(std::env::current_exe().unwrap())
            .args([ECHO, &asked.len().to_string(), &answered.len().to_string()])
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .spawn()
            .unwrap();
        Self {
            child,
            to: to.into(),
            from: from.into(),
            asked,
            answered: answered.len(),
        }
    }

    fn turn(&mut self) -> f64 {
        let mut answer = vec![0; self.answered];
        let start = Instant::now();
        for _ in 0..BATCH {
            self.to.write_all(&self.asked).unwrap();
            self.from.read_exact(&mut answer).unwrap();
        }
        start.elapsed().as_secs_f64() * 1e6 / BATCH as f64
    }

    fn end(mut self) {
        drop((self.to, self.from));
        self.child.wait().unwrap();
    }
}

/// Calls a second, many at once.
fn crowd(pool: &mut Pool, question: &CheckCertList, time: Duration) -> f64 {
    let none = UserContext::default();
    let ask = |pool: &mut Pool, number: u8| {
        let question = Question::from(question.clone());
        pool.ask(session(number), &none, question, number.into());
    };
    for number in 0..AT_ONCE {
        ask(pool, number);
    }
    let (start, mut done) = (Instant::now(), 0_u32);
    while start.elapsed() < time {
        let completion = completion(pool);
        accepted(&completion);
        done += 1;
        ask(pool, completion.tag as u8);
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    for _ in 0..AT_ONCE {
        accepted(&completion(pool));
    }
    rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [WORKER, ..] => return be_worker(),
        [ECHO, asked, answered] => {
            return be_echo(asked.parse().unwrap(), answered.parse().unwrap());
        }
        _ => {}
    }
    let quick = std::env::var_os("BATON_BENCH_QUICK").is_some_and(|set| set == "1");
    let time = Duration::from_secs(if quick { 2 } else { 10 });
    let question = question();

    let everywhere = sched_getaffinity(None).unwrap();
    let mut here = CpuSet::new();
    here.set(
        (0..CpuSet::MAX_CPU)
            .find(|cpu| everywhere.is_set(*cpu))
            .unwrap(),
    );
    sched_setaffinity(None, &here).unwrap();
    let (mut one, mut echoes) = (pool(1), [false, true].map(Echo::start));
    let [socket, _] = &echoes;
    println!(
        "{} bytes asked, {} answered",
        socket.asked.len(),
        socket.answered
    );
    calls(&mut one, &question);
    let (start, mut turns) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let ours = calls(&mut one, &question);
        let [socket, pipes] = echoes.each_mut().map(Echo::turn);
        turns.push([ours / socket, ours, socket, pipes]);
    }
    let of = |which: usize| median(turns.iter().map(|turn| turn[which]).collect());
    let [ours, socket, pipes] = [1, 2, 3].map(of);
    println!("{ours:.1} us a call, {socket:.1} us over a socket pair, {pipes:.1} us over pipes");
    println!("figure: exit_call_over_pingpong = {:.3} ratio", of(0));
    let end = Question::from(SessionEnd::default());
    one.ask(session(1), &UserContext::default(), end, 1);
    completion(&mut one);
    echoes.into_iter().for_each(Echo::end);
    drop(one);

    sched_setaffinity(None, &everywhere).unwrap();
    let mut four = pool(4);
    let rates = (0..10).map(|_| crowd(&mut four, &question, time / 10));
    println!(
        "figure: exit_calls_per_s = {:.0} calls/s",
        median(rates.collect())
    );
}
