//! A segment of a relayed stream: header and four packed blocks, as one frame's payload. The block of
//! fresh pages, by far the largest, is a piece of memory of its own at either end, so that it need not
//! be copied on its way.
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

/// Flags of the header.
const BEFORE_END: u8 = 1;
const IN_TAIL: u8 = 2;
const KEPT: u8 = 4;
const KEPT_END: u8 = 8;

/// Where the flags are in the header.
const FLAGS_AT: usize = 9;

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

impl Block {
    /// Of so many bytes that travel as they are.
    pub fn stored(bytes: usize) -> Self {
        let bytes = bytes as u32;
        Self { codec: 0, raw_bytes: bytes, packed_bytes: bytes }
    }
}

/// Whether a segment belongs to what the destination keeps back at a switch to post-copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// No.
    #[default]
    No,
    /// Yes, and more follows.
    Inside,
    /// Yes, up to its last byte.
    End,
}

impl Kept {
    fn flags(self) -> u8 {
        match self {
            Self::No => 0,
            Self::Inside => KEPT,
            Self::End => KEPT | KEPT_END,
        }
    }

    fn of(flags: u8) -> Self {
        match flags & (KEPT | KEPT_END) {
            KEPT => Self::Inside,
            flags if flags == KEPT | KEPT_END => Self::End,
            _ => Self::No,
        }
    }
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
    /// The guest may be stopped soon, and what is not replayed then is downtime.
    pub in_tail: bool,
    /// The hypervisor gets it only when the guest is to run at the destination, by post-copy.
    pub kept: Kept,
    /// Checksum of the stream's bytes.
    pub checksum: u64,
    /// Framing, page classes, fresh pages, differences.
    pub blocks: [Block; BLOCKS],
}

/// A segment as it travels, in three pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentPayload {
    /// The header, and the packed framing and classes.
    pub head: Vec<u8>,
    /// The packed fresh pages.
    pub fresh: Vec<u8>,
    /// The packed differences.
    pub tail: Vec<u8>,
}

impl SegmentPayload {
    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in the order in which they travel.
    pub fn pieces(&self) -> [&[u8]; 3] {
        [&self.head, &self.fresh, &self.tail]
    }

    /// The number of the segment.
    ///
    /// # Errors
    /// It is shorter than a number.
    pub fn number(&self) -> Result<u64, WireError> {
        Reader::new(&self.head).u64("segment number")
    }

    /// Whether [`SegmentHeader::in_tail`] is set.
    pub fn is_in_tail(&self) -> bool {
        self.head.get(FLAGS_AT).is_some_and(|flags| flags & IN_TAIL != 0)
    }

