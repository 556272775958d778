//! Tests of disks and plain memory beyond the vectors.

use super::*;
use crate::wire::v1::hde::{Content, Tier, pack_image};
use fastrand::Rng;

#[test]
fn disks_of_packed_blocks_come_back_in_any_order() {
    let mut rng = Rng::with_seed(2);
    for _ in 0..50 {
        let mut blocks: Vec<(u32, Vec<u8>)> =
            (0..rng.u32(..6)).map(|id| (id * 7, vec![id as u8; rng.usize(..9000)])).collect();
        rng.shuffle(&mut blocks);
        let mut disk = Vec::new();
        for (block_id, contents) in &blocks {
            let packed = pack_image(contents, Tier::Regional).unwrap();
            let packet = Packet::decode(&packed).unwrap();
            encode_record(&Record { block_id: *block_id, packet }, &mut disk).unwrap();
        }
        let records = decode_records(&disk).unwrap();
        let unpacked = records.iter().map(|record| match record.packet.unpack(9000).unwrap() {
            Content::Image(image) => (record.block_id, image),
            Content::Delta(delta) => panic!("{delta:?}"),
        });
        assert_eq!(unpacked.collect::<Vec<_>>(), blocks);
        for length in 0..disk.len() {
            let cut = decode_records(&disk[..length]);
            assert!(cut.map_or(true, |cut| records.starts_with(&cut) && cut.len() < records.len()));
        }
    }
}

#[test]
fn plain_disks_come_back() {
    let mut rng = Rng::with_seed(3);
    for _ in 0..100 {
        let contents: Vec<_> = (0..rng.u8(..6)).map(|id| vec![id; rng.usize(..300)]).collect();
        let ids = contents.iter().zip((0..).step_by(3));
        let blocks: Vec<_> = ids.map(|(bytes, id)| Block { id, bytes }).collect();
        let bytes = encode_disk(&blocks).unwrap();
        assert_eq!(decode_disk(&bytes, 1 << 20), Ok(blocks.clone()));
        for length in 0..bytes.len() {
            assert!(decode_disk(&bytes[..length], 1 << 20).map_or(true, |cut| {
                // A block of no length at the end is not missed by the sum.
                blocks.starts_with(&cut) && blocks[cut.len()..].iter().all(|b| b.bytes.is_empty())
            }));
        }
    }
}

#[test]
fn blocks_over_the_limit_are_neither_written_nor_read() {
    let bytes = vec![0; MAX_BLOCK_BYTES as usize + 1];
    let error = encode_disk(&[Block { id: 0, bytes: &bytes }]).unwrap_err();
    assert!(error.to_string().contains("16777217"), "{error}");
    assert!(encode_disk(&[Block { id: 0, bytes: &bytes[1..] }]).is_ok());
    let limit = WireError::TooLong { what: "plain image", value: u64::MAX, limit: 7 };
    assert_eq!(decode_length([255; 8], 7), Err(limit));
}
