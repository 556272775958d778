//! Tests of a source that recovers, alone with what its destination says.

use super::*;
use crate::base::{MachineFacts, MigrationId, StreamId};
use crate::migration::source::Work;
use crate::wire::hello::Ended;
use crate::wire::{Frame, FrameKind};

const STREAM: StreamId = StreamId(0);
const WHOLE: StreamSum = StreamSum { segments: 9, bytes: 90, digest: 6 };
const EARLIER: MigrationId = MigrationId([1; 16]);
const LATER: Time = Time(1_000_000_000_000);

fn features(recovers: Option<MigrationId>) -> Features {
    Features {
        codecs: 7,
        chunk_bytes: 1 << 18,
        baseline_pages: 0,
        held_pages: false,
        multifd_channels: 0,
        post_copy: true,
        rdma: false,
        recovers,
        flags: u32::MAX,
    }
}

/// Connected; nothing has come.
fn connected() -> RelaySource {
    let facts = MachineFacts { machine: "pc".into(), ram_bytes: 1 << 20, cpus: 1 };
    let (id, guest) = (MigrationId([2; 16]), "vm".into());
    let setup =
        RelaySetup { id, guest, facts, channels: 0, post_copy: true, recovers: Some(EARLIER) };
    let mut source = RelaySource::recovering(setup, MigrationOptions::default(), Time(1));
    source.agree(features(Some(EARLIER)), Time(1));
    source.stream_up(STREAM, "destination", Time(1));
    source
}

/// Its hypervisor goes on.
fn resumed() -> RelaySource {
    let mut source = connected();
    tell(&mut source, 0, &Control::Committed);
    assert!(source.should_start(Time(2)) && !source.should_start(Time(2)));
    source.resumed(7);
    source
}

fn tell(source: &mut RelaySource, number: u64, message: &Control) {
    let frame = Frame { kind: FrameKind::Control, payload: message.encode(number) };
    source.frame(STREAM, &frame, Time(3)).unwrap();
}

fn said(source: &mut RelaySource) -> Vec<Control> {
    let works = std::iter::from_fn(|| match source.next_work(STREAM, Time(3)) {
        Work::Frame(frame) => Some(frame),
        _ => None,
    });
    let control = works.filter(|frame| frame.kind == FrameKind::Control);
    control.map(|frame| Control::decode(&frame.payload).unwrap().1).collect()
}

fn done(source: &mut RelaySource) -> Vec<Action> {
    std::iter::from_fn(|| source.next_action()).collect()
}

fn status(source: &RelaySource) -> Option<Status> {
    source.failure.as_ref().map(|failure| failure.status)
}

#[test]
fn nothing_begins_and_nothing_is_written_before_the_destination_listens() {
    let mut source = connected();
    assert!(!source.should_start(Time(2)));
    assert_eq!((source.owner(), done(&mut source)), (Owner::Destination, vec![]));
    tell(&mut source, 0, &Control::Committed);
    assert!(source.should_start(Time(2)));
    assert_eq!(done(&mut source), [Action::Persist(Mark::ServingPages)]);
}

#[test]
fn until_then_any_failure_leaves_all_as_it_was() {
    type Way = (Status, fn(&mut RelaySource));
    let ways: [Way; 6] = [
        (Status::Cancelled, |source| source.cancel(Time(2))),
        (Status::Callback, |source| {
            let reason = "QEMU is not paused".to_string();
            tell(source, 0, &Control::Abort { status: Status::Callback.code(), reason });
        }),
        (Status::BadState, |source| {
            source.refused(Status::BadState.code(), "not paused", Ended::No, Time(2));
        }),
        (Status::ConnectionLost, |source| {
            source.stream_down(STREAM, "cut", Time(2));
            source.tick(LATER);
        }),
        (Status::PeerStalled, |source| source.tick(LATER)),
        (Status::UnexpectedMessage, |source| {
            tell(source, 0, &Control::Completed { digest: [0; 16] });
        }),
    ];
    for (expected, way) in ways {
        let mut source = connected();
        way(&mut source);
        assert_eq!((source.owner(), status(&source)), (Owner::Destination, Some(expected)));
        assert_eq!(done(&mut source), [Action::Finish(Ending::Lost)], "{expected:?}");
        assert!(!source.should_start(Time(2)));
    }
}

#[test]
fn from_then_on_no_clock_ends_it_and_all_is_as_after_a_switch() {
    let mut source = resumed();
    done(&mut source);
    source.stream_down(STREAM, "cut", Time(4));
    source.cancel(Time(5));
    source.tick(LATER);
    assert!(source.wants_streams() && source.wants_segments() && status(&source).is_none());
    source.stream_up(STREAM, "destination", LATER);
    tell(&mut source, 1, &Control::Return { bytes: vec![5] });
    assert_eq!(done(&mut source), [Action::Return(vec![5])]);
    source.stream_ended(WHOLE, LATER);
    let StreamSum { segments, bytes, digest } = WHOLE;
    assert!(said(&mut source).contains(&Control::StreamEnd { segments, bytes, digest }));
    tell(&mut source, 2, &Control::Completed { digest: WHOLE.proof() });
    assert_eq!(status(&source), None);
    let expected = [Action::Persist(Mark::GivenAway), Action::Finish(Ending::Discard)];
    assert_eq!(done(&mut source), expected);
    source.finished(Ok(()), LATER);
    assert_eq!(source.report().unwrap().post_copy.unwrap().missing_pages, 7);
}

#[test]
fn a_hypervisor_that_pauses_again_ends_it_on_both_sides() {
    let mut source = resumed();
    done(&mut source);
    source.hypervisor_paused("bitmaps differ");
    source.hypervisor_paused("bitmaps differ");
    assert_eq!(said(&mut source), [Control::Abandon { reason: "bitmaps differ".into() }]);
    assert_eq!((source.owner(), status(&source)), (Owner::Destination, Some(Status::PostCopyLost)));
    let expected = [Action::Persist(Mark::Lost), Action::Finish(Ending::Lost)];
    assert_eq!(done(&mut source), expected);
}

#[test]
fn a_destination_that_does_not_know_of_recoveries_is_no_use() {
    let facts = MachineFacts { machine: "pc".into(), ram_bytes: 1 << 20, cpus: 1 };
    let (id, guest) = (MigrationId([2; 16]), "vm".into());
    let setup =
        RelaySetup { id, guest, facts, channels: 0, post_copy: true, recovers: Some(EARLIER) };
    let mut source = RelaySource::recovering(setup, MigrationOptions::default(), Time(1));
    source.agree(features(None), Time(1));
    assert_eq!((source.owner(), status(&source)), (Owner::Destination, Some(Status::Unsupported)));
}
