//! What must hold for any bytes: no panic, and what decodes survives being encoded again.

use dwcp::base::limits::{MAX_CHUNK_BYTES, MAX_MISSING_PIECE_PAGES, MAX_PAGES, MAX_STREAM_CHUNKS};
use dwcp::base::{ChunkId, MemoryLayout, MigrationId, PageBitmap, RegionLayout, StreamId, Time};
use dwcp::config::{Id, edit, load};
use dwcp::encoding::baseline::PAGE_BYTES;
use dwcp::encoding::{
    BaselineLimits, Codec, CodecChoice, Decoder, Encoder, HeldError, HeldPages, PageDecoder,
    PageKey,
};
use dwcp::migration::missing::take_in;
use dwcp::migration::ownership::Record;
use dwcp::node::exposition::family_json;
use dwcp::node::state;
use dwcp::qemu::{MultifdParser, Segment, SegmentLimits, StreamParser};
use dwcp::runtime::security::records::{KeySchedule, Opened, halves};
use dwcp::transport::session::Session;
use dwcp::wire::cursor::Reader;
use dwcp::wire::frame::{HEADER_BYTES, PREFACE_BYTES};
use dwcp::wire::rdma::{Endpoint, Offer, OfferAnswer, RemoteMemory};
use dwcp::wire::v1::hde::{Blob, Content, Delta, Packet};
use dwcp::wire::{
    ChunkAck, ChunkHeader, Control, Frame, FrameHeader, FrameKind, Hello, HelloReply, PageRequest,
    Paths, Preface, ToldMetrics,
};
use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::{ConnectionTrafficSecrets, ContentType, ExtractedSecrets, ProtocolVersion};
use std::collections::VecDeque;
use std::fmt::Debug;

#[path = "c_calls.rs"]
mod c_calls;
#[path = "rollout.rs"]
mod rollout;
#[path = "store.rs"]
mod store;
#[path = "v1.rs"]
mod v1;
pub use c_calls::c_calls;
pub use rollout::{audit_log, flag_rules};
pub use store::{store, stored_pages};
pub use v1::{v1_document_is_read, v1_documents, v1_frames, v1_link, v1_payloads};

/// One target.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const ALL: &[(&str, Target)] = &[
    ("frame", frame),
    ("hello", hello),
    ("hello_reply", hello_reply),
    ("paths", paths),
    ("metrics", metrics),
    ("tls_records", tls_records),
    ("control", control),
    ("chunk", chunk),
    ("chunk_ack", chunk_ack),
    ("page_request", page_request),
    ("missing_piece", missing_piece),
    ("rdma", rdma),
    ("block_decode", block_decode),
    ("block_encode", block_encode),
    ("hybrid_decode", hybrid_decode),
    ("v1_hde", v1_hde),
    ("v1_frames", v1_frames),
    ("v1_link", v1_link),
    ("v1_payloads", v1_payloads),
    ("v1_documents", v1_documents),
    ("layout", layout),
    ("migration_id", migration_id),
    ("session", session),
    ("session_hostile", session_hostile),
    ("record", record),
    ("state_document", state_document),
    ("store", store),
    ("config", config),
    ("c_calls", c_calls),
    ("qemu_stream", qemu_stream),
    ("segment_framing", segment_framing),
    ("flag_rules", flag_rules),
    ("audit_log", audit_log),
];

/// A preface or a frame header and its body; the header's checksum is made right half of the time.
pub fn frame(data: &[u8]) {
    if let Some(preface) = data.first_chunk::<PREFACE_BYTES>()
        && let Ok(preface) = Preface::decode(*preface)
    {
        assert_eq!(Preface::decode(preface.encode()), Ok(preface));
    }
    let Some((header, body)) = data.split_first_chunk::<HEADER_BYTES>() else { return };
    let mut header = *header;
    if header[1] & 1 == 1 {
        let sum = crc32(&header[..20]);
        header[20..].copy_from_slice(&sum.to_le_bytes());
    }
    if let Ok(decoded) = FrameHeader::decode(header) {
        assert!(decoded.payload_bytes <= decoded.kind.max_payload_bytes());
        assert_eq!(FrameHeader::decode(decoded.encode()), Ok(decoded));
        assert_eq!(decoded.check_body(&[body]).is_ok(), crc32(body) == decoded.body_crc);
    }
}

