//! What is asked and answered at the control socket (`spec/control.md`): JSON, one line each way.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::super::tally::Tally;

/// The one version there is.
pub const VERSION: u32 = 1;
/// The longest question, with its line feed.
//= spec/control.md#exchange
pub const MAX_REQUEST: usize = 4096;

/// A question.
//= spec/control.md#request
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// All but the list of sessions.
    Status {},
    /// The list of sessions.
    Sessions {},
    /// End a session.
    Revoke {
        /// Its identifier, 32 hexadecimal digits.
        session: String,
    },
    /// The connection itself is asked for.
    Takeover {},
}

/// What the one that asked to take over is told, with the descriptor on which it is done.
//= spec/takeover.md#start
pub(in crate::server) const GRANTED: &[u8] = b"{\"version\":1,\"answer\":\"takeover\"}\n";

/// An answer.
//= spec/control.md#answer
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Answer {
    /// All but the list of sessions.
    Status {
        /// The server.
        server: Box<Server>,
    },
    /// The list of sessions.
    Sessions {
        /// Each that runs or is about to.
        sessions: Vec<Session>,
    },
    /// The session was ended.
    Revoked {
        /// Its identifier.
        session: String,
    },
    /// Nothing was done.
    Error {
        /// For programs.
        code: Code,
        /// For people.
        text: String,
    },
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Who asks.
    Refused,
    /// No JSON, too long, or with keys that do not belong there.
    Malformed,
    /// Of another version.
    Version,
    /// No such request.
    Unsupported,
    /// No such session.
    UnknownSession,
    /// Too much waits to be taken.
    Busy,
    /// One that a later server has.
    #[serde(other)]
    Other,
}

/// A running server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// The program's version.
    pub program: String,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// When the supervisor started: UTC, seconds since 1970.
    pub since: u64,
    /// Milliseconds since then.
    pub milliseconds: u64,
    /// It has been told to stop.
    pub stopping: bool,
    /// Connections are accepted.
    pub accepting: bool,
    /// Its own processes.
    pub processes: Vec<Process>,
    /// Entries of the ledger.
    pub contexts: Contexts,
    /// Sessions that run.
    pub sessions: u64,
    /// The most that may.
    pub sessions_limit: u64,
    /// Connections whose session has no process yet.
    pub sessions_waiting: u64,
    /// What was counted.
    pub tally: Tally,
}

/// One of the server's own processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// What it is there for.
    pub role: String,
    /// Its number.
    pub process: u32,
    /// Its resident memory, in bytes; 0 when that cannot be known.
    pub resident: u64,
}

/// Entries of the ledger, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contexts {
    /// Some process runs them.
    pub active: u64,
    /// Their tokens are out.
    pub transit: u64,
    /// Ended, and their releases not told.
    pub ended: u64,
    /// Being made.
    pub draft: u64,
}

impl Contexts {
    /// Each count and its name.
    pub fn each(&self) -> [(&'static str, u64); 4] {
        [
            ("active", self.active),
            ("transit", self.transit),
            ("ended", self.ended),
            ("draft", self.draft),
        ]
    }
}

/// A session.
//= spec/control.md#sessions
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its identifier, 32 hexadecimal digits.
    pub session: String,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The address the peer connected to.
    pub local: SocketAddr,
    /// Who the peer is, if it proved that.
    pub user: Option<String>,
    /// The process that runs it; 0 before one does.
    pub process: u32,
    /// When it began: UTC, seconds since 1970.
    pub since: u64,
    /// Seconds since then.
    pub seconds: u64,
    /// How its context is spoken to.
    pub framing: String,
    /// The cipher suite.
    pub cipher: String,
    /// Imports so far.
    pub hops: u64,
    /// Bytes of plaintext from the peer, once that is known.
    pub received: Option<u64>,
    /// And to it.
    pub sent: Option<u64>,
}

/// With its version, as it stands in a line.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    value: T,
}

/// A line of it.
pub fn to_line<T: Serialize>(value: &T) -> Vec<u8> {
    let versioned = Versioned {
        version: VERSION,
        value,
    };
    // What is written here are plain structures: they always can be.
    let mut line = serde_json::to_vec(&versioned).unwrap_or_default();
    line.push(b'\n');
    line
}

