//! What the points of TLS answer: one type for each, every field with its override.

use super::field::{Datum, Described, Fields, Kind, LARGEST, Limits, Override, Shape};
use super::questions::{
    ALPN, CA_DN_LIST, CERT_LIST, COMPUTED, PEER_NAME, PUBLIC_KEY, REFERENCE, WORD, words,
};

words! {
    /// Whether an acceptor asks for a certificate.
    ClientAuth {
        /// It does not.
        None = "none",
        /// It does, and the peer may decline.
        Optional = "optional",
        /// It does, and the peer must show one.
        #[default]
        Required = "required",
    }
}

/// The output of a point that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoOutput {}

macro_rules! outputs {
    ($($(#[$about:meta])* $type:ident = $variant:ident {
        $($(#[$doc:meta])* $field:ident: $of:ty, $limits:expr, $needed:literal;)*
    })+) => {
        /// The output of a point.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Output {
            /// Of a point that has none.
            Nothing(NoOutput),
            $($(#[$about])* $variant($type),)+
        }

        impl Output {
            /// Goes through the fields.
            pub fn describe<F: Fields>(&mut self, fields: &mut F) -> Result<(), F::Error> {
                match self {
                    Self::Nothing(output) => output.describe(fields),
                    $(Self::$variant(output) => output.describe(fields),)+
                }
            }
        }

        $(
            $(#[$about])*
            #[derive(Clone, Debug, Default, PartialEq, Eq)]
            pub struct $type {
                $($(#[$doc])* pub $field: Override<$of>,)*
            }

            impl Described for $type {
                fn describe<F: Fields>(&mut self, fields: &mut F) -> Result<(), F::Error> {
                    $(fields.overridden(stringify!($field), &mut self.$field, &$limits, $needed)?;)*
                    Ok(())
                }
            }

            impl From<$type> for Output {
                fn from(output: $type) -> Self {
                    Self::$variant(output)
                }
            }
        )+
    };
}

outputs! {
    /// How the handshake is to be made.
    SessionInitOutput = SessionInit {
        /// Whether the acceptor asks for a certificate.
        client_auth: ClientAuth, WORD, false;
        /// Protocols to agree to, in order.
        alpn: Vec<Vec<u8>>, ALPN, false;
        /// Cipher suites to agree to, in order.
        cipher_suites: Vec<u16>, Limits::list(1, 16, (0, 65_535), 0), false;
    }

    /// Authorities to name.
    BuildCaDnListOutput = BuildCaDnList {
        /// Distinguished names, DER.
        ca_dn_list: Vec<Vec<u8>>, CA_DN_LIST, false;
    }

    /// What to show.
    GetCertListOutput = GetCertList {
        /// Certificates, DER, the leaf first.
        cert_list: Vec<Vec<u8>>, CERT_LIST, false;
        /// Names the private key to the computation: it lives in the exit.
        key_reference: String, REFERENCE, false;
    }

    /// Who the peer is.
    CheckCertListOutput = CheckCertList {
        /// The name by which the peer is known from now on.
        peer_name: String, PEER_NAME, false;
    }

    /// What was computed.
    ComputationOutput = Computation {
        /// The signature. The server has no value of its own: it is always overridden.
        result: Vec<u8>, COMPUTED, true;
    }

    /// The key, and what can be done with it.
    GetServerPublicKeyOutput = GetServerPublicKey {
        /// SubjectPublicKeyInfo, DER.
        public_key: Vec<u8>, PUBLIC_KEY, false;
        /// Signature schemes, best first.
        signature_schemes: Vec<u16>, Limits::list(1, 64, (0, 65_535), 0), false;
    }

    /// How the session goes on.
    HandshakeDoneOutput = HandshakeDone {
        /// Seconds after which the session is ended.
        lifetime: u64, Limits::new(1, LARGEST), false;
    }
}

impl Described for NoOutput {
    fn describe<F: Fields>(&mut self, _: &mut F) -> Result<(), F::Error> {
        Ok(())
    }
}

impl From<NoOutput> for Output {
    fn from(output: NoOutput) -> Self {
        Self::Nothing(output)
    }
}
