//! How many streams a path gets, found by trying: more as long as they carry more, fewer where fewer
//! carry as much.
//!
//! ```text
//! settle -> measure -> try more  -> settle -> measure -> carried more? keep, try more : take back
//!                   -> try fewer -> settle -> measure -> carried as much? keep, try fewer : take back
//!                   -> rest, until it is over or the path carries something else
//! the path has fallen -> scout: a stream more for a moment, again and again, until it has recovered
//! ```
//! A connection that is at its speed takes seconds to find that the path has become faster; a new one
//! looks for its speed by doubling, and finds it within some round trips. Hence scouts.
//!
//! A measurement is the mean of the middle half of some slots, so that neither a burst nor a sender
//! that looks for the shortest round trip decides. What the path carries tells nothing while there
//! is too little to send; such slots do not count.

use super::fall::{FallDetector, Window};
use crate::base::Time;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// Streams to begin with, if so many are allowed.
pub const FIRST_STREAMS: u16 = 4;
/// Fewer are not tried: a second stream goes on while a lost one is made anew.
const FEWEST: u16 = 2;
/// More streams must carry so much more, and fewer may carry so much less, in parts of a thousand.
const LEAST_GAIN: u64 = 50;
const MOST_LOSS: u64 = 30;
/// Another rate than the one at rest, in parts of a thousand, is another path.
const MOVED: u64 = 250;
/// New streams take so many round trips to find their speed, within bounds. They begin faster than loss
/// lets them go on.
const SETTLING_ROUND_TRIPS: u32 = 20;
const SETTLING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// A slot is at least this long and two round trips, and longer where it has too few bytes to tell.
const SLOT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
const SLOT_BYTES: u64 = 4 << 20;
/// Slots of a measurement.
const SLOTS: usize = 8;
/// First and longest rest.
const REST: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(160));

/// A scout is out for so many windows of the detector of falls; it must bring so much more, in parts of
/// a thousand.
const SCOUT_WINDOWS: u32 = 4;
const LEAST_SCOUTED: u64 = 150;
/// After this long a path has not fallen, it is so.
const LONGEST_SCOUTING: Duration = Duration::from_secs(45);

/// What the path did since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Bytes that arrived.
    pub delivered_bytes: u64,
    /// Whether the streams had too little to send for it to tell anything.
    pub is_starved: bool,
    /// Round trip, queues not counted; zero where it is not known.
    pub round_trip: Duration,
}

/// Why the number changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Fewer are allowed than there were.
    Limit,
    /// To see whether more carry more.
    TryMore,
    /// They did not.
    MoreInVain,
    /// To see whether fewer carry as much.
    TryFewer,
    /// They did not.
    FewerCarryLess,
    /// There was too little to send to tell.
    NotFilled,
    /// To see whether a path that carries far less than before has recovered.
    Scout,
    /// It has not.
    ScoutInVain,
    /// Feature flag `internet_optimization` is off: there are as many as may be.
    FlagOff,
}

impl Why {
    /// The reason as part of a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Why::Limit => "no more are allowed",
            Why::TryMore => "to see whether more carry more",
            Why::MoreInVain => "more did not carry more",
            Why::TryFewer => "to see whether fewer carry as much",
            Why::FewerCarryLess => "fewer did not carry as much",
            Why::NotFilled => "there was too little to send to tell",
            Why::Scout => "to see whether the path is as fast again as before",
            Why::ScoutInVain => "it is not as fast again",
            Why::FlagOff => "feature flag internet_optimization is off for the path",
        }
    }
}

/// A change of the number of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: u16,
    /// After.
    pub to: u16,
    /// Why.
    pub why: Why,
    /// What the path carried with `from`; zero where that is not known.
    pub rate_bytes_per_s: u64,
    /// What it carried before that, where the change is the end of a trial; otherwise zero.
    pub rate_before_bytes_per_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    None,
    /// Begun with so many, which carried so much.
    More {
        from: u16,
        rate: u64,
    },
    /// The same; the rate is that of the first of several trials in a row, so that small losses do
    /// not add up.
    Fewer {
        from: u16,
        rate: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Settling { until: Option<Time> },
    Measuring,
    Resting { until: Time, rate: u64 },
    Scouting(Scouting),
}