/// The source's first payload.
pub fn hello(data: &[u8]) {
    survives(data, Hello::decode, Hello::encode);
}

/// The destination's answer to it.
pub fn hello_reply(data: &[u8]) {
    survives(data, HelloReply::decode, HelloReply::encode);
}

/// What another node tells of its paths.
pub fn paths(data: &[u8]) {
    survives(data, Paths::decode, Paths::encode);
}

/// What another node tells of its metrics.
pub fn metrics(data: &[u8]) {
    survives(data, ToldMetrics::decode, ToldMetrics::encode);
    if let Ok(told) = ToldMetrics::decode(data) {
        let shown = told.families.iter().map(family_json);
        assert!(shown.into_iter().all(|metric| metric["series"].is_array()));
    }
}

/// What a member of the fleet sends within its TLS: records of any kind and content, as `kind, length,
/// content`, and kind 0 for bytes that are no record. What comes out is the data that went in before
/// anything was wrong, whatever the pieces in which it comes.
pub fn tls_records(data: &[u8]) {
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_256_GCM_SHA384;
    let tls13 = suite.tls13().unwrap();
    let secrets = |key: u8| ConnectionTrafficSecrets::Aes256Gcm {
        key: [key; 32].into(),
        iv: [key; 12].into(),
    };
    let encrypter = |key: u8| tls13.aead_alg.encrypter([key; 32].into(), [key; 12].into());
    let (mut key, mut sequence, mut sealer) = (0u8, 0, encrypter(0));
    let (mut stream, mut sent, mut rest) = (Vec::new(), Vec::new(), data);
    while let [kind, length, more @ ..] = rest {
        let (content, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        if *kind == 0 {
            stream.extend_from_slice(content);
            continue;
        }
        let (typ, version) = (ContentType::from(*kind), ProtocolVersion::TLSv1_2);
        let payload = OutboundChunks::Single(content);
        let plain = OutboundPlainMessage { typ, version, payload };
        stream.extend(sealer.encrypt(plain, sequence).unwrap().encode());
        sequence += 1;
        match (typ, content) {
            (ContentType::ApplicationData, _) => sent.extend_from_slice(content),
            (ContentType::Handshake, [24, 0, 0, 1, 0 | 1]) => {
                key = key.wrapping_add(1);
                (sequence, sealer) = (0, encrypter(key));
            }
            _ => {}
        }
    }
    let both = ExtractedSecrets { tx: (0, secrets(0)), rx: (0, secrets(0)) };
    let (mut opener, mut own) = halves(suite, both, Box::new(CountedKeys(0))).unwrap();
    let mut came = Vec::new();
    while let Ok(opened) = opener.open(&mut stream) {
        match opened {
            Opened::Part | Opened::Closed => break,
            Opened::Idle(bytes) => drop(stream.drain(..bytes)),
            Opened::Data { bytes, data } => {
                came.extend_from_slice(&stream[data]);
                stream.drain(..bytes);
            }
        }
    }
    assert!(sent.starts_with(&came), "what was not sent came");
    own.seal(OutboundChunks::Single(b"answer"), &mut Vec::new()).unwrap();
}

/// Keys that are as easy to foretell as can be.
struct CountedKeys(u8);

impl KeySchedule for CountedKeys {
    fn next_sealing(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        Ok(ConnectionTrafficSecrets::Aes256Gcm { key: [200; 32].into(), iv: [200; 12].into() })
    }

    fn next_opening(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.0 = self.0.wrapping_add(1);
        Ok(ConnectionTrafficSecrets::Aes256Gcm {
            key: [self.0; 32].into(),
            iv: [self.0; 12].into(),
        })
    }
}

/// A node's state as a file, or v1's flags; what is accepted is written again as the same state. Half of the
/// time the checksum is made right, so that what lies behind it is reached.
pub fn state_document(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let sealed = if choice & 1 == 1 { sealed_state(text) } else { None };
    match state::decode(sealed.as_deref().unwrap_or(text)) {
        Ok(state::Input::State(state)) => {
            let bytes = state::encode(&state).expect("what is read can be written");
            assert_eq!(state::decode(&bytes), Ok(state::Input::State(state.clone())));
            assert!(state::compare(&state, &state, state::Terms::default()).is_empty());
        }
        Ok(state::Input::V1(flags)) => drop(dwcp::rollout::v1::from_v1(&flags)),
        Err(error) => assert!(error.to_string().len() < 4096, "{error}"),
    }
}

/// The document with the checksum of what its content says now, where that can be told.
fn sealed_state(text: &[u8]) -> Option<Vec<u8>> {
    let error = state::decode(text).err()?;
    let state::DocumentError::Checksum { stated, computed } = error else { return None };
    let text = std::str::from_utf8(text).ok()?;
    Some(text.replacen(&stated, &computed, 1).into_bytes())
}

/// A control message; its bytes have one spelling.
pub fn control(data: &[u8]) {
    if let Ok((sequence, message)) = Control::decode(data) {
        assert_eq!(message.encode(sequence), data);
    }
}

/// A chunk's header and extents; the first byte chooses the page size.
pub fn chunk(data: &[u8]) {
    let Some((power, bytes)) = data.split_first() else { return };
    let page_bytes = 64 << (power % 11);
    let encode = |header: &ChunkHeader| {
        let mut out = Vec::new();
        header.encode(&mut out);
        assert_eq!(out.len(), header.encoded_bytes());
        out
    };
    survives(bytes, |bytes| ChunkHeader::decode(bytes, page_bytes), encode);
    if let Ok(header) = ChunkHeader::decode(bytes, page_bytes) {
        assert!(header.raw_bytes <= MAX_CHUNK_BYTES);
        assert!(header.extents.iter().all(|extent| extent.range().end <= MAX_PAGES));
    }
}

/// An acknowledgement of chunks; its bytes have one spelling.
pub fn chunk_ack(data: &[u8]) {
    if let Ok(ack) = ChunkAck::decode(data) {
        assert_eq!(ack.encode(), data);
    }
}

/// Pages that are asked for, of a guest that has 100.
pub fn page_request(data: &[u8]) {
    if let Ok(request) = PageRequest::decode(data, 100) {
        assert_eq!(request.encode(), data);
        assert!(request.pages.iter().all(|page| *page < 100));
    }
}

/// A piece of the map of missing pages: codec, where it begins (eight bytes), the packed bitmap.
pub fn missing_piece(data: &[u8]) {
    let Some(([codec, first @ ..], packed)) = data.split_first_chunk::<9>() else { return };
    let mut missing = PageBitmap::new(MAX_MISSING_PIECE_PAGES + 100);
    let first_page = u64::from_le_bytes(*first);
    match take_in(&mut missing, (first_page, 0), codec % 4, packed) {
        Ok(next) => {
            let end = missing.capacity().min(next);
            assert!(missing.iter().all(|page| (first_page..end).contains(&page)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// An end of a queue pair, or memory of the other side.
pub fn rdma(data: &[u8]) {
    if let Ok(endpoint) = Endpoint::decode(data) {
        assert_eq!(endpoint.encode(), data);
    }
    if let Ok(offer) = Offer::decode(data) {
        assert_eq!(offer.encode(), data);
    }
    if let Ok(answer) = OfferAnswer::decode(data) {
        assert_eq!(answer.encode(), data);
    }
    if let Ok(memory) = RemoteMemory::decode(data) {
        assert_eq!(memory.encode(), data);
    }
}

/// A hostile payload: codec, announced length (three bytes), payload.
pub fn block_decode(data: &[u8]) {
    let Some(([codec, length @ ..], payload)) = data.split_first_chunk::<4>() else { return };
    let Ok(codec) = Codec::try_from(codec % 4) else { return };
    let raw_bytes = u32::from_le_bytes([length[0], length[1], length[2], 0]);
    let mut out = Vec::new();
    match Decoder::default().decode(codec, payload, raw_bytes, &mut out) {
        Ok(()) => assert_eq!(out.len(), raw_bytes as usize),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert!(out.len() <= MAX_CHUNK_BYTES as usize);
}

/// Any block, packed by a codec that the first byte chooses; the second repeats it.
pub fn block_encode(data: &[u8]) {
    let Some(([choice, times], pattern)) = data.split_first_chunk::<2>() else { return };
    let choice = match choice % 12 {
        0 => CodecChoice::None,
        1..=3 => CodecChoice::Lz4,
        other => CodecChoice::Zstd(i32::from(other) - 7),
    };
    let raw = pattern.repeat(usize::from(*times) + 1);
    let raw = &raw[..raw.len().min(MAX_CHUNK_BYTES as usize)];
    let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
    let encoded = Encoder::default().encode(choice, raw, &mut packed).unwrap();
    assert!(encoded.payload.len() <= raw.len());
    let mut decoder = Decoder::default();
    decoder.decode(encoded.codec, encoded.payload, raw.len() as u32, &mut unpacked).unwrap();
    assert!(unpacked == raw, "{choice}");
}

/// Segments one after the other: how many pages, class bytes, and bytes over whole pages in each block
/// (high bits: pages less one), then a byte for each key, then the class bytes.
pub fn hybrid_decode(data: &[u8]) {
    decoded_segments(data);
}

/// Holds ten pages, the last of them damaged.
struct Holder;

impl HeldPages for Holder {
    fn append(&mut self, index: u32, out: &mut Vec<u8>) -> Result<(), HeldError> {
        match index {
            0..9 => out.resize(out.len() + PAGE_BYTES, index as u8),
            9 => return Err(HeldError::Unreadable),
            _ => return Err(HeldError::Unknown(10)),
        }
        Ok(())
    }
}

/// How many of these segments decoded.
pub fn decoded_segments(data: &[u8]) -> usize {
    const MAX_BYTES: u64 = 40_000;
    let mut decoded = 0;
    let limits = BaselineLimits { max_bytes: MAX_BYTES, max_baselines: 100 };
    let (mut decoder, mut out, mut rest) = (PageDecoder::new(limits), Vec::new(), data);
    decoder.announce(Box::new(Holder));
    while let Some(([pages, classes, fresh, delta], tail)) = rest.split_first_chunk::<4>() {
        let (keys, tail) = tail.split_at(tail.len().min(usize::from(pages % 32)));
        let (classes, tail) = tail.split_at(tail.len().min(usize::from(*classes)));
        rest = tail;
        let key = |byte: &u8| PageKey { block: (byte >> 6).into(), page: (byte & 63).into() };
        let keys: Vec<_> = keys.iter().map(key).collect();
        let block =
            |code: u8| vec![code; usize::from(code >> 3) * PAGE_BYTES + usize::from(code & 7)];
        let mut fresh = block(*fresh);
        match decoder.decode(&keys, classes, &mut fresh, &block(*delta), &mut out) {
            Ok(_) => {
                assert_eq!(out.len(), keys.len() * PAGE_BYTES);
                decoded += 1;
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert!(out.len() <= keys.len() * PAGE_BYTES);
        assert!(decoder.memory_bytes() <= MAX_BYTES);
    }
    decoded
}

/// A packet, a difference or a blob of v1, as the first byte says.
pub fn v1_hde(data: &[u8]) {
    const MAX_BYTES: u64 = 1 << 16;
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            let Ok(packet) = Packet::decode(bytes) else { return };
            assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            match packet.unpack(MAX_BYTES) {
                Ok(Content::Image(image)) => assert!(image.len() as u64 <= MAX_BYTES),
                Ok(Content::Delta(delta)) => assert!(packet.is_delta && !delta.encode().is_empty()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        1 => {
            let Ok(delta) = Delta::decode(bytes, MAX_BYTES) else { return };
            assert_eq!(delta.encode(), bytes);
            if let Ok(image) = delta.apply(&[7; 10_000]) {
                assert!(image.len() as u64 <= MAX_BYTES);
            }
        }
        _ => {
            let Ok(blob) = Blob::decode(bytes) else { return };
            assert_eq!(blob.encode(), bytes);
            if let Ok(image) = blob.unpack(MAX_BYTES) {
                assert_eq!(image.len(), blob.original_bytes as usize);
            }
        }
    }
}

/// A memory layout: page size, then a name length and a region length each.
pub fn layout(data: &[u8]) {
    let mut reader = Reader::new(data);
    let Ok(page_bytes) = reader.u32("page size") else { return };
    let mut regions = Vec::new();
    while let (Ok(name), Ok(length_bytes)) = (reader.u8("name"), reader.u64("length")) {
        let name = "n".repeat(name.into());
        regions.push(RegionLayout { name, guest_address: 0, length_bytes });
    }
    let Ok(layout) = MemoryLayout::new(page_bytes, regions) else { return };
    let mut next = 0;
    for region in 0..layout.regions().len() {
        let pages = layout.pages_of(region);
        assert!(pages.start == next && pages.end > next);
        next = pages.end;
        let around = pages.start.saturating_sub(1)..pages.start + 1;
        let bytes: u64 = layout.ranges(around.clone()).map(|range| range.length_bytes).sum();
        assert_eq!(bytes, (around.end - around.start) * u64::from(page_bytes));
    }
    assert_eq!(next, layout.page_count());
    assert!(next <= MAX_PAGES);
}

/// The text of a migration id.
pub fn migration_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<MigrationId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
}

/// An ownership record, as left in the state folder.
pub fn record(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        // Other spellings can be shorter than ours, so ours may be over the limit.
        if let Ok(bytes) = record.encode() {
            assert_eq!(Record::decode(&bytes).ok(), Some(record));
        }
    }
}

/// A configuration file; the first byte chooses a key to be set to its default in it.
pub fn config(data: &[u8]) {
    let Some((key, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let read = match load::from_text("fuzz.yaml", text) {
        Ok(read) => read,
        Err(error) => {
            // YAML ends lines by a lone carriage return too.
            let lines = text.matches(['\n', '\r']).count() as u64 + 2;
            assert!(!error.problems.is_empty());
            assert!(error.problems.iter().all(|problem| problem.line <= lines), "{error}");
            return;
        }
    };
    assert_eq!(read.migration_options().validate(), Ok(()));
    let id = Id::ALL[usize::from(*key) % Id::ALL.len()];
    let Ok(value) = id.key().kind.parse(id.key().default) else { return };
    if let Ok(edited) = edit::set_key("fuzz.yaml", text, id, &value) {
        let again = load::from_text("fuzz.yaml", &edited).expect("an edited file reads");
        assert_eq!(again.get(id).value, value);
        assert!(read.changed(&again).iter().all(|changed| *changed == id), "{edited}");
    }
}

/// Two honest sessions over streams that lose, overtake, die and come back as the bytes say:
/// control messages arrive once and in order.
pub fn session(data: &[u8]) {
    let (mut left, mut right) = (Session::default(), Session::default());
    let mut flying: [VecDeque<(bool, Frame)>; 4] = Default::default();
    let (mut sent, mut arrived) = (0, 0);
    for (at, byte) in data.iter().enumerate() {
        let (now, slot) = (Time(at as u64), usize::from(byte >> 4) % flying.len());
        let stream = StreamId(slot as u32);
        match byte % 16 {
            0..=3 if left.has_room() => {
                left.send(&Control::Fence { stream: StreamId(sent) });
                sent += 1;
            }
            4..=6 => flying[slot].extend(left.next_frame(stream, now).map(|frame| (true, frame))),
            7..=8 => flying[slot].extend(right.next_frame(stream, now).map(|frame| (false, frame))),
            9..=12 => match flying[slot].pop_front() {
                Some((true, frame)) => {
                    right.heard(stream, now);
                    take_in_order(&mut right, &frame, &mut arrived);
                }
                Some((false, frame)) => take_in_order(&mut left, &frame, &mut 0),
                None => {}
            },
            13 => {
                flying[slot].clear();
                left.stream_down(stream);
                right.stream_down(stream);
            }
            14 => {
                left.stream_up(stream, now);
                right.stream_answered(stream, now);
            }
            // The sender's window keeps more from piling up.
            15 if right.waiting_acks(stream) < MAX_STREAM_CHUNKS => {
                right.acknowledge(stream, ChunkId(at as u64), byte & 16 == 0);
            }
            _ => {}
        }
    }
    assert!(arrived <= sent);
    assert!(!left.all_acknowledged() || arrived == sent);
}

fn take_in_order(to: &mut Session, frame: &Frame, arrived: &mut u32) {
    match frame.kind {
        FrameKind::Control => {
            for message in to.on_control(&frame.payload).unwrap() {
                assert_eq!(message, Control::Fence { stream: StreamId(*arrived) });
                *arrived += 1;
            }
        }
        FrameKind::ControlAck => to.on_control_ack(&frame.payload).unwrap(),
        FrameKind::ChunkAck => assert!(ChunkAck::decode(&frame.payload).is_ok()),
        FrameKind::Ping => {}
        kind => panic!("{kind:?} out of a session that nobody asked for one"),
    }
}

/// Frames out of nowhere: kind, length, payload, again and again.
pub fn session_hostile(data: &[u8]) {
    let mut session = Session::default();
    session.stream_up(StreamId(0), Time(0));
    session.send(&Control::Commit);
    let mut rest = data;
    while let Some(([kind, length], tail)) = rest.split_first_chunk::<2>() {
        let (payload, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        let _ = match kind % 2 {
            0 => session.on_control(payload).map(drop),
            _ => session.on_control_ack(payload),
        };
        session.next_frame(StreamId(0), Time(1));
    }
}

/// A channel of QEMU's: the first byte chooses the kind, the second and third the segments' limits,
/// the fourth how the rest is split. What comes out is what went in.
pub fn qemu_stream(data: &[u8]) {
    let Some(([kind, pages, skeleton, split], stream)) = data.split_first_chunk::<4>() else {
        return;
    };
    let limits = SegmentLimits {
        pages: usize::from(*pages),
        skeleton_bytes: (usize::from(*skeleton) + 1) * 64,
    };
    let portions = stream.chunks(1 + (usize::from(*split) << (kind >> 4)));
    let mut out = Segment::default();
    let mut replayed = Vec::new();
    if kind & 1 == 0 {
        let mut parser = StreamParser::with_limits(limits);
        portions.for_each(|bytes| {
            relay(bytes, &mut out, &mut replayed, |rest, out| parser.feed(rest, out));
        });
        parser.finish(&mut out);
    } else {
        let mut parser = MultifdParser::with_limits(limits);
        portions.for_each(|bytes| {
            relay(bytes, &mut out, &mut replayed, |rest, out| parser.feed(rest, out));
        });
        parser.finish(&mut out);
    }
    ship(&mut out, &mut replayed);
    assert!(replayed == stream);
}

fn relay(
    bytes: &[u8],
    out: &mut Segment,
    replayed: &mut Vec<u8>,
    mut feed: impl FnMut(&[u8], &mut Segment) -> usize,
) {
    let mut rest = &bytes[feed(bytes, out)..];
    while !rest.is_empty() {
        assert!(out.stream_bytes() > 0);
        ship(out, replayed);
        rest = &rest[feed(rest, out)..];
    }
}

/// Over the wire and out again.
fn ship(segment: &mut Segment, replayed: &mut Vec<u8>) {
    let mut framing = Vec::new();
    segment.encode_framing(&mut framing);
    let mut arrived = Segment::decode_framing(&framing).unwrap();
    arrived.data = std::mem::take(&mut segment.data);
    arrived.write_to(replayed);
    segment.clear();
}

/// Skeleton and slots of a segment, as a peer might send them.
pub fn segment_framing(data: &[u8]) {
    let encode = |segment: &Segment| {
        let mut out = Vec::new();
        segment.encode_framing(&mut out);
        out
    };
    survives(data, Segment::decode_framing, encode);
    if let Ok(mut segment) = Segment::decode_framing(data) {
        segment.data = vec![1; segment.stream_bytes() - segment.skeleton.len()];
        assert_eq!(segment.pieces().map(<[u8]>::len).sum::<usize>(), segment.stream_bytes());
    }
}

fn survives<T: PartialEq + Debug, E: PartialEq + Debug>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = decode(data) {
        assert_eq!(decode(&encode(&value)), Ok(value));
    }
}

/// CRC-32 (IEEE), bit by bit: a second opinion on the library's.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}
