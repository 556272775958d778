//! Tests of xor and block differences beyond the vectors.

use super::*;
use fastrand::Rng;

/// Blocks drawn from three, so that many are equal, then a tail.
fn image(rng: &mut Rng) -> Vec<u8> {
    let blocks = (0..rng.usize(..5)).flat_map(|_| vec![rng.u8(..3); BLOCK_BYTES]);
    let mut image: Vec<u8> = blocks.collect();
    image.extend((0..rng.usize(..50)).map(|_| rng.u8(..)));
    image
}

#[test]
fn differences_of_random_images_apply() {
    let mut rng = Rng::with_seed(7);
    for _ in 0..500 {
        let (old, new) = (image(&mut rng), image(&mut rng));
        let delta = xor(&old, &new);
        assert_eq!(apply_xor(&old, &delta, new.len()).unwrap(), new);
        let delta = BlockDelta::between(&old, &new);
        let read = BlockDelta::decode(&delta.encode(), new.len() as u64).unwrap();
        assert_eq!(read, delta);
        assert_eq!(read.apply(&old).unwrap(), new);
    }
}

#[test]
fn a_difference_of_another_length_is_refused() {
    let delta = xor(b"abcd", b"ab");
    assert_eq!(delta, *b"\0\0cd");
    assert_eq!(apply_xor(b"abcd", &delta, 2).unwrap(), b"ab");
    for (old, delta, new_bytes) in [("abcd", &delta[..3], 2), ("ab", &delta[..], 3), ("", &[], 1)] {
        assert!(apply_xor(old.as_bytes(), delta, new_bytes).is_err(), "{old} {delta:?}");
    }
}

#[test]
fn blocks_with_equal_checksums_are_not_taken_for_each_other() {
    // One up, one down, one down, one up: both halves of Adler-32 stay.
    let first = [1_u8; BLOCK_BYTES].to_vec();
    let mut second = first.clone();
    second[..4].copy_from_slice(&[2, 0, 0, 2]);
    let sum = |block: &[u8]| {
        let step = |(low, high): (u32, u32), byte: &u8| {
            let low = (low + u32::from(*byte)) % 65_521;
            (low, (high + low) % 65_521)
        };
        block.iter().fold((1, 0), step)
    };
    assert_eq!(sum(&first), sum(&second));
    let delta = BlockDelta::between(&second, &first);
    assert_eq!(delta.pieces, [Piece::Literal(first.clone())]);
    assert_eq!(delta.apply(&second), Ok(first));
}

#[test]
fn blocks_beyond_the_old_image_and_empty_pieces_are_refused() {
    let copy = |offset_bytes| BlockDelta { pieces: vec![Piece::Copy { offset_bytes }] };
    let old = [5; BLOCK_BYTES + 3];
    assert!(copy(0).apply(&old).is_ok() && copy(3).apply(&old).is_ok());
    for offset_bytes in [4, 1 << 20, u32::MAX] {
        assert!(copy(offset_bytes).apply(&old).is_err(), "{offset_bytes}");
    }
    assert!(BlockDelta::decode(&[LITERAL, 0, 0, 0, 0], 9).is_err());
}

#[test]
fn many_references_in_few_bytes_stop_at_the_limit() {
    let bytes = [COPY, 0, 0, 0, 0].repeat(100_000);
    let error = BlockDelta::decode(&bytes, 1 << 20).unwrap_err();
    let (value, limit) = ((1 << 20) + BLOCK_BYTES as u64, 1 << 20);
    assert_eq!(error, WireError::TooLong { what: "image of the pieces", value, limit });
}

#[test]
fn stored_bytes_are_told_from_a_frame_by_its_magic() {
    let frame = zstd::bulk::compress(b"hello", 1).unwrap();
    assert_eq!(unpack(&frame, 5).unwrap(), &b"hello"[..]);
    assert_eq!(unpack(b"hello", 5).unwrap(), &b"hello"[..]);
    assert!(unpack(&frame, 4).is_err() && unpack(b"hello", 4).is_err());
    assert!(unpack(&frame[..frame.len() - 1], 5).is_err());
}
