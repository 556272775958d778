//! The upgrade guide's rollout table, as data.

use super::flag::Flag;
use super::percent::Percent;
use super::schedule::Stage;

/// Percentages at the beginning of each week, in the order of [`Flag::ALL`].
const WEEKS: [[u8; Flag::ALL.len()]; 6] = [
    [0, 0, 0, 0, 0],
    [10, 0, 0, 0, 0],
    [50, 10, 10, 0, 10],
    [100, 50, 50, 10, 50],
    [100, 100, 100, 50, 100],
    [100, 100, 100, 100, 100],
];
const WEEK_S: u64 = 7 * 24 * 3600;

/// The weeks of one flag at which its percentage changes, and the first.
pub(super) fn stages(flag: Flag) -> Vec<Stage> {
    let weeks = WEEKS.iter().zip(0_u64..).map(|(week, number)| Stage {
        after_s: number * WEEK_S,
        percent: Percent::whole(week[flag.index()]),
    });
    let mut stages: Vec<Stage> = weeks.collect();
    stages.dedup_by_key(|stage| stage.percent);
    stages
}
