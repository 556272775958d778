//! Changes: what each does, and that a refused one does nothing.

use super::*;
use crate::rollout::schedule::Schedule;

const NOW_US: u64 = 1_000_000_000_000;

fn change(action: ChangeAction) -> Change {
    Change { who: "ops".into(), why: "drill".into(), evidence: None, action }
}

fn applied(set: &FlagSet, action: ChangeAction) -> FlagSet {
    apply(set, &change(action), NOW_US).unwrap()
}

fn refused(set: &FlagSet, action: ChangeAction) -> String {
    apply(set, &change(action), NOW_US).unwrap_err().to_string()
}

fn percent(flag: Flag, percent: u8) -> ChangeAction {
    ChangeAction::Edit(vec![(flag, RuleEdit::percent(Percent::whole(percent)))])
}

fn edit(flag: Flag, json: &str) -> ChangeAction {
    ChangeAction::Edit(vec![(flag, serde_json::from_str(json).unwrap())])
}

#[test]
fn the_guides_commands_do_what_it_expects() {
    let set = FlagSet::all_off();
    let canary = applied(
        &set,
        edit(Flag::HybridMode, "{\"enabled\":true,\"allow_list\":[\"node-1\",\"node-2\"]}"),
    );
    let rule = canary.rule(Flag::HybridMode);
    assert!(rule.enabled && rule.rollout_percent == Percent::ZERO && rule.allow_list.len() == 2);
    let tenth = applied(&canary, percent(Flag::HybridMode, 10));
    assert_eq!(tenth.rule(Flag::HybridMode).allow_list.len(), 2);
    let from_off = applied(&set, percent(Flag::HybridMode, 10));
    assert!(from_off.rule(Flag::HybridMode).enabled);
    assert_eq!(from_off.changed(&set), [Flag::HybridMode]);
}

#[test]
fn disabling_all_leaves_lists_and_latches() {
    let mut set = FlagSet::default();
    let state = set.state_mut(Flag::HybridMode);
    state.rule.deny_list = vec!["node-9".into()];
    state.rule.schedule = Some(Schedule::guide(Flag::HybridMode));
    state.latch = Some(Latch { since_us: 1, reason: "errors".into(), evidence: None });
    let off = applied(&set, ChangeAction::DisableAll);
    for flag in Flag::ALL {
        let rule = off.rule(flag);
        assert!(!rule.enabled && rule.rollout_percent == Percent::ZERO && rule.schedule.is_none());
    }
    assert_eq!(off.rule(Flag::HybridMode).deny_list, ["node-9"]);
    assert!(off.state(Flag::HybridMode).latch.is_some());
    assert_eq!(applied(&off, ChangeAction::DisableAll), off);
}

#[test]
fn a_rollback_holds_its_evidence_until_cleared() {
    let set = FlagSet::default();
    let evidence = Json::of("evidence", &vec![0.05, 1e-9]).unwrap();
    let action = ChangeAction::Latch(Flag::MlCompression);
    let rollback = Change { evidence: Some(evidence.clone()), ..change(action.clone()) };
    let latched = apply(&set, &rollback, NOW_US).unwrap();
    let latch = latched.state(Flag::MlCompression).latch.clone().unwrap();
    let expected = Latch { since_us: NOW_US, reason: "drill".into(), evidence: Some(evidence) };
    assert_eq!(latch, expected);
    assert_eq!(
        refused(&latched, action),
        "ml_compression is rolled back already; clear that first"
    );
    let clear = ChangeAction::ClearLatch(Flag::MlCompression);
    assert_eq!(applied(&latched, clear.clone()), set);
    assert_eq!(
        refused(&set, clear),
        "ml_compression is not rolled back; there is nothing to clear"
    );
}

#[test]
fn a_schedule_starts_when_it_is_set_and_waits_while_rolled_back() {
    let planned =
        "{\"enabled\":true,\"rollout_percent\":0,\"schedule\":[{\"after_s\":0,\"percent\":5}]}";
    let set = applied(&FlagSet::all_off(), edit(Flag::HybridMode, planned));
    let start = |set: &FlagSet| set.rule(Flag::HybridMode).schedule.as_ref().unwrap().start_s();
    assert_eq!(start(&set), Some(NOW_US / MICROS));
    let rollback = change(ChangeAction::Latch(Flag::HybridMode));
    let latched = apply(&set, &rollback, NOW_US + 50 * MICROS).unwrap();
    let clear = change(ChangeAction::ClearLatch(Flag::HybridMode));
    let cleared = apply(&latched, &clear, NOW_US + 90 * MICROS).unwrap();
    assert_eq!(start(&cleared), Some(NOW_US / MICROS + 40));
    // A clock that went back meanwhile moves nothing.
    assert_eq!(start(&apply(&latched, &clear, 0).unwrap()), Some(NOW_US / MICROS));
}

#[test]
fn only_a_running_schedule_advances_and_only_upwards() {
    let to = |percent| ChangeAction::Advance {
        flag: Flag::HybridMode,
        percent: Percent::whole(percent),
    };
    assert_eq!(
        refused(&FlagSet::all_off(), to(10)),
        "hybrid_mode cannot advance to 10 %: it is not enabled"
    );
    assert!(refused(&FlagSet::default(), to(10)).ends_with("it has no schedule"));
    let planned =
        "{\"enabled\":true,\"rollout_percent\":5,\"schedule\":[{\"after_s\":0,\"percent\":5}]}";
    let set = applied(&FlagSet::all_off(), edit(Flag::HybridMode, planned));
    assert!(refused(&set, to(5)).ends_with("not above its present percentage"));
    let advanced = applied(&set, to(10));
    assert!(advanced.rule(Flag::HybridMode).schedule.is_some());
    assert_eq!(advanced.rule(Flag::HybridMode).rollout_percent, Percent::whole(10));
    let latched = applied(&advanced, ChangeAction::Latch(Flag::HybridMode));
    assert!(refused(&latched, to(50)).contains("has not been cleared"));
}

