//! Nodes that die after the switch to post-copy, and others that go on where they left the two QEMUs: the
//! guest lacks no page in the end, and runs once.

use crate::child::Child;
use crate::post_copy::{assert_lost, assert_went_on, by_hand, stopped_at, switch};
use crate::stage::{
    PATIENCE, Stage, address, assert_lives, end_of, node, node_with, slow, wait_for_middle,
    wait_until, waiting,
};
use dwcp::migration::{Owner, Report};
use dwcp::{Node, Status};
use dwcp_qemulab::{Vm, VmConfig};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// So that much is missing still when a guest has counted.
pub const SLOWER_BYTES_PER_S: u64 = 1 << 20;
/// Stages that are tried until one is of use.
const STAGES: usize = 6;

/// QEMUs that no node knows yet; the guest goes on as soon as it has arrived.
fn stage() -> Stage {
    Stage::unattached(|vm| vm, |vm| VmConfig { paused: false, ..vm })
}

/// Where nodes of one test write their records, and others find them.
struct StateDir(PathBuf);

impl StateDir {
    fn new(name: &str) -> Self {
        let name = format!("dwcp-recovery-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn node(&self, name: &str) -> Node {
        node_with(name, "127.0.0.1:0".parse().unwrap(), Some(self.0.clone()))
    }

    /// What the records in it say, in the order of their files' names.
    fn records(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|end| end == "state")).collect();
        files.sort();
        let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        files.into_iter().map(text).collect()
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Attaches a QEMU whose migration is about to be paused. False: its main loop waits for a page, and nobody can
/// begin to talk to it.
fn attach_paused(node: &Node, qmp: &Path, incoming: bool) -> bool {
    let is_attached = Cell::new(true);
    wait_until("QEMU is paused in post-copy", || {
        let Err(error) = node.attach_qemu("vm", qmp, incoming) else { return true };
        eprintln!("{error}");
        is_attached.set(!error.to_string().contains("its main loop waits"));
        !is_attached.get()
    });
    is_attached.get()
}

/// Runs `part` on new stages until it gives something: QEMU's translator lets interrupts in with its main loop
/// locked, and where one needs a missing page, nobody can begin to talk to that QEMU.
fn until_qemu_answers(part: impl Fn() -> Option<()>) {
    let answered = (0..STAGES).any(|_| part().is_some());
    assert!(answered, "QEMU's main loop waited for a page on each of {STAGES} stages");
}

/// What the guest needs to be interrupted has come then, mostly.
fn wait_for_a_tick(stage: &Stage) -> u64 {
    let counted = stopped_at(&stage.source);
    stage.destination.wait_for_tick(counted + 1, PATIENCE).unwrap();
    counted
}

#[test]
fn another_node_goes_on_for_the_sources() {
    let (at_a, at_b) = (StateDir::new("a"), StateDir::new("b"));
    let (stage, there) = (stage(), at_b.node("there"));
    there.attach_qemu("vm", &stage.destination.qmp_path(), true).unwrap();
    let to = address(&there);
    let mut here = Child::switched_source(&stage.source.qmp_path(), &to, Some(&at_a.0));
    here.expect("switched");
    here.kill();
    let counted = stopped_at(&stage.source);
    let here = at_a.node("here");
    assert!(attach_paused(&here, &stage.source.qmp_path(), false));
    assert!(at_a.records()[0].contains("serving_pages"), "{:?}", at_a.records());
    let stage = Stage { here, there, ..stage };
    // The node at B waits in the earlier migration, and makes way by itself.
    assert_went_on(&stage, &stage.migrate_directly(slow()), counted);
    assert_eq!(at_a.records(), [""; 0]);
    let [record] = &at_b.records()[..] else { panic!("{:?}", at_b.records()) };
    assert!(record.contains(r#""mark":"owned""#), "{record}");
    // It is a guest like any other there.
    let guests = stage.there.guests();
    assert_eq!((guests.len(), guests[0].role, guests[0].migration), (1, "source", None));
    assert!(stage.here.guests().is_empty());
}

#[test]
fn without_records_the_operator_lets_the_destination_make_way() {
    let stage = stage();
    stage.there.attach_qemu("vm", &stage.destination.qmp_path(), true).unwrap();
    let to = address(&stage.there);
    let mut here = Child::switched_source(&stage.source.qmp_path(), &to, None);
    here.expect("switched");
    here.kill();
    let counted = stopped_at(&stage.source);
    assert!(attach_paused(&stage.here, &stage.source.qmp_path(), false));
    let report = end_of(&stage.migrate_directly(slow()));
    eprintln!("{}", report.reason);
    assert_eq!((report.status, report.owner), (Status::BadState, Owner::Destination));
    let waiting = stage.there.migrations().pop().unwrap();
    let advice = format!("`post-copy {} --abandon` here lets", waiting.id());
    assert!(report.reason.contains(&advice), "{}", report.reason);
    waiting.abandon_post_copy().unwrap();
    assert_lost(&waiting, "given up");
    // Both are attached as they were: neither side's QEMU has gone. And so it is when a recovery is given up.
    let given_up = stage.migrate_directly(slow());
    wait_until("the rest is on its way", || given_up.progress().wire_bytes > 1 << 20);
    let arriving = stage.there.migration(given_up.id()).unwrap();
    given_up.abandon_post_copy().unwrap();
    assert_lost(&given_up, "given up at the source");
    assert_lost(&arriving, "given up at the source");
    assert_went_on(&stage, &stage.migrate_directly(slow()), counted);
}

#[test]
fn another_node_goes_on_for_the_destinations() {
    until_qemu_answers(|| {
        let stage = stage();
        stage.here.attach_qemu("vm", &stage.source.qmp_path(), false).unwrap();
        let (mut there, to) = Child::destination(&stage.destination.qmp_path());
        let migration = stage.migrate(&to, by_hand());
        // Before the switch, or a fast guest has all of its memory by its first tick.
        wait_for_middle(&migration);
        migration.set_bandwidth_limit(Some(SLOWER_BYTES_PER_S));
        switch(&stage, &migration);
        let counted = wait_for_a_tick(&stage);
        there.kill();
        // The node at A outlasts that, as it would a link that is down, until it is told.
        migration.abandon_post_copy().unwrap();
        assert_lost(&migration, "given up");
        if !attach_paused(&stage.there, &stage.destination.qmp_path(), true) {
            return None;
        }
        assert_went_on(&stage, &stage.migrate_directly(slow()), counted);
        Some(())
    });
}

#[test]
fn other_nodes_go_on_for_both() {
    until_qemu_answers(|| {
        let (at_a, at_b) = (StateDir::new("a"), StateDir::new("b"));
        let stage = stage();
        let (mut there, to) = Child::destination_with(&stage.destination.qmp_path(), Some(&at_b.0));
        let mut here = Child::switched_source(&stage.source.qmp_path(), &to, Some(&at_a.0));
        here.expect("switched");
        let counted = wait_for_a_tick(&stage);
        here.kill();
        there.kill();
        let (here, there) = (at_a.node("here"), at_b.node("there"));
        assert!(attach_paused(&here, &stage.source.qmp_path(), false));
        if !attach_paused(&there, &stage.destination.qmp_path(), true) {
            return None;
        }
        let stage = Stage { here, there, ..stage };
        assert_went_on(&stage, &stage.migrate_directly(slow()), counted);
        assert_eq!(at_a.records(), [""; 0]);
        let [record] = &at_b.records()[..] else { panic!("{:?}", at_b.records()) };
        assert!(record.contains(r#""mark":"owned""#), "{record}");
        Some(())
    });
}

#[test]
fn halves_that_do_not_belong_together_are_told_apart_before_anything_moves() {
    let stage = stage();
    stage.there.attach_qemu("vm", &stage.destination.qmp_path(), true).unwrap();
    let to = address(&stage.there);
    let mut here = Child::switched_source(&stage.source.qmp_path(), &to, None);
    here.expect("switched");
    here.kill();
    assert!(attach_paused(&stage.here, &stage.source.qmp_path(), false));
    let waits = stage.there.migrations().pop().unwrap();
    waits.abandon_post_copy().unwrap();
    assert_lost(&waits, "given up");
    let refused = |report: Report, text: &str| {
        eprintln!("{}", report.reason);
        assert_eq!(report.status, Status::BadState, "{}", report.reason);
        assert!(report.reason.contains(text), "{:?} lacks {text:?}", report.reason);
        report.owner
    };
    // The rest of a guest for a QEMU that waits for a whole one.
    let (fresh, elsewhere) = (waiting(&stage.image), node("elsewhere"));
    elsewhere.attach_qemu("vm", &fresh.qmp_path(), true).unwrap();
    let report = end_of(&stage.migrate(&address(&elsewhere), slow()));
    let owner = refused(report, "is not paused in post-copy: it waits for a whole guest");
    assert_eq!(owner, Owner::Destination);
    // A whole guest for a QEMU that lacks the rest of another.
    let running =
        Vm::start(&VmConfig { image: Some(&stage.image), ..VmConfig::default() }).unwrap();
    running.wait_for_tick(1, PATIENCE).unwrap();
    elsewhere.remove_guest("vm").unwrap();
    elsewhere.attach_qemu("vm", &running.qmp_path(), false).unwrap();
    let report = end_of(&elsewhere.migrate("vm", &to, slow()).unwrap());
    assert_eq!(refused(report, "paused in post-copy: only what is left"), Owner::Source);
    assert_lives(&running);
    // Neither cost anything.
    assert_eq!(stage.here.guests()[0].migration, None);
    let counted = stopped_at(&stage.source);
    assert_went_on(&stage, &stage.migrate_directly(slow()), counted);
}
