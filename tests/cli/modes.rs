//! Modes of peers from the command line: listed, probed, forced, tested.

use crate::stage::{Daemon, Pair, Scratch, refusal, stdout, wait_until, write_config};
use dwcp::runtime::modes::TransportOptions;
use dwcp::transport::Mode;
use dwcp::transport::mode::{ModeEffects, ModePolicy};
use serde_json::Value;

#[test]
fn a_peer_is_probed_listed_and_in_the_matrix() {
    let pair = Pair::new();
    assert_eq!(pair.json(&["mode-detect"])["peers"], Value::Array(vec![]));
    let probed = pair.json(&["network-probe", &pair.to(), "--count", "5"]);
    assert_eq!(probed["answers_us"].as_array().unwrap().len(), 5);
    assert!(probed["min_rtt_us"].as_u64().unwrap() > 0, "{probed}");
    assert!(probed["min_rtt_us"].as_u64() <= probed["least_us"].as_u64(), "{probed}");
    assert_eq!(probed["known"]["mode"], "hybrid", "probes tell nothing of the rate");
    let verbose = stdout(&pair.run(&["network-probe", "--verbose"]));
    for text in [&pair.to(), "10 probes", "connecting took", "mean deviation", "known of the path"]
    {
        assert!(verbose.contains(text), "{text}: {verbose}");
    }
    let listed = pair.json(&["mode-detect"]);
    assert_eq!(listed["peers"][0]["peer"], pair.to());
    assert!(listed["peers"][0]["silent_us"].is_u64(), "{listed}");
    assert_eq!(listed["thresholds"]["internet_rtt_us"], 50_000);
    let unknown = pair.run(&["network-matrix", "--nodes", "10.0.0.1:1"]);
    assert!(refusal(&unknown, 1).contains("no peer \"10.0.0.1:1\" is known here"));
    let status = stdout(&pair.run(&["status", "--verbose"]));
    assert!(status.contains("measured; 1 hybrid"), "{status}");
}

#[test]
fn the_matrix_has_the_rows_of_those_who_tell() {
    let pair = Pair::new();
    let (here, there) = (pair.source.local_address().unwrap().to_string(), pair.to());
    pair.json(&["mode-detect", "--peer", &there]);
    pair.json(&["mode-detect", "--peer", "127.0.0.1:1"]);
    pair.destination.detect_mode(&here).unwrap();
    let rows = || pair.json(&["network-matrix", "--nodes", "all"])["rows"].clone();
    let silent = rows();
    assert_eq!(silent.as_array().unwrap().len(), 3, "{silent}");
    assert_eq!((&silent[0]["node"], &silent[0]["address"]), (&"here".into(), &Value::Null));
    assert_eq!(silent[0]["paths"].as_array().unwrap().len(), 2);
    assert!(silent[1]["failure"].as_str().unwrap().contains("Connection refused"), "{silent}");
    assert_eq!(silent[2]["address"], there);
    let refused = silent[2]["failure"].as_str().unwrap();
    assert!(refused.contains("mode_detector.share_with does not name 127.0.0.1"), "{refused}");
    pair.destination.share_paths_with("127.0.0.0/8".parse().unwrap());
    let told = rows();
    assert_eq!((&told[2]["node"], &told[2]["failure"]), (&"there".into(), &Value::Null));
    let path = &told[2]["paths"][0];
    assert_eq!((&path["peer"], &path["mode"]), (&here.clone().into(), &"hybrid".into()));
    assert!(path["rtt_us"].is_u64() && path["silent_us"].is_u64(), "{path}");
    let matrix = pair.run(&["network-matrix", "--nodes", &there]);
    let text = stdout(&matrix);
    assert!(
        text.contains("here  ") && text.contains(&format!("there at {there}  {here}")),
        "{text}"
    );
    assert!(!text.contains("127.0.0.1:1 "), "not asked for: {text}");
    let matrix = pair.run(&["network-matrix"]);
    let notes = String::from_utf8_lossy(&matrix.stderr).into_owned();
    assert!(notes.contains("no row of 127.0.0.1:1: "), "{notes}");
    pair.json(&["set-mode", "v1-compat", "--peer", &there]);
    assert_eq!(rows()[2]["failure"], "not asked: it is a v1 peer");
}

