//! Which connections are let in: the rate of each address.
//!
//! Each address (of IPv6, each /64: what one customer is given) has a token bucket. The buckets are
//! in a table that never grows: under a hash that a stranger cannot predict, an address has a few
//! places, and a new one takes the place of the bucket that is most full, which is the one whose
//! loss changes least. Who has more addresses than there are places is not held by a rate per
//! address anyway; the other limits hold it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::session::log;

use super::limits::Rate;

/// Places of one address.
const WAYS: usize = 4;
/// Sets of places.
const SETS: usize = 4096;
/// Refusals are told no more often than this, each time with their number.
const TOLD: Duration = Duration::from_secs(1);

/// Lets addresses in, at their rate.
pub struct Gate {
    rate: Option<Buckets>,
    /// Connections that were closed and have not been told yet, by reason.
    untold: [u64; 2],
    last_told: Option<Instant>,
}

/// Why a connection is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Its address is over its rate.
    Rate,
    /// There is no room, and the configuration says that it is not to wait.
    Room,
}

impl Gate {
    /// For so many connections of each address.
    pub fn new(rate: Option<Rate>) -> Self {
        Self {
            rate: rate.map(Buckets::new),
            untold: [0; 2],
            last_told: None,
        }
    }

    /// Whether a connection from there may go on. One that may not is to be closed.
    //= spec/processes.md#rate
    pub fn admits(&mut self, remote: SocketAddr) -> bool {
        let now = Instant::now();
        let rate = self.rate.as_mut();
        let admitted = rate.is_none_or(|buckets| buckets.take(remote.ip(), now));
        if !admitted {
            self.closed(remote, Closed::Rate);
        }
        admitted
    }

    /// A connection was closed at once. The log hears of it, and of as many as there were since,
    /// at most once a second: who makes many connections is not to fill a disk.
    pub fn closed(&mut self, remote: SocketAddr, why: Closed) {
        let now = Instant::now();
        self.untold[why as usize] += 1;
        if self
            .last_told
            .is_some_and(|last| now.duration_since(last) < TOLD)
        {
            return;
        }
        self.last_told = Some(now);
        let [rate, room] = std::mem::take(&mut self.untold);
        let reason = match why {
            Closed::Rate => "its address makes too many",
            Closed::Room => "there is no room",
        };
        log::line(format_args!(
            "connection from {remote} refused: {reason} ({rate} over their rate, {room} without room since the last such line)"
        ));
    }
}

/// What is kept of an address.
#[derive(Clone, Copy)]
struct Bucket {
    /// The hash of the address; 0 of a place that was never taken.
    tag: u64,
    /// Thousandths of connections it has left.
    left: u64,
    /// When that was so, milliseconds since the table was made.
    at: u64,
}

struct Buckets {
    rate: Rate,
    hash: RandomState,
    began: Instant,
    table: Box<[[Bucket; WAYS]]>,
}

impl Buckets {
    fn new(rate: Rate) -> Self {
        let empty = Bucket {
            tag: 0,
            left: 0,
            at: 0,
        };
        Self {
            rate,
            hash: RandomState::new(),
            began: Instant::now(),
            table: vec![[empty; WAYS]; SETS].into_boxed_slice(),
        }
    }

    /// Takes one connection from an address's bucket, if it has one left.
    fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        let now = u64::try_from(now.saturating_duration_since(self.began).as_millis());
        let now = now.unwrap_or(u64::MAX);
        let tag = self.hash.hash_one(network(address)).max(1);
        let most = u64::from(self.rate.burst.max(1)) * 1000;
        let every_second = u64::from(self.rate.every_second);
        // A thousandth each millisecond for one a second.
        let level = |bucket: &Bucket| {
            let gained = now.saturating_sub(bucket.at).saturating_mul(every_second);
            match bucket.tag {
                0 => most,
                _ => bucket.left.saturating_add(gained).min(most),
            }
        };
        let set = &mut self.table[usize::try_from(tag % SETS as u64).unwrap_or(0)];
        let known = set.iter().position(|bucket| bucket.tag == tag);
        let fullest = (0..WAYS).max_by_key(|place| level(&set[*place]));
        let (place, left) = match (known, fullest) {
            (Some(place), _) => (place, level(&set[place])),
            (None, fullest) => (fullest.unwrap_or(0), most),
        };
        let admitted = left >= 1000;
        set[place] = Bucket {
            tag,
            left: if admitted { left - 1000 } else { left },
            at: now,
        };
        admitted
    }
}

/// What is counted as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(every_second: u32, burst: u32) -> Buckets {
        Buckets::new(Rate {
            every_second,
            burst,
        })
    }

    //= proves spec/processes.md#rate
    #[test]
    fn an_address_has_a_burst_and_then_its_rate() {
        let mut buckets = buckets(2, 5);
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let start = buckets.began;
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let taken = |buckets: &mut Buckets, address, at, tries: usize| {
            (0..tries).filter(|_| buckets.take(address, at)).count()
        };
        assert_eq!(taken(&mut buckets, one, at(0), 100), 5);
        assert_eq!(taken(&mut buckets, other, at(0), 100), 5);
        assert_eq!(taken(&mut buckets, one, at(499), 100), 0);
        assert_eq!(taken(&mut buckets, one, at(500), 100), 1);
        assert_eq!(taken(&mut buckets, one, at(1600), 100), 2);
        // Refusals cost it nothing of what it gains, and it saves no more than a burst.
        assert_eq!(taken(&mut buckets, one, at(1_000_000), 100), 5);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut buckets = buckets(1, 3);
        let now = buckets.began;
        let taken = (0..50u32)
            .filter(|host| buckets.take(format!("2001:db8::{host:x}:1").parse().unwrap(), now))
            .count();
        assert_eq!(taken, 3);
        assert!(buckets.take("2001:db8:0:1::1".parse().unwrap(), now));
        // An IPv4 address by another name is the same address.
        let (four, mapped) = ("192.0.2.9", "::ffff:192.0.2.9");
        let taken = [four, mapped, four, mapped, four]
            .iter()
            .filter(|address| buckets.take(address.parse().unwrap(), now))
            .count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn many_addresses_cost_no_memory_and_do_not_free_one_that_is_busy() {
        let mut buckets = buckets(1, 2);
        let now = buckets.began;
        let busy = "198.51.100.7".parse().unwrap();
        while buckets.take(busy, now) {}
        let before = size_of_val(&*buckets.table);
        // As many others as there are places: each spends one of its two.
        for number in 0..u32::try_from(SETS * WAYS).unwrap() {
            buckets.take(IpAddr::V4((0x0a00_0000 | number).into()), now);
            assert!(!buckets.take(busy, now), "{number}");
        }
        assert_eq!(size_of_val(&*buckets.table), before);
        assert!(before <= 512 << 10, "{before} bytes");
    }
}
