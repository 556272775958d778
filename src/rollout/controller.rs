//! What is to be done about rollouts: `(now, measurements) -> actions`.
//!
//! The controller is told each percentage in force and each measurement, and answers on each tick:
//! take a flag back, raise it to the next stage of its schedule, or hold. It changes nothing
//! itself; who carries an action out says so by [`Controller::set_percent`] or
//! [`Controller::rolled_back`], and until then hears it again on each tick.
//!
//! * One flag at a time is taken back, the one that was raised last first, and all others are judged
//!   anew from there on: what it did to them is no evidence against them.
//! * Taken back stays taken back until [`Controller::clear`].
//! * Where the flag is on everywhere and harm has nothing to be held against but the past, any such flag
//!   may have done it, so again the one that was raised last goes first.
//! * Missing data, values that are no numbers and a clock that jumps never take a flag back, and never
//!   raise it.

use super::guard::clock::SteadyClock;
use super::guard::counts::Counts;
use super::guard::{Arm, Beside, Evidence, Limits, LimitsError, Measured, Metric, Observation};
pub use super::ramp::HoldReason;
use super::ramp::{Ramp, Verdict};
use super::{Flag, Percent, Schedule};
use crate::base::Time;
use serde::Serialize;
use std::time::Duration;

/// Judges the rollouts of all flags. Not shared between threads; its owner reads the clock.
#[derive(Clone, Debug)]
pub struct Controller {
    limits: Limits,
    clock: SteadyClock,
    ramps: [Ramp; Flag::ALL.len()],
    /// Counts raises of all flags, so that the last one is known.
    raises: u64,
    /// Nothing is taken back before, so that the last rollback can take effect.
    quiet_until: Time,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Switch the flag off for all units, until somebody clears that.
    RollBack {
        /// Which flag.
        flag: Flag,
        /// Why.
        evidence: Box<Evidence>,
    },
    /// Raise its percentage.
    Advance {
        /// Which flag.
        flag: Flag,
        /// To what.
        percent: Percent,
    },
    /// Leave it as it is; said once for each reason.
    Hold {
        /// Which flag.
        flag: Flag,
        /// Why.
        reason: HoldReason,
    },
}

/// How a flag's rollout stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RampView {
    /// The flag.
    pub flag: Flag,
    /// The percentage in force.
    pub percent: Percent,
    /// Whether it is being watched.
    pub is_in_flight: bool,
    /// Why it was taken back, if it was.
    pub evidence: Option<Evidence>,
    /// Why it stays where it is, if that was said last.
    pub hold: Option<HoldReason>,
    /// Requests with the flag since the last raise.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Measurements that were no usable numbers.
    pub unusable: u64,
}

impl Controller {
    /// With nothing in flight.
    ///
    /// # Errors
    /// [`LimitsError`] for limits that cannot be meant.
    pub fn new(limits: Limits) -> Result<Self, LimitsError> {
        limits.check()?;
        Ok(Self::with(limits))
    }

