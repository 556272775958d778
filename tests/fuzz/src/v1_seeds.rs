//! Seeds of the targets over v1's formats.

use dwcp::wire::v1::delta::BlockDelta;
use dwcp::wire::v1::federation::{Framing, Handshake, LogEntry, Message};
use dwcp::wire::v1::flags::Flags;
use dwcp::wire::v1::hde::{Packet, Tier};
use dwcp::wire::v1::json::Json;
use dwcp::wire::v1::link::Caller;
use dwcp::wire::v1::payload::{self, Block, Record};
use dwcp::wire::v1::rdma::QueuePair;
use dwcp::wire::v1::{f8, f16, sdk};

const NOW: u64 = 1_700_000_000;

/// A transfer of each kind and two requests.
pub fn frames() -> Vec<Vec<u8>> {
    let image: Vec<_> = (0..1000).map(|at| at as u8).collect();
    let mut seeds = Vec::new();
    if let Ok(transfer) = f8::Transfer::new(1000, 100) {
        let chunks = transfer.chunks(&image).collect::<Vec<_>>().into_iter().rev();
        let chunks = chunks.flat_map(|(head, bytes)| [&head.encode()[..], bytes].concat());
        seeds.push([0, 50, 99].into_iter().chain(chunks).collect());
    }
    if let Ok(chunks) = f16::chunks(&image.repeat(9), f16::MIN_CHUNK_BYTES) {
        let chunks = chunks.flat_map(|(head, bytes)| [&head.encode()[..], bytes].concat());
        seeds.push([1, 50, 0].into_iter().chain(chunks).collect());
    }
    let request = |kind, text: &str| {
        let payload = Json::parse("seed", text.as_bytes()).ok()?;
        sdk::Message { kind, unix_seconds: NOW, id: "r1".into(), payload }.encode().ok()
    };
    let login = request(sdk::Kind::Authentication, r#"{"api_key":"k","version":"3"}"#);
    let requests = [login, request(sdk::Kind::Health, "{}")].into_iter().flatten().flatten();
    seeds.push([2, 50, 0].into_iter().chain(requests).collect());
    seeds
}

/// A caller's whole stream with and without streams of its own, and a listener's answer.
pub fn links() -> Vec<Vec<u8>> {
    let entry = |data: &[u8]| LogEntry { term: 3, index: 42, data: data.to_vec() };
    let messages = [
        Message::KeepAlive,
        Message::StateSync(b"abc".to_vec()),
        Message::Consensus(vec![entry(b"hi"), entry(b"")]),
        Message::Baseline(Vec::new()),
        Message::FullSync,
    ];
    let stream = |framing| {
        let Ok((mut caller, first)) = Caller::open(&Handshake::of_v1(NOW), framing) else {
            return Vec::new();
        };
        let _ = caller.on_bytes(b"OK");
        let said =
            messages.iter().flat_map(|message| caller.send(message, NOW).unwrap_or_default());
        [20].into_iter().chain(first).chain(said).collect()
    };
    vec![stream(Framing::Streams), stream(Framing::Direct), b"\0OK".to_vec()]
}

/// Disks, memory and differences.
pub fn payloads() -> Vec<Vec<u8>> {
    let packet = Packet { is_delta: false, tier: Tier::Global, body: b"any" };
    let (mut records, ids) = (vec![0], [7, 0]);
    for block_id in ids {
        let _ = payload::encode_record(&Record { block_id, packet }, &mut records);
    }
    let blocks = [Block { id: 9, bytes: b"abcd" }, Block { id: 1, bytes: b"" }];
    let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    let delta = BlockDelta::between(&[7; 8192], &[&[7; 4096][..], b"xyz"].concat());
    vec![
        records,
        with(1, &payload::encode_disk(&blocks).unwrap_or_default()),
        with(2, &payload::encode_memory(b"hello")),
        with(3, &delta.encode()),
        [&[4, 60], &[9; 100][..]].concat(),
    ]
}

/// A document of each shape.
pub fn documents() -> Vec<Vec<u8>> {
    let pair = QueuePair { local_id: 1, number: 291, packet_sequence: 9, global_id: [254; 16] };
    let texts = [
        String::from_utf8(Flags::INITIAL.encode().unwrap_or_default()),
        String::from_utf8(pair.encode().unwrap_or_default()),
        Ok(GOSSIP.replace("COUNTER", COUNTER).replace("AT", AT)),
        Ok(CLUSTER.replace("MAP", MAP).replace("COUNTER", COUNTER)),
        Ok(COUNTER.into()),
        Ok(format!(r#"{{"node_id":"n","pos":{COUNTER},"neg":{COUNTER}}}"#)),
        Ok(r#"["a","b\u003c"]"#.into()),
        Ok(r#"{"added":["a"],"removed":[]}"#.into()),
        Ok(SET.replace("STAMP", STAMP).replace("AT", AT)),
        Ok(REGISTER.replace("STAMP", STAMP).replace("AT", AT)),
        Ok(MANY.replace("STAMP", STAMP).replace("AT", AT)),
        Ok(MAP.into()),
        Ok(LIST.replace("STAMP", STAMP).replace("AT", AT)),
    ];
    let with = |(kind, text): (u8, Result<String, _>)| {
        [&[kind], text.unwrap_or_default().as_bytes()].concat()
    };
    (0..).zip(texts).map(with).collect()
}

const AT: &str = "2023-11-14T22:13:20.5+01:00";
const STAMP: &str = r#"{"node":"n","clock":1,"wall":"AT"}"#;
const COUNTER: &str = r#"{"node_id":"n","payload":{"a":1}}"#;
const SET: &str = r#"{"node_id":"n","adds":{"x":[STAMP]},"removes":{},"clock":1}"#;
const REGISTER: &str = r#"{"node_id":"n","value":{"b":[1.5,null]},"timestamp":STAMP}"#;
const MANY: &str =
    r#"{"node_id":"n","values":[{"timestamp":STAMP,"value":"v"}],"vector_clock":{"n":1}}"#;
const LIST: &str = r#"{"node_id":"n","sequence":[{"id":"n-a","element":1,"left_origin":"n-b","timestamp":STAMP}],"tombstones":["n-a"],"clock":1}"#;
const MAP: &str =
    r#"{"node_id":"n","keys":{"node_id":"n","adds":{},"removes":{},"clock":0},"values":[]}"#;
const GOSSIP: &str = r#"{"id":"17","type":"GOSSIP","sender_id":"a","receiver_id":"b","vector_clock":{"a":1},"payload":{"id":"17","update":{"key":"k","type":"g_counter","data":COUNTER,"vector_clock":{},"timestamp":"AT"},"hops":1,"ttl":10,"timestamp":"AT","path":["a"]},"timestamp":"AT"}"#;
const CLUSTER: &str = r#"{"node_id":"n","vm_states":MAP,"node_status":MAP,"assignments":MAP,"counters":{"node_id":"n","pos":COUNTER,"neg":COUNTER},"resources":MAP}"#;
