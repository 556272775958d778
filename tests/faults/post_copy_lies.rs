//! Peers that lie about post-copy: a destination that asks for what there is not or for too much, and a
//! source whose switch does not add up.

use crate::destination_lies::{Fake, accept_with, skip_payload};
use crate::hand::{self, FEATURES, Hand, PAGE_BYTES, stored_chunk};
use crate::post_copy::{may_not, slow};
use crate::stage::{PAGES, PATIENCE, Stage, address, guest_layout, wait_until};
use dwcp::Status;
use dwcp::base::limits::MAX_REQUEST_PAGES;
use dwcp::migration::{Ending, MigrationOptions, Owner};
use dwcp::observe::EventKind;
use dwcp::runtime::connection::Incoming;
use dwcp::wire::hello::Features;
use dwcp::wire::{ChunkAck, Control, FrameKind, Hello, PageRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const POST_COPY: Features = Features { post_copy: true, ..FEATURES };

/// What a fake destination saw after the switch.
#[derive(Default)]
struct Seen {
    missing_pages: AtomicU64,
    pages: AtomicU64,
}

/// A destination that does its part, calls `after` when the guest is said to run, and answers the last
/// digest by `completed`.
fn switching(
    seen: &Arc<Seen>,
    after: impl Fn(&mut Hand) + Send + Sync + 'static,
    completed: impl Fn([u8; 16]) -> [u8; 16] + Send + Sync + 'static,
) -> Fake {
    let seen = seen.clone();
    Fake::new(move |socket| {
        let Some((mut hand, _)) = Hand::answer(socket, &accept_with(POST_COPY)) else { return };
        let mut is_open = false;
        while let Ok(incoming) = hand.next() {
            match incoming {
                Incoming::Chunk(header) => {
                    skip_payload(&mut hand, &header);
                    let pages: u32 = header.extents.iter().map(|extent| extent.pages).sum();
                    seen.pages.fetch_add(if is_open { pages.into() } else { 0 }, SeqCst);
                    let ack = ChunkAck { arrived: vec![header.id], ..ChunkAck::default() };
                    hand.frame(FrameKind::ChunkAck, ack.encode());
                }
                Incoming::Frame(frame) if frame.kind == FrameKind::Control => {
                    let (sequence, message) = Control::decode(&frame.payload).unwrap();
                    hand.frame(FrameKind::ControlAck, (sequence + 1).to_le_bytes().to_vec());
                    match message {
                        Control::Switch { digest, missing_pages, .. } => {
                            seen.missing_pages.store(missing_pages, SeqCst);
                            is_open = true;
                            hand.say(&Control::Verified { digest });
                        }
                        Control::Commit => {
                            hand.say(&Control::Committed);
                            hand.say(&Control::Resumed { status: 0, reason: String::new() });
                            after(&mut hand);
                        }
                        Control::Whole { digest } => {
                            hand.say(&Control::Completed { digest: completed(digest) });
                        }
                        _ => {}
                    }
                }
                Incoming::Frame(_) | Incoming::Segment(_) => {}
            }
        }
    })
}

fn one_stream() -> MigrationOptions {
    MigrationOptions { streams: 1, bandwidth_limit_bytes_per_s: None, ..slow() }
}

fn ask(hand: &mut Hand, pages: &[u64]) {
    let request = PageRequest { pages: pages.to_vec() };
    hand.frame(FrameKind::PageRequest, request.encode());
}

#[test]
fn a_flood_of_requests_brings_every_page_once() {
    let seen = Arc::new(Seen::default());
    let flood = |hand: &mut Hand| {
        for round in 0..2_000 {
            let pages: Vec<u64> =
                (0..MAX_REQUEST_PAGES as u64).map(|page| (page * 7 + round) % PAGES).collect();
            ask(hand, &pages);
        }
    };
    let fake = switching(&seen, flood, |digest| digest);
    let stage = Stage::new();
    let migration = stage.migrate(&fake.address(), one_stream());
    migration.start_post_copy().unwrap();
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!(
        (report.status, report.owner),
        (Status::Ok, Owner::Destination),
        "{}",
        report.reason
    );
    assert_eq!(seen.pages.load(SeqCst), seen.missing_pages.load(SeqCst));
    let figures = report.post_copy.unwrap();
    assert!(figures.faults <= figures.missing_pages, "{figures:?}");
    assert_eq!(stage.here.endings(), [Ending::Discard]);
}

#[test]
fn a_page_that_the_guest_does_not_have_costs_the_connection_and_nothing_else() {
    let seen = Arc::new(Seen::default());
    let fake = switching(&seen, |hand| ask(hand, &[PAGES]), |digest| digest);
    let stage = Stage::new();
    let options = MigrationOptions { bandwidth_limit_bytes_per_s: Some(65_536), ..one_stream() };
    let migration = stage.migrate(&fake.address(), options);
    migration.start_post_copy().unwrap();
    let named = format!("requested page is {PAGES}");
    let is_named = |event: dwcp::observe::Event| matches!(event.kind, EventKind::StreamDown { reason, .. } if reason.contains(&named));
    wait_until("it is closed", || stage.alpha.events(0).into_iter().any(is_named));
    assert!(migration.report().is_none(), "{:?}", migration.report());
    assert!(!stage.here.is_running());
    migration.abandon_post_copy().unwrap();
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!(report.status, Status::PostCopyLost);
    assert_eq!(stage.here.endings(), [Ending::Lost]);
}

#[test]
fn a_request_before_the_switch_keeps_the_guest_here() {
    let fake = Fake::new(|socket| {
        let Some((mut hand, _)) = Hand::answer(socket, &accept_with(POST_COPY)) else { return };
        ask(&mut hand, &[1]);
        hand.drain();
    });
    let stage = Stage::new();
    let report = stage.run(&fake.address(), one_stream());
    stage.assert_stayed(&report, Status::UnexpectedMessage, "unexpected PageRequest frame");
    stage.assert_moves();
}

#[test]
fn another_digest_at_the_end_is_told_and_the_guest_stays_there() {
    let seen = Arc::new(Seen::default());
    let fake = switching(&seen, |_| (), |_| [9; 16]);
    let stage = Stage::new();
    let migration = stage.migrate(&fake.address(), one_stream());
    migration.start_post_copy().unwrap();
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.owner), (Status::DigestMismatch, Owner::Destination));
    assert!(report.reason.contains(&"09".repeat(16)), "{}", report.reason);
    assert_eq!(report.digest, "");
    assert!(!stage.here.is_running());
}

