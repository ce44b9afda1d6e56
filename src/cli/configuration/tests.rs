use clap::Parser;

use super::super::arguments::{Arguments, Command};
use super::super::bounds::PeerUser;
use super::*;
use crate::server::limits::Over;

fn defaults() -> Serve {
    match Arguments::try_parse_from(["baton", "serve"])
        .unwrap()
        .command
    {
        Command::Serve(serve) => *serve,
        _ => panic!("not serve"),
    }
}

fn applied(text: &str, given: &[&str]) -> (Serve, Vec<Mistake>) {
    let mut options = defaults();
    let given = given.iter().map(|name| (*name).to_owned()).collect();
    let mistakes = apply(text, &mut options, &given);
    (options, mistakes)
}

/// Lines and beginnings of the mistakes of `text`.
fn mistakes(text: &str, expected: &[(usize, &str)]) {
    let (_, found) = applied(text, &[]);
    let told: Vec<_> = found.iter().map(|m| (m.line, &m.what[..])).collect();
    assert_eq!(found.len(), expected.len(), "{told:#?}");
    for ((line, what), (expected_line, expected)) in told.into_iter().zip(expected) {
        assert_eq!(line, *expected_line, "{what}");
        assert!(what.contains(expected), "{what:?} has no {expected:?}");
        assert!(what.contains("expected"), "{what}");
        assert!(!what.contains('\n'), "{what}");
    }
}

const ALL: &str = r#"
listen = "[::1]:1"
state = "s"
hops = 3
hop-every = 0x10
client-auth = "required"
client-ca = "ca"
cert = "c"
key = "k"
password-file = "p"
sessions = 7
control = "x"
handshaker-user = "a"
zygote-user = "1:2"
session-user = "b"
peer-user = "required"
handshakes = 8
connections = 9
over-limit = "refuse"
address-rate = 10
address-burst = 11
idle-timeout = 12
session-timeout = 13
session-memory = 14
session-files = 15
session-processes = 16
exec = ["sh", "-c", "true"]
http = false
log = "json"
"#;

/// The page, the keys, the options, and what is set are the same.
//= proves spec/configuration.md#keys
//= proves spec/configuration.md#file
#[test]
fn the_page_names_every_key_and_every_key_is_set() {
    let page = include_str!("../../../spec/configuration.md");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            line.trim_matches(['|', ' '])
                .split(" | ")
                .map(str::trim)
                .collect::<Vec<_>>()
        });
    let rows: Vec<Vec<&str>> = rows.collect();
    assert_eq!(rows.len(), KEYS.len());
    let defaults = defaults();
    for (row, (name, kind)) in rows.iter().zip(KEYS) {
        assert_eq!(row[0], format!("`{name}`"));
        assert_eq!(row[1], kind.name(), "{name}");
        assert_eq!(row[3], kind.bounds(), "{name}");
        assert!(ALL.contains(&format!("\n{name} = ")), "{name}");
        let default = match *name {
            "listen" => format!("`\"{}\"`", defaults.listen),
            "hops" => format!("`{}`", defaults.hops),
            "hop-every" => format!("`{}`", defaults.hop_every),
            "sessions" => format!("`{}`", defaults.bounds.sessions),
            "handshakes" => format!("`{}`", defaults.bounds.handshakes),
            "address-rate" => format!("`{}`", defaults.bounds.address_rate),
            "address-burst" => format!("`{}`", defaults.bounds.address_burst),
            "session-timeout" | "session-memory" | "session-files" | "session-processes" => {
                "`0`".to_owned()
            }
            "http" => format!("`{}`", defaults.http),
            _ => continue,
        };
        assert_eq!(row[2], default, "{name}");
    }
    let command = <Arguments as clap::CommandFactory>::command();
    let serve = command.find_subcommand("serve").unwrap();
    let options = serve.get_arguments().filter_map(clap::Arg::get_long);
    let options: BTreeSet<&str> = options
        .filter(|name| !["config", "check", "takeover"].contains(name))
        .collect();
    let keys: BTreeSet<&str> = KEYS.iter().map(|(name, _)| *name).collect();
    assert_eq!(options, keys);

    let (set, found) = applied(ALL, &[]);
    assert_eq!(found, []);
    assert_eq!(set.listen, "[::1]:1".parse().unwrap());
    assert_eq!((set.hops, set.hop_every, set.bounds.sessions), (3, 16, 7));
    assert_eq!(set.client_auth, ClientAuth::Required);
    let users = [
        &set.bounds.handshaker_user,
        &set.bounds.zygote_user,
        &set.bounds.session_user,
    ];
    let users = users.map(|user| user.as_ref().unwrap().to_string());
    assert_eq!(users, ["a", "1:2", "b"]);
    assert_eq!(set.bounds.peer_user, PeerUser::Required);
    let (limits, allowance) = (set.bounds.limits(true), set.bounds.allowance());
    assert_eq!((limits.handshakes, limits.sessions), (2, 7));
    assert_eq!(limits.over, Over::Refuse);
    let rate = limits.rate.unwrap();
    assert_eq!((rate.every_second, rate.burst), (10, 11));
    let patience = set.bounds.patience(true);
    let times = [patience.idle, patience.total].map(|time| time.unwrap().as_secs());
    assert_eq!(times, [12, 13]);
    assert_eq!(
        [allowance.memory, allowance.files, allowance.processes],
        [14 << 20, 15, 16].map(Some)
    );
    assert_eq!(set.log, Some(LogForm::Json));
    assert_eq!(set.exec.unwrap(), ["sh", "-c", "true"]);
    let paths = [
        set.state,
        set.client_ca,
        set.cert,
        set.key,
        set.password_file,
        set.control,
    ];
    assert_eq!(
        paths.map(Option::unwrap),
        ["s", "ca", "c", "k", "p", "x"].map(PathBuf::from)
    );
    assert!(applied("http = true", &[]).0.http);
}

