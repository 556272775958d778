//! QEMU's own post-copy through the relay: the guest goes on at the destination before its memory is there,
//! and whatever happens then, no page is made up and no second guest runs.

use crate::proxy::{BACK, FORWARD, Proxy};
use crate::stage::{
    PATIENCE, Stage, assert_lives, end_of, kill, slow, wait_for_middle, wait_until,
};
use dwcp::migration::{MigrationOptions, Owner, Phase, PostCopyRule, Report};
use dwcp::observe::EventKind;
use dwcp::{Migration, Status};
use dwcp_qemulab::{Vm, VmConfig};
use std::sync::Arc;
use std::time::Duration;

/// A destination whose guest runs as soon as it can.
pub fn stage() -> Stage {
    Stage::with(|vm| vm, |vm| VmConfig { paused: false, ..vm })
}

pub fn by_hand() -> MigrationOptions {
    MigrationOptions { post_copy: PostCopyRule::Manual, streams: 4, ..slow() }
}

/// Pre-copy to its middle, then the switch; the guest runs there when this returns.
pub fn switch(stage: &Stage, migration: &Migration) {
    begin_post_copy(migration);
    let state = stage.source.qmp().unwrap().migration_info().unwrap();
    assert_eq!(state.status, "postcopy-active");
}

pub fn begin_post_copy(migration: &Migration) {
    wait_for_middle(migration);
    migration.start_post_copy().unwrap();
    wait_until("the guest goes on there", || {
        assert!(migration.report().is_none(), "{:?}", migration.report());
        migration.progress().phase == Phase::PostCopy
    });
    assert_eq!(migration.owner(), Owner::Destination);
}

fn arrival(stage: &Stage, migration: &Migration) -> Migration {
    stage.there.migration(migration.id()).unwrap()
}

/// The guest goes on there alone, and finds its memory as it wrote it.
pub fn assert_went_on(stage: &Stage, migration: &Migration, counted: u64) -> Report {
    let report = end_of(migration);
    let arrived = arrival(stage, migration).wait(Some(PATIENCE)).unwrap();
    eprintln!(
        "{}\n{}",
        serde_json::to_string(&report).unwrap(),
        serde_json::to_string(&arrived).unwrap()
    );
    for report in [&report, &arrived] {
        assert_eq!((report.status, &*report.reason), (Status::Ok, ""));
        assert_eq!(report.owner, Owner::Destination);
    }
    assert_eq!(arrived.digest, report.digest);
    // Four ticks verify every page.
    stage.destination.wait_for_tick(counted + 5, PATIENCE).unwrap();
    assert_eq!(stage.destination.complaint(), None);
    assert_eq!(stage.source.last_tick(), counted, "the guest runs twice");
    let state = stage.source.qmp().unwrap().status().unwrap();
    assert_eq!((state.running, &*state.status), (false, "postmigrate"));
    arrived
}

pub fn stopped_at(vm: &Vm) -> u64 {
    assert!(!vm.qmp().unwrap().status().unwrap().running);
    vm.last_tick()
}

#[test]
fn a_guest_goes_on_before_its_memory_is_there() {
    let stage = stage();
    let migration = stage.migrate_directly(by_hand());
    // Or a fast guest has all of its memory by its first tick.
    wait_for_middle(&migration);
    migration.set_bandwidth_limit(Some(3 << 20));
    switch(&stage, &migration);
    let counted = stopped_at(&stage.source);
    // It writes its pages, and verifies them, while they come.
    stage.destination.wait_for_tick(counted + 1, PATIENCE).unwrap();
    assert!(migration.report().is_none(), "it was over before anything was missing");
    let arrived = assert_went_on(&stage, &migration, counted);
    let figures = arrived.post_copy.unwrap();
    assert!(figures.faults > 0 && figures.fault_p50_us > 0, "{figures:?}");
}

#[test]
fn a_guest_that_may_switch_and_does_not_moves_as_ever() {
    let stage = stage();
    let options = MigrationOptions { post_copy: PostCopyRule::Manual, ..Default::default() };
    let migration = stage.migrate_directly(options);
    let report = end_of(&migration);
    assert_eq!((report.status, &*report.reason), (Status::Ok, ""));
    let arrived = assert_went_on(&stage, &migration, stopped_at(&stage.source));
    assert_eq!((arrived.post_copy, report.post_copy), (None, None));
}

