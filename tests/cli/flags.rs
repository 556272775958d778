//! Feature flags from the command line: changed whole or refused, kept over restarts, killed.

use crate::stage::{Daemon, Pair, Scratch, operator, refusal, stdout, wait_until, write_config};
use dwcp::migration::MigrationOptions;
use dwcp::rollout::{Change, ChangeAction, Flag};
use dwcp::{Node, NodeOptions, SecurityOptions};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// A daemon with this in its configuration besides what it needs.
fn daemon(more: &str) -> (Scratch, PathBuf, Daemon) {
    let scratch = Scratch::new();
    let config = scratch.path("config.yaml");
    write_config(&scratch, &config, more);
    let daemon = Daemon::start(&scratch, &config);
    (scratch, config, daemon)
}

fn json(daemon: &Daemon, args: &[&str]) -> Value {
    let output = daemon.run(&[&["--json"], args].concat());
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn flag(daemon: &Daemon, name: &str) -> Value {
    let listed = json(daemon, &["feature-flags", "list"]);
    let flags = listed["flags"].as_array().unwrap();
    flags.iter().find(|flag| flag["name"] == name).unwrap().clone()
}

#[test]
fn the_guides_commands_work_as_they_stand() {
    let (_scratch, _, daemon) = daemon(
        "feature_flags:\n  hybrid_mode: false\n  ml_compression: false\n  crdt_sync: false\n  \
         pbft_consensus: false\n  internet_optimization: false\n",
    );
    let checked = stdout(&daemon.run(&["status", "--check-mode"]));
    assert!(checked.contains("all components are in v1-compatible mode"), "{checked}");
    let set = |args: &[&str]| stdout(&daemon.run(&[&["feature-flags", "set"], args].concat()));
    let canary = ["hybrid_mode", "--enabled", "true", "--allow-list", "node-1,node-2,node-3"];
    assert_eq!(set(&canary), "hybrid_mode: enabled, 0 %\n");
    let explain = |unit: &str| {
        stdout(&daemon.run(&["feature-flags", "explain", "hybrid_mode", "--unit", unit]))
    };
    assert!(explain("node-2").starts_with("hybrid_mode is on for node-2: the unit or a member"));
    assert!(explain("testling|node-9").contains("is off for testling|node-9: the unit's place, "));
    assert_eq!(set(&["hybrid_mode", "--percent", "10"]), "hybrid_mode: enabled, 10 %\n");
    assert_eq!(
        set(&["ml_compression", "--percent", "12.3456"]),
        "ml_compression: enabled, 12.3456 %\n"
    );
    let listed = stdout(&daemon.run(&["feature-flags", "list"]));
    assert!(listed.contains("hybrid_mode") && listed.contains("NODE|NODE"), "{listed}");
    assert!(
        listed.lines().any(|line| line.starts_with("crdt_sync") && line.contains("not built yet"))
    );
    let status = stdout(&daemon.run(&["status", "--verbose"]));
    assert!(status.contains("2 of 5 flags in force"), "{status}");
    stdout(&daemon.run(&["feature-flags", "disable-all"]));
    let checked = stdout(&daemon.run(&["status", "--check-mode"]));
    assert!(checked.contains("all components are in v1-compatible mode"), "{checked}");
    let history = json(&daemon, &["feature-flags", "history"]);
    let entries = history["entries"].as_array().unwrap();
    assert_eq!(entries[0]["change"], "all flags disabled");
    assert_eq!(entries[0]["why"], "feature-flags disable-all");
    assert_eq!(entries.last().unwrap()["change"], "log begun");
    let text = stdout(&daemon.run(&["feature-flags", "history", "--limit", "2"]));
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn bad_input_is_refused_whole_with_one_sentence() {
    let (_scratch, _, daemon) = daemon("");
    let before = json(&daemon, &["feature-flags", "list"]);
    let both = vec!["hybrid_mode", "--allow-list", "b", "--deny-list", "b"];
    let many = (0..600).map(|name| name.to_string()).collect::<Vec<_>>().join(",");
    let long = "x".repeat(1025);
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["hybrid_mode", "--percent", "100.5"], "\"100.5\" is not a percentage from 0 to 100"),
        (vec!["hybrid_mode", "--percent", "-1"], "\"-1\" is not a percentage"),
        (vec!["hybrid_mode", "--percent", "NaN"], "\"NaN\" is not a percentage"),
        (vec!["hybrid_mode", "--percent", "1e1"], "\"1e1\" is not a percentage"),
        (vec!["hybrid_mode", "--percent", "0.00001"], "at most four decimals"),
        (vec!["hybrid_mod", "--percent", "1"], "did you mean hybrid_mode?"),
        (vec!["../../x", "--percent", "1"], "is no feature flag"),
        (both, "\"b\" is on allow_list and on deny_list"),
        (vec!["hybrid_mode", "--allow-list", &many], "600 names, the limit is 512"),
        (vec!["hybrid_mode", "--prerequisites", "hybrid_mode"], "prerequisites go in a circle"),
        (vec!["hybrid_mode", "--prerequisites", "hybrid"], "did you mean hybrid_mode?"),
        (vec!["hybrid_mode", "--expires", "tomorrow"], "expires: "),
        (vec!["hybrid_mode", "--percent", "1", "--reason", " "], "needs a reason"),
        (vec!["hybrid_mode", "--percent", "1", "--reason", &long], "needs a reason"),
        (vec!["crdt_sync", "--percent", "10"], "crdt_sync is not built yet"),
        (vec!["pbft_consensus", "--enabled", "true"], "pbft_consensus is not built yet"),
        (vec!["hybrid_mode"], "nothing is to be set"),
    ];
    for (args, what) in cases {
        let args = [&["feature-flags", "set"], &args[..]].concat();
        let text = refusal(&daemon.run(&args), 1);
        assert!(text.contains(what) && text.lines().count() == 1, "{args:?}: {text}");
        let output = daemon.run(&[&["--json"], &args[..]].concat());
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(what), "{args:?}: {error}");
        assert!(error["error"]["status"].as_str().unwrap().starts_with("DWCP_ERR_"), "{error}");
    }
    for (args, what) in [
        (&["explain", "hybrid_mode", "--unit", "|b"][..], "lacks a name"),
        (&["explain", "crdt_sync", "--unit", "a|b"], "is not a replica_group"),
        (&["explain", "hybrid", "--unit", "b"], "did you mean hybrid_mode?"),
        (&["clear-latch", "hybrid_mode", "--reason", "x"], "is not rolled back"),
        (&["kill", "--lift"], "the kill switch is not on"),
        (&["schedule", "stop", "hybrid_mode"], "has no schedule"),
        (&["schedule", "start", "hybrid_mode", "--stages", "2d:5,1d:10"], "goes backwards"),
        (&["schedule", "start", "hybrid_mode", "--stages", "0s:5,1d:4"], "goes down"),
        (&["schedule", "start", "hybrid_mode", "--stages", "1d"], "it has no colon"),
        (&["schedule", "start", "crdt_sync"], "not built yet"),
    ] {
        let text = refusal(&daemon.run(&[&["feature-flags"], args].concat()), 1);
        assert!(text.contains(what), "{args:?}: {text}");
    }
    // What the command line itself refuses is JSON too.
    let output =
        daemon.run(&["--json", "feature-flags", "set", "hybrid_mode", "--enabled", "maybe"]);
    assert_eq!(output.status.code(), Some(2));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["error"]["status"], "DWCP_ERR_INVALID_ARGUMENT");
    assert_eq!(json(&daemon, &["feature-flags", "list"]), before, "all is as it was");
    assert!(json(&daemon, &["feature-flags", "history"])["entries"].as_array().unwrap().is_empty());
}

