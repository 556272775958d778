//! Faults of migrations with multifd channels: whatever breaks, the guest is whole and on one side.

use crate::proxy::Proxy;
use crate::stage::{
    Stage, end_of, kill, slow, slow_and_patient, wait_for_middle, wait_until, waiting,
};
use dwcp::Status;
use dwcp::migration::{MigrationOptions, Owner};
use std::time::Duration;

fn over_channels(options: MigrationOptions) -> MigrationOptions {
    MigrationOptions { multifd_channels: 2, ..options }
}

#[test]
fn streams_break_under_channels() {
    let stage = Stage::new();
    let proxy = Proxy::new(stage.there.local_address().unwrap());
    let migration = stage.migrate(&proxy.address(), over_channels(slow_and_patient()));
    for _ in 0..2 {
        wait_for_middle(&migration);
        wait_until("a link breaks", || proxy.handle().kill_one());
        std::thread::sleep(Duration::from_millis(300));
    }
    proxy.handle().kill_all();
    let report = end_of(&migration);
    assert!(report.reconnects > 0, "{report:?}");
    stage.assert_moved(&report, &stage.destination);
}

#[test]
fn a_cancel_leaves_the_guest_at_the_source_and_it_can_move_again() {
    let stage = Stage::new();
    let migration = stage.migrate_directly(over_channels(slow()));
    wait_for_middle(&migration);
    migration.cancel();
    stage.assert_stayed(&end_of(&migration), Status::Cancelled, "cancelled");
    assert!(!stage.source.qmp().unwrap().capabilities().unwrap()["multifd"], "not put back");
    stage.assert_moves();
}

#[test]
fn the_destinations_qemu_is_killed_under_channels() {
    let stage = Stage::new();
    let migration = stage.migrate_directly(over_channels(slow()));
    wait_for_middle(&migration);
    kill(stage.destination.pid());
    stage.assert_stayed(&end_of(&migration), Status::Callback, "destination: ");
    stage.assert_moves();
}

#[test]
fn the_sources_qemu_is_killed_under_channels() {
    let stage = Stage::new();
    let migration = stage.migrate_directly(over_channels(slow()));
    wait_for_middle(&migration);
    kill(stage.source.pid());
    let report = end_of(&migration);
    assert_eq!((report.status, report.owner), (Status::Callback, Owner::Source));
    let there = stage.there.migration(report.id).unwrap().wait(Some(Duration::from_secs(90)));
    assert_eq!(there.unwrap().owner, Owner::Source);
    assert_eq!(stage.destination.last_tick(), 0, "half a guest runs");
    drop(waiting(&stage.image));
}