#[derive(Clone, Copy, Debug)]
struct Scouting {
    until: Time,
    /// Streams without the scout, and what they carried.
    base: u16,
    rate: u64,
    /// Windows since the scout went out; none: it is not out.
    out_for: Option<u32>,
}

/// Finds the number of streams of one path.
#[derive(Clone, Debug)]
pub struct StreamTuner {
    count: u16,
    limit: u16,
    stage: Stage,
    trial: Trial,
    more_failed: bool,
    rest: Duration,
    falls: FallDetector,
    /// The number when falls were last looked for, and when that begins after a change of it.
    watched: (u16, Time),
    slot_since: Option<Time>,
    slot_bytes: u64,
    /// Looks within the slot, and those of them at which there was too little to send.
    slot_looks: (u32, u32),
    rates: VecDeque<u64>,
    starved_slots: usize,
}

impl StreamTuner {
    /// A tuner that knows nothing yet.
    pub fn new(limit: u16) -> Self {
        let limit = limit.max(1);
        Self {
            count: limit.min(FIRST_STREAMS),
            limit,
            stage: Stage::Settling { until: None },
            trial: Trial::None,
            more_failed: false,
            rest: REST.0,
            falls: FallDetector::default(),
            watched: (0, Time(0)),
            slot_since: None,
            slot_bytes: 0,
            slot_looks: (0, 0),
            rates: VecDeque::new(),
            starved_slots: 0,
        }
    }

    /// The number that is right as far as is known.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The most that are allowed.
    pub fn limit(&self) -> u16 {
        self.limit
    }

    /// Allows another number at most, from now on. What was being tried is off.
    pub fn set_limit(&mut self, limit: u16) -> Option<Change> {
        let limit = limit.max(1);
        if limit == self.limit {
            return None;
        }
        self.limit = limit;
        let to = self.untried().min(limit);
        self.begin_anew();
        (to != self.count).then(|| self.change(to, Why::Limit, (0, 0)))
    }

    /// Others use the path now than before, so what was measured says nothing any more.
    pub fn begin_anew(&mut self) {
        self.trial = Trial::None;
        self.more_failed = false;
        self.rest = REST.0;
        self.falls.forget();
        self.settle();
    }

    /// Takes in what the path did.
    pub fn look(&mut self, look: &Look, now: Time) -> Option<Change> {
        let window = self.watch(look, now);
        if let Stage::Scouting(scouting) = self.stage {
            return self.scout(scouting, window?, now);
        }
        if let Some(Window { rate, has_fallen: true }) = window {
            let base = self.untried();
            let until = now + LONGEST_SCOUTING;
            self.trial = Trial::None;
            return self.scout_again(Scouting { until, base, rate, out_for: None });
        }
        if let Stage::Settling { until } = &mut self.stage {
            let until = *until.get_or_insert(now + settling(look));
            if now < until {
                return None;
            }
            self.measure();
            self.begin_slot(now);
            return None;
        }
        self.end_slot(look, now)?;
        match self.stage {
            Stage::Settling { .. } | Stage::Scouting(_) => None,
            Stage::Measuring => self.on_slot(now),
            Stage::Resting { until, rate } => {
                self.rest_on(until, rate, now);
                None
            }
        }
    }

    /// Looks for a fall; not for one that a change of the number brought about.
    fn watch(&mut self, look: &Look, now: Time) -> Option<Window> {
        let is_scouting = matches!(self.stage, Stage::Scouting(_));
        let (count, _) = self.watched;
        if count != self.count && !is_scouting {
            self.watched = (self.count, now + settling(look));
        }
        let is_own = now < self.watched.1 || matches!(self.trial, Trial::Fewer { .. });
        if is_own && !is_scouting {
            self.falls.pass_over();
            return None;
        }
        self.falls.look(look, now)
    }

