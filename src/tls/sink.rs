//! Where the secrets of a handshake go while rustls derives them.
//!
//! rustls gives up keys, and never the secrets that key updates, hops and exporters need. It
//! does tell them to a [`KeyLog`], on the thread that drives the connection and while it does: so
//! one handshake at a time is open to be told, on each thread, and only while it is driven.

use core::cell::RefCell;

use rustls::KeyLog;

use crate::crypto::MAX_SECRET;
use crate::secret::Slot;

/// The secrets of a finished handshake, each of one hash's length; zeroes until told.
#[derive(Default)]
pub(super) struct Captured {
    pub(super) client: Secret,
    pub(super) server: Secret,
    pub(super) exporter: Secret,
}

/// One secret and its length.
#[derive(Clone, Copy)]
pub(super) struct Secret {
    bytes: [u8; MAX_SECRET],
    length: usize,
}

impl Default for Secret {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_SECRET],
            length: 0,
        }
    }
}

impl Secret {
    fn set(&mut self, secret: &[u8]) {
        if let Some(place) = self.bytes.get_mut(..secret.len()) {
            place.copy_from_slice(secret);
            self.length = secret.len();
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
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

/// The sink, as rustls sees it.
#[derive(Debug)]
pub(super) struct Sink;

impl KeyLog for Sink {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        OPEN.with(|open| {
            let mut open = open.borrow_mut();
            let Some(captured) = open.as_mut() else {
                return;
            };
            match label {
                "CLIENT_TRAFFIC_SECRET_0" => captured.client.set(secret),
                "SERVER_TRAFFIC_SECRET_0" => captured.server.set(secret),
                "EXPORTER_SECRET" => captured.exporter.set(secret),
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(
            label,
            "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0" | "EXPORTER_SECRET"
        )
    }
}
