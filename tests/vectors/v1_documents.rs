//! Flags, queue pairs and state synchronisation of v1, as JSON to the byte.

use super::{cases, text, vectors_in};
use dwcp::wire::v1::cluster::{ClusterMetadata, NodeRecord, Record, VmRecord, records};
use dwcp::wire::v1::crdt::Value as Replicated;
use dwcp::wire::v1::flags::{self, Flags};
use dwcp::wire::v1::json::{self, Json, WallTime};
use dwcp::wire::v1::rdma::QueuePair;
use dwcp::wire::v1::sync::Message;
use serde_json::Value;
use std::str::from_utf8;

#[test]
fn flags_read_as_described_and_are_written_the_same() {
    let vectors = vectors_in("v1_json.json");
    for case in cases(&vectors, "flags") {
        let flags = Flags::decode(text(case, "text").as_bytes()).unwrap();
        let named = [
            (flags.transport, "enableV3Transport"),
            (flags.compression, "enableV3Compression"),
            (flags.prediction, "enableV3Prediction"),
            (flags.state_sync, "enableV3StateSync"),
            (flags.consensus, "enableV3Consensus"),
            (flags.placement, "enableV3Placement"),
            (flags.force_v1, "forceV1Mode"),
            (flags.hybrid_mode, "enableHybridMode"),
            (flags.mode_detection, "enableModeDetection"),
        ];
        assert!(named.iter().all(|(flag, name)| case["values"][*name] == *flag), "{flags:?}");
        assert_eq!(case["values"]["v3RolloutPercentage"], flags.rollout_percent);
        assert_eq!(from_utf8(&flags.encode().unwrap()), Ok(text(case, "text")));
    }
    for case in cases(&vectors, "hashes") {
        let node = text(case, "node");
        assert_eq!(case["hash"], flags::hash(node), "{case}");
        assert_eq!(case["bucket"], flags::bucket(node), "{case}");
    }
}

#[test]
fn queue_pairs_read_as_described_and_are_written_the_same() {
    let vectors = vectors_in("v1_json.json");
    for case in cases(&vectors, "queue_pairs") {
        let pair = QueuePair::decode(text(case, "text").as_bytes()).unwrap();
        let values = &case["values"];
        assert_eq!(
            (&values["LID"], &values["QPNum"]),
            (&pair.local_id.into(), &pair.number.into())
        );
        assert_eq!(values["PSN"], pair.packet_sequence);
        assert_eq!(values["GID"], Value::from(pair.global_id.to_vec()));
        assert_eq!(from_utf8(&pair.encode().unwrap()), Ok(text(case, "text")));
    }
}

#[test]
fn messages_of_state_synchronisation_are_written_as_they_were_read() {
    let vectors = vectors_in("v1_json.json");
    let mut kinds = Vec::new();
    for case in cases(&vectors, "messages") {
        let message = Message::decode(text(case, "text").as_bytes()).unwrap();
        assert_eq!(message.payload.kind(), text(case, "type"));
        assert_eq!((&message.sender_id[..], message.vector_clock["node-1"]), ("node-1", 4));
        assert_eq!(from_utf8(&message.encode().unwrap()), Ok(text(case, "text")));
        kinds.push(message.payload.kind());
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 7);
}

#[test]
fn replicated_types_are_written_as_they_were_read() {
    let vectors = vectors_in("v1_json.json");
    for case in cases(&vectors, "replicated") {
        let document = Json::parse("vector", text(case, "text").as_bytes()).unwrap();
        let value = Replicated::read(text(case, "type"), &document).unwrap();
        assert_eq!(value.kind(), text(case, "type"));
        assert_eq!(value.to_json().unwrap().text(), text(case, "text"));
        if let Replicated::OrMap(map) = value {
            let inner = Replicated::read(&map.values[0].kind, &map.values[0].data).unwrap();
            assert_eq!(inner.to_json().as_ref(), Ok(&map.values[0].data));
            assert!(Replicated::read(&map.values[1].kind, &map.values[1].data).is_err());
        }
    }
}

#[test]
fn a_cluster_and_its_records_are_written_as_they_were_read() {
    let vectors = vectors_in("v1_json.json");
    for case in cases(&vectors, "clusters") {
        let cluster = ClusterMetadata::decode(text(case, "text").as_bytes()).unwrap();
        assert_eq!(from_utf8(&cluster.encode().unwrap()), Ok(text(case, "text")));
        let machines = records::<VmRecord>(&cluster.vm_states).unwrap();
        let nodes = records::<NodeRecord>(&cluster.node_status).unwrap();
        let written = |value: Json| value.read::<String>("record").unwrap();
        assert_eq!(written(machines["vm-1"].to_value().unwrap()), text(case, "machine"));
        assert_eq!(written(nodes["node-1"].to_value().unwrap()), text(case, "node"));
        assert!(records::<NodeRecord>(&cluster.assignments).is_err());
    }
}

#[test]
fn numbers_times_and_passed_on_json_are_spelled_as_go_does() {
    let vectors = vectors_in("v1_json.json");
    for case in cases(&vectors, "floats") {
        let value: f64 = text(case, "text").parse().unwrap();
        let written = json::encode("number", &value).unwrap();
        assert_eq!(from_utf8(&written), Ok(text(case, "written")), "{case}");
        assert_eq!(text(case, "written").parse::<f64>().unwrap().to_bits(), value.to_bits());
    }
    for case in cases(&vectors, "times") {
        let nanoseconds = case["nanoseconds"].as_u64().unwrap() as u32;
        let time = WallTime::from_unix(case["seconds"].as_u64().unwrap(), nanoseconds).unwrap();
        assert_eq!(time.text(), text(case, "text"));
        assert_eq!(WallTime::try_from(text(case, "text").to_string()), Ok(time));
    }
    for case in cases(&vectors, "compact") {
        let json = Json::parse("vector", text(case, "text").as_bytes()).unwrap();
        assert_eq!(json.text(), text(case, "written"));
        assert_eq!(Json::of("vector", &json), Ok(json));
    }
}

#[test]
fn bad_documents_are_refused() {
    let vectors = vectors_in("v1_json.json");
    for case in cases(&vectors, "refused") {
        let bytes = text(case, "text").as_bytes();
        let taken = match text(case, "kind") {
            "message" => Message::decode(bytes).is_ok(),
            "queue_pair" => QueuePair::decode(bytes).is_ok(),
            "flags" => Flags::decode(bytes).is_ok(),
            kind => Json::parse("vector", bytes)
                .is_ok_and(|document| Replicated::read(kind, &document).is_ok()),
        };
        assert!(!taken, "{} was taken", case["why"]);
    }
}