#[test]
fn a_configuration_key_is_the_flag() {
    let (_scratch, config, daemon) = daemon("");
    let set = |key: &str, value: &str| daemon.run(&["config", "set", key, value]);
    stdout(&set("feature_flags.hybrid_mode", "false"));
    assert_eq!(flag(&daemon, "hybrid_mode")["enabled"], false);
    let rule = "{\"enabled\":true,\"rollout_percent\":25,\"deny_list\":[\"b\"]}";
    stdout(&set("feature_flags.ml_compression", rule));
    assert_eq!(flag(&daemon, "ml_compression")["rollout_percent"], 25);
    let before = std::fs::read_to_string(&config).unwrap();
    for (key, value, what) in [
        ("feature_flags.hybrid_mode", "maybe", "neither true, false nor a rule"),
        ("feature_flags.hybrid_mode", "{\"rollout_percent\":101}", "\"101\" is not a percentage"),
        ("feature_flags.hybrid_mode", "{\"rolout_percent\":1}", "did you mean rollout_percent?"),
        ("feature_flags.hybrid_mode", "{\"prerequisites\":[\"hybrid_mode\"]}", "in a circle"),
        ("feature_flags.crdt_sync", "true", "crdt_sync is not built yet"),
        ("feature_flags.hybrid_mod", "true", "did you mean feature_flags.hybrid_mode?"),
    ] {
        let text = refusal(&set(key, value), 1);
        assert!(text.contains(what), "{key} {value}: {text}");
    }
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    assert_eq!(flag(&daemon, "hybrid_mode")["enabled"], false);
}

