//! Tests of v1's packets, differences and blobs beyond the vectors.

use super::*;
use fastrand::Rng;

const LIMIT: u64 = 1 << 20;

fn image(length: usize) -> Vec<u8> {
    let record = |index: usize| format!("{index:08}user{}", index * 31 % 977);
    (0..).flat_map(|index| record(index).into_bytes()).take(length).collect()
}

#[test]
fn packed_images_come_back_from_every_tier() {
    for tier in [Tier::Local, Tier::Regional, Tier::Global] {
        for length in [0, 1, 4096, 300_000] {
            let bytes = pack_image(&image(length), tier).unwrap();
            let packet = Packet::decode(&bytes).unwrap();
            assert_eq!((packet.is_delta, packet.tier), (false, tier));
            assert_eq!(packet.unpack(LIMIT), Ok(Content::Image(image(length))));
        }
    }
}

#[test]
fn frames_carry_a_checksum_that_finds_a_flipped_bit() {
    let good = pack_image(&image(2000), Tier::Global).unwrap();
    assert_eq!(good[PACKET_HEADER_BYTES + 4] & 4, 4, "content checksum");
    let last = good.len() - 1;
    for at in [last, last - 3] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let unpacked = Packet::decode(&bad).unwrap().unpack(LIMIT);
        assert_eq!(unpacked, Err(HdeError::Malformed("zstd")));
    }
}

#[test]
fn differences_of_random_images_apply() {
    let mut rng = Rng::with_seed(1);
    for _ in 0..200 {
        let old = image(rng.usize(..20_000));
        let mut new = image(rng.usize(..20_000));
        for _ in 0..rng.usize(..3) {
            if !new.is_empty() {
                let at = rng.usize(..new.len());
                new[at] ^= 1;
            }
        }
        let delta = Delta::between(b"vm_memory", &old, &new);
        let bytes = pack_delta(&delta, Tier::Regional).unwrap();
        let content = Packet::decode(&bytes).unwrap().unpack(LIMIT).unwrap();
        assert_eq!(content, Content::Delta(delta.clone()));
        assert_eq!(delta.apply(&old), Ok(new));
    }
}

#[test]
fn a_copy_from_beyond_the_baseline_is_refused() {
    let parts = vec![DeltaPart::Copy { length_bytes: 10 }];
    let delta = Delta { baseline_id: Vec::new(), parts };
    let short = WireError::Truncated { what: "copy from the baseline", needed: 10, left: 9 };
    assert_eq!(delta.apply(&[0; 9]), Err(short.into()));
    assert_eq!(delta.apply(&[0; 11]), Ok(vec![0; 10]));
}

#[test]
fn what_follows_a_frame_is_refused() {
    let frame = pack_zstd(b"hello", 1).unwrap();
    assert_eq!(unpack_zstd(&frame, 5), Ok(b"hello".to_vec()));
    let limit = HdeError::TooLong { what: "unpacked image", limit: 4 };
    assert_eq!(unpack_zstd(&frame, 4), Err(limit));
    for tail in [&[0_u8][..], &frame] {
        let long = [&frame[..], tail].concat();
        assert_eq!(unpack_zstd(&long, LIMIT), Err(HdeError::Malformed("zstd")));
    }
    for length in 0..frame.len() {
        assert!(unpack_zstd(&frame[..length], LIMIT).is_err(), "{length}");
    }
}

#[test]
fn blobs_unpack_from_every_algorithm() {
    let raw = image(5000);
    let mut encoder = lz4::EncoderBuilder::new().build(Vec::new()).unwrap();
    io::Write::write_all(&mut encoder, &raw).unwrap();
    let (lz4, result) = encoder.finish();
    result.unwrap();
    let zstd = pack_zstd(&raw, 3).unwrap();
    for (algorithm, data) in [
        (Algorithm::None, &raw),
        (Algorithm::Lz4, &lz4),
        (Algorithm::Zstd, &zstd),
        (Algorithm::ZstdMax, &zstd),
        (Algorithm::Brotli, &zstd),
    ] {
        let mode = Mode::Hybrid;
        let blob = Blob { is_delta: false, algorithm, mode, original_bytes: 5000, data };
        let bytes = blob.encode();
        assert_eq!(Blob::decode(&bytes), Ok(blob));
        assert_eq!(blob.unpack(5000).unwrap(), raw, "{algorithm:?}");
        let limit = HdeError::TooLong { what: "blob's image", limit: 4999 };
        assert_eq!(blob.unpack(4999), Err(limit));
        let long = [&data[..], &[0]].concat();
        assert!(Blob { data: &long, ..blob }.unpack(5000).is_err(), "{algorithm:?}");
        let short = &data[..data.len() - 1];
        assert!(Blob { data: short, ..blob }.unpack(5000).is_err(), "{algorithm:?}");
        assert_eq!(Blob { is_delta: true, ..blob }.unpack(5000), Err(HdeError::BlobDelta));
    }
}
