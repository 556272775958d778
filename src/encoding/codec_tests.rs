//! Tests of the codecs: round trips, and what a hostile payload gets.

use super::*;

const CHOICES: [CodecChoice; 6] = [
    CodecChoice::None,
    CodecChoice::Lz4,
    CodecChoice::Lz4Fast(8),
    CodecChoice::Zstd(-7),
    CodecChoice::Zstd(1),
    CodecChoice::Zstd(19),
];

/// Bytes without structure.
fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut byte = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| byte()).collect()
}

/// Bytes as a heap holds them: small numbers, pointers, text.
fn structured(length: usize) -> Vec<u8> {
    let record = |index: usize| format!("{index:08}\0\0\0\0user{}\x7f\x55", index * 31 % 977);
    (0..).flat_map(|index| record(index).into_bytes()).take(length).collect()
}

fn looks_random(raw: &[u8]) -> bool {
    BlockSample::of(raw).looks_random()
}

fn encoded(choice: CodecChoice, raw: &[u8]) -> (Codec, Vec<u8>) {
    let mut out = vec![0xee; 100];
    let encoded = Encoder::default().encode(choice, raw, &mut out).unwrap();
    (encoded.codec, encoded.payload.to_vec())
}

fn decoded(codec: Codec, payload: &[u8], raw_bytes: u32) -> Result<Vec<u8>, DecodeError> {
    let mut out = vec![0xee; 77];
    Decoder::default().decode(codec, payload, raw_bytes, &mut out).map(|()| out)
}

#[test]
fn every_choice_round_trips_at_every_length() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
    for length in [0, 1, 15, 16, 17, 64, 4096, 16 << 10, 100_000, 1 << 20] {
        for raw in [vec![0; length], random(length, 3), structured(length)] {
            for choice in CHOICES {
                let encoded = encoder.encode(choice, &raw, &mut packed).unwrap();
                assert!(encoded.payload.len() <= raw.len());
                let (codec, bytes) = (encoded.codec, raw.len() as u32);
                decoder.decode(codec, encoded.payload, bytes, &mut unpacked).unwrap();
                assert!(unpacked == raw, "{choice} {length}");
            }
        }
    }
}

#[test]
fn what_shrinks_is_packed_and_what_does_not_is_stored_in_place() {
    let raw = structured(65_536);
    let (codec, payload) = encoded(CodecChoice::Lz4, &raw);
    assert_eq!(codec, Codec::Lz4);
    let (codec, smaller) = encoded(CodecChoice::Zstd(3), &raw);
    assert_eq!(codec, Codec::Zstd);
    assert!(smaller.len() < payload.len() && payload.len() < raw.len() / 2);

    for (choice, length) in [(CodecChoice::Lz4, 65_536), (CodecChoice::Zstd(3), 4096)] {
        let (raw, mut out) = (random(length, 9), Vec::new());
        let encoded = Encoder::default().encode(choice, &raw, &mut out).unwrap();
        assert_eq!(encoded.codec, Codec::None);
        assert!(std::ptr::eq(encoded.payload, &raw[..]), "stored bytes were copied");
    }
}

#[test]
fn a_gain_of_less_than_a_sixteenth_is_not_taken() {
    for zeros in [512, 2048, 4096] {
        let mut raw = random(8192, 5);
        raw[..zeros].fill(0);
        let (codec, payload) = encoded(CodecChoice::Lz4, &raw);
        assert_eq!(codec == Codec::Lz4, zeros > 512, "{zeros} zeros");
        assert!(codec == Codec::None || payload.len() <= 8192 * 15 / 16);
    }
}

#[test]
fn probe_spares_random_blocks_only() {
    for seed in 0..200 {
        assert!(looks_random(&random(65_536, seed)), "seed {seed}");
        let mut mixed = random(65_536, seed);
        let page = seed as usize % 16 * 4096;
        mixed[page..page + 4096].copy_from_slice(&structured(4096));
        assert!(!looks_random(&mixed), "seed {seed}: one page of 16 is structured");
    }
    let counter: Vec<u8> = (0..1 << 20).map(|index: usize| index as u8).collect();
    let repeated = random(4096, 1).repeat(64);
    assert!(!looks_random(&counter) && !looks_random(&repeated));
    assert!(!looks_random(&structured(1 << 20)));
    assert!(!looks_random(&random(4096, 1)), "too short to judge");
}