#[test]
fn a_reload_is_one_change_and_what_was_set_since_holds() {
    let both = |hybrid: &str| {
        format!(
            "feature_flags:\n  hybrid_mode: {hybrid}\n  ml_compression:\n    enabled: true\n    rollout_percent: 12.5\n"
        )
    };
    let (scratch, config, first) = daemon(&both("true"));
    assert_eq!(flag(&first, "ml_compression")["rollout_percent"], 12.5);
    stdout(&first.run(&["feature-flags", "set", "ml_compression", "--percent", "60"]));
    // Only what was edited is applied.
    write_config(&scratch, &config, &both("false"));
    first.process.signal(libc::SIGHUP);
    wait_until("the flag is off", || {
        (flag(&first, "hybrid_mode")["enabled"] == false).then_some(())
    });
    assert_eq!(flag(&first, "ml_compression")["rollout_percent"], 60);
    // A mistake anywhere changes nothing, and has its place.
    write_config(&scratch, &config, &both("{enabled: true, rollout_percnt: 5}"));
    first.process.signal(libc::SIGHUP);
    wait_until("the refusal is logged", || {
        let logs = stdout(&first.run(&["logs"]));
        logs.contains("config.yaml:11:32: feature_flags.hybrid_mode: unknown field").then_some(())
    });
    assert_eq!(flag(&first, "hybrid_mode")["enabled"], false);
    write_config(&scratch, &config, &both("false"));
    drop(first);
    let again = Daemon::start(&scratch, &config);
    assert_eq!(flag(&again, "ml_compression")["rollout_percent"], 60, "it survives a restart");
    let entries = json(&again, &["feature-flags", "history"])["entries"].clone();
    let who: Vec<_> = entries.as_array().unwrap().iter().map(|entry| &entry["who"]).collect();
    assert_eq!(who, ["configuration", "operator", "configuration", "node"]);
}

#[test]
fn the_guides_last_configuration_is_read_though_not_all_is_built() {
    let (_scratch, _, daemon) = daemon(
        "feature_flags:\n  hybrid_mode: true\n  ml_compression: true\n  crdt_sync: true\n  \
         pbft_consensus: true\n  internet_optimization: true\n",
    );
    let explain = ["feature-flags", "explain", "crdt_sync", "--unit", "group"];
    assert!(stdout(&daemon.run(&explain)).contains("the component is not built yet"));
    let notices = stdout(&daemon.run(&["events", "--filter", "notice"]));
    assert!(notices.contains("crdt_sync is enabled in the configuration, but is not built yet"));
}

