//! Frames of v1's transports and clusters, and requests of its successor's clients.

use super::{cases, content, from_hex, text, vectors_in};
use dwcp::wire::v1::federation::{Framing, Handshake, LogEntry, Message, MessageHeader};
use dwcp::wire::v1::frames::{FrameReader, Header};
use dwcp::wire::v1::link::{Caller, Event, Listener};
use dwcp::wire::v1::{f8, f16, sdk};
use serde_json::Value;

const NOW: u64 = 1_700_000_000;

/// A whole frame and nothing else.
fn frame<H: Header>(bytes: &[u8]) -> Option<(H, Vec<u8>)> {
    let (mut reader, mut rest) = (FrameReader::default(), bytes);
    let read = reader.next(&mut rest).ok()?;
    read.filter(|_| rest.is_empty() && reader.is_between_frames())
}

fn u32_of(case: &Value, name: &str) -> u32 {
    case[name].as_u64().unwrap().try_into().unwrap()
}

#[test]
fn chunk_headers_read_as_described_and_are_written_the_same() {
    let vectors = vectors_in("v1_frames.json");
    for case in cases(&vectors, "f8_headers") {
        let (bytes, expected) = (from_hex(&case["bytes"]), from_hex(&case["payload"]));
        let (header, payload) = frame::<f8::ChunkHeader>(&bytes).unwrap();
        assert_eq!((header.id, &payload), (u32_of(case, "id"), &expected));
        assert_eq!([&header.encode()[..], &payload].concat(), bytes);
    }
    for case in cases(&vectors, "f16_headers") {
        let (bytes, expected) = (from_hex(&case["bytes"]), from_hex(&case["payload"]));
        let (header, payload) = frame::<f16::ChunkHeader>(&bytes).unwrap();
        let found = [header.id, header.offset_bytes, header.total_bytes];
        assert_eq!(found, ["id", "offset", "total"].map(|name| u32_of(case, name)));
        assert_eq!(payload, expected);
        assert_eq!([&header.encode()[..], &payload].concat(), bytes);
    }
}

#[test]
fn transfers_are_cut_as_described_and_put_together_in_any_order() {
    let vectors = vectors_in("v1_frames.json");
    for case in cases(&vectors, "f8_transfers") {
        let (image, frames) = (content(case), case["frames"].as_array().unwrap());
        let transfer = f8::Transfer::new(image.len() as u64, u32_of(case, "chunk_bytes")).unwrap();
        let cut = transfer.chunks(&image);
        let cut: Vec<_> = cut.map(|(head, bytes)| [&head.encode()[..], bytes].concat()).collect();
        assert_eq!(cut, frames.iter().map(from_hex).collect::<Vec<_>>());
        let mut assembler = f8::Assembler::new(transfer);
        let mut add = |bytes: &Vec<u8>| {
            let (header, payload) = frame(bytes).unwrap();
            assembler.add(header, &payload).unwrap()
        };
        let whole: Vec<_> = cut.iter().rev().map(&mut add).collect();
        assert_eq!(whole.iter().flatten().count(), 1);
        assert_eq!(whole.last().unwrap().as_ref(), Some(&image));
    }
    for case in cases(&vectors, "f16_transfers") {
        let (image, frames) = (content(case), case["frames"].as_array().unwrap());
        let cut = f16::chunks(&image, u32_of(case, "chunk_bytes")).unwrap();
        let cut: Vec<_> = cut.map(|(head, bytes)| [&head.encode()[..], bytes].concat()).collect();
        assert_eq!(cut, frames.iter().map(from_hex).collect::<Vec<_>>());
        let mut assembler = f16::Assembler::new(image.len() as u32);
        let mut add = |bytes: &Vec<u8>| {
            let (header, payload) = frame(bytes).unwrap();
            assembler.add(header, payload).unwrap()
        };
        let whole: Vec<_> = cut.iter().rev().map(&mut add).collect();
        assert_eq!(whole.iter().flatten().count(), 1);
        assert_eq!(whole.last().unwrap().as_ref(), Some(&image));
    }
}

fn handshake(case: &Value) -> Handshake {
    let names = case["capabilities"].as_array().unwrap().iter();
    Handshake {
        cluster_id: text(case, "cluster_id").into(),
        capabilities: names.map(|name| name.as_str().unwrap().into()).collect(),
        unix_seconds: case["seconds"].as_u64().unwrap(),
    }
}

