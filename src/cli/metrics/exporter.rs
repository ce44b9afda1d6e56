//! `baton metrics --listen`: the text over HTTP.
//!
//! SECURITY: a stranger's bytes come here, into a process that has nothing of the server's but the
//! right to ask it. They are read up to the end of the header, bounded in bytes, time and number,
//! and change what is answered in nothing but which of four answers it is.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::session::log;

use super::super::operator::{Asking, Error};
use super::exposition::{self, CONTENT_TYPE};

/// Clients at once.
//= spec/control.md#metrics
const MOST: usize = 16;
/// How long each may take for everything.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a request that are read.
const MAX_REQUEST: usize = 8 << 10;
/// How long nothing is accepted when there is no descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// How many are served, and when one of them is done.
type Served = Arc<(Mutex<usize>, Condvar)>;

/// Serves until the process is ended.
pub(super) fn run(address: SocketAddr, asking: &Asking) -> Result<(), Error> {
    let listener = TcpListener::bind(address)?;
    let mut out = io::stdout().lock();
    writeln!(out, "Metrics at http://{}/metrics", listener.local_addr()?)?;
    out.flush()?;
    drop(out);
    let served = Served::default();
    loop {
        let (count, done) = &*served;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = done
            .wait_while(count, |count| *count >= MOST)
            .unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        drop(count);
        let place = Place(Arc::clone(&served));
        match listener.accept() {
            Ok((socket, _)) => {
                let asking = asking.clone();
                let thread = std::thread::Builder::new();
                let started = thread.spawn(move || {
                    // A client that is gone, or too slow, is no event.
                    let _ = serve(&socket, &asking);
                    drop(place);
                });
                if let Err(error) = started {
                    log::line(format_args!("a client was dropped: {error}"));
                }
            }
            Err(error) => {
                log::line(format_args!("not accepting for a moment: {error}"));
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// One of the places there are.
struct Place(Served);

impl Drop for Place {
    fn drop(&mut self) {
        let (count, done) = &*self.0;
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        done.notify_one();
    }
}

fn serve(socket: &TcpStream, asking: &Asking) -> io::Result<()> {
    let until = Instant::now() + LIMIT;
    let request = read(socket, until)?;
    let (status, kind, body) = answer(&request, asking);
    let head = request.starts_with(b"HEAD ");
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !head {
        response += &body;
    }
    let mut rest = response.as_bytes();
    while !rest.is_empty() {
        socket.set_write_timeout(Some(left(until)?))?;
        match { socket }.write(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => rest = &rest[count..],
        }
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    // What it still sends is dropped, or the connection would be reset with the answer in it.
    while {
        socket.set_read_timeout(Some(left(until)?))?;
        { socket }.read(&mut [0; 1024])? > 0
    } {}
    Ok(())
}

/// The request up to the end of its header, or up to as much as is read.
fn read(socket: &TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut bytes = [0; 1024];
    while request.len() < MAX_REQUEST && !has_end(&request) {
        socket.set_read_timeout(Some(left(until)?))?;
        let mut socket = socket;
        match socket.read(&mut bytes)? {
            0 => break,
            count => request.extend_from_slice(&bytes[..count]),
        }
    }
    Ok(request)
}

fn has_end(request: &[u8]) -> bool {
    let ends = |end: &[u8]| request.windows(end.len()).any(|window| window == end);
    ends(b"\r\n\r\n") || ends(b"\n\n")
}

fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn answer(request: &[u8], asking: &Asking) -> (&'static str, &'static str, String) {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let line = request.split(|byte| *byte == b'\n').next();
    let line = line.unwrap_or_default().trim_ascii_end();
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return ("400 Bad Request", PLAIN, "no request\n".to_owned());
    };
    if !has_end(request) || !version.starts_with(b"HTTP/1.") {
        return ("400 Bad Request", PLAIN, "no request\n".to_owned());
    }
    if method != b"GET" && method != b"HEAD" {
        return ("405 Method Not Allowed", PLAIN, "only GET\n".to_owned());
    }
    let path = target.split(|byte| *byte == b'?').next();
    if path != Some(b"/metrics") {
        return ("404 Not Found", PLAIN, "try /metrics\n".to_owned());
    }
    let server = asking.server();
    if let Err(error) = &server {
        log::line(format_args!("{error}"));
    }
    let text = exposition::write(server.as_ref().ok());
    ("200 OK", CONTENT_TYPE, text)
}
