//! Establishment with programs that know nothing of Baton: openssl and curl, both ways.
//!
//! A program that is not there is said and passed over, unless BATON_TEST_NO_SKIP=1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod parties;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use baton::context::{Context, Facts};
use baton::establish::{
    Acceptor, AcceptorConfig, ClientCertificates, Failed, Finished, Initiator, InitiatorConfig,
    Step,
};
use baton::ledger::Domain;
use baton::name::Name;
use baton::record::Record;
use baton::status::Minor;
use parties::*;

/// Longer than anything here takes: a test that waits for ever shall say where.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, or none after saying so.
fn program(name: &str) -> Option<Command> {
    let found = Command::new(name)
        .arg(if name == "openssl" {
            "version"
        } else {
            "--version"
        })
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return Some(Command::new(name));
    }
    assert!(
        std::env::var_os("BATON_TEST_NO_SKIP").is_none_or(|set| set != "1"),
        "{name} is not installed"
    );
    // Not by println or eprintln, which the test harness would keep to itself.
    let line = format!("skipped: {name} is not installed\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// Files that the programs read, gone with the test.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Accepts one connection after the other and hands each finished handshake on.
fn serve<T: Send + 'static>(
    config: Arc<AcceptorConfig>,
    connections: usize,
    mut each: impl FnMut(Result<Finished<Record>, Failed>, TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<Vec<T>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let serve_one = |_| {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            each(accept(config.clone(), &mut socket), socket)
        };
        (0..connections).map(serve_one).collect()
    });
    (address, thread)
}

fn accept(config: Arc<AcceptorConfig>, socket: &mut TcpStream) -> Result<Finished<Record>, Failed> {
    let mut acceptor = Acceptor::<Record>::new(config);
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = socket.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the peer closed");
        match acceptor.step(&buffer[..length]) {
            Ok(Step::Continue { next, output }) => {
                acceptor = next;
                socket.write_all(&output).unwrap();
            }
            Ok(Step::Done { finished, output }) => {
                socket.write_all(&output).unwrap();
                return Ok(finished);
            }
            Err(failed) => {
                socket.write_all(&failed.output).unwrap();
                return Err(failed);
            }
        }
    }
}

fn activate(finished: Finished<Record>) -> Context<Record> {
    finished.activate(&Domain::inherited(4).unwrap()).unwrap()
}

/// Answers one line in capitals and closes.
fn shout(finished: Result<Finished<Record>, Failed>, socket: TcpStream) -> Result<Line, Failed> {
    let finished = finished?;
    let facts = (finished.facts().resumed, names(finished.facts()));
    let mut reader = BufReader::new(activate(finished).over(socket));
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let stream = reader.get_mut();
    stream.write_all(line.to_uppercase().as_bytes()).unwrap();
    stream.flush().unwrap();
    stream.close_notify().unwrap();
    Ok(Line {
        resumed: facts.0,
        initiator: facts.1,
    })
}

struct Line {
    resumed: bool,
    initiator: Option<String>,
}

fn names(facts: &Facts) -> Option<String> {
    facts.initiator_name.as_ref().map(ToString::to_string)
}

