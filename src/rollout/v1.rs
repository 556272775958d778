//! v1's flags as ours, and ours as far as v1 can say them.
//!
//! v1 has switches of its own components and one percentage for all of them; units, lists, seeds and
//! plans it does not have, and two of its components have no flag here.
//!
//! | ours | on in v1 where all of these are |
//! |---|---|
//! | `hybrid_mode` | `enableV3Transport`, `enableHybridMode`, `enableModeDetection` |
//! | `ml_compression` | `enableV3Compression` |
//! | `crdt_sync` | `enableV3StateSync` |
//! | `pbft_consensus` | `enableV3Consensus` |
//! | `internet_optimization` | `enableV3Transport` |
//! | the kill switch | `forceV1Mode` |

use super::flag::Flag;
use super::percent::{Percent, PercentError};
use super::rule::FlagRule;
use super::set::FlagSet;
use crate::wire::v1::flags::Flags;

/// Ours as v1's, and what v1 cannot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToV1 {
    /// The flags, as v1 reads them; never more of them on, nor at a higher percentage, than with ours.
    pub flags: Flags,
    /// What was left out, a sentence each.
    pub lost: Vec<String>,
}

/// v1's flags as ours.
///
/// # Errors
/// [`PercentError`] for a percentage that is none; v1 itself takes any number.
pub fn from_v1(flags: &Flags) -> Result<FlagSet, PercentError> {
    let percent: Percent = flags.rollout_percent.to_string().parse()?;
    let is_on = |flag| match flag {
        Flag::HybridMode => flags.transport && flags.hybrid_mode && flags.mode_detection,
        Flag::MlCompression => flags.compression,
        Flag::CrdtSync => flags.state_sync,
        Flag::PbftConsensus => flags.consensus,
        Flag::InternetOptimization => flags.transport,
    };
    let mut set = FlagSet::all_off();
    for flag in Flag::ALL.into_iter().filter(|flag| is_on(*flag)) {
        let rule = FlagRule { enabled: true, rollout_percent: percent, ..FlagRule::off() };
        set.state_mut(flag).rule = rule;
    }
    set.killed = flags.force_v1.then(|| FORCED.to_owned());
    Ok(set)
}

/// Ours as v1's at `now_s`, in seconds since 1970: the percentage is the least of those flags that are
/// on at all, rounded down.
pub fn to_v1(set: &FlagSet, now_s: u64) -> ToV1 {
    let is_on = |flag: &Flag| {
        let state = set.state(*flag);
        let rule = &state.rule;
        let some = rule.enabled && rule.rollout_percent > Percent::ZERO;
        some && !rule.is_expired(now_s) && state.latch.is_none() && set.killed.is_none()
    };
    let on: Vec<Flag> = Flag::ALL.into_iter().filter(is_on).collect();
    let percent = on.iter().map(|flag| set.rule(*flag).rollout_percent).min().unwrap_or_default();
    let has = |flag| on.contains(&flag);
    let flags = Flags {
        transport: has(Flag::InternetOptimization),
        compression: has(Flag::MlCompression),
        prediction: false,
        state_sync: has(Flag::CrdtSync),
        consensus: has(Flag::PbftConsensus),
        placement: false,
        rollout_percent: i64::from(percent.parts() / Percent::whole(1).parts()),
        force_v1: set.killed.is_some(),
        hybrid_mode: has(Flag::HybridMode),
        mode_detection: has(Flag::HybridMode),
    };
    ToV1 { flags, lost: lost(set, &on, flags.rollout_percent) }
}

fn lost(set: &FlagSet, on: &[Flag], percent: i64) -> Vec<String> {
    let mut lost = Vec::new();
    for flag in Flag::ALL {
        let (rule, state) = (set.rule(flag), set.state(flag));
        if on.contains(&flag) && Percent::whole(percent as u8) != rule.rollout_percent {
            let own = rule.rollout_percent;
            lost.push(format!("{flag}: its own percentage, {own}; v1 has one for all, {percent}"));
        }
        let fields = [
            ("allow_list", !rule.allow_list.is_empty()),
            ("deny_list", !rule.deny_list.is_empty()),
            ("seed", rule.seed != 0),
            ("prerequisites", !rule.prerequisites.is_empty()),
            ("schedule", rule.schedule.is_some()),
            ("owner", !rule.owner.is_empty()),
            ("expires", rule.expires_s.is_some()),
            ("latch", state.latch.is_some()),
        ];
        let named = fields.into_iter().filter(|(_, is_set)| *is_set);
        lost.extend(named.map(|(field, _)| format!("{flag}: {field}")));
    }
    if on.contains(&Flag::HybridMode) && !on.contains(&Flag::InternetOptimization) {
        lost.push("hybrid_mode: v1 has it with v3's transport only, which stays off".to_owned());
    }
    lost
}

const FORCED: &str = "v1's flags force v1 mode";

#[cfg(test)]
mod tests {
    use super::*;

    fn all_v1(rollout_percent: i64) -> Flags {
        Flags {
            transport: true,
            compression: true,
            state_sync: true,
            consensus: true,
            rollout_percent,
            ..Flags::INITIAL
        }
    }

    #[test]
    fn v1s_flags_survive_the_round_trip() {
        for flags in [all_v1(100), all_v1(7), Flags { compression: false, ..all_v1(50) }] {
            let there = from_v1(&flags).unwrap();
            assert_eq!(there.check(), Ok(()));
            assert_eq!(to_v1(&there, 0), ToV1 { flags, lost: Vec::new() });
        }
        let killed = from_v1(&Flags::KILLED).unwrap();
        assert!(killed.killed.is_some());
        assert_eq!(to_v1(&killed, 0).flags, Flags::KILLED);
    }

    #[test]
    fn what_v1_starts_with_has_nothing_on() {
        assert_eq!(from_v1(&Flags::INITIAL), Ok(FlagSet::all_off()));
    }

    #[test]
    fn percentages_that_are_none_are_refused() {
        for percent in [-1, 101, i64::MAX, i64::MIN] {
            let error = from_v1(&all_v1(percent)).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{percent}\"")), "{error}");
        }
    }

    #[test]
    fn v1_gets_no_more_than_was_on_and_losses_are_told() {
        let mut set = FlagSet::default();
        set.state_mut(Flag::MlCompression).rule.rollout_percent = "12.5".parse().unwrap();
        set.state_mut(Flag::HybridMode).rule.deny_list = vec!["node-1".into()];
        let ToV1 { flags, lost } = to_v1(&set, 0);
        assert_eq!(flags.rollout_percent, 12);
        assert!(flags.transport && flags.compression && flags.hybrid_mode && !flags.consensus);
        let all = lost.join("\n");
        assert!(
            all.contains("hybrid_mode: deny_list")
                && all.contains("ml_compression: its own percentage, 12.5")
        );
        set.state_mut(Flag::InternetOptimization).rule.expires_s = Some(5);
        let ToV1 { flags, lost } = to_v1(&set, 6);
        assert!(
            !flags.transport && lost.iter().any(|line| line.contains("with v3's transport only"))
        );
    }
}
