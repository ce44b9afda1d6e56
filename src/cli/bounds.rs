//! The words of `baton serve` that bound what it does: whose its processes are, how much there may
//! be at once, and for how long. They stand on the command line and in the configuration file.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::server::limits::{Allowance, Limits, Over, Rate};
use crate::server::users::{Named, Peers, Users, Wanted};
use crate::session::drive::Patience;
use crate::sys::process;

use super::configuration::Taken;

/// A client of the page that is silent for so long is let go when nothing else is said, seconds.
const PAGE_IDLE: u32 = 60;
/// A MiB.
const MIB: u64 = 1 << 20;

/// Whether sessions run as their peer's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PeerUser {
    /// They do not.
    None,
    /// They do where there is one.
    Optional,
    /// They do, and peers without one are refused.
    Required,
}

/// What happens to a connection over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverLimit {
    /// It waits.
    Wait,
    /// It is closed at once.
    Refuse,
}

/// The options.
#[derive(Clone, Debug, Args)]
pub struct Bounds {
    /// As root: the handshaker's user, a name or UID:GID [default: 65521:65521].
    #[arg(long, value_name = "USER")]
    pub handshaker_user: Option<Named>,
    /// As root: the zygote's user; it may become others [default: 65522:65522].
    #[arg(long, value_name = "USER")]
    pub zygote_user: Option<Named>,
    /// As root: the user of sessions [default: 65523:65523].
    #[arg(long, value_name = "USER")]
    pub session_user: Option<Named>,
    /// Sessions run as their clients: none, optional, required [default: none].
    ///
    /// The account is that of the name the client has proved.
    ///
    /// The name is that of a password, or a certificate's whose subject is CN=NAME and no more;
    /// the account is in /etc/passwd and has a number of 1000 or more. With optional, clients
    /// without such an account run as --session-user; with required they are refused.
    #[arg(long, value_name = "WHEN", value_enum, hide_possible_values = true, hide_default_value = true, default_value_t = PeerUser::None)]
    pub peer_user: PeerUser,
    /// Sessions at once.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub sessions: u32,
    /// Handshakes in progress at once.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub handshakes: u32,
    /// Connections at once, a quarter of them handshakes at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub connections: Option<u32>,
    /// What happens to connections over a limit: wait, refuse [default: wait].
    #[arg(long, value_name = "WHAT", value_enum, hide_possible_values = true, hide_default_value = true, default_value_t = OverLimit::Wait)]
    pub over_limit: OverLimit,
    /// Connections of one address a second; 0: any.
    ///
    /// In the long run; others are closed at once. An IPv6 network of /64 is one address.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub address_rate: u32,
    /// Connections of one address before --address-rate counts.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub address_burst: u32,
    /// Seconds a session may be silent; 0: any [default: 60 with --http, else 0].
    #[arg(long, value_name = "SECONDS")]
    pub idle_timeout: Option<u32>,
    /// Seconds after which any session ends; 0: none.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub session_timeout: u32,
    /// MiB of address space for a session's process; 0: as this one.
    #[arg(long, value_name = "MIB", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    pub session_memory: u32,
    /// Descriptors of a session's process; 0: as this one.
    ///
    /// Without a command, 0 is 64.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub session_files: u32,
    /// Processes of a session's user; 0: as this process.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4_194_304))]
    pub session_processes: u32,
}

impl Bounds {
    /// The users of the server's processes, and what is to be said of them at the start.
    ///
    /// # Errors
    /// Why they cannot be had, for people.
    pub(super) fn users(&self) -> Result<(Option<Users>, Option<String>), String> {
        Users::resolve(&Wanted {
            handshaker: self.handshaker_user.clone(),
            zygote: self.zygote_user.clone(),
            session: self.session_user.clone(),
            peers: match self.peer_user {
                PeerUser::None => Peers::None,
                PeerUser::Optional => Peers::Optional,
                PeerUser::Required => Peers::Required,
            },
        })
    }

    /// How much there may be at once, of what was asked for and there are descriptors for.
    pub(super) fn limits(&self, moving: bool) -> Limits {
        let descriptors = process::raise_descriptor_limit().unwrap_or(u64::MAX);
        let most = Limits::new(
            self.sessions.into(),
            self.handshakes.into(),
            self.connections.map(u64::from),
            descriptors,
            moving,
        );
        Limits {
            over: match self.over_limit {
                OverLimit::Wait => Over::Wait,
                OverLimit::Refuse => Over::Refuse,
            },
            rate: (self.address_rate > 0).then_some(Rate {
                every_second: self.address_rate,
                burst: self.address_burst,
            }),
            ..most
        }
    }

    /// How long a session lasts.
    pub(super) fn patience(&self, http: bool) -> Patience {
        let seconds = |seconds: u32| (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let usual = if http { PAGE_IDLE } else { 0 };
        Patience {
            idle: seconds(self.idle_timeout.unwrap_or(usual)),
            total: seconds(self.session_timeout),
        }
    }

    /// What a session's processes may have.
    pub(super) fn allowance(&self) -> Allowance {
        let given = |number: u32| (number > 0).then_some(u64::from(number));
        Allowance {
            memory: given(self.session_memory).map(|mebibytes| mebibytes * MIB),
            files: given(self.session_files),
            processes: given(self.session_processes),
        }
    }

    /// Puts a value of the configuration that is right where it belongs.
    pub(super) fn set(&mut self, name: &str, taken: &Taken) {
        match taken {
            Taken::Text(text) => self.set_text(name, text),
            Taken::Number(number) => self.set_number(name, u32::try_from(*number).unwrap_or(0)),
            Taken::Flag(_) | Taken::Words(_) => {}
        }
    }

    fn set_text(&mut self, name: &str, text: &str) {
        match name {
            "handshaker-user" => self.handshaker_user = text.parse().ok(),
            "zygote-user" => self.zygote_user = text.parse().ok(),
            "session-user" => self.session_user = text.parse().ok(),
            "peer-user" => {
                self.peer_user = match text {
                    "required" => PeerUser::Required,
                    "optional" => PeerUser::Optional,
                    _ => PeerUser::None,
                };
            }
            "over-limit" => {
                self.over_limit = match text {
                    "refuse" => OverLimit::Refuse,
                    _ => OverLimit::Wait,
                };
            }
            _ => {}
        }
    }

    fn set_number(&mut self, name: &str, number: u32) {
        match name {
            "sessions" => self.sessions = number,
            "handshakes" => self.handshakes = number,
            "connections" => self.connections = Some(number),
            "address-rate" => self.address_rate = number,
            "address-burst" => self.address_burst = number,
            "idle-timeout" => self.idle_timeout = Some(number),
            "session-timeout" => self.session_timeout = number,
            "session-memory" => self.session_memory = number,
            "session-files" => self.session_files = number,
            "session-processes" => self.session_processes = number,
            _ => {}
        }
    }
}