#[test]
fn broken_links_make_the_guest_wait_and_nothing_else() {
    let stage = stage();
    let proxy = Proxy::new(stage.there.local_address().unwrap());
    let migration = stage.migrate(&proxy.address(), by_hand());
    switch(&stage, &migration);
    let counted = stopped_at(&stage.source);
    proxy.handle().kill_all();
    [FORWARD, BACK].into_iter().for_each(|direction| proxy.handle().hold(direction, true));
    // Longer than a migration that has not switched waits for a connection.
    std::thread::sleep(Duration::from_secs(6));
    // The other one may answer nothing while its guest waits for a page.
    let state = stage.source.qmp().unwrap().migration_info().unwrap();
    assert_eq!(state.status, "postcopy-active", "QEMU has noticed");
    assert!(migration.report().is_none());
    [FORWARD, BACK].into_iter().for_each(|direction| proxy.handle().hold(direction, false));
    proxy.handle().kill_all();
    let arrived = assert_went_on(&stage, &migration, counted);
    assert!(migration.report().unwrap().reconnects > 0, "{arrived:?}");
}

pub fn assert_lost(migration: &Migration, text: &str) {
    let report = migration.wait(Some(PATIENCE)).expect("it does not end");
    eprintln!("{:?} {}", report.status, report.reason);
    assert_eq!((report.status, report.owner), (Status::PostCopyLost, Owner::Destination));
    assert!(report.reason.contains(text), "{:?} lacks {text:?}", report.reason);
}

/// The guest was the destination's, so the source never lets it go on.
fn assert_stands_still(vm: &Vm) {
    let counted = stopped_at(vm);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(stopped_at(vm), counted);
}

#[test]
fn a_guest_whose_hypervisor_dies_before_it_has_all_is_lost() {
    let stage = stage();
    let migration = stage.migrate_directly(by_hand());
    switch(&stage, &migration);
    let arrival = arrival(&stage, &migration);
    kill(stage.destination.pid());
    assert_lost(&migration, "has ended");
    assert_lost(&arrival, "has ended");
    assert_stands_still(&stage.source);
}

#[test]
fn a_guest_whose_memory_dies_with_the_sources_qemu_is_lost() {
    let stage = stage();
    let migration = stage.migrate_directly(by_hand());
    switch(&stage, &migration);
    let arrival = arrival(&stage, &migration);
    kill(stage.source.pid());
    assert_lost(&migration, "QEMU at the source has ended");
    assert_lost(&arrival, "QEMU at the source has ended");
}

#[test]
fn a_hypervisor_that_dies_before_it_is_handed_the_guest_costs_nothing() {
    let stage = stage();
    let pid = stage.destination.pid();
    stage.there.observe(Arc::new(move |event| {
        let name = Phase::Handover.name();
        // On the driver's own thread, so the package is still kept back.
        if matches!(&event.kind, EventKind::Phase { phase, .. } if *phase == name) {
            kill(pid);
        }
    }));
    let migration = stage.migrate_directly(by_hand());
    wait_for_middle(&migration);
    migration.start_post_copy().unwrap();
    stage.assert_stayed(&end_of(&migration), Status::Callback, "destination: ");
    assert_lives(&stage.source);
    stage.assert_moves();
}

#[test]
fn a_cancel_before_the_switch_leaves_the_guest_and_after_it_does_nothing() {
    let stage = stage();
    let migration = stage.migrate_directly(by_hand());
    wait_for_middle(&migration);
    migration.cancel();
    stage.assert_stayed(&end_of(&migration), Status::Cancelled, "cancelled");
    let capabilities = stage.source.qmp().unwrap().capabilities().unwrap();
    assert!(!capabilities["postcopy-ram"] && !capabilities["return-path"], "not put back");
    let migration = {
        let fresh = stage.fresh_destination();
        let migration = stage.migrate_directly(by_hand());
        wait_for_middle(&migration);
        migration.start_post_copy().unwrap();
        wait_until("the switch", || migration.progress().phase == Phase::PostCopy);
        migration.cancel();
        arrival(&stage, &migration).cancel();
        let report = end_of(&migration);
        assert_eq!((report.status, &*report.reason), (Status::Ok, ""));
        fresh.wait_for_tick(stage.source.last_tick() + 5, PATIENCE).unwrap();
        assert_eq!(fresh.complaint(), None);
        migration
    };
    assert!(migration.abandon_post_copy().is_err(), "there is nothing to give up any more");
}

#[test]
fn a_guest_is_given_up_by_the_operators_word_alone() {
    for at_source in [true, false] {
        let stage = stage();
        let migration = stage.migrate_directly(by_hand());
        assert!(migration.abandon_post_copy().is_err());
        switch(&stage, &migration);
        let arrival = arrival(&stage, &migration);
        let (near, far) = if at_source { (&migration, &arrival) } else { (&arrival, &migration) };
        near.abandon_post_copy().unwrap();
        assert_lost(near, "given up");
        assert_lost(far, "given up");
        assert_stands_still(&stage.source);
    }
}
