//! Whole rollouts, by seeds that stay the same.

use super::*;
use crate::rollout::guard::{Beside, Metric};
use crate::rollout::{Flag, HoldReason, Percent};

fn played(json: &str) -> Outcome {
    play(&serde_json::from_str(json).unwrap()).unwrap()
}

/// The one flag that was taken back, and why.
fn blamed(outcome: &Outcome) -> (Flag, Metric, f64) {
    let back: Vec<_> = outcome.flags.iter().filter(|flag| flag.evidence.is_some()).collect();
    assert_eq!(back.len(), 1, "{:#?}", outcome.events);
    let evidence = back[0].evidence.as_ref().unwrap();
    (back[0].flag, evidence.metric, back[0].rolled_back_at_day.unwrap())
}

#[test]
fn a_healthy_rollout_reaches_everybody_by_the_guides_table() {
    let outcome = played("{}");
    assert!(!outcome.is_rolled_back(), "{:#?}", outcome.events);
    for flag in &outcome.flags {
        assert_eq!(flag.percent, Percent::FULL, "{:#?}", outcome.events);
    }
    let raised = outcome.events.iter().filter_map(|event| match event.what {
        Happening::Raised(percent) => Some((event.at_day.round() as u64, event.flag?, percent)),
        _ => None,
    });
    let raised: Vec<_> = raised.collect();
    assert_eq!(raised.len(), 9, "{:#?}", outcome.events);
    assert_eq!(raised[0], (7, Flag::HybridMode, Percent::whole(10)));
    assert!(raised.contains(&(28, Flag::MlCompression, Percent::FULL)), "{raised:?}");
    assert_eq!(outcome.points.len(), 168);
    assert!(serde_json::to_string(&outcome).unwrap().contains("\"latency_ratio\""));
}

#[test]
fn healthy_rollouts_are_left_alone() {
    for seed in 100..108 {
        let outcome = played(&format!("{{\"seed\":{seed},\"error_rate\":1}}"));
        assert!(!outcome.is_rolled_back(), "seed {seed}: {:#?}", outcome.events);
    }
}

#[test]
fn equal_seeds_give_equal_rollouts() {
    let json = "{\"days\":16,\"seed\":9}";
    assert_eq!(played(json), played(json));
    assert_ne!(played(json), played("{\"days\":16,\"seed\":10}"));
}

#[test]
fn errors_of_one_flag_take_back_that_flag() {
    let outcome = played(
        "{\"days\":22,\"faults\":[{\"at_percent\":50,\"flag\":\"hybrid_mode\",
          \"effect\":{\"errors\":{\"percent\":5}}}]}",
    );
    let (flag, metric, day) = blamed(&outcome);
    assert_eq!((flag, metric), (Flag::HybridMode, Metric::ErrorRate));
    assert!((14.0..15.0).contains(&day), "{day}");
    let other = outcome.flag(Flag::MlCompression).unwrap();
    assert_eq!(other.percent, Percent::whole(50), "{:#?}", outcome.events);
}

#[test]
fn latency_throughput_and_switches_take_back_too() {
    for (effect, metric) in [
        ("{\"latency\":{\"increase_percent\":80}}", Metric::Latency),
        ("{\"throughput\":{\"ratio\":0.6}}", Metric::Throughput),
        ("{\"mode_switches\":{\"per_min\":30}}", Metric::ModeSwitches),
    ] {
        let outcome = played(&format!(
            "{{\"days\":18,\"faults\":[{{\"at_day\":15.5,\"flag\":\"internet_optimization\",
              \"effect\":{effect}}}]}}"
        ));
        let (flag, found, day) = blamed(&outcome);
        assert_eq!((flag, found), (Flag::InternetOptimization, metric));
        assert!((15.5..17.0).contains(&day), "{effect}: {day}");
    }
}

#[test]
fn failed_detections_count_in_the_first_stage() {
    let outcome = played(
        "{\"days\":14,\"faults\":[{\"at_day\":8,\"flag\":\"hybrid_mode\",
          \"effect\":{\"detection_failures\":{\"percent\":30}}}]}",
    );
    let (flag, metric, day) = blamed(&outcome);
    assert_eq!((flag, metric), (Flag::HybridMode, Metric::DetectionFailures));
    assert!((8.0..10.0).contains(&day), "{day}");
}

