//! All guards of one flag, and when they last heard of each arm.

use super::counts::Counts;
use super::evidence::{Evidence, Metric};
use super::failures::FailureGuard;
use super::limits::{Limits, StageLimits};
use super::observation::{Arm, Measured};
use super::shift::{ShiftGuard, Worse};
use super::switches::SwitchGuard;
use crate::base::Time;
use crate::rollout::{Flag, Percent};
use std::time::Duration;

/// The guards of one flag.
#[derive(Clone, Debug)]
pub struct Panel {
    flag: Flag,
    percent: Percent,
    errors: FailureGuard,
    stage_errors: FailureGuard,
    detections: FailureGuard,
    /// What `stage_errors` and `detections` hold, if their stage is on.
    stage: Option<StageLimits>,
    latency: ShiftGuard,
    throughput: ShiftGuard,
    switches: SwitchGuard,
    is_corrupt: bool,
    heard: [Heard; HEARD.len()],
    unusable_at: Option<Time>,
    unusable: u64,
}

/// When each arm was last heard of.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    treated: Option<Time>,
    control: Option<Time>,
}

impl Panel {
    /// Guards of a flag that no unit has yet.
    pub fn new(flag: Flag, limits: &Limits) -> Self {
        let stage = limits.stage_at(Percent::ZERO).copied();
        let held = stage.unwrap_or(NO_STAGE);
        Self {
            flag,
            percent: Percent::ZERO,
            errors: FailureGuard::new(limits.max_error_rate / 100.0),
            stage_errors: FailureGuard::of_stage(held.max_error_rate / 100.0),
            detections: FailureGuard::of_stage(held.max_detection_failure_rate / 100.0),
            stage,
            latency: ShiftGuard::of_latency(
                times(limits.max_latency_increase),
                stage.map(|stage| times(stage.max_latency_increase)),
            ),
            throughput: ShiftGuard::of_throughput(limits.min_throughput_ratio),
            switches: SwitchGuard::new(limits.max_mode_switch_rate),
            is_corrupt: false,
            heard: Default::default(),
            unusable_at: None,
            unusable: 0,
        }
    }

    /// More units have the flag from now on; evidence is weighed by these limits.
    pub fn raise(&mut self, percent: Percent, limits: &Limits) {
        let stage = limits.stage_at(percent).copied();
        self.percent = percent;
        self.stage = stage;
        let held = stage.unwrap_or(NO_STAGE);
        self.errors.set_limit(limits.max_error_rate / 100.0);
        self.stage_errors.set_limit(held.max_error_rate / 100.0);
        self.detections.set_limit(held.max_detection_failure_rate / 100.0);
        for guard in [&mut self.errors, &mut self.stage_errors, &mut self.detections] {
            guard.raise();
        }
        let stage_limit = stage.map(|stage| times(stage.max_latency_increase));
        self.latency.raise(times(limits.max_latency_increase), stage_limit);
        self.throughput.raise(limits.min_throughput_ratio, None);
        self.switches = SwitchGuard::new(limits.max_mode_switch_rate);
    }

    /// Fewer units have the flag from now on.
    pub fn lower(&mut self, percent: Percent) {
        self.percent = percent;
    }

    /// What was weighed so far is explained by something else.
    pub fn weigh_anew(&mut self) {
        for guard in [&mut self.errors, &mut self.stage_errors, &mut self.detections] {
            guard.weigh_anew();
        }
        self.latency.weigh_anew();
        self.throughput.weigh_anew();
        self.switches.weigh_anew();
        self.is_corrupt = false;
    }

    /// Drops what was measured across a jump of the clock.
    pub fn interrupt(&mut self) {
        self.latency.interrupt();
        self.throughput.interrupt();
    }

