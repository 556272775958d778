//! A segment of a relayed stream: header and four packed blocks, as one frame's payload.
//!
//! ```text
//! number u64 | channel u8 | flags u8 | reserved u16 | checksum u64
//! | 4 x (codec u8 | reserved 3 | raw_bytes u32 | packed_bytes u32) | the four packed blocks
//! ```
//! The checksum is that of the stream's bytes, so it covers unpacking and references too.

use crate::base::limits::{MAX_CHUNK_BYTES, MAX_SEGMENT_BYTES};
use crate::wire::cursor::{Reader, WireError};

/// Blocks of a segment.
pub const BLOCKS: usize = 4;
/// Length of the header.
pub const SEGMENT_HEADER_BYTES: usize = 8 + 4 + 8 + BLOCKS * 12;

/// A flag of the header.
const BEFORE_END: u8 = 1;

/// How one block is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The codec's number.
    pub codec: u8,
    /// Length unpacked.
    pub raw_bytes: u32,
    /// Length on the wire.
    pub packed_bytes: u32,
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number in the order in which the source read the channels, from 0.
    pub number: u64,
    /// The hypervisor's connection that these bytes belong to: 0 is its main stream.
    pub channel: u8,
    /// The end of the main stream cannot begin in this segment.
    pub before_end: bool,
    /// Checksum of the stream's bytes.
    pub checksum: u64,
    /// Framing, page classes, fresh pages, differences.
    pub blocks: [Block; BLOCKS],
}

/// The number of the segment that this payload holds.
///
/// # Errors
/// It is shorter than a number.
pub fn number_of(payload: &[u8]) -> Result<u64, WireError> {
    Reader::new(payload).u64("segment number")
}

impl SegmentHeader {
    /// Appends the header's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&[self.channel, u8::from(self.before_end) * BEFORE_END, 0, 0]);
        out.extend_from_slice(&self.checksum.to_le_bytes());
        for block in &self.blocks {
            out.extend_from_slice(&[block.codec, 0, 0, 0]);
            out.extend_from_slice(&block.raw_bytes.to_le_bytes());
            out.extend_from_slice(&block.packed_bytes.to_le_bytes());
        }
    }

    /// Reads a payload: the header and its packed blocks.
    ///
    /// # Errors
    /// Truncation, trailing bytes, a block longer than it may be.
    pub fn decode(payload: &[u8]) -> Result<(Self, [&[u8]; BLOCKS]), WireError> {
        if payload.len() > MAX_SEGMENT_BYTES as usize {
            let (value, limit) = (payload.len() as u64, MAX_SEGMENT_BYTES.into());
            return Err(WireError::TooLong { what: "segment", value, limit });
        }
        let mut reader = Reader::new(payload);
        let number = reader.u64("segment number")?;
        let [channel, flags, ..] = reader.u32("channel")?.to_le_bytes();
        let checksum = reader.u64("segment checksum")?;
        let mut blocks = [Block::default(); BLOCKS];
        for block in &mut blocks {
            *block = Block {
                codec: reader.u32("block codec")? as u8,
                raw_bytes: reader.u32("block length")?,
                packed_bytes: reader.u32("packed block length")?,
            };
            if block.raw_bytes > MAX_CHUNK_BYTES {
                let (value, limit) = (block.raw_bytes.into(), MAX_CHUNK_BYTES.into());
                return Err(WireError::TooLong { what: "block of a segment", value, limit });
            }
        }
        let mut packed = [&[][..]; BLOCKS];
        for (bytes, block) in packed.iter_mut().zip(&blocks) {
            *bytes = reader.bytes("packed block", block.packed_bytes as usize)?;
        }
        reader.end("segment")?;
        let before_end = flags & BEFORE_END != 0;
        Ok((Self { number, channel, before_end, checksum, blocks }, packed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut blocks = [Block::default(); BLOCKS];
        blocks[0] = Block { codec: 2, raw_bytes: 10, packed_bytes: 3 };
        blocks[2] = Block { codec: 0, raw_bytes: 2, packed_bytes: 2 };
        let header =
            SegmentHeader { number: 9, channel: 4, before_end: true, checksum: 77, blocks };
        let mut out = Vec::new();
        header.encode(&mut out);
        assert_eq!(out.len(), SEGMENT_HEADER_BYTES);
        out.extend_from_slice(b"abcde");
        out
    }

    #[test]
    fn segments_round_trip() {
        let bytes = sample();
        let (header, packed) = SegmentHeader::decode(&bytes).unwrap();
        assert_eq!((header.number, header.checksum), (9, 77));
        assert_eq!((header.channel, header.before_end), (4, true));
        assert_eq!(packed, [&b"abc"[..], b"", b"de", b""]);
        assert_eq!(number_of(&bytes), Ok(9));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert!(SegmentHeader::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(SegmentHeader::decode(&longer).is_err());
        let mut absurd = bytes;
        absurd[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = SegmentHeader::decode(&absurd).unwrap_err().to_string();
        assert!(error.contains("4294967295"), "{error}");
    }
}