/// `openssl s_client` with a line to say; it goes when the server closes.
fn s_client(address: SocketAddr, arguments: &[&str], line: &str) -> Output {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-ign_eof", "-servername", HOST, "-connect"])
        .arg(address.to_string())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have been refused before it reads.
    let _ = child.stdin.take().unwrap().write_all(line.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

//= proves spec/mechanism.md#tls
//= proves spec/mechanism.md#behind
#[test]
fn openssl_s_client_talks_to_us_in_every_suite_and_group() {
    if program("openssl").is_none() {
        return;
    }
    let authority = Authority::new("authority");
    let files = Files::new();
    let ca = files.put("ca.pem", &authority.pem);
    let suites = [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ];
    // With the last, its first key share is in a group we do not have: a HelloRetryRequest.
    let groups = ["X25519", "P-256", "P-384:P-256"];
    let (acceptor, _) = build(configs(&authority));
    let (address, server) = serve(acceptor, suites.len() * groups.len(), shout);
    for suite in suites {
        for group in groups {
            let arguments = [
                "-ciphersuites",
                suite,
                "-groups",
                group,
                "-verify_return_error",
                "-CAfile",
                ca.to_str().unwrap(),
            ];
            let output = s_client(address, &arguments, "hello\n");
            let text = stdout(&output);
            assert!(text.contains("HELLO"), "{text}");
            assert!(text.contains(suite), "{text}");
            assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        }
    }
    for line in server.join().unwrap() {
        let line = line.unwrap();
        assert!(!line.resumed && line.initiator.is_none());
    }
}

//= proves spec/mechanism.md#client-certificate
//= proves spec/mechanism.md#refusal
#[test]
fn openssl_s_client_proves_who_it_is() {
    if program("openssl").is_none() {
        return;
    }
    let authority = Authority::new("authority");
    let files = Files::new();
    let put = |name: &str, identity: &Identity| {
        let chain = files.put(&format!("{name}.pem"), &identity.chain);
        let key = files.put(&format!("{name}.key"), &identity.key);
        [chain, key].map(|path| path.to_str().unwrap().to_owned())
    };
    let ada = put("ada", &authority.client("ada"));
    let old = put("old", &authority.certify("ada", &[], expired));
    let stranger = put("stranger", &Authority::new("stranger").client("ada"));
    let (acceptor, initiator) = configs(&authority);
    let clients = ClientCertificates::Required(authority.anchors());
    let (acceptor, _) = build((acceptor.client_certificates(clients), initiator));
    let (address, server) = serve(acceptor, 4, shout);

    let with = |identity: &[String; 2]| {
        let [chain, key] = identity;
        s_client(address, &["-cert", chain, "-key", key], "hello\n")
    };
    assert!(stdout(&with(&ada)).contains("HELLO"));
    let told = |output: &Output, alert: &str| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(alert), "{text}");
        assert!(!stdout(output).contains("HELLO"));
    };
    told(&with(&old), "certificate expired");
    told(&with(&stranger), "unknown ca");
    told(&s_client(address, &[], "hello\n"), "certificate required");

    let served = server.join().unwrap();
    let minors: Vec<_> = served
        .iter()
        .map(|served| served.as_ref().err().map(|failed| failed.status.minor()))
        .collect();
    assert_eq!(
        minors,
        [
            None,
            Some(Minor::CertificateRefused),
            Some(Minor::CertificateRefused),
            Some(Minor::CertificateMissing),
        ]
    );
    let first = served[0].as_ref().unwrap();
    assert_eq!(first.initiator.as_deref(), Some("CN=ada"));
}

//= proves spec/mechanism.md#resumption
#[test]
fn openssl_s_client_resumes_a_session_where_that_is_on() {
    if program("openssl").is_none() {
        return;
    }
    let authority = Authority::new("authority");
    let files = Files::new();
    let session = files.0.path().join("session.pem");
    let session = session.to_str().unwrap();
    for on in [true, false] {
        let (acceptor, initiator) = configs(&authority);
        let acceptor = match on {
            true => acceptor.resumption(Duration::from_secs(3600)),
            false => acceptor,
        };
        let (acceptor, _) = build((acceptor, initiator));
        let (address, server) = serve(acceptor, 2, shout);
        let first = stdout(&s_client(address, &["-sess_out", session], "first\n"));
        assert!(first.contains("FIRST") && first.contains("New, TLSv1.3"));
        // Where it is off there may be no session to offer: the last round's is, and is no good.
        let second = stdout(&s_client(address, &["-sess_in", session], "second\n"));
        assert!(second.contains("SECOND"), "{second}");
        assert_eq!(second.contains("Reused, TLSv1.3"), on, "{second}");
        let served: Vec<_> = server.join().unwrap();
        assert_eq!(served[1].as_ref().unwrap().resumed, on);
    }
}

/// Runs openssl; what it wrote.
fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    String::from_utf8(output.stdout).unwrap()
}

