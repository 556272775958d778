//! When to pause the guest, when to slow it down, when to give up.
//!
//! After each look at the dirty log the downtime is predicted as if the guest were paused now:
//! what is pending and under way over the measured bandwidth, plus the round trips of the
//! handover, plus the time the last look took. The guest is paused once that fits `max_downtime`.
//! When passes no longer bring the prediction down, the guest is slowed down step by step; or, where
//! that is allowed, moved by post-copy.

use std::time::Duration;

const FIRST_THROTTLE_PERCENT: u8 = 20;
const THROTTLE_STEP_PERCENT: u8 = 10;
const MAX_THROTTLE_PERCENT: u8 = 99;
/// Passes without progress before the guest is slowed down (further), or moved by post-copy.
const PATIENCE_PASSES: u32 = 2;
/// Passes without progress, and nothing left to try, before giving up.
const HOPELESS_PASSES: u32 = 30;
/// Looks at a guest with nothing left to send, before its path is called too long.
const TOO_LONG_LOOKS: u32 = 5;
/// A pass makes progress if the prediction falls at least to this share of the best so far.
const PROGRESS_PERCENT: u32 = 95;

/// What is known after a look at the dirty log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// Bytes on the wire that the pending pages will take.
    pub pending_wire_bytes: u64,
    /// Bytes on the wire not yet acknowledged.
    pub under_way_bytes: u64,
    /// Measured bandwidth, if any.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Shortest round trip, if any.
    pub round_trip: Option<Duration>,
    /// How long the look at the dirty log took.
    pub fetch: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Pause the guest now.
    Switch,
    /// Do another pass.
    Continue,
    /// Hold the guest back by this percentage, and do another pass.
    Throttle(u8),
    /// It does not converge: let the guest go on at the destination before its memory is there.
    PostCopy,
    /// It will never converge.
    GiveUp,
    /// Nothing is left to send, and still the handover itself does not fit.
    PathTooLong,
}

/// The judgement, pass after pass.
#[derive(Debug)]
pub struct Convergence {
    max_downtime: Duration,
    may_throttle: bool,
    has_deadline: bool,
    may_post_copy: bool,
    best: Option<Duration>,
    stale_passes: u32,
    empty_looks: u32,
    throttle_percent: u8,
    predicted: Option<Duration>,
}

impl Situation {
    /// The downtime if the guest were paused now; none while there is no bandwidth to go by.
    pub fn predicted_downtime(&self) -> Option<Duration> {
        let bytes = self.pending_wire_bytes + self.under_way_bytes;
        let transfer = match self.bandwidth_bytes_per_s {
            Some(rate) => Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64),
            None if bytes == 0 => Duration::ZERO,
            None => return None,
        };
        Some(transfer + handover(self.round_trip, self.fetch))
    }

    /// Whether nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.pending_wire_bytes == 0 && self.under_way_bytes == 0
    }
}

/// What the handover takes when nothing is left to send: one and a half round trips (last chunk
/// there, verified back, commit there) and a last look at the dirty log.
pub fn handover(round_trip: Option<Duration>, fetch: Duration) -> Duration {
    round_trip.unwrap_or_default() * 3 / 2 + fetch
}

impl Convergence {
    /// A judgement by these rules. With a deadline it never gives up by itself.
    pub fn new(max_downtime: Duration, may_throttle: bool, has_deadline: bool) -> Self {
        Self {
            max_downtime,
            may_throttle,
            has_deadline,
            may_post_copy: false,
            best: None,
            stale_passes: 0,
            empty_looks: 0,
            throttle_percent: 0,
            predicted: None,
        }
    }

    /// The same, with post-copy where passes bring no progress.
    pub fn or_post_copy(self, may_post_copy: bool) -> Self {
        Self { may_post_copy, ..self }
    }

    /// The last prediction.
    pub fn predicted(&self) -> Option<Duration> {
        self.predicted
    }

    /// How far the guest is held back.
    pub fn throttle_percent(&self) -> u8 {
        self.throttle_percent
    }

    /// The guest cannot be slowed down.
    pub fn throttle_unsupported(&mut self) {
        (self.may_throttle, self.throttle_percent) = (false, 0);
    }

