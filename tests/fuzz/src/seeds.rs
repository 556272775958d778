//! Inputs to start from: valid ones, made with the library's own encoders, so that they follow
//! every change of a format.

use dwcp::base::limits::MAX_MISSING_PIECE_PAGES;
use dwcp::base::{ChunkId, MemoryLayout, MigrationId, PageBitmap, RegionLayout, StreamId};
use dwcp::config::{Id, edit};
use dwcp::encoding::{ChunkChecksum, Codec, CodecChoice, Encoder, page_hash, zero_page_hash};
use dwcp::migration::missing::next_piece;
use dwcp::migration::ownership::{Mark, Record, Side};
use dwcp::node::catalog::Metric;
use dwcp::node::exposition::told;
use dwcp::node::metrics::Metrics;
use dwcp::node::state::{self, AuditTail, Guest, KeptRecord, Origin, Peer, Setting, State};
use dwcp::qemu::{MultifdParser, Segment, StreamParser};
use dwcp::rollout::audit::{Entry, Tip};
use dwcp::rollout::{Flag, FlagSet, Latch, Schedule};
use dwcp::wire::hello::{Ended, Features, Purpose};
use dwcp::wire::rdma::{Endpoint, Link, Offer, OfferAnswer, RemoteMemory};
use dwcp::wire::v1::hde::{self, Algorithm, Blob, Delta, Mode, Tier};
use dwcp::wire::{
    ChunkAck, ChunkHeader, Control, Extent, ExtentKind, Frame, FrameKind, Hello, HelloReply,
    PageRequest, PathRow, Paths, Preface, ToldMetrics,
};

#[path = "../../support/qemu_stream.rs"]
mod qemu_stream;
#[path = "rollout_seeds.rs"]
mod rollout;
#[path = "v1_seeds.rs"]
mod v1;

/// The seeds of a target; an empty input for one that has none.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "frame" => frames(),
        "hello" => hellos(),
        "hello_reply" => replies(),
        "paths" => vec![paths()],
        "metrics" => vec![metrics()],
        "tls_records" => vec![
            [&[23, 9][..], b"some data", &[22, 5, 24, 0, 0, 1, 1], &[23, 4], b"more"].concat(),
            vec![23, 0, 21, 2, 1, 0, 0, 5, 23, 3, 3, 0, 9],
        ],
        "control" => controls(),
        "chunk" => vec![chunk()],
        "chunk_ack" => vec![ack()],
        "page_request" => vec![PageRequest { pages: vec![3, 99, 0] }.encode()],
        "missing_piece" => missing_pieces(),
        "rdma" => rdma(),
        "block_decode" => blocks(),
        "block_encode" => (0..12).map(|choice| [&[choice, 40], &page()[..200]].concat()).collect(),
        "hybrid_decode" => vec![segments()],
        "v1_hde" => v1_hde(),
        "v1_frames" => v1::frames(),
        "v1_link" => v1::links(),
        "v1_payloads" => v1::payloads(),
        "v1_documents" => v1::documents(),
        "layout" => vec![layout_bytes()],
        "migration_id" => vec![b"0123456789abcdef0123456789ABCDEF".to_vec()],
        "session" => vec![b"\x0e\x1e\0\0\x04\x14\x19\x09\x07\x17\x09\x19\x0d\x04\x14".repeat(3)],
        "session_hostile" => hostile_frames(),
        "config" => configurations(),
        "record" => vec![record()],
        "state_document" => states(),
        "store" => vec![stored_chunks()],
        "c_calls" => vec![c_call_sequence()],
        "qemu_stream" => qemu_streams(),
        "segment_framing" => framings(),
        "flag_rules" => rollout::flag_rules(),
        "audit_log" => rollout::audit_log(),
        _ => vec![Vec::new()],
    }
}

