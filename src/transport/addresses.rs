//! Which of several local addresses each stream uses: spread evenly, away from one that fails, and
//! back to it when it may work again.

use crate::base::Time;
use std::time::Duration;

/// Local addresses that streams may be spread over.
pub const MAX_SOURCE_ADDRESSES: usize = 8;
/// How long an address that failed is left alone: first, then twice as long each time, up to this.
const PENALTY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The addresses of one migration, by their places in a list.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    all: Vec<Address>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Address {
    failures: u32,
    /// Not to be used before.
    until: Time,
}

impl Addresses {
    /// So many addresses that have never failed.
    pub fn new(count: usize) -> Self {
        Self { all: vec![Address::default(); count.min(MAX_SOURCE_ADDRESSES)] }
    }

    /// The address of a slot's next connection; none: there are none to choose from. If all have
    /// failed, the one that may be used again first.
    pub fn choose(&self, slot: usize, now: Time) -> Option<usize> {
        let home = self.home(slot)?;
        let order = || (0..self.all.len()).map(|step| (home + step) % self.all.len());
        let fit = order().find(|at| self.is_fit(*at, now));
        fit.or_else(|| order().min_by_key(|at| self.all[*at].until))
    }

    /// The address that a slot has while all work.
    pub fn home(&self, slot: usize) -> Option<usize> {
        (!self.all.is_empty()).then(|| slot % self.all.len())
    }

    /// Whether an address may be used.
    pub fn is_fit(&self, at: usize, now: Time) -> bool {
        self.all.get(at).is_some_and(|address| now >= address.until)
    }

    /// A connection from there could not be made, or broke. Several that break together count once.
    pub fn failed(&mut self, at: usize, now: Time) {
        let Some(address) = self.all.get_mut(at).filter(|address| now >= address.until) else {
            return;
        };
        let penalty = PENALTY.0 * 2_u32.saturating_pow(address.failures.min(16));
        address.failures += 1;
        address.until = now + penalty.min(PENALTY.1);
    }

    /// A connection from there carries something.
    pub fn worked(&mut self, at: usize) {
        if let Some(address) = self.all.get_mut(at) {
            *address = Address::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn streams_are_spread_and_without_addresses_the_system_chooses() {
        let addresses = Addresses::new(3);
        let chosen: Vec<_> = (0..6).map(|slot| addresses.choose(slot, Time(0))).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2].map(Some));
        assert_eq!(Addresses::new(0).choose(0, Time(0)), None);
        assert_eq!(Addresses::new(100).all.len(), MAX_SOURCE_ADDRESSES);
    }

    #[test]
    fn an_address_that_fails_is_left_alone_for_longer_each_time() {
        let mut addresses = Addresses::new(2);
        let mut now = Time(0);
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            addresses.failed(1, now);
            addresses.failed(1, now);
            assert_eq!(addresses.choose(1, Time(now.0 + seconds * SECOND - 1)), Some(0));
            now = Time(now.0 + seconds * SECOND);
            assert_eq!(addresses.choose(1, now), Some(1));
        }
        addresses.worked(1);
        addresses.failed(1, now);
        assert!(addresses.is_fit(1, Time(now.0 + 2 * SECOND)));
    }

    #[test]
    fn when_all_fail_the_first_to_be_free_is_tried() {
        let mut addresses = Addresses::new(2);
        addresses.failed(0, Time(0));
        addresses.failed(1, Time(SECOND));
        assert_eq!(addresses.choose(1, Time(SECOND)), Some(0));
        assert_eq!((addresses.home(3), addresses.is_fit(7, Time(SECOND))), (Some(1), false));
    }
}
