//! Tests of a destination whose hypervisor runs a guest before it has all of it.

use super::*;
use crate::base::{MachineFacts, MigrationId, StreamId};
use crate::migration::relay::RelaySetup;
use crate::migration::relay::destination::Patience;
use crate::wire::segment::SegmentPayload;
use crate::wire::{Frame, FrameKind};

const STREAM: StreamId = StreamId(1);
const LATER: Time = Time(1_000_000_000_000);

struct There {
    machine: RelayDestination,
    sum: StreamSum,
    told: u64,
}

impl There {
    fn new(post_copy: bool) -> Self {
        let facts = MachineFacts { machine: "pc".into(), ram_bytes: 4096, cpus: 1 };
        let (id, guest) = (MigrationId([1; 16]), "vm".into());
        let setup = RelaySetup { id, guest, facts, channels: 0, post_copy, recovers: None };
        let second = Duration::from_secs(1);
        let patience = Patience { reconnect_timeout: second, stall_timeout: second };
        let mut machine = RelayDestination::new(setup, patience, Time(1));
        machine.stream_up(STREAM, "source", Time(1));
        Self { machine, sum: StreamSum::default(), told: 0 }
    }

    /// A segment comes and is unpacked, if it may be.
    fn segment(&mut self) -> Option<u64> {
        let number = self.sum.segments;
        let head = number.to_le_bytes().to_vec();
        let payload = SegmentPayload { head, ..SegmentPayload::default() };
        self.machine.segment(STREAM, payload, Time(2)).unwrap();
        self.sum.add(0, 8, 7);
        self.machine.next_segment()?;
        self.machine.unpacked(0, 8, 7)
    }

    fn tell(&mut self, message: &Control) {
        let frame = Frame { kind: FrameKind::Control, payload: message.encode(self.told) };
        self.told += 1;
        self.machine.frame(STREAM, frame, Time(2)).unwrap();
    }

    fn tell_switch(&mut self) {
        let StreamSum { segments, bytes, digest } = self.sum;
        self.tell(&Control::StreamSwitch { segments, bytes, digest });
    }

    fn tell_end(&mut self) {
        let StreamSum { segments, bytes, digest } = self.sum;
        self.tell(&Control::StreamEnd { segments, bytes, digest });
    }

    fn said(&mut self) -> Vec<Control> {
        let frames = std::iter::from_fn(|| self.machine.next_frame(STREAM, Time(2)));
        let control = frames.filter(|frame| frame.kind == FrameKind::Control);
        control.map(|frame| Control::decode(&frame.payload).unwrap().1).collect()
    }

    fn done(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.machine.next_action()).collect()
    }

    /// The package is here and proved, and its record due.
    fn proved() -> Self {
        let mut there = Self::new(true);
        let before = there.segment().unwrap();
        let package = there.segment().unwrap();
        there.machine.package_ended(Time(2));
        there.tell_switch();
        there.machine.replayed(package, Time(2));
        assert!(there.done() == [Action::Persist(Mark::Receiving)], "not all is replayed");
        there.machine.replayed(before, Time(2));
        assert_eq!(there.done(), [Action::Persist(Mark::OwnedIncomplete)]);
        there
    }

    /// Its hypervisor has the package.
    fn handed_over() -> Self {
        let mut there = Self::proved();
        there.machine.persisted(Mark::OwnedIncomplete, Ok(()));
        assert_eq!(there.done(), [Action::ReleaseEnd]);
        assert!(there.machine.is_switching() && there.said().is_empty());
        there.machine.handed_over(Ok(()), Time(3));
        there
    }

    /// The guest runs.
    fn running() -> Self {
        let mut there = Self::handed_over();
        there.machine.devices_restored(Time(3));
        let resumed = Control::Resumed { status: 0, reason: String::new() };
        assert_eq!(there.said(), [Control::Committed, resumed]);
        there
    }

    fn status(&self) -> Option<Status> {
        self.machine.failure.as_ref().map(|failure| failure.status)
    }
}

#[test]
fn nothing_behind_the_package_is_replayed_before_the_hypervisor_has_it() {
    let mut there = There::proved();
    assert_eq!(there.segment(), None);
    there.machine.persisted(Mark::OwnedIncomplete, Ok(()));
    assert!(there.machine.next_segment().is_none());
    there.machine.handed_over(Ok(()), Time(3));
    assert!(there.machine.next_segment().is_some(), "devices may wait for it");
    assert_eq!(there.machine.owner(), Owner::Destination);
}

#[test]
fn a_package_that_is_not_what_was_sent_is_never_handed_over() {
    let mut there = There::new(true);
    let number = there.segment().unwrap();
    there.machine.package_ended(Time(2));
    there.sum.digest ^= 1;
    there.tell_switch();
    there.machine.replayed(number, Time(2));
    assert_eq!(
        (there.status(), there.machine.owner()),
        (Some(Status::DigestMismatch), Owner::Source)
    );
    assert!(!there.done().contains(&Action::ReleaseEnd));
}

