//! The predecessor's side: the successor it has started.
//!
//! Invariants: before READY of the process that was started, nothing is given; a parcel is kept
//! until it is acknowledged; while a successor that is not done exists, it can be killed and waited
//! for, as its number is its own until then.
//!
//! SECURITY: this process holds everything, and believes of its successor nothing but what the
//! kernel says. A successor that was taken over has what it was given, and can make this process
//! do no more than keep what is left.

use core::marker::PhantomData;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use super::wire::{self, Answer};
use super::{Error, Offer, Patience, Program};
use crate::codec::Framing;
use crate::ledger::Domain;
use crate::status::Status;
use crate::sys::{fault, process, socket};
use crate::transfer::{Export, Importer, Laden, Parcel, Sender, load};

/// How long a token is good that nobody has asked back for: longer than any wait for an answer,
/// so that what comes back can be imported.
const LIFETIME: Duration = Duration::from_secs(600);

/// What was heard of a successor.
#[derive(Debug)]
pub enum Heard<F: Framing> {
    /// Nothing that calls for something.
    Nothing,
    /// It is ready: connections can be handed over.
    Ready,
    /// It could not take these connections, and takes the others. They live here.
    Returned(Vec<Laden<F>>),
    /// It has everything, and this process has nothing more to do for it.
    Taken,
}

/// What a succession that failed has left.
#[derive(Debug)]
pub struct TakenBack<F: Framing> {
    /// The connections that came back: each works as before.
    pub connections: Vec<Laden<F>>,
    /// How many ended with the successor.
    pub lost: usize,
    /// How the successor ended, where that could be known.
    pub ended: Option<ExitStatus>,
}

/// A successor that was started: a descriptor and a deadline for the server's loop.
///
/// Whenever the [`socket`](Self::socket) can be read, or written while something is
/// [unsent](Self::has_unsent), and when the [`deadline`](Self::deadline) has come,
/// [`hear`](Self::hear). Dropped before it was [`Heard::Taken`], it kills the successor, and what
/// that had not acknowledged ends: use [`take_back`](Self::take_back).
pub struct Successor<F: Framing> {
    child: Child,
    socket: OwnedFd,
    domain: Domain,
    patience: Patience,
    stage: Stage,
    /// Since when an answer is due.
    since: Instant,
    framing: PhantomData<fn() -> F>,
}

enum Stage {
    /// HELLO is due; then this is offered.
    Started(Pending),
    /// READY is due.
    Offered,
    /// It is ready.
    Giving(Box<Giving>),
    /// It has everything.
    Taken,
    /// Nothing comes after an error.
    Failed,
}

/// An offer that is not made yet, with its own copies of the sockets.
struct Pending {
    message: Vec<u8>,
    listeners: Vec<OwnedFd>,
    connections: usize,
}

struct Giving {
    sender: Sender,
    unsent: VecDeque<Unsent>,
    /// Said by the successor, and not yet looked at.
    words: Vec<u8>,
    ended: bool,
}

enum Unsent {
    Parcel(Parcel),
    Word(u8),
}

