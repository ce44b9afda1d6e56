//! Context flags (RFC 2743 1.2.7, values of RFC 2744 2.2.1).

use serde::{Deserialize, Serialize};

/// What was asked of, or granted by, a context.
///
/// ```
/// use baton::flags::Flags;
/// let flags = Flags::MUTUAL | Flags::REPLAY;
/// assert!(flags.contains(Flags::MUTUAL) && !flags.contains(Flags::SEQUENCE));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flags(u32);

impl Flags {
    /// The acceptor proved its identity too (always granted: TLS 1.3 servers do).
    pub const MUTUAL: Self = Self(2);
    /// Repeated and too old messages are told.
    pub const REPLAY: Self = Self(4);
    /// Gaps and messages out of order are told.
    pub const SEQUENCE: Self = Self(8);
    /// Confidential wrap is offered.
    pub const CONFIDENTIALITY: Self = Self(16);
    /// Integrity is offered.
    pub const INTEGRITY: Self = Self(32);
    /// The initiator's name is not told.
    pub const ANONYMOUS: Self = Self(64);
    /// Messages may be protected now.
    pub const PROTECTION_READY: Self = Self(128);
    /// The context can be exported as it is now.
    pub const TRANSFERABLE: Self = Self(256);

    /// The RFC 2744 bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Flags from RFC 2744 bits; bits that are not known here are dropped.
    pub const fn from_bits_truncate(bits: u32) -> Self {
        Self(bits & 0x1fe)
    }

    /// Whether every flag of `other` is here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl core::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl core::ops::BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl core::ops::BitAnd for Flags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
