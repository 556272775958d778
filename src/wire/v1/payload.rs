//! What v1's migrations carry: disks as records, and plain memory and disks where its encoder is off.
//!
//! Memory is one HDE packet and nothing around it. A disk's records come in random order, without a
//! count, a guest's name or an end. v1's receiver expects a byte before all this that says memory or
//! disk; no v1 sender writes it, so neither do we, and what v1 listens for is always "memory".

use crate::wire::cursor::{Reader, WireError};
use crate::wire::v1::hde::{HdeError, PACKET_HEADER_BYTES, Packet};
use std::collections::BTreeSet;

/// Bytes before a block's packet or contents.
pub const BLOCK_HEADER_BYTES: usize = 8;
/// Bytes before plain memory, and before the blocks of a plain disk.
pub const LENGTH_BYTES: usize = 8;
/// The longest block of a plain disk.
pub const MAX_BLOCK_BYTES: u32 = 16 << 20;

/// A block of a disk, packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Which block.
    pub block_id: u32,
    /// Its contents.
    pub packet: Packet<'a>,
}

/// A block of a disk as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Which block.
    pub id: u32,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// Reads a disk's records, in the order in which they came. Packets are not unpacked.
///
/// # Errors
/// [`HdeError`] for a record that ends early, a packet that is none, and a block that comes twice,
/// because nothing tells which of the two is newer.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<Record<'_>>, HdeError> {
    let (mut reader, mut seen, mut records) = (Reader::new(bytes), BTreeSet::new(), Vec::new());
    while reader.left() > 0 {
        let block_id = new_block(&mut reader, &mut seen)?;
        let packet_bytes = reader.u32_be("packet's length")? as usize;
        if packet_bytes < PACKET_HEADER_BYTES {
            let (what, value) = ("packet's length", packet_bytes as u64);
            return Err(WireError::Range { what, value, allowed: "16 and more" }.into());
        }
        let packet = Packet::decode(reader.bytes("disk block's packet", packet_bytes)?)?;
        records.push(Record { block_id, packet });
    }
    Ok(records)
}

/// Appends a record.
///
/// # Errors
/// [`WireError::TooLong`] for a packet whose length does not fit its field.
pub fn encode_record(record: &Record, out: &mut Vec<u8>) -> Result<(), WireError> {
    let packet = record.packet.encode();
    let value = packet.len() as u64;
    let too_long = WireError::TooLong { what: "disk block's packet", value, limit: MAX_U32 };
    let length = u32::try_from(value).map_err(|_| too_long)?;
    out.extend_from_slice(&record.block_id.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&packet);
    Ok(())
}

/// The length that precedes plain memory, or the sum of lengths that precedes a plain disk's blocks.
///
/// # Errors
/// [`WireError::TooLong`] over what the caller admits.
pub fn decode_length(bytes: [u8; LENGTH_BYTES], max_bytes: u64) -> Result<u64, WireError> {
    let value = u64::from_be_bytes(bytes);
    if value > max_bytes {
        return Err(WireError::TooLong { what: "plain image", value, limit: max_bytes });
    }
    Ok(value)
}

/// Plain memory: its length and itself.
pub fn encode_memory(memory: &[u8]) -> Vec<u8> {
    [&(memory.len() as u64).to_be_bytes()[..], memory].concat()
}

/// Reads plain memory of at most `max_bytes`.
///
/// # Errors
/// [`WireError`] for memory over the limit or of another length than announced.
pub fn decode_memory(bytes: &[u8], max_bytes: u64) -> Result<&[u8], WireError> {
    let mut reader = Reader::new(bytes);
    let length = decode_length(reader.array("memory's length")?, max_bytes)?;
    let memory = reader.bytes("memory", usize::try_from(length).unwrap_or(usize::MAX))?;
    reader.end("memory")?;
    Ok(memory)
}

/// A plain disk: the length of all blocks without their headers, then the blocks.
///
/// # Errors
/// [`WireError::TooLong`] for a block over the limit.
pub fn encode_disk(blocks: &[Block]) -> Result<Vec<u8>, WireError> {
    let total_bytes: u64 = blocks.iter().map(|block| block.bytes.len() as u64).sum();
    let mut out = total_bytes.to_be_bytes().to_vec();
    for block in blocks {
        let length = block_length(block.bytes.len() as u64)?;
        out.extend_from_slice(&block.id.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(block.bytes);
    }
    Ok(out)
}

/// Reads a plain disk whose blocks are at most `max_bytes` long together.
///
/// # Errors
/// [`WireError`] for a disk over the limit, blocks of another length than announced, and a block that
/// comes twice.
pub fn decode_disk(bytes: &[u8], max_bytes: u64) -> Result<Vec<Block<'_>>, WireError> {
    let (mut reader, mut seen, mut blocks) = (Reader::new(bytes), BTreeSet::new(), Vec::new());
    let announced = decode_length(reader.array("disk's length")?, max_bytes)?;
    let mut total_bytes = 0;
    while reader.left() > 0 {
        let id = new_block(&mut reader, &mut seen)?;
        let length = block_length(reader.u32_be("disk block's length")?.into())?;
        total_bytes += u64::from(length);
        blocks.push(Block { id, bytes: reader.bytes("disk block", length as usize)? });
    }
    if total_bytes != announced {
        let (what, value) = ("length of the disk's blocks", total_bytes);
        return Err(WireError::Range { what, value, allowed: "the announced one" });
    }
    Ok(blocks)
}

fn new_block(reader: &mut Reader, seen: &mut BTreeSet<u32>) -> Result<u32, WireError> {
    let id = reader.u32_be("disk block's number")?;
    if !seen.insert(id) {
        let (what, value) = ("disk block's number", id.into());
        return Err(WireError::Range { what, value, allowed: "one that has not come yet" });
    }
    Ok(id)
}

fn block_length(value: u64) -> Result<u32, WireError> {
    let limit = MAX_BLOCK_BYTES.into();
    let too_long = WireError::TooLong { what: "disk block", value, limit };
    if value > limit { Err(too_long) } else { Ok(value as u32) }
}

const MAX_U32: u64 = u32::MAX as u64;

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