fn message(case: &Value) -> Message {
    let entry = |entry: &Value| LogEntry {
        term: entry["term"].as_u64().unwrap(),
        index: entry["index"].as_u64().unwrap(),
        data: from_hex(&entry["data"]),
    };
    match text(case, "kind") {
        "keep_alive" => Message::KeepAlive,
        "state_sync" => Message::StateSync(from_hex(&case["data"])),
        "consensus" => {
            Message::Consensus(case["entries"].as_array().unwrap().iter().map(entry).collect())
        }
        "baseline" => Message::Baseline(from_hex(&case["data"])),
        _ => Message::FullSync,
    }
}

fn framing(case: &Value) -> Framing {
    if text(case, "framing") == "streams" { Framing::Streams } else { Framing::Direct }
}

#[test]
fn a_cluster_link_reads_as_described_and_is_written_the_same() {
    let vectors = vectors_in("v1_frames.json");
    for case in cases(&vectors, "handshakes") {
        let handshake = handshake(case);
        assert_eq!(handshake.encode().unwrap(), from_hex(&case["bytes"]));
        let (mut listener, mut bytes) = (Listener::default(), from_hex(&case["bytes"]));
        for message in cases(&vectors, "messages") {
            bytes.extend(from_hex(&message["bytes"]));
        }
        let mut rest = &bytes[..];
        let opened = listener.on_bytes(&mut rest).unwrap();
        assert_eq!(opened, Some(Event::Opened { handshake, reply: b"OK".to_vec() }));
        for case in cases(&vectors, "messages") {
            let (message, unix_seconds) = (message(case), case["seconds"].as_u64().unwrap_or(NOW));
            let said = listener.on_bytes(&mut rest).unwrap();
            assert_eq!(said, Some(Event::Said { message: message.clone(), unix_seconds }));
        }
        assert_eq!((listener.on_bytes(&mut rest), listener.on_end()), (Ok(None), Ok(())));
    }
    let (_, first) = Caller::open(&Handshake::of_v1(NOW), Framing::Streams).unwrap();
    assert_eq!(first, from_hex(&cases(&vectors, "handshakes")[0]["bytes"]));
    for case in cases(&vectors, "messages") {
        let seconds = case["seconds"].as_u64().unwrap_or(NOW);
        let (mut caller, _) = Caller::open(&Handshake::of_v1(NOW), framing(case)).unwrap();
        assert_eq!(caller.on_bytes(b"OK"), Ok(true));
        assert_eq!(caller.send(&message(case), seconds).unwrap(), from_hex(&case["bytes"]));
    }
}

#[test]
fn requests_of_clients_read_as_described_and_are_written_the_same() {
    let vectors = vectors_in("v1_frames.json");
    for case in cases(&vectors, "sdk") {
        let bytes = from_hex(&case["bytes"]);
        let (_, body) = frame::<sdk::Length>(&bytes).unwrap();
        let message = sdk::Message::decode(&body).unwrap();
        assert_eq!(u32::from(message.kind as u8), u32_of(case, "kind"));
        assert_eq!((message.unix_seconds, &message.id[..]), (NOW, text(case, "id")));
        assert_eq!(message.payload.text(), text(case, "payload"));
        assert_eq!(message.encode().unwrap(), bytes);
    }
}

#[test]
fn bad_frames_are_refused() {
    let vectors = vectors_in("v1_frames.json");
    for case in cases(&vectors, "refused") {
        let bytes = from_hex(&case["bytes"]);
        let taken = match text(case, "kind") {
            "f8" => f8::ChunkHeader::decode(&bytes).is_ok(),
            "f16" => f16::ChunkHeader::decode(&bytes).is_ok(),
            "message" => match FrameReader::default().next::<MessageHeader>(&mut &bytes[..]) {
                Ok(Some((header, payload))) => header.message(payload).is_ok(),
                Ok(None) => panic!("{} is waited for", case["why"]),
                Err(_) => false,
            },
            "handshake" => Handshake::decode(&bytes).is_ok(),
            _ => sdk::Message::decode(&bytes[sdk::LENGTH_BYTES..]).is_ok(),
        };
        assert!(!taken, "{} was taken", case["why"]);
    }
}
