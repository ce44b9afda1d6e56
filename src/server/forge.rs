//! What other processes tell those of the server, for fuzzing only: each message read as its reader
//! reads it, sessions that are told of, and a takeover from a server that hands over what it likes.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use crate::exit::SessionIdentifier;
use crate::ledger;
use crate::ledger::keeper::{KEYS, Keeper, Options, Role};
use crate::secret::Slot;
use crate::session::about::About;
use crate::session::parcel::{Introduction, Parcel};
use crate::session::report::{self, Ending, Reason, Report, Reporter};
use crate::session::user::{Account, User};
use crate::sys::socket;

use super::link::{Link, decode};
use super::poller::{Keys, Poller};
use super::sessions::{Ordered, Pending, Sessions};
use super::supervisor::{self, Estate, Inherited, inherit};
use super::takeover::{FromPredecessor, FromSuccessor};
use super::tally::Handshakes;
use super::telling::{FromHandshaker, FromZygote, ToHandshaker, ToZygote};
use super::{accounts, passwords, takeover};

/// How many kinds of messages [`read`] knows.
pub const KINDS: u8 = 8;

/// Reads a message of a kind, and does with it what its reader does first. Answers it as it is
/// written; none when it is none.
pub fn read(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind % KINDS {
        0 => again::<FromHandshaker>(bytes, |message| {
            if let FromHandshaker::Tally(more) = &message {
                let mut tally = Handshakes::default();
                tally.add(more);
                tally.add(more);
            }
            if let Some(pending) = Pending::delivered(message, vec![one_end()?]) {
                unpack(&pending.introduction, &pending.parcel, pending.socket);
            }
            Some(())
        }),
        1 => again::<ToHandshaker>(bytes, |_| Some(())),
        2 => again::<ToZygote>(bytes, |message| {
            let ToZygote::Start {
                introduction,
                parcel,
                ..
            } = message;
            unpack(&introduction, &parcel, one_end()?);
            Some(())
        }),
        3 => again::<FromZygote>(bytes, |_| Some(())),
        4 => again::<FromSuccessor>(bytes, |_| Some(())),
        5 => again::<FromPredecessor>(bytes, |_| Some(())),
        6 => again::<Report>(bytes, |message| {
            if let Report::Ended(ending) = message {
                let _ = ending.reason.to_string();
            }
            Some(())
        }),
        _ => again::<Estate>(bytes, |_| Some(())),
    }
}

/// Messages of every kind but the estate, which [`Handed`] has, as they are written.
pub fn samples() -> Vec<(u8, Vec<u8>)> {
    let mut samples = Vec::new();
    let introduction = introduction(5, Some("CN=someone".to_owned()));
    let parcel = ByteBuf::from(b"\x03tok\x02in\x03out");
    let user = User {
        uid: 1000,
        gid: 100,
        groups: vec![7, 70_000],
        account: Some(Account {
            name: "someone".to_owned(),
            home: "/home/someone".to_owned(),
            shell: "/bin/sh".to_owned(),
        }),
    };
    let session = [5; 16];
    let mut put = |kind: u8, written: postcard::Result<Vec<u8>>| {
        samples.extend(written.ok().map(|written| (kind, written)));
    };
    let text = "no certificate".to_owned();
    let tally = Box::default();
    for message in [
        FromHandshaker::Loaded,
        FromHandshaker::Ready,
        FromHandshaker::Failed { text },
        FromHandshaker::Tally(tally),
        FromHandshaker::Delivery {
            introduction: introduction.clone(),
            parcel: parcel.clone(),
        },
    ] {
        put(0, postcard::to_allocvec(&message));
    }
    for message in [
        ToHandshaker::Accept { yes: true },
        ToHandshaker::Full,
        ToHandshaker::Stop,
    ] {
        put(1, postcard::to_allocvec(&message));
    }
    let start = ToZygote::Start {
        introduction,
        parcel,
        user: Some(user),
    };
    put(2, postcard::to_allocvec(&start));
    let (process, status, error) = (0x4000_0001, 9, 11);
    for message in [
        FromZygote::Started { session, process },
        FromZygote::NotStarted { session, error },
        FromZygote::Ended { process, status },
    ] {
        put(3, postcard::to_allocvec(&message));
    }
    for message in [
        FromSuccessor::Hello { version: 1 },
        FromSuccessor::Ready,
        FromSuccessor::Refused {
            text: "busy".to_owned(),
        },
        FromSuccessor::Taken,
        FromSuccessor::Begun,
    ] {
        put(4, postcard::to_allocvec(&message));
    }
    for message in [
        FromPredecessor::Offer {
            version: 1,
            shared: true,
        },
        FromPredecessor::Piece {
            bytes: ByteBuf::from(b"piece"),
        },
        FromPredecessor::Descriptors,
        FromPredecessor::Complete,
        FromPredecessor::Go,
    ] {
        put(5, postcard::to_allocvec(&message));
    }
    let ending = Ending {
        reason: Reason::System(104),
        received: 70_000,
        sent: 3,
        hops: 2,
    };
    for message in [
        Report::Running { process, hops: 1 },
        Report::Command { process },
        Report::Moving,
        Report::Ended(ending),
    ] {
        put(6, postcard::to_allocvec(&message));
    }
    samples
}

