//! Packets, differences and blobs of v1's encoder.

use super::{cases, from_hex, vectors_in};
use dwcp::wire::v1::hde::{Blob, Content, Delta, Packet};
use serde_json::Value;

fn number(case: &Value, name: &str) -> u64 {
    case[name].as_u64().unwrap()
}

#[test]
fn packets_read_as_described_and_are_written_the_same() {
    let vectors = vectors_in("v1_hde.json");
    for case in cases(&vectors, "packets") {
        let bytes = from_hex(&case["bytes"]);
        let packet = Packet::decode(&bytes).unwrap();
        assert_eq!(packet.is_delta, case["is_delta"], "{case}");
        assert_eq!(packet.tier as u8, case["tier"], "{case}");
        assert_eq!(packet.unpack(5), Ok(Content::Image(from_hex(&case["image"]))), "{case}");
        assert!(packet.unpack(4).is_err(), "over the limit: {case}");
        assert_eq!(packet.encode(), bytes);
    }
}

#[test]
fn packets_that_v1_wrote_unpack_to_what_it_packed() {
    let vectors = vectors_in("v1_hde.json");
    for case in cases(&vectors, "written_by_v1") {
        let packet = from_hex(&case["bytes"]);
        let packet = Packet::decode(&packet).unwrap();
        assert_eq!(
            (packet.is_delta, packet.tier as u64),
            (case["is_delta"] == true, number(case, "tier"))
        );
        let (pattern, tail) = (from_hex(&case["pattern"]), from_hex(&case["tail"]));
        let repeated = |length: u64| pattern.iter().copied().cycle().take(length as usize);
        let image_bytes = number(case, "bytes_of_image");
        let image: Vec<u8> =
            repeated(image_bytes - tail.len() as u64).chain(tail.clone()).collect();
        let baseline: Vec<u8> = repeated(number(case, "baseline_bytes")).collect();
        match packet.unpack(image_bytes).unwrap() {
            Content::Image(unpacked) => assert!(unpacked == image && !packet.is_delta),
            Content::Delta(delta) => assert!(delta.apply(&baseline).unwrap() == image),
        }
    }
}

#[test]
fn deltas_apply_and_are_written_the_same() {
    let vectors = vectors_in("v1_hde.json");
    for case in cases(&vectors, "deltas") {
        let (bytes, image_bytes) =
            (from_hex(&case["bytes"]), case["image_bytes"].as_u64().unwrap());
        let delta = Delta::decode(&bytes, image_bytes).unwrap();
        assert_eq!(delta.baseline_id, case["baseline_id"].as_str().unwrap().as_bytes());
        assert_eq!(delta.encode(), bytes);
        let pattern = from_hex(&case["baseline_pattern"]);
        let baseline_bytes = case["baseline_bytes"].as_u64().unwrap() as usize;
        let baseline: Vec<u8> = pattern.into_iter().cycle().take(baseline_bytes).collect();
        let tail = from_hex(&case["image_tail"]);
        let image = [&baseline[..image_bytes as usize - tail.len()], &tail].concat();
        assert_eq!(delta.apply(&baseline), Ok(image.clone()));
        assert_eq!(Delta::between(&delta.baseline_id, &baseline, &image), delta);
        assert!(Delta::decode(&bytes, image_bytes - 1).is_err(), "over the limit: {case}");
    }
}

#[test]
fn blobs_read_as_described_and_are_written_the_same() {
    let vectors = vectors_in("v1_hde.json");
    for case in cases(&vectors, "blobs") {
        let bytes = from_hex(&case["bytes"]);
        let blob = Blob::decode(&bytes).unwrap();
        assert_eq!(blob.algorithm as u8, case["algorithm"], "{case}");
        assert_eq!(blob.mode as u8, case["mode"], "{case}");
        assert_eq!(blob.unpack(5).unwrap(), from_hex(&case["image"]), "{case}");
        assert!(blob.unpack(4).is_err(), "over the limit: {case}");
        assert_eq!(blob.encode(), bytes);
    }
}

#[test]
fn bad_bytes_are_refused() {
    let vectors = vectors_in("v1_hde.json");
    for case in cases(&vectors, "refused") {
        let bytes = from_hex(&case["bytes"]);
        let taken = match case["kind"].as_str().unwrap() {
            "packet" => Packet::decode(&bytes).and_then(|packet| packet.unpack(1 << 20)).is_ok(),
            "delta" => Delta::decode(&bytes, 1 << 20).is_ok(),
            _ => Blob::decode(&bytes).is_ok_and(|blob| blob.unpack(1 << 20).is_ok()),
        };
        assert!(!taken, "{} was taken", case["why"]);
    }
}
