//! F8, the chunks of v1's multi-stream TCP: a number, a length, the bytes. The successor's transport
//! writes the same.
//!
//! Neither the transfer's length nor the length of its chunks is on the wire: both ends must have been
//! told. (The successor's automatic tuning changes the sender's chunk length and tells nobody; such a
//! transfer is refused here, by the length of a chunk or by its number.) Numbers start at zero in every
//! transfer, so two transfers over the same connections cannot be told apart. Chunk `n` goes to stream
//! `n` modulo the count of streams, in any order; an empty transfer writes nothing.
//!
//! After a minute of silence v1 reads a byte to see whether the peer lives, and throws it away. So a
//! listener should not leave streams quiet for that long and then speak on them.

use crate::wire::cursor::{Reader, WireError};
use crate::wire::v1::frames::{Header, payload_length};
use std::ops::Range;

/// Bytes before a chunk's payload.
pub const HEADER_BYTES: usize = 8;
/// How v1 cuts unless it is told otherwise.
pub const DEFAULT_CHUNK_BYTES: u32 = 256 << 10;

/// What precedes a chunk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Which chunk of the transfer.
    pub id: u32,
    /// How long it is.
    pub payload_bytes: u32,
}

/// What both ends of a transfer were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    total_bytes: u64,
    chunk_bytes: u32,
}

/// Which chunks of a transfer are there, for those who put them in their places themselves.
#[derive(Debug)]
pub struct Arrivals {
    transfer: Transfer,
    claimed: Vec<bool>,
    missing: u64,
}

/// Puts a transfer's chunks in their places, whichever streams they came from.
#[derive(Debug)]
pub struct Assembler {
    arrivals: Arrivals,
    image: Vec<u8>,
}

impl Header for ChunkHeader {
    fn header_bytes(_known: &[u8]) -> usize {
        HEADER_BYTES
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let id = reader.u32_be("F8 chunk's number")?;
        let payload_bytes = payload_length("F8 chunk", reader.u32_be("F8 chunk's length")?)?;
        reader.end("F8 header")?;
        if payload_bytes == 0 {
            let what = "F8 chunk's length";
            return Err(WireError::Range { what, value: 0, allowed: "1 and more" });
        }
        Ok(Self { id, payload_bytes })
    }

    fn payload_bytes(&self) -> u32 {
        self.payload_bytes
    }
}

impl ChunkHeader {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.id.to_be_bytes());
        bytes[4..].copy_from_slice(&self.payload_bytes.to_be_bytes());
        bytes
    }

    /// Which of the streams v1 sends the chunk on.
    pub fn stream(&self, stream_count: u32) -> u32 {
        self.id % stream_count.max(1)
    }
}

impl Transfer {
    /// A transfer of this length in chunks of that.
    ///
    /// # Errors
    /// [`WireError`] for a transfer or chunks of no length, chunks over the limit, and more chunks than
    /// have numbers.
    pub fn new(total_bytes: u64, chunk_bytes: u32) -> Result<Self, WireError> {
        payload_length("F8 chunk", chunk_bytes)?;
        if chunk_bytes == 0 {
            let what = "F8 chunk's length";
            return Err(WireError::Range { what, value: 0, allowed: "1 and more" });
        }
        let limit = u64::from(u32::MAX) * u64::from(chunk_bytes);
        if total_bytes == 0 {
            let what = "F8 transfer's length";
            return Err(WireError::Range { what, value: 0, allowed: "1 and more" });
        }
        if total_bytes > limit {
            return Err(WireError::TooLong { what: "F8 transfer", value: total_bytes, limit });
        }
        Ok(Self { total_bytes, chunk_bytes })
    }

    /// How many chunks there are.
    pub fn chunk_count(&self) -> u64 {
        self.total_bytes.div_ceil(self.chunk_bytes.into())
    }

    /// Where a chunk belongs.
    ///
    /// # Errors
    /// [`WireError::Range`] for a number beyond the last.
    pub fn range(&self, id: u32) -> Result<Range<u64>, WireError> {
        let start = u64::from(id) * u64::from(self.chunk_bytes);
        if start >= self.total_bytes {
            let (what, value) = ("F8 chunk's number", id.into());
            return Err(WireError::Range { what, value, allowed: "those of the transfer" });
        }
        Ok(start..self.total_bytes.min(start + u64::from(self.chunk_bytes)))
    }

    /// The chunks of an image of that length, in order.
    pub fn chunks<'a>(&self, image: &'a [u8]) -> impl Iterator<Item = (ChunkHeader, &'a [u8])> {
        (0..).zip(image.chunks(self.chunk_bytes as usize)).map(|(id, payload)| {
            let payload_bytes = payload.len() as u32;
            (ChunkHeader { id, payload_bytes }, payload)
        })
    }
}

impl Arrivals {
    /// Nothing is there. A mark is held for each chunk.
    pub fn new(transfer: Transfer) -> Self {
        let claimed = vec![false; transfer.chunk_count() as usize];
        Self { transfer, claimed, missing: transfer.chunk_count() }
    }

    /// A chunk begins to come: where it belongs. Nothing need be reserved for it before.
    ///
    /// # Errors
    /// [`WireError`] for a number beyond the last, one that was there already, or another length than
    /// that chunk has.
    pub fn claim(&mut self, header: &ChunkHeader) -> Result<Range<u64>, WireError> {
        let range = self.transfer.range(header.id)?;
        if u64::from(header.payload_bytes) != range.end - range.start {
            let (what, value) = ("F8 chunk's length", header.payload_bytes.into());
            return Err(WireError::Range { what, value, allowed: "that of the transfer's chunks" });
        }
        let claimed = &mut self.claimed[header.id as usize];
        if *claimed {
            let (what, value) = ("F8 chunk's number", header.id.into());
            return Err(WireError::Range { what, value, allowed: "one that has not come yet" });
        }
        *claimed = true;
        Ok(range)
    }

    /// A chunk that was claimed is in its place; gives whether it was the last.
    pub fn settle(&mut self) -> bool {
        self.missing = self.missing.saturating_sub(1);
        self.missing == 0
    }
}

impl Assembler {
    /// Waits for the chunks of a transfer. Its image is allocated at once: its length was not read from
    /// a peer.
    pub fn new(transfer: Transfer) -> Self {
        let image = vec![0; transfer.total_bytes as usize];
        Self { arrivals: Arrivals::new(transfer), image }
    }

    /// Takes a chunk; gives the image with the last one. v1's own receiver goes on reading on streams
    /// that did not bring the last chunk, until its peer closes them.
    ///
    /// # Errors
    /// [`WireError`] as [`Arrivals::claim`] has it.
    pub fn add(
        &mut self,
        header: ChunkHeader,
        payload: &[u8],
    ) -> Result<Option<Vec<u8>>, WireError> {
        let range = self.arrivals.claim(&header)?;
        if header.payload_bytes as usize != payload.len() {
            let (what, value) = ("F8 chunk's length", header.payload_bytes.into());
            return Err(WireError::Range { what, value, allowed: "that of its payload" });
        }
        self.image[range.start as usize..range.end as usize].copy_from_slice(payload);
        Ok(self.arrivals.settle().then(|| std::mem::take(&mut self.image)))
    }
}

#[cfg(test)]
#[path = "f8_tests.rs"]
mod tests;