    /// Takes in one measurement, unless it is no usable number.
    pub fn observe(&mut self, now: Time, arm: Arm, unit: u64, measured: Measured) {
        let is_alone = self.is_alone();
        match measured {
            Measured::Request { is_failed } => {
                self.hear(now, Metric::ErrorRate, arm);
                self.errors.observe(now, arm, unit, is_failed);
                if self.stage.is_some() {
                    self.stage_errors.observe(now, arm, unit, is_failed);
                }
            }
            Measured::Detection { is_failed } => {
                self.hear(now, Metric::DetectionFailures, arm);
                if self.stage.is_some() {
                    self.detections.observe(now, arm, unit, is_failed);
                }
            }
            Measured::Latency { us } if is_usable(us) => {
                self.hear(now, Metric::Latency, arm);
                self.latency.observe(now, arm, unit, us, is_alone);
            }
            Measured::Throughput { is_application_limited: true, .. } => {
                // Idle is not silent.
                self.hear(now, Metric::Throughput, arm);
            }
            Measured::Throughput { bytes_per_s, .. } if is_usable(bytes_per_s) => {
                self.hear(now, Metric::Throughput, arm);
                self.throughput.observe(now, arm, unit, bytes_per_s, is_alone);
            }
            Measured::ModeSwitches { count, seconds } if is_usable(seconds) => {
                self.hear(now, Metric::ModeSwitches, arm);
                self.switches.observe(arm, unit, count, seconds.min(LONGEST_COUNT_S));
            }
            Measured::Corruption => self.is_corrupt |= arm == Arm::Treated,
            _ => {
                self.unusable_at = Some(now);
                self.unusable = self.unusable.saturating_add(1);
            }
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Time) {
        let is_alone = self.is_alone();
        self.latency.tick(now, is_alone);
        self.throughput.tick(now, is_alone);
    }

    /// Damage, which needs no weighing.
    pub fn corruption(&self) -> Option<Evidence> {
        self.is_corrupt.then(|| Evidence::of_corruption(self.flag))
    }

    /// The first guard's verdict, if there is one.
    pub fn verdict(&self) -> Option<Evidence> {
        let (flag, is_alone) = (self.flag, self.is_alone());
        let failures = |guard: &FailureGuard, metric| {
            let verdict = guard.verdict(is_alone)?;
            Some(Evidence::of_failures(flag, metric, &verdict))
        };
        let shift =
            |guard: &ShiftGuard, worse| Some(Evidence::of_shift(flag, worse, &guard.verdict()?));
        let stage = |guard, metric| self.stage.and_then(|_| failures(guard, metric));
        self.corruption()
            .or_else(|| failures(&self.errors, Metric::ErrorRate))
            .or_else(|| stage(&self.stage_errors, Metric::ErrorRate))
            .or_else(|| stage(&self.detections, Metric::DetectionFailures))
            .or_else(|| shift(&self.latency, Worse::Higher))
            .or_else(|| shift(&self.throughput, Worse::Lower))
            .or_else(|| Some(Evidence::of_switches(flag, &self.switches.verdict()?)))
    }

    /// The metric that begins to look bad.
    pub fn suspicion(&self) -> Option<Metric> {
        let has_stage = self.stage.is_some();
        let looks_bad = [
            (Metric::Corruption, self.is_corrupt),
            (Metric::ErrorRate, self.errors.is_suspicious()),
            (Metric::ErrorRate, has_stage && self.stage_errors.is_suspicious()),
            (Metric::DetectionFailures, has_stage && self.detections.is_suspicious()),
            (Metric::Latency, self.latency.is_suspicious()),
            (Metric::Throughput, self.throughput.is_suspicious()),
            (Metric::ModeSwitches, self.switches.is_suspicious()),
        ];
        looks_bad.into_iter().find(|(_, bad)| *bad).map(|(metric, _)| metric)
    }

    /// What one arm told within `within`, and the other, which should, did not.
    pub fn silence(&self, now: Time, within: Duration, arm: Arm) -> Option<Metric> {
        let is_fresh = |heard: Option<Time>| heard.is_some_and(|at| now.since(at) <= within);
        let is_silent = |metric: &Metric| {
            let heard = self.heard[*metric as usize];
            match (arm, *metric) {
                (Arm::Control, Metric::ErrorRate) => !is_fresh(heard.control),
                (Arm::Treated, Metric::ErrorRate) => !is_fresh(heard.treated),
                (Arm::Control, _) => false,
                (Arm::Treated, _) => is_fresh(heard.control) && !is_fresh(heard.treated),
            }
        };
        HEARD.into_iter().find(is_silent)
    }

    /// Whether a value that is no usable number came within `within`.
    pub fn has_unusable(&self, now: Time, within: Duration) -> bool {
        self.unusable_at.is_some_and(|at| now.since(at) <= within)
    }

    /// Such values so far.
    pub fn unusable(&self) -> u64 {
        self.unusable
    }

    /// Requests with the flag since the last raise.
    pub fn stage_requests(&self) -> Counts {
        self.errors.stage()
    }

    /// Requests without it.
    pub fn past_requests(&self) -> Counts {
        self.errors.past()
    }

    /// Whether no unit is without the flag, but for those that are denied it.
    fn is_alone(&self) -> bool {
        self.percent == Percent::FULL
    }

    fn hear(&mut self, now: Time, metric: Metric, arm: Arm) {
        let heard = &mut self.heard[metric as usize];
        match arm {
            Arm::Treated => heard.treated = Some(now),
            Arm::Control => heard.control = Some(now),
        }
    }
}

/// Only what can be a duration or a rate.
fn is_usable(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

/// An increase in percent as a factor.
fn times(increase_percent: f64) -> f64 {
    1.0 + increase_percent / 100.0
}

/// Metrics that are heard of, each at its place.
const HEARD: [Metric; 5] = [
    Metric::ErrorRate,
    Metric::Latency,
    Metric::Throughput,
    Metric::ModeSwitches,
    Metric::DetectionFailures,
];
/// Stands in where no stage holds; nothing is judged by it.
const NO_STAGE: StageLimits = StageLimits {
    up_to_percent: Percent::ZERO,
    max_error_rate: 90.0,
    max_latency_increase: 10_000.0,
    max_detection_failure_rate: 90.0,
};
/// Switches counted over a longer time count as if over this.
const LONGEST_COUNT_S: f64 = 3600.0;
