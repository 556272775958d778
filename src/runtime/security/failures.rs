//! Failed handshakes, by where they came from: who fails too often is not listened to for a while.
//!
//! Only failures count, so that a peer whose many streams come back at once is never held up.

use crate::base::Time;
use crate::base::limits::{MAX_FAILED_HANDSHAKES_PER_S, MAX_HANDSHAKE_SOURCES};
use crate::transport::Pacer;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// By how much a source may run ahead of its pace: forty failures at once.
const AHEAD: Duration = Duration::from_secs(4);

/// Who failed lately.
#[derive(Default)]
pub struct Failures {
    sources: BTreeMap<IpAddr, Pacer>,
}

impl Failures {
    /// Whether this source is listened to.
    pub fn allows(&self, source: IpAddr, now: Time) -> bool {
        let pace = self.sources.get(&network(source));
        pace.is_none_or(|pace| pace.ready_at(now) <= now + AHEAD)
    }

    /// Counts a failure.
    pub fn add(&mut self, source: IpAddr, now: Time) {
        let source = network(source);
        if self.sources.len() >= MAX_HANDSHAKE_SOURCES && !self.sources.contains_key(&source) {
            // Those that have served their time; if there are none, the one that has least left.
            self.sources.retain(|_, pace| pace.ready_at(now) > now);
            let least = self.sources.iter().min_by_key(|(_, pace)| pace.ready_at(now));
            let least = least.map(|(source, _)| *source);
            if let Some(least) = least.filter(|_| self.sources.len() >= MAX_HANDSHAKE_SOURCES) {
                self.sources.remove(&least);
            }
        }
        let fresh = || Pacer::new(Some(MAX_FAILED_HANDSHAKES_PER_S));
        self.sources.entry(source).or_insert_with(fresh).charge(1, now);
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(1_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn who_fails_too_often_waits_and_nobody_else() {
        let (bad, good) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut failures = Failures::default();
        let mut tries = 0;
        while failures.allows(bad, at(0)) {
            failures.add(bad, at(0));
            tries += 1;
        }
        assert!((30..60).contains(&tries), "{tries}");
        assert!(failures.allows(good, at(0)));
        assert!(failures.allows(bad, at(1)) && failures.allows(bad, at(60)));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_the_table_is_bounded() {
        let mut failures = Failures::default();
        for last in 0..100_u128 {
            failures.add(IpAddr::V6(((0x2600_u128 << 112) + last).into()), at(0));
        }
        assert!(!failures.allows("2600::ffff".parse().unwrap(), at(0)));
        for source in 0..2 * MAX_HANDSHAKE_SOURCES as u32 {
            failures.add(IpAddr::V4(source.into()), at(1));
        }
        assert!(failures.sources.len() <= MAX_HANDSHAKE_SOURCES);
    }
}
