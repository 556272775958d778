//! v1 peers from the command line: a guest goes to one, a port is opened, compatibility is checked.

use crate::guest::MemoryGuest;
use crate::stage::{Daemon, Pair, Scratch, operator, refusal, stdout, write_config};
use dwcp::runtime::control::{ControlOptions, serve_control};
use dwcp::{Node, NodeOptions};
use serde_json::Value;

impl Pair {
    /// Where v1 peers may connect to the other node.
    fn v1_port(&self) -> String {
        self.destination.listen_v1("127.0.0.1:0".parse().unwrap()).unwrap().to_string()
    }
}

#[test]
fn a_guest_that_went_by_v1_is_in_doubt_and_the_exit_code_says_so() {
    let pair = Pair::new();
    let (from, to) = pair.add_guest("vm", 512);
    let port = pair.v1_port();
    let output = pair.run(&["--json", "migrate", "vm", "--to", &format!("v1://{port}")]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["status"], "DWCP_ERR_IN_DOUBT");
    assert!(report["reason"].as_str().unwrap().contains("acknowledges nothing"), "{report}");
    let arrived = pair.destination.migrations()[0].wait(None).unwrap();
    assert_eq!(report["digest"], arrived.digest);
    assert!(!from.is_running() && !to.is_running(), "on one side at most");
    assert!(from.memory() == to.memory());
    let events = stdout(&pair.run(&["events", "--filter", "v1_connection"]));
    assert_eq!(events.matches("open: made by this node").count(), 8, "{events}");
    let metric = pair.json(&["metrics", "amst.v1_connections"]);
    assert_eq!(metric["metrics"][0]["series"][0]["value"], 8, "{metric}");
}

#[test]
fn a_peer_in_v1_compat_mode_is_not_migrated_to_in_the_dark() {
    let pair = Pair::new();
    let (from, _) = pair.add_guest("vm", 64);
    let forced = pair.run(&["set-mode", "v1-compat"]);
    assert!(String::from_utf8_lossy(&forced.stderr).contains("and to no others"), "{forced:?}");
    let refused = pair.run(&["migrate", "vm", "--to", &pair.to()]);
    let text = refusal(&refused, 1);
    assert!(text.contains("not named as one that speaks v1") && text.contains("no encryption"));
    let public = pair.run(&["migrate", "vm", "--to", "v1://8.8.8.8:9876"]);
    assert!(refusal(&public, 1).contains("8.8.8.8 is a public address"));
    assert!(from.is_running());
    let probed = pair.run(&["network-probe", &pair.to()]);
    assert!(refusal(&probed, 1).contains("takes a probe for a chunk"));
    let checked = stdout(&pair.run(&["status", "--check-mode"]));
    assert!(checked.contains("all components are in v1-compatible mode"), "{checked}");
    assert!(!checked.contains("not all"), "{checked}");
    let checked = pair.json(&["status", "--check-mode"]);
    assert_eq!((&checked["forced"], &checked["is_v1_compat"]), (&"v1-compat".into(), &true.into()));
    // A mode of its own goes before that of all, and then a migration to it goes by v3.
    stdout(&pair.run(&["set-mode", "hybrid", "--peer", &pair.to()]));
    let checked = stdout(&pair.run(&["status", "--check-mode"]));
    assert!(checked.contains("not all components") && checked.contains("(1)"), "{checked}");
    let checked = pair.json(&["status", "--check-mode"]);
    assert_eq!(
        (&checked["forced"], &checked["is_v1_compat"]),
        (&"v1-compat".into(), &false.into())
    );
    stdout(&pair.run(&["set-mode", "auto", "--peer", &pair.to()]));
    let checked = stdout(&pair.run(&["status", "--check-mode"]));
    assert!(!checked.contains("not all"), "{checked}");
    stdout(&pair.run(&["set-mode", "auto"]));
    let checked = stdout(&pair.run(&["status", "--check-mode"]));
    assert!(checked.contains("not all components") && checked.contains("measured"), "{checked}");
}

