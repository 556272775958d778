//! Post-copy between two nodes over real sockets: the guest runs while pages of it are missing, and
//! nothing that happens meanwhile makes it see a page that never was.

use crate::child::Child;
use crate::proxy::{FORWARD, Proxy};
use crate::stage::{
    Directory, PAGES, PATIENCE, Stage, address, at_phase, hasty, node, patient, wait_until,
};
use crate::support::copying::Copying;
use crate::support::{Guest, PAGE, layout};
use dwcp::migration::ownership::Mark;
use dwcp::migration::{CodecChoice, Ending, MigrationOptions, Owner, Phase, PostCopyRule, Report};
use dwcp::observe::EventKind;
use dwcp::runtime::record_keeper::read_all;
use dwcp::runtime::sys::MappedMemory;
use dwcp::{Migration, Status};
use std::sync::Arc;
use std::time::Duration;

/// Post-copy on command, so slow that it is still under way when something happens.
pub fn slow() -> MigrationOptions {
    MigrationOptions {
        codec: CodecChoice::None.into(),
        bandwidth_limit_bytes_per_s: Some(1 << 20),
        post_copy: PostCopyRule::Manual,
        streams: 4,
        ..patient()
    }
}

/// Without the right to see faults of the kernel a destination refuses, which has its own test.
pub fn may_not() -> bool {
    let probed = dwcp::runtime::sys::missing_memory::probe();
    probed.inspect_err(|error| eprintln!("skipped: {error}")).is_err()
}

fn stage(pages: u64) -> Stage {
    Stage::with(Guest::new(pages, 2000), Guest::new(pages, 2000), (None, None))
}

/// Starts a migration and switches it over at once; returns when the guest runs at the destination.
fn switched(stage: &Stage, to: &str, options: MigrationOptions) -> Migration {
    let migration = stage.migrate(to, options);
    migration.start_post_copy().unwrap();
    wait_until("the guest runs at the destination", || {
        assert!(migration.report().is_none(), "{:?}", migration.report());
        stage.there.is_running() && migration.progress().phase == Phase::PostCopy
    });
    migration
}

/// The guest is whole at the destination and both sides say so; the destination's report.
fn assert_whole(stage: &Stage, report: &Report) -> Report {
    assert_eq!(
        (report.status, report.owner),
        (Status::Ok, Owner::Destination),
        "{}",
        report.reason
    );
    let arrived = stage.beta.migration(report.id).unwrap().wait(PATIENCE).unwrap();
    assert_eq!((arrived.status, arrived.owner), (Status::Ok, Owner::Destination));
    assert_eq!((arrived.digest.len(), &arrived.digest), (32, &report.digest));
    assert!(!stage.here.is_running() && stage.there.is_running());
    stage.there.stop();
    stage.there.check_since(&stage.here);
    assert_eq!(stage.here.endings(), [Ending::Discard]);
    assert_eq!(stage.there.endings(), [Ending::Keep]);
    assert_eq!((stage.alpha.guests(), stage.beta.guests()), (vec![], vec![]));
    let (here, there) = (report.post_copy.unwrap(), arrived.post_copy.unwrap());
    assert_eq!((here.missing_pages, here.lost_pages), (there.missing_pages, 0));
    assert_eq!(there.lost_pages, 0);
    arrived
}

#[test]
fn a_guest_goes_on_before_its_memory_is_there_and_misses_nothing() {
    if may_not() {
        return;
    }
    let stage = stage(1024);
    let migration = switched(&stage, &address(&stage.beta), slow());
    let arriving = stage.beta.migration(migration.id()).unwrap();
    wait_until("it writes while pages are missing", || {
        stage.there.counter() > stage.here.counter() + 20
    });
    assert!(arriving.progress().remaining_pages > 0, "all came at once");
    assert_eq!(arriving.owner(), Owner::Destination);
    assert!(arriving.start_post_copy().unwrap_err().to_string().contains("at the source"));
    // It cannot be cancelled any more, on neither side.
    migration.cancel();
    arriving.cancel();
    let report = migration.wait(PATIENCE).unwrap();
    let arrived = assert_whole(&stage, &report);
    let figures = arrived.post_copy.unwrap();
    assert!(figures.missing_pages > 500, "{figures:?}");
    assert!(figures.faults > 0 && figures.fault_p50_us > 0, "{figures:?}");
    assert!(figures.fault_p50_us <= figures.fault_p99_us, "{figures:?}");
    assert!(figures.fault_p99_us <= figures.fault_max_us, "{figures:?}");
    assert!(report.phases.contains_key("post_copy") && arrived.phases.contains_key("post_copy"));
    assert!(report.downtime_ms < report.phases["post_copy"].as_f64().unwrap());
    let completed = |event: dwcp::observe::Event| match event.kind {
        EventKind::PostCopyCompleted { figures: told, waits } => {
            told == figures && waits.counts().iter().sum::<u64>() == figures.faults
        }
        _ => false,
    };
    assert!(stage.beta.events(0).into_iter().any(completed));
}

