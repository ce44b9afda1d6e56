//! Where a session comes to an exit: points, and the families they belong to.

use core::fmt;

/// A kind of exit worker: the points that belong together.
///
/// The set grows; what it does not know a server passes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// The points of a TLS session.
    Tls,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Tls];

    /// The name on the wire and in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
        }
    }

    /// The family of this name.
    //= spec/exits.md#families
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place in a session's life at which an exit is asked.
///
/// ```
/// use baton::exit::{Family, Point};
/// assert_eq!(Point::named(Family::Tls, "check-cert-list"), Some(Point::CheckCertList));
/// assert!(Point::SessionEnd.ends_session());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Point {
    /// First of every session.
    SessionInit,
    /// Which authorities an acceptor names to its peer.
    BuildCaDnList,
    /// Which certificates to show.
    GetCertList,
    /// Whether the peer's certificates are good.
    CheckCertList,
    /// An operation with a private key that lives in the exit.
    Computation,
    /// The public key of the exit's private key.
    GetServerPublicKey,
    /// Tells the public key that the acceptor has shown.
    SetServerPublicKey,
    /// The handshake has ended well.
    HandshakeDone,
    /// Last of every session.
    SessionEnd,
}

/// Bytes of a line where the point says nothing else, with the line feed.
pub const LINE_LIMIT: usize = 64 << 10;
/// Bytes of a line about certificates.
const LONG_LINE_LIMIT: usize = 256 << 10;

impl Point {
    /// All of them, each family's in the order in which a session comes to them.
    //= spec/exits.md#points
    pub const ALL: [Self; 9] = [
        Self::SessionInit,
        Self::BuildCaDnList,
        Self::GetCertList,
        Self::CheckCertList,
        Self::Computation,
        Self::GetServerPublicKey,
        Self::SetServerPublicKey,
        Self::HandshakeDone,
        Self::SessionEnd,
    ];

    /// The most bytes a line has, about whichever point.
    pub const LONGEST_LINE: usize = LONG_LINE_LIMIT;

    /// The family it belongs to.
    pub const fn family(self) -> Family {
        Family::Tls
    }

    /// The name on the wire, unique in its family.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SessionInit => "session-init",
            Self::BuildCaDnList => "build-ca-dn-list",
            Self::GetCertList => "get-cert-list",
            Self::CheckCertList => "check-cert-list",
            Self::Computation => "computation",
            Self::GetServerPublicKey => "get-server-public-key",
            Self::SetServerPublicKey => "set-server-public-key",
            Self::HandshakeDone => "handshake-done",
            Self::SessionEnd => "session-end",
        }
    }

    /// The point of this name in `family`.
    pub fn named(family: Family, name: &str) -> Option<Self> {
        let known = |point: &Self| point.family() == family && point.name() == name;
        Self::ALL.into_iter().find(known)
    }

    /// The most bytes of a line about it, with the line feed.
    //= spec/exits.md#lines
    pub const fn line_limit(self) -> usize {
        match self {
            Self::GetCertList | Self::CheckCertList => LONG_LINE_LIMIT,
            _ => LINE_LIMIT,
        }
    }

    /// Whether the session is over with its answer, whatever that is.
    pub const fn ends_session(self) -> bool {
        matches!(self, Self::SessionEnd)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
