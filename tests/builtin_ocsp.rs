//! OCSP, against the responder of OpenSSL and against servers that do what a responder should not.

#![allow(clippy::unwrap_used, clippy::panic)]

mod certifying;
mod exiting;
mod serving;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use baton::builtin::{Certificates, Configuration, Method, No, Nonce, OcspSettings};
use baton::exit::{CheckCertList, Question};
use certifying::*;

/// An authority of OpenSSL's with leaves `good`, `revoked` and `unknown`, and those who may or may
/// not speak for it.
struct Authority(Place);

impl Authority {
    /// None, with a line that says so, where there is no OpenSSL.
    fn new() -> Option<Self> {
        serving::program("openssl")?;
        let this = Self(Place::new());
        this.0.file(
            "leaf.cnf",
            "authorityInfoAccess=OCSP;URI:http://127.0.0.1:1/\n",
        );
        this.0.file("ocsp.cnf", "extendedKeyUsage=OCSPSigning\n");
        this.0.file("plain.cnf", "extendedKeyUsage=clientAuth\n");
        this.root("ca");
        this.root("stranger");
        for (number, name) in ["good", "revoked", "unknown"].iter().enumerate() {
            this.leaf("ca", name, "leaf.cnf", number + 1);
        }
        this.leaf("ca", "delegate", "ocsp.cnf", 10);
        this.leaf("ca", "plain", "plain.cnf", 11);
        this.leaf("stranger", "wrong", "ocsp.cnf", 12);
        // The unknown one is not in it.
        this.0.file(
            "index.txt",
            "V\t491231235959Z\t\t01\tunknown\t/CN=good\nR\t491231235959Z\t200101000000Z,keyCompromise\t02\tunknown\t/CN=revoked\n",
        );
        Some(this)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' '));
        run(command, self.0.path());
    }

    fn root(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.pem -days 30 -subj /CN={name}"
        ));
    }

    fn leaf(&self, authority: &str, name: &str, extensions: &str, serial: usize) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -set_serial {serial} -out {name}.pem -days 20 -extfile {extensions}"
        ));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn question(&self, name: &str) -> CheckCertList {
        question(&[&from_pem(&self.path(&format!("{name}.pem")))])
    }

    fn checker(&self, change: impl FnOnce(&mut OcspSettings)) -> Certificates {
        let mut settings = OcspSettings {
            pause: Duration::ZERO,
            ..OcspSettings::default()
        };
        change(&mut settings);
        let mut configuration = Configuration::new(vec![self.path("ca.pem")]);
        configuration.ocsp = Some(settings);
        Certificates::new(&configuration).unwrap()
    }

    /// Asks the responder at this address about one of the leaves.
    fn ask(&self, address: &str, name: &str) -> String {
        let checker = self.checker(|settings| settings.responder = Some(address.to_owned()));
        said(&checker.check(&self.question(name)))
    }

    fn responder(&self, signer: &str, more: &str) -> Responder {
        Responder::start(self.0.path(), signer, more)
    }

    /// A response of OpenSSL's, as a file has it.
    fn response(&self, signer: &str, name: &str, more: &str) -> Vec<u8> {
        self.openssl(&format!(
            "ocsp -issuer ca.pem -cert {name}.pem -no_nonce -reqout request.der"
        ));
        self.openssl(&format!(
            "ocsp -index index.txt -CA ca.pem -rsigner {signer}.pem -rkey {signer}.key -reqin request.der -respout response.der {more}"
        ));
        std::fs::read(self.path("response.der")).unwrap()
    }
}

/// A running `openssl ocsp`.
struct Responder {
    child: Child,
    address: String,
}

