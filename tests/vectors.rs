//! The library against vectors that another implementation computed.

use dwcp::encoding::{
    ChunkChecksum, Codec, CodecChoice, Decoder, Encoder, ImageDigest, page_hash, zero_page_hash,
};
use dwcp::wire::v1::hde::{Blob, Content, Delta, Packet};
use serde_json::Value;

fn vectors() -> Value {
    vectors_in("encoding.json")
}

fn vectors_in(file: &str) -> Value {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn cases<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    let cases = vectors[name].as_array().unwrap();
    assert!(!cases.is_empty(), "no {name}");
    cases
}

fn from_hex(value: &Value) -> Vec<u8> {
    let byte =
        |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    value.as_str().unwrap().as_bytes().chunks(2).map(byte).collect()
}

fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap(), 16).unwrap()
}

fn length(case: &Value) -> u32 {
    case["bytes"].as_u64().unwrap().try_into().unwrap()
}

fn content(case: &Value) -> Vec<u8> {
    from_hex(&case["pattern"]).into_iter().cycle().take(length(case) as usize).collect()
}

#[test]
fn page_hashes() {
    let vectors = vectors();
    for case in cases(&vectors, "hashes") {
        let page = content(case);
        assert_eq!(page_hash(&page), number(&case["hash"]), "{case}");
        if page.iter().all(|byte| *byte == 0) {
            assert_eq!(zero_page_hash(length(case)), number(&case["hash"]), "{case}");
        }
    }
}

#[test]
fn image_digests_and_chunk_checksums() {
    let vectors = vectors();
    for case in cases(&vectors, "images") {
        let page = |page: &Value| (page["page"].as_u64().unwrap(), number(&page["hash"]));
        let pages: Vec<_> = case["pages"].as_array().unwrap().iter().map(page).collect();
        let digest = ImageDigest::of_pages(pages.iter().copied());
        assert_eq!(digest.to_string(), case["digest"].as_str().unwrap(), "{case}");
        let mut checksum = ChunkChecksum::default();
        pages.iter().for_each(|(page, hash)| checksum.add(*page, *hash));
        assert_eq!(checksum.value(), number(&case["checksum"]), "{case}");
    }
}

#[test]
fn blocks_of_other_encoders_decode_and_ours_decode_to_the_same() {
    let vectors = vectors();
    for case in cases(&vectors, "blocks") {
        let codec = Codec::try_from(case["codec"].as_u64().unwrap() as u8).unwrap();
        let (expected, mut pages) = (content(case), Vec::new());
        let mut decoder = Decoder::default();
        decoder.decode(codec, &from_hex(&case["payload"]), length(case), &mut pages).unwrap();
        assert!(pages == expected, "{codec} {}", length(case));

        let choice = if codec == Codec::Lz4 { CodecChoice::Lz4 } else { CodecChoice::Zstd(1) };
        let mut packed = Vec::new();
        let ours = Encoder::default().encode(choice, &expected, &mut packed).unwrap();
        assert_eq!(ours.codec, codec);
        decoder.decode(codec, ours.payload, length(case), &mut pages).unwrap();
        assert!(pages == expected);
    }
}

#[test]
fn bad_blocks_are_refused() {
    let vectors = vectors();
    for case in cases(&vectors, "refused") {
        let payload = from_hex(&case["payload"]);
        let decoded = Codec::try_from(case["codec"].as_u64().unwrap() as u8).and_then(|codec| {
            Decoder::default().decode(codec, &payload, length(case), &mut Vec::new())
        });
        assert!(decoded.is_err(), "{} was taken", case["why"]);
    }
}

#[test]
fn v1_packets_read_as_described_and_are_written_the_same() {
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
fn v1_deltas_apply_and_are_written_the_same() {
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
fn v1_blobs_read_as_described_and_are_written_the_same() {
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
fn bad_bytes_of_v1_are_refused() {
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