#[test]
fn shared_memory_goes_on_too() {
    if may_not() {
        return;
    }
    let shared = || {
        let length = 512 * PAGE;
        let start = crate::support::map_shared(length);
        // SAFETY: the mapping is never unmapped.
        let memory = unsafe { MappedMemory::from_raw(layout(512), &[start]) };
        Guest::over(Arc::new(memory.unwrap()), 2000)
    };
    let stage = Stage::with(Guest::new(512, 2000), shared(), (None, None));
    let migration = switched(&stage, &address(&stage.beta), slow());
    let arrived = assert_whole(&stage, &migration.wait(PATIENCE).unwrap());
    assert!(arrived.post_copy.unwrap().faults > 0);
}

#[test]
fn a_guest_that_does_not_converge_is_moved_by_rule() {
    if may_not() {
        return;
    }
    let stage = stage(512);
    let options = MigrationOptions {
        post_copy: PostCopyRule::Auto,
        max_downtime: Duration::from_millis(20),
        ..slow()
    };
    let report = stage.run_directly(options);
    assert_whole(&stage, &report);
    assert!(stage.here.throttles().is_empty(), "it was slowed down");
    let why = |event: dwcp::observe::Event| match event.kind {
        EventKind::PostCopyBegun { why, .. } => Some(why),
        _ => None,
    };
    let whys: Vec<_> = stage.alpha.events(0).into_iter().filter_map(why).collect();
    assert_eq!(whys, ["passes brought no progress"]);
}

#[test]
fn without_leave_there_is_no_switch_and_nothing_to_give_up() {
    let stage = stage(512);
    let options = MigrationOptions { post_copy: PostCopyRule::Never, ..slow() };
    let migration = stage.migrate(&address(&stage.beta), options);
    let refused = migration.start_post_copy().unwrap_err();
    assert!(refused.to_string().contains("post_copy never"), "{refused}");
    assert_eq!(refused.status(), Status::BadState);
    let refused = migration.abandon_post_copy().unwrap_err().to_string();
    assert!(refused.contains("does not run without all of its pages"), "{refused}");
    migration.cancel();
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.post_copy), (Status::Cancelled, None));
}

#[test]
fn a_destination_that_cannot_says_why_before_anything_moves() {
    let stage = stage(PAGES);
    let beta = node("gamma", None);
    beta.add_destination("vm", Arc::new(Copying(stage.there.sink()))).unwrap();
    let report = stage.run(&address(&beta), slow());
    stage.assert_stayed(&report, Status::Unsupported, "its memory is not mapped in this process");
    assert_eq!(report.wire_bytes, 0, "something moved");
    beta.stop();
    // The same guest may come by pre-copy, and one that can by post-copy.
    stage.there.fail_at(Some("check_post_copy"));
    let report = stage.run_directly(slow());
    assert_eq!(report.status, Status::Unsupported);
    assert!(report.reason.contains("cannot be received by post-copy"), "{}", report.reason);
    stage.there.fail_at(None);
    stage.assert_moves();
}

