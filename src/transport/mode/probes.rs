//! Probes under way to one peer.
//!
//! A probe is a random number that the peer sends back. It carries no time: the round trip is
//! measured by this side's clock alone, and a number that was not sent, or was answered before, is
//! no answer. So a peer can delay an answer, which makes its own path look long, and nothing else.

use crate::base::Time;
use std::time::Duration;

/// Probes under way at a time.
const MAX_UNDER_WAY: usize = 4;
/// An unanswered probe is given up after so long.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

/// The probes under way.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    under_way: [Option<(u64, Time)>; MAX_UNDER_WAY],
}

impl Probes {
    /// When there is room for another probe.
    pub fn room_at(&self) -> Time {
        match self.under_way.iter().any(Option::is_none) {
            true => Time(0),
            false => self.oldest_sent() + GIVEN_UP_AFTER,
        }
    }

    /// A probe was sent; without room for it, the oldest is given up.
    pub fn on_sent(&mut self, number: u64, now: Time) {
        let age = |probe: &Option<(u64, Time)>| probe.map(|(_, sent)| sent);
        // None is the least: an empty slot is taken first.
        if let Some(slot) = self.under_way.iter_mut().min_by_key(|probe| age(probe)) {
            *slot = Some((number, now));
        }
    }

    /// The round trip of a probe that came back; none if it was not under way.
    pub fn on_answer(&mut self, number: u64, now: Time) -> Option<Duration> {
        let is_it = |probe: &&mut Option<(u64, Time)>| probe.is_some_and(|(of, _)| of == number);
        let (_, sent) = self.under_way.iter_mut().find(is_it)?.take()?;
        Some(now.since(sent))
    }

    fn oldest_sent(&self) -> Time {
        self.under_way.iter().flatten().map(|(_, sent)| *sent).min().unwrap_or(Time(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_once_and_only_to_what_was_asked() {
        let mut probes = Probes::default();
        probes.on_sent(7, Time(100));
        probes.on_sent(8, Time(200));
        assert_eq!(probes.on_answer(9, Time(300)), None);
        assert_eq!(probes.on_answer(7, Time(350)), Some(Duration::from_micros(250)));
        assert_eq!(probes.on_answer(7, Time(360)), None);
        assert_eq!(probes.on_answer(8, Time(150)), Some(Duration::ZERO), "a clock that went back");
    }

    #[test]
    fn a_peer_that_does_not_answer_has_few_under_way() {
        let mut probes = Probes::default();
        for number in 0..4 {
            assert_eq!(probes.room_at(), Time(0));
            probes.on_sent(number, Time(1_000 * (number + 1)));
        }
        assert_eq!(probes.room_at(), Time(1_000) + GIVEN_UP_AFTER);
        probes.on_sent(4, probes.room_at());
        assert_eq!(probes.on_answer(0, Time(20_000_000)), None, "it was given up");
        assert_eq!(probes.room_at(), Time(2_000) + GIVEN_UP_AFTER);
    }
}
