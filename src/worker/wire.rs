//! The lines between the server and a worker (`spec/exits.md`).
//!
//! Invariant: [`AnswerLine::reply`] alone makes an answer of bytes. It makes one that accepts only
//! where return code 1 and status 0 both stand there, and never puts anything in the place of what
//! is absent or wrong.

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroize;

use crate::exit::{
    Answer, Failure, Family, LARGEST, LINE_LIMIT, Output, Point, Question, Reason, Reply,
    ReturnCode, SessionIdentifier, Status, Unfit, UserContext, Verdict,
};

use super::json::{self, Object, Reader, Writer};

/// The version of the protocol.
pub const VERSION: u64 = 1;
/// Families of a hello.
const MOST_FAMILIES: usize = 16;
/// Bytes of a family's name.
const LONGEST_FAMILY: usize = 64;
/// The most sessions a worker can say it holds.
const MOST_HELD: u32 = 65_536;

/// Which rule a line breaks. It never carries what stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Garbage {
    /// Longer than its limit.
    TooLong,
    /// Not one JSON object in UTF-8.
    NotJson,
    /// Deeper than may be.
    Deep,
    /// An object has one key twice.
    Twice,
    /// A type that is not the sender's to write, or not here.
    Type,
    /// A field is not there, is of the wrong kind, or is out of its limits.
    Field(&'static str),
}

impl Garbage {
    /// The rule of `spec/exits.md`.
    pub const fn anchor(self) -> &'static str {
        match self {
            Self::TooLong => "lines",
            Self::NotJson | Self::Deep | Self::Twice => "json",
            Self::Type => "types",
            Self::Field(_) => "answer",
        }
    }
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("a line is too long"),
            Self::NotJson => f.write_str("a line is not one JSON object in UTF-8"),
            Self::Deep => f.write_str("a line is nested too deep"),
            Self::Twice => f.write_str("a line has one key twice"),
            Self::Type => f.write_str("a line is of a type that does not belong here"),
            Self::Field(name) => write!(f, "the field {name} is absent or not what it must be"),
        }
    }
}

impl std::error::Error for Garbage {}

/// What a worker says first.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version it speaks.
    pub version: u64,
    /// The families it names that exist.
    pub families: Vec<Family>,
    /// How many sessions it can have begun and not ended.
    pub holds: u32,
}

/// Why a hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server does not speak this version.
    Version,
    /// None of its families is expected.
    Families,
    /// It is no hello.
    Malformed,
}

impl Refusal {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Families => "families",
            Self::Malformed => "malformed",
        }
    }

    /// What people are told.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Version => "the server does not speak this version",
            Self::Families => "the server expects none of these families",
            Self::Malformed => "this is no hello",
        }
    }
}

/// A line of a worker.
#[derive(Debug)]
pub enum FromWorker<'a> {
    /// The first.
    Hello(Hello),
    /// Every other.
    Answer(AnswerLine<'a>),
}

/// An answer whose question is still to be found.
#[derive(Debug)]
pub struct AnswerLine<'a> {
    /// The question's number.
    pub number: u64,
    /// The session it says it is about.
    pub session: SessionIdentifier,
    size: usize,
    object: Object<'a>,
}

/// A line of the server.
#[derive(Debug)]
pub enum FromServer<'a> {
    /// The hello was good.
    Accepted {
        /// Sessions the worker may be given.
        holds: u32,
        /// Milliseconds each answer has.
        deadline_ms: u64,
    },
    /// It was not.
    Refused {
        /// Why.
        reason: Cow<'a, str>,
    },
    /// A question.
    Question {
        /// Its number.
        number: u64,
        /// The session.
        session: SessionIdentifier,
        /// What the session's exits have left for each other.
        user_context: UserContext,
        /// The question; none where the point is unknown, and what is wrong where it is not.
        question: Result<Option<Question>, Garbage>,
    },
    /// Nobody waits for this answer any more.
    Cancel {
        /// The question's number.
        number: u64,
        /// The session.
        session: SessionIdentifier,
    },
    /// Of a later server.
    Unknown,
}