#[test]
fn a_failure_at_the_switch_leaves_the_guest_at_the_source() {
    if may_not() {
        return;
    }
    for call in ["begin_post_copy", "load_device_state", "save_device_state", "pause"] {
        let stage = stage(PAGES);
        let failing =
            if ["save_device_state", "pause"].contains(&call) { &stage.here } else { &stage.there };
        failing.fail_at(Some(call));
        let migration = stage.migrate(&address(&stage.beta), slow());
        migration.start_post_copy().unwrap();
        let report = migration.wait(PATIENCE).unwrap();
        stage.assert_stayed(&report, Status::Callback, call);
        failing.fail_at(None);
        stage.assert_moves();
    }
}

#[test]
fn devices_may_need_pages_that_are_missing_before_the_guest_runs() {
    if may_not() {
        return;
    }
    let stage = stage(PAGES);
    stage.there.has_devices_in_memory(20);
    let migration = switched(&stage, &address(&stage.beta), slow());
    let arrived = assert_whole(&stage, &migration.wait(PATIENCE).unwrap());
    assert!(arrived.post_copy.unwrap().faults >= 20);
}

#[test]
fn devices_that_wait_for_a_page_are_let_go_when_the_switch_is_off() {
    if may_not() {
        return;
    }
    let stage = stage(PAGES);
    stage.there.has_devices_in_memory(20);
    let proxy = Proxy::new(stage.beta.local_address().unwrap());
    let handle = proxy.handle();
    at_phase(&stage.beta, Phase::Verify, move || handle.hold(FORWARD, true));
    let migration = stage.migrate(&proxy.address(), slow());
    migration.start_post_copy().unwrap();
    let arriving = || stage.beta.migration(migration.id()).ok();
    wait_until("the devices are being restored", || {
        arriving().is_some_and(|arriving| arriving.progress().phase == Phase::Verify)
    });
    std::thread::sleep(Duration::from_millis(300));
    let arriving = arriving().unwrap();
    assert!(arriving.report().is_none(), "they found what never came: {:?}", arriving.report());
    arriving.cancel();
    let arrived = arriving.wait(PATIENCE).unwrap();
    assert_eq!((arrived.status, arrived.owner), (Status::Cancelled, Owner::Source));
    assert_eq!((stage.there.endings(), stage.there.resumes()), (vec![Ending::Discard], 0));
    let report = migration.wait(PATIENCE).unwrap();
    stage.assert_stayed(&report, Status::Cancelled, "cancelled at the destination");
    proxy.handle().hold(FORWARD, false);
}

#[test]
fn streams_killed_again_and_again_while_pages_are_missing() {
    if may_not() {
        return;
    }
    let stage = stage(1024);
    let proxy = Proxy::new(stage.beta.local_address().unwrap());
    let migration = switched(&stage, &proxy.address(), slow());
    for round in 0..6 {
        wait_until("streams are up", || {
            migration.progress().streams > 0 || migration.report().is_some()
        });
        std::thread::sleep(Duration::from_millis(100));
        match round % 2 {
            0 => proxy.handle().kill_all(),
            _ => drop(proxy.handle().kill_one()),
        }
    }
    let report = migration.wait(PATIENCE).unwrap();
    assert!(report.reconnects > 0, "no stream was lost");
    assert_whole(&stage, &report);
}

#[test]
fn an_outage_longer_than_all_patience_only_makes_the_guest_wait() {
    if may_not() {
        return;
    }
    let stage = stage(1024);
    let proxy = Proxy::new(stage.beta.local_address().unwrap());
    let options = MigrationOptions { bandwidth_limit_bytes_per_s: Some(1 << 20), ..hasty() };
    let options = MigrationOptions { post_copy: PostCopyRule::Manual, ..options };
    let options = MigrationOptions { codec: CodecChoice::None.into(), ..options };
    let migration = switched(&stage, &proxy.address(), options);
    proxy.handle().refuse();
    proxy.handle().kill_all();
    std::thread::sleep(Duration::from_secs(4));
    assert!(migration.report().is_none(), "{:?}", migration.report());
    let counter = stage.there.counter();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(stage.there.counter(), counter, "it does not wait for what is missing");
    assert_eq!(migration.owner(), Owner::Destination);
    proxy.handle().admit();
    let report = migration.wait(PATIENCE).unwrap();
    assert!(report.reconnects > 0);
    assert_whole(&stage, &report);
}