impl Request {
    /// The question in a line, without its line feed; else why it is none.
    pub fn from_line(line: &[u8]) -> Result<Self, Answer> {
        let refused = |code, text: &str| Answer::Error {
            code,
            text: text.to_owned(),
        };
        let malformed = |text| Err(refused(Code::Malformed, text));
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(line) else {
            return malformed("no JSON");
        };
        let serde_json::Value::Object(mut keys) = value else {
            return malformed("no object");
        };
        match keys.remove("version").map(|version| version.as_u64()) {
            Some(Some(version)) if version == u64::from(VERSION) => {}
            Some(Some(_)) => return Err(refused(Code::Version, "this server speaks version 1")),
            _ => return malformed("no version"),
        }
        let known = ["status", "sessions", "revoke", "takeover"];
        match keys.get("request").map(|name| name.as_str()) {
            Some(Some(name)) if known.contains(&name) => {}
            Some(Some(_)) => return Err(refused(Code::Unsupported, "no such request")),
            _ => return malformed("no request"),
        }
        serde_json::from_value(keys.into())
            .or_else(|_| malformed("keys that do not belong to the request, or values"))
    }
}

impl Answer {
    /// An error.
    pub fn error(code: Code, text: impl Into<String>) -> Self {
        let text = text.into();
        Self::Error { code, text }
    }

    /// The answer in a line; none when it is none.
    pub fn from_line(line: &[u8]) -> Option<Self> {
        let Versioned { version, value } = serde_json::from_slice(line).ok()?;
        (version == VERSION).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> Code {
        match Request::from_line(line.as_bytes()) {
            Err(Answer::Error { code, .. }) => code,
            other => panic!("{line}: {other:?}"),
        }
    }

    //= proves spec/control.md#request
    #[test]
    fn a_question_is_what_the_page_says_and_nothing_else() {
        let of = |line: &str| Request::from_line(line.as_bytes()).unwrap();
        assert_eq!(
            of(r#"{"version":1,"request":"status"}"#),
            Request::Status {}
        );
        assert_eq!(
            of(r#" { "request":"sessions" , "version":1 }"#),
            Request::Sessions {}
        );
        assert_eq!(
            of(r#"{"version":1,"request":"revoke","session":"00"}"#),
            Request::Revoke {
                session: "00".to_owned()
            }
        );
        assert_eq!(
            of(r#"{"version":1,"request":"takeover"}"#),
            Request::Takeover {}
        );
        for malformed in [
            "",
            "{",
            "status",
            "[]",
            "null",
            r#"{"request":"status"}"#,
            r#"{"version":1}"#,
            r#"{"version":"1","request":"status"}"#,
            r#"{"version":-1,"request":"status"}"#,
            r#"{"version":1,"request":7}"#,
            r#"{"version":1,"request":"status"} x"#,
            r#"{"version":1,"request":"status","x":1}"#,
            r#"{"version":1,"request":"revoke"}"#,
            r#"{"version":1,"request":"revoke","session":7}"#,
            r#"{"version":1,"request":"revoke","session":"00","x":1}"#,
            "\u{0}",
        ] {
            assert_eq!(code(malformed), Code::Malformed, "{malformed}");
        }
        assert_eq!(code(r#"{"version":2,"request":"status"}"#), Code::Version);
        assert_eq!(code(r#"{"version":1,"request":"stop"}"#), Code::Unsupported);
        let deep = "[".repeat(MAX_REQUEST);
        assert_eq!(code(&deep), Code::Malformed);
    }

    //= proves spec/control.md#answer
    #[test]
    fn an_answer_is_one_line_and_later_keys_are_passed_over() {
        let answer = Answer::error(Code::UnknownSession, "no\nsuch \u{1b}session");
        let line = to_line(&answer);
        assert_eq!(
            String::from_utf8(line.clone()).unwrap(),
            "{\"version\":1,\"answer\":\"error\",\"code\":\"unknown-session\",\
             \"text\":\"no\\nsuch \\u001bsession\"}\n"
        );
        assert_eq!(Answer::from_line(&line), Some(answer));
        let status = Answer::Status {
            server: Box::default(),
        };
        assert_eq!(Answer::from_line(&to_line(&status)), Some(status.clone()));
        let later = r#"{"version":1,"answer":"status","server":{"later":{"x":1}},"more":[]}"#;
        assert_eq!(Answer::from_line(later.as_bytes()), Some(status));
        let later = r#"{"version":1,"answer":"error","code":"tired","text":""}"#;
        assert_eq!(
            Answer::from_line(later.as_bytes()),
            Some(Answer::error(Code::Other, ""))
        );
        for none in ["", "{}", r#"{"version":2,"answer":"status","server":{}}"#] {
            assert_eq!(Answer::from_line(none.as_bytes()), None);
        }
    }
}