#[test]
fn a_rollback_survives_a_restart_until_it_is_cleared() {
    let scratch = Scratch::new();
    let config = scratch.path("config.yaml");
    write_config(&scratch, &config, "");
    let node = Node::start(NodeOptions {
        name: "testling".into(),
        state_dir: Some(scratch.path("state")),
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    });
    let node = node.unwrap();
    let action = ChangeAction::Latch(Flag::MlCompression);
    let (who, why) = ("guard".to_owned(), "errors rose".to_owned());
    node.change_flags(&Change { who, why, evidence: None, action }).unwrap();
    node.stop();
    drop(node);
    let daemon = Daemon::start(&scratch, &config);
    let latched = flag(&daemon, "ml_compression");
    assert_eq!(latched["latch"]["reason"], "errors rose");
    assert_eq!(latched["is_in_force"], false);
    let explain = ["feature-flags", "explain", "ml_compression", "--unit", "b"];
    assert!(stdout(&daemon.run(&explain)).contains("it was rolled back and has not been cleared"));
    // A percentage does not clear it.
    stdout(&daemon.run(&["feature-flags", "set", "ml_compression", "--percent", "50"]));
    assert_eq!(flag(&daemon, "ml_compression")["is_in_force"], false);
    refusal(&daemon.run(&["feature-flags", "clear-latch", "ml_compression"]), 2);
    let clear = ["feature-flags", "clear-latch", "ml_compression", "--reason", "was a bad disk"];
    assert_eq!(stdout(&daemon.run(&clear)), "ml_compression: enabled, 50 %\n");
    assert_eq!(flag(&daemon, "ml_compression")["latch"], Value::Null);
}

#[test]
fn the_kill_switch_needs_no_control_socket() {
    let (scratch, config, daemon) = daemon("");
    // Nobody reaches the daemon any more.
    std::fs::remove_file(&daemon.socket).unwrap();
    refusal(&daemon.run(&["feature-flags", "list"]), 3);
    std::fs::write(scratch.path("state/kill-switch"), "").unwrap();
    let log = scratch.path("state/rollout.log");
    wait_until("the kill is written down", || {
        std::fs::read_to_string(&log).ok()?.contains("kill switch on").then_some(())
    });
    drop(daemon);
    let again = Daemon::start(&scratch, &config);
    let listed = json(&again, &["feature-flags", "list"]);
    assert!(listed["killed"].as_str().unwrap().ends_with("kill-switch"), "{listed}");
    assert!(listed["flags"].as_array().unwrap().iter().all(|flag| flag["is_in_force"] == false));
    let refused = refusal(&again.run(&["feature-flags", "kill", "--lift"]), 1);
    assert!(refused.contains("is held by file"), "{refused}");
    let checked = stdout(&again.run(&["status", "--check-mode"]));
    assert!(checked.contains("all components are in v1-compatible mode"), "{checked}");
    std::fs::remove_file(scratch.path("state/kill-switch")).unwrap();
    wait_until("the flags are back", || {
        json(&again, &["feature-flags", "list"])["killed"].is_null().then_some(())
    });
}

#[test]
fn the_environment_and_a_call_kill_too() {
    let scratch = Scratch::new();
    let config = scratch.path("config.yaml");
    write_config(&scratch, &config, "");
    let mut command = Daemon::command(&scratch, &config);
    let process = crate::stage::Process::spawn(command.env("DWCP_KILL_SWITCH", "1"));
    let socket = scratch.path("s.sock");
    let listed = wait_until("it answers", || {
        let output = operator(&socket, &["--json", "feature-flags", "list"]).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout)
            .ok()
            .filter(|listed| listed["flags"].is_array())
    });
    assert_eq!(listed["killed"], "environment variable DWCP_KILL_SWITCH");
    process.signal(libc::SIGTERM);
    assert!(process.finish().0.success());
    let daemon = Daemon::start(&scratch, &config);
    assert_eq!(json(&daemon, &["feature-flags", "list"])["killed"], Value::Null);
    stdout(&daemon.run(&["feature-flags", "kill", "--reason", "drill"]));
    assert_eq!(json(&daemon, &["feature-flags", "list"])["killed"], "call: drill");
    stdout(&daemon.run(&["feature-flags", "kill", "--lift"]));
    assert_eq!(json(&daemon, &["feature-flags", "list"])["killed"], Value::Null);
}

#[test]
fn a_kill_that_is_not_written_down_says_so_and_is_when_the_node_ends() {
    let (scratch, config, mut daemon) = daemon("");
    let (state, aside) = (scratch.path("state"), scratch.path("aside"));
    std::fs::rename(&state, &aside).unwrap();
    let killed = daemon.run(&["feature-flags", "kill", "--reason", "drill"]);
    let said = String::from_utf8_lossy(&killed.stderr).into_owned();
    assert!(
        killed.status.success() && said.contains("that holds, but is not all written down"),
        "{said}"
    );
    assert_eq!(json(&daemon, &["feature-flags", "list"])["is_written_down"], false);
    std::fs::rename(&aside, &state).unwrap();
    daemon.process.signal(libc::SIGTERM);
    daemon.process.0.wait().unwrap();
    let again = Daemon::start(&scratch, &config);
    let listed = json(&again, &["feature-flags", "list"]);
    assert_eq!(
        (&listed["killed"], &listed["is_written_down"]),
        (&"call: drill".into(), &true.into())
    );
}

