//! What a command is told of its session: the variables of `spec/sessions.md#environment`.
//!
//! SECURITY: values that a peer chose are in the environment of a command, often a shell's. Each is
//! one line without control characters, at most [`MAX_VALUE`] bytes; what is longer is left out,
//! never cut: half a name is another name. Variables of these names that the server was started
//! with never pass for the session's.

use std::net::SocketAddr;
use std::process::Command;

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::context::Facts;
use crate::crypto::{self, Suite};
use crate::name::{Kind, Name};

use super::about::About;
use super::user::User;

/// The longest value, in bytes; the certificate alone may be as long as a handshake lets it be.
pub const MAX_VALUE: usize = 4096;

/// What is set only where there is something to tell. The server's own are removed.
const OPTIONAL: &[&str] = &[
    "TCPREMOTEHOST",
    "TCPREMOTEINFO",
    "TCPLOCALHOST",
    "TCPCONNNUM",
    "SSLREMOTEHOST",
    "SSLREMOTEINFO",
    "SSLLOCALHOST",
    "SSL_TLS_SNI",
    "SSL_TLS_SNI_SERVERNAME",
    "SSL_PEER_CERT_HASH",
    "SSL_PEER_CERT_SUBJECT",
    "SSL_CLIENT_CERT",
    "SSL_CLIENT_M_VERSION",
    "SSL_CLIENT_M_SERIAL",
    "SSL_CLIENT_S_DN",
    "SSL_CLIENT_S_DN_CN",
    "SSL_CLIENT_I_DN",
    "SSL_CLIENT_V_START",
    "SSL_CLIENT_V_END",
    "REMOTE_USER",
];

/// What a service manager and the server have between themselves.
const SERVICE: [&str; 10] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "MAINPID",
    "FDSTORE",
    crate::succession::VARIABLE,
];

/// Everything a command is told.
pub struct Environment {
    variables: Vec<(&'static str, String)>,
    user: Option<User>,
}

impl Environment {
    /// Of a session that runs as `user`.
    pub fn of(about: &About, facts: &Facts, user: Option<User>) -> Self {
        let mut variables = Vec::with_capacity(32);
        addresses(about.remote, about.local, &mut variables);
        variables.extend([
            ("SSL_PROTOCOL", "TLSv1.3".to_owned()),
            ("SSL_CIPHER", about.cipher.to_owned()),
            ("BATON_SESSION_ID", about.session.to_string()),
        ]);
        if let Some(suite) = Suite::from_code(facts.suite) {
            let bits = (suite.key_len() * 8).to_string();
            variables.push(("SSL_CIPHER_USEKEYSIZE", bits.clone()));
            variables.push(("SSL_CIPHER_ALGKEYSIZE", bits));
        }
        let resumed = if facts.resumed { "Resumed" } else { "Initial" };
        variables.push(("SSL_SESSION_RESUMED", resumed.to_owned()));
        if let Some(host) = facts.target_name.as_ref().and_then(Name::host) {
            variables.push(("SSL_TLS_SNI", host.to_owned()));
            variables.push(("SSL_TLS_SNI_SERVERNAME", host.to_owned()));
        }
        let verified = if facts.peer_certificate.is_some() {
            "SUCCESS"
        } else {
            "NONE"
        };
        variables.push(("SSL_CLIENT_VERIFY", verified.to_owned()));
        if let Some(der) = &facts.peer_certificate {
            certificate(der, &mut variables);
        }
        variables.extend(about.user.clone().map(|user| ("REMOTE_USER", user)));
        variables.retain(|(name, value)| {
            *name == "SSL_CLIENT_CERT"
                || (value.len() <= MAX_VALUE && !value.contains(char::is_control))
        });
        Self { variables, user }
    }

