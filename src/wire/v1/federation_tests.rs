//! Tests of handshakes and messages between v1 clusters beyond the vectors.

use super::*;
use crate::wire::v1::frames::FrameReader;
use fastrand::Rng;

fn random_message(rng: &mut Rng) -> Message {
    let bytes = |rng: &mut Rng| (0..rng.usize(..100)).map(|_| rng.u8(..)).collect();
    match rng.u8(..5) {
        0 => Message::KeepAlive,
        1 => Message::StateSync(bytes(rng)),
        2 => {
            let entry = |rng: &mut Rng| LogEntry {
                term: rng.u64(..),
                index: rng.u64(..),
                data: bytes(rng),
            };
            Message::Consensus((0..rng.usize(..4)).map(|_| entry(rng)).collect())
        }
        3 => Message::Baseline(bytes(rng)),
        _ => Message::FullSync,
    }
}

#[test]
fn mixed_messages_come_back_whatever_their_framing() {
    let mut rng = Rng::with_seed(12);
    for _ in 0..300 {
        let mut sent = Vec::new();
        let mut stream = Vec::new();
        for _ in 0..rng.usize(1..6) {
            let framing = if rng.bool() { Framing::Streams } else { Framing::Direct };
            let (message, seconds) = (random_message(&mut rng), rng.u32(1..).into());
            stream.extend(message.encode(framing, seconds).unwrap());
            sent.push((message, seconds));
        }
        let (mut reader, mut came) = (FrameReader::default(), Vec::new());
        for part in stream.chunks(rng.usize(1..40)) {
            let mut input = part;
            while let Some((header, payload)) = reader.next::<MessageHeader>(&mut input).unwrap() {
                came.push((header.message(payload).unwrap(), header.unix_seconds));
            }
        }
        assert_eq!(came, sent);
    }
}

#[test]
fn seconds_that_would_change_the_framing_are_not_written() {
    let state = Message::StateSync(vec![1]);
    for (framing, seconds) in
        [(Framing::Streams, 0), (Framing::Streams, 1 << 32), (Framing::Direct, 1 << 32)]
    {
        let error = state.encode(framing, seconds).unwrap_err();
        assert!(error.to_string().contains(&seconds.to_string()), "{error}");
    }
    assert_eq!(state.encode(Framing::Direct, 0).unwrap().len(), 17);
    assert_eq!(Message::KeepAlive.encode(Framing::Streams, 1 << 32).unwrap().len(), 25);
}

#[test]
fn what_would_not_read_back_is_not_announced() {
    let good = Handshake::of_v1(1_700_000_000);
    assert_eq!(Handshake::decode(&good.encode().unwrap()), Ok(good.clone()));
    let named = |name: &str| Handshake { cluster_id: name.into(), ..good.clone() };
    let able = |name: &str| Handshake { capabilities: vec![name.into()], ..good.clone() };
    let at = |unix_seconds| Handshake { unix_seconds, ..good.clone() };
    let long = "n".repeat(MAX_HANDSHAKE_BYTES);
    let bad = [
        named("a|b"),
        named("é"),
        named(&long),
        able("A B"),
        able(""),
        able("A|B"),
        at(5),
        at(u64::MAX),
    ];
    for handshake in bad {
        assert!(handshake.encode().is_err(), "{handshake:?}");
    }
}

#[test]
fn a_handshake_is_whole_at_its_tenth_digit_and_not_before() {
    let bytes = Handshake::of_v1(1_700_000_000).encode().unwrap();
    for length in 0..bytes.len() {
        assert_eq!(Handshake::is_whole(&bytes[..length]), Ok(false), "{length}");
        assert!(Handshake::decode(&bytes[..length]).is_err(), "{length}");
    }
    assert_eq!(Handshake::is_whole(&bytes), Ok(true));
}
