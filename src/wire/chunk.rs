//! A chunk: pages of one guest in one frame, and the acknowledgement of chunks.
//!
//! ```text
//! header:  chunk_id u64 | checksum u64 | raw_bytes u32 | payload_bytes u32 | codec u8
//!          | reserved u8 | extent_count u16
//! extent:  first_page u64 | pages u32 | kind u8 | reserved 3 bytes
//! body:    header | extents | payload
//! ack:     count u32 | chunk ids arrived | count u32 | chunk ids damaged
//! ```
//! The payload decodes to the data pages of all extents, in order. The checksum is over the number
//! and content of every page, zero pages included (`encoding::digest`).
//!
//! A chunk may be without payload though it has data pages: the destination then reads them out of
//! the source's memory by RDMA. Its codec says whether the guest may write them meanwhile.

use crate::base::ChunkId;
use crate::base::limits::{
    MAX_CHUNK_BYTES, MAX_CHUNK_EXTENTS, MAX_CHUNK_ZERO_PAGES, MAX_FRAME_BYTES, MAX_PAGES,
    MAX_STREAM_CHUNKS,
};
use crate::wire::cursor::{Reader, WireError, put_numbers};

/// The codec number of a payload that is the pages themselves.
const STORED: u8 = 0;
/// In place of a codec: the pages are read by RDMA, from a guest that runs.
pub const READ_LIVE: u8 = 0x40;
/// In place of a codec: the pages are read by RDMA, from a guest that stands still.
pub const READ_STILL: u8 = 0x41;
/// Length of the fixed part.
pub const CHUNK_HEADER_BYTES: usize = 28;
/// Length of one extent.
pub const EXTENT_BYTES: usize = 16;

/// How the pages of an extent travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExtentKind {
    /// In the payload.
    Data = 0,
    /// Not at all: they are zero.
    Zero = 1,
}

/// A run of pages, numbered through all regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first page.
    pub first_page: u64,
    /// How many, at least one.
    pub pages: u32,
    /// How they travel.
    pub kind: ExtentKind,
}

/// Everything of a chunk but its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Number of this transmission.
    pub id: ChunkId,
    /// Over every page of the chunk.
    pub checksum: u64,
    /// Length of the data pages.
    pub raw_bytes: u32,
    /// Length of the payload.
    pub payload_bytes: u32,
    /// Codec of the payload; `encoding` knows the numbers.
    pub codec: u8,
    /// The pages.
    pub extents: Vec<Extent>,
}

/// What became of chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkAck {
    /// Arrived whole and stored.
    pub arrived: Vec<ChunkId>,
    /// Arrived damaged: to be sent again.
    pub damaged: Vec<ChunkId>,
}

impl Extent {
    /// The page numbers.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.first_page..self.first_page + u64::from(self.pages)
    }

    fn decode(reader: &mut Reader) -> Result<Self, WireError> {
        let first_page = reader.u64("extent's first page")?;
        let pages = reader.u32("extent's page count")?;
        let kind = match reader.u8("extent kind")? {
            0 => ExtentKind::Data,
            1 => ExtentKind::Zero,
            other => {
                let value = other.into();
                return Err(WireError::Range { what: "extent kind", value, allowed: "0 or 1" });
            }
        };
        reader.array::<3>("extent padding")?;
        if pages == 0 {
            return Err(WireError::Range {
                what: "extent page count",
                value: 0,
                allowed: "1 or more",
            });
        }
        if first_page.saturating_add(pages.into()) > MAX_PAGES {
            let value = first_page;
            return Err(WireError::Range { what: "extent's first page", value, allowed: "2^34" });
        }
        Ok(Self { first_page, pages, kind })
    }
}

impl ChunkHeader {
    /// Length of header and extents on the wire.
    pub fn encoded_bytes(&self) -> usize {
        CHUNK_HEADER_BYTES + self.extents.len() * EXTENT_BYTES
    }