/// A state with something of everything, as it is and to be sealed anew; v1's flags.
fn states() -> Vec<Vec<u8>> {
    let record = KeptRecord {
        migration: "09".repeat(16),
        side: Side::Destination,
        guest: "web-1".into(),
        peer: "host-b:4040".into(),
        mark: Mark::Owned,
    };
    let mut flags = FlagSet::default();
    let rule = &mut flags.state_mut(Flag::HybridMode).rule;
    rule.allow_list = vec!["host-a".into(), "host-a|host-b".into()];
    rule.schedule = Some(Schedule::guide(Flag::HybridMode).started_at(1_798_761_600));
    let latch = Latch { since_us: 7, reason: "errors".into(), evidence: None };
    flags.state_mut(Flag::MlCompression).latch = Some(latch);
    let first = Entry::first(&flags, "host-a", "begun", Tip::default(), 5);
    let state = State {
        origin: Origin { node: "host-a".into(), library: "0.1.0".into(), at_us: 9 },
        flags,
        audit: AuditTail { left_out: 0, entries: first.into_iter().collect() },
        settings: Some(vec![Setting { key: "amst.dscp".into(), value: "8".into() }]),
        forced_mode: None,
        peers: vec![Peer {
            peer: "host-b:4040".into(),
            forced: Some(dwcp::transport::Mode::Internet),
        }],
        records: vec![record],
        guests: vec![Guest { name: "web-1".into(), role: Side::Source }],
    };
    let document = state::encode(&state).unwrap_or_default();
    let v1 = dwcp::wire::v1::flags::Flags::INITIAL.encode().unwrap_or_default();
    vec![[&[0], &document[..]].concat(), [&[1], &document[..]].concat(), [&[0], &v1[..]].concat()]
}

fn frames() -> Vec<Vec<u8>> {
    let body = |kind, payload: Vec<u8>| {
        let frame = Frame { kind, payload };
        [&frame.header(3).encode()[..], &frame.payload].concat()
    };
    vec![
        Preface { minor: 0 }.encode().to_vec(),
        body(FrameKind::Ping, Vec::new()),
        body(FrameKind::Probe, vec![7; 8]),
        body(FrameKind::Filler, vec![7; 64]),
        body(FrameKind::AskPaths, Vec::new()),
        body(FrameKind::Paths, paths()),
        body(FrameKind::AskMetrics, Vec::new()),
        body(FrameKind::Metrics, metrics()),
        body(FrameKind::Control, Control::Commit.encode(1)),
        body(FrameKind::ChunkAck, ack()),
    ]
}

fn hellos() -> Vec<Vec<u8>> {
    let region = |name: &str, length_bytes| RegionLayout {
        name: name.into(),
        guest_address: 0x1_0000_0000,
        length_bytes,
    };
    let regions = vec![region("ram", 1 << 30), region("rom", 4096)];
    let Ok(layout) = MemoryLayout::new(4096, regions) else { return Vec::new() };
    let open = Purpose::Open { guest: "web-1".into(), layout };
    let hello = |purpose| Hello {
        migration: MigrationId([9; 16]),
        stream: StreamId(1),
        node: "host-a".into(),
        features: features(),
        purpose,
    };
    vec![hello(open).encode(), hello(Purpose::Join { token: [4; 16] }).encode()]
}

fn replies() -> Vec<Vec<u8>> {
    let node = "host-b".to_string();
    let accept = HelloReply::Accept { token: [4; 16], features: features(), node };
    let (reason, ended) = ("no such guest".to_string(), Ended::SourceOwns);
    vec![accept.encode(), HelloReply::Refuse { status: -9, reason, ended }.encode()]
}

fn paths() -> Vec<u8> {
    let far = PathRow {
        peer: "host-b:4040".into(),
        mode: 3,
        is_in_use: true,
        rtt_us: Some(80_000),
        jitter_us: Some(900),
        loss_ppm: Some(0),
        rate_bytes_per_s: Some(37_000_000),
        rate_is_floor: false,
        silent_us: Some(1),
    };
    let bare = PathRow { peer: "[::1]:7".into(), mode: 2, ..PathRow::default() };
    Paths { node: "host-a".into(), left_out: 1, rows: vec![far, bare] }.encode()
}

fn metrics() -> Vec<u8> {
    let mut measured = Metrics::new();
    measured.set(Metric::AmstReconnects, "source", 4.0);
    let families = told(&measured).into_iter().filter(|family| family.name.starts_with("amst.r"));
    let families = families.collect();
    ToldMetrics { node: "host-a".into(), time_us: 1 << 50, since_us: 1 << 49, families }.encode()
}

fn features() -> Features {
    Features {
        codecs: 7,
        chunk_bytes: 1 << 20,
        baseline_pages: 1 << 10,
        held_pages: true,
        multifd_channels: 4,
        post_copy: true,
        rdma: true,
        recovers: None,
        flags: 0b10011,
    }
}