fn number(object: &mut Object<'_>) -> Result<u64, Garbage> {
    match object.integer("number")? {
        number @ 1..=LARGEST => Ok(number),
        _ => Err(Garbage::Field("number")),
    }
}

fn session(object: &mut Object<'_>) -> Result<SessionIdentifier, Garbage> {
    const WRONG: Garbage = Garbage::Field("session");
    let text = object.text("session")?;
    let upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
    let session = text.parse().map_err(|_| WRONG)?;
    if upper { Err(WRONG) } else { Ok(session) }
}

fn user_context(object: &mut Object<'_>) -> Result<Option<UserContext>, Garbage> {
    const NAME: &str = "user_context";
    let bytes = object.optional_bytes(NAME)?;
    let context = bytes.map(UserContext::new).transpose();
    context.map_err(|_| Garbage::Field(NAME))
}

/// Reads a line of a worker, without its line feed.
///
/// # Errors
/// It breaks a rule.
//= spec/exits.md#types
//= spec/exits.md#garbage
pub fn read_from_worker(line: &[u8]) -> Result<FromWorker<'_>, Garbage> {
    let mut object = json::read(line)?;
    match &*object.text("type")? {
        "hello" if line.len() >= LINE_LIMIT => Err(Garbage::TooLong),
        "hello" => hello(object).map(FromWorker::Hello),
        "answer" => Ok(FromWorker::Answer(AnswerLine {
            number: number(&mut object)?,
            session: session(&mut object)?,
            size: line.len() + 1,
            object,
        })),
        _ => Err(Garbage::Type),
    }
}

//= spec/exits.md#hello
fn hello(mut object: Object<'_>) -> Result<Hello, Garbage> {
    const FAMILIES: Garbage = Garbage::Field("families");
    let version = object.integer("version")?;
    let mut hello = Hello {
        version,
        families: Vec::new(),
        holds: 1,
    };
    if version != VERSION {
        // What another version's hello has besides, nobody knows.
        return Ok(hello);
    }
    let Some(json::Value::List(names)) = object.take("families") else {
        return Err(FAMILIES);
    };
    if names.is_empty() || names.len() > MOST_FAMILIES {
        return Err(FAMILIES);
    }
    for name in names {
        match name {
            json::Value::Text(name) if (1..=LONGEST_FAMILY).contains(&name.len()) => {
                hello.families.extend(Family::named(&name));
            }
            _ => return Err(FAMILIES),
        }
    }
    hello.holds = object.optional_integer("holds")?.unwrap_or(1);
    if !(1..=MOST_HELD).contains(&hello.holds) {
        return Err(Garbage::Field("holds"));
    }
    Ok(hello)
}

impl AnswerLine<'_> {
    /// The answer to a question of this point.
    ///
    /// # Errors
    /// It breaks a rule: there is no answer.
    //= spec/exits.md#answer
    pub fn reply(self, point: Point) -> Result<Reply, Garbage> {
        let mut object = self.object;
        if self.size > point.line_limit() {
            return Err(Garbage::TooLong);
        }
        let text = object.optional_text("text")?.map(Cow::into_owned);
        if text.as_ref().is_some_and(|text| {
            text.len() > Reply::TEXT_LIMIT || text.chars().any(char::is_control)
        }) {
            return Err(Garbage::Field("text"));
        }
        const CODE: Garbage = Garbage::Field("return_code");
        const STATUS: Garbage = Garbage::Field("status");
        let code: i64 = object.integer("return_code")?;
        let answer = match ReturnCode::of(code).ok_or(CODE)? {
            ReturnCode::Nothing => Answer::Nothing,
            ReturnCode::Fatal => Answer::Fatal(Failure::Answered),
            ReturnCode::Done => {
                let status: i64 = object.integer("status")?;
                let verdict = match Status::of(status).ok_or(STATUS)? {
                    Status::Good => {
                        Verdict::Accepted(output_of(point, object.optional_object("output")?)?)
                    }
                    Status::Refused => {
                        let reason = Reason::named(&object.text("reason")?);
                        Verdict::Refused(reason.ok_or(Garbage::Field("reason"))?)
                    }
                };
                Answer::Done {
                    verdict,
                    user_context: user_context(&mut object)?,
                }
            }
        };
        Ok(Reply { answer, text })
    }
}

