//! Tests of a destination that recovers, alone with what its source says.

use super::*;
use crate::base::{MachineFacts, MigrationId, StreamId};
use crate::migration::relay::destination::Released;
use crate::wire::segment::SegmentPayload;
use crate::wire::{Frame, FrameKind};
use std::time::Duration;

const STREAM: StreamId = StreamId(1);
const EARLIER: MigrationId = MigrationId([1; 16]);
const LATER: Time = Time(1_000_000_000_000);

fn connected() -> RelayDestination {
    let facts = MachineFacts { machine: "pc".into(), ram_bytes: 4096, cpus: 1 };
    let (id, guest) = (MigrationId([1; 16]), "vm".into());
    let setup =
        RelaySetup { id, guest, facts, channels: 0, post_copy: true, recovers: Some(EARLIER) };
    let second = Duration::from_secs(1);
    let patience = Patience { reconnect_timeout: second, stall_timeout: second };
    let mut machine = RelayDestination::recovering(setup, patience, Time(1));
    machine.stream_up(STREAM, "source", Time(1));
    machine.frame(STREAM, Frame { kind: FrameKind::Ping, payload: Vec::new() }, Time(1)).unwrap();
    machine
}

fn listening() -> RelayDestination {
    let mut machine = connected();
    done(&mut machine);
    machine.recovered(Ok(()));
    assert_eq!(said(&mut machine), [Control::Committed]);
    machine
}

fn tell(machine: &mut RelayDestination, number: u64, message: &Control) {
    let frame = Frame { kind: FrameKind::Control, payload: message.encode(number) };
    machine.frame(STREAM, frame, Time(2)).unwrap();
}

fn said(machine: &mut RelayDestination) -> Vec<Control> {
    let frames = std::iter::from_fn(|| machine.next_frame(STREAM, Time(2)));
    let control = frames.filter(|frame| frame.kind == FrameKind::Control);
    control.map(|frame| Control::decode(&frame.payload).unwrap().1).collect()
}

fn done(machine: &mut RelayDestination) -> Vec<Action> {
    std::iter::from_fn(|| machine.next_action()).collect()
}

fn status(machine: &RelayDestination) -> Option<Status> {
    machine.failure.as_ref().map(|failure| failure.status)
}

fn segment(machine: &mut RelayDestination, number: u64) {
    let head = number.to_le_bytes().to_vec();
    let payload = SegmentPayload { head, ..SegmentPayload::default() };
    machine.segment(STREAM, payload, Time(2)).unwrap();
}

#[test]
fn the_record_comes_first_and_no_byte_passes_before_the_hypervisor_listens() {
    let mut machine = connected();
    assert_eq!(done(&mut machine), [Action::Persist(Mark::OwnedIncomplete), Action::Recover]);
    assert_eq!(machine.owner(), Owner::Destination);
    segment(&mut machine, 0);
    assert!(!machine.has_segment() && said(&mut machine).is_empty());
    machine.recovered(Ok(()));
    assert_eq!(said(&mut machine), [Control::Committed]);
    assert!(machine.has_segment());
}

#[test]
fn a_hypervisor_that_refuses_is_left_as_it_was() {
    let mut machine = connected();
    done(&mut machine);
    machine.recovered(Err("not paused".into()));
    let (status_code, reason) = (Status::Callback.code(), "not paused".to_string());
    assert_eq!(said(&mut machine), [Control::Abort { status: status_code, reason }]);
    assert_eq!(done(&mut machine), [Action::Finish(Ending::Lost)]);
    assert_eq!((machine.owner(), status(&machine)), (Owner::Destination, Some(Status::Callback)));
}

#[test]
fn it_ends_when_the_hypervisor_has_all_and_the_stream_is_what_was_sent() {
    for hypervisor_first in [false, true] {
        let mut machine = listening();
        segment(&mut machine, 0);
        assert!(machine.next_segment().is_some());
        let number = machine.unpacked(0, 8, 7).unwrap();
        machine.replayed(number, Time(3));
        let mut sum = StreamSum::default();
        sum.add(0, 8, 7);
        let StreamSum { segments, bytes, digest } = sum;
        if hypervisor_first {
            machine.released(Released::Running, Time(4));
        }
        tell(&mut machine, 0, &Control::StreamEnd { segments, bytes, digest });
        if !hypervisor_first {
            machine.released(Released::Running, Time(4));
        }
        assert_eq!(done(&mut machine), [Action::Persist(Mark::Owned)]);
        machine.persisted(Mark::Owned, Ok(()));
        assert_eq!(said(&mut machine), [Control::Completed { digest: sum.proof() }]);
        assert_eq!(status(&machine), None);
    }
}

#[test]
fn no_clock_ends_it_and_a_source_that_never_began_does() {
    for mut machine in [connected(), listening()] {
        machine.tick(LATER);
        assert_eq!(status(&machine), None);
        done(&mut machine);
        tell(&mut machine, 0, &Control::Abort { status: -1, reason: "cancelled".into() });
        let expected = [Action::Persist(Mark::Lost), Action::Finish(Ending::Lost)];
        assert_eq!(done(&mut machine), expected);
        assert_eq!(machine.owner(), Owner::Destination);
    }
}

#[test]
fn the_operators_word_ends_it_at_any_time() {
    for mut machine in [connected(), listening()] {
        machine.abandon_post_copy().unwrap();
        assert_eq!(status(&machine), Some(Status::PostCopyLost));
        assert!(machine.abandon_post_copy().is_err());
    }
}

#[test]
fn it_gives_way_only_when_its_source_is_gone() {
    let mut machine = listening();
    assert!(!machine.give_way());
    machine.stream_down(STREAM, "gone", Time(3));
    done(&mut machine);
    assert!(machine.give_way() && !machine.give_way());
    assert_eq!(done(&mut machine), [Action::Finish(Ending::Lost)]);
    assert_eq!(
        (machine.owner(), status(&machine)),
        (Owner::Destination, Some(Status::ConnectionLost))
    );
    let mut early = connected();
    early.stream_down(STREAM, "gone", Time(3));
    assert!(!early.give_way(), "its hypervisor is about to be told");
}
