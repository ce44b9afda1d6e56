//! `baton sessions`.

use std::io::{self, Write};
use std::time::Duration;

use crate::server::control::answer::Session;
use crate::session::log::Escaped;

use super::arguments::{Sessions, SessionsAction};
use super::operator::{Asking, Error, age};

/// Lists the sessions, or ends one.
///
/// # Errors
/// When the server does not answer, or has no such session.
pub fn run(arguments: &Sessions) -> Result<(), Error> {
    let asking = Asking::new(&arguments.asked)?;
    let mut out = io::stdout().lock();
    match &arguments.action {
        Some(SessionsAction::Revoke { session }) => {
            asking.revoke(session.to_string())?;
            writeln!(out, "session {session} revoked")?;
        }
        None => {
            let sessions = asking.sessions()?;
            if arguments.json {
                serde_json::to_writer(&mut out, &sessions).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                write(&mut out, &sessions)?;
            }
        }
    }
    Ok(out.flush()?)
}

/// The columns, each wide enough for what is in it.
pub(super) const COLUMNS: [&str; 8] = [
    "SESSION", "REMOTE", "USER", "PROCESS", "AGE", "FRAMING", "CIPHER", "HOPS",
];

/// What stands in the columns.
pub(super) fn row(session: &Session) -> [String; 8] {
    let user = session.user.as_deref().unwrap_or("-");
    // What a server says of its peers is no more than text.
    let plain = |text: &str| Escaped(text.as_bytes()).to_string();
    [
        plain(&session.session),
        session.remote.to_string(),
        plain(user),
        match session.process {
            0 => "-".to_owned(),
            process => process.to_string(),
        },
        age(Duration::from_secs(session.seconds)),
        plain(&session.framing),
        plain(&session.cipher),
        session.hops.to_string(),
    ]
}

fn write(out: &mut impl Write, sessions: &[Session]) -> io::Result<()> {
    let rows: Vec<[String; 8]> = sessions.iter().map(row).collect();
    let mut widths = COLUMNS.map(str::len);
    for row in &rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.len());
        }
    }
    let mut line = |texts: [&str; 8]| {
        let mut line = String::new();
        for (text, width) in texts.iter().zip(widths) {
            line += &format!("{text:width$}  ");
        }
        writeln!(out, "{}", line.trim_end())
    };
    line(COLUMNS)?;
    for row in &rows {
        line(row.each_ref().map(String::as_str))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_a_name_moves_no_terminal() {
        let session = |user: Option<&str>, process| Session {
            session: "ab".repeat(16),
            remote: "127.0.0.1:4433".parse().unwrap(),
            local: "127.0.0.1:1".parse().unwrap(),
            user: user.map(str::to_owned),
            process,
            since: 0,
            seconds: 61,
            framing: "record".to_owned(),
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
            hops: 3,
            received: None,
            sent: None,
        };
        let mut out = Vec::new();
        let sessions = [session(None, 0), session(Some("e\u{1b}[2J\u{202e}"), 12)];
        write(&mut out, &sessions).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        for column in COLUMNS {
            let at = lines[0].find(column).unwrap();
            for line in &lines[1..] {
                assert!(at == 0 || &line[at - 2..at] == "  ", "{text}");
                assert_ne!(&line[at..=at], " ", "{text}");
            }
        }
        assert!(lines[1].contains("  -  "));
        assert!(lines[2].contains("e\\x1b[2J\\xe2\\x80\\xae"));
        assert!(text.is_ascii());
    }
}
