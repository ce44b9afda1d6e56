//! The initiator's hello, read before it is answered.

use rustls::server::Acceptor;

/// What an initiator says before anything else (RFC 8446 4.1.2): nothing of it is proved.
///
/// Lengths are what one hello of at most 64 KiB can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The host it asks for (SNI), 1 to 255 bytes; none when it names none.
    pub server_name: Option<String>,
    /// The application protocols it offers (ALPN), each 1 to 255 bytes, most wanted first.
    pub application_protocols: Vec<Vec<u8>>,
    /// The signature schemes it can verify, by their numbers, most wanted first.
    pub signature_schemes: Vec<u16>,
    /// The cipher suites it offers, by their numbers, most wanted first.
    pub suites: Vec<u16>,
    /// The authorities it names for the acceptor's certificate: distinguished names, DER.
    pub authorities: Vec<Vec<u8>>,
}

/// What was heard so far.
pub(crate) enum Heard {
    /// The hello is not whole.
    Part,
    /// The whole hello.
    Whole(Box<Hello>),
    /// What no hello begins with: the handshake itself says what is wrong.
    Nothing,
}

/// Listens for a hello in the records of a first flight. What it heard is not taken away: the
/// handshake is fed the same bytes.
#[derive(Default)]
pub(crate) struct Ear(Acceptor);

impl Ear {
    /// Hears more bytes.
    pub(crate) fn hear(&mut self, mut records: &[u8]) -> Heard {
        while !records.is_empty() {
            // It takes no more than the longest hello's records.
            let Ok(1..) = self.0.read_tls(&mut records) else {
                return Heard::Nothing;
            };
            match self.0.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    return Heard::Whole(Box::new(hello(&accepted.client_hello())));
                }
                Err(_) => return Heard::Nothing,
            }
        }
        Heard::Part
    }
}

fn hello(said: &rustls::server::ClientHello<'_>) -> Hello {
    let protocols = said.alpn().into_iter().flatten();
    let authorities = said.certificate_authorities().unwrap_or_default();
    Hello {
        server_name: said.server_name().map(str::to_owned),
        application_protocols: protocols.map(<[u8]>::to_vec).collect(),
        signature_schemes: said
            .signature_schemes()
            .iter()
            .map(|it| (*it).into())
            .collect(),
        suites: said
            .cipher_suites()
            .iter()
            .map(|suite| (*suite).into())
            .collect(),
        authorities: authorities
            .iter()
            .map(|name| name.as_ref().to_vec())
            .collect(),
    }
}
