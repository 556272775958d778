//! `resource-check`: what a host has, asked of its node or without one.

use crate::stage::{Pair, Scratch, operator, refusal, stdout};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const COMPONENTS: [&str; 8] =
    ["amst", "rdma", "hde", "native", "qemu", "security", "storage", "host"];

#[test]
fn the_node_answers_for_its_own_process() {
    let pair = Pair::new();
    pair.add_guest("vm", 2048);
    let answer = pair.json(&["resource-check", "--components", "all"]);
    assert_eq!((&answer["node"], &answer["process"]), (&"here".into(), &std::process::id().into()));
    let checks = answer["checks"].as_array().unwrap();
    for component in COMPONENTS {
        let of = checks.iter().filter(|check| check["component"] == component);
        assert!(of.clone().count() > 0, "{component}: {answer}");
        for check in of {
            let is_good = check["verdict"] == "ok";
            assert_eq!(check["advice"].is_null(), is_good, "{check}");
        }
    }
    let missing = answer["not_built"].as_array().unwrap();
    assert!(missing.iter().any(|component| component["name"] == "acp"), "{answer}");
    let found = |what: &str| {
        let check = checks.iter().find(|check| check["what"] == what);
        check.expect(what)["found"].as_str().unwrap().to_owned()
    };
    assert!(found("memory").contains("migrating all 1 guests"), "{answer}");
    assert_eq!(found("connections"), "plain TCP");
    assert!(found("cost of zstd").contains("packs guest vm"), "the guest's own memory is packed");
    let text = stdout(&pair.run(&["resource-check"]));
    for what in ["node here, process", "BBR congestion control", "not built yet", " failed\n"] {
        assert!(text.contains(what), "{what}: {text}");
    }
}

#[test]
fn some_components_can_be_asked_for_and_others_are_not_built_yet() {
    let pair = Pair::new();
    let answer = pair.json(&["resource-check", "--components", "hde,host,hde"]);
    let of = |check: &Value| check["component"].as_str().unwrap().to_owned();
    let mut named: Vec<_> = answer["checks"].as_array().unwrap().iter().map(of).collect();
    named.dedup();
    assert_eq!(named, ["hde", "host"]);
    assert_eq!(answer["not_built"], Value::Array(vec![]));
    for list in ["all,amst", "amst,all"] {
        let answer = pair.json(&["resource-check", "--components", list]);
        let has = |name: &str| answer["checks"].as_array().unwrap().iter().any(|c| of(c) == name);
        assert!(COMPONENTS.into_iter().all(has), "{list}: {answer}");
        assert_ne!(answer["not_built"], Value::Array(vec![]), "{list}");
    }
    // The node refuses, and so does the command where there is no node.
    let alone = |name: &str| {
        let args = ["resource-check", "--components", name];
        operator(Path::new("/nonexistent/s"), &args).output().unwrap()
    };
    for output in [pair.run(&["resource-check", "--components", "pba"]), alone("pba")] {
        assert!(refusal(&output, 1).contains("component not built yet: \"pba\""));
    }
    for output in [pair.run(&["resource-check", "--components", "cpu"]), alone("cpu")] {
        assert!(refusal(&output, 1).contains("unknown component \"cpu\"; known here: all, amst"));
    }
}

#[test]
fn a_host_that_cannot_be_worked_with_fails() {
    let scratch = Scratch::new();
    let check = |limit: &str| {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        let program = env!("CARGO_BIN_EXE_dwcp-v3-cli");
        let args = ["--json", "resource-check", "--components", "amst"];
        command.args(["-c", &script, "sh", program, "--socket"]).arg(scratch.path("none"));
        command.args(args).output().unwrap()
    };
    let verdict = |output: &std::process::Output| -> (Value, String) {
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(answer["no_node_at"].as_str().unwrap().ends_with("none"), "{answer}");
        let checks = answer["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["what"] == "descriptors").unwrap();
        (answer["passed"].clone(), check["verdict"].as_str().unwrap().to_owned())
    };
    let poor = check("64");
    assert_eq!(poor.status.code(), Some(1), "{poor:?}");
    assert_eq!(verdict(&poor), (false.into(), "failed".to_owned()));
    let better = check("1024");
    assert_eq!(better.status.code(), Some(0), "{better:?}");
    assert_eq!(verdict(&better), (true.into(), "ok".to_owned()));
}
