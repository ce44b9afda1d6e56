//! Whose the processes of a server are: as root, each is a user of its own, for good.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clients;
mod serving;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use clients::Clients;
use rustix::process::{Signal, geteuid};
use rustls::AlertDescription;
use serving::{Serving, Talking, children, run};

const NO_CAPABILITIES: &str = "0000000000000000";

/// Whether this test program is root; says so when it is not.
fn root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("skipped: not root");
    }
    root
}

/// A line of a process's status, its fields one space apart.
fn status(process: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let fields: Vec<&str> = line.unwrap()[1..].split_whitespace().collect();
    fields.join(" ")
}

/// The children of the server that are this user's.
fn of_user(serving: &Serving, uid: u32) -> Vec<u32> {
    let all = format!("{uid} {uid} {uid} {uid}");
    let children = children(serving.process());
    let own = children
        .into_iter()
        .filter(|child| status(*child, "Uid") == all);
    own.collect()
}

fn is_user(process: u32, uid: u32, capabilities: &str) {
    let all = format!("{uid} {uid} {uid} {uid}");
    assert_eq!(status(process, "Uid"), all);
    assert_eq!(status(process, "Gid"), all);
    assert_eq!(status(process, "Groups"), "");
    assert_eq!(status(process, "NoNewPrivs"), "1");
    assert_eq!(status(process, "CapPrm"), capabilities);
    assert_eq!(status(process, "CapEff"), capabilities);
    for set in ["CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(status(process, set), NO_CAPABILITIES, "{set}");
    }
    // Who is not dumpable has files in /proc that are root's.
    let folder = fs::metadata(format!("/proc/{process}/fd")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&folder), 0);
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core: Vec<&str> = core.unwrap().split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"]);
}

fn says(talking: &mut Talking, text: &str) {
    talking.say(text);
    assert_eq!(talking.hear(), text);
}

//= proves spec/processes.md#users
#[test]
fn each_process_is_a_user_of_its_own() {
    if !root() {
        return;
    }
    let serving = Serving::start(&["--hops", "1"]);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "one\n");
    says(&mut talking, "two\n");
    assert_eq!(status(serving.process(), "Uid"), "0 0 0 0");
    let [handshaker] = of_user(&serving, 65521)[..] else {
        panic!("no handshaker")
    };
    is_user(handshaker, 65521, NO_CAPABILITIES);
    let [zygote] = of_user(&serving, 65522)[..] else {
        panic!("no zygote")
    };
    is_user(zygote, 65522, "00000000000000c0");
    let sessions = serving.sessions();
    assert!(!sessions.is_empty());
    for session in sessions {
        is_user(session, 65523, NO_CAPABILITIES);
    }
    assert!(talking.finish().success());
}

//= proves spec/processes.md#users
#[test]
fn other_users_and_a_reload_by_root() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("baton.toml");
    let write = |uid: u32| {
        let text = format!(
            "handshaker-user = \"{uid}:{uid}\"\nzygote-user = \"65502:65502\"\nsession-user = \"65503:65503\"\n"
        );
        fs::write(&file, text).unwrap();
    };
    write(65501);
    let serving = Serving::start(&["--config", file.to_str().unwrap()]);
    let [handshaker] = of_user(&serving, 65501)[..] else {
        panic!("no handshaker")
    };
    is_user(handshaker, 65501, NO_CAPABILITIES);
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "one\n");
    is_user(serving.sessions()[0], 65503, NO_CAPABILITIES);
    // Only root can read the private key of the identity, once more.
    write(65504);
    serving.signal(Signal::HUP);
    serving.log.wait_for("configuration read");
    let [handshaker] = of_user(&serving, 65504)[..] else {
        panic!("no handshaker")
    };
    is_user(handshaker, 65504, NO_CAPABILITIES);
    let mut other = Talking::start(serving.connect(&["--message"]));
    says(&mut other, "two\n");
    says(&mut talking, "three\n");
    // A user twice is a mistake: the old terms go on.
    write(65502);
    serving.signal(Signal::HUP);
    serving.log.wait_for("must be three users");
    says(&mut other, "four\n");
    assert!(talking.finish().success() && other.finish().success());
}

