//! What an operator allows: the triggers of a rollback, and tighter ones for small percentages.

use crate::rollout::Percent;
use serde::{Deserialize, Serialize};

/// What a rollout may not exceed; missing fields have the guide's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests that may fail, in percent.
    pub max_error_rate: f64,
    /// How much more latency there may be, in percent.
    pub max_latency_increase: f64,
    /// Which part of the usual throughput is enough.
    pub min_throughput_ratio: f64,
    /// Mode switches of a pair of nodes in a minute.
    pub max_mode_switch_rate: f64,
    /// Tighter limits, each up to a percentage.
    pub stages: Vec<StageLimits>,
}

/// Limits that hold besides while a flag's percentage is small.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageLimits {
    /// The largest percentage at which they hold.
    pub up_to_percent: Percent,
    /// As of [`Limits`].
    pub max_error_rate: f64,
    /// As of [`Limits`].
    pub max_latency_increase: f64,
    /// Detections of a peer's mode that may fail, in percent.
    pub max_detection_failure_rate: f64,
}

/// A limit that cannot be meant.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}, not a number from {least} to {most}")]
pub struct LimitsError {
    /// Which.
    pub name: &'static str,
    /// What it is.
    pub value: f64,
    /// The least that is taken.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Limits {
    /// Refuses limits that cannot be meant.
    ///
    /// # Errors
    /// [`LimitsError`] names the first.
    pub fn check(&self) -> Result<(), LimitsError> {
        within("max_error_rate", self.max_error_rate, PERCENT)?;
        within("max_latency_increase", self.max_latency_increase, INCREASE)?;
        within("min_throughput_ratio", self.min_throughput_ratio, RATIO)?;
        within("max_mode_switch_rate", self.max_mode_switch_rate, SWITCHES)?;
        for stage in &self.stages {
            within("stages.max_error_rate", stage.max_error_rate, PERCENT)?;
            within("stages.max_latency_increase", stage.max_latency_increase, INCREASE)?;
            let detection = stage.max_detection_failure_rate;
            within("stages.max_detection_failure_rate", detection, PERCENT)?;
        }
        Ok(())
    }

    /// The tighter limits that hold at a percentage: those of the smallest stage around it.
    pub fn stage_at(&self, percent: Percent) -> Option<&StageLimits> {
        let around = self.stages.iter().filter(|stage| percent <= stage.up_to_percent);
        around.min_by_key(|stage| stage.up_to_percent)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_error_rate: 1.0,
            max_latency_increase: 50.0,
            min_throughput_ratio: 0.8,
            max_mode_switch_rate: 10.0,
            stages: vec![GUIDE_STAGE],
        }
    }
}

fn within(name: &'static str, value: f64, (least, most): (f64, f64)) -> Result<(), LimitsError> {
    // NaN is within nothing.
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(LimitsError { name, value, least, most }),
    }
}

/// The guide's criteria for its first stage.
const GUIDE_STAGE: StageLimits = StageLimits {
    up_to_percent: Percent::whole(10),
    max_error_rate: 0.5,
    max_latency_increase: 10.0,
    max_detection_failure_rate: 5.0,
};
const PERCENT: (f64, f64) = (0.01, 90.0);
const INCREASE: (f64, f64) = (1.0, 10_000.0);
const RATIO: (f64, f64) = (0.01, 0.99);
const SWITCHES: (f64, f64) = (0.01, 10_000.0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_limits_are_the_default() {
        let limits: Limits = serde_json::from_str("{}").unwrap();
        assert_eq!(limits, Limits::default());
        assert_eq!(limits.check(), Ok(()));
        assert_eq!(limits.stage_at(Percent::whole(10)), Some(&GUIDE_STAGE));
        assert_eq!(limits.stage_at(Percent::whole(11)), None);
    }

    #[test]
    fn nonsense_is_named() {
        for (json, message) in [
            ("{\"max_error_rate\":0}", "max_error_rate is 0, not a number from 0.01 to 90"),
            ("{\"min_throughput_ratio\":1.5}", "min_throughput_ratio is 1.5, not a number"),
            ("{\"max_mode_switch_rate\":-1}", "max_mode_switch_rate is -1, not a number"),
        ] {
            let limits: Limits = serde_json::from_str(json).unwrap();
            let error = limits.check().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let limits = Limits { max_latency_increase: f64::NAN, ..Limits::default() };
        assert!(limits.check().unwrap_err().to_string().contains("NaN"));
        let unknown = serde_json::from_str::<Limits>("{\"max_eror_rate\":1}").unwrap_err();
        assert!(unknown.to_string().contains("max_eror_rate"));
    }
}
