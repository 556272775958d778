//! Guests that write too fast, caps, deadlines, two migrations at once, there and back again.

use crate::stage::{PAGES, PATIENCE, Stage, address, node, patient, wait_until};
use crate::support::Guest;
use dwcp::migration::{CodecChoice, MigrationOptions, Owner};
use dwcp::{NodeError, Status};
use std::time::{Duration, Instant};

const CAP_BYTES_PER_S: u64 = 4 << 20;

/// A guest that writes faster than the cap lets its pages go.
fn busy_stage() -> Stage {
    let rate = 3 * CAP_BYTES_PER_S / 4096;
    Stage::with(Guest::new(PAGES, rate), Guest::new(PAGES, rate), (None, None))
}

fn capped() -> MigrationOptions {
    MigrationOptions {
        codec: CodecChoice::None.into(),
        bandwidth_limit_bytes_per_s: Some(CAP_BYTES_PER_S),
        max_downtime: Duration::from_millis(20),
        ..patient()
    }
}

#[test]
fn a_deadline_that_passes_leaves_the_guest_running_at_the_source() {
    let stage = busy_stage();
    let deadline = Some(Duration::from_millis(1500));
    let report = stage.run_directly(MigrationOptions { deadline, throttle: false, ..capped() });
    stage.assert_stayed(&report, Status::DidNotConverge, "deadline of 1.5s reached");
    assert!(report.reason.contains("allowed 20ms"), "{}", report.reason);
    assert_eq!((stage.here.resumes(), report.downtime_ms), (1, 0.0), "it was never paused");
    stage.assert_moves();
}

#[test]
fn a_guest_that_writes_too_fast_is_slowed_down_until_it_fits() {
    let stage = busy_stage();
    stage.here.allow_throttle();
    let report = stage.run_directly(capped());
    assert_eq!(report.status, Status::Ok, "{}", report.reason);
    let throttles = stage.here.throttles();
    assert!(throttles.len() >= 2, "{throttles:?}");
    assert!(throttles.windows(2).all(|pair| pair[0] < pair[1]), "{throttles:?}");
    let predicted_us = report.pass_details.last().unwrap().predicted_downtime_us;
    assert!(predicted_us <= 20_000, "paused with {predicted_us} us to go");
    stage.assert_moved(&report);
}

#[test]
fn a_guest_that_stays_gets_its_full_speed_back() {
    let stage = busy_stage();
    stage.here.allow_throttle();
    stage.there.fail_at(Some("load_device_state"));
    let report = stage.run_directly(capped());
    stage.assert_stayed(&report, Status::Callback, "load_device_state");
    assert_eq!(stage.here.throttles().last(), Some(&0));
}

#[test]
fn the_bandwidth_cap_is_kept() {
    let stage = Stage::new();
    let report = stage
        .run_directly(MigrationOptions { max_downtime: Duration::from_millis(300), ..capped() });
    stage.assert_moved(&report);
    // What the cap would have let through in the same time; a first burst is allowed.
    let allowed = CAP_BYTES_PER_S as f64 * report.total_ms / 1000.0;
    let ratio = report.wire_bytes as f64 / allowed;
    assert!(
        ratio < 1.5,
        "{} bytes in {} ms is {ratio} of the cap",
        report.wire_bytes,
        report.total_ms
    );
}

#[test]
fn a_cap_lifted_on_the_way_takes_effect() {
    let stage = Stage::new();
    let cap = Some(64 * 1024);
    let migration = stage.migrate(
        &address(&stage.beta),
        MigrationOptions { bandwidth_limit_bytes_per_s: cap, ..capped() },
    );
    let started = Instant::now();
    while migration.progress().wire_bytes == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    migration.set_bandwidth_limit(None);
    let report = migration.wait(PATIENCE).unwrap();
    stage.assert_moved(&report);
    let at_the_cap = report.wire_bytes as f64 / (64.0 * 1024.0);
    assert!(started.elapsed().as_secs_f64() < at_the_cap, "the cap of 64 KiB/s was kept");
}

#[test]
fn a_guest_is_in_one_migration_at_a_time() {
    let stage = Stage::new();
    let to = address(&stage.beta);
    let backwards = || stage.beta.migrate("vm", &address(&stage.alpha), capped()).err().unwrap();
    assert_eq!(backwards().status(), Status::BadState, "it is only expected there");
    let slow = MigrationOptions { bandwidth_limit_bytes_per_s: Some(64 << 10), ..capped() };
    let first = stage.migrate(&to, slow);
    let second = stage.alpha.migrate("vm", &to, capped()).err().unwrap();
    assert!(matches!(&second, NodeError::Busy(name) if name == "vm"), "{second}");
    assert!(matches!(stage.alpha.remove_guest("vm"), Err(NodeError::Busy(_))));
    wait_until("it is on its way there", || !stage.beta.migrations().is_empty());
    assert_eq!(backwards().status(), Status::Busy);
    first.set_bandwidth_limit(None);
    let report = first.wait(PATIENCE).unwrap();
    stage.assert_moved(&report);
}

#[test]
fn two_guests_move_at_the_same_time_in_both_directions() {
    let stage = Stage::new();
    let (other_here, other_there) = (Guest::new(PAGES, 1000), Guest::new(PAGES, 1000));
    other_here.fill(50);
    other_here.start();
    stage.beta.add_source("other", other_here.source()).unwrap();
    stage.alpha.add_destination("other", other_there.sink()).unwrap();
    let there = stage.migrate(&address(&stage.beta), patient());
    let back = stage.beta.migrate("other", &address(&stage.alpha), patient()).unwrap();
    let (there, back) = (there.wait(PATIENCE).unwrap(), back.wait(PATIENCE).unwrap());
    assert_eq!(back.status, Status::Ok, "{}", back.reason);
    stage.alpha.migration(back.id).unwrap().wait(PATIENCE).unwrap();
    stage.assert_moved(&there);
    assert!(!other_here.is_running() && other_there.is_running());
    other_there.stop();
    other_there.check();
}

#[test]
fn a_migration_to_the_node_itself_is_refused() {
    let stage = Stage::new();
    let report = stage.run(&address(&stage.alpha), patient());
    stage.assert_stayed(&report, Status::BadState, "guest \"vm\" runs here; it is not expected");
    stage.assert_moves();
}

#[test]
fn a_guest_goes_there_and_back_twenty_times() {
    let (alpha, beta) = (node("alpha", None), node("beta", None));
    let guests = [Guest::new(PAGES, 2000), Guest::new(PAGES, 2000)];
    guests[0].fill(70);
    guests[0].start();
    let nodes = [&alpha, &beta];
    for round in 0..40 {
        let (from, to) = (round % 2, 1 - round % 2);
        nodes[from].add_source("vm", guests[from].source()).unwrap();
        nodes[to].add_destination("vm", guests[to].sink()).unwrap();
        let counter = guests[from].counter();
        let migration = nodes[from].migrate("vm", &address(nodes[to]), patient()).unwrap();
        let report = migration.wait(PATIENCE).unwrap();
        assert_eq!(report.owner, Owner::Destination, "round {round}: {}", report.reason);
        nodes[to].migration(report.id).unwrap().wait(PATIENCE).unwrap();
        assert!(guests[to].is_running() && !guests[from].is_running());
        assert!(guests[to].counter() >= counter);
    }
    guests[0].stop();
    guests[0].check();
    assert_eq!(guests.map(|guest| guest.endings().len()), [40, 40]);
}