fn output_of(point: Point, object: Option<Object<'_>>) -> Result<Output, Garbage> {
    let mut output = Output::blank(point);
    output.describe(&mut Reader(object.unwrap_or_default()))?;
    Ok(output)
}

/// The input of a question at this point, from its JSON.
///
/// # Errors
/// It breaks a rule.
pub fn input_of(point: Point, input: &[u8]) -> Result<Question, Garbage> {
    let mut question = Question::blank(point);
    question.describe(&mut Reader(json::read(input)?))?;
    Ok(question)
}

/// Reads a line of the server, without its line feed.
///
/// # Errors
/// It breaks a rule. A question whose input does is not an error: it has a number to be answered.
pub fn read_from_server(line: &[u8]) -> Result<FromServer<'_>, Garbage> {
    let mut object = json::read(line)?;
    Ok(match &*object.text("type")? {
        "accepted" => FromServer::Accepted {
            holds: object.integer("holds")?,
            deadline_ms: object.integer("deadline_ms")?,
        },
        "refused" => FromServer::Refused {
            reason: object.text("reason")?,
        },
        "question" => FromServer::Question {
            number: number(&mut object)?,
            session: session(&mut object)?,
            user_context: user_context(&mut object)?.unwrap_or_default(),
            question: question(object, line.len() + 1),
        },
        "cancel" => FromServer::Cancel {
            number: number(&mut object)?,
            session: session(&mut object)?,
        },
        _ => FromServer::Unknown,
    })
}

fn question(mut object: Object<'_>, size: usize) -> Result<Option<Question>, Garbage> {
    let family = Family::named(&object.text("family")?);
    let name = object.text("point")?;
    let Some(point) = family.and_then(|family| Point::named(family, &name)) else {
        return Ok(None);
    };
    if size > point.line_limit() {
        return Err(Garbage::TooLong);
    }
    const INPUT: Garbage = Garbage::Field("input");
    let mut question = Question::blank(point);
    let input = object.optional_object("input")?.ok_or(INPUT)?;
    question.describe(&mut Reader(input))?;
    Ok(Some(question))
}

// ---------------------------------------------------------------- writing

