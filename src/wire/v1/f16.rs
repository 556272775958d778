//! F16, the chunks of v1's migrations: a number, an offset, a length, and the length of the whole in
//! every one of them.
//!
//! Offset and total have 32 bits, and v1 truncates what is longer without a word. So a transfer of
//! 4 GiB or more is refused on write; it must be split above. Streams take chunks from one queue, hence
//! any chunk may come on any of them. v1's receiver ignores the offset and puts chunks together by
//! number; here both must say the same. An empty transfer writes nothing.

use crate::wire::cursor::{Reader, WireError};
use crate::wire::v1::frames::{Header, payload_length};
use std::collections::BTreeMap;

/// Bytes before a chunk's payload.
pub const HEADER_BYTES: usize = 16;
/// How v1 cuts unless it is told otherwise.
pub const DEFAULT_CHUNK_BYTES: u32 = 64 << 10;
/// The shortest chunks that v1 chooses by itself; the last of a transfer may be shorter.
pub const MIN_CHUNK_BYTES: u32 = 4 << 10;
/// The longest chunks that v1 chooses by itself.
pub const MAX_CHUNK_BYTES: u32 = 1 << 20;
/// The longest transfer.
pub const MAX_TRANSFER_BYTES: u64 = u32::MAX as u64;

/// What precedes a chunk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Which chunk of the transfer.
    pub id: u32,
    /// Where in the transfer it begins.
    pub offset_bytes: u32,
    /// How long it is.
    pub payload_bytes: u32,
    /// How long the whole transfer is.
    pub total_bytes: u32,
}

/// Collects the chunks of a transfer, whichever streams they came from.
#[derive(Debug)]
pub struct Assembler {
    max_total_bytes: u32,
    total_bytes: Option<u32>,
    arrived_bytes: u64,
    chunks: BTreeMap<u32, (u32, Vec<u8>)>,
}

impl Header for ChunkHeader {
    fn header_bytes(_known: &[u8]) -> usize {
        HEADER_BYTES
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let id = reader.u32_be("F16 chunk's number")?;
        let offset_bytes = reader.u32_be("F16 chunk's offset")?;
        let payload_bytes = payload_length("F16 chunk", reader.u32_be("F16 chunk's length")?)?;
        let total_bytes = reader.u32_be("F16 transfer's length")?;
        reader.end("F16 header")?;
        if payload_bytes == 0 {
            let what = "F16 chunk's length";
            return Err(WireError::Range { what, value: 0, allowed: "1 and more" });
        }
        let end_bytes = u64::from(offset_bytes) + u64::from(payload_bytes);
        if end_bytes > total_bytes.into() {
            let (what, limit) = ("F16 transfer up to the end of a chunk", total_bytes.into());
            return Err(WireError::TooLong { what, value: end_bytes, limit });
        }
        Ok(Self { id, offset_bytes, payload_bytes, total_bytes })
    }

    fn payload_bytes(&self) -> u32 {
        self.payload_bytes
    }
}

impl ChunkHeader {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields = [self.id, self.offset_bytes, self.payload_bytes, self.total_bytes];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }
}

/// The chunks of an image, in order.
///
/// # Errors
/// [`WireError::TooLong`] for an image that v1 would truncate, [`WireError::Range`] for chunks of a
/// length that v1 would not choose.
pub fn chunks(
    image: &[u8],
    chunk_bytes: u32,
) -> Result<impl Iterator<Item = (ChunkHeader, &[u8])>, WireError> {
    if !(MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&chunk_bytes) {
        let (what, value) = ("F16 chunk's length", chunk_bytes.into());
        return Err(WireError::Range { what, value, allowed: "4 KiB to 1 MiB" });
    }
    let value = image.len() as u64;
    let total_bytes = u32::try_from(value).map_err(|_| WireError::TooLong {
        what: "F16 transfer",
        value,
        limit: MAX_TRANSFER_BYTES,
    })?;
    Ok((0..).zip(image.chunks(chunk_bytes as usize)).map(move |(id, payload)| {
        let (offset_bytes, payload_bytes) = (id * chunk_bytes, payload.len() as u32);
        (ChunkHeader { id, offset_bytes, payload_bytes, total_bytes }, payload)
    }))
}

impl Assembler {
    /// Waits for a transfer of at most this length.
    pub fn new(max_total_bytes: u32) -> Self {
        Self { max_total_bytes, total_bytes: None, arrived_bytes: 0, chunks: BTreeMap::new() }
    }

    /// Takes a chunk; gives the image with the last one.
    ///
    /// # Errors
    /// [`WireError`] for a transfer over the limit, another total than before, more chunks or bytes than
    /// fit into it, a number that was there already, and chunks whose numbers and offsets are not one
    /// row. After an error the transfer is of no more use.
    pub fn add(
        &mut self,
        header: ChunkHeader,
        payload: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, WireError> {
        let total_bytes = *self.total_bytes.get_or_insert(header.total_bytes);
        if header.total_bytes != total_bytes {
            let (what, value) = ("F16 transfer's length", header.total_bytes.into());
            return Err(WireError::Range { what, value, allowed: "that of its first chunk" });
        }
        if total_bytes > self.max_total_bytes {
            let (value, limit) = (total_bytes.into(), self.max_total_bytes.into());
            return Err(WireError::TooLong { what: "F16 transfer", value, limit });
        }
        // This bounds what the table of chunks can take beside their bytes.
        if header.id > total_bytes / MIN_CHUNK_BYTES {
            let (what, value) = ("F16 chunk's number", header.id.into());
            return Err(WireError::Range { what, value, allowed: "those of chunks of 4 KiB" });
        }
        self.arrived_bytes += payload.len() as u64;
        if self.arrived_bytes > total_bytes.into() {
            let (value, limit) = (self.arrived_bytes, total_bytes.into());
            return Err(WireError::TooLong { what: "F16 transfer's chunks", value, limit });
        }
        if self.chunks.insert(header.id, (header.offset_bytes, payload)).is_some() {
            let (what, value) = ("F16 chunk's number", header.id.into());
            return Err(WireError::Range { what, value, allowed: "one that has not come yet" });
        }
        if self.arrived_bytes < total_bytes.into() { Ok(None) } else { self.join().map(Some) }
    }

    /// All chunks in the order of their numbers, if their offsets agree.
    fn join(&mut self) -> Result<Vec<u8>, WireError> {
        let mut image = Vec::with_capacity(self.arrived_bytes as usize);
        for (due, (id, (offset_bytes, payload))) in (0..).zip(std::mem::take(&mut self.chunks)) {
            if id != due {
                return Err(WireError::Sequence { found: id.into(), expected: due.into() });
            }
            if offset_bytes as usize != image.len() {
                let (what, value) = ("F16 chunk's offset", offset_bytes.into());
                return Err(WireError::Range { what, value, allowed: "the end of the one before" });
            }
            image.extend_from_slice(&payload);
        }
        Ok(image)
    }
}

#[cfg(test)]
#[path = "f16_tests.rs"]
mod tests;
