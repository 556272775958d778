//! Whether the treated arm's latency or throughput has shifted by more than a limit.
//!
//! A round is as much as one bet needs: some samples from at least five units of each arm. Of each
//! unit it takes the median, relative to the unit's own [`Past`](super::past::Past), and of each arm the mean over the
//! units in the middle. So heavy tails weigh nothing, no unit says more than another, and what
//! shifts both arms, such as the time of day, cancels out. The bet is on the difference beyond the
//! limit, all logarithms: while the treated arm is at the limit the difference is as likely above
//! as below, so no bet on it wins on average.
//!
//! What is measured at one moment is not independent, hence at most one bet a second. With the flag
//! on everywhere there is no control arm: units are then held against the same hour of their own
//! past, and one bet a minute is made.

use super::observation::{Arm, Beside};
use super::past::HOUR_US;
pub use super::shift_bets::{ArmShift, ShiftVerdict, Worse};
use super::shift_bets::{ENOUGH_UNITS, ShiftBets};
use super::spending;
use super::unit_log::{Found, Hour, UnitLog, median};
use crate::base::Time;
use crate::base::limits::MAX_GUARD_UNITS;
use std::collections::BTreeMap;
use std::time::Duration;

/// Watches the latency or throughput of one flag.
#[derive(Clone, Debug)]
pub struct ShiftGuard {
    worse: Worse,
    bets: ShiftBets,
    /// The tighter one of a stage, once an hour.
    stage: Option<ShiftBets>,
    least_samples: u32,
    units: BTreeMap<u64, UnitLog>,
    /// Since the last raise.
    has_treated: bool,
    round: Round,
    hour: u64,
}

/// The round that is open.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    began: Option<Time>,
    treated: Tally,
    control: Tally,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    samples: u32,
    units: u32,
}

impl ShiftGuard {
    /// Latency may be so many times that of the control arm; a tighter limit may hold for a stage.
    pub fn of_latency(limit: f64, stage_limit: Option<f64>) -> Self {
        Self::new(Worse::Higher, limit, stage_limit, LEAST_LATENCIES)
    }

    /// Throughput may be such a part of that of the control arm.
    pub fn of_throughput(limit: f64) -> Self {
        Self::new(Worse::Lower, limit, None, ENOUGH_UNITS)
    }

    fn new(worse: Worse, limit: f64, stage_limit: Option<f64>, least_samples: u32) -> Self {
        Self {
            worse,
            bets: ShiftBets::new(worse, limit, spending::SHIFT),
            stage: stage_limit.map(|limit| ShiftBets::new(worse, limit, spending::STAGE_SHIFT)),
            least_samples,
            units: BTreeMap::new(),
            has_treated: false,
            round: Round::default(),
            hour: 0,
        }
    }

    /// More units have the flag from now on, under these limits.
    pub fn raise(&mut self, limit: f64, stage_limit: Option<f64>) {
        self.rebase();
        self.interrupt();
        self.has_treated = false;
        let worse = self.worse;
        self.bets.raise(worse, limit);
        let kept = self.stage.take().map_or_else(
            || stage_limit.map(|limit| ShiftBets::new(worse, limit, spending::STAGE_SHIFT)),
            |bets| stage_limit.is_some().then_some(bets),
        );
        self.stage = kept;
        if let (Some(bets), Some(limit)) = (&mut self.stage, stage_limit) {
            bets.raise(worse, limit);
        }
    }

    /// Drops the open round, which was disturbed.
    pub fn interrupt(&mut self) {
        self.round = Round::default();
        self.units.values_mut().for_each(|unit| unit.samples.count = 0);
    }

    /// What was weighed so far is explained by something else.
    pub fn weigh_anew(&mut self) {
        self.interrupt();
        let bets = [Some(&mut self.bets), self.stage.as_mut()];
        bets.into_iter().flatten().for_each(ShiftBets::weigh_anew);
    }

    /// A positive, finite value of a unit. `is_alone`: whether the flag is on everywhere.
    pub fn observe(&mut self, now: Time, arm: Arm, unit: u64, value: f64, is_alone: bool) {
        let is_new = !self.units.contains_key(&unit);
        if is_new && self.units.len() >= MAX_GUARD_UNITS {
            return;
        }
        let log = self.units.entry(unit).or_insert_with(|| UnitLog::new(arm));
        if log.arm != arm {
            // It changed sides, and its samples of before belong to neither.
            log.arm = arm;
            log.samples.count = 0;
        }
        let is_first = log.samples.count == 0;
        log.samples.push(value.ln() as f32);
        let tally = match arm {
            Arm::Treated => &mut self.round.treated,
            Arm::Control => &mut self.round.control,
        };
        tally.samples += 1;
        // Whose past is not known cannot speak.
        tally.units += u32::from(is_first && log.past.usual().is_some());
        self.has_treated |= arm == Arm::Treated;
        self.round.began.get_or_insert(now);
        self.tick(now, is_alone);
    }