fn write_session(out: &mut Vec<u8>, session: SessionIdentifier) {
    out.push(b'"');
    for byte in session.as_bytes() {
        out.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
    out.push(b'"');
}

/// A worker's hello.
pub fn write_hello(out: &mut Vec<u8>, families: &[Family], holds: u32) {
    out.extend_from_slice(br#"{"type":"hello","version":"#);
    json::write_integer(out, VERSION);
    out.extend_from_slice(br#","families":"#);
    json::write_list(out, families.iter(), |out, family| {
        json::write_text(out, family.name())
    });
    out.extend_from_slice(br#","holds":"#);
    json::write_integer(out, holds.into());
    out.extend_from_slice(b"}\n");
}

/// The answer to a good hello.
//= spec/exits.md#accepted
pub fn write_accepted(out: &mut Vec<u8>, holds: u32, deadline_ms: u64) {
    out.extend_from_slice(br#"{"type":"accepted","version":"#);
    json::write_integer(out, VERSION);
    out.extend_from_slice(br#","holds":"#);
    json::write_integer(out, holds.into());
    out.extend_from_slice(br#","deadline_ms":"#);
    json::write_integer(out, deadline_ms);
    out.extend_from_slice(b",\"services\":[]}\n");
}

/// The answer to any other.
//= spec/exits.md#refused
pub fn write_refused(out: &mut Vec<u8>, refusal: Refusal) {
    out.extend_from_slice(br#"{"type":"refused","version":"#);
    json::write_integer(out, VERSION);
    out.extend_from_slice(br#","reason":"#);
    json::write_text(out, refusal.name());
    out.extend_from_slice(br#","text":"#);
    json::write_text(out, refusal.text());
    out.extend_from_slice(b"}\n");
}

/// A question.
///
/// # Errors
/// A field is out of its limits, or the line is too long: nothing is written.
//= spec/exits.md#question
pub fn write_question(
    out: &mut Vec<u8>,
    number: u64,
    session: SessionIdentifier,
    context: &UserContext,
    question: &mut Question,
) -> Result<(), Unfit> {
    let point = question.point();
    let begin = out.len();
    out.extend_from_slice(br#"{"type":"question","number":"#);
    json::write_integer(out, number);
    out.extend_from_slice(br#","session":"#);
    write_session(out, session);
    out.extend_from_slice(br#","family":"#);
    json::write_text(out, point.family().name());
    out.extend_from_slice(br#","point":"#);
    json::write_text(out, point.name());
    out.extend_from_slice(br#","user_context":"#);
    json::write_bytes(out, context.as_bytes());
    out.extend_from_slice(br#","input":{"#);
    let mut fields = Writer {
        out,
        follows: false,
    };
    let written = question.describe(&mut fields);
    out.extend_from_slice(b"}}\n");
    finish(out, begin, point, written)
}

/// Takes back what is not good.
fn finish(
    out: &mut Vec<u8>,
    begin: usize,
    point: Point,
    written: Result<(), Unfit>,
) -> Result<(), Unfit> {
    let limit = point.line_limit();
    let written = match out.len() - begin > limit {
        true => written.and(Err(Unfit::TooLong("line", limit))),
        false => written,
    };
    if written.is_err() {
        out[begin..].zeroize();
        out.truncate(begin);
    }
    written
}

/// Says that nobody waits any more.
//= spec/exits.md#cancel
pub fn write_cancel(out: &mut Vec<u8>, number: u64, session: SessionIdentifier) {
    out.extend_from_slice(br#"{"type":"cancel","number":"#);
    json::write_integer(out, number);
    out.extend_from_slice(br#","session":"#);
    write_session(out, session);
    out.extend_from_slice(b"}\n");
}

/// An answer. Control characters of its text are left out, and what is too long of it.
///
/// # Errors
/// A field is out of its limits, or the line is too long: nothing is written.
pub fn write_answer(
    out: &mut Vec<u8>,
    number: u64,
    session: SessionIdentifier,
    point: Point,
    reply: &mut Reply,
) -> Result<(), Unfit> {
    let begin = out.len();
    out.extend_from_slice(br#"{"type":"answer","number":"#);
    json::write_integer(out, number);
    out.extend_from_slice(br#","session":"#);
    write_session(out, session);
    out.extend_from_slice(br#","return_code":"#);
    out.extend_from_slice(match reply.answer.return_code() {
        ReturnCode::Done => b"1".as_slice(),
        ReturnCode::Nothing => b"0",
        ReturnCode::Fatal => b"-1",
    });
    let mut written = Ok(());
    if let Answer::Done {
        verdict,
        user_context,
    } = &mut reply.answer
    {
        match verdict {
            Verdict::Accepted(output) => {
                out.extend_from_slice(br#","status":0,"output":{"#);
                let mut fields = Writer {
                    out,
                    follows: false,
                };
                written = output.describe(&mut fields);
                out.push(b'}');
            }
            Verdict::Refused(reason) => {
                out.extend_from_slice(br#","status":-1,"reason":"#);
                json::write_text(out, reason.name());
            }
        }
        if let Some(context) = user_context {
            out.extend_from_slice(br#","user_context":"#);
            json::write_bytes(out, context.as_bytes());
        }
    }
    if let Some(text) = &reply.text {
        out.extend_from_slice(br#","text":"#);
        let mut clean: String = text.chars().filter(|c| !c.is_control()).collect();
        let fits = |at: &usize| clean.is_char_boundary(*at);
        let most = clean.len().min(Reply::TEXT_LIMIT);
        let end = (0..=most).rev().find(fits).unwrap_or(0);
        clean.truncate(end);
        json::write_text(out, &clean);
    }
    out.extend_from_slice(b"}\n");
    finish(out, begin, point, written)
}