#[test]
fn compatibility_is_a_table_of_what_is_lost_and_of_peers() {
    let pair = Pair::new();
    stdout(&pair.run(&["set-mode", "v1-compat", "--peer", "old:9876"]));
    stdout(&pair.run(&["set-mode", "hybrid", "--peer", "new:4040"]));
    let table = stdout(&pair.run(&["status", "--check-compatibility"]));
    let line = |text: &str| {
        let found = table.lines().find(|line| line.starts_with(text));
        found.unwrap_or_else(|| panic!("{text} is missing: {table}")).to_owned()
    };
    assert!(line("node here: a v1 peer does without").contains(" of what is switched on here"));
    assert!(line("handover").contains("safety") && line("handover").contains("by hand"));
    assert!(line("pre_copy").contains("function") && line("delta").contains("speed"));
    assert!(line("old:9876").contains("v1-compat  v1"), "{table}");
    assert!(line("new:4040").contains("hybrid     v3           0"), "{table}");
    assert!(table.contains("no v1 port is open"));
    let all = pair.json(&["status", "--check-compatibility"]);
    let losses = all["losses"].as_array().unwrap();
    assert_eq!(losses.len(), all["peers"][1]["lost"].as_array().unwrap().len(), "{all}");
    assert!(losses.iter().any(|loss| loss["feature"] == "digest" && loss["severity"] == "safety"));
    assert_eq!(all["needs_consent"], true);
    let one = pair.json(&["status", "--check-compatibility", "--peer", "v1://old:9876"]);
    assert_eq!(one["peers"][0]["migrates_by"], "v1");
    let bad = pair.run(&["status", "--check-compatibility", "--peer", "nowhere"]);
    assert!(refusal(&bad, 1).contains("is not HOST:PORT"));
    let both = pair.run(&["status", "--check-compatibility", "--check-mode"]);
    assert!(refusal(&both, 2).contains("cannot be used with"));
}

#[test]
fn a_port_is_opened_once_and_takes_the_guest_that_was_named() {
    let pair = Pair::new();
    let (from, _) = pair.add_guest("vm", 256);
    let to = MemoryGuest::new(256, false);
    pair.source.add_destination("comes", to.clone()).unwrap();
    let listen = ["v1", "listen", "127.0.0.1:0", "--guest", "comes", "--dialect", "f8"];
    let opened = pair.json(&listen);
    assert_eq!(opened["dialect"], "f8");
    let port = opened["listen"].as_str().unwrap();
    assert!(refusal(&pair.run(&listen), 1).contains("the v1 port is open already"));
    let other = ["--guest", "other", "--dialect", "plain"];
    for (address, text) in [("127.0.0.1:0", "is open already"), ("8.8.8.8:1", "a public address")] {
        let refused = pair.run(&[&["v1", "listen", address], &other[..]].concat());
        assert!(refusal(&refused, 1).contains(text));
        let kept = pair.source.v1_options();
        assert_eq!((kept.guest.as_str(), kept.dialect.name()), ("comes", "f8"));
    }
    assert!(refusal(&pair.run(&["v1", "listen", "here"]), 1).contains("is not ADDRESS:PORT"));
    let compatibility = stdout(&pair.run(&["status", "--check-compatibility"]));
    assert!(compatibility.contains(&format!("v1 peers may connect at {port} (f8)")));
    // From the node to itself: what it sends is what it takes.
    let moved = pair.run(&["migrate", "vm", "--to", &format!("v1://{port}")]);
    assert_eq!(moved.status.code(), Some(5), "{moved:?}");
    let text = String::from_utf8_lossy(&moved.stdout);
    assert!(text.contains("DWCP_ERR_IN_DOUBT"), "{text}");
    let arrived = pair.source.migrations().into_iter().find(|known| known.guest() == "comes");
    arrived.expect("an arrival").wait(None).unwrap();
    assert!(from.memory() == to.memory() && !to.is_running());
}

