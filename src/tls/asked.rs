//! Whom a client asks for (SNI, RFC 6066 3). rustls tells it to whoever chooses the certificate, and to
//! no one else of a connection that is driven from outside.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::sink;

/// One certificate for everybody, as for one who asks for nobody.
#[derive(Debug)]
pub(super) struct Asked(SingleCertAndKey);

impl Asked {
    pub(super) fn new(key: Arc<CertifiedKey>) -> Self {
        Self(SingleCertAndKey::from(key))
    }
}

impl ResolvesServerCert for Asked {
    //= spec/mechanism.md#target
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            sink::tell(|captured| captured.asked.set(name.as_bytes()));
        }
        ResolvesServerCert::resolve(&self.0, hello)
    }
}
