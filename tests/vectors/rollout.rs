//! Flags' places, decisions and exact shares, against another implementation of the same description.

use super::{cases, number, text, vectors_in};
use dwcp::rollout::{self, Flag, FlagSet, Percent, PreparedUnit, Unit};
use serde_json::Value;

fn flag(case: &Value) -> Flag {
    text(case, "flag").parse().unwrap()
}

fn seed(case: &Value) -> u64 {
    case["seed"].as_u64().unwrap()
}

#[test]
fn places_and_buckets_of_units() {
    let vectors = vectors_in("rollout.json");
    for case in cases(&vectors, "buckets") {
        let (flag, seed, unit) = (flag(case), seed(case), Unit::named(text(case, "unit")));
        let kept = PreparedUnit::from(unit);
        assert_eq!(kept.key(), text(case, "key"));
        assert_eq!([unit.hash(), kept.hash()], [number(&case["unit_hash"]); 2], "{case}");
        assert_eq!(rollout::flag_hash(flag, seed, &unit), number(&case["place"]), "{case}");
        assert_eq!(case["bucket"], rollout::bucket(flag, seed, &unit), "{case}");
    }
}

#[test]
fn decisions_and_their_reasons() {
    let vectors = vectors_in("rollout.json");
    for case in cases(&vectors, "decisions") {
        let set: FlagSet = serde_json::from_value(case["set"].clone()).unwrap();
        assert_eq!(set.check(), Ok(()), "{}", case["why"]);
        assert_eq!(serde_json::to_value(&set).unwrap(), case["set"], "{}", case["why"]);
        let (unit, now_s) = (Unit::named(text(case, "unit")), case["now_s"].as_u64().unwrap());
        let peer_can = case["peer_can"].as_bool().unwrap();
        let decision = rollout::decide(&set, flag(case), &unit, peer_can, now_s);
        let expected = (case["is_on"].as_bool().unwrap(), text(case, "reason"));
        assert_eq!((decision.is_on, decision.reason.name()), expected, "{}", case["why"]);
    }
}

#[test]
fn exact_shares_of_known_members() {
    let vectors = vectors_in("rollout.json");
    let names = |value: &'static str, case: &Value| -> Vec<String> {
        serde_json::from_value(case[value].clone()).unwrap()
    };
    for case in cases(&vectors, "exact") {
        let percent: Percent = serde_json::from_value(case["percent"].clone()).unwrap();
        let members = names("members", case);
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let chosen = rollout::exact_units(seed(case), flag(case), percent, &members).unwrap();
        assert_eq!(chosen, names("chosen", case), "{}", case["percent"]);
    }
}