    /// One window of a path that has fallen.
    fn scout(&mut self, scouting: Scouting, window: Window, now: Time) -> Option<Change> {
        let Scouting { until, base, rate: before, out_for } = scouting;
        if !window.has_fallen {
            self.begin_anew();
            return None;
        }
        if now >= until {
            let change = self.change_if_new(base, Why::ScoutInVain, (window.rate, before));
            self.begin_anew();
            return change;
        }
        let rate = window.rate;
        match out_for {
            None => self.scout_again(Scouting { rate, ..scouting }),
            Some(_) if has_gained(rate, before, LEAST_SCOUTED) => {
                let base = self.count;
                self.scout_again(Scouting { base, rate, out_for: None, until })
            }
            Some(windows) if windows < SCOUT_WINDOWS => {
                self.stage = Stage::Scouting(Scouting { out_for: Some(windows + 1), ..scouting });
                None
            }
            Some(_) => {
                self.stage = Stage::Scouting(Scouting { out_for: None, ..scouting });
                self.change_if_new(base, Why::ScoutInVain, (rate, before))
            }
        }
    }

    /// Sends a scout out, if one more stream is allowed; otherwise only waits.
    fn scout_again(&mut self, scouting: Scouting) -> Option<Change> {
        let to = (scouting.base + 1).min(self.limit);
        self.stage = Stage::Scouting(Scouting { out_for: Some(0), ..scouting });
        self.change_if_new(to, Why::Scout, (scouting.rate, 0))
    }

    /// Without what is being tried: nobody will see the end of that.
    fn untried(&self) -> u16 {
        match (self.trial, self.stage) {
            (Trial::More { from, .. } | Trial::Fewer { from, .. }, _) => from,
            (Trial::None, Stage::Scouting(Scouting { base, .. })) => base,
            (Trial::None, _) => self.count,
        }
    }

    /// Adds to the slot under way. Something: it is full.
    fn end_slot(&mut self, look: &Look, now: Time) -> Option<()> {
        let since = *self.slot_since.get_or_insert(now);
        self.slot_bytes += look.delivered_bytes;
        self.slot_looks.0 += 1;
        self.slot_looks.1 += u32::from(look.is_starved);
        let (took, least) = (now - since, SLOT.0.max(look.round_trip * 2));
        if took < least || self.slot_bytes < SLOT_BYTES && took < SLOT.1.max(least) {
            return None;
        }
        match self.slot_looks.1 * 2 > self.slot_looks.0 {
            true => self.starved_slots += 1,
            false => {
                let rate = u128::from(self.slot_bytes) * 1_000_000 / took.as_micros().max(1);
                self.rates.push_back(u64::try_from(rate).unwrap_or(u64::MAX));
            }
        }
        if self.rates.len() > SLOTS {
            self.rates.pop_front();
        }
        self.begin_slot(now);
        Some(())
    }

    fn on_slot(&mut self, now: Time) -> Option<Change> {
        if self.starved_slots >= SLOTS {
            return self.on_starved(now);
        }
        if self.rates.len() < SLOTS {
            return None;
        }
        let rate = middle_mean(&self.rates);
        match self.trial {
            Trial::None => self.try_something(rate, now),
            Trial::More { rate: before, .. } if has_gained(rate, before, LEAST_GAIN) => {
                self.rest = REST.0;
                self.trial = Trial::None;
                self.try_more(rate, now)
            }
            Trial::More { from, rate: before } => {
                self.trial = Trial::None;
                self.more_failed = true;
                self.settle();
                Some(self.change(from, Why::MoreInVain, (rate, before)))
            }
            Trial::Fewer { rate: before, .. } if at_least(rate, before, 1_000 - MOST_LOSS) => {
                self.rest = REST.0;
                self.try_fewer(before, rate, now)
            }
            Trial::Fewer { from, rate: before } => {
                self.begin_rest(before, now);
                Some(self.change(from, Why::FewerCarryLess, (rate, before)))
            }
        }
    }

    /// Nothing came of a trial, because there was too little to send.
    fn on_starved(&mut self, now: Time) -> Option<Change> {
        match self.trial {
            Trial::None => {
                self.measure();
                None
            }
            Trial::More { from, rate } | Trial::Fewer { from, rate } => {
                self.begin_rest(rate, now);
                Some(self.change(from, Why::NotFilled, (0, rate)))
            }
        }
    }

