//! Prometheus text, version 0.0.4.
//!
//! Invariants: each family stands once, with HELP and TYPE before its samples; a histogram's
//! buckets grow and end in `+Inf`, which is its count.

use std::fmt::Write;
use std::time::Duration;

use crate::server::control::answer::Server;
use crate::server::tally::{Bounds, Histogram, handshake_bounds, session_bounds};

/// The content type, as HTTP names it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of a server; of one that does not answer, that it does not.
//= spec/control.md#metrics
pub fn write(server: Option<&Server>) -> String {
    let mut text = Text(String::new());
    let up = u64::from(server.is_some());
    text.gauge("baton_up", "Whether the server answered.", up);
    let Some(server) = server else {
        return text.0;
    };
    text.family("baton_build_info", "gauge", "The server's version.");
    text.sample("baton_build_info", &[("version", &server.program)], 1);
    text.gauge(
        "baton_start_time_seconds",
        "When the supervisor started, since 1970 in UTC.",
        server.since,
    );
    handshakes(&mut text, server);
    sessions(&mut text, server);
    let each = server.contexts.each();
    text.labelled(
        "baton_contexts",
        "gauge",
        "Entries of the ledger by state.",
        "state",
        each,
    );
    processes(&mut text, server);
    text.0
}

fn handshakes(text: &mut Text, server: &Server) {
    let handshakes = &server.tally.handshakes;
    text.counter(
        "baton_connections_total",
        "Connections accepted, but for those closed at once.",
        handshakes.connections,
    );
    text.labelled(
        "baton_connections_closed_total",
        "counter",
        "Connections closed at once, without a handshake.",
        "reason",
        handshakes.closed.each(),
    );
    let mut results = vec![("established", handshakes.established)];
    results.extend(handshakes.refused.each());
    text.labelled(
        "baton_handshakes_total",
        "counter",
        "Handshakes that came to an end, by how.",
        "result",
        results,
    );
    text.gauge(
        "baton_handshakes_in_progress",
        "Handshakes begun and not ended.",
        handshakes.in_progress,
    );
    text.histogram(
        "baton_handshake_duration_seconds",
        "From accepting a connection to its established context.",
        &handshakes.time,
        &handshake_bounds(),
    );
}

fn sessions(text: &mut Text, server: &Server) {
    let sessions = &server.tally.sessions;
    text.gauge("baton_sessions", "Sessions that run.", server.sessions);
    text.gauge(
        "baton_sessions_limit",
        "The most sessions that may run.",
        server.sessions_limit,
    );
    text.gauge(
        "baton_sessions_waiting",
        "Connections whose session has no process yet.",
        server.sessions_waiting,
    );
    text.counter(
        "baton_sessions_started_total",
        "Sessions whose first process imported the context.",
        sessions.started,
    );
    text.labelled(
        "baton_sessions_ended_total",
        "counter",
        "Sessions that have ended, by how.",
        "reason",
        sessions.ended.each(),
    );
    text.histogram(
        "baton_session_duration_seconds",
        "Duration of the sessions that have ended.",
        &sessions.time,
        &session_bounds(),
    );
    text.labelled(
        "baton_session_bytes_total",
        "counter",
        "Plaintext of the sessions that have ended.",
        "direction",
        sessions.bytes.each(),
    );
    text.counter(
        "baton_hops_total",
        "Imports by a session's process, the first included.",
        sessions.hops,
    );
    text.labelled(
        "baton_releases_total",
        "counter",
        "Releases delivered, by cause.",
        "cause",
        sessions.releases.each(),
    );
}

fn processes(text: &mut Text, server: &Server) {
    let tally = &server.tally;
    text.labelled(
        "baton_process_restarts_total",
        "counter",
        "Processes started in place of one that ended.",
        "process",
        tally.restarts.each(),
    );
    text.counter(
        "baton_session_retries_total",
        "Sessions for which another process was tried.",
        tally.retries,
    );
    let of_supervisor = tally.limits.each();
    let of_handshakers = tally.handshakes.limits.each();
    let limits = of_supervisor.iter().zip(of_handshakers);
    text.labelled(
        "baton_limits_total",
        "counter",
        "Times that accepting stopped because of a limit.",
        "limit",
        limits.map(|((name, one), (_, other))| (*name, one.saturating_add(other))),
    );
    text.counter(
        "baton_log_lines_lost_total",
        "Log lines of supervisor and handshaker that nobody took.",
        tally.log_lost.saturating_add(tally.handshakes.log_lost),
    );
    text.gauge(
        "baton_accepting",
        "Whether connections are accepted.",
        u64::from(server.accepting),
    );
    let resident = server
        .processes
        .iter()
        .map(|process| (&process.role[..], process.resident));
    text.labelled(
        "baton_process_resident_bytes",
        "gauge",
        "Resident memory of the server's own processes.",
        "process",
        resident,
    );
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn labelled<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.family(name, kind, help);
        for (which, value) in values {
            self.sample(name, &[(label, which)], value);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram, bounds: &Bounds) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut total = 0u64;
        let bounds = bounds.iter().map(|bound| bound.as_secs_f64().to_string());
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(histogram.buckets) {
            total = total.saturating_add(count);
            self.sample(&bucket, &[("le", &bound)], total);
        }
        let sum = Duration::from_micros(histogram.microseconds).as_secs_f64();
        let _ = writeln!(self.0, "{name}_sum {sum}");
        self.sample(&format!("{name}_count"), &[], total);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.0, "{before}{label}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::control::answer::Process;

    /// The page, and what is written, name the same families with the same types and labels.
    //= proves spec/control.md#metrics
    #[test]
    fn the_page_names_every_metric() {
        let server = Server {
            program: "1\"\\\n2".to_owned(),
            processes: vec![Process::default()],
            ..Server::default()
        };
        let text = write(Some(&server));
        assert!(text.contains("baton_build_info{version=\"1\\\"\\\\\\n2\"} 1\n"));
        let written = text.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            let sample = text
                .lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.strip_prefix(name));
            let label = sample
                .and_then(|rest| rest.strip_prefix('{'))
                .and_then(|rest| rest.split('=').next());
            let label = label.map(|label| format!("`{label}`")).unwrap_or_default();
            Some([format!("`{name}`"), kind.to_owned(), label])
        });
        let page = include_str!("../../../spec/control.md");
        let rows = page.lines().filter(|line| line.starts_with("| `baton_"));
        let named = rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            [cells[1], cells[2], cells[3]].map(str::to_owned)
        });
        let sorted = |rows: Vec<[String; 3]>| {
            let mut rows = rows;
            rows.sort();
            rows
        };
        assert_eq!(sorted(written.collect()), sorted(named.collect()));
        assert!(write(None).ends_with("\nbaton_up 0\n"));
        let tally = &server.tally;
        let reasons = tally.handshakes.refused.each().into_iter();
        let reasons = reasons.chain(tally.handshakes.closed.each());
        for reason in reasons.chain(tally.sessions.ended.each()) {
            assert!(page.contains(&format!("`{}`", reason.0)), "{}", reason.0);
        }
    }
}
