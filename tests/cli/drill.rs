//! `rollout drill`: a rollback rehearsed on real nodes, small, and verdicts that can fail. How long
//! anything may take is set so that a busy machine decides nothing.

use crate::stage::{Process, Scratch, operator, refusal, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

const PATIENT: [&str; 6] =
    ["--notice-within", "110s", "--effect-within", "60s", "--kill-within", "60s"];

/// Runs a small drill, which must leave nothing behind; gives its exit code and its last line.
fn drill(args: &[&str]) -> (Option<i32>, Value) {
    let scratch = Scratch::new();
    let small = ["--json", "rollout", "drill", "--nodes", "5"];
    let mut command = operator(Path::new("/nowhere"), &[&small[..], args].concat());
    let (status, out, errors) = Process::spawn(command.env("TMPDIR", &scratch.0)).finish();
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "something was left behind");
    let last = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out} {errors}"));
    (status.code(), last)
}

/// The outcomes by row.
fn outcomes(last: &Value) -> BTreeMap<&str, &str> {
    let rows = last["verdicts"].as_array().unwrap().iter();
    rows.map(|row| (row["what"].as_str().unwrap(), row["outcome"].as_str().unwrap())).collect()
}

fn finding<'a>(last: &'a Value, what: &str) -> &'a Value {
    let found = last["drills"][0].as_array().unwrap().iter().find(|found| found["what"] == what);
    found.unwrap_or_else(|| panic!("no {what} in {last}"))
}

#[test]
fn a_fault_of_those_who_have_the_flag_is_rolled_back_and_no_guest_is_lost() {
    let (code, last) = drill(&PATIENT);
    let rows = outcomes(&last);
    assert!(rows.values().all(|outcome| *outcome == "held"), "{last:#}");
    assert_eq!((code, &last["passed"]), (Some(0), &true.into()), "{last:#}");
    for what in
        ["fault", "rolled back by itself", "off after the decision", "kill switch", "guests"]
    {
        assert!(rows.contains_key(what), "{what}: {rows:?}");
    }
    let figures = finding(&last, "rolled back by itself")["figures"].as_array().unwrap();
    assert!(figures[0]["value"].as_f64() >= Some(1.0), "{figures:?}");
    assert!(finding(&last, "at 50 %")["evidence"].as_str().unwrap().contains("2 of 4 paths"));
}

#[test]
fn without_a_fault_nothing_is_rolled_back() {
    let (code, last) = drill(&[&PATIENT[..], &["--harmless"]].concat());
    let rows = outcomes(&last);
    assert!(rows.values().all(|outcome| *outcome == "held"), "{last:#}");
    assert_eq!((code, rows["no rollback"]), (Some(0), "held"), "{last:#}");
    assert!(!rows.contains_key("fault"), "{rows:?}");
}

#[test]
fn guards_that_let_everything_pass_fail_the_drill() {
    let guards = ["--notice-within", "5s", "--spoil", "guards"];
    let (code, last) = drill(&[&PATIENT[2..], &guards].concat());
    let rows = outcomes(&last);
    assert_eq!((code, rows["rolled back by itself"]), (Some(1), "failed"), "{last:#}");
    // What needs a rollback cannot be judged; the rest is as it should be.
    assert_eq!(
        (rows["off after the decision"], rows["guests"]),
        ("not_judged", "held"),
        "{last:#}"
    );
}

#[test]
fn an_effect_that_comes_too_late_and_one_changed_byte_fail_the_drill() {
    let bounds = ["--notice-within", "110s", "--effect-within", "0s", "--kill-within", "0s"];
    let (code, last) = drill(&[&bounds[..], &["--spoil", "page"]].concat());
    let rows = outcomes(&last);
    assert_eq!((code, rows["off after the decision"]), (Some(1), "failed"), "{last:#}");
    assert_eq!((rows["kill switch"], rows["disable-all"]), ("failed", "failed"), "{last:#}");
    assert_eq!((rows["rolled back by itself"], rows["guests"]), ("held", "failed"), "{last:#}");
    let evidence = finding(&last, "guests")["evidence"].as_str().unwrap();
    assert!(evidence.contains("1 damaged pages"), "{evidence}");
}

#[test]
fn a_second_owner_fails_the_drill() {
    let (code, last) = drill(&[&PATIENT[..], &["--harmless", "--spoil", "owner"]].concat());
    assert_eq!((code, outcomes(&last)["guests"]), (Some(1), "failed"), "{last:#}");
    let evidence = finding(&last, "guests")["evidence"].as_str().unwrap();
    assert!(evidence.contains(" and node-0"), "{evidence}");
}

#[test]
fn an_interrupt_takes_all_nodes_down() {
    let scratch = Scratch::new();
    let mut command = operator(Path::new("/nowhere"), &["rollout", "drill", "--nodes", "5"]);
    let mut process = Process::spawn(command.env("TMPDIR", &scratch.0));
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("5 nodes, each a process, over TLS"), "{first}");
    let pid = process.0.id();
    assert_eq!(children(pid).len(), 5);
    let nodes = children(pid);
    process.signal(libc::SIGINT);
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(process.0.wait().unwrap().code(), Some(130), "{rest:?}");
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
    wait_until("its nodes end too", || {
        nodes.iter().all(|node| !Path::new("/proc").join(node).exists()).then_some(())
    });
}

/// The processes that a process has started.
fn children(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (args, code, what) in [
        (["--nodes", "2"], 2, "it must be 5 to 33"),
        (["--nodes", "33"], 1, "64 guests are more than 48"),
        (["--guests", "0"], 2, "it must be 1 to 4"),
        (["--guest-memory", "1KiB"], 2, "1MiB to 1GiB"),
        (["--flag", "hybrid_mod"], 2, "did you mean hybrid_mode?"),
        (["--flag", "crdt_sync"], 2, "not built yet"),
        (["--spoil", "everything"], 2, "possible values"),
    ] {
        let args = [&["rollout", "drill"], &args[..]].concat();
        let output = operator(Path::new("/nowhere"), &args).output().unwrap();
        assert!(refusal(&output, code).contains(what), "{args:?}");
    }
}
