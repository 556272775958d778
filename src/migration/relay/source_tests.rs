//! Tests of a source that waits for what its destination holds; the rest is simulated in tests/sim.

use super::*;
use crate::base::limits::MAX_ANNOUNCED_PIECE_PAGES;
use crate::base::{MachineFacts, MigrationId};

const STREAM: StreamId = StreamId(0);
const KEY: [u8; 32] = [8; 32];
const SECOND: Duration = Duration::from_secs(1);

fn source(held_pages: bool) -> RelaySource {
    let facts = MachineFacts { machine: "pc".into(), ram_bytes: 1 << 20, cpus: 1 };
    let (id, guest) = (MigrationId([1; 16]), "vm".into());
    let setup = RelaySetup { id, guest, facts, channels: 0, post_copy: false, recovers: None };
    let options = MigrationOptions { stall_timeout: 5 * SECOND, ..MigrationOptions::default() };
    let mut source = RelaySource::new(setup, options, Time(1));
    let features = Features {
        codecs: 7,
        chunk_bytes: 1 << 18,
        baseline_pages: 9,
        held_pages,
        multifd_channels: 0,
        post_copy: false,
        rdma: false,
        recovers: None,
        flags: u32::MAX,
    };
    source.agree(features, Time(1));
    source.stream_up(STREAM, "destination", Time(1));
    source
}

fn tell(source: &mut RelaySource, number: u64, piece: &Control) {
    let frame = Frame { kind: FrameKind::Control, payload: piece.encode(number) };
    source.frame(STREAM, &frame, Time(2)).unwrap();
}

fn piece(last: bool, hashes: Vec<u64>) -> Control {
    Control::Held { key: KEY, last, hashes }
}

fn failure(source: &RelaySource) -> (Status, String) {
    let failure = source.failure.clone().unwrap();
    (failure.status, failure.reason)
}

#[test]
fn nothing_starts_before_the_last_piece_whatever_comes_first_or_twice() {
    let mut source = source(true);
    assert!(!source.should_start(Time(1)));
    tell(&mut source, 1, &piece(true, vec![30]));
    assert!(!source.should_start(Time(2)) && source.announced().is_none());
    tell(&mut source, 0, &piece(false, vec![10, 20]));
    tell(&mut source, 0, &piece(false, vec![10, 20]));
    assert_eq!(source.announced().unwrap().len(), 3);
    assert!(source.should_start(Time(2)) && !source.should_start(Time(3)));
}

#[test]
fn a_peer_that_announces_nothing_is_not_waited_for() {
    let mut source = source(false);
    assert!(source.should_start(Time(1)) && source.announced().is_none());
    tell(&mut source, 0, &piece(true, vec![1]));
    assert_eq!(failure(&source).0, Status::UnexpectedMessage);
}

#[test]
fn an_announcement_that_does_not_come_is_a_stalled_peer() {
    let mut source = source(true);
    source.tick(Time(1) + 4 * SECOND);
    assert!(source.failure.is_none());
    source.tick(Time(1) + 6 * SECOND);
    assert_eq!(failure(&source).0, Status::PeerStalled);
}

#[test]
fn hostile_announcements_end_the_migration_with_the_guest_here() {
    let mut two_keys = source(true);
    tell(&mut two_keys, 0, &piece(false, vec![1]));
    tell(&mut two_keys, 1, &Control::Held { key: [9; 32], last: true, hashes: vec![] });
    assert!(failure(&two_keys).1.contains("two keys"));

    let mut endless = source(true);
    let pieces = MAX_ANNOUNCED_PAGES as usize / MAX_ANNOUNCED_PIECE_PAGES;
    for number in 0..=pieces as u64 {
        assert!(endless.failure.is_none());
        tell(&mut endless, number, &piece(false, vec![number; MAX_ANNOUNCED_PIECE_PAGES]));
    }
    assert_eq!(failure(&endless).0, Status::LimitReached);
    assert_eq!(endless.owner(), Owner::Source);

    let mut again = source(true);
    tell(&mut again, 0, &piece(true, vec![1]));
    tell(&mut again, 1, &piece(true, vec![2]));
    assert_eq!(failure(&again).0, Status::UnexpectedMessage);
}

/// A source whose stream is out, down to its end.
fn source_in_doubt() -> RelaySource {
    let mut source = source(false);
    source.should_start(Time(1));
    source.stream_ended(StreamSum::default(), Time(2));
    source.persisted(Mark::CommitSent, Ok(()), Time(2));
    assert_eq!(source.owner(), Owner::InDoubt);
    source.stream_down(STREAM, "cut", Time(3));
    source
}

#[test]
fn a_guest_that_was_lost_there_is_known_to_be_even_where_only_the_node_remembers_it() {
    let mut source = source_in_doubt();
    let lost = Status::Callback.code();
    source.refused(lost, "QEMU has ended", Ended::DestinationOwns, Time(4));
    assert_eq!(source.owner(), Owner::Destination);
    assert_eq!(failure(&source), (Status::Callback, "destination: QEMU has ended".into()));
    let mut source = source_in_doubt();
    let over = Status::PeerAborted.code();
    source.refused(over, "it is over", Ended::DestinationOwns, Time(4));
    assert_eq!((source.owner(), source.failure), (Owner::Destination, None));
}

#[test]
fn a_changed_cap_counts_for_what_the_link_is_taken_for() {
    let mut source = source(false);
    assert_eq!(source.link_bytes_per_s(), None);
    source.set_bandwidth_limit(Some(1 << 20), Time(2));
    assert_eq!(source.link_bytes_per_s(), Some(1 << 20));
    assert_eq!(source.bandwidth_bytes_per_s(), Some(1 << 20));
    source.set_bandwidth_limit(None, Time(3));
    assert_eq!(source.bandwidth_bytes_per_s(), None);
}
