//! The command line's help as a golden file, and what is generated from the command tree.

use crate::stage::{Scratch, operator, refusal, stdout};
use std::path::Path;

#[test]
fn help_is_as_agreed() {
    let mut text = String::new();
    for args in [
        &["--help"][..],
        &["status", "--help"],
        &["migrate", "--help"],
        &["post-copy", "--help"],
        &["settle", "--help"],
        &["v1", "--help"],
        &["v1", "listen", "--help"],
        &["vm", "--help"],
        &["vm", "attach", "--help"],
        &["events", "--help"],
        &["metrics", "--help"],
        &["logs", "--help"],
        &["compression-stats", "--help"],
        &["compression-analyze", "--help"],
        &["encoding-test", "--help"],
        &["data-integrity-check", "--help"],
        &["memory-usage", "--help"],
        &["mode-detect", "--help"],
        &["network-probe", "--help"],
        &["network-matrix", "--help"],
        &["set-mode", "--help"],
        &["transport-test", "--help"],
        &["feature-flags", "--help"],
        &["feature-flags", "set", "--help"],
        &["feature-flags", "explain", "--help"],
        &["feature-flags", "schedule", "--help"],
        &["feature-flags", "schedule", "start", "--help"],
        &["feature-flags", "kill", "--help"],
        &["rollout", "--help"],
        &["export-state", "--help"],
        &["import-state", "--help"],
        &["resource-check", "--help"],
        &["soak-test", "--help"],
        &["chaos-test", "--help"],
        &["config", "--help"],
        &["config", "set", "--help"],
    ] {
        let output = operator(Path::new("/nowhere"), args).env("COLUMNS", "100").output().unwrap();
        text.push_str(&format!("$ dwcp-v3-cli {}\n{}\n", args.join(" "), stdout(&output)));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/help.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let agreed = std::fs::read_to_string(&golden).unwrap();
    assert_eq!(text, agreed, "if the change is meant, run with BLESS=1");
}

#[test]
fn man_pages_and_completions_cover_every_command() {
    let scratch = Scratch::new();
    for what in ["man", "completions"] {
        let directory = scratch.path(what);
        let args = ["generate", what, directory.to_str().unwrap()];
        stdout(&operator(Path::new("/nowhere"), &args).output().unwrap());
    }
    let man = std::fs::read_to_string(scratch.path("man/dwcp-v3-cli-migrate.1")).unwrap();
    assert!(man.contains("max\\-downtime"), "{man}");
    assert!(scratch.path("man/dwcpd.1").exists());
    let bash = std::fs::read_to_string(scratch.path("completions/dwcp-v3-cli.bash")).unwrap();
    assert!(bash.contains("--bandwidth-limit"));
}

#[test]
fn usage_errors_and_absent_nodes_have_their_codes() {
    let run = |args: &[&str]| operator(Path::new("/nonexistent/s"), args).output().unwrap();
    assert!(refusal(&run(&["place-guests"]), 2).contains("unrecognized subcommand"));
    assert!(refusal(&run(&["migrate", "vm"]), 2).contains("--to"));
    assert!(refusal(&run(&["status"]), 3).contains("is dwcpd running?"));
    let output = run(&["feature-flags", "kill", "--json"]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("required arguments were not provided: --reason"), "{told}");
    let output = run(&["--json", "status"]);
    assert_eq!(output.status.code(), Some(3));
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["error"]["status"], "DWCP_ERR_CONNECT");
}
