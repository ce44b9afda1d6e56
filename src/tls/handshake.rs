//! Drives rustls through one handshake and takes what a context is made of.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, ConnectionTrafficSecrets, ExtractedSecrets, HandshakeKind};
use rustls_pki_types::CertificateDer;

use super::Error;
use super::reader::Reader;
use super::sink::{Captured, Installed, capturing};
use super::ticket::Family;
use super::verify::Standing;
use crate::crypto::{self, Suite};
use crate::secret::Slot;
use crate::status::Minor;
use crate::sys::process;

/// A rustls connection of one side.
pub(crate) trait Side: Sized {
    /// What rustls calls the side.
    type Data;
    /// Whether it is the server.
    const SERVER: bool;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8])
    -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn extract(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error>;
    /// What takes tickets from now on, on the side that is given some.
    fn tickets(kernel: KernelConnection<Self::Data>) -> Option<Tickets>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const SERVER: bool = true;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn extract(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }

    fn tickets(_: KernelConnection<Self::Data>) -> Option<Tickets> {
        None
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const SERVER: bool = false;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn extract(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }

    fn tickets(kernel: KernelConnection<Self::Data>) -> Option<Tickets> {
        Some(Tickets { kernel, taken: 0 })
    }
}

/// Takes the session tickets that a server sends after the handshake, into the store of the
/// initiator's configuration, where its next handshake with that server finds them.
///
/// It stays in the process that made the handshake: a hop drops it.
pub struct Tickets {
    kernel: KernelConnection<ClientConnectionData>,
    taken: u32,
}

impl Tickets {
    /// The most tickets one session may bring; more are ignored.
    pub const LIMIT: u32 = 8;

    /// Takes the body of one NewSessionTicket message (RFC 8446 4.6.1), without its type and
    /// length. Whether it was kept.
    ///
    /// # Errors
    /// DEFECTIVE_TOKEN when it is malformed; the peer is owed the alert `decode_error`.
    pub fn take(&mut self, payload: &[u8]) -> Result<bool, Error> {
        if self.taken == Self::LIMIT {
            return Ok(false);
        }
        self.taken += 1;
        self.kernel.handle_new_session_ticket(payload)?;
        Ok(true)
    }
}

/// What one turn of [`Handshake::advance`] came to.
pub(crate) enum Progress<'a> {
    /// The peer has to send more.
    More,
    /// Finished; these bytes came behind the last flight.
    Done(&'a [u8]),
}

/// A handshake that is not finished.
pub(crate) struct Handshake<C> {
    connection: C,
    reader: Reader,
    /// Taken out only while [`capturing`].
    captured: Option<Slot<Captured>>,
    /// [`process::word`] of the process it began in.
    born: u64,
    /// Whether rustls was driven before: a client speaks first.
    driven: bool,
}

impl<C: Side> Handshake<C> {
    pub(super) fn new(connection: C) -> Box<Self> {
        Box::new(Self {
            connection,
            reader: Reader::default(),
            captured: Some(Slot::new(Captured::default())),
            born: process::word(),
            driven: false,
        })
    }

    /// Takes what the peer sent and appends what is to be sent to `output`, also on an error: an
    /// alert then.
    pub(crate) fn advance<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<Progress<'a>, Error> {
        if self.born != process::word() {
            return Err(Error::new(
                Minor::ContextForked,
                "the handshake is another process's",
            ));
        }
        let mut captured = self.captured.take();
        let progress = capturing(&mut captured, || self.drive(input, output));
        self.captured = captured;
        if let Err(error) = &progress {
            let before = output.len();
            self.drain(output);
            // rustls ends some handshakes without a word. What the peer ended is not answered.
            let ours = !matches!(error.minor, Minor::PeerRefused | Minor::FramingUnknown);
            if ours && !ends_with_alert(&output[before..]) {
                self.refuse(output);
            }
        }
        progress
    }

    fn drive<'a>(
        &mut self,
        mut input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<Progress<'a>, Error> {
        if !self.driven {
            self.driven = true;
            self.turn(output)?;
        }
        loop {
            if !self.reader.take(&mut input)? {
                return Ok(Progress::More);
            }
            if self.turn(output)? {
                return Ok(Progress::Done(input));
            }
        }
    }

    /// Shows rustls the complete records. Whether the handshake is finished.
    fn turn(&mut self, output: &mut Vec<u8>) -> Result<bool, Error> {
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.connection.process(self.reader.records());
            let finished = match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(&mut data, output)?;
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    None
                }
                ConnectionState::BlockedHandshake => Some(false),
                ConnectionState::WriteTraffic(_) => Some(true),
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    return Err(Error::new(
                        Minor::PeerRefused,
                        "the peer closed during the handshake",
                    ));
                }
                // Data before Finished was offered by nobody.
                _ => {
                    return Err(Error::new(
                        Minor::HandshakeFailed,
                        "data came before the handshake was finished",
                    ));
                }
            };
            self.reader.discard(discard);
            match finished {
                None => {}
                Some(true) if !self.reader.is_empty() => {
                    return Err(Error::new(
                        Minor::HandshakeFailed,
                        "a record ends behind the end of the handshake",
                    ));
                }
                Some(finished) => return Ok(finished),
            }
        }
    }

    /// Whether the peer's bytes so far are whole records.
    pub(crate) fn is_between_records(&self) -> bool {
        self.reader.is_between_records()
    }

    /// Ends the handshake with the alert `decode_error`: rustls sends none for its caller, but it
    /// answers what is no record.
    pub(crate) fn refuse(&mut self, output: &mut Vec<u8>) {
        self.reader.spoil();
        // An error in any case: only what rustls says about it counts.
        drop(self.turn(output));
        self.drain(output);
    }

    /// What rustls still has to say after an error. It gives that up before it looks at input, and
    /// must not be let look at any: it may hold ranges of what it was shown before.
    fn drain(&mut self, output: &mut Vec<u8>) {
        while self.connection.common().wants_write() {
            let state = self.connection.process(&mut []).state;
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else {
                return;
            };
            if encode(&mut data, output).is_err() {
                return;
            }
        }
    }

    /// Ends a finished handshake: rustls goes, its secrets stay.
    ///
    /// `tickets`: whether to keep what takes a server's tickets.
    //= spec/mechanism.md#record-keys
    // More than a KiB, in which secrets were: it is not moved to the stack to be taken apart.
    #[allow(clippy::boxed_local)]
    pub(crate) fn finish(mut self: Box<Self>, tickets: bool) -> Result<Established, Error> {
        const LOST: Error = Error::new(
            Minor::HandshakeFailed,
            "the keys do not follow from the secrets",
        );
        let common = self.connection.common();
        let suite = common
            .negotiated_cipher_suite()
            .and_then(|suite| Suite::from_code(suite.suite().into()))
            .ok_or(LOST)?;
        let mut established = Established {
            suite,
            server: C::SERVER,
            secrets: self.captured.take().ok_or(LOST)?,
            peer_certificates: common.peer_certificates().unwrap_or_default().to_vec(),
            application_protocol: common.alpn_protocol().map(<[u8]>::to_vec),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            family: None,
            standing: Standing::Checked,
            tickets_wanted: tickets,
            tickets: None,
        };
        (established.family, established.standing) =
            (established.secrets.family, established.secrets.standing);
        if !established.is_consistent() {
            return Err(LOST);
        }
        // rustls's own account costs what deriving the keys again does: it is asked where tickets
        // are wanted, and in a debug build, to hold this room's account against it.
        if tickets || cfg!(debug_assertions) {
            let (account, kernel) = self.connection.extract()?;
            if !established.agrees(&account) {
                return Err(LOST);
            }
            established.tickets = C::tickets(kernel).filter(|_| tickets).map(Box::new);
        }
        Ok(established)
    }
}