/// What a command tells of itself.
const WHO: &str = "echo $(id -u) $(id -g) $(id -G) home=$HOME shell=$SHELL user=${USER-none} in=$(pwd) \
     $(grep CapEff /proc/self/status)";

//= proves spec/sessions.md#user
#[test]
fn a_command_is_its_sessions_user_and_not_who_started_the_server() {
    if !root() {
        return;
    }
    let serving = Serving::start_with(&["--exec", "sh", "-c", WHO], |command| {
        command
            .env("HOME", "/root")
            .env("USER", "root")
            .env("LOGNAME", "root");
    });
    let (output, errors, _) = run(serving.connect(&[]), b"");
    let expected = format!(
        "65523 65523 65523 home=/ shell=/bin/sh user=none in=/ CapEff: {NO_CAPABILITIES}\n"
    );
    assert_eq!(output, expected, "{errors}");
    // It cannot become root, nor anybody, nor signal those that made it.
    let others = children(serving.process());
    let script = format!(
        "for other in {} {} {}; do kill -0 $other 2>/dev/null && echo signalled $other; done; \
         perl -e '$> = 0; $< = 0; print \"root\\n\" if $> == 0; $> = 65522; print \"other\\n\" if $> == 65522'; echo done",
        serving.process(),
        others[0],
        others[1]
    );
    let serving = Serving::start(&["--exec", "sh", "-c", &script]);
    let (output, errors, _) = run(serving.connect(&[]), b"");
    assert_eq!(output, "done\n", "{errors}");
}

#[test]
fn root_is_a_session_only_where_the_configuration_says_so() {
    if !root() {
        return;
    }
    let serving = Serving::start(&["--session-user", "root", "--exec", "sh", "-c", WHO]);
    let (output, errors, _) = run(serving.connect(&[]), b"");
    assert!(output.starts_with("0 0 "), "{output} {errors}");
    assert!(
        output.ends_with(&format!("CapEff: {NO_CAPABILITIES}\n")),
        "{output}"
    );
    let serving = Serving::start(&["--session-user", "0:0"]);
    let (output, _, _) = run(serving.connect(&[]), b"echo\n");
    assert_eq!(output, "echo\n");
}

/// A server whose `/etc/passwd` and `/etc/group` are these; none when the machine has no mount
/// namespaces for us.
fn with_accounts(arguments: &[&str], folder: &Path) -> Option<Serving> {
    let home = folder.join("home");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&home, Some(2001), Some(2002)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let passwd = format!(
        "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:\nalice:x:2001:2002::{}:/bin/dash\n",
        home.display()
    );
    fs::write(folder.join("passwd"), passwd).unwrap();
    fs::write(
        folder.join("group"),
        "wheel:x:10:alice,root\nsound:x:29:alice\n",
    )
    .unwrap();
    let secrets = folder.join("passwords");
    fs::write(
        &secrets,
        "alice:sesame\nbob:sesame\nroot:sesame\ndaemon:sesame\n",
    )
    .unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let able = Command::new("unshare").args(["-m", "true"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        println!("skipped: no mount namespaces");
        return None;
    }
    let passwords = ["--password-file", secrets.to_str().unwrap()];
    let arguments = [&passwords[..], arguments].concat();
    Some(Serving::start_with(&arguments, |command| {
        let mut within = Command::new("unshare");
        let script = "mount --bind \"$0/passwd\" /etc/passwd && mount --bind \"$0/group\" /etc/group && exec \"$@\"";
        within.args(["-m", "sh", "-c", script]).arg(folder);
        within.arg(command.get_program()).args(command.get_args());
        within.stdin(std::process::Stdio::null());
        within.stdout(std::process::Stdio::piped());
        within.stderr(std::process::Stdio::piped());
        within.process_group(0);
        *command = within;
    }))
}

/// Logs in by password, and answers what the command says.
fn login(serving: &Serving, user: &str) -> (String, String) {
    let connect = serving.connect(&["--message", "--user", user, "--password-fd", "0"]);
    let (output, errors, _) = run(connect, b"sesame\n");
    (output, errors)
}

//= proves spec/processes.md#peer-user
//= proves spec/sessions.md#user
#[test]
fn a_session_is_its_peers() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--peer-user", "optional", "--exec", "sh", "-c", WHO];
    let Some(serving) = with_accounts(&arguments, folder.path()) else {
        return;
    };
    let home = folder.path().join("home").display().to_string();
    let (output, errors) = login(&serving, "alice");
    assert_eq!(
        output,
        format!(
            "2001 2002 2002 10 29 home={home} shell=/bin/dash user=alice in={home} CapEff: {NO_CAPABILITIES}\n"
        ),
        "{errors}"
    );
    for other in ["bob", "root", "daemon"] {
        let (output, errors) = login(&serving, other);
        assert!(
            output.starts_with("65523 65523 65523 home=/ "),
            "{output} {errors}"
        );
    }
}