    /// Tells a command.
    //= spec/sessions.md#environment
    pub fn describe_to(&self, command: &mut Command) {
        for name in OPTIONAL {
            command.env_remove(name);
        }
        //= spec/service.md#clean
        for servers in SERVICE {
            command.env_remove(servers);
        }
        if let Some(user) = &self.user {
            user.describe_to(command);
        }
        for (name, value) in &self.variables {
            command.env(name, value);
        }
    }
}

fn addresses(remote: SocketAddr, local: SocketAddr, variables: &mut Vec<(&'static str, String)>) {
    let ip = |address: SocketAddr| address.ip().to_canonical().to_string();
    let port = |address: SocketAddr| address.port().to_string();
    variables.extend([
        ("PROTO", "TCP".to_owned()),
        ("TCPREMOTEIP", ip(remote)),
        ("TCPREMOTEPORT", port(remote)),
        ("TCPLOCALIP", ip(local)),
        ("TCPLOCALPORT", port(local)),
        ("SSLREMOTEIP", ip(remote)),
        ("SSLREMOTEPORT", port(remote)),
        ("SSLLOCALIP", ip(local)),
        ("SSLLOCALPORT", port(local)),
    ]);
}

/// What is told of a client's certificate. It was verified before there was a session.
fn certificate(der: &[u8], variables: &mut Vec<(&'static str, String)>) {
    let hash = format!("SHA256:{}", hexadecimal(&crypto::sha256(&[der]), false));
    variables.push(("SSL_PEER_CERT_HASH", hash));
    variables.push(("SSL_CLIENT_CERT", pem(der)));
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return;
    };
    let shown = |name: &[u8]| {
        let name = Name::import(Kind::Certificate, name).ok()?;
        Some(name.to_string())
    };
    if let Some(subject) = shown(parsed.subject().as_raw()) {
        variables.push(("SSL_PEER_CERT_SUBJECT", subject.clone()));
        variables.push(("SSL_CLIENT_S_DN", subject));
    }
    if let Some(issuer) = shown(parsed.issuer().as_raw()) {
        variables.push(("SSL_CLIENT_I_DN", issuer));
    }
    let common = parsed.subject().iter_common_name().next();
    if let Some(common) = common.and_then(|name| name.as_str().ok()) {
        variables.push(("SSL_CLIENT_S_DN_CN", common.to_owned()));
    }
    let serial = parsed.raw_serial();
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    let serial = &serial[zeros.min(serial.len().saturating_sub(1))..];
    variables.extend([
        ("SSL_CLIENT_M_VERSION", (parsed.version().0 + 1).to_string()),
        ("SSL_CLIENT_M_SERIAL", hexadecimal(serial, true)),
    ]);
    let validity = parsed.validity();
    variables.extend(time(validity.not_before).map(|time| ("SSL_CLIENT_V_START", time)));
    variables.extend(time(validity.not_after).map(|time| ("SSL_CLIENT_V_END", time)));
}

fn hexadecimal(bytes: &[u8], upper: bool) -> String {
    let digit = |byte: &u8| match upper {
        true => format!("{byte:02X}"),
        false => format!("{byte:02x}"),
    };
    bytes.iter().map(digit).collect()
}

/// `Feb  9 08:00:05 2026 GMT`.
fn time(time: ASN1Time) -> Option<String> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let time = time.to_datetime();
    let month = MONTHS.get(usize::from(u8::from(time.month())).checked_sub(1)?)?;
    Some(format!(
        "{month} {:2} {:02}:{:02}:{:02} {} GMT",
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.year()
    ))
}

/// RFC 7468, lines of 64 characters.
fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            for place in 0..4 {
                text.push(match place <= group.len() {
                    true => char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]),
                    false => '=',
                });
            }
        }
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_as_others_tell_it() {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.serial_number = Some(vec![0, 0xab, 1].into());
        parameters.not_before = rcgen::date_time_ymd(2026, 2, 9);
        let name = &mut parameters.distinguished_name;
        name.push(rcgen::DnType::CommonName, "a,\"b\"");
        let key = rcgen::KeyPair::generate().unwrap();
        let made = parameters.self_signed(&key).unwrap();
        let mut variables = Vec::new();
        certificate(made.der(), &mut variables);
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            &found.unwrap_or_else(|| panic!("no {name}")).1[..]
        };
        assert_eq!(value("SSL_CLIENT_M_SERIAL"), "AB01");
        assert_eq!(value("SSL_CLIENT_M_VERSION"), "3");
        assert_eq!(value("SSL_CLIENT_V_START"), "Feb  9 00:00:00 2026 GMT");
        assert_eq!(value("SSL_CLIENT_S_DN"), "CN=a\\,\\\"b\\\"");
        assert_eq!(value("SSL_CLIENT_I_DN"), value("SSL_PEER_CERT_SUBJECT"));
        assert_eq!(value("SSL_CLIENT_S_DN_CN"), "a,\"b\"");
        assert_eq!(value("SSL_PEER_CERT_HASH").len(), 7 + 64);
        let text = value("SSL_CLIENT_CERT").to_owned() + "\n";
        let (_, back) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
        assert_eq!(back.contents, made.der().as_ref());
    }

    #[test]
    fn what_is_no_certificate_tells_its_bytes_only() {
        let mut variables = Vec::new();
        certificate(b"garbage", &mut variables);
        assert_eq!(variables.len(), 2);
    }
}
