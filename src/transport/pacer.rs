//! A bandwidth cap as a token bucket that may go into debt.
//!
//! Chunks are charged after encoding, when their size is known; whoever comes next waits until the
//! debt is paid. The bucket holds `BURST` worth of tokens, so a late wake-up loses no bandwidth.

use crate::base::Time;
use std::time::Duration;

/// How much unused time the bucket remembers.
const BURST: Duration = Duration::from_millis(20);

/// Tells when the next chunk may go.
#[derive(Clone, Debug)]
pub struct Pacer {
    rate_bytes_per_s: Option<u64>,
    burst: Duration,
    /// When everything charged so far has been paid for.
    paid_at: Time,
}

impl Pacer {
    /// A pacer with a cap, or none.
    pub fn new(rate_bytes_per_s: Option<u64>) -> Self {
        Self { rate_bytes_per_s, burst: BURST, paid_at: Time(0) }
    }

    /// The same, but for how much unused time it remembers.
    pub fn with_burst(self, burst: Duration) -> Self {
        Self { burst, ..self }
    }

    /// The cap.
    pub fn rate_bytes_per_s(&self) -> Option<u64> {
        self.rate_bytes_per_s
    }

    /// Changes the cap from now on.
    pub fn set_rate(&mut self, rate_bytes_per_s: Option<u64>, now: Time) {
        self.rate_bytes_per_s = rate_bytes_per_s;
        self.paid_at = now;
    }

    /// Changes the cap and keeps the debt.
    pub fn adjust_rate(&mut self, rate_bytes_per_s: Option<u64>, now: Time) {
        let first = self.rate_bytes_per_s.is_none();
        self.rate_bytes_per_s = rate_bytes_per_s;
        if first {
            self.paid_at = now;
        }
    }

    /// When the next chunk may go: now, or later.
    pub fn ready_at(&self, now: Time) -> Time {
        match self.rate_bytes_per_s {
            Some(_) => self.paid_at.max(now),
            None => now,
        }
    }

    /// Charges bytes that were sent.
    pub fn charge(&mut self, bytes: u64, now: Time) {
        let Some(rate) = self.rate_bytes_per_s else { return };
        let floor = Time(now.0.saturating_sub(self.burst.as_micros() as u64));
        let cost_us = (u128::from(bytes) * 1_000_000).div_ceil(u128::from(rate.max(1)));
        let cost = Duration::from_micros(u64::try_from(cost_us).unwrap_or(u64::MAX));
        self.paid_at = self.paid_at.max(floor) + cost;
    }
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
}
