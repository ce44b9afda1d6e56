//! The built-in page: who serves this connection, told over HTTP/1.1.
//!
//! `GET /` answers the page, as text or, to those who accept it, as HTML. `POST` or `PUT /sum`
//! answers the SHA-256 of the body, whatever its length. An answer is given by the last process:
//! the connection's remaining hops are made first.

mod http;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use crate::crypto::Sha256;

use super::about::About;
use super::flow::{CAPACITY, Flow};
use http::{Refusal, Request, Wanted};

/// An answer begins only when this much of the outbox is free: a client that sends requests and
/// reads no answers is not served further.
const FREE: usize = CAPACITY / 2;

/// The page's progress on its connection.
#[derive(Default)]
pub struct Page {
    state: State,
}

/// What the page wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// More input, or room for output.
    Wait,
    /// The remaining hops, before it answers.
    Hops,
    /// Nothing: the connection's work is done.
    End,
}

#[derive(Default)]
enum State {
    /// Between requests, or within a head.
    #[default]
    Head,
    /// Within a body of which so many bytes are left.
    Body {
        request: Request,
        left: u64,
        sum: Sha256,
    },
    /// The request is complete.
    Answer { request: Request, sum: Sha256 },
    /// Some of an answer that was longer than the outbox.
    Rest {
        answer: Vec<u8>,
        written: usize,
        close: bool,
    },
    /// The last answer was given.
    Over,
}

impl Page {
    /// Moves on as far as input and room for output allow.
    pub fn work(&mut self, flow: &mut Flow, about: &About) -> Wish {
        loop {
            let wish = match std::mem::take(&mut self.state) {
                State::Head => self.head(flow),
                State::Body { request, left, sum } => self.body(flow, request, left, sum),
                State::Answer { request, sum } if flow.hops_left > 0 => {
                    self.state = State::Answer { request, sum };
                    Some(Wish::Hops)
                }
                State::Answer { request, sum } => {
                    let answer = answer(&request, sum, about);
                    self.state = State::Rest {
                        answer,
                        written: 0,
                        close: request.close,
                    };
                    None
                }
                State::Rest {
                    answer,
                    written,
                    close,
                } => self.rest(flow, answer, written, close),
                State::Over => {
                    self.state = State::Over;
                    flow.job_ended = true;
                    Some(Wish::End)
                }
            };
            if let Some(wish) = wish {
                return wish;
            }
        }
    }

    fn head(&mut self, flow: &mut Flow) -> Option<Wish> {
        if flow.outbox.room() < FREE {
            return Some(Wish::Wait);
        }
        match http::head(flow.inbox.as_slice()) {
            Ok(Some((request, length))) => {
                flow.inbox.consume(length);
                if request.expects_continue && request.body > 0 {
                    flow.outbox.push(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                self.state = State::Body {
                    left: request.body,
                    request,
                    sum: Sha256::new(),
                };
                None
            }
            Ok(None) if flow.peer_ended => {
                self.state = State::Over;
                None
            }
            Ok(None) => Some(Wish::Wait),
            Err(refusal) => {
                self.state = State::Rest {
                    answer: refused(refusal),
                    written: 0,
                    close: true,
                };
                None
            }
        }
    }

    fn body(
        &mut self,
        flow: &mut Flow,
        request: Request,
        left: u64,
        mut sum: Sha256,
    ) -> Option<Wish> {
        let piece = flow.inbox.as_slice();
        let piece = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        if request.wanted == Wanted::Sum {
            sum.update(piece);
        }
        let (taken, left) = (piece.len(), left - piece.len() as u64);
        flow.inbox.consume(taken);
        if left == 0 {
            self.state = State::Answer { request, sum };
            return None;
        }
        if flow.peer_ended {
            // The rest never comes: there is nothing to answer.
            self.state = State::Over;
            return None;
        }
        self.state = State::Body { request, left, sum };
        Some(Wish::Wait)
    }

    fn rest(
        &mut self,
        flow: &mut Flow,
        answer: Vec<u8>,
        written: usize,
        close: bool,
    ) -> Option<Wish> {
        let written = written + flow.outbox.push(&answer[written..]);
        if written < answer.len() {
            self.state = State::Rest {
                answer,
                written,
                close,
            };
            return Some(Wish::Wait);
        }
        self.state = if close { State::Over } else { State::Head };
        None
    }
}

fn refused(refusal: Refusal) -> Vec<u8> {
    let text = format!("{}\n", refusal.status());
    response(
        refusal.status(),
        "text/plain; charset=utf-8",
        true,
        &text,
        false,
    )
}

fn answer(request: &Request, sum: Sha256, about: &About) -> Vec<u8> {
    let plain = "text/plain; charset=utf-8";
    let (status, kind, text) = match request.wanted {
        Wanted::Page if request.html => ("200 OK", "text/html; charset=utf-8", html(about)),
        Wanted::Page => ("200 OK", plain, text(about)),
        Wanted::Sum => {
            let mut hex = String::with_capacity(65);
            for byte in sum.finish().as_ref() {
                let _ = write!(hex, "{byte:02x}");
            }
            ("200 OK", plain, hex + "\n")
        }
        Wanted::Nothing => ("404 Not Found", plain, "404 Not Found\n".to_owned()),
    };
    response(status, kind, request.close, &text, request.head_only)
}

fn response(status: &str, kind: &str, close: bool, text: &str, head_only: bool) -> Vec<u8> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{connection}\r\n",
        text.len()
    );
    if !head_only {
        answer.push_str(text);
    }
    answer.into_bytes()
}

fn text(about: &About) -> String {
    let mut text = String::from("This connection was handed from process to process, alive.\n\n");
    for (name, value) in about.lines() {
        let _ = writeln!(text, "{name:<12} {value}");
    }
    text
}

fn html(about: &About) -> String {
    let mut text = String::from(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Baton</title>\n\
         <style>body{font:16px/1.5 system-ui,sans-serif;max-width:44em;margin:3em auto;padding:0 1em}\
         th{text-align:left;padding-right:2em;vertical-align:top;font-weight:600}\
         td{font-family:ui-monospace,monospace;overflow-wrap:anywhere}</style>\n\
         <h1>This connection was handed from process to process, alive.</h1>\n<table>\n",
    );
    for (name, value) in about.lines() {
        let _ = writeln!(text, "<tr><th>{name}<td>{}", escaped(&value));
    }
    text + "</table>\n"
}

/// Text as HTML content: names of peers are theirs to choose.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}