#[test]
fn a_forced_mode_is_an_event_and_holds_for_its_peer() {
    let pair = Pair::new();
    let mode = |mode: &str| stdout(&pair.run(&["set-mode", mode, "--peer", &pair.to()]));
    assert!(mode("internet").contains("until the node is started again"));
    let known = pair.json(&["mode-detect"])["peers"][0].clone();
    assert_eq!((&known["mode"], &known["forced"]), (&"internet".into(), &"internet".into()));
    mode("auto");
    let events = stdout(&pair.run(&["--json", "events", "--filter", "mode_transition"]));
    let event = |line: usize| -> Value {
        serde_json::from_str(events.lines().nth(line).expect(&events)).unwrap()
    };
    let (forced, released) = (event(0), event(1));
    assert_eq!((&forced["from"], &forced["to"]), (&"hybrid".into(), &"internet".into()));
    assert_eq!((&forced["cause"], &forced["peer"]), (&"forced".into(), &pair.to().into()));
    assert_eq!(forced["component"], "mode-detector");
    assert_eq!(released["cause"], "released");
    // Lines are made from events by a thread of their own.
    wait_until("the transition in the log", || {
        let log = stdout(&pair.run(&["logs", "--component", "mode-detector"]));
        log.contains("hybrid to internet: forced").then_some(())
    });
    let metric = pair.json(&["metrics", "amst.mode_switches"]);
    assert!(metric.to_string().contains("internet"), "{metric}");
    let output = pair.run(&["set-mode", "v1-compat", "--peer", &pair.to()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("as in hybrid mode"), "{output:?}");
    assert!(refusal(&pair.run(&["set-mode", "lan"]), 2).contains("invalid value"));
    let nowhere = pair.run(&["set-mode", "hybrid", "--peer", "nowhere"]);
    assert!(refusal(&nowhere, 1).contains("is not HOST:PORT"));
}

#[test]
fn the_mode_of_all_peers_is_written_to_the_configuration() {
    let scratch = Scratch::new();
    let path = scratch.path("config.yaml");
    write_config(&scratch, &path, "network_mode: datacenter\n");
    let daemon = Daemon::start(&scratch, &path);
    let forced = || {
        let listed = stdout(&daemon.run(&["--json", "mode-detect"]));
        serde_json::from_str::<Value>(&listed).unwrap()["forced"].clone()
    };
    assert_eq!(forced(), "datacenter");
    for mode in ["internet", "v1-compat", "hybrid"] {
        stdout(&daemon.run(&["set-mode", mode]));
        assert_eq!(forced(), mode);
        assert_eq!(stdout(&daemon.run(&["config", "get", "amst.mode"])).trim(), mode);
        assert_eq!(stdout(&daemon.run(&["config", "get", "amst.auto_mode"])).trim(), "false");
    }
    assert!(std::fs::read_to_string(&path).unwrap().contains("mode: hybrid"));
    stdout(&daemon.run(&["set-mode", "auto"]));
    assert_eq!(forced(), Value::Null);
    stdout(&daemon.run(&["config", "set", "mode_detector.latency_threshold", "100ms"]));
    let listed: Value =
        serde_json::from_str(&stdout(&daemon.run(&["--json", "mode-detect"]))).unwrap();
    assert_eq!(listed["thresholds"]["internet_rtt_us"], 100_000);
    stdout(&daemon.run(&["config", "set", "mode_detector.share_with", "10.0.0.0/8, ::1"]));
    let networks = stdout(&daemon.run(&["config", "get", "mode_detector.share_with"]));
    assert_eq!(networks.trim(), "10.0.0.0/8,::1");
    let host = daemon.run(&["config", "set", "mode_detector.share_with", "rack2"]);
    assert!(refusal(&host, 1).contains("\"rack2\" is neither an address nor a network"));
    let verbose = stdout(&daemon.run(&["config", "get", "amst.internet_streams", "--verbose"]));
    assert!(verbose.contains("takes hold with the next migration"), "{verbose}");
}

#[test]
fn a_migration_makes_its_peer_known_and_has_as_many_streams_as_the_mode_allows() {
    let pair = Pair::new();
    pair.add_guest("vm", 2048);
    pair.source.set_transport(TransportOptions {
        policy: ModePolicy { forced: Some(Mode::Internet), ..ModePolicy::default() },
        effects: ModeEffects { internet_streams: 2, ..ModeEffects::default() },
    });
    pair.json(&["migrate", "vm", "--to", &pair.to(), "--streams", "8"]);
    let streams = |node: &dwcp::Node| {
        let events = node.events(0).into_iter();
        events
            .filter(|event| matches!(event.kind, dwcp::observe::EventKind::StreamUp { .. }))
            .count()
    };
    assert!((1..=2).contains(&streams(&pair.source)), "{}", streams(&pair.source));
    let known = pair.json(&["mode-detect"])["peers"][0].clone();
    assert_eq!((&known["peer"], &known["mode"]), (&pair.to().into(), &"internet".into()));
    wait_until("the peer is idle again and answers probes", || {
        let known = pair.json(&["mode-detect"])["peers"][0].clone();
        (known["is_in_use"] == false && known["rtt_us"].is_u64()).then_some(())
    });
}

#[test]
fn a_test_tells_what_the_loopback_carries() {
    let pair = Pair::new();
    let tested =
        pair.json(&["transport-test", "--mode", "internet", "--seconds", "1", "--streams", "64"]);
    assert_eq!((&tested["mode"], &tested["streams"]), (&"internet".into(), &8.into()));
    let number = |field: &str| tested[field].as_u64().expect(field);
    assert!(number("duration_us") >= 1_000_000 && number("bytes") > 0, "{tested}");
    assert_eq!(
        number("rate_bytes_per_s"),
        (u128::from(number("bytes")) * 1_000_000 / u128::from(number("duration_us"))) as u64
    );
    assert!(number("min_rtt_us") > 0 && number("rtt_us") > 0, "{tested}");
    let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let available = std::fs::read_to_string(path).unwrap();
    assert_eq!(tested["congestion"] == "bbr", available.contains("bbr"), "{tested}");
    assert_eq!(pair.json(&["mode-detect"])["peers"], Value::Array(vec![]), "it is no peer");
    let there = pair.run(&["transport-test", "--peer", &pair.to(), "--seconds", "1"]);
    let text = stdout(&there);
    for what in ["hybrid mode to", "over 4 streams", "Mbit/s", "retransmitted", "judged"] {
        assert!(text.contains(what), "{what}: {text}");
    }
    let silent = pair.run(&["transport-test", "--peer", "127.0.0.1:1", "--seconds", "1"]);
    assert!(refusal(&silent, 1).contains("refused"));
    let long = pair.run(&["transport-test", "--seconds", "31"]);
    assert!(refusal(&long, 1).contains("seconds \"31\" is not a number from 1 to 30"));
}

#[test]
fn a_peer_that_does_not_answer_is_told_of() {
    let pair = Pair::new();
    let probed = pair.run(&["network-probe", "127.0.0.1:1"]);
    assert!(refusal(&probed, 1).contains("127.0.0.1:1: Connection refused"));
    let listed = stdout(&pair.run(&["mode-detect", "--peer", "127.0.0.1:1"]));
    assert!(listed.contains("does not answer: Connection refused"), "{listed}");
}