//= proves spec/mechanism.md#end-point
#[test]
fn keys_and_certificates_that_openssl_made_are_credentials() {
    if program("openssl").is_none() {
        return;
    }
    let files = Files::new();
    let [key, chain, der] = ["key.pem", "chain.pem", "chain.der"].map(|name| {
        let path = files.0.path().join(name);
        path.to_str().unwrap().to_owned()
    });
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sha384"];
    // What makes the key, how the certificate is signed, and the hash of its end point.
    let kinds: [(&[&str], &[&str], Option<&str>); 6] = [
        (
            &["genrsa", "-traditional", "2048"],
            &["-sha256"],
            Some("sha256"),
        ),
        (&["genrsa", "2048"], &["-sha512"], Some("sha512")),
        (&["genrsa", "2048"], &pss, Some("sha384")),
        (
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
            &["-sha256"],
            Some("sha256"),
        ),
        (
            &["ecparam", "-name", "secp384r1", "-genkey", "-noout"],
            &["-sha384"],
            Some("sha384"),
        ),
        (&["genpkey", "-algorithm", "ed25519"], &[], None),
    ];
    for (make, sign, hash) in kinds {
        std::fs::write(&key, openssl(make)).unwrap();
        let name = format!("subjectAltName=DNS:{HOST}");
        let request = [
            "req", "-x509", "-key", &key, "-subj", "/CN=x", "-days", "2", "-addext", &name,
        ];
        std::fs::write(&chain, openssl(&[&request[..], sign].concat())).unwrap();
        let credential =
            baton::cred::AcceptorCredential::from_pem_files(chain.as_ref(), key.as_ref()).unwrap();
        let acceptor = AcceptorConfig::builder(credential).build().unwrap();
        let (address, server) = serve(Arc::new(acceptor), 1, |finished, socket| {
            let end_point = finished.as_ref().unwrap().facts().end_point.clone();
            shout(finished, socket).unwrap();
            end_point
        });
        let output = s_client(address, &["-CAfile", &chain], "hello\n");
        assert!(
            stdout(&output).contains("Verify return code: 0 (ok)"),
            "{make:?}"
        );
        let end_point = server.join().unwrap().remove(0);
        let expected = hash.map(|hash| {
            openssl(&["x509", "-in", &chain, "-outform", "DER", "-out", &der]);
            let line = openssl(&["dgst", &format!("-{hash}"), "-hex", &der]);
            line.rsplit(' ').next().unwrap().trim().to_owned()
        });
        let hex = |bytes: Vec<u8>| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(end_point.map(hex), expected, "{make:?}");
    }
}

#[test]
fn older_versions_of_tls_are_refused() {
    if program("openssl").is_none() {
        return;
    }
    let authority = Authority::new("authority");
    let (acceptor, _) = build(configs(&authority));
    let (address, server) = serve(acceptor, 1, shout);
    let output = s_client(address, &["-tls1_2"], "hello\n");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("protocol version"), "{text}");
    let served = server.join().unwrap();
    let failed = served[0].as_ref().err().unwrap();
    assert_eq!(failed.status.minor(), Minor::HandshakeFailed);
}

/// Reads a request with its body, and answers how long that was.
fn answer_http(finished: Result<Finished<Record>, Failed>, socket: TcpStream) -> Option<Vec<u8>> {
    let finished = finished.unwrap();
    let protocol = finished.facts().application_protocol.clone();
    let mut reader = BufReader::new(activate(finished).over(socket));
    let (mut line, mut body) = (String::new(), 0);
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            body = length.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut bytes = vec![0; body];
    reader.read_exact(&mut bytes).unwrap();
    let text = format!("{} bytes, the last {:?}", body, bytes.last());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
    let stream = reader.get_mut();
    stream.write_all((head + &text).as_bytes()).unwrap();
    stream.flush().unwrap();
    stream.close_notify().unwrap();
    protocol
}