    /// Lengths of the pieces of a payload of so many bytes that begins with this header.
    ///
    /// # Errors
    /// A block that is longer than it may be, or blocks that do not add up to the payload.
    pub fn piece_lengths(header: &[u8], payload_bytes: u32) -> Result<[usize; 3], WireError> {
        let blocks = SegmentHeader::read(&mut Reader::new(header))?.blocks;
        let [framing, classes, fresh, delta] = blocks.map(|block| block.packed_bytes as usize);
        let head = [framing, classes].iter().fold(SEGMENT_HEADER_BYTES, |sum, block| sum + block);
        let (value, limit) = ((head + fresh + delta) as u64, payload_bytes.into());
        match value == limit {
            true => Ok([head, fresh, delta]),
            false => Err(WireError::TooLong { what: "blocks of a segment", value, limit }),
        }
    }
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let mut out = &mut bytes[..];
        let mut put = |part: &[u8]| {
            let (to, rest) = std::mem::take(&mut out).split_at_mut(part.len());
            to.copy_from_slice(part);
            out = rest;
        };
        put(&self.number.to_le_bytes());
        let before_end = if self.before_end { BEFORE_END } else { 0 };
        let in_tail = if self.in_tail { IN_TAIL } else { 0 };
        let flags = before_end | in_tail | self.kept.flags();
        put(&[self.channel, flags, 0, 0]);
        put(&self.checksum.to_le_bytes());
        for block in &self.blocks {
            put(&[block.codec, 0, 0, 0]);
            put(&block.raw_bytes.to_le_bytes());
            put(&block.packed_bytes.to_le_bytes());
        }
        bytes
    }

    /// Reads a payload: the header and its packed blocks.
    ///
    /// # Errors
    /// Truncation, trailing bytes, a block longer than it may be.
    pub fn decode(payload: &SegmentPayload) -> Result<(Self, [&[u8]; BLOCKS]), WireError> {
        if payload.len() > MAX_SEGMENT_BYTES as usize {
            let (value, limit) = (payload.len() as u64, MAX_SEGMENT_BYTES.into());
            return Err(WireError::TooLong { what: "segment", value, limit });
        }
        let mut reader = Reader::new(&payload.head);
        let header = Self::read(&mut reader)?;
        let [framing, classes, fresh, delta] =
            header.blocks.map(|block| block.packed_bytes as usize);
        let framing = reader.bytes("packed framing", framing)?;
        let classes = reader.bytes("packed classes", classes)?;
        reader.end("segment's head")?;
        let whole = |what, bytes, length| {
            let mut reader = Reader::new(bytes);
            let found = reader.bytes(what, length)?;
            reader.end(what).map(|()| found)
        };
        let fresh = whole("packed fresh pages", &payload.fresh, fresh)?;
        let delta = whole("packed differences", &payload.tail, delta)?;
        Ok((header, [framing, classes, fresh, delta]))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
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
        let (before_end, in_tail) = (flags & BEFORE_END != 0, flags & IN_TAIL != 0);
        let kept = Kept::of(flags);
        Ok(Self { number, channel, before_end, in_tail, kept, checksum, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentPayload {
        let mut blocks = [Block::default(); BLOCKS];
        blocks[0] = Block { codec: 2, raw_bytes: 10, packed_bytes: 3 };
        blocks[2] = Block { codec: 0, raw_bytes: 2, packed_bytes: 2 };
        let (before_end, in_tail, kept) = (true, false, Kept::No);
        let (number, channel, checksum) = (9, 4, 77);
        let header = SegmentHeader { number, channel, before_end, in_tail, kept, checksum, blocks };
        let head = [&header.encode()[..], b"abc"].concat();
        SegmentPayload { head, fresh: b"de".to_vec(), tail: Vec::new() }
    }

    #[test]
    fn segments_round_trip() {
        let payload = sample();
        let (header, packed) = SegmentHeader::decode(&payload).unwrap();
        assert_eq!((header.number, header.checksum), (9, 77));
        assert_eq!((header.channel, header.before_end, header.in_tail), (4, true, false));
        let tail = SegmentHeader { in_tail: true, ..header }.encode().to_vec();
        let tail = SegmentPayload { head: [&tail[..], b"abc"].concat(), ..payload.clone() };
        assert!(SegmentHeader::decode(&tail).unwrap().0.in_tail);
        assert!(tail.is_in_tail() && !payload.is_in_tail());
        for kept in [Kept::No, Kept::Inside, Kept::End] {
            let head = [&SegmentHeader { kept, ..header }.encode()[..], b"abc"].concat();
            let payload = SegmentPayload { head, ..payload.clone() };
            assert_eq!(SegmentHeader::decode(&payload).unwrap().0.kept, kept);
        }
        assert_eq!(packed, [&b"abc"[..], b"", b"de", b""]);
        assert_eq!(payload.number(), Ok(9));
        let lengths = SegmentPayload::piece_lengths(&payload.head, payload.len() as u32);
        assert_eq!(lengths, Ok([SEGMENT_HEADER_BYTES + 3, 2, 0]));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let payload = sample();
        let (head, bytes) = (&payload.head, payload.len() as u32);
        for cut in 0..head.len() {
            let cut = SegmentPayload { head: head[..cut].to_vec(), ..payload.clone() };
            assert!(SegmentHeader::decode(&cut).is_err(), "{cut:?}");
        }
        for cut in 0..SEGMENT_HEADER_BYTES {
            assert!(SegmentPayload::piece_lengths(&head[..cut], bytes).is_err(), "{cut}");
        }
        for other in [0, bytes - 1, bytes + 1, u32::MAX] {
            assert!(SegmentPayload::piece_lengths(head, other).is_err(), "{other}");
        }
        let longer = [
            SegmentPayload { head: [&head[..], &[0]].concat(), ..payload.clone() },
            SegmentPayload { fresh: b"def".to_vec(), ..payload.clone() },
            SegmentPayload { tail: b"f".to_vec(), ..payload.clone() },
            SegmentPayload { fresh: Vec::new(), ..payload.clone() },
        ];
        longer.iter().for_each(|longer| assert!(SegmentHeader::decode(longer).is_err()));
        let mut absurd = payload;
        absurd.head[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = SegmentHeader::decode(&absurd).unwrap_err().to_string();
        assert!(error.contains("4294967295"), "{error}");
    }
}
