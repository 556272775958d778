//! Tests of a source whose hypervisor switches to post-copy, alone with what its destination says.

use super::*;
use crate::base::{MachineFacts, MigrationId, StreamId};
use crate::migration::MigrationOptions;
use crate::migration::relay::RelaySetup;
use crate::wire::hello::{Ended, Features};
use crate::wire::{Frame, FrameKind};
use std::time::Duration;

const STREAM: StreamId = StreamId(0);
const SWITCHED: StreamSum = StreamSum { segments: 3, bytes: 30, digest: 5 };
const WHOLE: StreamSum = StreamSum { segments: 9, bytes: 90, digest: 6 };

fn source(rule: PostCopyRule) -> RelaySource {
    let facts = MachineFacts { machine: "pc".into(), ram_bytes: 1 << 20, cpus: 1 };
    let (id, guest) = (MigrationId([1; 16]), "vm".into());
    let post_copy = rule != PostCopyRule::Never;
    let setup = RelaySetup { id, guest, facts, channels: 0, post_copy, recovers: None };
    let deadline = Some(Duration::from_secs(100));
    let options = MigrationOptions { post_copy: rule, deadline, ..MigrationOptions::default() };
    let mut source = RelaySource::new(setup, options, Time(1));
    let features = Features {
        codecs: 7,
        chunk_bytes: 1 << 18,
        baseline_pages: 9,
        held_pages: false,
        multifd_channels: 0,
        post_copy,
        rdma: false,
        recovers: None,
        flags: u32::MAX,
    };
    source.agree(features, Time(1));
    source.stream_up(STREAM, "destination", Time(1));
    assert!(source.should_start(Time(1)));
    source
}

/// Its switch is out.
fn in_doubt() -> RelaySource {
    let mut source = source(PostCopyRule::Manual);
    source.start_post_copy().unwrap();
    assert!(source.should_switch() && !source.should_switch());
    source.stream_switched(SWITCHED, 7, Time(2));
    assert!(!source.has_room(0, 0), "what follows waits for the record");
    source.persisted(Mark::PostCopySent, Ok(()), Time(2));
    assert!(source.has_room(0, 0) && source.owner() == Owner::InDoubt);
    source
}

/// The destination runs the guest.
fn serving() -> RelaySource {
    let mut source = in_doubt();
    tell(&mut source, 0, &Control::Committed);
    tell(&mut source, 1, &Control::Resumed { status: 0, reason: String::new() });
    assert_eq!((source.owner(), source.clock.phase()), (Owner::Destination, Phase::PostCopy));
    source
}

fn tell(source: &mut RelaySource, number: u64, message: &Control) {
    let frame = Frame { kind: FrameKind::Control, payload: message.encode(number) };
    source.frame(STREAM, &frame, Time(3)).unwrap();
}