//= proves spec/processes.md#peer-user
#[test]
fn a_peer_without_an_account_is_refused_where_one_is_required() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(serving) = with_accounts(&["--peer-user", "required"], folder.path()) else {
        return;
    };
    let connect = ["--message", "--user", "alice", "--password-fd", "0"];
    let mut alice = Talking::start(serving.connect(&connect));
    alice.say("sesame\n");
    says(&mut alice, "here\n");
    let [session] = serving.sessions()[..] else {
        panic!("no session")
    };
    assert_eq!(status(session, "Uid"), "2001 2001 2001 2001");
    assert_eq!(status(session, "Groups"), "10 29");
    for (nth, other) in ["bob", "root", "daemon"].iter().enumerate() {
        let (output, _) = login(&serving, other);
        assert_eq!(output, "", "{other}");
        serving
            .log
            .wait_for_nth(nth + 1, "refused: its user has no account here");
    }
    says(&mut alice, "still here\n");
    assert!(alice.finish().success());
}

/// It is told why, in the words of TLS.
//= proves spec/processes.md#no-name
#[test]
fn a_peer_without_a_name_is_told_so_where_one_is_required() {
    if !root() {
        return;
    }
    for (auth, alert) in [
        ("optional", AlertDescription::CertificateRequired),
        ("none", AlertDescription::AccessDenied),
    ] {
        let arguments = ["--peer-user", "required", "--client-auth", auth];
        let serving = Serving::start(&arguments);
        let clients = Clients::new(&serving.identity("ca.pem"));
        let mut client = clients.connect(serving.address).unwrap();
        let error = client.rest().unwrap_err();
        let refused = error.get_ref().and_then(|error| error.downcast_ref());
        assert_eq!(
            refused,
            Some(&rustls::Error::AlertReceived(alert)),
            "{error}"
        );
        serving.log.wait_for("the client proves no name");
    }
}

//= proves spec/processes.md#users
#[test]
fn who_may_become_nobody_says_so_and_serves() {
    if !root() {
        return;
    }
    // Where that user can execute it.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("baton");
    fs::copy(env!("CARGO_BIN_EXE_baton"), &program).unwrap();
    let state = Arc::new(tempfile::tempdir().unwrap());
    chown(state.path(), Some(65510), Some(65510)).unwrap();
    let start = |arguments: &[&str]| {
        Serving::try_start_in(&state, arguments, |command| {
            let mut other = Command::new(&program);
            other.args(command.get_args());
            other.uid(65510).gid(65510);
            other.stdin(std::process::Stdio::null());
            other.stdout(std::process::Stdio::piped());
            other.stderr(std::process::Stdio::piped());
            other.process_group(0);
            *command = other;
        })
    };
    let Ok(serving) = start(&[]) else {
        panic!("not started")
    };
    serving
        .log
        .wait_for("user 65510 may become nobody else: every process runs as 65510");
    let mut talking = Talking::start(serving.connect(&[]));
    says(&mut talking, "one\n");
    for process in children(serving.process())
        .iter()
        .chain(&serving.sessions())
    {
        assert_eq!(status(*process, "Uid"), "65510 65510 65510 65510");
        assert_eq!(status(*process, "NoNewPrivs"), "1");
    }
    assert!(talking.finish().success());
    drop(serving);
    for asked in [
        ["--session-user", "65503:65503"],
        ["--peer-user", "optional"],
    ] {
        let Err(log) = start(&asked) else {
            panic!("started with {asked:?}")
        };
        let log = log.all().concat();
        assert!(log.contains("may not become the users"), "{log}");
    }
}