#[test]
fn each_flag_changes_what_runs() {
    let pair = Pair::new();
    pair.add_guest("vm", 256);
    let set = |args: &[&str]| stdout(&pair.run(&[&["feature-flags", "set"], args].concat()));
    // Streams to a peer that nothing is known of are in hybrid mode; without the flag in v1's.
    pair.json(&["network-probe", &pair.to()]);
    let mode = || pair.json(&["mode-detect"])["peers"][0]["mode"].clone();
    assert_eq!(mode(), "hybrid");
    set(&["hybrid_mode", "--percent", "0"]);
    assert_eq!(mode(), "datacenter");
    let events = stdout(&pair.run(&["--json", "events", "--filter", "mode_transition"]));
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!((&last["cause"], &last["to"]), (&"flag_off".into(), &"datacenter".into()));
    // What an operator forces goes before the flag.
    stdout(&pair.run(&["set-mode", "internet", "--peer", &pair.to()]));
    assert_eq!(mode(), "internet");
    stdout(&pair.run(&["set-mode", "auto", "--peer", &pair.to()]));
    assert_eq!(mode(), "datacenter");
    set(&["hybrid_mode", "--percent", "100"]);
    assert_eq!(mode(), "hybrid");
    // The codec of a migration.
    let codecs = |id: &str| {
        let stats = pair.json(&["compression-stats", "--migration", id]);
        stats.to_string()
    };
    let migrate = |guest: &str| {
        let moved = pair.json(&["migrate", guest, "--to", &pair.to()]);
        moved["report"]["id"].as_str().unwrap_or_else(|| moved["id"].as_str().unwrap()).to_owned()
    };
    let learned = codecs(&migrate("vm"));
    assert!(learned.contains("lz4") && !learned.contains("zstd"), "{learned}");
    set(&["ml_compression", "--percent", "0"]);
    pair.add_guest("other", 256);
    let fixed = codecs(&migrate("other"));
    assert!(fixed.contains("zstd:1") && !fixed.contains("lz4"), "{fixed}");
    // The congestion control, as it is read back.
    let congestion = || {
        let args = ["transport-test", "--mode", "internet", "--seconds", "1", "--peer"];
        let tested = pair.json(&[&args[..], &[&pair.to()]].concat());
        tested["congestion"].as_str().unwrap().to_owned()
    };
    let effects = dwcp::transport::mode::ModeEffects {
        congestion: dwcp::transport::mode::Congestion::Reno,
        ..Default::default()
    };
    pair.source
        .set_transport(dwcp::runtime::modes::TransportOptions { effects, ..Default::default() });
    let own = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    assert_eq!(congestion(), "reno");
    set(&["internet_optimization", "--percent", "0"]);
    assert_eq!(congestion(), own.trim());
    set(&["internet_optimization", "--percent", "100"]);
    assert_eq!(congestion(), "reno");
}

#[test]
fn the_other_end_must_take_part() {
    let pair = Pair::new();
    pair.add_guest("vm", 64);
    let explain = |name: &str| {
        let args = ["feature-flags", "explain", name, "--unit"];
        pair.json(&[&args[..], &[&pair.to()]].concat())["reason"].clone()
    };
    pair.destination.set_kill_switch("test", Some("drill")).unwrap();
    assert_eq!(explain("ml_compression"), "percentage", "nobody has been asked yet");
    pair.json(&["migrate", "vm", "--to", &pair.to()]);
    assert_eq!(explain("ml_compression"), "peer_cannot");
    let by_name = pair.json(&["feature-flags", "explain", "hybrid_mode", "--unit", "there"]);
    assert_eq!(by_name["reason"], "peer_cannot");
    assert_eq!(pair.json(&["mode-detect"])["peers"][0]["mode"], "datacenter");
    let checked = pair.json(&["status", "--check-compatibility"]);
    assert_eq!(checked["peers"][0]["flags"]["hybrid_mode"]["reason"], "peer_cannot");
    let checked = stdout(&pair.run(&["status", "--check-compatibility"]));
    assert!(checked.lines().any(|line| line.starts_with(&pair.to()) && line.contains("none")));
    // It is asked again with the next connection.
    pair.destination.set_kill_switch("test", None).unwrap();
    pair.add_guest("other", 64);
    pair.json(&["migrate", "other", "--to", &pair.to()]);
    assert_eq!(explain("ml_compression"), "percentage");
}

