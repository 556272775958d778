//! Tests of F8's chunks, and of cutting frames out of a stream, beyond the vectors.

use super::*;
use crate::wire::v1::frames::{FrameReader, MAX_PAYLOAD_BYTES};
use fastrand::Rng;

fn image(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

/// What each stream of a transfer carries, chunks in random order.
fn streams(transfer: &Transfer, image: &[u8], count: u32, rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut chunks: Vec<_> = transfer.chunks(image).collect();
    rng.shuffle(&mut chunks);
    let mut streams = vec![Vec::new(); count as usize];
    for (header, payload) in chunks {
        let stream = &mut streams[header.stream(count) as usize];
        stream.extend_from_slice(&header.encode());
        stream.extend_from_slice(payload);
    }
    streams
}

#[test]
fn transfers_arrive_over_streams_however_they_are_cut() {
    let mut rng = Rng::with_seed(8);
    for _ in 0..100 {
        let image = image(rng.usize(1..50_000));
        let transfer = Transfer::new(image.len() as u64, rng.u32(1..9000)).unwrap();
        let mut streams = streams(&transfer, &image, rng.u32(1..9), &mut rng);
        let mut readers: Vec<_> = streams.iter().map(|_| FrameReader::default()).collect();
        let (mut assembler, mut whole) = (Assembler::new(transfer), None);
        while streams.iter().any(|stream| !stream.is_empty()) {
            let at = rng.usize(..streams.len());
            let length = rng.usize(..=streams[at].len().min(20_000));
            let arrived: Vec<_> = streams[at].drain(..length).collect();
            let mut input = &arrived[..];
            while let Some((header, payload)) = readers[at].next(&mut input).unwrap() {
                assert!(whole.is_none(), "complete too early");
                whole = assembler.add(header, &payload).unwrap();
            }
            assert!(input.is_empty());
        }
        assert!(readers.iter().all(FrameReader::is_between_frames));
        assert_eq!(whole, Some(image));
    }
}

#[test]
fn a_chunk_out_of_place_is_refused_and_spoils_nothing() {
    let image = image(25);
    let mut assembler = Assembler::new(Transfer::new(25, 10).unwrap());
    let header = |id, payload_bytes| ChunkHeader { id, payload_bytes };
    assert_eq!(assembler.add(header(2, 5), &image[20..]), Ok(None));
    let again = assembler.add(header(2, 5), &image[20..]).unwrap_err();
    assert!(again.to_string().contains("F8 chunk's number is 2"), "{again}");
    assert!(assembler.add(header(3, 10), &image[..10]).is_err(), "beyond the last");
    assert!(assembler.add(header(u32::MAX, 10), &image[..10]).is_err());
    assert!(assembler.add(header(1, 9), &image[10..19]).is_err(), "cut by another length");
    assert!(assembler.add(header(1, 12), &image[10..22]).is_err(), "as after the sender's tuning");
    assert_eq!(assembler.add(header(0, 10), &image[..10]), Ok(None));
    assert_eq!(assembler.add(header(1, 10), &image[10..20]), Ok(Some(image)));
    assert!(assembler.add(header(1, 10), &[0; 10]).is_err(), "after the last");
}

#[test]
fn transfers_that_cannot_be_numbered_are_refused() {
    for (total_bytes, chunk_bytes) in [(0, 1), (1, 0), (1 << 32, 1), (1, MAX_PAYLOAD_BYTES + 1)] {
        assert!(Transfer::new(total_bytes, chunk_bytes).is_err(), "{total_bytes} {chunk_bytes}");
    }
    let most = Transfer::new(u64::from(u32::MAX), 1).unwrap();
    assert_eq!(most.chunk_count(), u64::from(u32::MAX));
    assert_eq!(most.range(7), Ok(7..8));
    assert!(most.range(u32::MAX).is_err());
}

#[test]
fn an_announced_length_reserves_nothing_and_an_error_stays() {
    let mut reader = FrameReader::default();
    let header = ChunkHeader { id: 0, payload_bytes: MAX_PAYLOAD_BYTES }.encode();
    assert_eq!(reader.next::<ChunkHeader>(&mut &header[..]), Ok(None));
    assert!(reader.capacity_bytes() < 1024);
    let mut reader = FrameReader::default();
    let header = ChunkHeader { id: 0, payload_bytes: u32::MAX }.encode();
    let error = reader.next::<ChunkHeader>(&mut &header[..]).unwrap_err();
    assert!(error.to_string().contains("4294967295"), "{error}");
    let good = ChunkHeader { id: 0, payload_bytes: 1 }.encode();
    assert_eq!(reader.next::<ChunkHeader>(&mut &good[..]), Err(error));
}
