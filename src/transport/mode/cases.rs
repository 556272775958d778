//! How long verdicts have spoken for each mode.
//!
//! A case for a mode begins with a verdict for it and is dropped once other verdicts have taken up
//! more than [`TOLERANCE`]: a path that goes from one kind of internet to another is seen as neither
//! for a moment, and noise is no new path. The tolerance is for the whole of a case, so that nobody
//! keeps one alive by speaking for it now and then.

use super::kind::Mode;
use crate::base::Time;
use std::time::Duration;

/// For how long verdicts may speak against a case.
const TOLERANCE: Duration = Duration::from_secs(1);

/// What speaks for a change.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Since when.
    pub since: Time,
    /// By how many verdicts.
    pub samples: u32,
    against: Duration,
}

/// The cases for each mode, and for any but the one in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cases {
    datacenter: Option<Case>,
    hybrid: Option<Case>,
    internet: Option<Case>,
    away: Option<Case>,
}

impl Cases {
    /// The case for a mode.
    pub fn of(&self, mode: Mode) -> Option<Case> {
        match mode {
            Mode::Datacenter => self.datacenter,
            Mode::Hybrid => self.hybrid,
            Mode::Internet => self.internet,
            Mode::V1Compat => None,
        }
    }

    /// The case for any mode but the one in force.
    pub fn away(&self) -> Option<Case> {
        self.away
    }

    /// Adds a verdict that stands for the time `since_last`.
    pub fn weigh(&mut self, verdict: Mode, in_force: Mode, since_last: Duration, now: Time) {
        weigh(&mut self.datacenter, verdict == Mode::Datacenter, since_last, now);
        weigh(&mut self.hybrid, verdict == Mode::Hybrid, since_last, now);
        weigh(&mut self.internet, verdict == Mode::Internet, since_last, now);
        weigh(&mut self.away, verdict != in_force, since_last, now);
    }
}

fn weigh(case: &mut Option<Case>, is_for: bool, since_last: Duration, now: Time) {
    match case {
        None if is_for => *case = Some(Case { since: now, samples: 1, against: Duration::ZERO }),
        None => {}
        Some(case) if is_for => case.samples = case.samples.saturating_add(1),
        Some(known) => {
            known.against += since_last;
            if known.against > TOLERANCE {
                *case = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::{Datacenter, Hybrid, Internet};

    const STEP_US: u64 = 250_000;

    /// Verdicts a quarter of a second apart, against datacenter mode; since when the case for
    /// internet stands, in steps.
    fn internet_since(verdicts: impl IntoIterator<Item = Mode>) -> Option<u64> {
        let mut cases = Cases::default();
        for (step, verdict) in verdicts.into_iter().enumerate() {
            let now = Time(step as u64 * STEP_US);
            cases.weigh(verdict, Datacenter, Duration::from_micros(STEP_US), now);
        }
        cases.of(Internet).map(|case| case.since.0 / STEP_US)
    }

    #[test]
    fn a_case_survives_a_moment_of_doubt_and_no_more() {
        let gap =
            |verdict, count| [vec![Internet; 3], vec![verdict; count], vec![Internet]].concat();
        assert_eq!(internet_since(gap(Hybrid, 4)), Some(0));
        assert_eq!(internet_since(gap(Hybrid, 5)), Some(8));
        assert_eq!(internet_since(gap(Datacenter, 5)), Some(8));
    }

    #[test]
    fn doubts_add_up() {
        let seldom = [Internet, Internet, Datacenter].into_iter().cycle();
        assert_eq!(internet_since(seldom.clone().take(12)), Some(0));
        assert!(internet_since(seldom.take(17)) > Some(0));
    }
}
