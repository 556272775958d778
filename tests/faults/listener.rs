//! Strangers at the listener: each is turned away with a text that names what was wrong, and the
//! node goes on serving.

use crate::hand::{self, Hand, PAGE_BYTES, chunk_head, stored_chunk};
use crate::stage::{
    PAGES, Stage, address, guest_layout, hasty, keeper, patient, refusals, wait_until,
};
use crate::support::{Guest, layout};
use dwcp::Status;
use dwcp::base::{MemoryLayout, RegionLayout, StreamId};
use dwcp::wire::hello::Purpose;
use dwcp::wire::{Frame, FrameHeader, FrameKind, Hello, HelloReply, Paths, Preface, ToldMetrics};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

fn opening(frame: &Frame, sequence: u64) -> Vec<u8> {
    let preface = Preface { minor: 0 }.encode();
    [&preface[..], &frame.header(sequence).encode(), &frame.payload].concat()
}

fn hello_bytes(hello: &Hello) -> Vec<u8> {
    opening(&Frame { kind: FrameKind::Hello, payload: hello.encode() }, 0)
}

/// Sends bytes and returns what came back until the node closed.
fn throw(to: &str, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The node may close before it has read all of it.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    answer
}

fn damaged(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 0x40;
    bytes
}

/// A hello frame with its payload changed and the checksums right.
fn altered(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = hand::open(1, "vm", guest_layout()).encode();
    change(&mut payload);
    opening(&Frame { kind: FrameKind::Hello, payload }, 0)
}

fn long_frame() -> Vec<u8> {
    let header =
        FrameHeader { kind: FrameKind::Hello, payload_bytes: 131_073, sequence: 0, body_crc: 0 };
    [&Preface { minor: 0 }.encode()[..], &header.encode()].concat()
}

fn unknown_kind() -> Vec<u8> {
    let ping = FrameHeader { kind: FrameKind::Ping, payload_bytes: 0, sequence: 0, body_crc: 0 };
    let mut header = ping.encode();
    header[0] = 99;
    let crc = crc32fast::hash(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    [&Preface { minor: 0 }.encode()[..], &header].concat()
}

fn chunk_first() -> Vec<u8> {
    let page = [1; PAGE_BYTES as usize];
    let head = chunk_head(&stored_chunk(1, 0, &page), page.len(), 0);
    [&Preface { minor: 0 }.encode()[..], &head, &page].concat()
}

fn hostile_openings() -> Vec<(Vec<u8>, &'static str)> {
    let good = hand::open(1, "vm", guest_layout());
    let frame = |kind| Frame { kind, payload: good.encode() };
    let ping = Frame { kind: FrameKind::Ping, payload: Vec::new() };
    vec![
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "magic is [47, 45, 54, 20]"),
        (vec![0; 64], "magic is [00, 00, 00, 00]"),
        ([b"DWCP\x04\0\x01\0", &[0; 64][..]].concat(), "peer speaks version 4.1"),
        ([b"DWCP\x01\0\x00\0", &[0; 64][..]].concat(), "peer speaks version 1.0"),
        (long_frame(), "frame payload is 131073 long, the limit is 131072"),
        (damaged(hello_bytes(&good), 9), "frame header: checksum"),
        (damaged(hello_bytes(&good), 40), "frame body: checksum"),
        (opening(&frame(FrameKind::Hello), 5), "frame 5 where 0 is due"),
        (unknown_kind(), "frame kind is 99"),
        (opening(&frame(FrameKind::Control), 0), "Control frame where Hello is due"),
        (opening(&ping, 0), "Ping frame where Hello is due"),
        (chunk_first(), "Chunk frame where Hello is due"),
        (altered(|bytes| bytes.truncate(3)), "migration id: 16 bytes needed, 3 left"),
        (altered(|bytes| bytes[20..24].fill(0xff)), "node name is 4294967295 long"),
        (altered(|bytes| bytes[24] = 0xff), "node name is not UTF-8"),
        (altered(|bytes| bytes[24] = b'\n'), "name \"\\nallory\" is not 1 to 128"),
    ]
}

#[test]
fn every_hostile_opening_is_refused_with_its_value() {
    let stage = Stage::new();
    for (bytes, text) in hostile_openings() {
        let before = refusals(&stage.beta).len();
        throw(&address(&stage.beta), &bytes);
        wait_until(text, || refusals(&stage.beta).len() > before);
        let reason = refusals(&stage.beta).pop().unwrap();
        assert!(reason.contains(text), "{reason:?} lacks {text:?}");
    }
    stage.assert_moves();
}

