//! Where the secrets and keys of a handshake go while rustls derives them.
//!
//! rustls gives up keys, and never the secrets that key updates, hops and exporters need. It does
//! tell them to a [`KeyLog`], on the thread that drives the connection and while it does; and it
//! installs its keys through this room's own [`provider`](super::provider). So one handshake at a
//! time is open to be told, on each thread, and only while it is driven.

use core::cell::RefCell;

use rustls::KeyLog;

use super::ticket::Family;
use super::verify::Standing;
use crate::crypto::{IV, MAX_KEY, MAX_SECRET};
use crate::secret::Slot;

/// What was told of one handshake.
#[derive(Default)]
pub(super) struct Captured {
    pub(super) client: Bytes<MAX_SECRET>,
    pub(super) server: Bytes<MAX_SECRET>,
    pub(super) exporter: Bytes<MAX_SECRET>,
    /// The secret from which something is derived at the moment.
    pub(super) expanding: Bytes<MAX_SECRET>,
    /// The keys that were installed last: those of application data, once there are any.
    pub(super) tx: Installed,
    pub(super) rx: Installed,
    /// The host that a client asked for: a DNS name.
    pub(super) asked: Bytes<253>,
    /// The family of tickets it takes part in, once it does.
    pub(super) family: Option<Family>,
    /// What the peer's certificates were found to be worth.
    pub(super) standing: Standing,
}

/// A secret or key, up to `N` bytes; empty until told.
pub(super) struct Bytes<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Default for Bytes<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }
}

impl<const N: usize> Bytes<N> {
    pub(super) fn set(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
            self.length = bytes.len();
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A key as it is used for records.
#[derive(Default)]
pub(super) struct Installed {
    /// What it was derived from: the last secret that was expanded before it was installed.
    pub(super) secret: Bytes<MAX_SECRET>,
    pub(super) key: Bytes<MAX_KEY>,
    pub(super) iv: Bytes<IV>,
    /// Records sealed or opened with it.
    pub(super) records: u64,
}

impl Installed {
    pub(super) fn install(&mut self, secret: &Bytes<MAX_SECRET>, key: &[u8], iv: &[u8]) {
        self.secret.set(secret.as_bytes());
        self.key.set(key);
        self.iv.set(iv);
        self.records = 0;
    }
}

std::thread_local! {
    static OPEN: RefCell<Option<Slot<Captured>>> = const { RefCell::new(None) };
}

/// Opens `captured` to what rustls tells on this thread while `drive` runs.
///
/// A handshake that is driven inside another's (from a callback that asks over the network, say)
/// is told its own secrets, and the outer one its own again afterwards.
pub(super) fn capturing<T>(captured: &mut Option<Slot<Captured>>, drive: impl FnOnce() -> T) -> T {
    let outer = OPEN.with(|open| open.replace(captured.take()));
    // Restored on the way out whether `drive` returns or unwinds.
    struct Restore<'a>(&'a mut Option<Slot<Captured>>, Option<Slot<Captured>>);
    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            *self.0 = OPEN.with(|open| open.replace(self.1.take()));
        }
    }
    let _restore = Restore(captured, outer);
    drive()
}

/// Tells the handshake that is open on this thread, if one is.
pub(super) fn tell(tell: impl FnOnce(&mut Captured)) {
    OPEN.with(|open| {
        if let Some(captured) = open.borrow_mut().as_mut() {
            tell(captured);
        }
    });
}

/// The sink, as rustls sees it.
#[derive(Debug)]
pub(super) struct Sink;

impl KeyLog for Sink {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        tell(|captured| match label {
            "CLIENT_TRAFFIC_SECRET_0" => captured.client.set(secret),
            "SERVER_TRAFFIC_SECRET_0" => captured.server.set(secret),
            "EXPORTER_SECRET" => captured.exporter.set(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(
            label,
            "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0" | "EXPORTER_SECRET"
        )
    }
}
