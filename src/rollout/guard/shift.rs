//! Whether the treated arm's latency or throughput has shifted by more than a limit.
//!
//! A round is as much as one bet needs: some samples from at least five units of each arm. Of each unit it
//! takes the median, relative to the unit's own [`Past`], and of each arm the mean over the units in the middle.
//! So heavy tails weigh nothing, no unit says more than another, and what shifts both arms, such as the time
//! of day, cancels out. The bet is on the difference beyond the limit, all logarithms: while the treated
//! arm is at the limit the difference is as likely above as below, so no bet on it wins on average.
//!
//! What is measured at one moment is not independent, hence at most one bet a second. With the flag on
//! everywhere there is no control arm: units are then held against the same hour of their own past, and
//! one bet a minute is made.

use super::observation::{Arm, Beside};
use super::past::{HOUR_US, Past};
use super::spending;
use super::wealth::Wealth;
use crate::base::Time;
use crate::base::limits::MAX_GUARD_UNITS;
use std::collections::BTreeMap;
use std::time::Duration;

/// Watches the latency or throughput of one flag.
#[derive(Clone, Debug)]
pub struct ShiftGuard {
    worse: Worse,
    test: Test,
    /// The tighter one of a stage, once an hour.
    stage: Option<Test>,
    least_samples: u32,
    units: BTreeMap<u64, UnitLog>,
    /// Since the last raise.
    has_treated: bool,
    round: Round,
    hour: u64,
}

/// Which way harm lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worse {
    /// Latency.
    Higher,
    /// Throughput.
    Lower,
}

/// What speaks against the flag; arms as ratios to their past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShiftVerdict {
    /// The treated arm.
    pub treated: ArmShift,
    /// Those that it was held against.
    pub beside: Beside,
    /// Them.
    pub other: ArmShift,
    /// The ratio of treated to other that was allowed.
    pub limit: f64,
    /// How many to one.
    pub odds: f64,
    /// How many to one suffice.
    pub odds_needed: f64,
}

/// One arm while the treated one was suspected.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ArmShift {
    /// To its past.
    pub ratio: f64,
    /// Measured values.
    pub samples: u64,
    /// Units in the last round.
    pub units: u32,
}

/// A limit and the wealth of the bets against it.
#[derive(Clone, Debug)]
struct Test {
    /// How far the arms may lie apart, as a logarithm.
    limit_nats: f64,
    alpha: f64,
    wealth: Wealth<3>,
    suspicion: Suspicion,
}

/// Since the treated arm last looked well.
#[derive(Clone, Copy, Debug, Default)]
struct Suspicion {
    nats: f64,
    rounds: u32,
    treated: Side,
    other: Side,
    beside: Option<Beside>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Sum of what each round found.
    nats: f64,
    samples: u64,
    units: u32,
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

#[derive(Clone, Debug)]
struct UnitLog {
    arm: Arm,
    samples: Samples,
    hour: Hour,
    past: Past,
    /// The past of the next raise.
    learning: Past,
}

/// The last samples of a round, as logarithms.
#[derive(Clone, Copy, Debug, Default)]
struct Samples {
    values: [f32; MAX_SAMPLES],
    count: u32,
}

/// Rounds of an hour.
#[derive(Clone, Copy, Debug, Default)]
struct Hour {
    sum: f32,
    rounds: u32,
}

/// What a round or an hour found in one arm.
#[derive(Clone, Debug, Default)]
struct Found {
    values: Vec<f32>,
    /// Rounds of all the units' pasts.
    past_rounds: u64,
    samples: u64,
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
            test: Test::new(worse, limit, spending::SHIFT),
            stage: stage_limit.map(|limit| Test::new(worse, limit, spending::STAGE_SHIFT)),
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
        self.test.raise(worse, limit);
        let kept = self.stage.take().map_or_else(
            || stage_limit.map(|limit| Test::new(worse, limit, spending::STAGE_SHIFT)),
            |test| stage_limit.is_some().then_some(test),
        );
        self.stage = kept;
        if let (Some(test), Some(limit)) = (&mut self.stage, stage_limit) {
            test.raise(worse, limit);
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
        for test in [Some(&mut self.test), self.stage.as_mut()].into_iter().flatten() {
            test.wealth.forgo_winnings();
            test.suspicion = Suspicion::default();
        }
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
        let stage = self.stage.as_ref().and_then(|test| test.verdict(self.worse));
        self.test.verdict(self.worse).or(stage)
    }

    /// Whether harm is being weighed.
    pub fn is_suspicious(&self) -> bool {
        let tests = [Some(&self.test), self.stage.as_ref()];
        tests.into_iter().flatten().any(|test| test.wealth.odds() >= SUSPICIOUS_ODDS)
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
            Beside::Control => self.test.bet(self.worse, &treated, &control, beside),
            Beside::Past => self.test.bet(self.worse, &treated, &Found::default(), beside),
        }
        self.close_hour(now, beside);
    }

    /// The tighter test takes an hour of rounds for one bet: the closer the limit, the more it needs
    /// rounds that do not share the same weather.
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

impl Worse {
    fn limit_nats(self, limit: f64) -> f64 {
        match self {
            Worse::Higher => limit.max(1.0).ln(),
            Worse::Lower => -limit.clamp(LEAST_RATIO, 1.0).ln(),
        }
    }
}

impl Test {
    fn new(worse: Worse, limit: f64, alpha: f64) -> Self {
        let (wealth, suspicion) = (Wealth::new([1.0 / 3.0; 3]), Suspicion::default());
        Self { limit_nats: worse.limit_nats(limit), alpha, wealth, suspicion }
    }

    fn raise(&mut self, worse: Worse, limit: f64) {
        self.limit_nats = worse.limit_nats(limit);
        self.wealth.raise();
        self.suspicion = Suspicion::default();
    }

