//! `chaos-test`: real faults between real nodes in networks of their own, and verdicts that can fail.
//! Needs root, but for what it says without.

use crate::stage::{Process, Scratch, operator, refusal, wait_until};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

fn command(scratch: &Scratch, args: &[&str]) -> Command {
    let mut command = operator(Path::new("/nowhere"), args);
    // It calls `ip`.
    command.env("TMPDIR", &scratch.0).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs a short test; gives its exit code and its verdict.
fn chaos(scenario: &str, args: &[&str]) -> (Option<i32>, Value) {
    let scratch = Scratch::new();
    let small = ["--json", "chaos-test", "--guest-memory", "8MiB", "--duration", "1s"];
    let args = [&small[..], &["--scenarios", scenario], args].concat();
    let process = Process::spawn(&mut command(&scratch, &args));
    let pid = process.0.id();
    let (status, out, errors) = process.finish();
    assert_nothing_left(&scratch, pid);
    let verdict = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out} {errors}"));
    (status.code(), verdict)
}

/// Neither directories nor networks, with whose end the nodes in them end.
fn assert_nothing_left(scratch: &Scratch, pid: u32) {
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "directories were left behind");
    assert_eq!(networks(pid), 0, "networks were left behind");
}

fn networks(pid: u32) -> usize {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return 0 };
    let names = entries.flatten().map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(&format!("dwcplab-{pid}-"))).count()
}

/// A scenario that holds: something was done, the nodes noticed, and the guest is whole.
fn assert_holds(scenario: &str, args: &[&str]) -> Value {
    let (code, verdict) = chaos(scenario, args);
    assert_eq!((code, &verdict["passed"]), (Some(0), &true.into()), "{verdict}");
    let row = verdict["scenarios"][0].clone();
    assert_eq!((&row["scenario"], &row["outcome"]), (&scenario.into(), &"held".into()), "{row}");
    for field in ["injected", "noticed", "rounds", "pages"] {
        assert!(row[field].as_u64() > Some(0), "{field}: {row}");
    }
    assert_eq!(row["faults"], Value::Array(vec![]));
    row
}

#[test]
fn a_partition_leaves_one_owner() {
    let row = assert_holds("network-partition", &[]);
    assert!(row["moved"].as_u64() > Some(0), "a short cut is survived: {row}");
    assert!(row["failures"]["DWCP_ERR_IN_DOUBT"].as_u64() > Some(0), "cut at the commit: {row}");
    assert_eq!(row["decided"], row["failures"]["DWCP_ERR_IN_DOUBT"], "{row}");
}

#[test]
fn a_killed_node_leaves_one_owner() {
    let row = assert_holds("node-failure", &[]);
    assert!(row["died"].as_u64() > Some(0), "a guest dies with its node: {row}");
}

#[test]
fn reset_streams_cost_only_time() {
    let row = assert_holds("stream-kill", &[]);
    assert_eq!(row["moved"], row["rounds"], "{row}");
}

#[test]
fn changed_bits_are_found_and_made_good() {
    // Found by TLS, and by the library's own checks.
    for args in [&[][..], &["--plain"]] {
        let row = assert_holds("corruption", args);
        assert_eq!(row["moved"], row["rounds"], "{args:?} {row}");
    }
}

#[test]
fn verdicts_fail_where_something_is_wrong() {
    for (scenario, spoilt, outcome, what) in [
        ("corruption", "page", "failed", "damaged pages"),
        ("stream-kill", "owner", "failed", "it runs at both nodes"),
        // A test in which nothing was broken proves nothing.
        ("stream-kill", "faults", "not_judged", "0 injected, 0 noticed"),
        ("network-partition", "faults", "not_judged", "0 injected"),
    ] {
        let (code, verdict) = chaos(scenario, &["--spoil", spoilt]);
        assert_eq!((code, &verdict["passed"]), (Some(1), &false.into()), "{verdict}");
        let row = &verdict["scenarios"][0];
        assert_eq!(row["outcome"], outcome, "{row}");
        assert!(row["evidence"].as_str().unwrap().contains(what), "{row}");
    }
}

#[test]
fn an_interrupt_takes_everything_down() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let scratch = Scratch::new();
        let args = ["chaos-test", "--duration", "1h", "--scenarios", "stream-kill,corruption"];
        let mut process = Process::spawn(&mut command(&scratch, &args));
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("seed"));
        let pid = process.0.id();
        wait_until("its networks are up", || (networks(pid) == 2).then_some(()));
        process.signal(signal);
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        assert_eq!(process.0.wait().unwrap().code(), Some(130), "{rest:?}");
        assert_eq!(rest.last().map(String::as_str), Some("interrupted"), "{rest:?}");
        assert_nothing_left(&scratch, pid);
    }
}

#[test]
fn without_rights_it_says_so_before_anything_is_started() {
    let scratch = Scratch::new();
    // Root without its capabilities is like anybody else here, and anybody else may do the same.
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all", env!("CARGO_BIN_EXE_dwcp-v3-cli")]);
    command.args(["chaos-test", "--duration", "1s"]).env("TMPDIR", &scratch.0);
    let output = command.output().unwrap();
    let text = refusal(&output, 1);
    assert!(text.contains("need root") && text.contains("CAP_SYS_ADMIN"), "{text}");
    assert_eq!(output.stdout, b"");
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
}

#[test]
fn unknown_scenarios_are_refused() {
    let scratch = Scratch::new();
    let output = command(&scratch, &["chaos-test", "--scenarios", "earthquake"]).output().unwrap();
    let text = refusal(&output, 2);
    assert!(text.contains("network-partition, node-failure, stream-kill, corruption"), "{text}");
}
