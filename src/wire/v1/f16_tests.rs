//! Tests of F16's chunks beyond the vectors.

use super::*;
use crate::wire::v1::frames::FrameReader;
use fastrand::Rng;

fn image(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn transfers_arrive_in_any_order_however_they_are_cut() {
    let mut rng = Rng::with_seed(16);
    for _ in 0..50 {
        let image = image(rng.usize(1..200_000));
        let mut chunks: Vec<_> = chunks(&image, rng.u32(4096..20_000)).unwrap().collect();
        rng.shuffle(&mut chunks);
        let stream =
            chunks.into_iter().flat_map(|(header, bytes)| [&header.encode()[..], bytes].concat());
        let stream: Vec<u8> = stream.collect();
        let (mut reader, mut whole) = (FrameReader::default(), None);
        let mut assembler = Assembler::new(200_000);
        for part in stream.chunks(rng.usize(1..30_000)) {
            let mut input = part;
            while let Some((header, payload)) = reader.next(&mut input).unwrap() {
                assert!(whole.is_none(), "complete too early");
                whole = assembler.add(header, payload).unwrap();
            }
        }
        assert!(reader.is_between_frames());
        assert_eq!(whole, Some(image));
    }
}

/// Chunks of a transfer of 10,000 bytes: number, offset, length.
fn add_all(chunks: &[(u32, u32, usize)]) -> Result<Option<Vec<u8>>, WireError> {
    let (mut assembler, mut whole) = (Assembler::new(10_000), None);
    for (id, offset_bytes, length) in chunks {
        let (payload, payload_bytes) = (vec![*id as u8; *length], *length as u32);
        let header = ChunkHeader {
            id: *id,
            offset_bytes: *offset_bytes,
            payload_bytes,
            total_bytes: 10_000,
        };
        whole = assembler.add(header, payload)?;
    }
    Ok(whole)
}

#[test]
fn chunks_that_are_not_one_row_are_refused() {
    let whole = add_all(&[(1, 6000, 4000), (0, 0, 6000)]).unwrap().unwrap();
    assert_eq!((whole[5999], whole[6000], whole.len()), (0, 1, 10_000));
    for bad in [
        &[(0, 0, 6000), (0, 6000, 4000)][..],
        &[(0, 0, 6000), (2, 6000, 4000)],
        &[(1, 0, 6000), (2, 6000, 4000)],
        &[(0, 4000, 6000), (1, 0, 4000)],
        &[(0, 0, 6000), (1, 5000, 4000)],
        &[(0, 0, 6000), (1, 5000, 5000)],
        &[(3, 0, 1)],
    ] {
        assert!(add_all(bad).is_err(), "{bad:?}");
    }
    assert_eq!(add_all(&[(0, 0, 6000), (1, 6000, 3999)]), Ok(None));
}

#[test]
fn totals_over_the_limit_or_other_than_the_first_are_refused() {
    let header =
        |total_bytes| ChunkHeader { id: 0, offset_bytes: 0, payload_bytes: 1, total_bytes };
    let mut assembler = Assembler::new(10);
    let limit = WireError::TooLong { what: "F16 transfer", value: u32::MAX.into(), limit: 10 };
    assert_eq!(assembler.add(header(u32::MAX), vec![0]), Err(limit));
    let mut assembler = Assembler::new(10);
    assert_eq!(assembler.add(header(10), vec![0]), Ok(None));
    assert!(assembler.add(ChunkHeader { id: 1, ..header(9) }, vec![0]).is_err());
}

#[test]
fn what_v1_would_truncate_is_not_written() {
    for chunk_bytes in [0, MIN_CHUNK_BYTES - 1, MAX_CHUNK_BYTES + 1] {
        assert!(chunks(&[0; 10], chunk_bytes).is_err(), "{chunk_bytes}");
    }
    assert_eq!(chunks(&[], DEFAULT_CHUNK_BYTES).unwrap().count(), 0);
    // Pages of zeros that are never touched.
    let long = vec![0; MAX_TRANSFER_BYTES as usize + 1];
    let error = chunks(&long, DEFAULT_CHUNK_BYTES).err().unwrap();
    assert!(error.to_string().contains("4294967296"), "{error}");
}