fn liar(stage: &Stage, features: Features) -> Hand {
    let hello = Hello { features, ..hand::open(1, "vm", guest_layout()) };
    Hand::accepted(&address(&stage.beta), &hello).0
}

/// The destination aborts with this status and text, and an honest source may come.
fn assert_aborted(features: Features, lie: impl Fn(&mut Hand), status: Status, text: &str) {
    let stage = Stage::new();
    let mut liar = liar(&stage, features);
    lie(&mut liar);
    let (code, reason) = liar.next_abort();
    assert_eq!(Status::from_code(code), Some(status), "{reason}");
    assert!(reason.contains(text), "{reason:?} lacks {text:?}");
    let report = stage.beta.migrations().pop().unwrap().wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.owner), (status, Owner::Source));
    assert_eq!((stage.there.endings(), stage.there.resumes()), (vec![Ending::Discard], 0));
    stage.assert_moves();
}

/// Pages 0 and 64 are missing.
fn map() -> Control {
    let mut bytes = vec![0; PAGES as usize / 8];
    (bytes[0], bytes[8]) = (1, 1);
    Control::Missing { first_page: 0, codec: 0, bytes }
}

fn switch(missing_pages: u64) -> Control {
    Control::Switch { digest: [7; 16], missing_pages, device_state_bytes: 0, device_state_crc: 0 }
}

#[test]
fn a_switch_that_does_not_add_up_is_turned_down() {
    if may_not() {
        return;
    }
    let unexpected = Status::UnexpectedMessage;
    let without = |hand: &mut Hand| hand.say(&switch(1));
    assert_aborted(FEATURES, without, unexpected, "which was not agreed on");
    let map_without = |hand: &mut Hand| hand.say(&map());
    assert_aborted(FEATURES, map_without, unexpected, "without post-copy");
    let miscounted = |hand: &mut Hand| {
        hand.say(&map());
        hand.say(&switch(3));
    };
    assert_aborted(POST_COPY, miscounted, unexpected, "3 pages are missing, and the map has 2");
    let nothing = |hand: &mut Hand| hand.say(&switch(0));
    assert_aborted(POST_COPY, nothing, unexpected, "0 pages are missing");
    let other_state = |hand: &mut Hand| {
        hand.say(&map());
        hand.say(&Control::DeviceState { offset_bytes: 0, bytes: vec![1; 8] });
        hand.say(&switch(2));
    };
    assert_aborted(POST_COPY, other_state, unexpected, "a device state of 8 bytes came, 0 are");
    let other_image = |hand: &mut Hand| {
        let page = [3; PAGE_BYTES as usize];
        hand.chunk(&stored_chunk(1, 5, &page), &page);
        hand.next_ack();
        hand.say(&map());
        hand.say(&switch(2));
    };
    assert_aborted(POST_COPY, other_image, Status::DigestMismatch, &"07".repeat(16));
}

#[test]
fn a_map_of_nonsense_is_turned_down() {
    if may_not() {
        return;
    }
    let twice = |hand: &mut Hand| {
        hand.say(&map());
        hand.say(&map());
    };
    assert_aborted(POST_COPY, twice, Status::Corrupt, "missing pages from 0 on");
    let far = |hand: &mut Hand| {
        hand.say(&Control::Missing { first_page: 1 << 20, codec: 0, bytes: vec![0; 64] });
    };
    assert_aborted(POST_COPY, far, Status::Corrupt, "missing pages from 1048576 on");
    let bomb = |hand: &mut Hand| {
        hand.say(&Control::Missing {
            first_page: 0,
            codec: 2,
            bytes: vec![0x28, 0xb5, 0x2f, 0xfd],
        });
    };
    assert_aborted(POST_COPY, bomb, Status::Corrupt, "missing pages from 0 on");
}
