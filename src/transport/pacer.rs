//! A bandwidth cap as a token bucket that may go into debt.
//!
//! Chunks are charged after encoding, when their size is known; whoever comes next waits until the
//! debt is paid. The bucket holds `BURST` worth of tokens, so a late wake-up loses no bandwidth.

use crate::base::Time;
use std::time::Duration;

/// How much unused time the bucket remembers, unless told otherwise.
const BURST: Duration = Duration::from_millis(20);

/// Tells when the next chunk may go.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// What the owner allows.
    limit: Option<u64>,
    /// What others who use the same path leave.
    share: Option<u64>,
    /// When everything charged so far has been paid for.
    paid_at: Time,
    /// How much unused time the bucket remembers.
    burst: Duration,
}

impl Pacer {
    /// A pacer with a cap, or none.
    pub fn new(limit_bytes_per_s: Option<u64>) -> Self {
        Self { limit: limit_bytes_per_s, share: None, paid_at: Time(0), burst: BURST }
    }

    /// The same, remembering so much unused time.
    pub fn with_burst(self, burst: Duration) -> Self {
        Self { burst, ..self }
    }

    /// The cap: limit or share, whichever is less.
    pub fn rate_bytes_per_s(&self) -> Option<u64> {
        self.limit.into_iter().chain(self.share).min()
    }

    /// What the owner allows.
    pub fn limit_bytes_per_s(&self) -> Option<u64> {
        self.limit
    }

    /// Changes the limit from now on.
    pub fn set_limit(&mut self, rate_bytes_per_s: Option<u64>, now: Time) {
        self.change(now, |pacer| pacer.limit = rate_bytes_per_s);
    }

    /// Changes the share from now on.
    pub fn set_share(&mut self, rate_bytes_per_s: Option<u64>, now: Time) {
        self.change(now, |pacer| pacer.share = rate_bytes_per_s);
    }

    /// When the next chunk may go: now, or later.
    pub fn ready_at(&self, now: Time) -> Time {
        match self.rate_bytes_per_s() {
            Some(_) => self.paid_at.max(now),
            None => now,
        }
    }

    /// Charges bytes that were sent.
    pub fn charge(&mut self, bytes: u64, now: Time) {
        let Some(rate) = self.rate_bytes_per_s() else { return };
        let floor = Time(now.0.saturating_sub(self.burst.as_micros() as u64));
        self.paid_at = self.paid_at.max(floor) + time_for(bytes, rate);
    }

    /// Charges one more, unless what is owed already would take longer than `ahead` to pay; whether it
    /// did. For what is counted and not measured, such as questions.
    pub fn admit(&mut self, now: Time, ahead: Duration) -> bool {
        let may = self.ready_at(now) <= now + ahead;
        if may {
            self.charge(1, now);
        }
        may
    }

    /// What is owed stays owed, and is paid at the new rate.
    fn change(&mut self, now: Time, change: impl FnOnce(&mut Self)) {
        let before = self.rate_bytes_per_s();
        change(self);
        let after = self.rate_bytes_per_s();
        if before == after {
            return;
        }
        let debt_us = self.paid_at.since(now).as_micros();
        let debt = before.map_or(0, |rate| u128::from(rate) * debt_us / 1_000_000);
        let debt = u64::try_from(debt).unwrap_or(u64::MAX);
        self.paid_at = now + after.map_or(Duration::ZERO, |rate| time_for(debt, rate));
    }
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    let cost_us = (u128::from(bytes) * 1_000_000).div_ceil(u128::from(rate.max(1)));
    Duration::from_micros(u64::try_from(cost_us).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as fast as allowed for ten virtual seconds; returns the bytes.
    fn send(pacer: &mut Pacer, chunk_bytes: u64, wake_late_us: u64) -> u64 {
        let (mut now, mut sent) = (Time(0), 0);
        while now.0 < 10_000_000 {
            let ready = pacer.ready_at(now);
            if ready > now {
                now = Time(ready.0 + wake_late_us);
            }
            pacer.charge(chunk_bytes, now);
            sent += chunk_bytes;
        }
        sent
    }

    #[test]
    fn so_many_are_admitted_ahead_of_their_pace_and_then_one_at_a_time() {
        let mut pacer = Pacer::new(Some(10)).with_burst(Duration::ZERO);
        let ahead = Duration::from_millis(500);
        let start = Time(7_000_000);
        assert_eq!((0..100).filter(|_| pacer.admit(start, ahead)).count(), 6);
        assert!(!pacer.admit(start + Duration::from_millis(99), ahead));
        assert!(pacer.admit(start + Duration::from_millis(100), ahead));
        assert!(!pacer.admit(start + Duration::from_millis(100), ahead), "what is refused is free");
        assert!(pacer.admit(start + Duration::from_millis(200), ahead));
    }

    #[test]
    fn the_rate_is_kept_whatever_the_chunk_size_and_timer() {
        for (chunk_bytes, late_us) in [(1_000, 0), (262_144, 0), (262_144, 5_000), (1 << 20, 100)] {
            let sent = send(&mut Pacer::new(Some(10_000_000)), chunk_bytes, late_us);
            assert!((99_000_000..102_500_000).contains(&sent), "{chunk_bytes} {late_us}: {sent}");
        }
    }

    #[test]
    fn no_cap_never_waits() {
        let mut pacer = Pacer::new(None);
        pacer.charge(u64::MAX, Time(5));
        assert_eq!(pacer.ready_at(Time(6)), Time(6));
    }

    #[test]
    fn the_lesser_of_limit_and_share_holds_and_debts_survive_a_change() {
        let mut pacer = Pacer::new(Some(2_000_000));
        pacer.set_share(Some(1_000_000), Time(0));
        assert_eq!(pacer.rate_bytes_per_s(), Some(1_000_000));
        pacer.charge(1_000_000, Time(1_000_000));
        let owed = pacer.ready_at(Time(1_000_000));
        pacer.set_share(Some(1_000_000), Time(1_000_001));
        assert_eq!(pacer.ready_at(Time(1_000_001)), owed, "nothing has changed");
        pacer.set_share(Some(500_000), Time(1_480_000));
        assert_eq!(pacer.ready_at(Time(1_480_000)), Time(2_480_000), "half is left to pay");
        pacer.set_share(None, Time(1_980_000));
        assert_eq!(pacer.ready_at(Time(1_980_000)), Time(2_105_000));
        pacer.set_limit(None, Time(1_990_000));
        assert_eq!(pacer.ready_at(Time(1_990_000)), Time(1_990_000));
        assert_eq!((pacer.rate_bytes_per_s(), pacer.limit_bytes_per_s()), (None, None));
    }
}