impl<F: Framing> Successor<F> {
    /// Starts `program`. It goes on by itself; hear of it.
    ///
    /// # Errors
    /// [`Error::Start`] when the program cannot be executed, [`Error::OfferTooLarge`], or the
    /// system's. Nothing has changed.
    //= spec/succession.md#start
    pub fn start(program: &Program, offer: &Offer<'_>, patience: Patience) -> Result<Self, Error> {
        let message = wire::offer(wire::VERSION, offer.listeners.len(), offer.note)
            .ok_or(Error::OfferTooLarge)?;
        let copies = offer.listeners.iter().map(BorrowedFd::try_clone_to_owned);
        let pending = Pending {
            message,
            listeners: copies.collect::<io::Result<_>>()?,
            connections: offer.connections,
        };
        let (near, far) = socket::pair()?;
        //= spec/succession.md#stranger
        socket::name_senders(&near, true)?;
        socket::set_blocking(&near, false)?;
        let child = program.start(far).map_err(Error::Start)?;
        fault::point("succession.started");
        Ok(Self {
            child,
            socket: near,
            domain: offer.domain.clone(),
            patience,
            stage: Stage::Started(pending),
            since: Instant::now(),
            framing: PhantomData,
        })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The descriptor to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits for room in the socket.
    pub fn has_unsent(&self) -> bool {
        matches!(&self.stage, Stage::Giving(giving) if !giving.unsent.is_empty())
    }

    /// When to hear at the latest; none when nothing is due.
    //= spec/succession.md#deadlines
    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Started(_) | Stage::Offered => Some(self.since + self.patience.ready),
            // Something was taken from the socket that is still to be heard.
            Stage::Giving(giving) if !giving.words.is_empty() => Some(self.since),
            Stage::Giving(giving) if giving.is_due() => Some(self.since + self.patience.answer),
            _ => None,
        }
    }

    /// Whether it is ready, and what was given last has left: then it is time to give more.
    pub fn has_room(&self) -> bool {
        matches!(&self.stage, Stage::Giving(giving) if giving.unsent.is_empty() && !giving.ended)
    }

    /// Gives connections, at most [`crate::transfer::MAX_MEMBERS`] at once to keep the others
    /// served meanwhile. Those that cannot travel at the moment come back at once, with the reason;
    /// so do all when it is not the time to give.
    //= spec/succession.md#hand-over
    pub fn hand_over(&mut self, connections: Vec<Laden<F>>) -> Vec<(Laden<F>, Status)> {
        let Stage::Giving(giving) = &mut self.stage else {
            let early = Status::from(crate::status::Minor::NotTransferable);
            return connections.into_iter().map(|one| (one, early)).collect();
        };
        let how = Export::default().to(Importer::SameUser).within(LIFETIME);
        let loaded = load(connections, &how);
        if !giving.is_due() {
            self.since = Instant::now();
        }
        giving
            .unsent
            .extend(loaded.parcels.into_iter().map(Unsent::Parcel));
        let stayed = loaded.kept.into_iter().map(|(kept, socket, luggage)| {
            let laden = Laden {
                context: kept.context,
                socket,
                luggage,
            };
            (laden, kept.status)
        });
        // What fails is heard.
        let _ = giving.send();
        stayed.collect()
    }

    /// Says that this process accepts no more, from now on, and that the successor is to. Nothing
    /// before it is ready.
    //= spec/succession.md#accepting
    pub fn accept(&mut self) {
        self.say(wire::ACCEPT);
        fault::point("succession.accepting");
    }

    /// Says that there is no more to give. Nothing before it is ready.
    //= spec/succession.md#end
    pub fn end(&mut self) {
        if self.has_room() {
            self.say(wire::END);
            if let Stage::Giving(giving) = &mut self.stage {
                giving.ended = true;
            }
            fault::point("succession.ended");
        }
    }

    fn say(&mut self, word: u8) {
        if let Stage::Giving(giving) = &mut self.stage {
            if !giving.is_due() {
                self.since = Instant::now();
            }
            giving.unsent.push_back(Unsent::Word(word));
            let _ = giving.send();
        }
    }

    /// Takes what has come, and sends what has room, without waiting.
    ///
    /// # Errors
    /// Any means that the succession has failed: [`take_back`](Self::take_back) what there is.
    pub fn hear(&mut self) -> Result<Heard<F>, Error> {
        let heard = match &mut self.stage {
            Stage::Started(_) | Stage::Offered => self.greet()?,
            Stage::Giving(_) => self.settle()?,
            Stage::Taken => Heard::Taken,
            Stage::Failed => return Err(Error::Defective),
        };
        let is_late = self.deadline().is_some_and(|due| Instant::now() >= due);
        if is_late && matches!(heard, Heard::Nothing) {
            return Err(Error::Late);
        }
        Ok(heard)
    }

    /// Up to READY.
    fn greet(&mut self) -> Result<Heard<F>, Error> {
        while let Some(answer) = self.answer()? {
            match (core::mem::replace(&mut self.stage, Stage::Failed), answer) {
                (Stage::Started(pending), Answer::Hello(hello)) => {
                    hello.agree()?;
                    //= spec/succession.md#descriptors
                    let needed = (2 + pending.listeners.len() + pending.connections) as u64;
                    if hello.descriptors < needed {
                        return Err(Error::FewDescriptors {
                            needed,
                            allowed: hello.descriptors,
                        });
                    }
                    pending.send(&self.socket, &self.domain)?;
                    fault::point("succession.offered");
                    self.stage = Stage::Offered;
                }
                (Stage::Offered, Answer::Ready) => {
                    socket::name_senders(&self.socket, false)?;
                    self.stage = Stage::Giving(Box::new(Giving {
                        sender: Sender::new(self.socket.try_clone()?)?,
                        unsent: VecDeque::new(),
                        words: Vec::new(),
                        ended: false,
                    }));
                    self.since = Instant::now();
                    return Ok(Heard::Ready);
                }
                (_, Answer::Refusal(reason)) => return Err(Error::Refused(reason)),
                _ => return Err(Error::Defective),
            }
        }
        Ok(Heard::Nothing)
    }

    /// The next message before the passage, if it is the process's that was started.
    //= spec/succession.md#stranger
    fn answer(&self) -> Result<Option<Answer>, Error> {
        let mut message = [0; wire::LONGEST];
        let signed = match socket::recv_signed(&self.socket, &mut message) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?,
        };
        if signed.len == 0 {
            return Err(Error::Gone);
        }
        let is_child =
            |sender: socket::Peer| sender.pid == self.child.id() && sender.uid == process::uid();
        if !signed.sender.is_some_and(is_child) {
            return Err(Error::Stranger);
        }
        if signed.cut {
            return Err(Error::Defective);
        }
        Answer::read(&message[..signed.len]).map(Some)
    }

    /// Answers to what was given.
    fn settle(&mut self) -> Result<Heard<F>, Error> {
        let Stage::Giving(giving) = &mut self.stage else {
            return Ok(Heard::Nothing);
        };
        giving.send()?;
        let before = giving.sender.unacknowledged();
        let settled = giving.sender.settle();
        giving.words.extend(giving.sender.take_words());
        if giving.sender.unacknowledged() < before {
            self.since = Instant::now();
        }
        let refused = giving.sender.take_refused();
        let all = giving.ended && giving.unsent.is_empty() && giving.sender.unacknowledged() == 0;
        if !refused.is_empty() {
            //= spec/succession.md#refused
            let (connections, _) = take_back(refused, &self.domain);
            return Ok(Heard::Returned(connections));
        }
        match core::mem::take(&mut giving.words)[..] {
            [] => {}
            [wire::TAKEN] if all => {
                self.stage = Stage::Taken;
                return Ok(Heard::Taken);
            }
            _ => return Err(Error::Defective),
        }
        settled?;
        Ok(Heard::Nothing)
    }

    /// Ends a succession that has failed: kills the successor, waits for its end, and imports here
    /// whatever it had not acknowledged and had not imported.
    //= spec/succession.md#back
    pub fn take_back(mut self) -> TakenBack<F> {
        let ended = self.stop();
        let (connections, lost) = match core::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Giving(giving) => take_back(giving.abandon(), &self.domain),
            _ => (Vec::new(), 0),
        };
        TakenBack {
            connections,
            lost,
            ended,
        }
    }

    fn stop(&mut self) -> Option<ExitStatus> {
        // Not waited for yet, so the number is its own; if it has ended, there is nothing to kill.
        let _ = self.child.kill();
        self.child.wait().ok()
    }
}

