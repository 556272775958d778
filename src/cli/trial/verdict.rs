//! Verdicts of a trial: one for each thing that was judged, and one over all.

use crate::cli::error::CliError;
use crate::cli::output::{Output, row};
use serde::Serialize;

/// What a trial says of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It held.
    Held,
    /// It did not.
    Failed,
    /// Too little happened to tell; as good as failed.
    NotJudged,
}

/// One row of the table at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What was judged.
    pub what: String,
    /// How.
    pub outcome: Outcome,
    /// By what.
    pub evidence: String,
}

impl Verdict {
    /// Held if it is true that it did.
    pub fn new(what: impl Into<String>, held: bool, evidence: impl Into<String>) -> Self {
        let outcome = if held { Outcome::Held } else { Outcome::Failed };
        Self { what: what.into(), outcome, evidence: evidence.into() }
    }
}

impl Outcome {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Held => "ok",
            Outcome::Failed => "FAILED",
            Outcome::NotJudged => "NOT JUDGED",
        }
    }
}

/// Whether all of it held. Nothing at all is no success.
pub fn all_held(verdicts: &[Verdict]) -> bool {
    !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.outcome == Outcome::Held)
}

/// Prints the table and what follows from it.
pub fn print(verdicts: &[Verdict], output: &Output) -> Result<(), CliError> {
    let mut rows = vec![row(["WHAT", "VERDICT", "EVIDENCE"])];
    for verdict in verdicts {
        let cells = [verdict.what.as_str(), verdict.outcome.name(), verdict.evidence.as_str()];
        rows.push(row(cells));
    }
    output.table(&rows)?;
    output.line(if all_held(verdicts) { "passed" } else { "FAILED" })
}

/// Values of one quantity over a trial, taken whenever all was at rest; bounded, as every second one
/// goes when there are too many.
#[derive(Clone, Debug, Default)]
pub struct Series {
    values: Vec<u64>,
    /// Of so many values one is kept.
    stride: u64,
    seen: u64,
    last: Option<u64>,
}

/// How a quantity grew.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// The median of the second third.
    pub from: u64,
    /// The median of the last third.
    pub to: u64,
}

impl Series {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        self.last = Some(value);
        let stride = self.stride.max(1);
        if self.seen.is_multiple_of(stride) {
            self.values.push(value);
        }
        self.seen += 1;
        if self.values.len() == MAX_VALUES {
            let mut at = 0;
            self.values.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.stride = stride * 2;
        }
    }

    /// The last value that was added; 0 of none.
    pub fn last(&self) -> u64 {
        self.last.unwrap_or(0)
    }

    /// The first one; 0 of none.
    pub fn first(&self) -> u64 {
        self.values.first().copied().unwrap_or(0)
    }

    /// How it grew after the first third, in which caches and bounded tables fill; none of too few
    /// values.
    pub fn growth(&self) -> Option<Growth> {
        let third = self.values.len() / 3;
        if self.values.len() < MIN_VALUES {
            return None;
        }
        let [from, to] = [&self.values[third..2 * third], &self.values[2 * third..]].map(median);
        Some(Growth { from, to })
    }

    /// The verdict on a quantity that may grow by no more than `allowed`.
    pub fn judge(&self, what: &str, allowed: u64, text: impl Fn(u64) -> String) -> Verdict {
        let Some(Growth { from, to }) = self.growth() else {
            let evidence =
                format!("{} values; {MIN_VALUES} are needed: run longer", self.values.len());
            return Verdict { what: what.to_owned(), outcome: Outcome::NotJudged, evidence };
        };
        let evidence = format!(
            "{} in the second third, {} in the last; may grow by {}",
            text(from),
            text(to),
            text(allowed)
        );
        Verdict::new(what, to.saturating_sub(from) <= allowed, evidence)
    }
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

const MAX_VALUES: usize = 8192;
/// Four in each third.
pub const MIN_VALUES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: impl Iterator<Item = u64>) -> Series {
        let mut series = Series::default();
        values.for_each(|value| series.add(value));
        series
    }

    #[test]
    fn growth_after_warming_up_is_a_leak() {
        let judge = |series: &Series| series.judge("x", 100, |value| value.to_string()).outcome;
        assert_eq!(judge(&series((0..11).map(|_| 7))), Outcome::NotJudged);
        assert_eq!(judge(&series((0..12).map(|_| 7))), Outcome::Held);
        let steady = (0..300).map(|at| if at < 90 { at * 1000 } else { 90_000 + at % 50 });
        assert_eq!(judge(&series(steady)), Outcome::Held);
        assert_eq!(judge(&series((0..300).map(|at| 90_000 + at * 2))), Outcome::Failed);
        assert_eq!(judge(&series((0..300).map(|at| 90_000 - at * 2))), Outcome::Held);
        // One value that is out of line is no leak.
        assert_eq!(judge(&series((0..30).map(|at| u64::from(at == 29) * 5000))), Outcome::Held);
    }

    #[test]
    fn a_long_trial_keeps_a_bounded_number_of_values() {
        let long = series(0..1_000_000);
        assert!(long.values.len() < MAX_VALUES);
        assert_eq!((long.first(), long.last()), (0, 999_999));
        let Growth { from, to } = long.growth().unwrap();
        assert!((490_000..510_000).contains(&from), "{from}");
        assert!((820_000..845_000).contains(&to), "{to}");
    }

    #[test]
    fn one_failure_or_nothing_at_all_is_a_failure() {
        let held = Verdict::new("a", true, "");
        assert!(all_held(std::slice::from_ref(&held)));
        assert!(!all_held(&[]));
        assert!(!all_held(&[held.clone(), Verdict::new("b", false, "")]));
        let unknown = Verdict { outcome: Outcome::NotJudged, ..held.clone() };
        assert!(!all_held(&[held, unknown]));
    }
}