impl Responder {
    fn start(folder: &Path, signer: &str, more: &str) -> Self {
        let mut command = Command::new("openssl");
        let arguments = format!(
            "ocsp -index index.txt -port 0 -CA ca.pem -rsigner {signer}.pem -rkey {signer}.key {more}"
        );
        command
            .args(arguments.trim_end().split(' '))
            .current_dir(folder);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        // ACCEPT [::]:45123 PID=9035
        let port = line.split_whitespace().nth(1).unwrap().rsplit(':').next();
        let address = format!("http://127.0.0.1:{}/", port.unwrap());
        // Nobody reads what it says afterwards; it says little.
        std::mem::forget(out);
        Self { child, address }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that answers each request with what it is told, and tells what was asked.
struct Scripted {
    address: String,
    asked: Receiver<Vec<u8>>,
    _thread: JoinHandle<()>,
}

impl Scripted {
    fn new(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let (tell, asked) = channel();
        let answer = answer.into();
        let thread = std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                let request = request(&mut socket);
                let _ = socket.write_all(&answer);
                if tell.send(request).is_err() {
                    break;
                }
            }
        });
        Self {
            address,
            asked,
            _thread: thread,
        }
    }

    fn http(body: &[u8]) -> Self {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self::new([head.as_bytes(), body].concat())
    }

    fn asked(&self) -> usize {
        self.asked.try_iter().count()
    }
}

/// Reads one HTTP request with its body.
fn request(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|read| read == 1) {
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    let _ = socket.read_exact(&mut body);
    bytes.extend(body);
    bytes
}

//= proves spec/builtin.md#ocsp
//= proves spec/builtin.md#ocsp-request
//= proves spec/builtin.md#ocsp-verdict X4
#[test]
fn a_real_responder_says_good_revoked_and_unknown() {
    let Some(authority) = Authority::new() else {
        return;
    };
    let own = authority.responder("ca", "-ndays 1");
    for (name, expected) in [
        ("good", "yes CN=good"),
        ("revoked", "revoked"),
        ("unknown", "unknown-ca"),
    ] {
        assert_eq!(authority.ask(&own.address, name), expected);
        for method in [Method::Get, Method::Post] {
            for nonce in [Nonce::None, Nonce::Ask, Nonce::Required] {
                let checker = authority.checker(|settings| {
                    settings.responder = Some(own.address.clone());
                    (settings.method, settings.nonce) = (method, nonce);
                });
                let answer = checker.check(&authority.question(name));
                assert_eq!(said(&answer), expected, "{method:?} {nonce:?}: {answer:?}");
            }
        }
    }
}

//= proves spec/builtin.md#ocsp-signer X4
#[test]
fn only_the_issuer_and_whom_it_has_named_speak_for_it() {
    let Some(authority) = Authority::new() else {
        return;
    };
    for (signer, more, expected) in [
        ("delegate", "-ndays 1", "revoked"),
        ("delegate", "-ndays 1 -resp_key_id", "revoked"),
        ("delegate", "", "revoked"),
        // Without its certificate nobody knows who it is.
        ("delegate", "-ndays 1 -resp_no_certs", "-1"),
        // Of the issuer, but not for this; for this, but not of the issuer; an altered signature.
        ("plain", "-ndays 1", "-1"),
        ("wrong", "-ndays 1", "-1"),
        ("ca", "-ndays 1 -badsig", "-1"),
    ] {
        let responder = authority.responder(signer, more);
        assert_eq!(
            authority.ask(&responder.address, "revoked"),
            expected,
            "{signer} {more}"
        );
        let good = if expected == "-1" {
            "-1"
        } else {
            "yes CN=good"
        };
        assert_eq!(
            authority.ask(&responder.address, "good"),
            good,
            "{signer} {more}"
        );
    }
}

