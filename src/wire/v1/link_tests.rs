//! Tests of links between v1 clusters: cut, merged and hostile input.

use super::*;
use crate::wire::v1::federation::{LogEntry, MAX_HANDSHAKE_BYTES};
use fastrand::Rng;

const NOW: u64 = 1_700_000_000;

fn messages() -> Vec<Message> {
    vec![
        Message::KeepAlive,
        Message::StateSync(vec![7; 300]),
        Message::Consensus(vec![LogEntry { term: 1, index: 2, data: b"x".to_vec() }]),
        Message::FullSync,
        Message::Baseline(Vec::new()),
    ]
}

/// All that a caller ever sends.
fn stream(framing: Framing) -> Vec<u8> {
    let (mut caller, mut bytes) = Caller::open(&Handshake::of_v1(NOW), framing).unwrap();
    assert_eq!(caller.on_bytes(b"OK"), Ok(true));
    for (message, seconds) in messages().iter().zip(NOW..) {
        bytes.extend(caller.send(message, seconds).unwrap());
    }
    bytes
}

fn events(listener: &mut Listener, input: &mut &[u8]) -> Result<Vec<Event>, LinkError> {
    let mut events = Vec::new();
    while let Some(event) = listener.on_bytes(input)? {
        events.push(event);
    }
    Ok(events)
}

#[test]
fn a_listener_hears_the_same_however_the_bytes_are_cut_or_merged() {
    let mut rng = Rng::with_seed(3);
    let opened = Event::Opened { handshake: Handshake::of_v1(NOW), reply: b"OK".to_vec() };
    let said = messages().into_iter().zip(NOW..);
    let said = said.map(|(message, unix_seconds)| Event::Said { message, unix_seconds });
    let expected: Vec<_> = std::iter::once(opened).chain(said).collect();
    for framing in [Framing::Streams, Framing::Direct] {
        let stream = stream(framing);
        for round in 0..200 {
            let (mut listener, mut heard, mut rest) =
                (Listener::default(), Vec::new(), &stream[..]);
            while !rest.is_empty() {
                let length = if round == 0 { 1 } else { rng.usize(1..=rest.len().min(200)) };
                let (mut part, later) = rest.split_at(length);
                heard.extend(events(&mut listener, &mut part).unwrap());
                assert!(part.is_empty());
                rest = later;
            }
            assert_eq!(heard, expected);
            assert_eq!(listener.on_end(), Ok(()));
        }
    }
}

#[test]
fn a_listener_knows_where_the_caller_hung_up() {
    let stream = stream(Framing::Streams);
    let announced = Handshake::of_v1(NOW).encode().unwrap().len();
    for length in 0..stream.len() {
        let mut listener = Listener::default();
        let heard = events(&mut listener, &mut &stream[..length]).unwrap();
        match listener.on_end() {
            Err(LinkError::CutOff("its announcement")) => assert!(length < announced),
            Err(_) => assert!(length > announced),
            Ok(()) => assert!(!heard.is_empty()),
        }
    }
}

#[test]
fn a_failed_listener_stays_failed() {
    for bad in
        [&b"GET / HTTP/1.1"[..], b"HANDSHAKE|3.0|", b"\0\0\0\0\0\0\0\x03abc", b"\x16\x03\x01"]
    {
        let mut listener = Listener::default();
        let failure = events(&mut listener, &mut &bad[..]).unwrap_err();
        assert!(matches!(failure, LinkError::Handshake(_)), "{failure}");
        assert_eq!(events(&mut listener, &mut &stream(Framing::Direct)[..]), Err(failure));
    }
    let endless = [b"HANDSHAKE|1.0|".to_vec(), vec![b'a'; 2 * MAX_HANDSHAKE_BYTES]].concat();
    let mut input = &endless[..];
    let failure = events(&mut Listener::default(), &mut input).unwrap_err();
    assert_eq!(failure, LinkError::Handshake(HandshakeError::TooLong));
    assert!(input.len() >= MAX_HANDSHAKE_BYTES, "refused before all of it was held");
}

#[test]
fn flipped_bits_never_panic_and_never_repair_themselves() {
    let (mut rng, good) = (Rng::with_seed(4), stream(Framing::Streams));
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len());
            bytes[at] ^= 1 << rng.u8(..8);
        }
        let mut listener = Listener::default();
        if let Err(failure) = events(&mut listener, &mut &bytes[..]) {
            assert_eq!(listener.on_bytes(&mut &good[..]), Err(failure));
        }
    }
}

#[test]
fn a_caller_waits_for_yes_and_takes_no_other_answer() {
    let caller = || Caller::open(&Handshake::of_v1(NOW), Framing::Streams).unwrap().0;
    assert_eq!(caller().send(&Message::KeepAlive, NOW), Err(LinkError::NotOpen));
    let mut slow = caller();
    assert_eq!(
        [slow.on_bytes(b""), slow.on_bytes(b"O"), slow.on_bytes(b"K, go on")],
        [Ok(false), Ok(false), Ok(true)]
    );
    assert!(slow.is_open());

    for bad in [&b"NO"[..], b"\0", b"ok", b"OH"] {
        let mut refused = caller();
        let failure = refused.on_bytes(bad).unwrap_err();
        assert!(matches!(failure, LinkError::Refused(_)), "{failure}");
        assert_eq!(refused.on_bytes(b"OK"), Err(failure.clone()));
        assert_eq!(refused.send(&Message::KeepAlive, NOW), Err(failure));
    }
    let mut chatty = caller();
    assert_eq!(
        chatty.on_bytes(&[b"OK".to_vec(), vec![b'!'; MAX_REPLY_BYTES - 2]].concat()),
        Ok(true)
    );
    assert_eq!(chatty.on_bytes(b"!"), Err(LinkError::ReplyTooLong));
    assert!(!chatty.is_open());
}