    fn try_something(&mut self, rate: u64, now: Time) -> Option<Change> {
        match self.more_failed || self.count >= self.limit {
            true => self.try_fewer(rate, rate, now),
            false => self.try_more(rate, now),
        }
    }

    fn try_more(&mut self, rate: u64, now: Time) -> Option<Change> {
        if self.count >= self.limit {
            self.begin_rest(rate, now);
            return None;
        }
        let to = (self.count + (self.count / 2).max(1)).min(self.limit);
        self.trial = Trial::More { from: self.count, rate };
        self.settle();
        Some(self.change(to, Why::TryMore, (rate, 0)))
    }

    fn try_fewer(&mut self, reference: u64, rate: u64, now: Time) -> Option<Change> {
        if self.count <= FEWEST {
            self.begin_rest(rate, now);
            return None;
        }
        let to = (self.count - (self.count / 4).max(1)).max(FEWEST);
        self.trial = Trial::Fewer { from: self.count, rate: reference };
        self.settle();
        Some(self.change(to, Why::TryFewer, (rate, 0)))
    }

    fn begin_rest(&mut self, rate: u64, now: Time) {
        self.trial = Trial::None;
        self.measure();
        self.begin_slot(now);
        self.stage = Stage::Resting { until: now + self.rest, rate };
        self.rest = (self.rest * 2).min(REST.1);
    }

    fn rest_on(&mut self, until: Time, rate: u64, now: Time) {
        let carried = (self.rates.len() == SLOTS).then(|| middle_mean(&self.rates));
        let bounds = |carried| {
            at_least(carried, rate, 1_000 - MOVED) && !at_least(carried, rate, 1_000 + MOVED)
        };
        if carried.is_some_and(|carried| !bounds(carried)) {
            self.begin_anew();
        } else if now >= until {
            self.more_failed = false;
            self.measure();
        }
    }

    fn change_if_new(&mut self, to: u16, why: Why, rates: (u64, u64)) -> Option<Change> {
        (to != self.count).then(|| self.change(to, why, rates))
    }

    fn change(&mut self, to: u16, why: Why, (rate, before): (u64, u64)) -> Change {
        let from = std::mem::replace(&mut self.count, to);
        let (rate_bytes_per_s, rate_before_bytes_per_s) = (rate, before);
        Change { from, to, why, rate_bytes_per_s, rate_before_bytes_per_s }
    }

    fn settle(&mut self) {
        self.measure();
        self.stage = Stage::Settling { until: None };
    }

    fn measure(&mut self) {
        self.stage = Stage::Measuring;
        self.rates.clear();
        self.starved_slots = 0;
    }

    fn begin_slot(&mut self, now: Time) {
        self.slot_since = Some(now);
        self.slot_bytes = 0;
        self.slot_looks = (0, 0);
    }
}

/// How long streams need to find their speed.
fn settling(look: &Look) -> Duration {
    (look.round_trip * SETTLING_ROUND_TRIPS).clamp(SETTLING.0, SETTLING.1)
}

/// Whether a rate is more than another by so many parts of a thousand; from nothing to nothing is no gain.
fn has_gained(rate: u64, before: u64, thousandths: u64) -> bool {
    rate > before && at_least(rate, before, 1_000 + thousandths)
}

/// Whether a rate is at least so many parts of a thousand of another.
fn at_least(rate: u64, of: u64, thousandths: u64) -> bool {
    u128::from(rate) * 1_000 >= u128::from(of) * u128::from(thousandths)
}

/// The mean without the lowest and the highest quarter.
fn middle_mean(rates: &VecDeque<u64>) -> u64 {
    let mut sorted: Vec<u64> = rates.iter().copied().collect();
    sorted.sort_unstable();
    let quarter = sorted.len() / 4;
    let middle = &sorted[quarter..sorted.len() - quarter];
    let sum: u128 = middle.iter().map(|rate| u128::from(*rate)).sum();
    u64::try_from(sum / middle.len().max(1) as u128).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "stream_tuner_tests.rs"]
mod tests;
