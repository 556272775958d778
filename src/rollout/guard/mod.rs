//! Guards: statistics that take a rollout back when, and only when, the flag does harm.
//!
//! A plain threshold on a window of samples fires in most healthy rollouts: it is looked at often,
//! and each look may be unlucky. Here every guard is a bettor ([`wealth`]) who gets rich only if
//! the flag does harm, however often somebody looks; how much each may be wrong is in [`spending`].
//! The flag must do worse than its limit and worse than units without it at the same time, so that
//! nothing which everybody suffers is blamed on it.
//!
//! | guard | watches | found |
//! |---|---|---|
//! | [`failures`] | requests that fail, detections that fail | 1 % to 5 %: within 500 requests |
//! | [`shift`] | latency, throughput | +80 %: within 2,000 samples; to 0.6: within 60 s |
//! | [`switches`] | mode switches | in minutes |
//!
//! Memory is bounded: at most [`MAX_GUARD_UNITS`](crate::base::limits::MAX_GUARD_UNITS) units of a
//! flag are known to each guard, in fixed space each.

pub mod clock;
pub mod counts;
pub mod evidence;
pub mod failures;
pub mod limits;
pub mod observation;
pub mod panel;
pub mod past;
pub mod shift;
pub mod shift_bets;
pub mod spending;
pub mod switches;
pub mod unit_log;
pub mod wealth;

pub use evidence::{ArmFigures, Evidence, Metric};
pub use limits::{Limits, LimitsError, StageLimits};
pub use observation::{Arm, Beside, Measured, Observation};
