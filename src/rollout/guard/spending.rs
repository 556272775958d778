//! How much of the allowed chance of a false alarm each guard may spend, and when.
//!
//! One healthy rollout in a hundred may at most be rolled back by chance: three flags have a
//! component and so can be on, each may spend a third of a percent, and its guards share that.
//!
//! | guard | chance of a false alarm in a whole ramp |
//! |---|---|
//! | errors, bets | [`ERRORS`] |
//! | errors, the first requests after each raise | [`FIRST_REQUESTS`], the third raise half, and so on |
//! | errors of a stage, failed detections | [`STAGE_FAILURES`] each |
//! | latency, throughput | [`SHIFT`] each |
//! | latency of a stage | [`STAGE_SHIFT`] |
//! | mode switches, all units together | [`SWITCHES`] |
//!
//! Within a guard, the stake goes where harm is likeliest to begin: at the raises of the
//! percentage. A quarter is left for what begins in between, of which ever less is placed with each
//! bet, but never so little that harm after a hundred thousand bets would need many more to be
//! found.

/// Of errors, by bets.
pub const ERRORS: f64 = 6e-4;
/// Of errors, by the count among the first requests after a raise; the third raise has half, and so
/// on.
pub const FIRST_REQUESTS: f64 = 7e-4;
/// Of the tighter limits on failures that hold for a stage.
pub const STAGE_FAILURES: f64 = 5e-5;
/// That control and canary are told apart by chance, where both are above the limit.
pub const CONTRAST: f64 = 2e-4;
/// Of latency and of throughput.
pub const SHIFT: f64 = 1e-4;
/// Of the tighter limit on latency that holds for a stage.
pub const STAGE_SHIFT: f64 = 5e-5;
/// Of mode switches, all units of a flag together.
pub const SWITCHES: f64 = 5e-5;

/// The part of the stake that is for harm between raises.
pub const BETWEEN_RAISES: f64 = 0.25;

/// The stake of a raise, counted from zero: a quarter, a quarter, an eighth, and so on, which is
/// three quarters for any number of them.
pub fn stake_of_raise(raise: u32) -> f64 {
    0.25 * halved(raise)
}

/// What the count among the first requests after a raise may spend.
pub fn first_requests(raise: u32) -> f64 {
    FIRST_REQUESTS * halved(raise)
}

/// What remains of [`BETWEEN_RAISES`] after so many bets.
pub fn rest_after(bets: u64) -> f64 {
    BETWEEN_RAISES / (1.0 + (1.0 + bets as f64 / EARLY_BETS).ln())
}

/// One for the first two raises, then half of the one before.
fn halved(raise: u32) -> f64 {
    0.5_f64.powi(raise.saturating_sub(1).min(1000) as i32)
}

/// After so many bets stakes begin to shrink.
const EARLY_BETS: f64 = 1000.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Flag;

    #[test]
    fn a_hundredth_of_healthy_rollouts_is_not_exceeded() {
        let first: f64 = (0..100).map(first_requests).sum();
        let flag = ERRORS + first + 2.0 * (STAGE_FAILURES + SHIFT) + STAGE_SHIFT + SWITCHES;
        let flags = Flag::ALL.iter().filter(|flag| flag.is_built()).count();
        assert!(flag * flags as f64 <= 0.01, "{}", flag * flags as f64);
    }

    #[test]
    fn stakes_of_raises_stay_within_theirs() {
        let all: f64 = (0..100).map(stake_of_raise).sum();
        assert!(all <= 1.0 - BETWEEN_RAISES + 1e-12, "{all}");
        assert!(rest_after(0) == BETWEEN_RAISES && rest_after(1_000_000) > 0.0);
    }
}