    /// Judges the situation after a pass.
    pub fn judge(&mut self, situation: &Situation) -> Decision {
        self.predicted = situation.predicted_downtime();
        let Some(predicted) = self.predicted else { return Decision::Continue };
        if predicted <= self.max_downtime {
            return Decision::Switch;
        }
        self.empty_looks = if situation.is_empty() { self.empty_looks + 1 } else { 0 };
        if self.empty_looks >= TOO_LONG_LOOKS {
            return Decision::PathTooLong;
        }
        let progress = self.best.is_none_or(|best| predicted < best * PROGRESS_PERCENT / 100);
        self.best = Some(self.best.map_or(predicted, |best| best.min(predicted)));
        self.stale_passes = if progress { 0 } else { self.stale_passes + 1 };
        self.judge_stale()
    }

    fn judge_stale(&mut self) -> Decision {
        // With nothing left to send it would take as long as the handover that does not fit.
        let may_post_copy = self.may_post_copy && self.empty_looks == 0;
        if may_post_copy && self.stale_passes >= PATIENCE_PASSES {
            return Decision::PostCopy;
        }
        let can_throttle = self.may_throttle && self.throttle_percent < MAX_THROTTLE_PERCENT;
        if can_throttle && self.stale_passes >= PATIENCE_PASSES {
            self.stale_passes = 0;
            self.throttle_percent = match self.throttle_percent {
                0 => FIRST_THROTTLE_PERCENT,
                percent => (percent + THROTTLE_STEP_PERCENT).min(MAX_THROTTLE_PERCENT),
            };
            return Decision::Throttle(self.throttle_percent);
        }
        if !self.has_deadline && !can_throttle && self.stale_passes >= HOPELESS_PASSES {
            return Decision::GiveUp;
        }
        Decision::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(pending_wire_bytes: u64) -> Situation {
        Situation {
            pending_wire_bytes,
            under_way_bytes: 0,
            bandwidth_bytes_per_s: Some(10_000_000),
            round_trip: Some(Duration::from_millis(10)),
            fetch: Duration::from_millis(1),
        }
    }

    #[test]
    fn switches_when_the_prediction_fits() {
        let mut convergence = Convergence::new(Duration::from_millis(100), true, false);
        assert_eq!(convergence.judge(&situation(5_000_000)), Decision::Continue);
        assert_eq!(convergence.predicted(), Some(Duration::from_millis(516)));
        assert_eq!(convergence.judge(&situation(800_000)), Decision::Switch);
    }

    #[test]
    fn throttles_step_by_step_then_gives_up() {
        let mut convergence = Convergence::new(Duration::from_millis(100), true, false);
        let mut steps = Vec::new();
        for _ in 0..200 {
            match convergence.judge(&situation(50_000_000)) {
                Decision::Throttle(percent) => steps.push(percent),
                Decision::GiveUp => {
                    assert_eq!(steps, [20, 30, 40, 50, 60, 70, 80, 90, 99]);
                    return;
                }
                Decision::Continue => {}
                other => panic!("{other:?} with 5 s to go"),
            }
        }
        panic!("never gave up");
    }

    #[test]
    fn post_copy_comes_instead_of_slowing_down_and_never_for_a_long_path() {
        let rules = Convergence::new(Duration::from_millis(100), true, false);
        let mut convergence = rules.or_post_copy(true);
        let decisions: Vec<_> = (0..3).map(|_| convergence.judge(&situation(50_000_000))).collect();
        assert_eq!(decisions, [Decision::Continue, Decision::Continue, Decision::PostCopy]);
        let mut convergence =
            Convergence::new(Duration::from_millis(10), true, false).or_post_copy(true);
        let decisions: Vec<_> = (0..5).map(|_| convergence.judge(&situation(0))).collect();
        assert_eq!(decisions[4], Decision::PathTooLong);
        assert!(!decisions.contains(&Decision::PostCopy));
    }

    #[test]
    fn a_path_longer_than_the_downtime_is_named_as_such() {
        let mut convergence = Convergence::new(Duration::from_millis(10), true, true);
        let decisions: Vec<_> = (0..5).map(|_| convergence.judge(&situation(0))).collect();
        assert_eq!(decisions[4], Decision::PathTooLong);
    }

    #[test]
    fn with_a_deadline_it_leaves_giving_up_to_the_deadline() {
        let mut convergence = Convergence::new(Duration::from_millis(1), false, true);
        for _ in 0..100 {
            assert_eq!(convergence.judge(&situation(50_000_000)), Decision::Continue);
        }
    }

    #[test]
    fn an_idle_guest_needs_no_bandwidth_figure() {
        let mut convergence = Convergence::new(Duration::from_millis(50), true, false);
        let idle = Situation { bandwidth_bytes_per_s: None, ..situation(0) };
        assert_eq!(convergence.judge(&idle), Decision::Switch);
    }
}