    /// Appends header and extents; the payload follows.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        out.extend_from_slice(&self.payload_bytes.to_le_bytes());
        out.extend_from_slice(&[self.codec, 0]);
        out.extend_from_slice(&(self.extents.len() as u16).to_le_bytes());
        for extent in &self.extents {
            out.extend_from_slice(&extent.first_page.to_le_bytes());
            out.extend_from_slice(&extent.pages.to_le_bytes());
            out.extend_from_slice(&[extent.kind as u8, 0, 0, 0]);
        }
    }

    /// How many extents follow a fixed part.
    ///
    /// # Errors
    /// None, or more than a chunk may have.
    pub fn extent_count(fixed: &[u8; CHUNK_HEADER_BYTES]) -> Result<usize, WireError> {
        let count = u16::from_le_bytes([fixed[26], fixed[27]]);
        if count == 0 || usize::from(count) > MAX_CHUNK_EXTENTS {
            let value = count.into();
            return Err(WireError::Range { what: "extent count", value, allowed: "1 to 256" });
        }
        Ok(count.into())
    }

    /// Reads header and extents, which must be all of `bytes`.
    ///
    /// `page_bytes` is the guest's page size. Whether the pages exist is the receiver's to check.
    ///
    /// # Errors
    /// Any length or count that is out of bounds or does not add up.
    pub fn decode(bytes: &[u8], page_bytes: u32) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let fixed = reader.array::<CHUNK_HEADER_BYTES>("chunk header")?;
        let count = Self::extent_count(&fixed)?;
        let mut fields = Reader::new(&fixed);
        let id = ChunkId(fields.u64("chunk id")?);
        let checksum = fields.u64("chunk checksum")?;
        let raw_bytes = fields.u32("raw length")?;
        let payload_bytes = fields.u32("payload length")?;
        let codec = fields.u8("codec")?;
        let extents =
            (0..count).map(|_| Extent::decode(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        reader.end("chunk header")?;
        let header = Self { id, checksum, raw_bytes, payload_bytes, codec, extents };
        header.check_sums(page_bytes)?;
        Ok(header)
    }

    /// Whether its pages are read by RDMA.
    pub fn is_read(&self) -> bool {
        matches!(self.codec, READ_LIVE | READ_STILL)
    }

    /// What is read by RDMA.
    pub fn read_bytes(&self) -> u64 {
        if self.is_read() { self.raw_bytes.into() } else { 0 }
    }

    /// Pages of one kind.
    pub fn pages(&self, kind: ExtentKind) -> u64 {
        self.extents.iter().filter(|extent| extent.kind == kind).map(|e| u64::from(e.pages)).sum()
    }

    fn check_sums(&self, page_bytes: u32) -> Result<(), WireError> {
        let data = self.pages(ExtentKind::Data).saturating_mul(page_bytes.into());
        if data != u64::from(self.raw_bytes) || self.raw_bytes > MAX_CHUNK_BYTES {
            let value = self.raw_bytes.into();
            return Err(WireError::Range {
                what: "raw length",
                value,
                allowed: "the data pages' length, 1 MiB at most",
            });
        }
        let is_empty = data == 0 || self.is_read();
        if self.payload_bytes > MAX_FRAME_BYTES || (self.payload_bytes == 0) != is_empty {
            let value = self.payload_bytes.into();
            return Err(WireError::Range { what: "payload length", value, allowed: "as encoded" });
        }
        if self.codec == STORED && self.payload_bytes != self.raw_bytes {
            let value = self.payload_bytes.into();
            let what = "payload length of a stored chunk";
            return Err(WireError::Range { what, value, allowed: "the raw length" });
        }
        let zero = self.pages(ExtentKind::Zero);
        if zero > MAX_CHUNK_ZERO_PAGES {
            let (value, limit) = (zero, MAX_CHUNK_ZERO_PAGES);
            return Err(WireError::TooLong { what: "zero pages of a chunk", value, limit });
        }
        Ok(())
    }
}

impl ChunkAck {
    /// The payload of an acknowledgement.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 8 * (self.arrived.len() + self.damaged.len()));
        for ids in [&self.arrived, &self.damaged] {
            put_numbers(&mut out, &ids.iter().map(|id| id.0).collect::<Vec<_>>());
        }
        out
    }

    /// Reads an acknowledgement.
    ///
    /// # Errors
    /// Counts over the window, truncation, trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let arrived = reader.numbers("arrived chunks", MAX_STREAM_CHUNKS)?;
        let damaged = reader.numbers("damaged chunks", MAX_STREAM_CHUNKS)?;
        reader.end("chunk acknowledgement")?;
        let ids = |numbers: Vec<u64>| numbers.into_iter().map(ChunkId).collect();
        Ok(Self { arrived: ids(arrived), damaged: ids(damaged) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> ChunkHeader {
        let data = Extent { first_page: 5, pages: 2, kind: ExtentKind::Data };
        let zero = Extent { first_page: 9, pages: 70_000, kind: ExtentKind::Zero };
        ChunkHeader {
            id: ChunkId(7),
            checksum: 8,
            raw_bytes: 8192,
            payload_bytes: 100,
            codec: 1,
            extents: vec![data, zero],
        }
    }

    fn bytes(header: &ChunkHeader) -> Vec<u8> {
        let mut out = Vec::new();
        header.encode(&mut out);
        out
    }

    #[test]
    fn header_round_trips() {
        let header = header();
        assert_eq!(bytes(&header).len(), header.encoded_bytes());
        assert_eq!(ChunkHeader::decode(&bytes(&header), 4096), Ok(header));
    }

    #[test]
    fn numbers_that_do_not_add_up_are_named() {
        type Change = fn(&mut ChunkHeader);
        let cases: [(&str, Change); 7] = [
            ("stored chunk is 100", |h| h.codec = STORED),
            ("raw length is 4096", |h| h.raw_bytes = 4096),
            ("payload length is 0", |h| h.payload_bytes = 0),
            ("zero pages", |h| h.extents[1].pages = u32::MAX),
            ("first page is 17179869183", |h| h.extents[0].first_page = (1 << 34) - 1),
            ("extent page count is 0", |h| h.extents[0].pages = 0),
            ("extent count is 0", |h| h.extents.clear()),
        ];
        for (text, change) in cases {
            let mut header = header();
            change(&mut header);
            let error = ChunkHeader::decode(&bytes(&header), 4096).unwrap_err().to_string();
            assert!(error.contains(text), "{error} lacks {text}");
        }
        let short = &bytes(&header())[..30];
        assert!(ChunkHeader::decode(short, 4096).is_err());
    }

    #[test]
    fn what_is_read_by_rdma_has_no_payload() {
        let read = ChunkHeader { codec: READ_STILL, payload_bytes: 0, ..header() };
        assert_eq!(ChunkHeader::decode(&bytes(&read), 4096).as_ref(), Ok(&read));
        assert_eq!((read.read_bytes(), header().read_bytes()), (8192, 0));
        let with_payload = ChunkHeader { payload_bytes: 8192, ..read };
        let error = ChunkHeader::decode(&bytes(&with_payload), 4096).unwrap_err().to_string();
        assert!(error.contains("payload length is 8192"), "{error}");
    }

    #[test]
    fn ack_round_trips() {
        let ack = ChunkAck { arrived: vec![ChunkId(1), ChunkId(4)], damaged: vec![ChunkId(2)] };
        assert_eq!(ChunkAck::decode(&ack.encode()), Ok(ack));
    }
}
