//! Tests of state synchronisation's messages beyond the vectors.

use super::*;
use crate::wire::v1::crdt::{GCounter, Value};

fn message(payload: Payload) -> Message {
    Message {
        id: "1".into(),
        sender_id: "a".into(),
        receiver_id: "b".into(),
        vector_clock: VectorClock::new(),
        payload,
        timestamp: WallTime::from_unix(1, 0).unwrap(),
    }
}

#[test]
fn states_go_through_as_they_are() {
    let counter = GCounter { node_id: "<a>".into(), payload: BTreeMap::from([("x".into(), 7)]) };
    let document = Value::GCounter(counter).to_json().unwrap();
    let states = BTreeMap::from([("k".to_string(), document)]);
    let sent = message(Payload::StatesResponse(states));
    assert_eq!(Message::decode(&sent.encode().unwrap()), Ok(sent));
}

#[test]
fn what_v1_would_not_write_is_not_written() {
    let named = |id: &str| Message { id: id.into(), ..message(Payload::DigestRequest) };
    for id in ["", "x", "-1", "12345678901234567890"] {
        assert!(named(id).encode().is_err(), "{id}");
    }
    let digest = |checksum: String| Digest {
        node_id: "a".into(),
        vector_clock: VectorClock::new(),
        checksums: BTreeMap::from([("k".to_string(), checksum)]),
        timestamp: WallTime::from_unix(1, 0).unwrap(),
    };
    assert!(message(Payload::AntiEntropyDigest(digest("0a".repeat(32)))).encode().is_ok());
    let error = message(Payload::AntiEntropyDigest(digest("0A".repeat(32)))).encode().unwrap_err();
    assert!(error.to_string().contains("0A0A"), "{error}");
}

#[test]
fn news_without_an_update_are_read() {
    let gossip = Gossip {
        id: "2".into(),
        update: None,
        hops: 0,
        ttl: 10,
        timestamp: WallTime::from_unix(1, 0).unwrap(),
        path: Vec::new(),
    };
    let sent = message(Payload::Gossip(gossip));
    let bytes = sent.encode().unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("\"update\":null"));
    assert_eq!(Message::decode(&bytes), Ok(sent));
}