//= proves spec/builtin.md#ocsp-request
//= proves spec/builtin.md#ocsp-response X4
#[test]
fn what_is_no_answer_is_no_answer() {
    let Some(authority) = Authority::new() else {
        return;
    };
    let revoked = authority.response("ca", "revoked", "-ndays 1");
    let good = authority.response("ca", "good", "-ndays 1");
    let asked = |responder: &Scripted| authority.ask(&responder.address, "revoked");
    assert_eq!(asked(&Scripted::http(&revoked)), "revoked");
    // About another certificate.
    assert_eq!(asked(&Scripted::http(&good)), "-1");
    // Nonsense of several kinds.
    for body in [
        &b""[..],
        b"\x30\x03\x0a\x01\x03",
        b"\x30\x03\x0a\x01\x06",
        b"nonsense",
        &revoked[..revoked.len() - 1],
    ] {
        assert_eq!(asked(&Scripted::http(body)), "-1", "{body:?}");
    }
    // A certificate that comes along and is not needed is not looked at; all else counts.
    let bare = authority.response("ca", "revoked", "-ndays 1 -resp_no_certs");
    for at in 0..bare.len() {
        let mut altered = bare.clone();
        altered[at] ^= 0x40;
        assert_eq!(asked(&Scripted::http(&altered)), "-1", "byte {at}");
    }
    let type_of = |kind: &str, status: &str| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            revoked.len()
        );
        [head.as_bytes(), &revoked].concat()
    };
    for answer in [
        type_of("text/html", "200 OK"),
        type_of("application/ocsp-response", "500 No"),
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
        Vec::new(),
        // It says it is longer than it may be, and than it is.
        [&b"HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nContent-Length: 99999999\r\n\r\n"[..], &[0x30; 70_000]].concat(),
    ] {
        assert_eq!(asked(&Scripted::new(answer)), "-1");
    }
    // A nonce that must be there; and one of somebody else's question.
    let needs = |address: &str, nonce: Nonce| {
        let checker = authority.checker(|settings| {
            settings.responder = Some(address.to_owned());
            settings.nonce = nonce;
        });
        match checker.check(&authority.question("revoked")) {
            Err(No::Unanswered(text)) => text,
            other => said(&other),
        }
    };
    let canned = Scripted::http(&revoked);
    assert!(needs(&canned.address, Nonce::Required).ends_with("no nonce"));
    authority.openssl("ocsp -issuer ca.pem -cert revoked.pem -nonce -reqout request.der");
    authority.openssl("ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -ndays 1 -reqin request.der -respout response.der");
    let replayed = Scripted::http(&std::fs::read(authority.path("response.der")).unwrap());
    assert!(needs(&replayed.address, Nonce::Ask).ends_with("wrong nonce"));
    assert_eq!(needs(&replayed.address, Nonce::None), "revoked");
    // Out of its time, either way.
    let checker = authority.checker(|settings| settings.responder = Some(canned.address.clone()));
    let at = |offset: i64| {
        let time = now().checked_add_signed(offset).unwrap();
        said(&checker.check(&CheckCertList {
            time,
            ..authority.question("revoked")
        }))
    };
    assert_eq!(at(86_400 + 600), "-1");
    // Certificates made a moment ago are not valid yet, then.
    assert_eq!(at(-600), "not-yet-valid");
    assert_eq!(at(86_400 + 100), "revoked");
}