#[test]
fn the_guards_are_shown_and_their_limits_configured() {
    let (_scratch, _, daemon) = daemon("rollback_triggers:\n  max_error_rate: 2.5\n");
    let status = json(&daemon, &["rollout", "status"]);
    assert_eq!(status["limits"]["max_error_rate"], 2.5);
    assert_eq!(status["rollouts"][0]["is_in_flight"], false);
    stdout(&daemon.run(&["config", "set", "rollback_triggers.min_throughput_ratio", "0.7"]));
    stdout(&daemon.run(&["feature-flags", "set", "hybrid_mode", "--percent", "0"]));
    stdout(&daemon.run(&["feature-flags", "set", "hybrid_mode", "--percent", "10"]));
    let status = json(&daemon, &["rollout", "status"]);
    assert_eq!(status["limits"]["min_throughput_ratio"], 0.7);
    assert_eq!(status["rollouts"][0]["is_in_flight"], true);
    let text = stdout(&daemon.run(&["rollout", "status"]));
    assert!(text.contains("more than 2.5 % of requests fail"), "{text}");
    let refused = daemon.run(&["config", "set", "rollback_triggers.max_error_rate", "nan"]);
    assert!(refusal(&refused, 1).contains("is not a number"));
}

#[test]
fn a_switch_under_way_loses_nothing() {
    let pair = Pair::new();
    let (from, to) = pair.add_guest("vm", 4096);
    // Bytes that no codec shortens.
    let byte =
        |page: usize, at: usize| (page * 4096 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    (0..4096).for_each(|page| from.fill(page, |at| byte(page, at) as u8));
    let options = MigrationOptions {
        bandwidth_limit_bytes_per_s: Some(2 << 20),
        throttle: false,
        ..MigrationOptions::default()
    };
    let migration = pair.source.migrate("vm", &pair.to(), options).unwrap();
    wait_until("pages travel", || (migration.progress().wire_bytes > 0).then_some(()));
    for _ in 0..5 {
        pair.source.disable_all_flags("test", "off").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        pair.source.set_kill_switch("test", Some("drill")).unwrap();
        pair.source.set_kill_switch("test", None).unwrap();
        for flag in ["hybrid_mode", "ml_compression", "internet_optimization"] {
            stdout(&pair.run(&["feature-flags", "set", flag, "--percent", "100"]));
        }
    }
    migration.set_bandwidth_limit(None);
    let report = migration.wait(Some(Duration::from_secs(120))).unwrap();
    assert_eq!(report.status, dwcp::Status::Ok, "{}", report.reason);
    assert_eq!(from.memory(), to.memory());
}

#[test]
fn a_schedule_goes_on_over_a_restart() {
    let (scratch, config, first) = daemon("");
    let start = ["feature-flags", "schedule", "start", "hybrid_mode", "--stages", "0s:5,30d:100"];
    let said = stdout(&first.run(&start));
    assert!(said.starts_with("hybrid_mode is at 5 %; its schedule began at 20"), "{said}");
    let began = flag(&first, "hybrid_mode")["schedule"].clone();
    assert!(began["start"].is_string(), "{began}");
    drop(first);
    let again = Daemon::start(&scratch, &config);
    assert_eq!(flag(&again, "hybrid_mode")["schedule"], began);
    let shown = stdout(&again.run(&["feature-flags", "schedule", "show", "hybrid_mode"]));
    assert!(shown.contains("has come") && shown.contains("is to come"), "{shown}");
    stdout(&again.run(&["feature-flags", "schedule", "stop", "hybrid_mode"]));
    assert_eq!(flag(&again, "hybrid_mode")["schedule"], Value::Null);
    assert_eq!(flag(&again, "hybrid_mode")["rollout_percent"], 5);
}
