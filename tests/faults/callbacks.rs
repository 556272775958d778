//! A hypervisor whose calls fail, panic or take their time, and callers that change their minds.

use crate::stage::{
    PAGES, PATIENCE, Stage, address, at_phase, guest_layout, hasty, patient, wait_until,
};
use crate::support::Guest;
use dwcp::Status;
use dwcp::base::{MigrationId, StreamId, Time};
use dwcp::encoding::ImageDigest;
use dwcp::migration::ownership::Mark;
use dwcp::migration::source::{Action, Answer, Source, SourceSetup, Work};
use dwcp::migration::{CodecChoice, Ending, Failure, MigrationOptions, Owner, Phase};
use dwcp::wire::{Control, Frame, FrameKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const AT_SOURCE: [&str; 5] =
    ["start_dirty_log", "fetch_dirty", "read_pages", "pause", "save_device_state"];
const AT_DESTINATION: [&str; 4] =
    ["write_pages", "zero_pages", "receive_pages", "load_device_state"];

/// Stored chunks are received in place, others are decoded and written.
fn options_for(call: &str) -> MigrationOptions {
    let codec = if call == "receive_pages" { CodecChoice::None } else { CodecChoice::Lz4 };
    MigrationOptions { codec: codec.into(), ..patient() }
}

#[test]
fn calls_that_fail_at_the_source_leave_the_guest_there() {
    for call in AT_SOURCE {
        let stage = Stage::new();
        stage.here.fail_at(Some(call));
        let report = stage.run_directly(options_for(call));
        stage.assert_stayed(&report, Status::Callback, &format!("{call} failed with -7: as told"));
        stage.here.fail_at(None);
        stage.assert_moves();
        assert!(stage.there.endings().len() <= 2, "{:?}", stage.there.endings());
    }
}

#[test]
fn calls_that_fail_at_the_destination_leave_the_guest_at_the_source() {
    for call in AT_DESTINATION {
        let stage = Stage::new();
        stage.there.fail_at(Some(call));
        let report = stage.run_directly(options_for(call));
        stage.assert_stayed(&report, Status::Callback, &format!("{call} failed with -7: as told"));
        let arrived = stage.beta.migration(report.id).unwrap().wait(PATIENCE).unwrap();
        assert_eq!((arrived.status, arrived.owner), (Status::Callback, Owner::Source));
        assert_eq!(stage.there.endings(), [Ending::Discard]);
        stage.there.fail_at(None);
        stage.assert_moves();
    }
}

#[test]
fn calls_that_panic_are_calls_that_fail() {
    for call in AT_SOURCE {
        let stage = Stage::new();
        stage.here.panic_at(Some(call));
        let report = stage.run_directly(options_for(call));
        stage.assert_stayed(&report, Status::Callback, &format!("panic in {call}, as told"));
        stage.here.panic_at(None);
        stage.assert_moves();
    }
    for call in AT_DESTINATION {
        let stage = Stage::new();
        stage.there.panic_at(Some(call));
        let report = stage.run_directly(options_for(call));
        stage.assert_stayed(&report, Status::Callback, &format!("panic in {call}, as told"));
        stage.there.panic_at(None);
        stage.assert_moves();
    }
}

#[test]
fn a_guest_that_cannot_be_started_still_has_one_owner() {
    for fault in [Guest::fail_at, Guest::panic_at] {
        let stage = Stage::new();
        fault(&stage.there, Some("resume"));
        let report = stage.run_directly(patient());
        assert_eq!((report.status, report.owner), (Status::Callback, Owner::Destination));
        assert!(report.reason.contains("cannot start it"), "{}", report.reason);
        assert!(report.reason.contains("as told"), "{}", report.reason);
        let arrived = stage.beta.migration(report.id).unwrap().wait(PATIENCE).unwrap();
        assert_eq!((arrived.status, arrived.owner), (Status::Callback, Owner::Destination));
        assert!(!stage.here.is_running() && !stage.there.is_running());
        assert_eq!(stage.here.endings(), [Ending::Discard]);
        assert_eq!(stage.there.endings(), [Ending::Keep]);
    }
}

#[test]
fn a_source_that_cannot_be_resumed_says_so_and_keeps_the_guest() {
    let stage = Stage::new();
    stage.there.fail_at(Some("load_device_state"));
    stage.here.fail_at(Some("resume"));
    let report = stage.run_directly(patient());
    assert_eq!((report.status, report.owner), (Status::Callback, Owner::Source));
    let text = "load_device_state failed with -7: as told; also: resume failed with -7";
    assert!(report.reason.contains(text), "{}", report.reason);
    assert_eq!(stage.here.endings(), [Ending::Keep]);
    assert!(!stage.there.is_running());
}

#[test]
fn a_last_call_that_fails_changes_no_outcome() {
    let stage = Stage::new();
    stage.here.fail_at(Some("finish"));
    stage.there.fail_at(Some("finish"));
    let report = stage.run_directly(patient());
    stage.assert_moved(&report);
    assert_eq!((stage.here.endings().len(), stage.there.endings().len()), (1, 1));
}

#[test]
fn slow_calls_are_not_taken_for_a_slow_peer() {
    let slow = Duration::from_millis(1600);
    for call in ["start_dirty_log", "pause", "save_device_state"] {
        let stage = Stage::new();
        stage.here.delay_at(call, slow);
        let report = stage.run_directly(hasty());
        assert_eq!(report.status, Status::Ok, "{call}: {}", report.reason);
        stage.assert_moved(&report);
    }
}

#[test]
fn a_cancel_at_any_phase_before_the_commit_leaves_the_guest_at_the_source() {
    let phases =
        [Phase::Precopy, Phase::FinalPass, Phase::DeviceState, Phase::Verify, Phase::Handover];
    for (by_source, phase) in phases.iter().flat_map(|phase| [(true, *phase), (false, *phase)]) {
        let stage = Stage::new();
        let (alpha, beta) = (stage.alpha.clone(), stage.beta.clone());
        // On the source's own thread: nothing happens there until both have been cancelled.
        at_phase(&stage.alpha, phase, move || {
            let node = if by_source { &alpha } else { &beta };
            node.migrations().iter().for_each(|migration| migration.cancel());
        });
        let report = stage.run_directly(patient());
        let text = if by_source { "cancelled by the caller" } else { "cancelled at the dest" };
        stage.assert_stayed(&report, Status::Cancelled, text);
        assert!(stage.here.resumes() <= 2);
        let arrived = stage.beta.migration(report.id).unwrap().wait(PATIENCE).unwrap();
        assert_eq!((arrived.status, arrived.owner), (Status::Cancelled, Owner::Source));
        assert_eq!(stage.there.endings(), [Ending::Discard]);
    }
}

#[test]
fn a_cancel_after_the_commit_comes_too_late() {
    for by_source in [true, false] {
        let stage = Stage::new();
        let (alpha, beta) = (stage.alpha.clone(), stage.beta.clone());
        at_phase(if by_source { &stage.alpha } else { &stage.beta }, Phase::Resume, move || {
            let node = if by_source { &alpha } else { &beta };
            node.migrations().iter().for_each(|migration| migration.cancel());
        });
        let report = stage.run_directly(patient());
        assert_eq!(report.status, Status::Ok, "{}", report.reason);
        stage.assert_moved(&report);
    }
}

#[test]
fn a_cancel_at_any_moment_ends_it_one_way_or_the_other() {
    for round in 0..20 {
        let stage = Stage::new();
        let migration = stage.migrate(&address(&stage.beta), patient());
        std::thread::sleep(Duration::from_micros(1500 * round));
        migration.cancel();
        let report = migration.wait(PATIENCE).unwrap();
        match report.status {
            Status::Ok => stage.assert_moved(&report),
            status => {
                assert_eq!(status, Status::Cancelled, "{}", report.reason);
                stage.assert_stayed(&report, Status::Cancelled, "cancelled by the caller");
                stage.assert_moves();
            }
        }
    }
}

#[test]
fn a_chunk_that_cannot_be_read_is_settled_once() {
    let layout = guest_layout();
    let setup = SourceSetup {
        id: MigrationId([1; 16]),
        guest: "vm".into(),
        layout: layout.clone(),
        options: patient(),
    };
    let digest = Arc::new(ImageDigest::new(layout.page_count()));
    let mut source = Source::new(setup, digest, 256 * 1024, Time(0));
    let (left, right) = (StreamId(0), StreamId(1));
    source.stream_up(left, "beta", Time(0));
    source.stream_up(right, "beta", Time(0));
    for stream in [left, right] {
        let Work::Frame(greeting) = source.next_work(stream, Time(0)) else { panic!() };
        assert_eq!(greeting.kind, FrameKind::Ping);
    }
    assert_eq!(source.next_action(), Some(Action::Persist(Mark::SourceRuns)));
    source.answer(Answer::Persisted(Mark::SourceRuns, Ok(())), Time(1));
    assert_eq!(source.next_action(), Some(Action::StartDirtyLog));
    source.answer(Answer::DirtyLogStarted(Ok(())), Time(2));
    // Two chunks on the left; one cannot be read, so the stream breaks and is fenced.
    let Work::Chunk(sent) = source.next_work(left, Time(3)) else { panic!() };
    source.chunk_encoded(sent.id, 0, 1, 5000, Time(3));
    let Work::Chunk(failed) = source.next_work(left, Time(4)) else { panic!() };
    source.chunk_failed(failed.id, Failure::new(Status::Callback, "as told"), Time(4));
    source.stream_down(left, "as told", Time(5));
    let fenced = Control::Fenced { stream: left, arrived: vec![sent.id] };
    let frame = Frame { kind: FrameKind::Control, payload: fenced.encode(0) };
    source.frame(right, &frame, Time(6)).unwrap();
    assert_eq!(source.next_action(), Some(Action::Persist(Mark::SourceRuns)));
    assert_eq!(source.next_action(), Some(Action::Finish(Ending::Keep)));
}

#[test]
fn observers_see_each_phase_once_and_in_order() {
    let stage = Stage::with(Guest::new(PAGES, 1000), Guest::new(PAGES, 1000), (None, None));
    let seen = Arc::new(Mutex::new(Vec::new()));
    for phase in Phase::ALL {
        let seen = seen.clone();
        at_phase(&stage.alpha, phase, move || seen.lock().unwrap().push(phase));
    }
    let report = stage.run_directly(patient());
    stage.assert_moved(&report);
    wait_until("the end is told", || seen.lock().unwrap().last() == Some(&Phase::Ended));
    let without_post_copy = |phase: &Phase| *phase != Phase::PostCopy;
    let expected: Vec<_> = Phase::ALL[1..].iter().copied().filter(without_post_copy).collect();
    assert_eq!(*seen.lock().unwrap(), expected);
}