#[test]
fn a_switch_that_nobody_agreed_on_is_refused() {
    let mut there = There::new(false);
    there.segment();
    there.machine.package_ended(Time(2));
    assert_eq!(there.status(), Some(Status::UnexpectedMessage));
    let mut there = There::new(false);
    there.tell_switch();
    assert_eq!(there.status(), Some(Status::UnexpectedMessage));
}

#[test]
fn until_its_devices_are_restored_the_guest_goes_back() {
    let gone = || "QEMU has ended".to_string();
    let ends: [fn(&mut RelayDestination, String); 2] = [
        |machine, text| machine.handed_over(Err(text), Time(3)),
        |machine, text| {
            machine.handed_over(Ok(()), Time(3));
            machine.released(Released::NeverRan(text), Time(3));
        },
    ];
    for end in ends {
        let mut there = There::proved();
        there.machine.persisted(Mark::OwnedIncomplete, Ok(()));
        there.done();
        end(&mut there.machine, gone());
        let expected = [Action::Persist(Mark::Discarded), Action::Finish(Ending::Discard)];
        assert_eq!((there.done(), there.said()), (expected.into(), Vec::new()));
        there.machine.persisted(Mark::Discarded, Ok(()));
        assert!(matches!(there.said()[..], [Control::Abort { .. }]));
        assert_eq!(there.machine.owner(), Owner::Source);
    }
}

#[test]
fn after_that_it_is_lost_with_its_hypervisor_whatever_that_is_taken_for() {
    for end in [Released::NeverRan("gone".into()), Released::Lost("gone".into())] {
        let mut there = There::running();
        there.machine.released(end, Time(4));
        assert_eq!(there.said(), [Control::Abandon { reason: "gone".into() }]);
        let expected = [Action::Persist(Mark::Lost), Action::Finish(Ending::Lost)];
        assert_eq!(there.done(), expected);
        assert_eq!(there.status(), Some(Status::PostCopyLost));
        assert_eq!(there.machine.owner(), Owner::Destination);
    }
}

#[test]
fn it_is_whole_when_the_hypervisor_has_all_and_the_stream_is_what_was_sent() {
    for hypervisor_first in [false, true] {
        let mut there = There::running();
        let number = there.segment().unwrap();
        there.machine.replayed(number, Time(4));
        if hypervisor_first {
            there.machine.released(Released::Running, Time(4));
            there.tell_end();
        } else {
            there.tell_end();
            there.machine.released(Released::Running, Time(4));
        }
        assert_eq!((there.done(), there.said()), (vec![Action::Persist(Mark::Owned)], Vec::new()));
        there.machine.persisted(Mark::Owned, Ok(()));
        assert_eq!(there.said(), [Control::Completed { digest: there.sum.proof() }]);
        assert_eq!(there.status(), None);
    }
}

#[test]
fn no_clock_ends_the_wait_for_memory_but_that_for_the_proof() {
    let mut there = There::running();
    there.machine.stream_down(STREAM, "cut", Time(4));
    there.machine.cancel();
    there.machine.tick(LATER);
    assert!(there.done().is_empty() && there.machine.wants_segments());
    there.machine.released(Released::Running, LATER);
    there.machine.persisted(Mark::Owned, Ok(()));
    there.done();
    there.machine.tick(LATER + Duration::from_secs(2));
    assert_eq!(there.done(), [Action::Finish(Ending::Keep)]);
    assert_eq!(there.status(), Some(Status::ConnectionLost));
}

#[test]
fn either_operator_may_give_it_up_and_only_when_it_lacks_memory() {
    let mut there = There::running();
    there.machine.abandon_post_copy().unwrap();
    assert!(there.done().ends_with(&[Action::Finish(Ending::Lost)]));
    assert!(matches!(there.said()[..], [Control::Abandon { .. }]));
    let mut there = There::running();
    there.tell(&Control::Abandon { reason: "at the source".into() });
    assert!(there.done().ends_with(&[Action::Finish(Ending::Lost)]));
    let mut whole = There::running();
    whole.machine.released(Released::Running, Time(4));
    whole.tell(&Control::Abandon { reason: "QEMU at the source has ended".into() });
    assert_eq!(whole.status(), Some(Status::ConnectionLost), "it lacks nothing");
    assert!(whole.done().ends_with(&[Action::Finish(Ending::Keep)]));
    let early = There::new(true).machine.abandon_post_copy();
    assert_eq!(early, Err(PostCopyError::NotInPostCopy(Phase::Precopy)));
    let mut there = There::running();
    there.machine.released(Released::Running, Time(4));
    assert!(there.machine.abandon_post_copy().is_err());
}

#[test]
fn the_time_from_a_request_to_its_page_is_taken() {
    let mut there = There::running();
    there.machine.page_asked(0, 5, Time(1_000));
    there.machine.page_asked(0, 5, Time(2_000));
    assert!(there.machine.awaits_pages());
    there.machine.page_given(0, 4, Time(3_000));
    there.machine.page_given(0, 5, Time(5_000));
    assert!(!there.machine.awaits_pages());
    let figures = there.machine.post_copy_figures().unwrap();
    assert_eq!((figures.faults, figures.fault_max_us), (2, 4_000));
}
