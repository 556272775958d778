//! A source that says a proper hello and then lies: the destination gives up what came, says why,
//! and takes the same guest from an honest source right after.

use crate::hand::{self, Hand, PAGE_BYTES, chunk_head, stored_chunk};
use crate::stage::{PAGES, PATIENCE, Stage, address, guest_layout, wait_until};
use dwcp::Status;
use dwcp::base::StreamId;
use dwcp::migration::{Ending, Owner};
use dwcp::observe::EventKind;
use dwcp::wire::chunk::READ_LIVE;
use dwcp::wire::hello::Purpose;
use dwcp::wire::rdma::Offer;
use dwcp::wire::{ChunkAck, ChunkHeader, Control, Extent, ExtentKind, FrameKind, Hello};
use std::io::Write;

const PAGE: [u8; PAGE_BYTES as usize] = [0xa5; PAGE_BYTES as usize];

fn liar(stage: &Stage) -> Hand {
    Hand::accepted(&address(&stage.beta), &hand::open(1, "vm", guest_layout())).0
}

fn finalize(device_state_bytes: u64) -> Control {
    Control::Finalize { digest: [1; 16], device_state_bytes, device_state_crc: 0 }
}

fn piece(offset_bytes: u64, length: usize) -> Control {
    Control::DeviceState { offset_bytes, bytes: vec![7; length] }
}

/// The destination aborts with this status and text.
fn assert_aborted(lie: impl FnOnce(&mut Hand), status: Status, text: &str) {
    let stage = Stage::new();
    let mut liar = liar(&stage);
    lie(&mut liar);
    let (code, reason) = liar.next_abort();
    assert_eq!(Status::from_code(code), Some(status), "{reason}");
    assert!(reason.contains(text), "{reason:?} lacks {text:?}");
    let migration = stage.beta.migrations().pop().unwrap();
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.reason, report.owner), (status, reason, Owner::Source));
    assert_eq!((stage.there.endings(), stage.there.resumes()), (vec![Ending::Discard], 0));
    stage.assert_moves();
}

/// The destination closes the connection for this reason; an honest source may then come.
fn assert_hung_up(lie: impl FnOnce(&mut Hand), text: &str) {
    let stage = Stage::new();
    let mut liar = liar(&stage);
    lie(&mut liar);
    liar.drain();
    wait_until(text, || stream_ends(&stage).iter().any(|reason| reason.contains(text)));
    drop(liar);
    assert_eq!(stage.there.resumes(), 0);
    stage.assert_moves();
    let report = stage.beta.migrations()[0].wait(PATIENCE).unwrap();
    assert_eq!(report.owner, Owner::Source);
    assert_eq!(stage.there.endings(), [Ending::Discard, Ending::Keep]);
}

fn stream_ends(stage: &Stage) -> Vec<String> {
    let reason = |kind| match kind {
        EventKind::StreamDown { reason, .. } => Some(reason),
        _ => None,
    };
    stage.beta.events(0).into_iter().filter_map(|event| reason(event.kind)).collect()
}

#[test]
fn a_wrong_digest_ends_it() {
    let lie = |hand: &mut Hand| {
        hand.chunk(&stored_chunk(1, 0, &PAGE), &PAGE);
        assert_eq!(hand.next_ack().arrived.len(), 1);
        hand.say(&finalize(0));
        hand.say(&Control::AllArrived);
    };
    assert_aborted(lie, Status::DigestMismatch, &format!("source's {}", "01".repeat(16)));
}

#[test]
fn pages_past_the_end_are_named() {
    let lie = |hand: &mut Hand| hand.chunk(&stored_chunk(1, PAGES, &PAGE), &PAGE);
    assert_hung_up(lie, &format!("chunk 1 names page {PAGES}; the guest has {PAGES}"));
    let far = |hand: &mut Hand| {
        let extents = vec![Extent { first_page: 0, pages: 1 << 20, kind: ExtentKind::Zero }];
        let header = ChunkHeader {
            extents,
            ..ChunkHeader { raw_bytes: 0, payload_bytes: 0, ..stored_chunk(2, 0, &PAGE) }
        };
        hand.chunk(&header, &[]);
    };
    assert_hung_up(far, "names page 1048575");
}