#[test]
fn a_daemon_opens_its_port_by_its_configuration_and_no_public_one() {
    let scratch = Scratch::new();
    let path = scratch.path("config.yaml");
    let more = "v1:\n  listen: 127.0.0.1:0\n  peers: old:9876, 10.0.0.9:9876\n";
    write_config(&scratch, &path, more);
    let daemon = Daemon::start(&scratch, &path);
    let answer = stdout(&daemon.run(&["--json", "status", "--check-compatibility"]));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(answer["listen"].as_str().unwrap().starts_with("127.0.0.1:"), "{answer}");
    let by: Vec<_> = answer["peers"].as_array().unwrap().iter().collect();
    assert!(by.len() == 2 && by.iter().all(|peer| peer["migrates_by"] == "v1"), "{answer}");
    let log = stdout(&daemon.run(&["logs", "--level", "warn"]));
    assert!(log.contains("v1 peers may connect at 127.0.0.1:"), "{log}");
    stdout(&daemon.run(&["config", "set", "v1.peers", "old:9876"]));
    let modes = stdout(&daemon.run(&["mode-detect"]));
    assert_eq!(modes.matches("v1-compat").count(), 1, "{modes}");
    for (key, value) in [("v1.peers", "8.8.8.8:1"), ("v1.listen", "8.8.8.8:1")] {
        let refused = daemon.run(&["config", "set", key, value]);
        assert!(refusal(&refused, 1).contains("is a public address, where v1 is not spoken"));
    }
    drop(daemon);
    write_config(&scratch, &path, "v1:\n  listen: 8.8.8.8:9876\n");
    let output = Daemon::command(&scratch, &path).arg("--check-config").output().unwrap();
    assert!(refusal(&output, 1).contains("v1.listen: \"8.8.8.8:9876\" is a public address"));
}

#[test]
fn a_guest_in_doubt_is_settled_by_name_and_stays_settled() {
    let scratch = Scratch::new();
    let node = |name: &str| {
        let state_dir = Some(scratch.path(name));
        let options = NodeOptions { name: name.to_owned(), state_dir, ..NodeOptions::default() };
        Node::start(options).unwrap()
    };
    let (here, there) = (node("here"), node("there"));
    let serve = |node: &Node, name: &str| {
        serve_control(node, &scratch.path(name), ControlOptions::default()).unwrap()
    };
    let servers = (serve(&here, "here.sock"), serve(&there, "there.sock"));
    let (from, to) = (MemoryGuest::new(64, true), MemoryGuest::new(64, false));
    here.add_source("vm", from.clone()).unwrap();
    there.add_destination("vm", to.clone()).unwrap();
    let port = there.listen_v1("127.0.0.1:0".parse().unwrap()).unwrap();
    let [here_is, there_is] = [&servers.0, &servers.1].map(|server| {
        let socket = server.socket().to_owned();
        move |args: &[&str]| operator(&socket, args).output().unwrap()
    });
    assert!(
        String::from_utf8_lossy(&here_is(&["settle"]).stderr).contains("no migration is in doubt")
    );
    let moved = here_is(&["--json", "migrate", "vm", "--to", &format!("v1://{port}")]);
    let report: Value = serde_json::from_slice(&moved.stdout).unwrap();
    let id = report["id"].as_str().unwrap();
    let arrived = there.migrations()[0].wait(None).unwrap().id.to_string();
    let listed = stdout(&here_is(&["settle"]));
    assert!(listed.contains("commit_sent") && listed.contains("ask its operator"), "{listed}");
    let listed = stdout(&there_is(&["settle"]));
    assert!(listed.contains("arrived") && listed.contains("v1://127.0.0.1"), "{listed}");
    assert!(refusal(&here_is(&["settle", id]), 2).contains("--owner"));
    let unknown = here_is(&["settle", "zz", "--owner", "source"]);
    assert!(refusal(&unknown, 1).contains("0 migrations in doubt begin with \"zz\""));
    let settled = stdout(&here_is(&["settle", &id[..8], "--owner", "destination"]));
    assert!(settled.contains("the guest is with the destination"), "{settled}");
    let settled = there_is(&["--json", "settle", &arrived, "--owner", "destination"]);
    let settled: Value = serde_json::from_str(&stdout(&settled)).unwrap();
    assert_eq!(settled["settled"][0]["mark"], "owned");
    for side in [&here_is as &dyn Fn(&[&str]) -> std::process::Output, &there_is] {
        let doubts: Value = serde_json::from_str(&stdout(&side(&["--json", "settle"]))).unwrap();
        assert_eq!(doubts["doubts"], Value::Array(vec![]));
    }
    assert!(!from.is_running() && !to.is_running(), "nothing is done to the guest");
    servers.0.stop();
    servers.1.stop();
    here.stop();
    there.stop();
}
