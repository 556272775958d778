//! What v1's migrations carry, and differences between images.

use super::{cases, content, from_hex, text, vectors_in};
use dwcp::wire::v1::delta::{self, BlockDelta};
use dwcp::wire::v1::hde::Packet;
use dwcp::wire::v1::payload::{self, Block, Record};
use serde_json::Value;

const LIMIT: u64 = 1 << 20;

#[test]
fn disks_and_memory_read_as_described_and_are_written_the_same() {
    let vectors = vectors_in("v1_payloads.json");
    for case in cases(&vectors, "records") {
        let (bytes, packet) = (from_hex(&case["bytes"]), from_hex(&case["packet"]));
        let packet = Packet::decode(&packet).unwrap();
        let ids = case["blocks"].as_array().unwrap().iter();
        let expected: Vec<_> =
            ids.map(|id| Record { block_id: id.as_u64().unwrap() as u32, packet }).collect();
        assert_eq!(payload::decode_records(&bytes), Ok(expected.clone()));
        let mut written = Vec::new();
        expected.iter().for_each(|record| payload::encode_record(record, &mut written).unwrap());
        assert_eq!(written, bytes);
    }
    for case in cases(&vectors, "disks") {
        let bytes = from_hex(&case["bytes"]);
        let blocks = payload::decode_disk(&bytes, 6).unwrap();
        let block = |block: &Block| (u64::from(block.id), block.bytes.to_vec());
        let expected = |block: &Value| (block["id"].as_u64().unwrap(), from_hex(&block["data"]));
        let described = case["blocks"].as_array().unwrap().iter().map(expected);
        assert!(blocks.iter().map(block).eq(described), "{case}");
        assert_eq!(payload::encode_disk(&blocks).unwrap(), bytes);
        assert!(payload::decode_disk(&bytes, 5).is_err(), "over the limit: {case}");
    }
    for case in cases(&vectors, "memories") {
        let (bytes, memory) = (from_hex(&case["bytes"]), from_hex(&case["data"]));
        assert_eq!(payload::decode_memory(&bytes, 5), Ok(&memory[..]));
        assert_eq!(payload::encode_memory(&memory), bytes);
        assert!(payload::decode_memory(&bytes, 4).is_err(), "over the limit: {case}");
    }
}

/// Old and new image.
fn images(case: &Value) -> (Vec<u8>, Vec<u8>) {
    if case.get("old").is_some() {
        return (from_hex(&case["old"]), from_hex(&case["new"]));
    }
    let old = content(case);
    let cut = case["cut"].as_u64().unwrap() as usize;
    let new = [&old[..cut], &from_hex(&case["tail"])].concat();
    (old, new)
}

#[test]
fn differences_apply_and_are_written_the_same() {
    let vectors = vectors_in("v1_payloads.json");
    for case in cases(&vectors, "xor") {
        let ((old, new), bytes) = (images(case), from_hex(&case["delta"]));
        assert!(delta::xor(&old, &new) == bytes);
        assert!(delta::apply_xor(&old, &bytes, new.len()).unwrap() == new);
    }
    for case in cases(&vectors, "rsync") {
        let ((old, new), bytes) = (images(case), from_hex(&case["delta"]));
        let read = BlockDelta::decode(&bytes, new.len() as u64).unwrap();
        assert!(read.encode() == bytes);
        assert!(read.apply(&old).unwrap() == new);
        assert!(BlockDelta::between(&old, &new) == read);
        let less = (new.len() as u64).checked_sub(1);
        assert!(less.is_none_or(|less| BlockDelta::decode(&bytes, less).is_err()));
    }
}

#[test]
fn bad_payloads_are_refused() {
    let vectors = vectors_in("v1_payloads.json");
    for case in cases(&vectors, "refused") {
        let bytes = from_hex(&case["bytes"]);
        let taken = match text(case, "kind") {
            "records" => payload::decode_records(&bytes).is_ok(),
            "disk" => payload::decode_disk(&bytes, 1 << 26).is_ok(),
            "memory" => payload::decode_memory(&bytes, LIMIT).is_ok(),
            _ => BlockDelta::decode(&bytes, LIMIT).is_ok(),
        };
        assert!(!taken, "{} was taken", case["why"]);
    }
}
