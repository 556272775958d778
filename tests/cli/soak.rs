//! `soak-test`: a guest moved between real nodes, and verdicts that can fail.

use crate::stage::{Process, Scratch, operator, refusal};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Output;

/// Runs a short test in a directory of its own, which must be empty afterwards.
fn soak(scratch: &Scratch, args: &[&str]) -> Output {
    let small = ["--json", "soak-test", "--guest-memory", "2MiB", "--monitor-interval", "1s"];
    let mut command = operator(Path::new("/nowhere"), &[&small[..], args].concat());
    let output = command.env("TMPDIR", &scratch.0).output().unwrap();
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "something was left behind");
    output
}

/// The outcomes by row, and the whole last line.
fn verdicts(output: &Output) -> (BTreeMap<String, String>, Value) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().expect("a verdict")).unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = last["verdicts"].as_array().unwrap().iter();
    (rows.map(|row| (word(&row["what"]), word(&row["outcome"]))).collect(), last)
}

#[test]
fn a_sound_library_passes_and_tells_how_it_goes() {
    let scratch = Scratch::new();
    let output = soak(&scratch, &["--duration", "8s"]);
    let (rows, last) = verdicts(&output);
    let held = |row: &str| rows[row] == "held";
    assert!(held("migrations") && held("guest"), "{last}");
    assert!(held("descriptors") && held("threads") && held("memory"), "{last}");
    assert_eq!((output.status.code(), &last["passed"]), (Some(0), &true.into()), "{last}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() > 3, "{text}");
    let interval = &lines[lines.len() - 2];
    for field in ["migrations", "downtime_p50_ms", "downtime_p99_ms", "memory_bytes", "threads"] {
        assert!(interval[field].as_f64() > Some(0.0), "{field}: {interval}");
    }
    assert_eq!((&interval["failures"], &interval["damaged_pages"]), (&0.into(), &0.into()));
    assert_eq!(last["totals"]["looks"], last["totals"]["migrations"]);
}

#[test]
fn one_changed_byte_or_a_second_owner_ends_it_at_once() {
    let scratch = Scratch::new();
    for (spoilt, what) in [("page", "1 bytes differ"), ("owner", "it runs at both nodes")] {
        let output = soak(&scratch, &["--duration", "1h", "--spoil", spoilt]);
        let (rows, last) = verdicts(&output);
        assert_eq!((output.status.code(), rows["guest"].as_str()), (Some(1), "failed"), "{last}");
        assert!(last.to_string().contains(what), "{last}");
    }
}

fn assert_leak_is_found(spoilt: &str) {
    let scratch = Scratch::new();
    let output = soak(&scratch, &["--duration", "1s", "--spoil", spoilt]);
    let (rows, last) = verdicts(&output);
    assert_eq!((output.status.code(), rows[spoilt].as_str()), (Some(1), "failed"), "{last}");
    assert_eq!((rows["migrations"].as_str(), rows["guest"].as_str()), ("held", "held"), "{last}");
}

#[test]
fn a_leak_of_memory_is_found() {
    assert_leak_is_found("memory");
}

#[test]
fn a_leak_of_descriptors_is_found() {
    assert_leak_is_found("descriptors");
}

#[test]
fn a_leak_of_threads_is_found() {
    assert_leak_is_found("threads");
}

#[test]
fn an_interrupt_ends_it_with_what_is_known_so_far() {
    let scratch = Scratch::new();
    let args = ["--json", "soak-test", "--duration", "1h", "--monitor-interval", "1s"];
    let mut command = operator(Path::new("/nowhere"), &args);
    let mut process = Process::spawn(command.env("TMPDIR", &scratch.0));
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let is_moving = |line: &Value| line["migrations"].as_u64() > Some(0);
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    while !is_moving(&next()) {}
    process.signal(libc::SIGINT);
    let last = std::iter::repeat_with(&mut next).find(|line| !line["verdicts"].is_null());
    assert_eq!(last.unwrap()["interrupted"], true);
    let status = process.0.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
}

#[test]
fn nodes_end_with_a_test_that_is_killed() {
    let scratch = Scratch::new();
    let args = ["soak-test", "--duration", "1h"];
    let mut command = operator(Path::new("/nowhere"), &args);
    let mut process = Process::spawn(command.env("TMPDIR", &scratch.0));
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("moves over TLS"), "{first}");
    let words: Vec<&str> = first.split(' ').collect();
    let pid_of = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1];
    let nodes = ["left", "right"].map(|name| format!("/proc/{}", pid_of(name)));
    assert!(nodes.iter().all(|node| Path::new(node).exists()), "{first}");
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    crate::stage::wait_until("its nodes end too", || {
        nodes.iter().all(|node| !is_alive(Path::new(node))).then_some(())
    });
}

/// A process that has ended and that nobody has asked about is dead.
fn is_alive(process: &Path) -> bool {
    std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (args, what) in [
        (["--duration", "0s"], "it must be 1s at least"),
        (["--duration", "long"], "is not a duration"),
        (["--guest-memory", "1KiB"], "1MiB to 64GiB"),
        (["--spoil", "everything"], "possible values"),
    ] {
        let args = [&["soak-test"], &args[..]].concat();
        let output = operator(Path::new("/nowhere"), &args).output().unwrap();
        assert!(refusal(&output, 2).contains(what), "{args:?}");
    }
}
