//! Migrations driven by the command line, between two nodes of this process.

use crate::stage::{Pair, Process, refusal, stdout, wait_until};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_guest_moves_and_the_report_says_how() {
    let pair = Pair::new();
    let (from, to) = pair.add_guest("vm", 2048);
    let guests = pair.json(&["guests"]);
    assert_eq!(guests["guests"][0]["ram_bytes"], 2048 * 4096);
    let report =
        pair.json(&["migrate", "vm", "--to", &pair.to(), "--streams", "2", "--codec", "zstd:1"]);
    for key in [
        "status",
        "total_ms",
        "downtime_ms",
        "phases",
        "ram_bytes",
        "wire_bytes",
        "zero_pages",
        "duplicate_pages",
        "delta_pages",
        "full_pages",
        "passes",
        "reconnects",
        "digest",
    ] {
        assert!(!report[key].is_null(), "{key} is missing: {report}");
    }
    assert_eq!((&report["status"], &report["owner"]), (&"DWCP_OK".into(), &"destination".into()));
    assert_eq!(report["zero_pages"], 1024);
    assert!(to.is_running() && !from.is_running());
    assert!(from.memory() == to.memory());
    let listed = pair.json(&["migrations"]);
    assert_eq!(listed["migrations"][0]["report"]["digest"], report["digest"]);
    let table = stdout(&pair.run(&["migrations"]));
    assert!(table.contains("DWCP_OK") && table.contains("destination"), "{table}");
}

#[test]
fn metrics_events_and_log_tell_of_it() {
    let pair = Pair::new();
    pair.add_guest("vm", 256);
    let report = pair.json(&["migrate", "vm", "--to", &pair.to()]);
    let value = |name: &str, series: usize| {
        pair.json(&["metrics", name])["metrics"][0]["series"][series].clone()
    };
    assert_eq!(value("hde.pages", 0)["value"], report["zero_pages"]);
    assert_eq!(value("amst.wire", 0)["value"], report["wire_bytes"]);
    assert_eq!(value("migration.ended", 0)["value"], 1);
    assert_eq!(value("migration.downtime", 0)["count"], 1);
    let events = stdout(&pair.run(&["--json", "events", "--filter", "migration_ended"]));
    let event: Value = serde_json::from_str(events.trim()).unwrap();
    assert_eq!((&event["guest"], &event["status"]), (&"vm".into(), &"DWCP_OK".into()));
    assert!(stdout(&pair.run(&["events", "--filter", "vm"])).contains("phase precopy"));
    wait_until("the end in the log", || {
        let log = stdout(&pair.run(&["logs", "--component", "migration"]));
        (log.contains("guest=vm") && log.contains("ended with DWCP_OK")).then_some(())
    });
    assert_eq!(stdout(&pair.run(&["--json", "events", "--filter", "mode_transition"])), "");
    let unknown = pair.run(&["events", "--filter", "mode_transitions"]);
    assert!(refusal(&unknown, 1).contains("migration_ended"));
    let unknown = pair.run(&["metrics", "--component", "pba"]);
    assert!(refusal(&unknown, 1).contains("not built yet"));
}

#[test]
fn a_migration_is_steered_and_cancelled_by_a_piece_of_its_id() {
    let pair = Pair::new();
    pair.add_guest("vm", 4096);
    let started = pair.json(&[
        "migrate",
        "vm",
        "--to",
        &pair.to(),
        "--bandwidth-limit",
        "1mbit",
        "--codec",
        "none",
        "--detach",
    ]);
    let id = started["id"].as_str().unwrap();
    let again = pair.run(&["migrate", "vm", "--to", &pair.to()]);
    assert!(refusal(&again, 1).contains("DWCP_ERR_BUSY"));
    let answer = pair.json(&["bandwidth", id, "2mbit"]);
    assert_eq!(answer["bandwidth_limit_bytes_per_s"], 250_000);
    assert!(refusal(&pair.run(&["bandwidth", id, "1"]), 1).contains("not a rate"));
    assert!(stdout(&pair.run(&["cancel", &id[..8]])).contains("being cancelled"));
    wait_until("it has ended", || {
        let list = pair.json(&["migrations"]);
        (list["migrations"][0]["report"]["status"] == "DWCP_ERR_CANCELLED").then_some(())
    });
    assert!(refusal(&pair.run(&["cancel", "zz"]), 1).contains("no migration \"zz\""));
}

#[test]
fn followed_events_arrive_as_they_happen() {
    let pair = Pair::new();
    let mut command = pair.command(&["events", "--follow", "--filter", "guest_changed"]);
    let mut process = Process::spawn(&mut command);
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    pair.add_guest("one", 16);
    assert!(lines.next().unwrap().unwrap().contains("guest=one"));
    pair.add_guest("two", 16);
    assert!(lines.next().unwrap().unwrap().contains("guest=two"));
}

#[test]
fn a_failed_migration_leaves_the_guest_and_says_so() {
    let pair = Pair::new();
    let (from, _) = pair.add_guest("vm", 16);
    pair.destination.remove_guest("vm").unwrap();
    let output = pair.run(&["migrate", "vm", "--to", &pair.to()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{report}");
    assert_eq!(report["owner"], "source");
    assert!(from.is_running());
    for (args, what) in [
        (&["migrate", "nobody", "--to", "127.0.0.1:1"][..], "no guest \"nobody\"; known here: vm"),
        (&["migrate", "vm", "--to", "nowhere"], "is not HOST:PORT"),
        (
            &["migrate", "vm", "--to", "127.0.0.1:1", "--max-downtime", "30"],
            "max_downtime: \"30\" is not a duration",
        ),
        (&["migrate", "vm", "--to", "127.0.0.1:1", "--streams", "65"], "streams: 65 is above"),
    ] {
        let text = refusal(&pair.run(args), 1);
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn a_busy_guest_that_does_not_converge_stays() {
    let pair = Pair::new();
    let (from, to) = pair.add_guest("vm", 1024);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = from.keep_busy(200, stop.clone());
    let output = pair.run(&[
        "migrate",
        "vm",
        "--to",
        &pair.to(),
        "--deadline",
        "1500ms",
        "--max-downtime",
        "1ms",
        "--bandwidth-limit",
        "8mbit",
        "--codec",
        "none",
        "--no-throttle",
    ]);
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["status"], "DWCP_ERR_DID_NOT_CONVERGE", "{report}");
    assert_eq!(output.status.code(), Some(4));
    assert!(from.is_running() && !to.is_running());
}
