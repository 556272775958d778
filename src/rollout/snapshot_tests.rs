//! The order of decision, question by question, and what a compiled set answers where a set is odd.

use super::*;
use crate::rollout::rule::FlagRule;
use crate::rollout::set::Latch;

const NOW_S: u64 = 1_000_000;
const UNIT: &str = "node-1|node-2";

/// A set in which every question but the last two is answered with no, and the flag is at zero percent.
fn ready() -> FlagSet {
    let mut set = FlagSet::default();
    set.state_mut(Flag::HybridMode).rule.rollout_percent = Percent::ZERO;
    set
}

fn latch() -> Option<Latch> {
    Some(Latch { since_us: 1, reason: "errors".into(), evidence: None })
}

fn reason(set: &FlagSet, peer_can: bool) -> &'static str {
    decide(set, Flag::HybridMode, &Unit::named(UNIT), peer_can, NOW_S).reason.name()
}

#[test]
fn the_first_question_that_applies_is_the_reason() {
    let mut set = ready();
    let rule = |set: &mut FlagSet, edit: fn(&mut FlagRule)| {
        edit(&mut set.state_mut(Flag::HybridMode).rule);
    };
    assert_eq!(reason(&set, true), "below_percentage");
    rule(&mut set, |rule| rule.rollout_percent = Percent::FULL);
    assert_eq!(reason(&set, true), "percentage");
    rule(&mut set, |rule| rule.allow_list = vec!["node-2".into()]);
    assert_eq!(reason(&set, true), "allowed");
    set.state_mut(Flag::HybridMode).latch = latch();
    assert_eq!(reason(&set, true), "latched_off");
    rule(&mut set, |rule| rule.prerequisites = vec![Flag::CrdtSync]);
    assert_eq!(reason(&set, true), "prerequisite_unmet");
    assert_eq!(reason(&set, false), "peer_cannot");
    rule(&mut set, |rule| rule.deny_list = vec!["node-2|node-1".into()]);
    assert_eq!(reason(&set, false), "denied");
    rule(&mut set, |rule| rule.expires_s = Some(NOW_S));
    assert_eq!(reason(&set, false), "expired");
    rule(&mut set, |rule| rule.enabled = false);
    assert_eq!(reason(&set, false), "not_enabled");
    set.killed = Some("drill".into());
    assert_eq!(reason(&set, false), "kill_switch");
}

#[test]
fn what_is_not_built_is_off_even_where_it_is_allowed() {
    let mut set = FlagSet::all_off();
    for flag in [Flag::CrdtSync, Flag::PbftConsensus] {
        let rule = &mut set.state_mut(flag).rule;
        *rule = FlagRule { allow_list: vec!["group".into()], ..FlagRule::on() };
        let decision = decide(&set, flag, &Unit::named("group"), true, NOW_S);
        assert_eq!(decision, Reason::NotBuilt.into());
    }
}

#[test]
fn a_flag_expires_at_its_second() {
    let mut set = FlagSet::default();
    set.state_mut(Flag::HybridMode).rule.expires_s = Some(NOW_S);
    let is_on = |now_s| decide(&set, Flag::HybridMode, &Unit::named(UNIT), true, now_s).is_on;
    assert!(is_on(NOW_S - 1) && !is_on(NOW_S) && !is_on(u64::MAX));
}

#[test]
fn prerequisites_are_asked_for_the_same_unit_one_after_the_other() {
    let mut set = FlagSet::default();
    set.state_mut(Flag::HybridMode).rule.prerequisites = vec![Flag::MlCompression];
    set.state_mut(Flag::MlCompression).rule.prerequisites = vec![Flag::InternetOptimization];
    assert_eq!(reason(&set, true), "percentage");
    set.state_mut(Flag::InternetOptimization).rule.deny_list = vec!["node-1".into()];
    let decision = decide(&set, Flag::HybridMode, &Unit::named(UNIT), true, NOW_S);
    assert_eq!(decision, Reason::PrerequisiteUnmet { flag: Flag::MlCompression }.into());
    assert!(decide(&set, Flag::HybridMode, &Unit::named("node-3|node-2"), true, NOW_S).is_on);
}

#[test]
fn a_circle_that_was_never_checked_is_off() {
    let mut set = FlagSet::default();
    set.state_mut(Flag::HybridMode).rule.prerequisites = vec![Flag::MlCompression];
    set.state_mut(Flag::MlCompression).rule.prerequisites = vec![Flag::HybridMode];
    assert!(set.check().is_err());
    for flag in [Flag::HybridMode, Flag::MlCompression] {
        let decision = decide(&set, flag, &Unit::named(UNIT), true, NOW_S);
        assert_eq!(decision.reason.name(), "prerequisite_unmet");
    }
}

#[test]
fn known_members_make_a_percentage_exact() {
    let nodes: Vec<_> = (0..20).map(|node| format!("node-{node}")).collect();
    let members = Membership::new(nodes.iter().map(String::as_str)).unwrap();
    let mut set = FlagSet::default();
    for (percent, expected) in [(0, 0), (1, 1), (10, 2), (50, 10), (100, 20)] {
        set.state_mut(Flag::HybridMode).rule.rollout_percent = Percent::whole(percent);
        let snapshot = Snapshot::new(&set).with_members(Flag::HybridMode, &members);
        let is_on = |node: &&String| {
            snapshot.decide(Flag::HybridMode, &Unit::named(node), true, NOW_S).is_on
        };
        let on: Vec<_> = nodes.iter().filter(is_on).cloned().collect();
        let mut chosen = members.chosen(Flag::HybridMode, 0, Percent::whole(percent));
        chosen.sort_unstable_by_key(|node| node[5..].parse::<u32>().unwrap());
        assert_eq!((on.len(), on), (expected, chosen.into_iter().map(str::to_owned).collect()));
    }
    let snapshot = Snapshot::new(&set).with_members(Flag::HybridMode, &members);
    let decision = snapshot.decide(Flag::HybridMode, &Unit::named("node-3"), true, NOW_S);
    assert_eq!(decision.reason, Reason::Ranked { chosen: 20, members: 20 });
}

#[test]
fn a_killed_snapshot_is_off_everywhere() {
    let snapshot = Snapshot::new(&FlagSet::default()).killed();
    for flag in Flag::ALL {
        assert_eq!(snapshot.decide(flag, &Unit::named("a"), true, 0), Reason::KillSwitch.into());
    }
}
