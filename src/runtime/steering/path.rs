//! The path to one peer: what its migrations do together, for the tuner of their streams.

use super::{Look, Member};
use crate::base::Time;
use crate::observe::EventKind;
use crate::transport::StreamTuner;
use crate::transport::stream_tuner::{self, Change, Why};
use std::time::Duration;

/// Who has so much more of a path than the mean of those who want more is held to a little more than the
/// mean, until it has less than that; in percent.
const UNEVEN_PERCENT: u64 = 105;
const EVEN_PERCENT: u64 = 102;
const BELOW_EVEN_PERCENT: u64 = 98;
/// Streams that are idle for more than this part of their time have too little to send, in percent.
const STARVED_PERCENT: u128 = 25;

/// What is known of one path.
pub struct Path {
    tuner: StreamTuner,
    /// Migrations that were copying when it was last looked at.
    copying: usize,
}

impl Path {
    /// A path that nothing is known of.
    pub fn new(limit: u16) -> Self {
        Self { tuner: StreamTuner::new(limit), copying: 0 }
    }

    /// The streams that each migration is to have.
    pub fn streams(&self) -> u16 {
        self.tuner.count()
    }

    /// It is not tuned now; once it is again, the tuner begins anew.
    pub fn rest(&mut self) -> Option<Change> {
        self.copying = 0;
        None
    }

    /// Takes in what the migrations that are copying did. Others say nothing about the path.
    pub fn look(&mut self, limit: u16, copying: &[(&Member, &Look)], now: Time) -> Option<Change> {
        let limited = self.tuner.set_limit(limit);
        if self.copying != copying.len() {
            self.copying = copying.len();
            self.tuner.begin_anew();
        }
        if copying.is_empty() || limited.is_some() {
            return limited;
        }
        let (mut idle, mut had) = (Duration::ZERO, Duration::ZERO);
        let mut look = stream_tuner::Look::default();
        for (member, seen) in copying {
            look.delivered_bytes += seen.delivered_bytes;
            (idle, had) = (idle + seen.idle, had + seen.had);
            let known = member.traffic.round_trip.filter(|time| !time.is_zero());
            let shortest =
                [look.round_trip].into_iter().filter(|time| !time.is_zero()).chain(known);
            look.round_trip = shortest.min().unwrap_or_default();
        }
        look.is_starved = is_starved(idle, had);
        self.tuner.look(&look, now)
    }
}

fn is_starved(idle: Duration, had: Duration) -> bool {
    // Without streams nothing tells what the path would carry.
    had.is_zero() || idle.as_micros() * 100 > had.as_micros() * STARVED_PERCENT
}

/// Whether a migration would take more of its path: it has enough to send, or is held back.
fn is_hungry(member: &Member, look: &Look) -> bool {
    !is_starved(look.idle, look.had) || member.even.is_some() && look.was_held_back
}

/// What each gets of a path, of those that would take more; none where fewer than two would.
pub fn mean_rate(copying: &[(&Member, &Look)]) -> Option<u64> {
    let hungry = copying.iter().filter(|(member, look)| is_hungry(member, look));
    let rates: Vec<u64> = hungry.map(|(member, _)| member.delivered_bytes_per_s).collect();
    (rates.len() > 1).then(|| rates.iter().sum::<u64>() / rates.len() as u64)
}

/// What a migration is held to so that others get as much; none: it has no more than they.
pub fn even_part(member: &Member, look: &Look, mean: Option<u64>) -> Option<u64> {
    let mean = mean.filter(|_| member.traffic.is_copying && is_hungry(member, look))?;
    let percent = if member.even.is_some() { BELOW_EVEN_PERCENT } else { UNEVEN_PERCENT };
    let has_more = member.delivered_bytes_per_s > mean.saturating_mul(percent) / 100;
    has_more.then(|| (mean.saturating_mul(EVEN_PERCENT) / 100).max(LEAST_EVEN_BYTES_PER_S))
}

/// Nobody is held to less.
const LEAST_EVEN_BYTES_PER_S: u64 = 256 << 10;

/// The event of a migration whose number of streams changes; `why` counts where the tuner says nothing.
pub fn event((from, to, limit): (u16, u16, u16), change: Option<&Change>, why: Why) -> EventKind {
    let figures = |of: fn(&Change) -> u64| change.map_or(0, of);
    EventKind::StreamsTuned {
        from,
        to,
        limit,
        why: change.map_or(why, |change| change.why),
        rate_bytes_per_s: figures(|change| change.rate_bytes_per_s),
        rate_before_bytes_per_s: figures(|change| change.rate_before_bytes_per_s),
    }
}
