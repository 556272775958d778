//! Faults of a scenario: when they begin and end, whom they reach, and what they do.

use crate::rollout::{Flag, Percent};
use serde::{Deserialize, Serialize};

/// One fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins, in days since the start.
    #[serde(default)]
    pub at_day: Option<f64>,
    /// Or when the flag reaches this percentage.
    #[serde(default)]
    pub at_percent: Option<Percent>,
    /// How long it lasts; to the end where nothing is said.
    #[serde(default)]
    pub lasts_hours: Option<f64>,
    /// Whose units suffer, where it does not reach all.
    #[serde(default)]
    pub flag: Option<Flag>,
    /// Whom it reaches.
    #[serde(default)]
    pub reach: Reach,
    /// What it does.
    pub effect: Effect,
}

/// Whom a fault reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Units that have the flag.
    #[default]
    Treated,
    /// All units.
    All,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// Requests fail.
    Errors {
        /// So many, in percent.
        percent: f64,
    },
    /// Latency rises.
    Latency {
        /// By so much, in percent.
        increase_percent: f64,
    },
    /// Throughput falls.
    Throughput {
        /// To this part of what it was.
        ratio: f64,
    },
    /// Modes of peers change to and fro.
    ModeSwitches {
        /// So often in a minute.
        per_min: f64,
    },
    /// Detections of a mode fail.
    DetectionFailures {
        /// So many, in percent.
        percent: f64,
    },
    /// Nothing is heard.
    MissingData,
    /// Values are no numbers.
    NotANumber,
    /// The clock jumps, once.
    ClockJump {
        /// Ahead, or back.
        seconds: i64,
    },
    /// One request brings damaged bytes.
    Corruption,
}

impl Fault {
    /// In words, for the list of what happened.
    pub fn describe(&self) -> String {
        let whom = match (self.reach, self.flag) {
            (Reach::Treated, Some(flag)) => format!("units with {flag}"),
            _ => "all units".to_owned(),
        };
        match self.effect {
            Effect::Errors { percent } => format!("{percent} % of requests of {whom} fail"),
            Effect::Latency { increase_percent } => {
                format!("latency of {whom} rises by {increase_percent} %")
            }
            Effect::Throughput { ratio } => format!("throughput of {whom} falls to {ratio}"),
            Effect::ModeSwitches { per_min } => {
                format!("modes of {whom} change {per_min} times a minute")
            }
            Effect::DetectionFailures { percent } => {
                format!("{percent} % of detections of {whom} fail")
            }
            Effect::MissingData => format!("nothing is heard of {whom}"),
            Effect::NotANumber => format!("values of {whom} are no numbers"),
            Effect::ClockJump { seconds } => format!("the clock jumps by {seconds} s"),
            Effect::Corruption => format!("bytes of {whom} are damaged"),
        }
    }

    /// Whether it reaches a unit, of which each flag says whether the unit has it.
    pub fn reaches(&self, has: &[bool; Flag::ALL.len()]) -> bool {
        match (self.reach, self.flag) {
            (Reach::Treated, Some(flag)) => has[flag.index()],
            _ => true,
        }
    }
}