fn controls() -> Vec<Vec<u8>> {
    let (stream, reason) = (StreamId(4), "why".to_string());
    let messages = [
        Control::Fence { stream },
        Control::Fenced { stream, arrived: vec![ChunkId(1), ChunkId(9)] },
        Control::DeviceState { offset_bytes: 5, bytes: vec![1, 2, 3] },
        Control::Finalize { digest: [2; 16], device_state_bytes: 8, device_state_crc: 3 },
        Control::AllArrived,
        Control::Verified { digest: [7; 16] },
        Control::Committed,
        Control::Resumed { status: 0, reason: String::new() },
        Control::Abort { status: -9, reason },
        Control::Held { key: [3; 32], last: true, hashes: vec![1, 2] },
        Control::Missing { first_page: 1 << 20, codec: 1, bytes: vec![7; 9] },
        Control::Switch {
            digest: [2; 16],
            missing_pages: 5,
            device_state_bytes: 8,
            device_state_crc: 3,
        },
        Control::Whole { digest: [3; 16] },
        Control::Completed { digest: [4; 16] },
        Control::Abandon { reason: "gone".into() },
    ];
    messages.iter().zip(0..).map(|(message, sequence)| message.encode(sequence)).collect()
}

fn chunk() -> Vec<u8> {
    let extent = |first_page, pages, kind| Extent { first_page, pages, kind };
    let header = ChunkHeader {
        id: ChunkId(7),
        checksum: 8,
        raw_bytes: 8192,
        payload_bytes: 100,
        codec: 1,
        extents: vec![extent(5, 2, ExtentKind::Data), extent(9, 70_000, ExtentKind::Zero)],
    };
    let mut bytes = vec![6];
    header.encode(&mut bytes);
    bytes
}

fn ack() -> Vec<u8> {
    ChunkAck { arrived: vec![ChunkId(1), ChunkId(4)], damaged: vec![ChunkId(2)] }.encode()
}

/// The second piece of a map, packed by each codec.
fn missing_pieces() -> Vec<Vec<u8>> {
    let mut missing = PageBitmap::new(MAX_MISSING_PIECE_PAGES + 100);
    [1, 90].into_iter().for_each(|page| missing.insert(MAX_MISSING_PIECE_PAGES + page));
    let choices = [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(1)];
    let piece = |choice| match next_piece(&missing, 0, choice) {
        Ok(Some((Control::Missing { first_page, codec, bytes }, _))) => {
            [&[codec][..], &first_page.to_le_bytes(), &bytes].concat()
        }
        other => panic!("{other:?}"),
    };
    choices.into_iter().map(piece).collect()
}

fn rdma() -> Vec<Vec<u8>> {
    let endpoint = Endpoint {
        link: Link::Ethernet,
        mtu_bytes: 4096,
        number: 17,
        packet_sequence: 0xab_cdef,
        local_id: 0,
        reads: 16,
        global_id: [7; 16],
    };
    let memory = RemoteMemory { address: 0x7fff_0000_0000, length_bytes: 1 << 20, key: 0x1234 };
    vec![
        endpoint.encode().into(),
        memory.encode().into(),
        Offer::Here(endpoint, vec![memory, memory]).encode(),
        Offer::Neither("no port is active".into()).encode(),
        OfferAnswer::Here(endpoint).encode(),
    ]
}

fn page() -> Vec<u8> {
    let record = |index: usize| format!("{index:08}\0\0\0\0user{}\x7f\x55", index * 31 % 977);
    (0..).flat_map(|index| record(index).into_bytes()).take(4096).collect()
}

fn blocks() -> Vec<Vec<u8>> {
    let choices = [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(1), CodecChoice::Zstd(9)];
    let block = |choice| {
        let (raw, mut packed) = (page(), Vec::new());
        let Ok(encoded) = Encoder::default().encode(choice, &raw, &mut packed) else {
            return Vec::new();
        };
        let length = &(raw.len() as u32).to_le_bytes()[..3];
        [&[encoded.codec as u8], length, encoded.payload].concat()
    };
    let mut blocks: Vec<_> = choices.into_iter().map(block).collect();
    blocks.push(vec![Codec::Zstd as u8, 0, 1, 0, 0x28, 0xb5, 0x2f, 0xfd]);
    blocks
}

/// Two fresh pages, then a duplicate of the first and a difference from it, then a zero page.
fn segments() -> Vec<u8> {
    let (first, second) = ([2, 2, 2 << 3, 0, 1, 2, 1, 4 | 3], [3, 5, 0, 1 << 3, 2, 1, 5]);
    // Two pages that the decoder holds, one after the other.
    let third = [2, 4, 0, 0, 6, 7, 3, 1 << 3 | 4, 6, 0];
    [&first[..], &second, &[1, 1, 2, 0, 0], &third].concat()
}

/// A packet with an image, one with a difference, the difference itself, a blob.
fn v1_hde() -> Vec<Vec<u8>> {
    let delta = Delta::between(b"vm1_memory", &[7; 9000], &[&[7; 4096], &page()[..50]].concat());
    let (original_bytes, data) = (4096, &page()[..]);
    let (algorithm, mode) = (Algorithm::None, Mode::Hybrid);
    let blob = Blob { is_delta: false, algorithm, mode, original_bytes, data };
    let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        with(0, &hde::pack_image(&page(), Tier::Global).unwrap_or_default()),
        with(0, &hde::pack_delta(&delta, Tier::Local).unwrap_or_default()),
        with(1, &delta.encode()),
        with(2, &blob.encode()),
    ]
}