impl<F: Framing> Drop for Successor<F> {
    fn drop(&mut self) {
        // Nobody goes on with what it has been given in part; once it is stopped, twice is nothing.
        if !matches!(self.stage, Stage::Taken) {
            self.stop();
        }
    }
}

impl Pending {
    fn send(&self, socket: &OwnedFd, domain: &Domain) -> io::Result<()> {
        // A kept domain is its keeper's: no member can give it away.
        let own = domain.fds().ok_or(io::ErrorKind::Unsupported)?.into_iter();
        let fds: Vec<_> = own.chain(self.listeners.iter().map(AsFd::as_fd)).collect();
        socket::send_with_fds(socket, &[io::IoSlice::new(&self.message)], &fds).map(drop)
    }
}

impl Giving {
    /// Whether something is unanswered.
    fn is_due(&self) -> bool {
        self.ended || !self.unsent.is_empty() || self.sender.unacknowledged() > 0
    }

    /// Sends as much as there is room for.
    fn send(&mut self) -> io::Result<()> {
        while let Some(next) = self.unsent.pop_front() {
            let (next, error) = match next {
                Unsent::Parcel(parcel) => match self.sender.post(parcel) {
                    Ok(()) => continue,
                    Err((parcel, error)) => (Unsent::Parcel(parcel), error),
                },
                Unsent::Word(word) => match self.sender.say(word) {
                    Ok(()) => continue,
                    Err(error) => (Unsent::Word(word), error),
                },
            };
            self.unsent.push_front(next);
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(()),
                _ => Err(error),
            };
        }
        Ok(())
    }

    /// All parcels of which it is not known that everything was imported.
    fn abandon(mut self) -> Vec<Parcel> {
        // Answers that came before its end spare an import that would be refused.
        let _ = self.sender.settle();
        let mut parcels = self.sender.abandon();
        let unsent = self.unsent.into_iter();
        parcels.extend(unsent.filter_map(|unsent| match unsent {
            Unsent::Parcel(parcel) => Some(parcel),
            Unsent::Word(_) => None,
        }));
        parcels
    }
}

/// Imports what is importable of parcels that came back; answers also how many contexts are not.
fn take_back<F: Framing>(parcels: Vec<Parcel>, domain: &Domain) -> (Vec<Laden<F>>, usize) {
    let (mut connections, mut lost) = (Vec::new(), 0);
    for parcel in parcels {
        let members = parcel.sockets().len();
        match parcel.take_back(domain) {
            Ok(outcomes) => {
                let before = connections.len();
                connections.extend(outcomes.into_iter().flatten());
                lost += members - (connections.len() - before);
            }
            Err(_) => lost += members,
        }
    }
    (connections, lost)
}