    fn with(limits: Limits) -> Self {
        let ramps = Flag::ALL.map(|flag| Ramp::new(flag, &limits));
        let (clock, quiet_until) = (SteadyClock::default(), Time::default());
        Self { limits, clock, ramps, raises: 0, quiet_until }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Other limits from now on. What is in flight is judged anew.
    ///
    /// # Errors
    /// [`LimitsError`]; then the old ones stay.
    pub fn set_limits(&mut self, limits: Limits) -> Result<(), LimitsError> {
        limits.check()?;
        self.limits = limits;
        for ramp in self.ramps.iter_mut().filter(|ramp| ramp.raised.is_some()) {
            ramp.panel.raise(ramp.percent.unwrap_or_default(), &self.limits);
        }
        Ok(())
    }

    /// Tells the percentage in force, at the start and after each change, whoever made it. A flag
    /// that is on everywhere from the start is not being rolled out.
    pub fn set_percent(&mut self, now: Time, flag: Flag, percent: Percent) {
        let now = self.read_clock(now);
        let ramp = &mut self.ramps[flag.index()];
        let before = ramp.percent.replace(percent);
        if before == Some(percent) {
            return;
        }
        (ramp.entered_at, ramp.entered_before) = (now, Duration::ZERO);
        ramp.hold = None;
        let is_raise = match before {
            None => percent > Percent::ZERO && percent < Percent::FULL,
            Some(before) => percent > before,
        };
        if is_raise {
            self.raise(now, flag);
        } else {
            ramp.panel.lower(percent);
            ramp.raised = ramp.raised.filter(|_| percent > Percent::ZERO);
        }
    }

    /// Gives a flag a schedule, or takes it away. `elapsed`: how long ago it started, for one that
    /// is under way already.
    pub fn set_schedule(
        &mut self,
        now: Time,
        flag: Flag,
        schedule: Option<Schedule>,
        elapsed: Duration,
    ) {
        let now = self.read_clock(now);
        let ramp = &mut self.ramps[flag.index()];
        if ramp.schedule == schedule {
            return;
        }
        ramp.schedule = schedule;
        ramp.entered_at = now;
        ramp.entered_before = ramp.time_in_stage(elapsed);
    }

    /// Takes in one measurement.
    pub fn observe(&mut self, now: Time, observation: &Observation) {
        let now = self.read_clock(now);
        let is_damage = observation.kind == Measured::Corruption;
        let ramp = &self.ramps[observation.flag.index()];
        if !self.clock.is_settled() && !is_damage || !ramp.is_of_interest(now) {
            return;
        }
        let is_canary = observation.arm == Arm::Treated && ramp.raised.is_none();
        if is_canary && ramp.percent == Some(Percent::ZERO) && ramp.verdict.is_none() {
            // Units on the allow list have it before any percentage.
            self.raise(now, observation.flag);
        }
        let ramp = &mut self.ramps[observation.flag.index()];
        ramp.panel.observe(now, observation.arm, observation.unit, observation.kind);
    }

    /// What is to be done now; to be asked at least every few minutes, better every second.
    pub fn tick(&mut self, now: Time) -> Vec<Action> {
        let now = self.read_clock(now);
        self.ramps.iter_mut().for_each(|ramp| ramp.panel.tick(now));
        let mut actions = Vec::new();
        self.judge(now);
        actions.extend(self.ramps.iter().filter_map(Ramp::pending));
        let disturbance = self.disturbance(now);
        for ramp in &mut self.ramps {
            actions.extend(ramp.next_stage(now, disturbance));
        }
        actions
    }

    /// A rollback has taken effect: no unit has the flag any more.
    pub fn rolled_back(&mut self, now: Time, flag: Flag) {
        let now = self.read_clock(now);
        let ramp = &mut self.ramps[flag.index()];
        let Some(verdict) = ramp.verdict.as_mut().filter(|verdict| !verdict.has_effect) else {
            return;
        };
        verdict.has_effect = true;
        ramp.raised = None;
        self.quiet_until = now + AFTERMATH;
        self.weigh_anew();
    }

    /// The flag may be on again: somebody cleared its rollback.
    pub fn clear(&mut self, now: Time, flag: Flag) {
        let now = self.read_clock(now);
        let ramp = &mut self.ramps[flag.index()];
        if ramp.verdict.take().is_none() {
            return;
        }
        ramp.panel.weigh_anew();
        (ramp.entered_at, ramp.entered_before) = (now, Duration::ZERO);
        if ramp.percent.is_some_and(|percent| percent > Percent::ZERO) {
            self.raise(now, flag);
        }
    }

    /// How a flag's rollout stands.
    pub fn view(&self, now: Time, flag: Flag) -> RampView {
        let mut clock = self.clock;
        let ramp = &self.ramps[flag.index()];
        let Counts { requests, failures } = ramp.panel.stage_requests();
        RampView {
            flag,
            percent: ramp.percent.unwrap_or_default(),
            is_in_flight: ramp.is_in_flight(clock.read(now).steady),
            evidence: ramp.verdict.as_ref().map(|verdict| verdict.evidence.clone()),
            hold: ramp.hold,
            requests,
            failures,
            unusable: ramp.panel.unusable(),
        }
    }

    fn read_clock(&mut self, now: Time) -> Time {
        let reading = self.clock.read(now);
        if reading.is_jump {
            self.ramps.iter_mut().for_each(|ramp| ramp.panel.interrupt());
        }
        reading.steady
    }

    fn raise(&mut self, now: Time, flag: Flag) {
        self.raises += 1;
        let ramp = &mut self.ramps[flag.index()];
        ramp.raised = Some((now, self.raises));
        ramp.panel.raise(ramp.percent.unwrap_or_default(), &self.limits);
    }

    /// Finds the flag to take back, if there is one.
    fn judge(&mut self, now: Time) {
        let is_pending = self.ramps.iter().any(|ramp| ramp.pending().is_some());
        if is_pending || now < self.quiet_until {
            return;
        }
        let is_settled = self.clock.is_settled();
        let verdict = |ramp: &Ramp| {
            let (_, raise) = ramp.raised.filter(|_| ramp.is_in_flight(now))?;
            let panel = &ramp.panel;
            let evidence = if is_settled { panel.verdict() } else { panel.corruption() };
            Some((raise, evidence?))
        };
        let verdicts = self.ramps.iter().filter_map(verdict);
        let Some((_, evidence)) = verdicts.max_by_key(|(raise, _)| *raise) else { return };
        let flag = self.culprit(now, &evidence);
        let evidence = if flag == evidence.flag { evidence } else { evidence.blame(flag) };
        self.ramps[flag.index()].verdict = Some(Verdict { evidence, has_effect: false });
        self.weigh_anew();
    }

    /// Without a control arm all flags that are on everywhere look the same.
    fn culprit(&self, now: Time, evidence: &Evidence) -> Flag {
        let is_alone = evidence.beside != Some(Beside::Control);
        let is_told_apart = evidence.metric == Metric::Corruption || !is_alone;
        if is_told_apart {
            return evidence.flag;
        }
        let everywhere = self.ramps.iter().filter(|ramp| ramp.percent == Some(Percent::FULL));
        let in_flight = everywhere.filter(|ramp| ramp.is_in_flight(now));
        let last = in_flight.max_by_key(|ramp| ramp.raised.map(|(_, raise)| raise));
        last.map_or(evidence.flag, |ramp| ramp.flag)
    }

    fn weigh_anew(&mut self) {
        self.ramps.iter_mut().for_each(|ramp| ramp.panel.weigh_anew());
    }

    /// What keeps every flag where it is.
    fn disturbance(&self, now: Time) -> Option<HoldReason> {
        if !self.clock.is_settled() {
            return Some(HoldReason::ClockJumped);
        }
        let is_pending = self.ramps.iter().any(|ramp| ramp.pending().is_some());
        (is_pending || now < self.quiet_until).then_some(HoldReason::Aftermath)
    }
}

impl Default for Controller {
    /// With the limits of the upgrade guide.
    fn default() -> Self {
        Self::with(Limits::default())
    }
}

/// After a rollback the others are left alone for so long.
const AFTERMATH: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