#[test]
fn damage_takes_back_at_once() {
    let outcome = played(
        "{\"days\":16,\"faults\":[{\"at_day\":15,\"flag\":\"ml_compression\",\"effect\":\"corruption\"}]}",
    );
    let back: Vec<_> = outcome.flags.iter().filter_map(|flag| flag.evidence.as_ref()).collect();
    assert_eq!(back.len(), 1, "{:#?}", outcome.events);
    assert_eq!((back[0].metric, back[0].is_hard), (Metric::Corruption, true));
}

#[test]
fn what_everybody_suffers_is_nobodys_fault() {
    let outcome = played(
        "{\"days\":18,\"faults\":[
          {\"at_day\":15,\"lasts_hours\":12,\"reach\":\"all\",\"effect\":{\"errors\":{\"percent\":10}}},
          {\"at_day\":16,\"lasts_hours\":12,\"reach\":\"all\",\"effect\":{\"latency\":{\"increase_percent\":200}}},
          {\"at_day\":17,\"lasts_hours\":12,\"reach\":\"all\",\"effect\":{\"throughput\":{\"ratio\":0.3}}}]}",
    );
    assert!(!outcome.is_rolled_back(), "{:#?}", outcome.events);
}

#[test]
fn with_the_flag_on_everywhere_the_last_one_in_is_the_first_one_out() {
    let outcome = played(
        "{\"days\":31,\"faults\":[{\"at_day\":29,\"flag\":\"ml_compression\",
          \"effect\":{\"errors\":{\"percent\":20}}}]}",
    );
    let first = outcome.events.iter().find_map(|event| match &event.what {
        Happening::RolledBack(evidence) => Some(evidence.clone()),
        _ => None,
    });
    let evidence = first.unwrap();
    // It was raised in the same tick as the one before it; nothing tells the two apart.
    assert_eq!(evidence.flag, Flag::InternetOptimization, "{:#?}", outcome.events);
    assert_eq!(evidence.beside, Some(Beside::Past));
    let ml = outcome.flag(Flag::MlCompression).unwrap();
    assert!(ml.evidence.is_some(), "the harm goes on, so the next one goes: {:#?}", outcome.events);
    assert!(outcome.flag(Flag::HybridMode).unwrap().evidence.is_none());
}

#[test]
fn missing_data_and_nonsense_hold() {
    for effect in ["\"missing_data\"", "\"not_a_number\""] {
        let outcome = played(&format!(
            "{{\"days\":18,\"faults\":[{{\"at_day\":10,\"lasts_hours\":144,\"flag\":\"hybrid_mode\",
              \"effect\":{effect}}}]}}"
        ));
        assert!(!outcome.is_rolled_back(), "{:#?}", outcome.events);
        let day = outcome.events.iter().find_map(|event| match event.what {
            Happening::Raised(percent) if event.flag == Some(Flag::HybridMode) => {
                (percent == Percent::whole(50)).then_some(event.at_day)
            }
            _ => None,
        });
        assert!(day.is_some_and(|day| day > 16.0), "{effect}: {:#?}", outcome.events);
        let is_hold = |event: &Event| matches!(event.what, Happening::Held(_));
        assert!(outcome.events.iter().any(is_hold), "{effect}");
    }
}

#[test]
fn a_clock_that_jumps_holds() {
    for seconds in [-86_400 * 30, 86_400 * 30] {
        let outcome = played(&format!(
            "{{\"days\":16,\"faults\":[{{\"at_day\":3,\"reach\":\"all\",
              \"effect\":{{\"clock_jump\":{{\"seconds\":{seconds}}}}}}}]}}"
        ));
        assert!(!outcome.is_rolled_back(), "{:#?}", outcome.events);
        let first = outcome.events.iter().find(|event| matches!(event.what, Happening::Raised(_)));
        assert!(first.is_some_and(|event| event.at_day >= 7.0), "{:#?}", outcome.events);
    }
    let outcome = played(
        "{\"days\":9,\"faults\":[{\"at_day\":8,\"reach\":\"all\",\"effect\":{\"clock_jump\":{\"seconds\":-9000}}}]}",
    );
    let held = Happening::Held(HoldReason::ClockJumped);
    assert!(outcome.events.iter().any(|event| event.what == held), "{:#?}", outcome.events);
}
