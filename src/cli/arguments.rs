//! The words of the command line. Their texts are what `-h` and `--help` print.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::bounds::Bounds;
use crate::exit::{Family, Point, SessionIdentifier};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed (standard error says why), 2 wrong usage, 130 interrupted.";

/// Security contexts that move, alive, from one process to another.
#[derive(Debug, Parser)]
#[command(name = "baton", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve TLS 1.3 clients, each in a process of its own that imports its live connection.
    Serve(Box<Serve>),
    /// Connect standard input and output to a TLS 1.3 or Baton server.
    Connect(Box<Connect>),
    /// List the sessions of a running server, or end one of them.
    Sessions(Sessions),
    /// Print what a running server counts, as Prometheus text.
    Metrics(Metrics),
    /// Show what a running server does, in this terminal.
    Top(Top),
    /// Print what an interprocess token shows to anyone: version, key id, nonce and size.
    Token(Token),
    /// Change a password file, or look whether a password is the one in it.
    Passwd(Passwd),
    /// Ask an exit worker, or find out whether a program is one.
    #[command(subcommand)]
    Exit(Exit),
}

/// Whether clients prove who they are with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They are asked and may decline.
    Optional,
    /// They must.
    Required,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `baton serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = SERVE_LONG)]
pub struct Serve {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4433")]
    pub listen: SocketAddr,
    /// The folder of the development identity [default: ~/.local/state/baton].
    ///
    /// With XDG_STATE_HOME in the environment, the default is $XDG_STATE_HOME/baton.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Serve a page about the connection, instead of echoing.
    ///
    /// GET / tells session and processes; POST or PUT /sum answers the SHA-256 of what is sent.
    #[arg(long)]
    pub http: bool,
    /// Move each live connection through N further processes.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub hops: u32,
    /// Bytes of a busy connection between two hops [default: 1 MiB].
    ///
    /// A quiet connection moves sooner, once for each exchange; what hops are left when the client
    /// has ended, or when the page is asked for, are made then.
    #[arg(long, value_name = "BYTES", hide_default_value = true, default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub hop_every: u64,
    /// Ask clients for a certificate: none, optional, required [default: none].
    #[arg(long, value_name = "WHEN", value_enum, hide_possible_values = true, hide_default_value = true, default_value_t = ClientAuth::None)]
    pub client_auth: ClientAuth,
    /// Certificates of the authorities to trust for clients, PEM.
    ///
    /// The default is the development authority.
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// The server's certificate chain, PEM, instead of the development identity.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The server's private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Let in by password (message framing), as baton passwd writes them.
    ///
    /// A line for each user, NAME: and a hash of argon2id. The file must have mode 0600. Who shows a good certificate needs no password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Whose the processes are, and how much there may be.
    #[command(flatten)]
    pub bounds: Bounds,
    /// Where operators ask this server, or none [default: control in --state].
    ///
    /// A Unix socket for this user and root: baton sessions, metrics and top use it. Its folder must
    /// have mode 0700, and is made if need be.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// How the log is written: human, json [default: human on a terminal].
    #[arg(long, value_name = "FORM", value_enum, hide_possible_values = true)]
    pub log: Option<LogForm>,
    /// Take options from a TOML file; those given here count before it.
    ///
    /// A key is an option's name without hyphens in front. SIGHUP reads the file once more: it is
    /// taken over as a whole, or, with a mistake, not at all.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take over from the running server, whose sessions go on.
    ///
    /// It is the one that answers at the control socket: its listener, sessions and contexts go over, and
    /// its peers do not notice. SIGUSR2 makes a running server start its program anew in the same way.
    #[arg(long, conflicts_with = "check")]
    pub takeover: bool,
    /// Name every mistake of the configuration, and do nothing else.
    #[arg(long, requires = "config")]
    pub check: bool,
    /// Run a command on the plaintext; it takes all that follows as its arguments.
    #[arg(
        long,
        value_names = ["CMD", "ARGS"],
        num_args = 1..,
        allow_hyphen_values = true,
        conflicts_with = "http"
    )]
    pub exec: Option<Vec<OsString>>,
}

const SERVE_LONG: &str = "\
For each connection this process makes the TLS 1.3 handshake, exports the context and forks; the
child imports it and runs the session. Both framings come to one port: TLS records (openssl, curl,
browsers), and Baton's message framing (baton connect --message).

The command of --exec has the plaintext on descriptors 0 and 1, and finds in its environment PROTO,
TCPREMOTEIP, TCPREMOTEPORT, TCPLOCALIP, TCPLOCALPORT, SSL_PROTOCOL, SSL_CIPHER, BATON_SESSION_ID, of
a client's certificate SSL_CLIENT_S_DN and what else mod_ssl tells, and REMOTE_USER when the client
proved a name.

Started as root, each process runs as a user of its own that nobody else is, and gives up all rights
it does not need; nothing is root but the process that starts the others.

SIGTERM or SIGINT: no new connections, sessions get 10 seconds to end; a second one ends them now.

Exit codes: 0 done, 1 failed (standard error says why), 2 wrong usage.";

/// `baton connect`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Connect {
    /// The server.
    #[arg(value_name = "HOST:PORT")]
    pub server: String,
    /// Speak Baton's message framing instead of TLS records.
    #[arg(long)]
    pub message: bool,
    /// The name that must stand in the server's certificate [default: HOST].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Certificates of the authorities to trust, PEM [default: in --state].
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The folder of the development identity [default: ~/.local/state/baton].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The client's certificate chain, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The client's private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Log in as NAME with a password, asked for on the terminal.
    #[arg(long, value_name = "NAME", requires = "message")]
    pub user: Option<String>,
    /// Read the password from descriptor N, up to its first line feed or its end.
    #[arg(long, value_name = "N", requires = "user")]
    pub password_fd: Option<u32>,
}

/// Which server is asked.
#[derive(Clone, Debug, Args)]
pub struct Asked {
    /// The server's control socket [default: control in --state].
    #[arg(long, value_name = "PATH", global = true)]
    pub control: Option<PathBuf>,
    /// The server's state folder [default: ~/.local/state/baton].
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
}

/// `baton sessions`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = OPERATOR_LONG)]
pub struct Sessions {
    /// The server.
    #[command(flatten)]
    pub asked: Asked,
    /// Print JSON: an array with an object for each session.
    #[arg(long)]
    pub json: bool,
    /// What to do with one of them.
    #[command(subcommand)]
    pub action: Option<SessionsAction>,
}

/// What can be done with a session.
#[derive(Debug, Subcommand)]
pub enum SessionsAction {
    /// End a session: its context is dead at once, and its processes are killed.
    Revoke {
        /// The session, 32 hexadecimal digits.
        #[arg(value_name = "SESSION")]
        session: SessionIdentifier,
    },
}

/// `baton metrics`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = OPERATOR_LONG)]
pub struct Metrics {
    /// The server.
    #[command(flatten)]
    pub asked: Asked,
    /// Answer GET /metrics over HTTP at this address, until it is stopped; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
}

/// `baton top`.
#[derive(Debug, Args)]
#[command(after_help = TOP_HELP, after_long_help = TOP_HELP)]
pub struct Top {
    /// The server.
    #[command(flatten)]
    pub asked: Asked,
    /// Print one frame as plain text, and end.
    #[arg(long)]
    pub once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub every: u32,
}

const OPERATOR_LONG: &str = "\
The server is asked at its control socket, by its own user or root. A process with no_new_privs set, as
every command of a session has it, is refused.

Exit codes: 0 done, 1 failed (standard error says why), 2 wrong usage.";

const TOP_HELP: &str = "\
Keys: up, down, page up, page down, home, end move in the list; left, right choose the column to sort by; r
reverses; q, Esc and Ctrl-C end.

Exit codes: 0 done, 1 failed (standard error says why), 2 wrong usage.";

/// `baton token`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Token {
    /// A file that holds one token.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `baton passwd`.
#[derive(Debug, Args)]
#[command(after_help = PASSWD_HELP)]
pub struct Passwd {
    /// The file; it is made where there is none.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The user whose password is set.
    #[arg(value_name = "USER", required_unless_present = "check")]
    pub user: Option<String>,
    /// Say whether a password is the user's; without a user, whether the file is good.
    #[arg(long)]
    pub check: bool,
    /// Remove the user.
    #[arg(long, requires = "user", conflicts_with = "check")]
    pub delete: bool,
}

const PASSWD_HELP: &str = "\
The password is asked for on the terminal, or is the first line of standard input. The file holds a hash of
argon2id for each user, has mode 0600, and is replaced as a whole: serve --password-file reads it at start
and with SIGHUP.

Exit codes: 0 done, 1 failed (standard error says why), 2 wrong usage.";

/// `baton exit`.
#[derive(Debug, Subcommand)]
pub enum Exit {
    /// Ask an exit worker one question, and print its answer as a line of JSON.
    #[command(after_help = EXIT_WORKERS)]
    Call(ExitCall),
    /// Tell whether a program does what spec/exits.md says of workers, and name each fault.
    #[command(after_help = EXIT_WORKERS)]
    Check(ExitCheck),
    /// Be an exit worker that comes with the program: a server starts it with these words.
    #[command(after_help = BUILT_IN)]
    Worker(ExitWorker),
}

const EXIT_WORKERS: &str = "\
The program is started as a server starts it: in the folder /, with an empty environment, so its
arguments name files by absolute paths. Its standard error goes to this one.

Exit codes: 0 done, 1 failed (standard error says why), 2 wrong usage.";

/// `baton exit call`.
#[derive(Debug, Args)]
pub struct ExitCall {
    /// Where the question is asked: session-init, check-cert-list, ...
    #[arg(value_name = "POINT", value_parser = point)]
    pub point: Point,
    /// The point's input, a JSON object; - is standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The session's identifier: 32 hexadecimal digits.
    #[arg(
        long,
        value_name = "SESSION",
        default_value = "00000000000000000000000000000001"
    )]
    pub session: SessionIdentifier,
    /// How long the answer may take, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub deadline: u64,
    /// The worker's program and its arguments.
    #[arg(value_names = ["PROGRAM", "ARGS"], num_args = 1.., required = true, last = true)]
    pub program: Vec<OsString>,
}

/// `baton exit check`.
#[derive(Debug, Args)]
pub struct ExitCheck {
    /// How long an answer may take, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub deadline: u64,
    /// The worker's program and its arguments.
    #[arg(value_names = ["PROGRAM", "ARGS"], num_args = 1.., required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub program: Vec<OsString>,
}

const BUILT_IN: &str = "\
certificates answers check-cert-list: a path to trusted authorities, templates of subjects, revocation.

Exit codes: 0 done, 1 failed (standard error says why), 2 wrong usage.";

/// The exit workers that come with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BuiltIn {
    /// Whether a peer's certificates are good.
    Certificates,
}

/// `baton exit worker`.
#[derive(Debug, Args)]
pub struct ExitWorker {
    /// Which one: certificates.
    #[arg(value_name = "NAME", value_enum, hide_possible_values = true)]
    pub name: BuiltIn,
    /// What it is told: a TOML file, by an absolute path.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Name a mistake of the configuration, and do nothing else.
    #[arg(long)]
    pub check: bool,
}

fn point(name: &str) -> Result<Point, String> {
    let point = Family::ALL
        .iter()
        .find_map(|family| Point::named(*family, name));
    point.ok_or_else(|| format!("the points are {}", Point::ALL.map(Point::name).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_words_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn everything_behind_exec_is_the_command() {
        let line = "baton serve --hops 3 --exec sh -c true --hops 4 --http";
        let Command::Serve(serve) = parse(line).unwrap().command else {
            panic!("not serve")
        };
        assert_eq!(serve.hops, 3);
        assert!(!serve.http);
        assert_eq!(
            serve.exec.unwrap(),
            ["sh", "-c", "true", "--hops", "4", "--http"]
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in [
            "baton",
            "baton serve --http --exec true",
            "baton serve --exec",
            "baton serve --cert a.pem",
            "baton serve --hops 100001",
            "baton serve --hop-every 0",
            "baton serve --listen localhost",
            "baton connect a:1 --key k.pem",
            "baton connect a:1 --user u",
            "baton connect a:1 --message --password-fd 3",
            "baton sessions revoke",
            "baton sessions revoke abc",
            "baton metrics --listen 9000",
            "baton top --every 0",
            "baton token",
            "baton token a b",
            "baton passwd",
            "baton passwd file",
            "baton passwd file --delete",
            "baton passwd file user --check --delete",
            "baton exit worker certificates",
            "baton exit worker none --config a.toml",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
