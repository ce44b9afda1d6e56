//! The processes of a server as they go to the next one (`spec/takeover.md#estate`).
//!
//! Invariants: what waits for room in a link goes along, in order; a handshaker's time does not begin
//! anew.

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::sys::process::open_pidfd;

use super::super::link::{Link, MAX_MESSAGE};
use super::super::poller::{Keys, Poller};
use super::super::subprocess::Subprocess;
use super::super::takeover::Failed;

/// A process that serves the old server. Its descriptors are its link, itself, and those of the
/// messages that wait for room.
#[derive(Serialize, Deserialize)]
pub(in crate::server) struct Listed {
    pub(in crate::server) process: u32,
    /// Milliseconds that a handshaker may still have.
    pub(in crate::server) left: u64,
    pub(in crate::server) queued: Vec<Queued>,
}

/// A message that waits for room in a link.
#[derive(Serialize, Deserialize)]
pub(in crate::server) struct Queued {
    pub(in crate::server) bytes: ByteBuf,
    /// How many descriptors it has.
    pub(in crate::server) fds: u32,
}

impl Listed {
    fn of(one: &Subprocess, process: u32, left: Duration) -> Self {
        let queued = one.queued();
        let queued = queued.map(|(bytes, fds)| Queued {
            bytes: ByteBuf::from(bytes),
            fds: u32::try_from(fds.len()).unwrap_or(u32::MAX),
        });
        Self {
            process,
            left: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            queued: queued.collect(),
        }
    }

    /// The process, with its descriptors from the front of `fds`.
    pub(super) fn inherit(
        self,
        name: &'static str,
        fds: &mut impl Iterator<Item = OwnedFd>,
        (poller, keys): (&Poller, &mut Keys),
    ) -> Result<(Subprocess, Duration), Failed> {
        let both = (fds.next(), fds.next());
        let (Some(link), Some(pidfd)) = both else {
            return Err(Failed::Garbage);
        };
        let mut link = Link::adopt(link)?;
        let mut messages = Vec::new();
        for Queued { bytes, fds: count } in self.queued {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let of_it: Vec<OwnedFd> = fds.by_ref().take(count).collect();
            if bytes.len() > MAX_MESSAGE || of_it.len() < count {
                return Err(Failed::Garbage);
            }
            messages.push((bytes.into_vec(), of_it));
        }
        link.queue(messages.into_iter());
        let process = (self.process, pidfd);
        let one = Subprocess::inherit(name, process, link, poller, keys)?;
        Ok((one, Duration::from_millis(self.left)))
    }
}

/// Processes of the server, each with its descriptor.
pub(super) type There<'a> = Vec<(&'a Subprocess, OwnedFd)>;

/// Those of `some` that are there, and what is told of them.
pub(super) fn listed(
    some: Vec<(&Subprocess, Duration)>,
) -> Result<(There<'_>, Vec<Listed>), Failed> {
    let mut there = (Vec::new(), Vec::new());
    for (one, left) in some {
        if one.link().is_some() {
            let process = one.process().ok_or(Failed::Gone)?;
            let pidfd = open_pidfd(process)?.ok_or(Failed::Gone)?;
            there.0.push((one, pidfd));
            there.1.push(Listed::of(one, process, left));
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn bytes_of(next: &mut Link) -> (ByteBuf, usize) {
        let (bytes, fds) = next.receive::<ByteBuf>().unwrap().unwrap();
        (bytes, fds.len())
    }

    //= proves spec/takeover.md#estate
    //= proves spec/takeover.md#earlier
    #[test]
    fn what_waits_for_room_goes_along_and_no_time_begins_anew() {
        let (poller, mut keys) = (Poller::new().unwrap(), Keys::default());
        let (mut near, mut far) = Link::pair().unwrap();
        let message = |number: u32| ByteBuf::from(vec![number as u8; 100_000]);
        let mut sent = 0;
        while near.queued().count() < 3 {
            let (fd, _) = crate::sys::socket::pair().unwrap();
            near.send(&message(sent), vec![fd]).unwrap();
            sent += 1;
        }
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let own = u32::try_from(own).unwrap();
        let process = (own, open_pidfd(own).unwrap().unwrap());
        let old = Subprocess::inherit("handshaker", process, near, &poller, &mut keys).unwrap();
        let left = Duration::from_millis(1234);
        let (there, listed) = listed(vec![(&old, left)]).unwrap();
        let listed = postcard::to_allocvec(&listed).unwrap();
        let mut fds = Vec::new();
        for (one, pidfd) in &there {
            let queued = one.queued().flat_map(|(_, fds)| fds);
            let link = one.link().map(AsFd::as_fd);
            let all = link.into_iter().chain([pidfd.as_fd()]);
            let all = all.chain(queued.map(AsFd::as_fd));
            fds.extend(all.map(|fd| fd.try_clone_to_owned().unwrap()));
        }
        assert_eq!(fds.len(), 2 + 3);
        let few = fds.iter().skip(1).map(|fd| fd.try_clone().unwrap());
        let few: Vec<OwnedFd> = few.collect();
        for (fds, whole) in [(few, false), (fds, true)] {
            let [listed]: [Listed; 1] = postcard::from_bytes::<Vec<Listed>>(&listed)
                .unwrap()
                .try_into()
                .ok()
                .unwrap();
            let inherited = listed.inherit("", &mut fds.into_iter(), (&poller, &mut keys));
            let Ok((mut new, time)) = inherited else {
                assert!(!whole);
                continue;
            };
            assert!(whole && time == left);
            for number in 0..sent {
                // As the poller would tell that there is room.
                let _ = new.next::<ByteBuf>();
                assert_eq!(bytes_of(&mut far), (message(number), 1));
            }
            assert!(!new.is_full());
        }
    }
}