/// Whether the last of these records is an alert: by its type, or sealed, by its length, which no
/// handshake message is short enough for.
fn ends_with_alert(mut records: &[u8]) -> bool {
    const SEALED: usize = 2 + 1 + crypto::TAG;
    let mut alert = false;
    while let [kind, _, _, high, low, rest @ ..] = records {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        alert = *kind == 21 || (*kind == 23 && length == SEALED);
        records = rest.get(length..).unwrap_or_default();
    }
    alert
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, output: &mut Vec<u8>) -> Result<(), Error> {
    const NO_ROOM: Error = Error::new(Minor::HandshakeFailed, "a flight was not encoded");
    // The parts of a usual flight, without moving between them.
    const USUAL: usize = 1024;
    if output.capacity() == 0 {
        output.reserve(USUAL);
    }
    let start = output.len();
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else {
        return Err(NO_ROOM);
    };
    output.resize(start + needed.required_size, 0);
    data.encode(&mut output[start..]).map_err(|_| NO_ROOM)?;
    Ok(())
}

/// What a finished handshake leaves.
pub(crate) struct Established {
    pub(crate) suite: Suite,
    pub(crate) server: bool,
    secrets: Slot<Captured>,
    /// Leaf first; of a resumed session, those it was made with. Empty when there were none.
    pub(crate) peer_certificates: Vec<CertificateDer<'static>>,
    pub(crate) application_protocol: Option<Vec<u8>>,
    pub(crate) resumed: bool,
    /// The family of the tickets that a server gave.
    pub(crate) family: Option<Family>,
    pub(crate) standing: Standing,
    /// Whether a server's tickets are kept.
    pub(crate) tickets_wanted: bool,
    pub(crate) tickets: Option<Box<Tickets>>,
}