    /// Closes the round if it is ripe.
    pub fn tick(&mut self, now: Time, is_alone: bool) {
        let Some(began) = self.round.began else { return };
        let (age, Round { treated, control, .. }) = (now.since(began), self.round);
        let enough = |tally: Tally| tally.units >= ENOUGH_UNITS;
        let has_samples = treated.samples >= self.least_samples;
        if age >= ROUND && enough(treated) && enough(control) && has_samples {
            self.close(now, Beside::Control);
        } else if age >= ROUND_ALONE && is_alone && !enough(control) {
            self.close(now, Beside::Past);
        } else if age >= LONGEST_ROUND || age >= ROUND_LEARNING && !self.has_treated {
            self.close(now, Beside::Control);
        }
    }

    /// The verdict, if it is one.
    pub fn verdict(&self) -> Option<ShiftVerdict> {
        let stage = self.stage.as_ref().and_then(|bets| bets.verdict(self.worse));
        self.bets.verdict(self.worse).or(stage)
    }

    /// Whether harm is being weighed.
    pub fn is_suspicious(&self) -> bool {
        self.bets.is_suspicious() || self.stage.as_ref().is_some_and(ShiftBets::is_suspicious)
    }

    fn close(&mut self, now: Time, beside: Beside) {
        let (mut treated, mut control) = (Found::default(), Found::default());
        for unit in self.units.values_mut() {
            let Some((value, samples)) = unit.samples.take() else { continue };
            if unit.arm == Arm::Control {
                unit.learning.add(now, value);
            }
            let usual = match beside {
                Beside::Control => unit.past.usual(),
                Beside::Past => unit.past.usual_at(now),
            };
            let Some((usual, rounds)) = usual else { continue };
            let found = if unit.arm == Arm::Treated { &mut treated } else { &mut control };
            found.add(value - usual, rounds, samples);
            if unit.past.is_whole_day() {
                unit.hour.add(value - usual);
            }
        }
        self.round = Round::default();
        match beside {
            Beside::Control => self.bets.bet(self.worse, &treated, &control, beside),
            Beside::Past => self.bets.bet(self.worse, &treated, &Found::default(), beside),
        }
        self.close_hour(now, beside);
    }

    /// The tighter test takes an hour of rounds for one bet: the closer the limit, the more it
    /// needs rounds that do not share the same weather.
    fn close_hour(&mut self, now: Time, beside: Beside) {
        let hour = now.0 / HOUR_US;
        if hour == self.hour {
            return;
        }
        self.hour = hour;
        let (mut treated, mut control) = (Found::default(), Found::default());
        for unit in self.units.values_mut() {
            let Some((value, rounds)) = unit.hour.take() else { continue };
            let found = if unit.arm == Arm::Treated { &mut treated } else { &mut control };
            let past_rounds = unit.past.usual().map_or(0, |(_, rounds)| rounds);
            found.add(value, past_rounds, rounds);
        }
        if let (Some(stage), Beside::Control) = (&mut self.stage, beside) {
            stage.bet(self.worse, &treated, &control, beside);
        }
    }

    /// Makes what units without the flag measured lately their past. Units that have the flag keep
    /// theirs, moved as far as those moved on average since it was taken.
    fn rebase(&mut self) {
        let mut moved: Vec<f32> = Vec::new();
        for unit in self.units.values_mut().filter(|unit| unit.arm == Arm::Control) {
            let Some((lately, _)) = unit.learning.usual() else { continue };
            moved.extend(unit.past.usual().map(|(before, _)| lately - before));
            unit.past = std::mem::take(&mut unit.learning);
        }
        let by = median(&mut moved).unwrap_or(0.0);
        for unit in self.units.values_mut().filter(|unit| unit.arm == Arm::Treated) {
            unit.past.shift(by);
        }
        self.units.values_mut().for_each(|unit| unit.hour = Hour::default());
    }
}

/// Latencies of the treated arm in a round.
const LEAST_LATENCIES: u32 = 20;
const ROUND: Duration = Duration::from_secs(1);
const ROUND_ALONE: Duration = Duration::from_secs(60);
/// While no unit has the flag.
const ROUND_LEARNING: Duration = Duration::from_secs(10);
/// A round that gets no more by then is judged by what it has, if that is enough.
const LONGEST_ROUND: Duration = Duration::from_secs(3600);

#[cfg(test)]
#[path = "shift_tests.rs"]
mod tests;