fn layout_bytes() -> Vec<u8> {
    let mut bytes = 4096_u32.to_le_bytes().to_vec();
    for (name, length) in [(3, 1 << 30), (5, 4096), (120, 1_u64 << 45)] {
        bytes.push(name);
        bytes.extend_from_slice(&length.to_le_bytes());
    }
    bytes
}

fn hostile_frames() -> Vec<Vec<u8>> {
    let frames = controls().into_iter().flat_map(|payload| {
        let head = [0, payload.len() as u8];
        [&head[..], &payload].concat()
    });
    vec![frames.chain([1, 8, 1, 0, 0, 0, 0, 0, 0, 0]).collect()]
}

fn record() -> Vec<u8> {
    Record::new(MigrationId([1; 16]), "vm", "10.0.0.2:7", Mark::CommitSent)
        .encode()
        .unwrap_or_default()
}

/// A node with a guest and a peer that are asked for, read out, and freed twice; see `c_calls`.
fn c_call_sequence() -> Vec<u8> {
    let (new, add, reap, fd, name, guests, migrate, free) = (0, 1, 11, 3, 5, 21, 2, 7);
    let (add_peer, peer, set_mode, remove_peer) = (54, 22, 30, 62);
    let peers = [add_peer, 4, peer, 4, set_mode, 4, remove_peer, 4];
    let calls = [new, 0, add, 8, fd, 4, name, 64, guests, 64, reap, 4, migrate, 4];
    let ends = [free, 4, free, 4, new, 5];
    [&calls[..], &peers, &ends].concat()
}

/// Three chunks for the guest of the `store` target, packed by each codec.
fn stored_chunks() -> Vec<u8> {
    let (raw, mut packed, mut bytes) = (page(), Vec::new(), Vec::new());
    let choices = [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(1)];
    for (choice, id) in choices.into_iter().zip(1..) {
        let raw = &raw[..1024];
        let extents = vec![
            Extent { first_page: 3, pages: 16, kind: ExtentKind::Data },
            Extent { first_page: 19 + id, pages: 4, kind: ExtentKind::Zero },
        ];
        let mut checksum = ChunkChecksum::default();
        checksum.add_run(3, raw.chunks(64).map(page_hash));
        checksum.add_run(19 + id, [zero_page_hash(64); 4]);
        let Ok(encoded) = Encoder::default().encode(choice, raw, &mut packed) else { continue };
        let header = ChunkHeader {
            id: ChunkId(id),
            checksum: checksum.value(),
            raw_bytes: raw.len() as u32,
            payload_bytes: encoded.payload.len() as u32,
            codec: encoded.codec as u8,
            extents,
        };
        header.encode(&mut bytes);
        bytes.extend_from_slice(encoded.payload);
    }
    bytes
}

/// Files that set every key, or some, to its default, as the library's own editor lays them out.
fn configurations() -> Vec<Vec<u8>> {
    let file = |step: usize| {
        let mut text = "# configuration\n".to_string();
        for id in Id::ALL.iter().step_by(step) {
            let value = id.key().kind.parse(id.key().default);
            let Ok(value) = value else { continue };
            text = edit::set_key("seed.yaml", &text, *id, &value).unwrap_or(text);
        }
        [b"\x05", text.as_bytes()].concat()
    };
    vec![file(1), file(3), file(7)]
}

/// Whole channels, in segments of every size and portions of some.
fn qemu_streams() -> Vec<Vec<u8>> {
    let main = qemu_stream::main_channels();
    let main = main.iter().map(|stream| [&[0x40, 0, 0, 99], &stream[..]].concat());
    let multifd = qemu_stream::multifd_channels();
    main.chain(multifd.iter().map(|stream| [&[1, 7, 200, 250], &stream[..]].concat())).collect()
}

/// The framing of a segment of a main channel, and of one of a multifd channel.
fn framings() -> Vec<Vec<u8>> {
    let (mut main, mut multifd) = (Segment::default(), Segment::default());
    StreamParser::new().feed(&qemu_stream::precopy_7_2(), &mut main);
    MultifdParser::new().feed(&qemu_stream::multifd_7_2(), &mut multifd);
    let framing = |segment: &Segment| {
        let mut out = Vec::new();
        segment.encode_framing(&mut out);
        out
    };
    vec![framing(&main), framing(&multifd)]
}