#[test]
fn paths_are_told_to_those_who_are_named_alone() {
    let stage = Stage::new();
    let ask = opening(&Frame { kind: FrameKind::AskPaths, payload: Vec::new() }, 0);
    stage.beta.add_peer("127.0.0.1:1").unwrap();
    // Preface, header, status.
    let answer = throw(&address(&stage.beta), &ask);
    let refusal = HelloReply::decode(&answer[32..]).unwrap();
    let HelloReply::Refuse { status, reason, .. } = refusal else { panic!("{refusal:?}") };
    assert_eq!(status, Status::Refused.code());
    assert!(reason.contains("does not name 127.0.0.1"), "{reason}");
    assert!(!answer.windows(11).any(|bytes| bytes == b"127.0.0.1:1"), "nothing of its peers");
    wait_until("the refusal is told of", || {
        refusals(&stage.beta).iter().any(|text| text.contains("does not name 127.0.0.1"))
    });
    stage.beta.share_paths_with("127.0.0.1".parse().unwrap());
    let told = Paths::decode(&throw(&address(&stage.beta), &ask)[32..]).unwrap();
    assert_eq!((told.node.as_str(), told.rows[0].peer.as_str()), ("beta", "127.0.0.1:1"));
    let long = opening(&Frame { kind: FrameKind::AskPaths, payload: vec![0; 4] }, 0);
    assert_eq!(throw(&address(&stage.beta), &long), b"");
    let answers = |_| throw(&address(&stage.beta), &ask);
    let refused = (0..200).map(answers).any(|answer| {
        HelloReply::decode(&answer[32..]).is_ok_and(
        |reply| matches!(reply, HelloReply::Refuse { status, .. } if status == Status::Busy.code()),
    )
    });
    assert!(refused, "200 at once are too many");
    stage.assert_moves();
}

#[test]
fn metrics_are_told_to_those_who_are_named_alone() {
    let stage = Stage::new();
    let ask = opening(&Frame { kind: FrameKind::AskMetrics, payload: Vec::new() }, 0);
    let refusal = || {
        let reply = HelloReply::decode(&throw(&address(&stage.beta), &ask)[32..]).unwrap();
        let HelloReply::Refuse { status, reason, .. } = reply else { panic!("{reply:?}") };
        (status, reason)
    };
    let (status, reason) = refusal();
    assert_eq!(status, Status::Refused.code());
    assert_eq!(reason, "node.share_metrics_with does not name 127.0.0.1");
    wait_until("the refusal is told of", || {
        refusals(&stage.beta).iter().any(|text| text.contains("share_metrics_with does not name"))
    });
    // To whom the paths are told, the metrics are not.
    stage.beta.share_paths_with("127.0.0.1".parse().unwrap());
    assert_eq!(refusal().0, Status::Refused.code());
    stage.beta.share_metrics_with("127.0.0.1".parse().unwrap());
    assert_eq!(refusal().0, Status::Unsupported.code(), "nobody keeps them yet");
    let _keeper = keeper(&stage.beta);
    let told = ToldMetrics::decode(&throw(&address(&stage.beta), &ask)[32..]).unwrap();
    assert_eq!(told.node, "beta");
    assert!(told.families.iter().any(|family| family.name == "node.uptime"));
    let long = opening(&Frame { kind: FrameKind::AskMetrics, payload: vec![0; 4] }, 0);
    assert_eq!(throw(&address(&stage.beta), &long), b"");
    let unasked = opening(&Frame { kind: FrameKind::Metrics, payload: told.encode() }, 0);
    assert_eq!(throw(&address(&stage.beta), &unasked), b"");
    let is_busy = |_| {
        HelloReply::decode(&throw(&address(&stage.beta), &ask)[32..]).is_ok_and(
        |reply| matches!(reply, HelloReply::Refuse { status, .. } if status == Status::Busy.code()),
    )
    };
    assert!((0..200).any(is_busy), "200 at once are too many");
    stage.assert_moves();
}

/// Frames of a probing connection, in order.
fn probing(frames: &[(FrameKind, &[u8])]) -> Vec<u8> {
    let mut bytes = Preface { minor: 0 }.encode().to_vec();
    for (sequence, (kind, payload)) in frames.iter().enumerate() {
        let frame = Frame { kind: *kind, payload: payload.to_vec() };
        bytes.extend_from_slice(&frame.header(sequence as u64).encode());
        bytes.extend_from_slice(payload);
    }
    bytes
}