#[test]
fn lengths_are_checked_before_anything_is_allocated() {
    let mut out = Vec::new();
    let mut decode = |codec, payload: &[u8], raw_bytes| {
        let error = Decoder::default().decode(codec, payload, raw_bytes, &mut out).unwrap_err();
        assert_eq!(out.capacity(), 0, "{error}");
        error.to_string()
    };
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        assert!(decode(codec, &[1], MAX_CHUNK_BYTES + 1).contains("1048577"));
        assert!(decode(codec, &[1], u32::MAX).contains("4294967295"));
        assert!(decode(codec, &[1; 9], 8).contains("payload of 9 bytes"));
    }
    assert!(decode(Codec::None, &[1; 7], 8).contains("7 bytes does not fit 8"));
    assert!(decode(Codec::Lz4, &[], 0).contains("0 bytes"));
    assert_eq!(Codec::try_from(3).unwrap_err(), DecodeError::UnknownCodec(3));
}

#[test]
fn another_raw_length_than_packed_is_refused() {
    let raw = structured(8192);
    for choice in [CodecChoice::Lz4, CodecChoice::Zstd(1)] {
        let (codec, payload) = encoded(choice, &raw);
        for wrong in [8191, 8193, 4096, MAX_CHUNK_BYTES] {
            assert!(decoded(codec, &payload, wrong).is_err(), "{choice} {wrong}");
        }
        for cut in 0..payload.len() {
            assert!(decoded(codec, &payload[..cut], 8192).is_err(), "{choice} cut at {cut}");
        }
        let trailing = [&payload[..], &[0]].concat();
        assert!(decoded(codec, &trailing, 8192).is_err(), "{choice} with a byte more");
    }
}

#[test]
fn zstd_frames_that_our_encoder_would_not_write_are_refused() {
    let raw = structured(8192);
    let refused = |payload: &[u8], text: &str| {
        let error = decoded(Codec::Zstd, payload, 8192).unwrap_err().to_string();
        assert!(error.contains(text), "{error} lacks {text}");
    };
    let frame = |set: &dyn Fn(&mut Compressor)| {
        let mut compressor = Compressor::new(1).unwrap();
        set(&mut compressor);
        compressor.compress(&raw).unwrap()
    };
    let good = frame(&|_| {});
    assert_eq!(decoded(Codec::Zstd, &good, 8192).unwrap(), raw);
    refused(&[&good[..], &good[..]].concat(), "followed by other bytes");
    refused(&frame(&|c| c.include_contentsize(false).unwrap()), "does not say its size");
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], &good[..]].concat();
    refused(&skippable, "magic number");
    // Frame header: descriptor with a one-byte dictionary id, single segment, two-byte size.
    let dictionary = [&ZSTD_MAGIC[..], &[0b0110_0001, 7, 0x00, 0x1f, 1, 0, 0]].concat();
    refused(&dictionary, "needs a dictionary");
}

#[test]
fn any_flipped_byte_is_refused_or_decodes_to_the_same_length() {
    let raw = structured(2048);
    for choice in [CodecChoice::Lz4, CodecChoice::Zstd(3)] {
        let (codec, payload) = encoded(choice, &raw);
        for at in 0..payload.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = payload.clone();
                bad[at] ^= flip;
                if let Ok(out) = decoded(codec, &bad, 2048) {
                    assert_eq!(out.len(), 2048);
                }
            }
        }
    }
}

#[test]
fn encoder_follows_a_change_of_level_and_recovers_from_blocks_that_do_not_fit() {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    let (good, bad) = (structured(32_768), random(8192, 2));
    let mut bytes = |level, raw: &[u8]| {
        let encoded = encoder.encode(CodecChoice::Zstd(level), raw, &mut out).unwrap();
        (encoded.codec, encoded.payload.len())
    };
    let fast = bytes(-7, &good);
    assert_eq!(bytes(-7, &bad), (Codec::None, 8192));
    let small = bytes(19, &good);
    assert!(small.1 < fast.1);
    assert_eq!(bytes(-7, &good), fast);
}

#[test]
fn names_parse_and_print() {
    for choice in CHOICES {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    assert_eq!("zstd".parse(), Ok(CodecChoice::Zstd(1)));
    assert_eq!("zip".parse::<CodecChoice>(), Err(ChoiceError::Name("zip".into())));
    for text in ["zstd:x", "lz4:", "none:1", ":", "lz4:8:8"] {
        assert!(text.parse::<CodecChoice>().is_err(), "{text}");
    }
    for (acceleration, good) in [(1, false), (2, true), (64, true), (65, false)] {
        assert_eq!(CodecChoice::Lz4Fast(acceleration).validate().is_ok(), good, "{acceleration}");
    }
    for (level, good) in [(-8, false), (-7, true), (19, true), (20, false)] {
        assert_eq!(CodecChoice::Zstd(level).validate().is_ok(), good, "{level}");
    }
}