fn again<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    then: impl FnOnce(T) -> Option<()>,
) -> Option<Vec<u8>> {
    let message: T = decode(bytes)?;
    let written = postcard::to_allocvec(&message).ok()?;
    then(message)?;
    Some(written)
}

fn one_end() -> Option<OwnedFd> {
    socket::pair().ok().map(|(one, _)| one)
}

fn unpack(introduction: &Introduction, parcel: &[u8], socket: OwnedFd) {
    let _ = (introduction.cipher(), introduction.framing());
    if let Some(parcel) = Parcel::from_bytes(introduction, parcel, TcpStream::from(socket)) {
        let _ = parcel.about.lines();
        let written = parcel.to_bytes();
        let length = |bytes: Vec<u8>| {
            Parcel::from_bytes(introduction, &bytes, parcel.socket)
                .map(|parcel| parcel.unsent.len())
        };
        assert_eq!(written.and_then(length), Some(parcel.unsent.len()));
    }
}

/// The user of a name with its groups, of the two files of accounts.
///
/// # Errors
/// When it is in too many groups.
pub fn account(passwd: &[u8], group: &[u8], name: &str) -> io::Result<Option<User>> {
    let user = accounts::user(passwd, name);
    user.map(|user| accounts::with_groups(user, group, name))
        .transpose()
}

/// Why a password file is none.
///
/// # Errors
/// That.
pub fn password_file(bytes: &[u8]) -> Result<(), passwords::Error> {
    passwords::File::parse(bytes).map(drop)
}

const SMALL: Options = Options {
    ledger: ledger::Options {
        capacity: 64,
        processes: 32,
        collect: true,
    },
    quota: 4,
    longest_transit: Duration::from_secs(60),
};

fn introduction(session: u8, user: Option<String>) -> Introduction {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let about = About {
        session: SessionIdentifier::from([session; 16]),
        remote: address,
        local: address,
        cipher: "none",
        framing: "record",
        user,
        resumed: false,
        handshake_process: 1,
        processes: Vec::new(),
        hops: 0,
    };
    Introduction::new(&about, 0x1301)
}

fn pending(session: u8) -> io::Result<Pending> {
    let introduction = introduction(session, None);
    let parcel = ByteBuf::from([session; 4]);
    let delivery = FromHandshaker::Delivery {
        introduction,
        parcel,
    };
    let pending = Pending::delivered(delivery, vec![socket::pair()?.0]);
    pending.ok_or(io::ErrorKind::InvalidData.into())
}

/// Sessions that a zygote and their own processes tell of.
pub struct Told {
    keeper: Keeper,
    poller: Poller,
    sessions: Sessions,
    reporters: Vec<Option<Reporter>>,
}

impl Told {
    /// How many sessions there are.
    pub const SESSIONS: u8 = 3;

