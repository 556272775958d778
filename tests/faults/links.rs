//! Two honest nodes and a network between them that is not.

use crate::proxy::{BACK, FORWARD, Handle, Proxy};
use crate::stage::{Directory, PAGES, PATIENCE, Stage, at_phase, hasty, patient, wait_until};
use crate::support::Guest;
use dwcp::Status;
use dwcp::migration::ownership::Mark;
use dwcp::migration::{CodecChoice, Ending, MigrationOptions, Owner, Phase, Report};
use dwcp::observe::{Event, EventKind};
use dwcp::runtime::node::Node;
use dwcp::runtime::record_keeper::read_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

fn proxied(stage: &Stage) -> (Proxy, Handle) {
    let proxy = Proxy::new(stage.beta.local_address().unwrap());
    let handle = proxy.handle();
    (proxy, handle)
}

/// A migration through the proxy while `trouble` happens over and over.
fn run_in_trouble(options: MigrationOptions, trouble: impl Fn(&Handle) + Send + Sync) -> Report {
    let stage = Stage::with(Guest::new(2048, 500), Guest::new(2048, 500), (None, None));
    let (proxy, handle) = proxied(&stage);
    let migration = stage.migrate(&proxy.address(), options);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..8 {
                // By progress, not by the clock, so that it is in time on any machine.
                let from = handle.passed(FORWARD);
                wait_until("more has passed", || {
                    handle.passed(FORWARD) > from + 400_000 || migration.report().is_some()
                });
                trouble(&handle);
            }
        });
    });
    let report = migration.wait(PATIENCE).unwrap();
    stage.assert_moved(&report);
    report
}

/// Pages go as they are, so that there is much to send and little of it is special; and not so
/// fast that all is over before a lost stream is back.
fn stored() -> MigrationOptions {
    let cap = Some(12 << 20);
    let (codec, bandwidth_limit_bytes_per_s) = (CodecChoice::None, cap);
    MigrationOptions { codec: codec.into(), bandwidth_limit_bytes_per_s, streams: 4, ..patient() }
}

#[test]
fn one_stream_killed_again_and_again() {
    let report = run_in_trouble(stored(), |handle| {
        handle.kill_one();
    });
    assert!(report.reconnects > 0, "no stream was lost");
}

#[test]
fn streams_that_are_turned_away_wait_their_time_while_another_works() {
    let stage = Stage::with(Guest::new(2048, 500), Guest::new(2048, 500), (None, None));
    let (proxy, handle) = proxied(&stage);
    let cap = Some(4 << 20);
    let options = MigrationOptions { bandwidth_limit_bytes_per_s: cap, ..stored() };
    let migration = stage.migrate(&proxy.address(), options);
    wait_until("all streams are up", || migration.progress().streams == 4);
    handle.refuse();
    for _ in 0..3 {
        assert!(handle.kill_one());
    }
    let report = migration.wait(PATIENCE).unwrap();
    stage.assert_moved(&report);
    let attempts = handle.turned_away();
    // The wait doubles from 20 ms to a second: six attempts, and then one a second.
    let allowed = 3.0 * (10.0 + report.total_ms / 500.0);
    assert!(attempts > 3, "{attempts} attempts only: the streams did not try");
    assert!((attempts as f64) < allowed, "{attempts} attempts in {} ms", report.total_ms);
}

#[test]
fn all_streams_killed_again_and_again() {
    let report = run_in_trouble(stored(), Handle::kill_all);
    assert!(report.reconnects >= 4, "{} reconnects", report.reconnects);
}

#[test]
fn short_pauses_of_the_network_cost_only_time() {
    let report = run_in_trouble(stored(), |handle| {
        handle.hold(FORWARD, true);
        handle.hold(BACK, true);
        std::thread::sleep(Duration::from_millis(50));
        handle.hold(FORWARD, false);
        handle.hold(BACK, false);
    });
    assert_eq!(report.reconnects, 0);
}