fn said(source: &mut RelaySource) -> Vec<Control> {
    let works = std::iter::from_fn(|| match source.next_work(STREAM, Time(3)) {
        crate::migration::source::Work::Frame(frame) => Some(frame),
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

const LATER: Time = Time(1_000_000_000_000);

#[test]
fn the_switch_goes_out_once_it_is_written_down() {
    let mut source = in_doubt();
    let StreamSum { segments, bytes, digest } = SWITCHED;
    assert_eq!(said(&mut source), [Control::StreamSwitch { segments, bytes, digest }]);
    assert!(done(&mut source).contains(&Action::Persist(Mark::PostCopySent)));
}

#[test]
fn a_record_that_cannot_be_written_leaves_the_guest_here() {
    let mut source = source(PostCopyRule::Manual);
    source.stream_switched(SWITCHED, 7, Time(2));
    source.persisted(Mark::PostCopySent, Err("disk full".into()), Time(2));
    assert_eq!((source.owner(), status(&source)), (Owner::Source, Some(Status::StateFile)));
    assert!(done(&mut source).contains(&Action::Finish(Ending::Keep)));
    let messages = said(&mut source);
    assert!(matches!(messages[..], [Control::Abort { .. }]), "{messages:?}");
}

#[test]
fn before_the_destination_has_the_guest_it_may_give_it_back() {
    let mut source = in_doubt();
    tell(&mut source, 0, &Control::Abort { status: -1, reason: "no devices".into() });
    assert_eq!(source.owner(), Owner::Source);
    assert!(done(&mut source).contains(&Action::Finish(Ending::Keep)));
    let mut source = serving();
    tell(&mut source, 2, &Control::Abort { status: -1, reason: "no devices".into() });
    assert_eq!((source.owner(), status(&source)), (Owner::Destination, None));
}

#[test]
fn no_clock_ends_what_only_this_side_can_serve() {
    for mut source in [in_doubt(), serving()] {
        source.stream_down(STREAM, "cut", Time(4));
        source.cancel(Time(5));
        source.tick(LATER);
        assert!(source.wants_streams() && source.wants_segments() && status(&source).is_none());
    }
}

#[test]
fn what_the_hypervisor_there_answers_comes_in_order_and_once() {
    let mut source = source(PostCopyRule::Auto);
    done(&mut source);
    for number in [1, 0, 1] {
        tell(&mut source, number, &Control::Return { bytes: vec![number as u8] });
    }
    assert_eq!(done(&mut source), [Action::Return(vec![0, 1])]);
}

#[test]
fn answers_that_nobody_takes_do_not_pile_up_and_leave_both_halves() {
    let mut source = serving();
    done(&mut source);
    for number in 2.. {
        tell(&mut source, number, &Control::Return { bytes: vec![0; 200 << 10] });
        if status(&source).is_some() {
            break;
        }
        assert!(number < 100_000, "without a limit");
    }
    assert_eq!(status(&source), Some(Status::PostCopyLost));
    let actions = done(&mut source);
    assert!(actions.ends_with(&[Action::Finish(Ending::Lost)]), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Return(_))));
}

#[test]
fn the_guest_is_let_go_when_the_destination_has_proved_all_of_it() {
    for (proof, expected) in [(WHOLE.proof(), None), ([1; 16], Some(Status::DigestMismatch))] {
        let mut source = serving();
        source.stream_ended(WHOLE, Time(4));
        source.stream_ended(WHOLE, Time(4));
        let StreamSum { segments, bytes, digest } = WHOLE;
        let end = Control::StreamEnd { segments, bytes, digest };
        assert_eq!(said(&mut source).iter().filter(|message| **message == end).count(), 1);
        tell(&mut source, 2, &Control::Completed { digest: proof });
        assert_eq!((source.owner(), status(&source)), (Owner::Destination, expected));
        let expected = [Action::Persist(Mark::GivenAway), Action::Finish(Ending::Discard)];
        assert!(done(&mut source).ends_with(&expected));
    }
}

#[test]
fn an_end_that_comes_before_the_destination_says_that_it_runs_is_not_forgotten() {
    let mut source = in_doubt();
    source.stream_ended(WHOLE, Time(3));
    assert_eq!(said(&mut source).len(), 1);
    tell(&mut source, 0, &Control::Committed);
    assert!(matches!(said(&mut source)[..], [Control::StreamEnd { .. }]));
}

#[test]
fn a_guest_is_lost_with_either_hypervisor_and_by_the_operators_word() {
    let lost = Status::PostCopyLost;
    type Way = (&'static str, fn(&mut RelaySource));
    let ways: [Way; 4] = [
        ("QEMU there", |source| tell(source, 2, &Control::Abandon { reason: "gone".into() })),
        ("QEMU here", |source| source.hypervisor_gone("gone")),
        ("the operator", |source| source.abandon_post_copy().unwrap()),
        ("its record", |source| {
            source.refused(Status::PostCopyLost.code(), "gone", Ended::DestinationOwns, Time(4));
        }),
    ];
    for (who, lose) in ways {
        let mut source = serving();
        lose(&mut source);
        assert_eq!((source.owner(), status(&source)), (Owner::Destination, Some(lost)), "{who}");
        let actions = done(&mut source);
        let expected = [Action::Persist(Mark::Lost), Action::Finish(Ending::Lost)];
        assert!(actions.ends_with(&expected), "{who}: {actions:?}");
    }
}

#[test]
fn a_destination_that_ended_well_while_nobody_heard_it_has_the_guest() {
    let over = Status::PeerAborted.code();
    let mut whole = serving();
    whole.stream_ended(WHOLE, Time(4));
    whole.refused(over, "it is over", Ended::DestinationOwns, Time(4));
    assert_eq!((whole.owner(), status(&whole)), (Owner::Destination, None));
    for mut early in [in_doubt(), serving()] {
        early.refused(over, "it is over", Ended::DestinationOwns, Time(4));
        assert_eq!(early.owner(), Owner::Destination);
        assert_eq!(status(&early), Some(Status::ConnectionLost));
        assert!(done(&mut early).ends_with(&[Action::Finish(Ending::Discard)]));
    }
    let mut back = in_doubt();
    back.refused(over, "it is over", Ended::SourceOwns, Time(4));
    assert_eq!(back.owner(), Owner::Source);
}

#[test]
fn who_gives_up_in_doubt_does_not_know() {
    let mut source = in_doubt();
    source.abandon_post_copy().unwrap();
    assert_eq!((source.owner(), status(&source)), (Owner::InDoubt, Some(Status::InDoubt)));
    assert!(done(&mut source).contains(&Action::Finish(Ending::Undecided)));
    let error = self::source(PostCopyRule::Manual).abandon_post_copy().unwrap_err();
    assert_eq!(error, PostCopyError::NotInPostCopy(Phase::Precopy));
}

#[test]
fn rules_decide_who_may_ask_for_a_switch() {
    let mut never = source(PostCopyRule::Never);
    assert_eq!(never.start_post_copy(), Err(PostCopyError::NotAllowed));
    never.tick(LATER);
    assert_eq!(status(&never), Some(Status::DidNotConverge));
    let mut manual = source(PostCopyRule::Manual);
    (1..9).for_each(|pass| manual.note_pass(pass, 100));
    assert!(!manual.should_switch());
    let mut auto = source(PostCopyRule::Auto);
    for (pass, left) in [(1, 1000), (2, 900), (3, 890), (3, 889), (4, 700), (5, 690)] {
        auto.note_pass(pass, left);
        assert!(!auto.should_switch(), "{pass}");
    }
    auto.note_pass(6, 680);
    assert!(auto.should_switch());
    let mut late = source(PostCopyRule::Auto);
    late.tick(Time(1) + Duration::from_secs(101));
    assert!(late.should_switch() && status(&late).is_none());
}