#[test]
fn probes_come_back_and_leave_no_trace() {
    use FrameKind::{Filler, Probe, ProbeReply};
    let stage = Stage::new();
    let sent = [(Probe, &b"01234567"[..]), (Filler, &[7; 9000]), (Probe, b"abcdefgh")];
    let answer = throw(&address(&stage.beta), &probing(&sent));
    let expected = [(ProbeReply, &b"01234567"[..]), (ProbeReply, b"abcdefgh")];
    assert_eq!(answer, probing(&expected));
    assert_eq!(refusals(&stage.beta), Vec::<String>::new());
    stage.assert_moves();
}

#[test]
fn a_probing_connection_may_do_nothing_else() {
    use FrameKind::{Filler, Hello, Probe};
    let stage = Stage::new();
    let probe = (Probe, &[1; 8][..]);
    let too_many = vec![probe; 66];
    for (frames, text) in [
        (&[(Probe, &[1; 9][..])][..], "frame payload is 9 long, the limit is 8"),
        (&[(Filler, &[1; 9][..])], "Filler frame where Hello is due"),
        (&[probe, (Hello, &[1; 9])], "Hello frame where Probe is due"),
        (&[probe, (Filler, &vec![0; (256 << 10) + 1])], "the limit is 262144"),
        (&too_many, "more than 64 probes on one connection"),
    ] {
        let before = refusals(&stage.beta).len();
        throw(&address(&stage.beta), &probing(frames));
        wait_until(text, || refusals(&stage.beta).len() > before);
        let reason = refusals(&stage.beta).pop().unwrap();
        assert!(reason.contains(text), "{reason:?} lacks {text:?}");
    }
    stage.assert_moves();
}

#[test]
fn a_hello_broken_off_anywhere_is_refused() {
    let stage = Stage::new();
    let whole = hello_bytes(&hand::open(1, "vm", guest_layout()));
    let lengths: Vec<_> = (0..whole.len()).step_by(5).chain([whole.len() - 1]).collect();
    for length in &lengths {
        throw(&address(&stage.beta), &whole[..*length]);
    }
    wait_until("all are refused", || refusals(&stage.beta).len() >= lengths.len());
    assert_eq!(stage.beta.migrations().len(), 0);
    stage.assert_moves();
}

#[test]
fn random_bytes_and_damaged_hellos_are_refused() {
    let stage = Stage::new();
    let seed = std::process::id();
    println!("seed {seed}");
    let mut random = u64::from(seed) | 1;
    let whole = hello_bytes(&hand::open(1, "vm", guest_layout()));
    for round in 0..200 {
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut bytes = whole.clone();
        if round % 2 == 0 {
            bytes[8..].fill_with(|| next() as u8);
        } else {
            let at = next() as usize % bytes.len();
            // The minor version, flags and reserved bytes may be anything in a later version.
            bytes[if (6..8).contains(&at) { 0 } else { at }] ^= 1 << (next() % 8);
        }
        throw(&address(&stage.beta), &bytes);
    }
    wait_until("all are refused", || refusals(&stage.beta).len() >= 200);
    stage.assert_moves();
}

/// What the node answers to this hello.
fn refusal(stage: &Stage, hello: &Hello) -> (Status, String) {
    match Hand::dial(&address(&stage.beta), hello).1 {
        HelloReply::Refuse { status, reason, .. } => (Status::from_code(status).unwrap(), reason),
        accepted => panic!("{accepted:?}"),
    }
}

fn one_region(name: &str, guest_address: u64, length_bytes: u64, page_bytes: u32) -> MemoryLayout {
    let region = RegionLayout { name: name.into(), guest_address, length_bytes };
    MemoryLayout::new(page_bytes, vec![region]).unwrap()
}

#[test]
fn a_layout_that_differs_is_refused_by_its_difference() {
    let stage = Stage::new();
    let bytes = PAGES * u64::from(PAGE_BYTES);
    let rom = RegionLayout { name: "rom".into(), guest_address: 1 << 40, length_bytes: 4096 };
    let ram = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: bytes };
    let two = MemoryLayout::new(PAGE_BYTES, vec![ram, rom]).unwrap();
    for (layout, text) in [
        (one_region("ram", 0, bytes, 8192), "page size is 8192 at the source and 4096 here"),
        (two, "2 memory regions at the source and 1 here"),
        (one_region("rum", 0, bytes, PAGE_BYTES), "\"rum\""),
        (one_region("ram", 8192, bytes, PAGE_BYTES), "at 0x2000"),
        (one_region("ram", 0, 4096, PAGE_BYTES), "of 4096 bytes"),
    ] {
        let (status, reason) = refusal(&stage, &hand::open(1, "vm", layout));
        assert_eq!(status, Status::LayoutMismatch);
        assert!(reason.contains(text), "{reason:?} lacks {text:?}");
        wait_until("it is told", || refusals(&stage.beta).contains(&reason));
    }
    stage.assert_moves();
}