//= proves spec/builtin.md#ocsp
//= proves spec/builtin.md#ocsp-cache
#[test]
fn a_stapled_response_and_a_kept_one_spare_the_question() {
    let Some(authority) = Authority::new() else {
        return;
    };
    let with = |name: &str, response: &[u8]| CheckCertList {
        ocsp_response: Some(response.to_vec()),
        ..authority.question(name)
    };
    let good = authority.response("ca", "good", "-ndays 1");
    let revoked = authority.response("delegate", "revoked", "-ndays 1");
    let wrong = authority.response("wrong", "good", "-ndays 1");
    // Nobody listens where the certificates say.
    let alone = authority.checker(|_| {});
    assert_eq!(said(&alone.check(&with("good", &good))), "yes CN=good");
    assert_eq!(said(&alone.check(&with("revoked", &revoked))), "revoked");
    for (name, response) in [
        ("good", &wrong),
        ("good", &revoked),
        ("good", &b"x".to_vec()),
    ] {
        assert_eq!(said(&alone.check(&with(name, response))), "-1");
    }
    assert_eq!(said(&alone.check(&authority.question("good"))), "-1");
    // One that does not count, where there is somebody to ask.
    let canned = Scripted::http(&good);
    let address = canned.address.clone();
    let asking = authority.checker(|settings| {
        settings.responder = Some(address);
        settings.method = Method::Get;
    });
    assert_eq!(said(&asking.check(&with("good", &good))), "yes CN=good");
    assert_eq!(canned.asked(), 0);
    assert_eq!(said(&asking.check(&with("good", &wrong))), "yes CN=good");
    let request = canned.asked.recv().unwrap();
    assert!(
        request.starts_with(b"GET /M"),
        "{}",
        String::from_utf8_lossy(&request)
    );
    // What was heard is kept, and what was not is not asked for twice at once.
    for _ in 0..3 {
        assert_eq!(
            said(&asking.check(&authority.question("good"))),
            "yes CN=good"
        );
    }
    assert_eq!(canned.asked(), 0);
    let kept = CheckCertList {
        time: now() + 86_400 + 10,
        ..authority.question("good")
    };
    assert_eq!(said(&asking.check(&kept)), "yes CN=good");
    assert!(canned.asked.recv().unwrap().starts_with(b"GET /M"));
    // Nobody to ask at all.
    let mut params = named("nameless");
    params.serial_number = Some(77.into());
    let key = std::fs::read_to_string(authority.path("ca.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority_params("ca"), key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    let nameless = question(&[leaf.der()]);
    let strict = authority.checker(|_| {});
    let lenient = authority.checker(|settings| settings.required = false);
    assert_eq!(said(&strict.check(&nameless)), "-1");
    assert_eq!(said(&lenient.check(&nameless)), "yes CN=nameless");
    // Whom nobody would let in makes nobody ask.
    assert_eq!(
        said(&asking.check(&question(&[b"garbage"]))),
        "decoding-error"
    );
    assert_eq!(canned.asked(), 0);
}

/// The worker as a process, with a responder that accepts and says nothing.
//= proves spec/builtin.md#ocsp-request X4
#[test]
fn a_responder_that_is_down_or_silent_is_return_code_minus_one() {
    let Some(authority) = Authority::new() else {
        return;
    };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", silent.local_addr().unwrap());
    let driven = |address: &str| {
        let anchors = authority.path("ca.pem");
        let text = format!(
            "anchors = [{anchors:?}]\nthreads = 2\nholds = 100\n[ocsp]\nresponder = {address:?}\ntimeout_ms = 700\npause_ms = 60000\n"
        );
        let config = authority.0.file("certificates.toml", text);
        let mut pooled =
            baton::pool::Configuration::new("certificates", env!("CARGO_BIN_EXE_baton"));
        pooled.arguments = ["exit", "worker", "certificates", "--config"]
            .map(Into::into)
            .to_vec();
        pooled.arguments.push(config.into());
        exiting::Driven::new(pooled)
    };
    let mut slow = driven(&address);
    // Many at once: the first wait for the responder, the others not even that.
    let question = Question::from(authority.question("good"));
    for number in 1..=40 {
        slow.ask(exiting::session(number), question.clone(), number.into());
    }
    for number in 1..=40 {
        assert_eq!(
            exiting::shown(&slow.completion(number).reply),
            "-1 answered"
        );
    }
    assert!(slow.count("timeout") >= 1);
    assert!(slow.count("has failed a moment ago") >= 1);
    assert_eq!(slow.pool.counters().lost, 0);
    for number in 1..=40 {
        assert_eq!(slow.call(exiting::session(number), exiting::end()), "0");
    }
    drop(silent);
    let mut down = driven(&address);
    assert_eq!(down.call(exiting::session(1), question), "-1 answered");
    assert!(down.count("refused") >= 1);
}
