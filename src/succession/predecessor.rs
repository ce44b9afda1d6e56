//! The successor's side: what it gets from its predecessor.
//!
//! Invariants: nothing is accepted before the predecessor has said ACCEPT or is gone; a parcel is
//! acknowledged only after its connections were imported.
//!
//! SECURITY: this process takes a domain, and with it all it will run, from a socket. It takes it
//! only from a socket that the process named in its environment has made, of its own user; what
//! comes over it is checked as if it came from a stranger, lengths first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::wire::{self, Hello};
use super::{Error, VARIABLE};
use crate::codec::Framing;
use crate::ledger::Domain;
use crate::status::Status;
use crate::sys::{fault, process, socket};
use crate::transfer::{Incoming, Laden, Receiver};

/// How long to wait for the offer.
//= spec/succession.md#deadlines
const OFFER_WITHIN: Duration = Duration::from_secs(10);

/// The process that has started this one to succeed it, and what it offers.
pub struct Predecessor {
    socket: OwnedFd,
    domain: Domain,
    listeners: Vec<OwnedFd>,
    note: Vec<u8>,
}

impl Predecessor {
    /// Takes the offer, when this program was started as a successor; none when it was not.
    ///
    /// To be called first: it moves the socket away from descriptor 0, puts `/dev/null` there, and
    /// raises the limit of descriptors. It waits up to ten seconds.
    ///
    /// # Errors
    /// When the program was started as a successor and there is no good offer. The program had
    /// better end: what it was started for goes on in its predecessor, if that lives.
    //= spec/succession.md#start
    pub fn inherited() -> Result<Option<Self>, Error> {
        let Some(socket) = inherited_socket()? else {
            return Ok(None);
        };
        //= spec/succession.md#descriptors
        let most = process::raise_descriptor_limit()?;
        let open = std::fs::read_dir("/proc/self/fd")?.count() as u64;
        let hello = Hello::own(most.saturating_sub(open));
        socket::send_with_fds(&socket, &[io::IoSlice::new(&hello.write())], &[])?;
        fault::point("succession.hello");
        Self::offered(socket).map(Some)
    }

    fn offered(socket: OwnedFd) -> Result<Self, Error> {
        wait(&socket, Instant::now() + OFFER_WITHIN)?;
        let mut message = [0; wire::LONGEST];
        let mut fds = Vec::new();
        let received = socket::recv_with_fds(&socket, &mut message, &mut fds, false)?;
        if received.len == 0 {
            return Err(Error::Gone);
        }
        if received.truncated {
            return Err(Error::Defective);
        }
        let (listeners, note) = wire::read_offer(&message[..received.len])?;
        let mut fds = fds.into_iter();
        let (Some(ledger), Some(keys)) = (fds.next(), fds.next()) else {
            return Err(Error::Defective);
        };
        if fds.len() != listeners {
            return Err(Error::Defective);
        }
        let domain = Domain::from_fds(ledger, keys).map_err(Error::Domain)?;
        fault::point("succession.taken_offer");
        Ok(Self {
            socket,
            domain,
            listeners: fds.collect(),
            note: note.to_vec(),
        })
    }

    /// The domain of the contexts that will come.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The listening sockets, in the predecessor's order. It still accepts: see [`Told::Accept`].
    pub fn take_listeners(&mut self) -> Vec<OwnedFd> {
        core::mem::take(&mut self.listeners)
    }

    /// What the predecessor's program had to say.
    pub fn note(&self) -> &[u8] {
        &self.note
    }

    /// Says that this process can do what its predecessor does. Connections come from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn ready(self) -> Result<Inheritance, Error> {
        let receiver = Receiver::new(self.socket)?;
        match socket::send_with_fds(receiver.socket(), &[io::IoSlice::new(&wire::ready())], &[]) {
            // It is gone: that is heard next.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
        fault::point("succession.ready");
        Ok(Inheritance {
            receiver,
            domain: self.domain,
            is_over: false,
        })
    }

    /// Says why this process cannot, for the predecessor's log; at most 256 bytes are told.
    pub fn refuse(self, reason: &str) {
        let message = wire::refusal(reason);
        // A predecessor that does not hear it hears the end of this process.
        let _ = socket::send_with_fds(&self.socket, &[io::IoSlice::new(&message)], &[]);
    }
}