    fn bet(&mut self, worse: Worse, treated: &Found, other: &Found, beside: Beside) {
        let (few, of) = (ENOUGH_UNITS as usize, treated.values.len());
        if of < few || beside == Beside::Control && other.values.len() < few {
            return;
        }
        let (here, there) = (treated.middle(), other.middle());
        let apart = match worse {
            Worse::Higher => here - there,
            Worse::Lower => there - here,
        };
        let beyond = apart - self.limit_nats - uncertainty(treated) - uncertainty(other);
        let scale = (self.limit_nats / 2.0).max(LEAST_SCALE);
        let payoff = (beyond / scale).clamp(-1.0, 1.0);
        let factors = BOLDNESS.map(|boldness| 1.0 + boldness * payoff);
        self.wealth.bet(factors);
        let Suspicion { nats, rounds, .. } = &mut self.suspicion;
        *nats += factors[STEADY].ln();
        *rounds += 1;
        self.suspicion.beside = Some(beside);
        self.suspicion.treated.add(here, treated);
        self.suspicion.other.add(there, other);
        if self.suspicion.nats <= 0.0 {
            self.suspicion = Suspicion::default();
            self.wealth.forgo_winnings();
        }
    }

    fn verdict(&self, worse: Worse) -> Option<ShiftVerdict> {
        let odds_needed = 1.0 / self.alpha;
        let odds = self.wealth.odds();
        let Suspicion { rounds, treated, other, beside, .. } = self.suspicion;
        let beside = beside.filter(|_| odds >= odds_needed && rounds >= LEAST_ROUNDS)?;
        let limit_nats = if worse == Worse::Higher { self.limit_nats } else { -self.limit_nats };
        let (treated, other) = (treated.shift(rounds), other.shift(rounds));
        Some(ShiftVerdict { treated, beside, other, limit: limit_nats.exp(), odds, odds_needed })
    }
}

impl UnitLog {
    fn new(arm: Arm) -> Self {
        let (past, learning) = (Past::default(), Past::default());
        Self { arm, samples: Samples::default(), hour: Hour::default(), past, learning }
    }
}

impl Samples {
    fn push(&mut self, value: f32) {
        self.values[self.count as usize % MAX_SAMPLES] = value;
        self.count = self.count.saturating_add(1);
    }

    /// The median and how many there were.
    fn take(&mut self) -> Option<(f32, u32)> {
        let count = std::mem::take(&mut self.count);
        let kept = (count as usize).min(MAX_SAMPLES);
        median(&mut self.values[..kept]).map(|median| (median, count))
    }
}

impl Hour {
    fn add(&mut self, value: f32) {
        self.sum += value;
        self.rounds += 1;
    }

    fn take(&mut self) -> Option<(f32, u32)> {
        let Hour { sum, rounds } = std::mem::take(self);
        (rounds > 0).then(|| (sum / rounds as f32, rounds))
    }
}

impl Found {
    fn add(&mut self, value: f32, past_rounds: u32, samples: u32) {
        self.values.push(value);
        self.past_rounds += u64::from(past_rounds);
        self.samples += u64::from(samples);
    }

    /// The mean of the units in the middle, without a quarter at either end; zero of nothing, which
    /// stands for the past itself.
    fn middle(&self) -> f64 {
        let mut values = self.values.clone();
        values.sort_by(f32::total_cmp);
        let ends = values.len() / 4;
        let middle = &values[ends..values.len() - ends];
        f64::from(middle.iter().sum::<f32>()) / middle.len().max(1) as f64
    }
}

impl Side {
    fn add(&mut self, nats: f64, found: &Found) {
        self.nats += nats;
        self.samples += found.samples;
        self.units = found.values.len() as u32;
    }

    fn shift(&self, rounds: u32) -> ArmShift {
        let ratio = (self.nats / f64::from(rounds.max(1))).exp();
        ArmShift { ratio, samples: self.samples, units: self.units }
    }
}

/// How far an arm's median may be off because its units' pasts are short.
fn uncertainty(found: &Found) -> f64 {
    2.0 * ROUND_SPREAD / (found.past_rounds.max(1) as f64).sqrt()
        * f64::from(!found.values.is_empty())
}

fn median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let is_even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    let upper = *upper;
    let lower = below.iter().copied().max_by(f32::total_cmp).filter(|_| is_even);
    Some(lower.map_or(upper, |lower| (lower + upper) / 2.0))
}

/// From so many units an arm is judged.
const ENOUGH_UNITS: u32 = 5;
/// Latencies of the treated arm in a round.
const LEAST_LATENCIES: u32 = 20;
/// Samples of a unit in a round that are kept.
const MAX_SAMPLES: usize = 15;
const ROUND: Duration = Duration::from_secs(1);
const ROUND_ALONE: Duration = Duration::from_secs(60);
/// While no unit has the flag.
const ROUND_LEARNING: Duration = Duration::from_secs(10);
/// A round that gets no more by then is judged by what it has, if that is enough.
const LONGEST_ROUND: Duration = Duration::from_secs(3600);
/// How much of what is at stake a bet risks.
const BOLDNESS: [f64; 3] = [0.3, 0.6, 0.9];
/// The one of them by which it is told since when the arm is suspected.
const STEADY: usize = 1;
/// Rounds of a unit differ by so much, as a logarithm.
const ROUND_SPREAD: f64 = 0.3;
const LEAST_SCALE: f64 = 0.2;
const LEAST_RATIO: f64 = 0.01;
const LEAST_ROUNDS: u32 = 3;
const SUSPICIOUS_ODDS: f64 = 40.0;

#[cfg(test)]
#[path = "shift_tests.rs"]
mod tests;
