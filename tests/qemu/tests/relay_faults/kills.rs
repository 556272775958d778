//! Nodes and QEMUs that die in the middle: the guest goes on at the source.

use crate::child::Child;
use crate::stage::{
    PATIENCE, Stage, end_of, kill, slow, slow_and_patient, wait_for_middle, wait_until, waiting,
};
use dwcp::Status;
use dwcp::migration::{Owner, Phase};
use dwcp::observe::EventKind;
use std::sync::Arc;

#[test]
fn the_destinations_node_is_killed() {
    let stage = Stage::unattached(|vm| vm, |vm| vm);
    stage.here.attach_qemu("vm", &stage.source.qmp_path(), false).unwrap();
    let (mut there, address) = Child::destination(&stage.destination.qmp_path());
    let migration = stage.migrate(&address, slow());
    wait_for_middle(&migration);
    there.kill();
    stage.assert_stayed(&end_of(&migration), Status::ConnectionLost, "no connection for");
    stage.assert_moves();
}

#[test]
fn the_sources_node_is_killed() {
    let stage = Stage::unattached(|vm| vm, |vm| vm);
    stage.there.attach_qemu("vm", &stage.destination.qmp_path(), true).unwrap();
    let mut here = Child::source(&stage.source.qmp_path(), &crate::stage::address(&stage.there));
    here.expect("middle");
    here.kill();
    stage.assert_goes_on();
    let arrival = stage.there.migrations().pop().unwrap();
    wait_until("its streams are gone", || arrival.progress().streams == 0);
    arrival.cancel();
    let report = arrival.wait(Some(PATIENCE)).unwrap();
    assert_eq!((report.status, report.owner), (Status::Cancelled, Owner::Source));
    // Another node takes over where the first left QEMU.
    stage.here.attach_qemu("vm", &stage.source.qmp_path(), false).unwrap();
    stage.assert_moves();
}

#[test]
fn the_destinations_qemu_is_killed_in_the_middle() {
    let stage = Stage::new();
    let migration = stage.migrate_directly(slow());
    wait_for_middle(&migration);
    kill(stage.destination.pid());
    stage.assert_stayed(&end_of(&migration), Status::Callback, "destination: ");
    stage.assert_moves();
}

#[test]
fn the_destinations_qemu_is_killed_when_it_has_all_but_the_end() {
    let stage = Stage::new();
    let pid = stage.destination.pid();
    stage.there.observe(Arc::new(move |event| {
        let name = Phase::Handover.name();
        // On the driver's own thread, so the end is still kept back.
        if matches!(&event.kind, EventKind::Phase { phase, .. } if *phase == name) {
            kill(pid);
        }
    }));
    let report = end_of(&stage.migrate_directly(slow_and_patient()));
    stage.assert_stayed(&report, Status::Callback, "destination: ");
    let arrived = stage.there.migration(report.id).unwrap().wait(Some(PATIENCE)).unwrap();
    assert_eq!((arrived.status, arrived.owner), (Status::Callback, Owner::Source));
}

#[test]
fn the_sources_qemu_is_killed_in_the_middle() {
    let stage = Stage::new();
    let migration = stage.migrate_directly(slow());
    wait_for_middle(&migration);
    kill(stage.source.pid());
    let report = end_of(&migration);
    assert_eq!((report.status, report.owner), (Status::Callback, Owner::Source));
    eprintln!("{}", report.reason);
    let there = stage.there.migration(report.id).unwrap().wait(Some(PATIENCE)).unwrap();
    assert_eq!(there.owner, Owner::Source);
    assert_eq!(stage.destination.last_tick(), 0, "half a guest runs");
    drop(waiting(&stage.image));
}
