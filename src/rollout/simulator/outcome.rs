//! What came of a simulated rollout: what happened, and the figures of both arms over time.

use crate::rollout::guard::Evidence;
use crate::rollout::{Flag, HoldReason, Percent};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A rollout that was played.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The scenario's name.
    pub name: String,
    /// The seed it was played with.
    pub seed: u64,
    /// How long, in days.
    pub days: f64,
    /// Requests that were made.
    pub requests: u64,
    /// Where each flag ended.
    pub flags: Vec<FlagOutcome>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Figures over time.
    pub points: Vec<Point>,
}

/// Where a flag ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlagOutcome {
    /// The flag.
    pub flag: Flag,
    /// The last percentage in force; zero if it was taken back.
    pub percent: Percent,
    /// When it was taken back, in days.
    pub rolled_back_at_day: Option<f64>,
    /// Why.
    pub evidence: Option<Evidence>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When, in days.
    pub at_day: f64,
    /// The flag that it is about, if it is about one.
    pub flag: Option<Flag>,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// A fault began.
    FaultBegan(String),
    /// A fault ended.
    FaultEnded(String),
    /// The percentage was raised.
    Raised(Percent),
    /// The flag was left as it is.
    Held(HoldReason),
    /// The flag was taken back.
    RolledBack(Box<Evidence>),
}

/// Figures of a span of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Its end, in days.
    pub at_day: f64,
    /// Each flag.
    pub flags: Vec<FlagPoint>,
}

/// Figures of one flag in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FlagPoint {
    /// The flag.
    pub flag: Flag,
    /// The percentage in force at its end.
    pub percent: Percent,
    /// Units with the flag: the canary.
    pub treated: ArmPoint,
    /// Units without it.
    pub control: ArmPoint,
}

/// Figures of one arm in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmPoint {
    /// Requests.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Typical latency as a ratio to the links' medians; none where nothing was measured.
    pub latency_ratio: Option<f64>,
    /// Typical throughput likewise.
    pub throughput_ratio: Option<f64>,
}

/// What an arm's figures are made of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ArmSums {
    pub requests: u64,
    pub failures: u64,
    pub latency: LogMean,
    pub throughput: LogMean,
}

/// A mean of ratios, on the scale of their logarithms.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogMean {
    sum: f64,
    count: u64,
}

impl Outcome {
    /// Whether any flag was taken back.
    pub fn is_rolled_back(&self) -> bool {
        self.flags.iter().any(|flag| flag.rolled_back_at_day.is_some())
    }

    /// One flag's outcome, if it was rolled out.
    pub fn flag(&self, flag: Flag) -> Option<&FlagOutcome> {
        self.flags.iter().find(|outcome| outcome.flag == flag)
    }
}

impl ArmSums {
    pub fn point(&self) -> ArmPoint {
        ArmPoint {
            requests: self.requests,
            failures: self.failures,
            latency_ratio: self.latency.ratio(),
            throughput_ratio: self.throughput.ratio(),
        }
    }
}

impl LogMean {
    pub fn add(&mut self, ratio: f64) {
        self.sum += ratio.ln();
        self.count += 1;
    }

    /// To three decimals.
    fn ratio(&self) -> Option<f64> {
        let mean = self.sum / self.count.max(1) as f64;
        (self.count > 0).then(|| (mean.exp() * 1e3).round() / 1e3)
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Happening::FaultBegan(what) => write!(to, "fault: {what}"),
            Happening::FaultEnded(what) => write!(to, "fault over: {what}"),
            Happening::Raised(percent) => write!(to, "raised to {percent} %"),
            Happening::Held(reason) => write!(to, "held: {reason}"),
            Happening::RolledBack(evidence) => write!(to, "rolled back: {evidence}"),
        }
    }
}
