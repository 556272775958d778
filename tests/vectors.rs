//! The library against vectors that another implementation computed.

use dwcp::encoding::{
    ChunkChecksum, Codec, CodecChoice, Decoder, Encoder, ImageDigest, page_hash, zero_page_hash,
};
use serde_json::Value;

#[path = "vectors/rollout.rs"]
mod rollout;
#[path = "vectors/v1_documents.rs"]
mod v1_documents;
#[path = "vectors/v1_frames.rs"]
mod v1_frames;
#[path = "vectors/v1_hde.rs"]
mod v1_hde;
#[path = "vectors/v1_payloads.rs"]
mod v1_payloads;

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

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap()
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
