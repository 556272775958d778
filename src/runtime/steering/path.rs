//! The path to one peer: what its migrations do together, for the tuner of their streams.

use super::{Look, Member};
use crate::base::Time;
use crate::observe::EventKind;
use crate::transport::StreamTuner;
use crate::transport::stream_tuner::{self, Change, Why};
use std::time::Duration;

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
        look.is_starved = idle.as_micros() * 100 > had.as_micros() * STARVED_PERCENT;
        self.tuner.look(&look, now)
    }
}

/// The event of a migration whose number of streams changes.
pub fn event((from, to, limit): (u16, u16, u16), change: Option<&Change>) -> EventKind {
    let figures = |of: fn(&Change) -> u64| change.map_or(0, of);
    EventKind::StreamsTuned {
        from,
        to,
        limit,
        why: change.map_or(Why::Limit, |change| change.why),
        rate_bytes_per_s: figures(|change| change.rate_bytes_per_s),
        rate_before_bytes_per_s: figures(|change| change.rate_before_bytes_per_s),
    }
}