    /// Sessions for which processes are ordered.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        let mut told = Self {
            keeper: Keeper::new(&SMALL)?,
            poller: Poller::new()?,
            sessions: Sessions::default(),
            reporters: Vec::new(),
        };
        for session in 0..Self::SESSIONS {
            let reporter = order(&mut told.sessions, &mut told.keeper, &told.poller, session)?;
            told.reporters.push(Some(reporter));
        }
        Ok(told)
    }

    /// A message of the zygote.
    pub fn zygote(&mut self, bytes: &[u8]) {
        match decode(bytes) {
            Some(FromZygote::Started { session, process }) => {
                self.sessions.started(session.into(), process);
            }
            Some(FromZygote::NotStarted { session, .. }) => {
                drop(self.sessions.not_started(session.into(), &self.poller));
            }
            Some(FromZygote::Ended { process, status }) => {
                let status = ExitStatus::from_raw(status);
                self.sessions
                    .ended(process, status, &mut self.keeper, &self.poller);
            }
            None => {}
        }
    }

    /// A message of a session's process; its end when there is nothing in it.
    pub fn session(&mut self, session: u8, bytes: &[u8]) {
        let at = session % Self::SESSIONS;
        if let Some(reporter) = self.reporters.get_mut(usize::from(at)) {
            match bytes {
                [] => drop(reporter.take()),
                bytes => {
                    if let Some(reporter) = reporter {
                        let _ = socket::send_now(reporter, bytes);
                    }
                }
            }
        }
        self.sessions
            .read(u64::from(at), &mut self.keeper, &self.poller);
    }

    /// The end of the zygote.
    pub fn zygote_ended(&mut self, was_child: bool) {
        self.sessions.zygote_ended(0, was_child);
    }

    /// What there is to do in between. Answers how many sessions there are.
    ///
    /// # Errors
    /// The system's.
    pub fn settle(&mut self) -> io::Result<usize> {
        self.keeper.turn(Some(Duration::ZERO))?;
        drop(self.sessions.settle(&mut self.keeper));
        Ok(self.sessions.list().len())
    }
}

fn order(
    sessions: &mut Sessions,
    keeper: &mut Keeper,
    poller: &Poller,
    session: u8,
) -> io::Result<Reporter> {
    let key = u64::from(session);
    let (reporter, reports) = report::channel()?;
    poller.add(&reports, key, EventFlags::IN)?;
    let (member, _) = keeper.connect_for(Role::Worker, [session; 16])?;
    let ordered = Ordered {
        pending: pending(session)?,
        reports,
        member,
        role: Role::Worker,
        zygote: 0,
    };
    sessions.ordered(key, ordered);
    Ok(reporter)
}

const HELLO: &[u8] = b"\x01BTK\x01";
const ESTABLISH: &[u8] = &[2];

/// A process of the domain, by hand.
struct Member(OwnedFd);

impl Member {
    fn new(keeper: &mut Keeper) -> io::Result<Self> {
        let member = Self(keeper.connect(Role::Member)?.1);
        member.ask(keeper, HELLO)?;
        Ok(member)
    }

    fn ask(&self, keeper: &mut Keeper, request: &[u8]) -> io::Result<Vec<u8>> {
        socket::send_with_fds_now(&self.0, &[IoSlice::new(request)], &[])?;
        while keeper.turn(Some(Duration::ZERO))? > 0 {}
        let mut answer = vec![0; 4096];
        let got = socket::recv_with_fds(&self.0, &mut answer, &mut Vec::new(), false)?;
        answer.truncate(got.len);
        Ok(answer)
    }

    /// A new context, which departs at once where that is wanted.
    fn establish(&self, keeper: &mut Keeper, departs: bool) -> io::Result<()> {
        let answer = self.ask(keeper, ESTABLISH)?;
        if let Some(place) = answer.get(1..13).filter(|_| departs) {
            let mut depart = vec![3];
            depart.extend(u64::MAX.to_be_bytes());
            // For anyone, one of them, beside no socket.
            depart.extend([0; 1 + 4 + 24]);
            depart.extend([0, 1]);
            depart.extend(place);
            depart.extend([0; 9]);
            // Of one, nothing is answered.
            socket::send_whole(&self.0, &depart)?;
            keeper.turn(Some(Duration::ZERO))?;
        }
        Ok(())
    }
}

