//! What a context's owner may decide about its records.

use super::wire::MAX_CONTENT;

/// Zeros added to each record, so that lengths tell less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// None.
    #[default]
    None,
    /// Content and its type fill a multiple of so many bytes (0 and 1 are as none; above 2^14 is
    /// as 2^14), at most 2^14+1.
    Block(u16),
}

/// Limits of one context's records. They travel with it.
///
/// ```
/// use baton::record::{Limits, Padding};
/// let limits = Limits::default().records(1 << 20).padding(Padding::Block(256));
/// assert_eq!(limits, limits.received(u32::MAX), "the default is the most");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(super) records: u32,
    pub(super) received: u32,
    pub(super) fragment: u16,
    pub(super) padding: u16,
}

impl Limits {
    pub(super) const MAX_RECORDS: u32 = 1 << 24;
    pub(super) const MAX_RECEIVED: u32 = 1 << 23;
    pub(super) const MIN_FRAGMENT: u16 = 64;

    /// Records sealed under one key before this side moves to the next: 1 to 2^24, default 2^23.
    /// A number outside is taken as the nearest inside, here and below.
    #[must_use]
    pub const fn records(mut self, records: u32) -> Self {
        self.records = clamp(records, 1, Self::MAX_RECORDS);
        self
    }

    /// Records opened under one key before the peer is asked to move to the next; at twice as
    /// many the session ends. 1 to 2^23, default 2^23.
    #[must_use]
    pub const fn received(mut self, records: u32) -> Self {
        self.received = clamp(records, 1, Self::MAX_RECEIVED);
        self
    }

    /// Most bytes of content in a record sent: 64 to 2^14, the default. Small records reach a
    /// reader on a slow path sooner.
    #[must_use]
    pub const fn fragment(mut self, bytes: u16) -> Self {
        self.fragment = clamp(bytes as u32, Self::MIN_FRAGMENT as u32, MAX_CONTENT as u32) as u16;
        self
    }

    /// The padding of records sent; none by default.
    #[must_use]
    pub const fn padding(mut self, padding: Padding) -> Self {
        self.padding = match padding {
            Padding::None | Padding::Block(..2) => 0,
            Padding::Block(block) => clamp(block as u32, 2, MAX_CONTENT as u32) as u16,
        };
        self
    }

    /// Whether every number is one that the methods above could have set.
    pub(super) fn hold(self) -> bool {
        let block = match self.padding {
            0 => Padding::None,
            block => Padding::Block(block),
        };
        self == Self::default()
            .records(self.records)
            .received(self.received)
            .fragment(self.fragment)
            .padding(block)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            records: 1 << 23,
            received: 1 << 23,
            fragment: MAX_CONTENT as u16,
            padding: 0,
        }
    }
}

const fn clamp(value: u32, least: u32, most: u32) -> u32 {
    if value < least {
        least
    } else if value > most {
        most
    } else {
        value
    }
}
