//! Changes of the feature flags while the process is killed, the disk is full, or another writes too.

use crate::process::{Child, tell};
use crate::stage::{Directory, node};
use crate::storage::{fill, on_small_disk};
use dwcp::rollout::{Change, ChangeAction, Flag, Percent, RuleEdit};
use dwcp::{Node, NodeError, NodeOptions, SecurityOptions, Status};
use std::path::Path;
use std::time::Duration;

/// Sets a percentage, in ten-thousandths of a percent.
fn set(node: &Node, parts: u32) -> Result<(), String> {
    let edit = RuleEdit::percent(Percent::from_parts(parts).unwrap());
    let action = ChangeAction::Edit(vec![(Flag::HybridMode, edit)]);
    let (who, why) = ("test".to_owned(), "x".repeat(500));
    let changed = node.change_flags(&Change { who, why, evidence: None, action });
    changed.map(|_| ()).map_err(|error| error.to_string())
}

fn parts(node: &Node) -> u32 {
    node.flag(Flag::HybridMode).rule.rollout_percent.parts()
}

fn start(state: &Path) -> Result<Node, NodeError> {
    Node::start(NodeOptions {
        name: "alpha".into(),
        state_dir: Some(state.to_path_buf()),
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })
}

/// Changes a flag as fast as it can, and tells of each change once it holds.
pub fn be_changer(state: &Path) -> ! {
    let node = start(state).unwrap();
    let first = if node.flag_history(1).is_empty() { 0 } else { parts(&node) };
    for next in first + 1.. {
        set(&node, next).unwrap();
        tell(&format!("set {next}"));
    }
    unreachable!("a percentage has an end, and the parent kills this long before")
}

#[test]
fn what_was_told_survives_kill_9() {
    let state = Directory::new("flags-killed");
    let mut last = 0;
    for round in 0..8 {
        let mut child = Child::changer(&state.0);
        child.expect(&format!("set {}", last + 1 + round));
        std::thread::sleep(Duration::from_millis(3 * u64::from(round)));
        let said = child.kill();
        let told = said.iter().filter_map(|line| line.strip_prefix("set ")?.parse().ok()).max();
        let told = told.unwrap_or(last + 1 + round);
        // The last line may be torn, or on disk and not told of yet; nothing in between.
        let node = start(&state.0).unwrap();
        last = parts(&node);
        assert!(last == told || last == told + 1, "{told} was told, {last} came back");
        assert_eq!(node.flag_history(1)[0].to.flags[0].1.rule.rollout_percent.parts(), last);
    }
}

#[test]
fn a_full_disk_refuses_a_change_whole() {
    on_small_disk("flags-full", |disk| {
        let node = node("alpha", Some(disk));
        set(&node, 7).unwrap();
        let filler = disk.join("filler");
        fill(&filler);
        let log = std::fs::read(disk.join("rollout.log")).unwrap();
        // What is left of the log's last page may take some.
        let refused = (8..100).find_map(|next| set(&node, next).err().map(|error| (next, error)));
        let (refused, error) = refused.unwrap();
        assert!(error.contains("No space left on device") && error.contains("rollout."), "{error}");
        assert_eq!(parts(&node), refused - 1, "the old state holds");
        assert_eq!(node.flag_history(1)[0].to.flags[0].1.rule.rollout_percent.parts(), refused - 1);
        // The kill switch needs no disk.
        node.set_kill_switch("test", Some("now")).unwrap();
        assert!(node.flags().iter().all(|flag| !flag.is_in_force));
        assert!(log.len() < std::fs::read(disk.join("rollout.log")).unwrap().len() + 1);
        std::fs::remove_file(filler).unwrap();
        node.set_kill_switch("test", None).unwrap();
        set(&node, refused).unwrap();
        node.stop();
        drop(node);
        assert_eq!(parts(&start(disk).unwrap()), refused);
    });
}

#[test]
fn two_nodes_do_not_write_one_log() {
    let state = Directory::new("flags-two");
    let (one, other) = (start(&state.0).unwrap(), start(&state.0).unwrap());
    set(&one, 1).unwrap();
    assert!(set(&other, 2).unwrap_err().contains("is in use by another node"));
    assert_eq!(parts(&other), Percent::FULL.parts());
    let third = start(&state.0).err().unwrap();
    assert_eq!(third.status(), Status::Busy);
    assert!(third.to_string().contains("rollout.log is in use by another node"), "{third}");
    drop(other);
    set(&one, 3).unwrap();
    one.stop();
    drop(one);
    assert_eq!(parts(&start(&state.0).unwrap()), 3);
}

#[test]
fn a_log_that_was_touched_keeps_the_node_from_starting() {
    let state = Directory::new("flags-touched");
    let node = start(&state.0).unwrap();
    (1..4).for_each(|parts| set(&node, parts).unwrap());
    node.stop();
    drop(node);
    let path = state.0.join("rollout.log");
    let log = std::fs::read_to_string(&path).unwrap();
    let cut: String = log.split_inclusive('\n').take(2).collect();
    for (text, what) in
        [(log.replacen("test", "tast", 1), "line 2: it was edited"), (cut, "its end was cut off")]
    {
        std::fs::write(&path, text).unwrap();
        let error = start(&state.0).err().unwrap();
        assert_eq!(error.status(), Status::Corrupt);
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
    std::fs::write(&path, log).unwrap();
    assert_eq!(parts(&start(&state.0).unwrap()), 3);
}