#[test]
fn the_kill_switch_keeps_its_reason() {
    let killed = applied(&FlagSet::default(), ChangeAction::Kill);
    assert_eq!(killed.killed.as_deref(), Some("drill"));
    assert_eq!(applied(&killed, ChangeAction::LiftKill), FlagSet::default());
    assert_eq!(refused(&FlagSet::default(), ChangeAction::LiftKill), "the kill switch is not on");
}

#[test]
fn a_configuration_replaces_the_rules_that_it_has() {
    let rules = serde_json::from_str("{\"hybrid_mode\":false}").unwrap();
    let configuration = Some("0123".to_owned());
    let set = applied(&FlagSet::default(), ChangeAction::Rules { rules, configuration });
    assert_eq!(set.changed(&FlagSet::default()), [Flag::HybridMode]);
    assert_eq!(set.configuration.as_deref(), Some("0123"));
    // What else is changed later keeps it.
    assert!(applied(&set, percent(Flag::HybridMode, 10)).configuration.is_some());
}

#[test]
fn a_configuration_that_was_edited_elsewhere_lets_a_schedule_go_on() {
    let planned = "{\"enabled\":true,\"schedule\":[{\"after_s\":0,\"percent\":5},{\"after_s\":9,\"percent\":50}]}";
    let rules = |json: &str| {
        let json = format!("{{\"hybrid_mode\":{json}}}");
        ChangeAction::Rules { rules: serde_json::from_str(&json).unwrap(), configuration: None }
    };
    let set = applied(&FlagSet::all_off(), rules(planned));
    let to = ChangeAction::Advance { flag: Flag::HybridMode, percent: Percent::whole(5) };
    let advanced = applied(&set, to);
    let again = apply(&advanced, &change(rules(planned)), NOW_US + 60 * MICROS).unwrap();
    assert_eq!(again, advanced);
    let other = planned.replace(":50}", ":60}");
    let anew = apply(&advanced, &change(rules(&other)), NOW_US + 60 * MICROS).unwrap();
    let rule = anew.rule(Flag::HybridMode);
    assert_eq!(rule.rollout_percent, Percent::ZERO);
    assert_eq!(rule.schedule.as_ref().unwrap().start_s(), Some(NOW_US / MICROS + 60));
}

#[test]
fn who_and_why_are_wanted() {
    let with = |who: &str, why: &str| {
        let action = ChangeAction::DisableAll;
        let change = Change { who: who.into(), why: why.into(), evidence: None, action };
        apply(&FlagSet::default(), &change, NOW_US).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(with("ops", "drill"), Ok(()));
    let long = "x".repeat(MAX_REASON_BYTES + 1);
    for (who, why) in [("ops", ""), ("ops", "  "), ("ops", "a\nb"), ("ops", &*long), ("", "drill")]
    {
        let error = with(who, why).unwrap_err();
        assert!(error.contains("of 1 to") && error.len() < 250, "{error}");
    }
}

#[test]
fn a_change_holds_whole_or_not_at_all() {
    let set = FlagSet::default();
    let good = (Flag::HybridMode, RuleEdit::percent(Percent::whole(10)));
    let circle = RuleEdit { prerequisites: Some(vec![Flag::MlCompression]), ..RuleEdit::default() };
    let error =
        refused(&set, ChangeAction::Edit(vec![good.clone(), (Flag::MlCompression, circle)]));
    assert!(error.contains("circle"), "{error}");
    assert_eq!(refused(&set, ChangeAction::Edit(Vec::new())), "the change sets nothing");
    let nothing = ChangeAction::Edit(vec![good, (Flag::CrdtSync, RuleEdit::default())]);
    assert_eq!(refused(&set, nothing), "the change sets nothing of crdt_sync");
    let mut odd = FlagSet::default();
    odd.state_mut(Flag::HybridMode).rule.allow_list = vec!["\x07".into()];
    assert!(refused(&set, ChangeAction::Whole(Box::new(odd))).contains("control characters"));
    let action = ChangeAction::Latch(Flag::HybridMode);
    let evidence = Json::of("evidence", &"x".repeat(MAX_EVIDENCE_BYTES)).ok();
    let change = Change { evidence, ..change(action) };
    assert_eq!(apply(&set, &change, 0), Err(ChangeError::Evidence(MAX_EVIDENCE_BYTES + 2)));
}

#[test]
fn changes_round_trip_as_json() {
    let actions = [
        percent(Flag::HybridMode, 10),
        ChangeAction::Rules { rules: FlagRules::of(&FlagSet::default()), configuration: None },
        ChangeAction::Advance { flag: Flag::CrdtSync, percent: Percent::FULL },
        ChangeAction::DisableAll,
        ChangeAction::Latch(Flag::HybridMode),
        ChangeAction::Whole(Box::default()),
    ];
    for action in actions {
        assert!(!action.to_string().is_empty());
        let change = change(action);
        let json = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change, "{json}");
    }
    let action = percent(Flag::HybridMode, 10);
    let json = serde_json::to_string(&action).unwrap();
    assert_eq!(json, "{\"edit\":{\"hybrid_mode\":{\"rollout_percent\":10}}}");
    assert_eq!(action.to_string(), "hybrid_mode: rollout_percent 10");
}
