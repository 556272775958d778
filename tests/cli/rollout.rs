//! Simulated rollouts from the command line: the scenarios that ship, and files that are refused.

use crate::stage::{Scratch, operator, refusal, stdout};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Without any node.
fn alone(args: &[&str]) -> Output {
    operator(Path::new("/nonexistent/s"), args).output().unwrap()
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/rollout").join(name)
}

fn played(name: &str) -> Value {
    let file = example(name);
    let output = alone(&["--json", "rollout", "simulate", "--scenario", file.to_str().unwrap()]);
    assert!(output.status.success(), "{name}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The flags that were taken back, and by which metric.
fn back(outcome: &Value) -> Vec<(&str, &str)> {
    let flags = outcome["flags"].as_array().unwrap();
    let text =
        |value: &Value| value.as_str().map(|text| Box::leak(text.to_owned().into_boxed_str()));
    let taken = flags.iter().filter_map(|flag| {
        let metric = text(&flag["evidence"]["metric"])?;
        Some((&*text(&flag["flag"])?, &*metric))
    });
    taken.collect()
}

#[test]
fn the_scenarios_that_ship_end_as_they_say() {
    for (name, expected) in [
        ("healthy.yaml", None),
        ("errors-at-50-percent.yaml", Some(("hybrid_mode", "error_rate"))),
        ("latency.yaml", Some(("ml_compression", "latency"))),
        ("throughput.yaml", Some(("internet_optimization", "throughput"))),
        ("everyone-suffers.yaml", None),
        ("missing-data.yaml", None),
    ] {
        let outcome = played(name);
        assert_eq!(back(&outcome), Vec::from_iter(expected), "{name}");
        let percents = outcome["flags"].as_array().unwrap().iter().map(|flag| &flag["percent"]);
        let reached = percents.filter(|percent| **percent == 100).count();
        assert_eq!(reached, 3 - expected.iter().len(), "{name}");
    }
    let files = std::fs::read_dir(example("")).unwrap().count();
    assert_eq!(files, 6, "each scenario is tested");
}

#[test]
fn a_person_sees_what_happened_and_a_plot() {
    let file = example("errors-at-50-percent.yaml");
    let args = ["rollout", "simulate", "--seed", "4", "--scenario", file.to_str().unwrap()];
    let text = stdout(&alone(&args));
    for part in [
        "errors at 50 %: 42 days, ",
        "seed 4",
        "fault: 5 % of requests of units with hybrid_mode fail",
        "rolled back: ",
        "% of ",
        "hybrid_mode           |",
        "X: rolled back",
        "with it",
        "ml_compression: on for 100 %",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text, stdout(&alone(&args)), "equal seeds give equal rollouts");
}

#[test]
fn files_that_are_no_scenario_are_refused_in_one_sentence() {
    let scratch = Scratch::new();
    for (text, message) in [
        ("dys: 3\n", "unknown field `dys`"),
        ("days: -3\n", "days is -3, not a number from 0.001 to 400"),
        ("faults:\n  - effect: missing_data\n", "fault 1 needs either at_day or at_percent"),
        ("a: &a [*a]\n", ""),
        ("{", ""),
    ] {
        let file = scratch.path("bad.yaml");
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let error = refusal(&alone(&["rollout", "simulate", "--scenario", file]), 1);
        assert!(error.contains(message) && error.trim().lines().count() == 1, "{text:?}: {error}");
        let json = alone(&["--json", "rollout", "simulate", "--scenario", file]);
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["error"]["status"], "DWCP_ERR_INVALID_ARGUMENT", "{json}");
    }
    let missing = alone(&["rollout", "simulate", "--scenario", "/nonexistent/x.yaml"]);
    assert!(refusal(&missing, 1).contains("cannot read /nonexistent/x.yaml"));
}