#[test]
fn all_streams_killed_at_every_phase_of_either_side() {
    let phases = [
        Phase::Precopy,
        Phase::FinalPass,
        Phase::DeviceState,
        Phase::Verify,
        Phase::Handover,
        Phase::Resume,
    ];
    for (at_source, phase) in phases.iter().flat_map(|phase| [(true, *phase), (false, *phase)]) {
        let stage = Stage::new();
        let (proxy, handle) = proxied(&stage);
        let (reached, node) = (Arc::new(AtomicBool::new(false)), [&stage.beta, &stage.alpha]);
        let seen = reached.clone();
        at_phase(node[usize::from(at_source)], phase, move || {
            seen.store(true, SeqCst);
            handle.kill_all();
        });
        let report = stage.run(&proxy.address(), patient());
        // Only the source knows that a final pass begins.
        assert!(reached.load(SeqCst) || (phase, at_source) == (Phase::FinalPass, false));
        assert_eq!(report.status, Status::Ok, "{phase:?} {at_source}: {}", report.reason);
        stage.assert_moved(&report);
    }
}

#[test]
fn a_damaged_byte_anywhere_costs_no_more_than_a_stream() {
    let first_seed = u64::from(std::process::id());
    for seed in first_seed..first_seed + 24 {
        println!("seed {seed}");
        let random = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) as usize;
        let stage = Stage::new();
        let (proxy, handle) = proxied(&stage);
        let direction = if seed % 3 == 0 { BACK } else { FORWARD };
        // Every fourth is among the first bytes: prefaces, hellos, replies.
        let range = match (direction, seed % 4) {
            (_, 0) => 300,
            (BACK, _) => 1500,
            _ => 1_000_000,
        };
        handle.damage(direction, (random % range) as u64);
        let options = MigrationOptions { codec: CodecChoice::None.into(), ..patient() };
        let report = stage.run(&proxy.address(), options);
        assert_eq!(report.status, Status::Ok, "seed {seed}: {}", report.reason);
        stage.assert_moved(&report);
    }
}

#[test]
fn connections_that_lead_nowhere_are_made_anew() {
    for direction in [FORWARD, BACK] {
        let stage = Stage::new();
        let (proxy, handle) = proxied(&stage);
        at_phase(&stage.alpha, Phase::Precopy, move || handle.swallow(direction));
        let report = stage.run(&proxy.address(), worn_soon());
        assert_eq!(report.status, Status::Ok, "{}", report.reason);
        assert!(report.reconnects > 0);
        stage.assert_moved(&report);
    }
}

/// Streams that lead nowhere are made anew after two seconds.
fn worn_soon() -> MigrationOptions {
    MigrationOptions { stall_timeout: Duration::from_secs(6), streams: 2, ..stored() }
}

/// All streams but the first are there for the destination alone: the source waits for its answers,
/// and would wait longer than for progress.
#[test]
fn nothing_is_said_on_a_connection_whose_handshake_was_answered_in_vain() {
    let stage = Stage::new();
    let (proxy, handle) = proxied(&stage);
    handle.swallow_after(BACK, 1);
    let beta = stage.beta.clone();
    at_phase(&stage.alpha, Phase::Precopy, move || {
        wait_until("others are up there", || ups(&beta) > 2);
    });
    let report = stage.run(&proxy.address(), MigrationOptions { streams: 4, ..worn_soon() });
    assert_eq!(report.status, Status::Ok, "{}", report.reason);
    assert_eq!(report.reconnects, 0);
    stage.assert_moved(&report);
}

/// How many streams a node has seen coming up.
fn ups(node: &Node) -> usize {
    let is_up = |event: &Event| matches!(event.kind, EventKind::StreamUp { .. });
    node.events(0).iter().filter(|event| is_up(event)).count()
}

#[test]
fn a_network_that_stops_is_a_stalled_peer() {
    for direction in [FORWARD, BACK] {
        let stage = Stage::new();
        let (proxy, handle) = proxied(&stage);
        at_phase(&stage.alpha, Phase::Precopy, move || handle.hold(direction, true));
        let report = stage.run(&proxy.address(), hasty());
        // Where buffers fill up first, the streams give up before the migration does.
        let lost = report.status == Status::ConnectionLost;
        let status = if lost { Status::ConnectionLost } else { Status::PeerStalled };
        stage.assert_stayed(
            &report,
            status,
            if lost { "no connection for" } else { "no progress" },
        );
        drop(proxy);
        stage.assert_moves();
    }
}

