//! What a token is bound to, and whether this process is what it is bound to.

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use crate::codec::{self, Framing};
use crate::ledger::{Departure, Permitted};
use crate::status::{Minor, Status};
use crate::sys::process::{self, Identity};
use crate::sys::{clock, socket};

use super::Export;

/// Who may import a token (C6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importer {
    /// Any process of the domain.
    Anyone,
    /// A process with the exporter's effective user id.
    SameUser,
    /// A process with this effective user id.
    User(u32),
    /// A process of this process group.
    ProcessGroup(u32),
    /// This one process, not a later one of the same number.
    Process(Identity),
}

impl From<Importer> for Permitted {
    fn from(importer: Importer) -> Self {
        match importer {
            Importer::Anyone => Self::Anyone,
            Importer::SameUser => Self::User(process::uid()),
            Importer::User(uid) => Self::User(uid),
            Importer::ProcessGroup(group) => Self::ProcessGroup(group),
            Importer::Process(who) => who.into(),
        }
    }
}

/// The first part of what is sealed: it is checked before the state behind it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binding {
    pub(super) context: ByteArray<16>,
    pub(super) index: u32,
    pub(super) epoch: u64,
    /// CLOCK_BOOTTIME milliseconds: setting the wall clock back does not lengthen it.
    pub(super) deadline: u64,
    pub(super) boot: ByteArray<16>,
    pub(super) framing: u8,
    pub(super) importer: Permitted,
    pub(super) cookie: Option<u64>,
}

impl Binding {
    pub(super) fn new<F: Framing>(
        departure: Departure,
        how: &Export,
        deadline: u64,
    ) -> Result<Self, Status> {
        Ok(Self {
            context: ByteArray::new(departure.id),
            index: departure.index,
            epoch: departure.epoch,
            deadline,
            boot: ByteArray::new(process::boot_id().map_err(|_| Status::from(Minor::System))?),
            framing: F::CODE,
            importer: how.importer.into(),
            cookie: how.cookie,
        })
    }

    /// The same binding for another socket: a bundle's members differ in nothing else that the
    /// exporter chooses.
    pub(super) fn tied(mut self, cookie: Option<u64>) -> Self {
        self.cookie = cookie;
        self
    }

    pub(super) fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Status> {
        codec::decode(bytes).map_err(|_| Minor::TokenState.into())
    }

    pub(super) fn departure(&self) -> Departure {
        Departure {
            id: self.context.into_array(),
            index: self.index,
            epoch: self.epoch,
        }
    }

    /// Whether this process, now and beside `socket`, is whom the token was sealed for.
    //= spec/token.md#binding
    pub(super) fn admits<F: Framing>(&self, socket: Option<BorrowedFd<'_>>) -> Result<(), Status> {
        let refused = |minor: Minor| Err(Status::from(minor));
        let boot = process::boot_id().map_err(|_| Status::from(Minor::System))?;
        if self.boot.into_array() != boot {
            return refused(Minor::TokenBoot);
        }
        if self.framing != F::CODE {
            return refused(Minor::TokenFraming);
        }
        if !self.importer.is_this_process() {
            return refused(Minor::WrongImporter);
        }
        if clock::boottime_ms() >= self.deadline {
            return refused(Minor::TokenExpired);
        }
        match (self.cookie, socket) {
            (None, _) => Ok(()),
            (Some(cookie), Some(fd)) if socket::cookie(fd).is_ok_and(|c| c == cookie) => Ok(()),
            (Some(_), _) => refused(Minor::WrongSocket),
        }
    }
}