/// The socket with which this program was started as a successor; none when it was not. Descriptor 0
/// is `/dev/null` then.
//= spec/succession.md#start
pub(crate) fn inherited_socket() -> Result<Option<OwnedFd>, Error> {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let number = value.to_str().and_then(|text| text.parse().ok());
    let number = number.ok_or(Error::NotInherited)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    check(&socket, number)?;
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing).map_err(io::Error::from)?;
    Ok(Some(socket))
}

/// What the predecessor has told.
#[derive(Debug)]
pub enum Told<F: Framing> {
    /// Nothing, for now.
    Nothing,
    /// Connections, which are this process's from now on.
    Arrived {
        /// Each with its context, its socket, and its luggage.
        connections: Vec<Laden<F>>,
        /// Why others of the same parcel did not arrive: they live on in the predecessor.
        refused: Vec<Status>,
    },
    /// The predecessor accepts no more: accept.
    Accept,
    /// There is no more to come: accept, if not before, and go on alone.
    Over {
        /// The predecessor is gone before it had given everything.
        orphaned: bool,
    },
}

/// What comes from the predecessor once this process is ready.
pub struct Inheritance {
    receiver: Receiver,
    domain: Domain,
    is_over: bool,
}

impl Inheritance {
    /// The descriptor to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.receiver.socket()
    }

    /// Takes what is there, without waiting: one parcel at most, so that the connections that have
    /// come are served meanwhile. To be called whenever the socket can be read.
    ///
    /// # Errors
    /// The system's, or [`Error::Defective`]: what has come is this process's, and nothing more
    /// will come.
    pub fn receive<F: Framing>(&mut self) -> Result<Told<F>, Error> {
        if self.is_over {
            return Ok(Told::Nothing);
        }
        match self.receiver.take::<F>(&self.domain)? {
            Incoming::Nothing => Ok(Told::Nothing),
            Incoming::Parcel(deliveries) => {
                // What was imported is this process's already; the predecessor waits for this.
                self.receiver.settle()?;
                Ok(arrived(deliveries))
            }
            Incoming::Word(wire::ACCEPT) => Ok(Told::Accept),
            Incoming::Word(wire::END) => {
                //= spec/succession.md#end
                self.receiver.settle()?;
                fault::point("succession.taking");
                match self.receiver.say(wire::TAKEN) {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                        return Err(error.into());
                    }
                    _ => {}
                }
                fault::point("succession.taken");
                self.is_over = true;
                Ok(Told::Over { orphaned: false })
            }
            Incoming::Word(_) => Err(Error::Defective),
            //= spec/succession.md#orphan
            Incoming::End => {
                self.is_over = true;
                Ok(Told::Over { orphaned: true })
            }
        }
    }
}

fn arrived<F: Framing>(deliveries: Vec<crate::transfer::Delivery<F>>) -> Told<F> {
    let (mut connections, mut refused) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        match delivery {
            Ok((context, Some(socket), luggage)) => connections.push(Laden {
                context,
                socket,
                luggage,
            }),
            // A context without a connection is nobody's to serve.
            Ok((_, None, _)) => {}
            Err(status) => refused.push(status),
        }
    }
    Told::Arrived {
        connections,
        refused,
    }
}

/// That the socket is one that the process with this number, of this user, has made.
//= spec/succession.md#stranger
fn check(socket: &OwnedFd, number: u32) -> Result<(), Error> {
    let is_ours = || -> io::Result<bool> {
        let family = sockopt::socket_domain(socket)?;
        let kind = sockopt::socket_type(socket)?;
        let peer = socket::peer_credentials(socket)?;
        Ok(family == AddressFamily::UNIX
            && kind == SocketType::SEQPACKET
            && peer.pid == number
            && peer.uid == process::uid())
    };
    match is_ours() {
        Ok(true) => Ok(()),
        _ => Err(Error::NotInherited),
    }
}

/// Waits until something can be read.
fn wait(socket: &OwnedFd, until: Instant) -> Result<(), Error> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Error::Late),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::System(error.into())),
        }
    }
}
