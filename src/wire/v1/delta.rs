//! Differences of v1's compression package: by exclusive or, and by references to blocks.
//!
//! Nothing on the wire says which kind a difference is, what it refers to, or that it is one: v1 kept
//! that in memory only. Its automatic choice reads every difference as the first kind, and its receivers
//! keep no baseline. So these are for reading what v1 left; a v1 peer gets whole images.

use crate::wire::cursor::{Reader, WireError};
use crate::wire::v1::hde::{HdeError, ZSTD_MAGIC, unpack_zstd};
use std::borrow::Cow;
use std::collections::HashMap;

/// Blocks that are referred to, and the longest piece of fresh bytes.
pub const BLOCK_BYTES: usize = 4096;

/// A new image as blocks of an old one and fresh bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BlockDelta {
    /// In order.
    pub pieces: Vec<Piece>,
}

/// A stretch of the new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A block of the old image.
    Copy {
        /// Where it begins there. v1 writes multiples of the block's length.
        offset_bytes: u32,
    },
    /// Bytes that are not in the old image, a block of them at most.
    Literal(Vec<u8>),
}

/// What v1 stored: a zstd frame of at most `max_bytes`, or, where packing did not pay, the bytes
/// themselves. v1 tells them apart by nothing (and fails on the latter); the frame's first bytes do.
///
/// # Errors
/// [`HdeError`] for a frame that is damaged or unpacks to more, and for more than `max_bytes` as they are.
pub fn unpack(stored: &[u8], max_bytes: u64) -> Result<Cow<'_, [u8]>, HdeError> {
    if stored.starts_with(&ZSTD_MAGIC) {
        return unpack_zstd(stored, max_bytes).map(Cow::Owned);
    }
    if stored.len() as u64 > max_bytes {
        return Err(HdeError::TooLong { what: "stored image", limit: max_bytes });
    }
    Ok(Cow::Borrowed(stored))
}

/// The difference by exclusive or, as long as the longer of the two. Beyond the end of the shorter one
/// it has the bytes of the longer, even where that is the old image, whose tail says nothing.
pub fn xor(old: &[u8], new: &[u8]) -> Vec<u8> {
    let common = old.len().min(new.len());
    let mut delta: Vec<u8> = old.iter().zip(new).map(|(old, new)| old ^ new).collect();
    delta.extend_from_slice(if old.len() > common { &old[common..] } else { &new[common..] });
    delta
}

/// The new image out of a difference by exclusive or; the difference does not say how long it is.
///
/// # Errors
/// [`WireError::Range`] for a difference of another length than the longer of both images.
pub fn apply_xor(old: &[u8], delta: &[u8], new_bytes: usize) -> Result<Vec<u8>, WireError> {
    if delta.len() != old.len().max(new_bytes) {
        let (what, value) = ("length of the difference", delta.len() as u64);
        return Err(WireError::Range { what, value, allowed: "that of the longer image" });
    }
    let mut new: Vec<u8> = old.iter().zip(delta).map(|(old, delta)| old ^ delta).collect();
    new.extend_from_slice(&delta[new.len()..]);
    new.truncate(new_bytes);
    Ok(new)
}

impl BlockDelta {
    /// How an image differs from an old one. v1 compares checksums of blocks only, so that it can refer
    /// to a wrong one; otherwise it writes the same, the last of equal blocks included.
    pub fn between(old: &[u8], new: &[u8]) -> Self {
        let places = (0_u32..).step_by(BLOCK_BYTES);
        let known: HashMap<_, _> = old.chunks_exact(BLOCK_BYTES).zip(places).collect();
        let piece = |block: &[u8]| match known.get(block) {
            Some(offset_bytes) => Piece::Copy { offset_bytes: *offset_bytes },
            None => Piece::Literal(block.to_vec()),
        };
        Self { pieces: new.chunks(BLOCK_BYTES).map(piece).collect() }
    }

    /// Reads a difference that describes an image of at most `max_bytes`.
    ///
    /// # Errors
    /// [`WireError`] for an unknown piece, one that ends early, fresh bytes longer than a block, and an
    /// image over the limit.
    pub fn decode(bytes: &[u8], max_bytes: u64) -> Result<Self, WireError> {
        let (mut reader, mut pieces, mut image_bytes) = (Reader::new(bytes), Vec::new(), 0);
        while reader.left() > 0 {
            let piece = Piece::decode(&mut reader)?;
            image_bytes += piece.length_bytes() as u64;
            if image_bytes > max_bytes {
                let what = "image of the pieces";
                return Err(WireError::TooLong { what, value: image_bytes, limit: max_bytes });
            }
            pieces.push(piece);
        }
        Ok(Self { pieces })
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Copy { offset_bytes } => {
                    bytes.push(COPY);
                    bytes.extend_from_slice(&offset_bytes.to_be_bytes());
                }
                Piece::Literal(data) => {
                    bytes.push(LITERAL);
                    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
                    bytes.extend_from_slice(data);
                }
            }
        }
        bytes
    }

    /// The new image.
    ///
    /// # Errors
    /// [`WireError::Truncated`] for a block beyond the end of the old image.
    pub fn apply(&self, old: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut image = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(data) => image.extend_from_slice(data),
                Piece::Copy { offset_bytes } => {
                    let from = old.get(*offset_bytes as usize..).unwrap_or_default();
                    let block = Reader::new(from).bytes("block of the old image", BLOCK_BYTES)?;
                    image.extend_from_slice(block);
                }
            }
        }
        Ok(image)
    }
}

impl Piece {
    fn decode(reader: &mut Reader) -> Result<Self, WireError> {
        match reader.u8("piece's kind")? {
            COPY => Ok(Self::Copy { offset_bytes: reader.u32_be("copied block's offset")? }),
            LITERAL => {
                let (what, value) = ("fresh bytes", reader.u32_be("length of fresh bytes")?);
                if value as usize > BLOCK_BYTES {
                    let (value, limit) = (value.into(), BLOCK_BYTES as u64);
                    return Err(WireError::TooLong { what, value, limit });
                }
                if value == 0 {
                    let what = "length of fresh bytes";
                    return Err(WireError::Range { what, value: 0, allowed: "1 to 4096" });
                }
                Ok(Self::Literal(reader.bytes(what, value as usize)?.to_vec()))
            }
            kind => {
                let (what, value) = ("piece's kind", kind.into());
                Err(WireError::Range { what, value, allowed: "0 or 255" })
            }
        }
    }

    fn length_bytes(&self) -> usize {
        match self {
            Self::Copy { .. } => BLOCK_BYTES,
            Self::Literal(data) => data.len(),
        }
    }
}

const COPY: u8 = 0xff;
const LITERAL: u8 = 0;

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
