//! What the server's processes tell each other (`spec/processes.md`).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::session::parcel::Introduction;
use crate::session::user::User;

use super::tally::Handshakes;

/// From the handshaker.
//= spec/processes.md#from-handshaker
#[derive(Serialize, Deserialize)]
pub(super) enum FromHandshaker {
    /// Credentials are read, and what is not needed is given up.
    Loaded,
    /// Connections are accepted.
    Ready,
    /// It cannot start.
    Failed {
        /// Why, for people.
        text: String,
    },
    /// What was counted since this was last told.
    Tally(Box<Handshakes>),
    /// An established context; with its connection.
    Delivery {
        /// What is told of it.
        introduction: Introduction,
        /// A [`crate::session::parcel::Parcel`].
        parcel: ByteBuf,
    },
}

/// To the handshaker.
//= spec/processes.md#to-handshaker
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToHandshaker {
    /// Whether connections are accepted. When they are not, they are for another handshaker, or
    /// wait.
    Accept {
        /// They are.
        yes: bool,
    },
    /// There is no room for more sessions: connections wait or are refused, as the limits say.
    Full,
    /// Accept nothing more, drop the handshakes, end.
    Stop,
}

/// To the zygote.
//= spec/processes.md#to-zygote
#[derive(Serialize, Deserialize)]
pub(super) enum ToZygote {
    /// Start a session; with its connection and its end of the reports.
    Start {
        /// What is told of it.
        introduction: Introduction,
        /// A [`crate::session::parcel::Parcel`].
        parcel: ByteBuf,
        /// Whom it runs as; none where nobody can become another user.
        user: Option<User>,
    },
}

/// From the zygote.
//= spec/processes.md#from-zygote
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromZygote {
    /// A process runs it, or has ended already.
    Started {
        /// The session.
        session: [u8; 16],
        /// The process.
        process: u32,
    },
    /// There was no process to be had.
    NotStarted {
        /// The session.
        session: [u8; 16],
        /// The system's error number.
        error: i32,
    },
    /// A process it had started has ended and was waited for.
    Ended {
        /// The process.
        process: u32,
        /// As `waitpid` tells it.
        status: i32,
    },
}
