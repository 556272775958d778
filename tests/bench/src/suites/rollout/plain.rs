//! The rival: plain thresholds on the last 100 samples, as most rollouts are guarded.
//!
//! It is spared the worst: latency and throughput are ratios to what each unit had on average before the
//! flag, or paths of different length alone would fire it.

use dwcp::rollout::Flag;
use dwcp::rollout::guard::{Arm, Limits, Measured, Observation};
use std::collections::HashMap;

/// Each flag's windows, and which thresholds have been crossed since the start.
pub struct Plain {
    limits: Limits,
    flags: [Windows; Flag::ALL.len()],
    pub fired: [bool; 3],
}

/// A threshold.
#[derive(Clone, Copy)]
pub enum Trigger {
    Errors,
    Latency,
    Throughput,
}

#[derive(Default)]
struct Windows {
    errors: Window,
    latency: Ratios,
    throughput: Ratios,
}

/// Values of both arms as ratios to their units' past.
#[derive(Default)]
struct Ratios {
    arms: [Window; 2],
    /// Sum and number of what each unit had before it, or any other, had the flag.
    past: HashMap<u64, (f64, f64)>,
    is_past_over: bool,
}

/// The last values and their sum.
#[derive(Default)]
struct Window {
    values: Vec<f64>,
    next: usize,
    sum: f64,
}

impl Trigger {
    pub const NAMES: [(Trigger, &'static str); 3] = [
        (Trigger::Errors, "plain errors"),
        (Trigger::Latency, "plain latency"),
        (Trigger::Throughput, "plain through."),
    ];
}

impl Plain {
    pub fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), flags: Default::default(), fired: [false; 3] }
    }

    pub fn observe(&mut self, observation: &Observation) {
        let windows = &mut self.flags[observation.flag.index()];
        let is_treated = observation.arm == Arm::Treated;
        let (unit, arm) = (observation.unit, usize::from(is_treated));
        match observation.kind {
            Measured::Request { is_failed } if is_treated => {
                let rate = windows.errors.add(f64::from(u8::from(is_failed)));
                let is_above = rate.is_some_and(|rate| rate * 100.0 > self.limits.max_error_rate);
                self.fired[Trigger::Errors as usize] |= is_above;
            }
            Measured::Latency { us } => {
                let most = 1.0 + self.limits.max_latency_increase / 100.0;
                let ratio = windows.latency.add(unit, arm, us);
                self.fired[Trigger::Latency as usize] |= ratio.is_some_and(|ratio| ratio > most);
            }
            Measured::Throughput { bytes_per_s, is_application_limited: false } => {
                let least = self.limits.min_throughput_ratio;
                let ratio = windows.throughput.add(unit, arm, bytes_per_s);
                self.fired[Trigger::Throughput as usize] |=
                    ratio.is_some_and(|ratio| ratio < least);
            }
            _ => {}
        }
    }
}

impl Ratios {
    /// The mean of the canary's window to that of the control's, once both are full.
    fn add(&mut self, unit: u64, arm: usize, value: f64) -> Option<f64> {
        self.is_past_over |= arm == 1;
        let (sum, count) = self.past.entry(unit).or_default();
        if !self.is_past_over {
            *sum += value;
            *count += 1.0;
        }
        if *count > 0.0 {
            self.arms[arm].add(value * *count / *sum);
        }
        let [control, treated] = &self.arms;
        Some(treated.mean()? / control.mean()?)
    }
}

impl Window {
    fn add(&mut self, value: f64) -> Option<f64> {
        if self.values.len() < SAMPLES {
            self.values.push(value);
        } else {
            self.sum -= std::mem::replace(&mut self.values[self.next], value);
            self.next = (self.next + 1) % SAMPLES;
        }
        self.sum += value;
        self.mean()
    }

    /// None before the window is full.
    fn mean(&self) -> Option<f64> {
        (self.values.len() == SAMPLES).then(|| self.sum / SAMPLES as f64)
    }
}

const SAMPLES: usize = 100;
