//! Why a flag was rolled back: figures of both arms, the limit, and how sure that is.

use super::failures::FailureVerdict;
use super::observation::Beside;
use super::shift::{ArmShift, ShiftVerdict, Worse};
use super::switches::SwitchVerdict;
use crate::rollout::Flag;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a guard watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Requests that fail, in percent.
    ErrorRate,
    /// Latency, as a ratio to the units' past.
    Latency,
    /// Throughput, as a ratio to the units' past.
    Throughput,
    /// Mode switches of a unit in a minute.
    ModeSwitches,
    /// Detections of a peer's mode that fail, in percent.
    DetectionFailures,
    /// Damaged bytes, in occurrences.
    Corruption,
}

/// One arm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmFigures {
    /// In the metric's unit, to three digits.
    pub value: f64,
    /// Of so many measurements.
    pub samples: u64,
}

/// A verdict's reasons. The figures are those from when the flag was first suspected; as text it is a
/// sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The flag that is blamed.
    pub flag: Flag,
    /// What went wrong.
    pub metric: Metric,
    /// Whether it was so much that a few measurements were enough.
    pub is_hard: bool,
    /// The arm with the flag.
    pub treated: ArmFigures,
    /// What it was held against.
    pub beside: Option<Beside>,
    /// That.
    pub other: Option<ArmFigures>,
    /// What was allowed, in the metric's unit; where the service was worse already, that.
    pub limit: f64,
    /// How many to one speaks against chance.
    pub odds: f64,
    /// How many to one suffice.
    pub odds_needed: f64,
    /// All of it in words.
    pub sentence: String,
}

impl Metric {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::ErrorRate => "error_rate",
            Metric::Latency => "latency",
            Metric::Throughput => "throughput",
            Metric::ModeSwitches => "mode_switches",
            Metric::DetectionFailures => "detection_failures",
            Metric::Corruption => "corruption",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.name().replace('_', " "))
    }
}

impl Evidence {
    /// That requests or detections fail.
    pub fn of_failures(flag: Flag, metric: Metric, verdict: &FailureVerdict) -> Self {
        let arm = |counts: super::counts::Counts| ArmFigures {
            value: three_digits(counts.rate() * 100.0),
            samples: counts.requests,
        };
        Self {
            is_hard: verdict.treated.requests <= FEW_REQUESTS,
            beside: verdict.other.map(|(beside, _)| beside),
            other: verdict.other.map(|(_, counts)| arm(counts)),
            limit: three_digits(verdict.limit * 100.0),
            ..Self::new(flag, metric, arm(verdict.treated), (verdict.odds, verdict.odds_needed))
        }
        .put_into_words()
    }

    /// That latency or throughput got worse.
    pub fn of_shift(flag: Flag, worse: Worse, verdict: &ShiftVerdict) -> Self {
        let arm = |shift: ArmShift| ArmFigures {
            value: three_digits(shift.ratio),
            samples: shift.samples,
        };
        let metric = match worse {
            Worse::Higher => Metric::Latency,
            Worse::Lower => Metric::Throughput,
        };
        Self {
            beside: Some(verdict.beside),
            other: (verdict.beside == Beside::Control).then(|| arm(verdict.other)),
            limit: three_digits(verdict.limit),
            ..Self::new(flag, metric, arm(verdict.treated), (verdict.odds, verdict.odds_needed))
        }
        .put_into_words()
    }

    /// That units change their mode all the time.
    pub fn of_switches(flag: Flag, verdict: &SwitchVerdict) -> Self {
        let value = three_digits(verdict.switches_per_min);
        let treated = ArmFigures { value, samples: verdict.switches };
        let (flapping, units) = verdict.control;
        let share = 100.0 * f64::from(flapping) / f64::from(units.max(1));
        let control = ArmFigures { value: three_digits(share), samples: units.into() };
        Self {
            beside: (units > 0).then_some(Beside::Control),
            other: (units > 0).then_some(control),
            limit: three_digits(verdict.limit_per_min),
            ..Self::new(flag, Metric::ModeSwitches, treated, (verdict.odds, verdict.odds_needed))
        }
        .put_into_words()
    }

    /// That bytes arrived damaged.
    pub fn of_corruption(flag: Flag) -> Self {
        let once = ArmFigures { value: 1.0, samples: 1 };
        let evidence = Self::new(flag, Metric::Corruption, once, (1.0, 1.0));
        Self { is_hard: true, ..evidence }.put_into_words()
    }

    /// The same against another flag.
    pub fn blame(self, flag: Flag) -> Self {
        Self { flag, ..self }.put_into_words()
    }

    fn new(flag: Flag, metric: Metric, treated: ArmFigures, odds: (f64, f64)) -> Self {
        Self {
            flag,
            metric,
            is_hard: false,
            treated,
            beside: None,
            other: None,
            limit: 0.0,
            odds: three_digits(odds.0.min(MOST_ODDS)),
            odds_needed: three_digits(odds.1),
            sentence: String::new(),
        }
    }

