//! Targets over what v1 peers send: frames, links, payloads, documents.

use dwcp::wire::v1::cluster::ClusterMetadata;
use dwcp::wire::v1::crdt;
use dwcp::wire::v1::delta::{self, BLOCK_BYTES, BlockDelta};
use dwcp::wire::v1::federation::{Framing, Handshake};
use dwcp::wire::v1::flags::Flags;
use dwcp::wire::v1::frames::FrameReader;
use dwcp::wire::v1::json::Json;
use dwcp::wire::v1::link::{Caller, Event, LinkError, Listener};
use dwcp::wire::v1::rdma::QueuePair;
use dwcp::wire::v1::{f8, f16, payload, sdk, sync};
use std::fmt::Debug;

/// A transfer's frames: which format, how the bytes are cut, and the length of chunks of F8.
pub fn v1_frames(data: &[u8]) {
    let Some(([kind, cut, chunk], stream)) = data.split_first_chunk::<3>() else { return };
    let mut parts = stream.chunks(usize::from(*cut) + 1);
    match kind % 3 {
        0 => f8_transfer(u32::from(*chunk) + 1, &mut parts),
        1 => f16_transfer(&mut parts),
        _ => requests(&mut parts),
    }
}

fn f8_transfer<'a>(chunk_bytes: u32, parts: &mut impl Iterator<Item = &'a [u8]>) {
    const TOTAL_BYTES: usize = 1000;
    let Ok(transfer) = f8::Transfer::new(TOTAL_BYTES as u64, chunk_bytes) else { return };
    let (mut reader, mut assembler) = (FrameReader::default(), f8::Assembler::new(transfer));
    for mut part in parts {
        while let Ok(Some((header, payload))) = reader.next::<f8::ChunkHeader>(&mut part) {
            assert_eq!(header.payload_bytes as usize, payload.len());
            match assembler.add(header, &payload) {
                Ok(Some(image)) => assert_eq!(image.len(), TOTAL_BYTES),
                Ok(None) => {}
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

fn f16_transfer<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) {
    const MAX_BYTES: u32 = 1 << 16;
    let (mut reader, mut assembler) = (FrameReader::default(), f16::Assembler::new(MAX_BYTES));
    for mut part in parts {
        while let Ok(Some((header, payload))) = reader.next::<f16::ChunkHeader>(&mut part) {
            let total_bytes = header.total_bytes as usize;
            match assembler.add(header, payload) {
                Ok(Some(image)) => return assert_eq!(image.len(), total_bytes),
                Ok(None) => assert!(total_bytes <= MAX_BYTES as usize),
                Err(error) => return assert!(!error.to_string().is_empty()),
            }
        }
    }
}

fn requests<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) {
    let mut reader = FrameReader::default();
    for mut part in parts {
        while let Ok(Some((_, body))) = reader.next::<sdk::Length>(&mut part) {
            let Ok(message) = sdk::Message::decode(&body) else { continue };
            let again = message.encode().expect("what was read can be written");
            assert_eq!(sdk::Message::decode(&again[sdk::LENGTH_BYTES..]), Ok(message));
        }
    }
}

/// Both ends of a link between clusters: the first byte says how the bytes are cut, which must not
/// matter.
pub fn v1_link(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let cut: Vec<_> = stream.chunks(usize::from(*cut) + 1).collect();
    assert_eq!(heard(&cut), heard(&[stream]));
    let handshake = Handshake::of_v1(1_700_000_000);
    let Ok((mut caller, _)) = Caller::open(&handshake, Framing::Streams) else { return };
    let answers: Vec<_> = cut.iter().map(|part| caller.on_bytes(part)).collect();
    assert_eq!(caller.is_open(), answers.last().is_some_and(|answer| *answer == Ok(true)));
    assert!(!caller.is_open() || stream.starts_with(b"OK"));
}

fn heard(parts: &[&[u8]]) -> (Vec<Event>, Result<(), LinkError>) {
    let (mut listener, mut events) = (Listener::default(), Vec::new());
    for part in parts {
        let mut rest = *part;
        loop {
            match listener.on_bytes(&mut rest) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break assert!(rest.is_empty()),
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, Ok(()))
}

/// What a migration carries, or a difference, as the first byte says.
pub fn v1_payloads(data: &[u8]) {
    const MAX_BYTES: u64 = 1 << 16;
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 5 {
        0 => {
            let Ok(records) = payload::decode_records(bytes) else { return };
            let mut written = Vec::new();
            for record in &records {
                payload::encode_record(record, &mut written).expect("what was read can be written");
            }
            // Reserved bytes of packets are not kept.
            assert_eq!(payload::decode_records(&written), Ok(records));
        }
        1 => {
            let Ok(blocks) = payload::decode_disk(bytes, MAX_BYTES) else { return };
            assert_eq!(payload::encode_disk(&blocks).as_deref(), Ok(bytes));
        }
        2 => {
            let Ok(memory) = payload::decode_memory(bytes, MAX_BYTES) else { return };
            assert_eq!(payload::encode_memory(memory), bytes);
        }
        3 => {
            let Ok(delta) = BlockDelta::decode(bytes, MAX_BYTES) else { return };
            assert_eq!(delta.encode(), bytes);
            if let Ok(image) = delta.apply(&[7; 2 * BLOCK_BYTES]) {
                assert!(image.len() as u64 <= MAX_BYTES);
            }
        }
        _ => {
            let Some((length, delta)) = bytes.split_first() else { return };
            let (old, new_bytes) = ([7; 100], usize::from(*length));
            let Ok(new) = delta::apply_xor(&old, delta, new_bytes) else { return };
            assert_eq!(new.len(), new_bytes);
            assert_eq!(delta::apply_xor(&old, &delta::xor(&old, &new), new_bytes), Ok(new));
            assert!(delta::unpack(delta, 50).is_ok_and(|raw| raw.len() <= 50) || delta.len() > 50);
        }
    }
}

/// Replicated types, as the target over documents numbers them from 4 on.
const V1_TYPES: [&str; 9] = [
    "g_counter",
    "pn_counter",
    "g_set",
    "2p_set",
    "or_set",
    "lww_register",
    "mv_register",
    "or_map",
    "rga",
];

/// A JSON document of one of the shapes, as the first byte says.
pub fn v1_documents(data: &[u8]) {
    v1_document_is_read(data);
}

/// Whether it is one.
pub fn v1_document_is_read(data: &[u8]) -> bool {
    let Some((kind, text)) = data.split_first() else { return false };
    match kind % 13 {
        0 => survives(text, Flags::decode, Flags::encode),
        1 => survives(text, QueuePair::decode, QueuePair::encode),
        2 => survives(text, sync::Message::decode, sync::Message::encode),
        3 => survives(text, ClusterMetadata::decode, ClusterMetadata::encode),
        other => {
            let Ok(document) = Json::parse("document", text) else { return false };
            let again = Json::parse("document", document.text().as_bytes());
            assert_eq!(again.as_ref(), Ok(&document), "compact stays compact");
            let name = V1_TYPES[usize::from(other) - 4];
            let Ok(value) = crdt::Value::read(name, &document) else { return false };
            let written = value.to_json().expect("what was read can be written");
            assert_eq!(crdt::Value::read(name, &written), Ok(value));
            true
        }
    }
}

/// What was read can be written, reads back the same, and then is written the same.
fn survives<T: PartialEq + Debug, E: PartialEq + Debug>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Result<Vec<u8>, E>,
) -> bool {
    let Ok(value) = decode(data) else { return false };
    let bytes = encode(&value).expect("what was read can be written");
    let again = decode(&bytes);
    assert_eq!(again.as_ref(), Ok(&value));
    assert_eq!(encode(&value), Ok(bytes));
    true
}