impl Established {
    /// The host that the client asked for by SNI, as it said it; none of a client's own.
    pub(crate) fn asked_for(&self) -> Option<&str> {
        let asked = core::str::from_utf8(self.secrets.asked.as_bytes()).ok();
        asked.filter(|asked| !asked.is_empty())
    }

    /// The first application traffic secret of what is sent from here.
    pub(crate) fn tx_secret(&self) -> &[u8] {
        match self.server {
            true => self.secrets.server.as_bytes(),
            false => self.secrets.client.as_bytes(),
        }
    }

    /// The first application traffic secret of what comes in.
    pub(crate) fn rx_secret(&self) -> &[u8] {
        match self.server {
            true => self.secrets.client.as_bytes(),
            false => self.secrets.server.as_bytes(),
        }
    }

    /// Key and IV of what is sent from here, and the records sealed with them: a server's tickets
    /// count.
    pub(crate) fn tx(&self) -> ([&[u8]; 2], u64) {
        let tx = &self.secrets.tx;
        ([tx.key.as_bytes(), tx.iv.as_bytes()], tx.records)
    }

    /// Key and IV of what comes in, and the records opened with them.
    pub(crate) fn rx(&self) -> ([&[u8]; 2], u64) {
        let rx = &self.secrets.rx;
        ([rx.key.as_bytes(), rx.iv.as_bytes()], rx.records)
    }

    /// Whether the two accounts agree: the keys that were installed last were derived from the
    /// secrets that were told, so that no key update and no other handshake lies between them.
    fn is_consistent(&self) -> bool {
        let derived = |secret: &[u8], installed: &Installed| {
            secret.len() == self.suite.secret_len()
                && installed.key.as_bytes().len() == self.suite.key_len()
                && crypto::equal(secret, installed.secret.as_bytes())
        };
        self.exporter_secret().len() == self.suite.secret_len()
            && derived(self.tx_secret(), &self.secrets.tx)
            && derived(self.rx_secret(), &self.secrets.rx)
    }

    /// Whether rustls gives the same account of keys and sequence numbers.
    fn agrees(&self, account: &ExtractedSecrets) -> bool {
        let same = |(sequence, secrets): &(u64, ConnectionTrafficSecrets),
                    ours: ([&[u8]; 2], u64)| {
            let (suite, key, iv) = match secrets {
                ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
                ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
                ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                    (Suite::ChaCha20Poly1305, key, iv)
                }
                _ => return false,
            };
            let ([our_key, our_iv], our_sequence) = ours;
            let equal = crypto::equal(our_key, key.as_ref()) & crypto::equal(our_iv, iv.as_ref());
            equal && suite == self.suite && *sequence == our_sequence
        };
        same(&account.tx, self.tx()) && same(&account.rx, self.rx())
    }

    /// The exporter secret (RFC 8446 7.5).
    pub(crate) fn exporter_secret(&self) -> &[u8] {
        self.secrets.exporter.as_bytes()
    }
}
