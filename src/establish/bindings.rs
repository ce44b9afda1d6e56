//! Channel bindings (RFC 2743 1.1.6): what ties a context to the channel it is established over.

use crate::crypto::sha256;

/// The channel a context is bound to, as this side sees it. The two sides' must be the same, or
/// the context is not established (BAD_BINDINGS); that one side has none is a difference too.
///
/// ```
/// use baton::establish::ChannelBindings;
/// let outer = [7; 32]; // of the outer channel: Context::channel_binding
/// let bindings = ChannelBindings::tls_exporter(&outer);
/// assert_ne!(bindings, ChannelBindings::application_data(outer.to_vec()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelBindings {
    /// The type of the initiator's address (RFC 2744 3.11); 0 is unspecified.
    pub initiator_address_type: u32,
    /// The initiator's address.
    pub initiator_address: Vec<u8>,
    /// The type of the acceptor's address.
    pub acceptor_address_type: u32,
    /// The acceptor's address.
    pub acceptor_address: Vec<u8>,
    /// What the application adds.
    pub application_data: Vec<u8>,
}

impl ChannelBindings {
    /// Application data alone.
    pub fn application_data(data: Vec<u8>) -> Self {
        Self {
            application_data: data,
            ..Self::default()
        }
    }

    /// An outer TLS channel, by the hash of its server's certificate (RFC 5929 4):
    /// [`Facts::end_point`](crate::context::Facts::end_point) of a context in record framing.
    pub fn tls_server_end_point(hash: &[u8]) -> Self {
        Self::application_data([b"tls-server-end-point:", hash].concat())
    }

    /// An outer TLS channel, by its exporter (RFC 9266): `Context::channel_binding` of a context
    /// in record framing.
    //= spec/mechanism.md#tls-exporter
    pub fn tls_exporter(value: &[u8; 32]) -> Self {
        Self::application_data([&b"tls-exporter:"[..], value].concat())
    }

    //= spec/mechanism.md#bindings
    pub(super) fn hash(&self) -> [u8; 32] {
        // Over 4 GiB two bindings could be written alike; none of these is read from a peer.
        let length = |bytes: &[u8]| (bytes.len() as u32).to_be_bytes();
        sha256(&[
            &self.initiator_address_type.to_be_bytes(),
            &length(&self.initiator_address),
            &self.initiator_address,
            &self.acceptor_address_type.to_be_bytes(),
            &length(&self.acceptor_address),
            &self.acceptor_address,
            &length(&self.application_data),
            &self.application_data,
        ])
    }
}