#[test]
fn a_page_twice_in_a_chunk_is_named() {
    let lie = |hand: &mut Hand| {
        let twice = [PAGE, PAGE].concat();
        let mut header = stored_chunk(1, 8, &twice);
        let half = Extent { first_page: 9, pages: 1, kind: ExtentKind::Data };
        header.extents = vec![half, half];
        hand.chunk(&header, &twice);
    };
    assert_hung_up(lie, "names page 9, which another chunk is writing");
}

#[test]
fn two_chunks_cannot_write_one_page_at_the_same_time() {
    let stage = Stage::new();
    let hello = hand::open(1, "vm", guest_layout());
    let (mut first, token) = Hand::accepted(&address(&stage.beta), &hello);
    let join = Hello { stream: StreamId(1), purpose: Purpose::Join { token }, ..hello };
    let (mut second, _) = Hand::accepted(&address(&stage.beta), &join);
    let header = stored_chunk(1, 3, &PAGE);
    let head = chunk_head(&header, PAGE.len(), first.writer.sequence());
    // The first chunk's payload is held back, so that its page stays claimed.
    (&*first.socket).write_all(&[&head[..], &PAGE[..100]].concat()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    second.chunk(&stored_chunk(2, 3, &PAGE), &PAGE);
    second.drain();
    wait_until("the second is closed", || {
        stream_ends(&stage).iter().any(|reason| reason.contains("chunk 2 names page 3, which"))
    });
    (&*first.socket).write_all(&PAGE[100..]).unwrap();
    assert_eq!(first.next_ack().arrived, [header.id]);
    drop((first, second));
    stage.assert_moves();
}

#[test]
fn a_page_that_drips_in_does_not_keep_a_cancelled_arrival() {
    let stage = Stage::new();
    let mut liar = liar(&stage);
    let head = chunk_head(&stored_chunk(1, 3, &PAGE), PAGE.len(), liar.writer.sequence());
    (&*liar.socket).write_all(&head).unwrap();
    let socket = liar.socket.clone();
    let dripping = std::thread::spawn(move || {
        for byte in PAGE {
            std::thread::sleep(std::time::Duration::from_secs(1));
            if (&*socket).write_all(&[byte]).is_err() {
                return;
            }
        }
    });
    let migration = stage.beta.migrations().pop().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    migration.cancel();
    let report = migration.wait(PATIENCE).expect("it waits for the last byte");
    assert_eq!((report.status, report.owner), (Status::Cancelled, Owner::Source));
    liar.drain();
    dripping.join().unwrap();
    stage.assert_moves();
}

#[test]
fn a_damaged_chunk_is_asked_for_again() {
    let stage = Stage::new();
    let mut hand = liar(&stage);
    let good = stored_chunk(3, 5, &PAGE);
    let wrong_sum = ChunkHeader { checksum: good.checksum ^ 1, ..stored_chunk(1, 5, &PAGE) };
    let no_lz4 = ChunkHeader { codec: 1, ..stored_chunk(2, 5, &PAGE) };
    for damaged in [wrong_sum, no_lz4] {
        hand.chunk(&damaged, &PAGE);
        let ack = ChunkAck { damaged: vec![damaged.id], ..ChunkAck::default() };
        assert_eq!(hand.next_ack(), ack);
    }
    hand.chunk(&good, &PAGE);
    assert_eq!(hand.next_ack(), ChunkAck { arrived: vec![good.id], ..ChunkAck::default() });
    wait_until("the damage is told", || {
        let told = |kind: &EventKind| matches!(kind, EventKind::ChunkDamaged { .. });
        stage.beta.events(0).iter().filter(|event| told(&event.kind)).count() == 2
    });
    drop(hand);
    stage.assert_moves();
}

#[test]
fn a_codec_not_agreed_on_ends_it() {
    let lie = |hand: &mut Hand| {
        hand.chunk(&ChunkHeader { codec: 77, ..stored_chunk(1, 0, &PAGE) }, &PAGE);
    };
    assert_aborted(lie, Status::BadFrame, "chunk 1 is packed by codec 77");
}

#[test]
fn pages_are_read_by_rdma_only_where_that_was_agreed_on() {
    let lie = |hand: &mut Hand| {
        let announced =
            ChunkHeader { codec: READ_LIVE, payload_bytes: 0, ..stored_chunk(1, 0, &PAGE) };
        hand.chunk(&announced, &[]);
    };
    assert_hung_up(lie, "announced on a stream without a queue pair");
    let offer = |hand: &mut Hand| {
        hand.frame(FrameKind::RdmaOffer, Offer::Neither("for fun".into()).encode());
    };
    assert_aborted(offer, Status::UnexpectedMessage, "unexpected RdmaOffer frame");
}

#[test]
fn device_state_must_come_in_order_and_as_promised() {
    let say = |messages: Vec<Control>| {
        move |hand: &mut Hand| messages.iter().for_each(|message| hand.say(message))
    };
    let unexpected = Status::UnexpectedMessage;
    let gap = say(vec![piece(0, 3), piece(5, 1)]);
    assert_aborted(gap, unexpected, "device state at 5 where 3 is due");
    let late = say(vec![piece(0, 3), finalize(3), piece(3, 1)]);
    assert_aborted(late, unexpected, "device state after it was complete");
    let short = say(vec![piece(0, 3), finalize(20)]);
    assert_aborted(short, unexpected, "device state of 20 bytes, but 3 came");
    let long = say(vec![finalize(u64::MAX)]);
    assert_aborted(long, unexpected, "device state of 18446744073709551615 bytes, but 0 came");
}

#[test]
fn device_state_without_end_is_cut_off() {
    let lie = |hand: &mut Hand| {
        const PIECE: usize = 256 * 1024;
        for number in 0..=1024 {
            hand.say(&piece(number * PIECE as u64, PIECE));
        }
    };
    assert_aborted(lie, Status::LimitReached, "device state is over 268435456 bytes");
}

#[test]
fn messages_out_of_turn_end_it() {
    let unexpected = Status::UnexpectedMessage;
    let say = |message: Control| move |hand: &mut Hand| hand.say(&message);
    assert_aborted(say(Control::Commit), unexpected, "commit while Receiving");
    assert_aborted(say(Control::Committed), unexpected, "from the source: Committed");
    let verified = Control::Verified { digest: [0; 16] };
    assert_aborted(say(verified), unexpected, "from the source: Verified");
    let ack = |hand: &mut Hand| hand.frame(FrameKind::ChunkAck, ChunkAck::default().encode());
    assert_aborted(ack, unexpected, "unexpected ChunkAck frame from the source");
}

#[test]
fn frames_that_break_the_session_cost_the_connection() {
    let raw = |payload: Vec<u8>| move |hand: &mut Hand| hand.frame(FrameKind::Control, payload);
    let unknown = [&[0; 8][..], &[99]].concat();
    assert_hung_up(raw(unknown), "control message is 99, allowed is 1 to 19");
    let ahead = Control::Commit.encode(100_000);
    assert_hung_up(raw(ahead), "control message 100000 is beyond the window that starts at 0");
    let trailing = [Control::Commit.encode(0), vec![1, 2]].concat();
    assert_hung_up(raw(trailing), "control message: 2 bytes too many");
    let ack = |hand: &mut Hand| hand.frame(FrameKind::ControlAck, 9_u64.to_le_bytes().to_vec());
    assert_hung_up(ack, "acknowledgement of control message 9, which was never sent");
}