//= proves spec/mechanism.md#behind
#[test]
fn curl_uploads_and_reads_the_answer() {
    let Some(mut curl) = program("curl") else {
        return;
    };
    let authority = Authority::new("authority");
    let files = Files::new();
    let ca = files.put("ca.pem", &authority.pem);
    let upload = files.put("upload", &"x".repeat(300_000));
    let (acceptor, initiator) = configs(&authority);
    let (acceptor, _) = build((acceptor.application_protocols(&[b"http/1.1"]), initiator));
    let (address, server) = serve(acceptor, 1, answer_http);
    let output = curl
        .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
        .arg(ca)
        .args(["--resolve", &format!("{HOST}:{}:127.0.0.1", address.port())])
        .args(["--header", "Expect:", "--data-binary"])
        .arg(format!("@{}", upload.display()))
        .arg(format!("https://{HOST}:{}/", address.port()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        stdout(&output),
        "300000 bytes, the last Some(120)",
        "{text}"
    );
    assert_eq!(server.join().unwrap(), [Some(b"http/1.1".to_vec())]);
}

/// `openssl s_server` that sends each line back reversed, and where it listens.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-tls1_3"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ACCEPT ")?.parse().ok())
            .expect("s_server says where it listens");
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects as initiator.
fn connect(
    config: &Arc<InitiatorConfig>,
    address: SocketAddr,
) -> Result<(Finished<Record>, TcpStream), Failed> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let target = Name::host_based_service(&format!("host@{HOST}")).unwrap();
    let mut initiator = Initiator::<Record>::new(config.clone(), target).unwrap();
    let mut buffer = [0; 16 * 1024];
    let mut length = 0;
    loop {
        match initiator.step(&buffer[..length]) {
            Ok(Step::Continue { next, output }) => {
                initiator = next;
                socket.write_all(&output).unwrap();
                length = socket.read(&mut buffer).unwrap();
                assert_ne!(length, 0, "the peer closed");
            }
            Ok(Step::Done { finished, output }) => {
                socket.write_all(&output).unwrap();
                return Ok((finished, socket));
            }
            Err(failed) => {
                let _ = socket.write_all(&failed.output);
                return Err(failed);
            }
        }
    }
}

//= proves spec/mechanism.md#server-certificate
//= proves spec/mechanism.md#resumption
#[test]
fn we_talk_to_openssl_s_server_and_resume() {
    if program("openssl").is_none() {
        return;
    }
    let authority = Authority::new("authority");
    let files = Files::new();
    let identity = authority.server();
    let [chain, key] = [
        files.put("server.pem", &identity.chain),
        files.put("server.key", &identity.key),
    ]
    .map(|path| path.to_str().unwrap().to_owned());
    let server = Server::start(&["-cert", &chain, "-key", &key]);
    for resumption in [true, false] {
        let (acceptor, initiator) = configs(&authority);
        let (_, initiator) = build((acceptor, initiator.resumption(resumption)));
        for round in 0..3 {
            let (finished, socket) = connect(&initiator, server.address).unwrap();
            assert_eq!(finished.facts().resumed, resumption && round > 0);
            let mut stream = BufReader::new(activate(finished).over(socket));
            stream.get_mut().write_all(b"hello\n").unwrap();
            stream.get_mut().flush().unwrap();
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            assert_eq!(line, "olleh\n");
            stream.get_mut().close_notify().unwrap();
        }
    }

    let (_, stranger) = build(configs(&Authority::new("stranger")));
    let failed = connect(&stranger, server.address).err().unwrap();
    assert_eq!(failed.status.minor(), Minor::CertificateRefused);
}

//= proves spec/mechanism.md#server-certificate
#[test]
fn we_refuse_an_s_server_with_another_name_or_an_old_certificate() {
    if program("openssl").is_none() {
        return;
    }
    let authority = Authority::new("authority");
    let files = Files::new();
    let (_, initiator) = build(configs(&authority));
    let other = authority.certify("other", &["other.example"], |_| {});
    let old = authority.certify("old", &[HOST], expired);
    for (name, identity, minor) in [
        ("other", other, Minor::NameMismatch),
        ("old", old, Minor::CertificateRefused),
    ] {
        let chain = files.put(name, &(identity.chain + &identity.key));
        let server = Server::start(&["-cert", chain.to_str().unwrap()]);
        let failed = connect(&initiator, server.address).err().unwrap();
        assert_eq!(failed.status.minor(), minor, "{failed}");
        assert!(!failed.output.is_empty(), "an alert");
    }
}