/// All that a server gives to the one that comes after it.
pub struct Handed {
    /// The estate.
    pub bytes: Vec<u8>,
    /// Its descriptors; the ledger's first.
    pub fds: Vec<OwnedFd>,
    keys: Slot<[u8; KEYS]>,
    /// The other ends.
    far: Vec<OwnedFd>,
}

impl Handed {
    /// What a small server gives, which is over then.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        let mut keeper = Keeper::new(&SMALL)?;
        let (one, other) = (Member::new(&mut keeper)?, Member::new(&mut keeper)?);
        for departs in [false, true] {
            one.establish(&mut keeper, departs)?;
            other.establish(&mut keeper, departs)?;
        }
        let (poller, mut sessions) = (Poller::new()?, Sessions::default());
        let mut far = vec![one.0];
        // Its exporter is gone.
        drop(other);
        keeper.turn(Some(Duration::ZERO))?;
        for session in 0..2 {
            far.push(order(&mut sessions, &mut keeper, &poller, session)?.into());
        }
        sessions.started([0; 16].into(), 0x4000_0001);
        let (zygote, end) = Link::pair()?;
        let unstarted = pending(9)?;
        let retiring = keeper.retire();
        let mut fds = retiring.fds();
        let (inventory, keeper_fds) = (retiring.inventory()?, fds.len() as u64);
        let (estate, of_sessions) = sessions.estate(&[0]);
        fds.extend([zygote.as_fd(), end.as_fd()]);
        fds.extend(of_sessions);
        fds.push(unstarted.socket.as_fd());
        let estate = Estate {
            version: supervisor::VERSION,
            keeper: ByteBuf::from(inventory),
            keeper_fds,
            zygotes: vec![supervisor::Listed {
                process: 0x4000_0002,
                left: 0,
                queued: Vec::new(),
            }],
            handshakers: Vec::new(),
            sessions: estate,
            unstarted: vec![unstarted.carried()],
        };
        let bytes = postcard::to_allocvec(&estate).map_err(io::Error::other)?;
        let fds = fds.iter().map(BorrowedFd::try_clone_to_owned);
        let fds = fds.collect::<io::Result<Vec<_>>>()?;
        let mut keys = Slot::<[u8; KEYS]>::zeroed();
        keys.copy_from_slice(&retiring.keys()[..]);
        retiring.move_out();
        retiring.leave();
        far.push(end.as_fd().try_clone_to_owned()?);
        Ok(Self {
            bytes,
            fds,
            keys,
            far,
        })
    }

    /// Takes it, and serves a little; whether there was something to be taken.
    ///
    /// # Errors
    /// The system's, where it has nothing to do with what was given.
    pub fn take(self) -> io::Result<bool> {
        let estate = takeover::Estate {
            bytes: self.bytes,
            fds: self.fds,
            keys: self.keys,
        };
        let (poller, mut keys) = (Poller::new()?, Keys::default());
        let Ok(inherited) = inherit(&poller, &mut keys, estate) else {
            return Ok(false);
        };
        let Inherited {
            mut keeper,
            mut sessions,
            ..
        } = inherited;
        for _ in 0..3 {
            keeper.turn(Some(Duration::ZERO))?;
            drop(sessions.settle(&mut keeper));
        }
        if let Ok(member) = Member::new(&mut keeper) {
            // As many as there is room for, in every place there is.
            for round in 0..2 * SMALL.quota {
                let _ = member.establish(&mut keeper, round % 3 == 0);
            }
        }
        for listed in keeper.list() {
            keeper.revoke(&listed.id);
        }
        let (again, _) = sessions.estate(&[]);
        let _ = (sessions.list(), postcard::to_allocvec(&again));
        drop(self.far);
        keeper.turn(Some(Duration::ZERO))?;
        drop(sessions.settle(&mut keeper));
        Ok(true)
    }
}
