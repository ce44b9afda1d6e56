//! The result of an authentication by a security module: a ticket.

use core::fmt;
use core::ops::{BitOr, Deref};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

use super::{List, Unfit, decode_bytes};

/// The state bits of a [`Ticket`].
///
/// ```
/// use baton::exit::TicketState;
/// let state = TicketState::VALID | TicketState::STICKY;
/// assert!(state.contains(TicketState::VALID) && !state.contains(TicketState::REFRESH));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TicketState(u16);

impl TicketState {
    /// It holds no data.
    pub const EMPTY: Self = Self(1);
    /// Its holder is authenticated.
    pub const VALID: Self = Self(1 << 1);
    /// It stands for the process itself, the default where nobody logged in.
    pub const DEFAULT: Self = Self(1 << 2);
    /// It stands for the system's administrator ("system high").
    pub const SYSTEM_HIGH: Self = Self(1 << 3);
    /// It stands for anybody, without a name ("system low").
    pub const SYSTEM_LOW: Self = Self(1 << 4);
    /// It was kept, and must be renewed before it is used.
    pub const REFRESH: Self = Self(1 << 5);
    /// It may not be used: refused, or cleared.
    pub const INVALID: Self = Self(1 << 6);
    /// Its data is a security descriptor.
    pub const DESCRIPTOR: Self = Self(1 << 7);
    /// Its data is a token of the operating system.
    pub const TOKEN: Self = Self(1 << 8);
    /// It belongs to the caller: the module never frees it, it clears it.
    pub const STICKY: Self = Self(1 << 9);
    /// Its data is a credential.
    pub const CREDENTIAL: Self = Self(1 << 10);
    /// Kept for later use; carried as they came.
    pub const RESERVED: Self = Self(0xf800);

    /// The state of 16 bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether every bit of `other` is here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for TicketState {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a security module answers about a user it knows; it travels inside the interprocess token.
///
/// The data are a secret: wiped when dropped or cleared, at most [`Ticket::DATA_LIMIT`] bytes, and
/// there is no `Debug` and no `Clone`.
///
/// ```
/// use baton::exit::{Ticket, TicketState};
/// let mut ticket = Ticket::new(1, 7, TicketState::VALID, b"a proof".to_vec())?;
/// assert_eq!((ticket.uses(), ticket.module(), ticket.repository()), (0, 1, 7));
/// ticket.count_use();
/// ticket.clear();
/// assert!(ticket.data().is_empty() && ticket.state().contains(TicketState::INVALID));
/// # Ok::<(), baton::exit::Unfit>(())
/// ```
pub struct Ticket {
    uses: u32,
    module: u32,
    repository: u32,
    state: TicketState,
    data: Vec<u8>,
}

impl Ticket {
    /// The most bytes of data.
    pub const DATA_LIMIT: usize = 8192;
    /// The security module of what needs no authentication.
    pub const PUBLIC: u32 = 0;

    /// A ticket of one security module for one repository, not yet used.
    ///
    /// Refused when the data are too long, when [`TicketState::EMPTY`] and data come together, or
    /// [`TicketState::VALID`] and [`TicketState::INVALID`].
    pub fn new(
        module: u32,
        repository: u32,
        state: TicketState,
        data: Vec<u8>,
    ) -> Result<Self, Unfit> {
        Self::check(Self {
            uses: 0,
            module,
            repository,
            state,
            data,
        })
    }

    fn check(self) -> Result<Self, Unfit> {
        if self.data.len() > Self::DATA_LIMIT {
            return Err(Unfit::TooLong("ticket data", Self::DATA_LIMIT));
        }
        let empty_with_data = self.state.contains(TicketState::EMPTY) && !self.data.is_empty();
        if empty_with_data
            || self
                .state
                .contains(TicketState::VALID | TicketState::INVALID)
        {
            return Err(Unfit::Impossible("ticket state"));
        }
        Ok(self)
    }

    /// How often it was used; it stays at 2^32-1.
    pub fn uses(&self) -> u32 {
        self.uses
    }

    /// The security module that gave it; [`Ticket::PUBLIC`] when none was asked.
    pub fn module(&self) -> u32 {
        self.module
    }

    /// The repository it is for.
    pub fn repository(&self) -> u32 {
        self.repository
    }

    /// The state bits.
    pub fn state(&self) -> TicketState {
        self.state
    }

    /// The module's data.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Counts one use.
    pub fn count_use(&mut self) {
        self.uses = self.uses.saturating_add(1);
    }

    /// Wipes the data and marks the ticket empty and invalid: what becomes of a sticky ticket
    /// instead of being freed. The other marks stay.
    pub fn clear(&mut self) {
        self.data.zeroize();
        let marks = self.state.0 & !TicketState::VALID.0;
        self.state = TicketState(marks) | TicketState::EMPTY | TicketState::INVALID;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.data.zeroize();
    }
}

impl Serialize for Ticket {
    fn serialize<S: Serializer>(&self, encoder: S) -> Result<S::Ok, S::Error> {
        Raw {
            uses: self.uses,
            module: self.module,
            repository: self.repository,
            state: self.state.0,
            data: Data::Out(&self.data),
        }
        .serialize(encoder)
    }
}

impl<'de> Deserialize<'de> for Ticket {
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        let Raw {
            uses,
            module,
            repository,
            state,
            data,
        } = Raw::deserialize(decoder)?;
        let Data::In(data) = data else {
            return Err(D::Error::custom(Unfit::Impossible("ticket")));
        };
        let ticket = Self {
            uses,
            module,
            repository,
            state: TicketState(state),
            data,
        };
        Self::check(ticket).map_err(D::Error::custom)
    }
}

/// A ticket as it is encoded: its fields in order, the data as bytes.
#[derive(Serialize, Deserialize)]
struct Raw<'a> {
    uses: u32,
    module: u32,
    repository: u32,
    state: u16,
    #[serde(borrow)]
    data: Data<'a>,
}

/// Borrowed on the way out, so that no second copy needs wiping; owned on the way in.
enum Data<'a> {
    Out(&'a [u8]),
    In(Vec<u8>),
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, encoder: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Out(data) => encoder.serialize_bytes(data),
            Self::In(data) => encoder.serialize_bytes(data),
        }
    }
}

impl<'de> Deserialize<'de> for Data<'_> {
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        decode_bytes(decoder, "ticket data", Ticket::DATA_LIMIT).map(Self::In)
    }
}

/// The tickets of one session, at most [`Tickets::LIMIT`].
#[derive(Default, Serialize)]
pub struct Tickets(Vec<Ticket>);

impl Tickets {
    /// The most tickets a session carries.
    pub const LIMIT: usize = 16;

    /// Adds one. Refused, and the ticket is dropped, when there are [`Tickets::LIMIT`] already.
    pub fn push(&mut self, ticket: Ticket) -> Result<(), Unfit> {
        if self.0.len() == Self::LIMIT {
            return Err(Unfit::TooMany("tickets", Self::LIMIT));
        }
        self.0.push(ticket);
        Ok(())
    }

    /// The tickets, to count uses or clear them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Ticket> {
        self.0.iter_mut()
    }
}

impl Deref for Tickets {
    type Target = [Ticket];

    fn deref(&self) -> &[Ticket] {
        &self.0
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({})", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Tickets {
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        List::<Ticket, { Self::LIMIT }>::deserialize(decoder).map(|list| Self(list.0))
    }
}