    fn put_into_words(mut self) -> Self {
        let (flag, limit) = (self.flag, rounded(self.limit));
        let (value, samples) = (rounded(self.treated.value), count(self.treated.samples));
        let what = match self.metric {
            Metric::ErrorRate => format!("{value} % of {samples} requests with {flag} failed"),
            Metric::DetectionFailures => {
                format!("{value} % of {samples} detections of a mode with {flag} failed")
            }
            Metric::Latency => format!("latency with {flag} is {value} times its past"),
            Metric::Throughput => format!("throughput with {flag} is {value} of its past"),
            Metric::ModeSwitches => {
                format!("a unit with {flag} changed its mode {value} times a minute")
            }
            Metric::Corruption => format!("bytes sent with {flag} arrived damaged"),
        };
        let limit = match self.metric {
            Metric::Corruption => String::new(),
            Metric::ErrorRate | Metric::DetectionFailures => format!("; allowed: {limit} %"),
            Metric::Latency => format!("; allowed: {limit} times"),
            Metric::Throughput => format!("; needed: {limit}"),
            Metric::ModeSwitches => format!("; allowed: {limit}"),
        };
        let odds = match self.metric {
            Metric::Corruption => String::new(),
            _ => format!(
                " (evidence {} to 1, {} to 1 suffices)",
                count(self.odds as u64),
                count(self.odds_needed as u64)
            ),
        };
        self.sentence = format!("{what}{}{limit}{odds}", self.comparison());
        self
    }

    fn comparison(&self) -> String {
        let Some(ArmFigures { value, samples }) = self.other else {
            return String::new();
        };
        let (value, samples) = (rounded(value), count(samples));
        match (self.metric, self.beside) {
            (Metric::Latency | Metric::Throughput, _) => format!(", without it {value}"),
            (Metric::ModeSwitches, _) => {
                format!(", and {value} % of {samples} units without it change so often")
            }
            (_, Some(Beside::Past)) => format!(", {value} % of {samples} before it was raised"),
            _ => format!(", {value} % of {samples} without it"),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.sentence)
    }
}

/// A number of people: at most two decimals, and none from a hundred on.
pub fn rounded(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A whole number with commas.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// More digits would say more than was measured.
pub fn three_digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let unit = 10_f64.powi(value.abs().log10().floor() as i32 - 2);
    // Dividing by a power of ten, not multiplying by a tenth, keeps 0.3 what it is.
    if unit < 1.0 {
        let parts = (1.0 / unit).round();
        return (value * parts).round() / parts;
    }
    (value / unit).round() * unit
}

/// Beyond it nobody cares.
const MOST_ODDS: f64 = 1e12;
/// Harm that shows in so few requests is hard.
const FEW_REQUESTS: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::guard::counts::Counts;

    fn failures(other: Option<(Beside, Counts)>) -> FailureVerdict {
        FailureVerdict {
            treated: Counts { requests: 312, failures: 16 },
            other,
            limit: 0.01,
            odds: 12_154.36,
            odds_needed: 1.0 / 6e-4,
        }
    }

    #[test]
    fn it_is_a_sentence_with_round_numbers() {
        let control = Counts { requests: 2790, failures: 28 };
        let evidence = Evidence::of_failures(
            Flag::HybridMode,
            Metric::ErrorRate,
            &failures(Some((Beside::Control, control))),
        );
        assert_eq!(
            evidence.to_string(),
            "5.13 % of 312 requests with hybrid_mode failed, 1 % of 2,790 without it; allowed: 1 % \
             (evidence 12,200 to 1, 1,670 to 1 suffices)"
        );
        let alone = Evidence::of_failures(Flag::HybridMode, Metric::ErrorRate, &failures(None));
        assert!(alone.to_string().contains("failed; allowed"), "{alone}");
        let json = serde_json::to_string(&evidence).unwrap();
        assert!(json.contains("\"value\":5.13") && json.contains("\"odds\":12200.0"), "{json}");
        assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
    }

    #[test]
    fn ratios_are_told_as_such() {
        let arm = |ratio| ArmShift { ratio, samples: 1800, units: 6 };
        let mut verdict = ShiftVerdict {
            treated: arm(1.799_999_23),
            beside: Beside::Control,
            other: arm(1.0123),
            limit: 1.5,
            odds: 1e200,
            odds_needed: 10_000.0,
        };
        let evidence = Evidence::of_shift(Flag::MlCompression, Worse::Higher, &verdict);
        assert_eq!(
            evidence.to_string(),
            "latency with ml_compression is 1.8 times its past, without it 1.01; allowed: 1.5 times \
             (evidence 1,000,000,000,000 to 1, 10,000 to 1 suffices)"
        );
        verdict.beside = Beside::Past;
        let evidence = Evidence::of_shift(Flag::MlCompression, Worse::Lower, &verdict);
        assert!(
            evidence.to_string().starts_with("throughput with ml_compression is 1.8 of its past;")
        );
        let other = evidence.blame(Flag::HybridMode);
        assert!(other.to_string().contains("hybrid_mode") && other.flag == Flag::HybridMode);
    }

    #[test]
    fn numbers_are_for_people() {
        for (value, text) in
            [(0.0, "0"), (1.2154, "1.22"), (12.34, "12.3"), (100.0, "100"), (5.0, "5")]
        {
            assert_eq!(rounded(value), text);
        }
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        for (value, three) in
            [(1.2154, 1.22), (0.001_234_5, 0.001_23), (98_765.0, 98_800.0), (0.3, 0.3)]
        {
            assert_eq!(three_digits(value), three);
        }
        assert!(three_digits(f64::NAN).is_nan());
    }
}
