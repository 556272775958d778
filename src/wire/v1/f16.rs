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
    claimed_bytes: u64,
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
    let (value, limit) = (image.len() as u64, MAX_TRANSFER_BYTES);
    if value > limit {
        return Err(WireError::TooLong { what: "F16 transfer", value, limit });
    }
    Ok((0..).map_while(move |id| chunk(image, chunk_bytes, id)))
}

/// One chunk of an image that [`chunks`] takes; none beyond its end.
pub fn chunk(image: &[u8], chunk_bytes: u32, id: u32) -> Option<(ChunkHeader, &[u8])> {
    let start = u64::from(id) * u64::from(chunk_bytes);
    let rest = image.get(usize::try_from(start).ok()?..).filter(|rest| !rest.is_empty())?;
    let payload = &rest[..rest.len().min(chunk_bytes as usize)];
    let (offset_bytes, payload_bytes) = (start as u32, payload.len() as u32);
    let total_bytes = image.len() as u32;
    Some((ChunkHeader { id, offset_bytes, payload_bytes, total_bytes }, payload))
}

impl Assembler {
    /// Waits for a transfer of at most this length.
    pub fn new(max_total_bytes: u32) -> Self {
        let (total_bytes, chunks) = (None, BTreeMap::new());
        Self { max_total_bytes, total_bytes, claimed_bytes: 0, arrived_bytes: 0, chunks }
    }

    /// Takes a chunk; gives the image with the last one.
    ///
    /// # Errors
    /// [`WireError`] as [`Self::claim`] and [`Self::fill`] have it.
    pub fn add(
        &mut self,
        header: ChunkHeader,
        payload: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, WireError> {
        self.claim(&header)?;
        self.fill(header.id, payload)
    }

    /// A chunk begins to come. Nothing need be reserved for it before.
    ///
    /// # Errors
    /// [`WireError`] for a transfer over the limit, another total than before, more chunks or bytes than
    /// fit into it, and a number that was there already. After an error the transfer is of no more use.
    pub fn claim(&mut self, header: &ChunkHeader) -> Result<(), WireError> {
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
        self.claimed_bytes += u64::from(header.payload_bytes);
        if self.claimed_bytes > total_bytes.into() {
            let (value, limit) = (self.claimed_bytes, total_bytes.into());
            return Err(WireError::TooLong { what: "F16 transfer's chunks", value, limit });
        }
        if self.chunks.insert(header.id, (header.offset_bytes, Vec::new())).is_some() {
            let (what, value) = ("F16 chunk's number", header.id.into());
            return Err(WireError::Range { what, value, allowed: "one that has not come yet" });
        }
        Ok(())
    }

    /// The bytes of a chunk that was claimed; gives the image with the last one.
    ///
    /// # Errors
    /// [`WireError`] for a chunk that was not claimed, and for chunks whose numbers and offsets are not
    /// one row.
    pub fn fill(&mut self, id: u32, payload: Vec<u8>) -> Result<Option<Vec<u8>>, WireError> {
        let Some((_, place)) = self.chunks.get_mut(&id) else {
            let (what, value) = ("F16 chunk's number", id.into());
            return Err(WireError::Range { what, value, allowed: "one that was announced" });
        };
        self.arrived_bytes += payload.len() as u64;
        *place = payload;
        let is_whole = self.total_bytes.is_some_and(|total| self.arrived_bytes >= total.into());
        if is_whole { self.join().map(Some) } else { Ok(None) }
    }

    /// How much of the transfer is there, and how long it is once its first chunk has begun to come.
    pub fn arrived_bytes(&self) -> (u64, Option<u32>) {
        (self.arrived_bytes, self.total_bytes)
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