#[test]
fn a_network_that_goes_away_is_a_lost_connection() {
    for phase in [Phase::Precopy, Phase::FinalPass, Phase::Verify] {
        let stage = Stage::new();
        let (proxy, handle) = proxied(&stage);
        // At the destination what is verified cannot be told before the observer returns.
        let node = if phase == Phase::Verify { &stage.beta } else { &stage.alpha };
        at_phase(node, phase, move || {
            handle.refuse();
            handle.kill_all();
        });
        let report = stage.run(&proxy.address(), hasty());
        stage.assert_stayed(&report, Status::ConnectionLost, "no connection for");
        assert_eq!(stage.here.resumes(), if phase == Phase::Precopy { 1 } else { 2 });
        drop(proxy);
        stage.assert_moves();
    }
}

/// A migration that loses its network for good when `side` enters `phase`, and its two records.
fn cut_at(at_source: bool, phase: Phase) -> (Stage, Report, [Mark; 2]) {
    let name = format!("cut-{}-{at_source}", phase.name());
    let (left, right) =
        (Directory::new(&format!("{name}-a")), Directory::new(&format!("{name}-b")));
    let guests = (Guest::new(PAGES, 1000), Guest::new(PAGES, 1000));
    let stage = Stage::with(guests.0, guests.1, (Some(&left.0), Some(&right.0)));
    let (proxy, handle) = proxied(&stage);
    let node = if at_source { &stage.alpha } else { &stage.beta };
    if !at_source {
        // Or the answer to the commit could be faster than the cut.
        let held = handle.clone();
        at_phase(&stage.alpha, Phase::Handover, move || held.hold(BACK, true));
    }
    at_phase(node, phase, move || {
        handle.refuse();
        handle.kill_all();
    });
    let report = stage.run(&proxy.address(), hasty());
    // As long as the nodes live their records are locked; they are read from copies.
    let mark = |directory: &Directory| {
        let copy = Directory::new("copy-of-records");
        for file in std::fs::read_dir(&directory.0).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.0.join(file.file_name())).unwrap();
        }
        read_all(&copy.0).unwrap().records[0].1.mark
    };
    let marks = [mark(&left), mark(&right)];
    (stage, report, marks)
}

#[test]
fn cut_off_before_the_commit_arrives_nobody_runs_the_guest_until_somebody_decides() {
    let (stage, report, marks) = cut_at(true, Phase::Handover);
    assert_eq!((report.status, report.owner), (Status::InDoubt, Owner::InDoubt));
    assert_eq!(stage.here.endings(), [Ending::Undecided]);
    assert!(!stage.here.is_running() && !stage.there.is_running());
    assert_eq!(marks, [Mark::CommitSent, Mark::Prepared]);
    assert!(marks[0].advice().contains("ask the destination's record"));
    assert_eq!(marks[1].owner(), Owner::Source);
    let incoming = stage.beta.migration(report.id).unwrap();
    incoming.cancel();
    assert_eq!(incoming.wait(PATIENCE).unwrap().owner, Owner::Source);
    assert_eq!(stage.there.endings(), [Ending::Discard]);
}

#[test]
fn cut_off_after_the_commit_was_taken_the_destination_runs_the_guest() {
    let (stage, report, marks) = cut_at(false, Phase::Resume);
    assert_eq!((report.status, report.owner), (Status::InDoubt, Owner::InDoubt));
    assert_eq!(stage.here.endings(), [Ending::Undecided]);
    wait_until("the destination runs it", || stage.there.is_running());
    assert!(!stage.here.is_running());
    assert_eq!(marks, [Mark::CommitSent, Mark::Owned]);
    assert_eq!(stage.beta.migration(report.id).unwrap().owner(), Owner::Destination);
}
