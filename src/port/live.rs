//! A session's context, in either framing.

use crate::channel::{Channel, Messages, Opened};
use crate::context::{Context, Facts};
use crate::exit::SessionIdentifier;
use crate::record::{Alert, Record};
use crate::status::Status;

/// The context of an established session.
// One exists for each session, in a box.
#[allow(clippy::large_enum_variant)]
pub enum Live {
    /// TLS records.
    Record(Context<Record>),
    /// Message tokens, as a stream.
    Message(Messages),
}

macro_rules! either {
    ($live:expr, $channel:ident => $do:expr) => {
        match $live {
            Live::Record($channel) => $do,
            Live::Message($channel) => $do,
        }
    };
}

impl Live {
    /// The session identifier.
    pub fn session(&self) -> SessionIdentifier {
        either!(self, channel => Channel::session(channel))
    }

    /// What is known of the context.
    pub fn facts(&self) -> &Facts {
        either!(self, channel => Channel::facts(channel))
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Status> {
        either!(self, channel => Channel::feed(channel, bytes))
    }

    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<Opened, Status> {
        either!(self, channel => Channel::read(channel, out))
    }

    pub(super) fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        either!(self, channel => Channel::write(channel, data, out))
    }

    pub(super) fn answer(&mut self, out: &mut Vec<u8>) {
        either!(self, channel => Channel::answer(channel, out));
    }

    pub(super) fn close(self, out: &mut Vec<u8>) {
        either!(self, channel => Channel::close(channel, out));
    }

    /// Ends the context with a fatal alert, which message framing has none of.
    pub(super) fn abort(self, alert: Alert, out: &mut Vec<u8>) {
        match self {
            Self::Record(mut context) => {
                // A context that is gone has nothing to say.
                let _ = context.abort(alert);
                Channel::answer(&mut context, out);
            }
            Self::Message(messages) => messages.close(out),
        }
    }

    /// Gives back what an idle context does not need.
    pub(super) fn rest(&mut self) {
        if let Self::Record(context) = self {
            context.release_buffers();
        }
    }
}

impl core::fmt::Debug for Live {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Live({:?})", self.session())
    }
}