#[test]
fn a_destination_killed_takes_the_guest_with_it_and_says_so_when_it_is_back() {
    if may_not() {
        return;
    }
    let right = Directory::new("post-copy-destination");
    let stage = Stage::new();
    let (mut child, to) = Child::destination("127.0.0.1:0", Some(&right.0), Some(Phase::PostCopy));
    let migration = stage.migrate(&to, slow());
    migration.start_post_copy().unwrap();
    child.expect("at post_copy");
    wait_until("the source knows", || migration.progress().phase == Phase::PostCopy);
    child.kill();
    std::thread::sleep(Duration::from_millis(500));
    assert!(migration.report().is_none(), "{:?}", migration.report());
    let kept = read_all(&right.0).unwrap();
    assert_eq!(kept.records[0].1.mark, Mark::OwnedIncomplete);
    assert!(kept.records[0].1.mark.advice().contains("it is lost"));
    let (_restarted, _) = Child::destination(&to, Some(&right.0), None);
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.owner), (Status::PostCopyLost, Owner::Destination));
    assert!(report.reason.contains("ended while the guest ran there"), "{}", report.reason);
    assert!(report.post_copy.unwrap().lost_pages > 0);
    assert!(!stage.here.is_running(), "it runs from before the switch");
    assert_eq!(stage.here.endings(), [Ending::Lost]);
}

#[test]
fn a_destination_that_never_comes_back_is_given_up_by_the_operator_alone() {
    if may_not() {
        return;
    }
    let stage = Stage::new();
    let (mut child, to) = Child::destination("127.0.0.1:0", None, Some(Phase::PostCopy));
    let options = MigrationOptions { reconnect_timeout: Duration::from_millis(500), ..slow() };
    let migration = stage.migrate(&to, options);
    migration.start_post_copy().unwrap();
    child.expect("at post_copy");
    wait_until("the source knows", || migration.progress().phase == Phase::PostCopy);
    child.kill();
    std::thread::sleep(Duration::from_secs(2));
    migration.cancel();
    assert!(migration.report().is_none(), "{:?}", migration.report());
    migration.abandon_post_copy().unwrap();
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.owner), (Status::PostCopyLost, Owner::Destination));
    assert!(report.reason.contains("by the operator"), "{}", report.reason);
    assert!(!stage.here.is_running());
    assert_eq!(stage.here.endings(), [Ending::Lost]);
}

#[test]
fn a_source_killed_leaves_the_guest_waiting_until_the_operator_gives_it_up() {
    if may_not() {
        return;
    }
    let (left, right) = (Directory::new("post-copy-a"), Directory::new("post-copy-b"));
    let (beta, there) = (node("beta", Some(&right.0)), Guest::new(PAGES, 1000));
    beta.add_destination("vm", there.sink()).unwrap();
    let mut source = Child::post_copy_source(&address(&beta), &left.0);
    wait_until("the guest runs", || there.is_running());
    let migration = beta.migrations().pop().unwrap();
    wait_until("the switch is over", || migration.progress().phase == Phase::PostCopy);
    source.kill();
    let mark = read_all(&left.0).unwrap().records[0].1.mark;
    assert!([Mark::PostCopySent, Mark::ServingPages].contains(&mark), "{mark:?}");
    wait_until("the guest waits", || {
        let counter = there.counter();
        std::thread::sleep(Duration::from_millis(300));
        there.counter() == counter
    });
    migration.cancel();
    assert!(migration.report().is_none(), "{:?}", migration.report());
    let missing = migration.progress().remaining_pages;
    migration.abandon_post_copy().unwrap();
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.owner), (Status::PostCopyLost, Owner::Destination));
    assert_eq!(report.post_copy.unwrap().lost_pages, missing);
    assert!(report.reason.contains(&format!("{missing} pages are lost")), "{}", report.reason);
    assert_eq!(there.endings(), [Ending::Lost]);
    beta.stop();
    assert_eq!(read_all(&right.0).unwrap().records[0].1.mark, Mark::Lost);
    // Whoever waits for a lost page never goes on, also now that the library has let go of the guest.
    let counter = there.counter();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(there.counter(), counter, "a page was invented");
    // Its thread waits for as long as this process lives.
    std::mem::forget(there);
}