#[test]
fn hellos_that_decode_and_fit_nothing_get_the_reason() {
    let stage = Stage::new();
    let good = hand::open(1, "vm", guest_layout());
    let join = Hello { purpose: Purpose::Join { token: [7; 16] }, ..good.clone() };
    for (hello, status, text) in [
        (hand::open(1, "nobody", guest_layout()), Status::NotFound, "no guest \"nobody\""),
        (hand::open(1, "", guest_layout()), Status::NotFound, "no guest \"\""),
        (Hello { node: String::new(), ..good.clone() }, Status::InvalidArgument, "name \"\""),
        (join.clone(), Status::NotFound, "no migration 0101"),
    ] {
        let (found, reason) = refusal(&stage, &hello);
        assert!(found == status && reason.contains(text), "{found} {reason:?} lacks {text:?}");
    }
    let (_open, _) = Hand::accepted(&address(&stage.beta), &good);
    let other = Purpose::Open { guest: "other".into(), layout: guest_layout() };
    let smaller = Purpose::Open { guest: "vm".into(), layout: layout(1) };
    let second = |purpose| Hello { stream: StreamId(1), purpose, ..good.clone() };
    for (hello, status, text) in [
        (second(join.purpose), Status::Refused, "token"),
        (second(other), Status::Refused, "another guest than \"other\""),
        (second(smaller), Status::LayoutMismatch, "layout has changed"),
        (good.clone(), Status::Busy, "number 0 is refused"),
        (hand::open(2, "vm", guest_layout()), Status::Busy, "received from elsewhere"),
    ] {
        let (found, reason) = refusal(&stage, &hello);
        assert!(found == status && reason.contains(text), "{found} {reason:?} lacks {text:?}");
        wait_until("it is told", || refusals(&stage.beta).contains(&reason));
    }
    drop(_open);
    stage.assert_moves();
}

#[test]
fn features_and_page_counts_out_of_bounds_are_answered() {
    let stage = Stage::new();
    let features = 16 + 4 + 4 + "mallory".len();
    let critical = altered(|bytes| {
        bytes[features + 4..features + 8].copy_from_slice(&[0xe7, 3, 1, 0]);
    });
    let overflowing = altered(|bytes| {
        let end = bytes.len();
        bytes[end - 8..].copy_from_slice(&(!4095_u64).to_le_bytes());
    });
    for (bytes, text) in [
        (critical, "peer requires feature 999"),
        (overflowing, "region \"ram\" brings the guest over 17179869184 pages"),
    ] {
        let answer = throw(&address(&stage.beta), &bytes);
        let reply = HelloReply::decode(&answer[8 + 24..]).unwrap();
        let HelloReply::Refuse { reason, .. } = reply else { panic!("{reply:?}") };
        assert!(reason.contains(text), "{reason:?} lacks {text:?}");
    }
    stage.assert_moves();
}

#[test]
fn a_refused_source_tells_its_caller_why() {
    let (here, there) = (Guest::new(PAGES, 1000), Guest::new(PAGES / 2, 1000));
    let stage = Stage::with(here, there.clone(), (None, None));
    let report = stage.run_directly(hasty());
    let text = "of 2097152 bytes at 0x0 at the source, region";
    stage.assert_stayed(&report, Status::LayoutMismatch, text);
    stage.beta.remove_guest("vm").unwrap();
    let report = stage.run_directly(hasty());
    assert_eq!(report.status, Status::NotFound);
    assert!(report.reason.contains("no guest \"vm\" is expected here"), "{}", report.reason);
    assert!(stage.here.is_running() && there.endings().is_empty());
}

#[test]
fn idle_strangers_do_not_keep_a_migration_out() {
    let stage = Stage::new();
    let to = address(&stage.beta);
    let mut strangers: Vec<_> = (0..300).filter_map(|_| TcpStream::connect(&to).ok()).collect();
    for (number, stranger) in strangers.iter_mut().enumerate() {
        let _ = stranger.write(&b"DWCP\x03\0\0\0"[..number % 8]);
    }
    let report = stage.run_directly(patient());
    stage.assert_moved(&report);
    drop(strangers);
}