//= proves spec/configuration.md#file
#[test]
fn the_command_line_counts() {
    let (set, found) = applied("hops = 3\nsessions = 5", &["hops"]);
    assert_eq!((set.hops, set.bounds.sessions), (0, 5));
    assert_eq!(found, []);
    // It must be right all the same.
    assert_eq!(applied("hops = -3", &["hops"]).1.len(), 1);
}

//= proves spec/configuration.md#mistakes
#[test]
fn every_mistake_is_named_with_its_line() {
    mistakes(
        "hosp = 3\nlisten = 4433\n\nsessions = 0\nhops = 100001\nhttp = \"yes\"\nexec = []\n\
         client-auth = \"maybe\"\nhop-every = 1.5\nstate = \"\"\nsomething = 1\n[table]\nx = 1\n",
        &[
            (1, "unknown key hosp; expected hops?"),
            (
                2,
                "listen: the integer 4433; expected string (an IP address and a port)",
            ),
            (
                4,
                "sessions: the integer 0; expected integer (1 to 4294967295)",
            ),
            (
                5,
                "hops: the integer 100001; expected integer (0 to 100000)",
            ),
            (6, "http: the string \"yes\"; expected boolean"),
            (7, "exec: an array of 0; expected array of strings"),
            (
                8,
                "expected string (\"none\", \"optional\" or \"required\")",
            ),
            (9, "hop-every: a float"),
            (10, "state: the string \"\""),
            (11, "unknown key something; expected one of listen, "),
            (12, "unknown key table"),
        ],
    );
    mistakes(
        "hops = 1\nhops = 2\n",
        &[(2, "duplicate key hops; expected each key once")],
    );
    mistakes(
        "hops = 1\nlisten =\nsessions = 0\n",
        &[(2, "expected"), (3, "sessions: ")],
    );
    mistakes("exec = [\"a\", 1]", &[(1, "exec: ")]);
    mistakes("cert = \"a\\u0000b\"", &[(1, "cert: ")]);
    mistakes("hops = 99999999999999999999999999", &[(1, "hops: ")]);
    mistakes(
        "log = \"\\n\\u001b[2J\"",
        &[(1, "log: the string \"\\n\\u{1b}[2J\"")],
    );
    let long = format!("log = \"{}\"", "x".repeat(1000));
    let (_, found) = applied(&long, &[]);
    assert!(found[0].what.len() < 200);
}

//= proves spec/configuration.md#contradictions
#[test]
fn what_does_not_go_together_is_named() {
    mistakes(
        "\nhttp = true\nexec = [\"a\"]",
        &[(2, "http: true contradicts exec")],
    );
    mistakes("cert = \"c\"", &[(1, "cert: is there without key")]);
    mistakes("\n\nkey = \"c\"", &[(3, "key: is there without cert")]);
    mistakes(
        "cert = \"c\"\nkey = \"k\"\nclient-auth = \"optional\"",
        &[(3, "client-auth: asks")],
    );
}

//= proves spec/configuration.md#contradictions
#[test]
fn a_contradiction_is_named_where_it_stands_and_of_good_keys_only() {
    mistakes("cert = \"c\"\nkey = 5", &[(2, "key: the integer 5")]);
    let mut options = defaults();
    options.http = true;
    let given = BTreeSet::from(["http".to_owned()]);
    let found = apply("\nexec = [\"true\"]", &mut options, &given);
    assert_eq!((found.len(), found[0].line), (1, 2), "{found:?}");
}

/// Any bytes: a bounded number of mistakes, in bounded time.
#[test]
fn hostile_files_give_mistakes() {
    let deep = format!("exec = {}", "[".repeat(60_000));
    let tables = "[a]\n".repeat(16_000);
    for text in [
        &deep[..],
        &tables,
        "\u{0}",
        "= =\n= =",
        "a.b.c = 1",
        "[[x]]",
        "'''",
    ] {
        assert!(!applied(text, &[]).1.is_empty());
    }
}
