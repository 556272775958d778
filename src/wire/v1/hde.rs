//! The hierarchical delta encoder of v1: packets with an image or a difference, and the blob that
//! its successor wrote.
//!
//! Writers give a v1 peer whole images only, because v1 never applies a difference that it receives.
//! [`Delta`] can be written too, for the sake of what reads them. Readers take what v1 wrote, its
//! mislabelled packets included, and bound what they unpack.
//!
//! Quantised images (v1's masks of 0xc0) show in no field, so they can neither be found nor refused.

use crate::wire::cursor::{Reader, WireError};
use std::borrow::Cow;
use std::io::{self, Read};

/// Bytes before a packet's body.
pub const PACKET_HEADER_BYTES: usize = 16;
/// Bytes before a blob's data.
pub const BLOB_HEADER_BYTES: usize = 12;
/// The most that a v1 reader unpacks by default.
pub const MAX_V1_IMAGE_BYTES: u64 = 256 << 20;
/// Longest name of a baseline.
pub const MAX_BASELINE_ID_BYTES: usize = 1024;

/// How far a packet was meant to travel; v1 packs more densely for longer ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tier {
    /// Within a site.
    Local = 0,
    /// Within a region.
    Regional = 1,
    /// Anywhere.
    Global = 2,
}

/// A packet, still packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Whether the body is said to be a difference.
    pub is_delta: bool,
    /// For which way it was packed.
    pub tier: Tier,
    /// One zstd frame.
    pub body: &'a [u8],
}

/// What was in a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The image.
    Image(Vec<u8>),
    /// Its difference from the baseline.
    Delta(Delta),
}

/// A new image as parts of an old one and fresh bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The baseline's name, such as `vm1_memory`; any bytes but zero.
    pub baseline_id: Vec<u8>,
    /// The new image, in order and without gaps.
    pub parts: Vec<DeltaPart>,
}

/// A stretch of the new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeltaPart {
    /// As at the same place of the baseline.
    Copy {
        /// How long.
        length_bytes: u64,
    },
    /// The baseline has nothing there.
    Add(Vec<u8>),
    /// The baseline has something else there.
    Modify(Vec<u8>),
}

/// The packing that a blob names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// Stored.
    None = 0,
    /// LZ4, frame format.
    Lz4 = 1,
    /// Zstandard.
    Zstd = 2,
    /// Zstandard at the library's best level.
    ZstdMax = 3,
    /// Named so, packed by Zstandard.
    Brotli = 4,
}

/// The mode that a blob names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Fast links.
    Datacenter = 0,
    /// Slow links.
    Internet = 1,
    /// Both.
    Hybrid = 2,
}

/// A blob of the successor, still packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a> {
    /// Whether the data are a difference; of what, the blob does not say.
    pub is_delta: bool,
    /// How it is packed.
    pub algorithm: Algorithm,
    /// For which links.
    pub mode: Mode,
    /// The image's length.
    pub original_bytes: u32,
    /// The packed image.
    pub data: &'a [u8],
}

/// Why bytes of v1 were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HdeError {
    /// A field is missing, unknown or too long.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Two numbers that must agree do not.
    #[error("{what} is {found} where {expected} is due")]
    Mismatch {
        /// The field.
        what: &'static str,
        /// As received.
        found: i64,
        /// As it must be.
        expected: u64,
    },
    /// More than the caller admits.
    #[error("{what} is over the limit of {limit} bytes")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The codec gave up on the bytes.
    #[error("{0} data are malformed")]
    Malformed(&'static str),
    /// A difference whose baseline is not named, so that nobody can apply it.
    #[error("blob holds a difference and names no baseline")]
    BlobDelta,
    /// The codec could not be set up.
    #[error("zstd could not start: {0}")]
    Start(String),
}

impl<'a> Packet<'a> {
    /// Reads a packet. The reserved bytes may hold anything, as v1 does not look at them.
    ///
    /// # Errors
    /// [`HdeError`] for a flag or tier that v1 does not write, and for a body of another length than
    /// announced.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, HdeError> {
        let mut fields = Reader::new(bytes);
        let is_delta = flag("packet's delta flag", fields.u8("packet's delta flag")?)?;
        let tier = match fields.u8("packet's tier")? {
            0 => Tier::Local,
            1 => Tier::Regional,
            2 => Tier::Global,
            value => return Err(unknown("packet's tier", value, "0 to 2")),
        };
        fields.bytes("packet's reserved bytes", 6)?;
        let body_bytes = fields.u64_be("packet's body length")?;
        exact("packet's body length", body_bytes, fields.left())?;
        Ok(Self { is_delta, tier, body: fields.bytes("packet's body", fields.left())? })
    }

    /// Writes the packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        (bytes[0], bytes[1]) = (self.is_delta.into(), self.tier as u8);
        bytes.extend_from_slice(&(self.body.len() as u64).to_be_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// Unpacks the body, to at most `max_bytes`, which bounds the image that a difference describes
    /// too.
    ///
    /// v1 sets the flag also where it computed a difference and then sent the image after all. What
    /// does not read as a difference to the last byte therefore is an image.
    ///
    /// # Errors
    /// [`HdeError`] for a body that is not one whole zstd frame, or unpacks to more.
    pub fn unpack(&self, max_bytes: u64) -> Result<Content, HdeError> {
        let body = unpack_zstd(self.body, max_bytes)?;
        let delta = self.is_delta.then(|| Delta::decode(&body, max_bytes));
        Ok(match delta {
            Some(Ok(delta)) => Content::Delta(delta),
            _ => Content::Image(body),
        })
    }
}

/// A packet with a whole image, as a v1 peer can read it.
///
/// # Errors
/// [`HdeError::TooLong`] over [`MAX_V1_IMAGE_BYTES`], which v1 refuses.
pub fn pack_image(image: &[u8], tier: Tier) -> Result<Vec<u8>, HdeError> {
    if image.len() as u64 > MAX_V1_IMAGE_BYTES {
        return Err(HdeError::TooLong { what: "image", limit: MAX_V1_IMAGE_BYTES });
    }
    let body = pack_zstd(image, tier.zstd_level())?;
    Ok(Packet { is_delta: false, tier, body: &body }.encode())
}

/// A packet with a difference. No v1 peer applies it.
///
/// # Errors
/// [`HdeError::Start`] if zstd cannot be set up.
pub fn pack_delta(delta: &Delta, tier: Tier) -> Result<Vec<u8>, HdeError> {
    let body = pack_zstd(&delta.encode(), tier.zstd_level())?;
    Ok(Packet { is_delta: true, tier, body: &body }.encode())
}

impl Tier {
    fn zstd_level(self) -> i32 {
        match self {
            Self::Local => 1,
            Self::Regional => 3,
            Self::Global => 9,
        }
    }
}

impl Delta {
    /// Reads a difference that describes an image of at most `max_bytes`.
    ///
    /// # Errors
    /// [`HdeError`] for anything that v1 would not write: parts out of order or with gaps, data of
    /// another length than their part, and bytes left over.
    pub fn decode(bytes: &[u8], max_bytes: u64) -> Result<Self, HdeError> {
        let end = bytes.iter().take(MAX_BASELINE_ID_BYTES + 1).position(|byte| *byte == 0);
        let limit = MAX_BASELINE_ID_BYTES as u64;
        let end = end.ok_or(HdeError::TooLong { what: "baseline id", limit })?;
        let mut fields = Reader::new(&bytes[end + 1..]);
        // Each part has 17 bytes at the least, so the count cannot outrun the input.
        let most = fields.left() / PART_HEADER_BYTES;
        let count = fields.u32_be("part count")?;
        if count as usize > most {
            let (value, limit) = (count.into(), most as u64);
            return Err(WireError::TooLong { what: "list of parts", value, limit }.into());
        }
        let mut parts = Vec::with_capacity(count as usize);
        let mut image_bytes = 0;
        for _ in 0..count {
            let part = DeltaPart::decode(&mut fields, image_bytes, max_bytes)?;
            image_bytes += part.length_bytes();
            parts.push(part);
        }
        fields.end("difference")?;
        Ok(Self { baseline_id: bytes[..end].to_vec(), parts })
    }

    /// Writes the difference. A zero byte in the name ends it there.
    pub fn encode(&self) -> Vec<u8> {
        let id = self.baseline_id.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut bytes = [id, &[0], &(self.parts.len() as u32).to_be_bytes()].concat();
        let mut offset_bytes = 0_u64;
        for part in &self.parts {
            let (kind, data) = part.kind_and_data();
            bytes.push(kind);
            bytes.extend_from_slice(&offset_bytes.to_be_bytes());
            bytes.extend_from_slice(&part.length_bytes().to_be_bytes());
            if let Some(data) = data {
                bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
                bytes.extend_from_slice(data);
            }
            offset_bytes += part.length_bytes();
        }
        bytes
    }

    /// How an image differs from a baseline, in v1's blocks.
    pub fn between(baseline_id: &[u8], baseline: &[u8], image: &[u8]) -> Self {
        let part = |(block, at): (&[u8], usize)| match baseline.get(at..at + block.len()) {
            Some(old) if old == block => DeltaPart::Copy { length_bytes: block.len() as u64 },
            Some(_) => DeltaPart::Modify(block.to_vec()),
            None if at < baseline.len() => DeltaPart::Modify(block.to_vec()),
            None => DeltaPart::Add(block.to_vec()),
        };
        let blocks = image.chunks(BLOCK_BYTES).zip((0..).step_by(BLOCK_BYTES));
        Self { baseline_id: baseline_id.to_vec(), parts: blocks.map(part).collect() }
    }

    /// The new image; v1 itself never gets that far.
    ///
    /// # Errors
    /// [`WireError::Truncated`] where the baseline is shorter than what is copied from it.
    pub fn apply(&self, baseline: &[u8]) -> Result<Vec<u8>, HdeError> {
        let mut image = Vec::new();
        for part in &self.parts {
            match part {
                DeltaPart::Add(data) | DeltaPart::Modify(data) => image.extend_from_slice(data),
                DeltaPart::Copy { length_bytes } => {
                    let mut old = Reader::new(baseline.get(image.len()..).unwrap_or_default());
                    let copied = take(&mut old, "copy from the baseline", *length_bytes)?;
                    image.extend_from_slice(copied);
                }
            }
        }
        Ok(image)
    }
}

impl DeltaPart {
    /// How much of the new image it is.
    pub fn length_bytes(&self) -> u64 {
        match self {
            Self::Copy { length_bytes } => *length_bytes,
            Self::Add(data) | Self::Modify(data) => data.len() as u64,
        }
    }

    fn decode(fields: &mut Reader, offset_bytes: u64, max_bytes: u64) -> Result<Self, HdeError> {
        let kind = fields.u8("part's kind")?;
        let found = fields.u64_be("part's offset")?;
        if found != offset_bytes {
            let (what, found) = ("part's offset", found as i64);
            return Err(HdeError::Mismatch { what, found, expected: offset_bytes });
        }
        let length_bytes = fields.u64_be("part's length")?;
        if length_bytes > max_bytes.saturating_sub(offset_bytes) {
            return Err(HdeError::TooLong { what: "image of the parts", limit: max_bytes });
        }
        if kind == COPY {
            return Ok(Self::Copy { length_bytes });
        }
        let data_bytes = u64::from(fields.u32_be("part's data length")?);
        if data_bytes != length_bytes {
            let (what, found) = ("part's data length", data_bytes as i64);
            return Err(HdeError::Mismatch { what, found, expected: length_bytes });
        }
        let data = take(fields, "part's data", data_bytes)?.to_vec();
        match kind {
            ADD => Ok(Self::Add(data)),
            MODIFY => Ok(Self::Modify(data)),
            value => Err(unknown("part's kind", value, "0 to 2")),
        }
    }

    fn kind_and_data(&self) -> (u8, Option<&[u8]>) {
        match self {
            Self::Copy { .. } => (COPY, None),
            Self::Add(data) => (ADD, Some(data)),
            Self::Modify(data) => (MODIFY, Some(data)),
        }
    }
}

impl<'a> Blob<'a> {
    /// Reads a blob.
    ///
    /// # Errors
    /// [`HdeError`] for another version, unknown numbers, and data of another length than announced.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, HdeError> {
        let mut fields = Reader::new(bytes);
        let version = fields.u8("blob's version")?;
        if version != BLOB_VERSION {
            return Err(unknown("blob's version", version, "3"));
        }
        let is_delta = flag("blob's delta flag", fields.u8("blob's delta flag")?)?;
        let algorithm = match fields.u8("blob's algorithm")? {
            0 => Algorithm::None,
            1 => Algorithm::Lz4,
            2 => Algorithm::Zstd,
            3 => Algorithm::ZstdMax,
            4 => Algorithm::Brotli,
            value => return Err(unknown("blob's algorithm", value, "0 to 4")),
        };
        let mode = match fields.u8("blob's mode")? {
            0 => Mode::Datacenter,
            1 => Mode::Internet,
            2 => Mode::Hybrid,
            value => return Err(unknown("blob's mode", value, "0 to 2")),
        };
        let original_bytes = fields.u32_be("blob's original length")?;
        let data_bytes = fields.u32_be("blob's data length")?;
        exact("blob's data length", data_bytes.into(), fields.left())?;
        let data = fields.bytes("blob's data", fields.left())?;
        Ok(Self { is_delta, algorithm, mode, original_bytes, data })
    }

    /// Writes the blob.
    pub fn encode(&self) -> Vec<u8> {
        let algorithm = self.algorithm as u8;
        let mut bytes = vec![BLOB_VERSION, self.is_delta.into(), algorithm, self.mode as u8];
        bytes.extend_from_slice(&self.original_bytes.to_be_bytes());
        bytes.extend_from_slice(&(self.data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(self.data);
        bytes
    }

    /// Unpacks an image of at most `max_bytes`.
    ///
    /// # Errors
    /// [`HdeError::BlobDelta`] for a difference; otherwise for data that are not one whole frame or
    /// unpack to another length than announced.
    pub fn unpack(&self, max_bytes: u64) -> Result<Cow<'a, [u8]>, HdeError> {
        if self.is_delta {
            return Err(HdeError::BlobDelta);
        }
        let original_bytes = u64::from(self.original_bytes);
        if original_bytes > max_bytes {
            return Err(HdeError::TooLong { what: "blob's image", limit: max_bytes });
        }
        let image = match self.algorithm {
            Algorithm::None => Cow::Borrowed(self.data),
            Algorithm::Lz4 => unpack_lz4(self.data, original_bytes)?.into(),
            _ => unpack_zstd(self.data, original_bytes)?.into(),
        };
        exact("blob's original length", original_bytes, image.len())?;
        Ok(image)
    }
}

/// One frame and nothing behind it, without a dictionary.
///
/// Frames need not say their size, so the output grows as it comes, up to the limit.
pub(super) fn unpack_zstd(frame: &[u8], max_bytes: u64) -> Result<Vec<u8>, HdeError> {
    if !frame.starts_with(&ZSTD_MAGIC) {
        return Err(HdeError::Malformed("zstd"));
    }
    let start = |error: io::Error| HdeError::Start(error.to_string());
    let decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(start)?;
    let mut decoder = decoder.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(start)?;
    let image = read_up_to(&mut decoder, "zstd", max_bytes)?;
    match decoder.finish() {
        [] => Ok(image),
        _ => Err(HdeError::Malformed("zstd")),
    }
}

fn unpack_lz4(frame: &[u8], max_bytes: u64) -> Result<Vec<u8>, HdeError> {
    let malformed = |_| HdeError::Malformed("lz4");
    let mut decoder = lz4::Decoder::new(frame).map_err(malformed)?;
    let image = read_up_to(&mut decoder, "lz4", max_bytes)?;
    match decoder.finish() {
        ([], Ok(())) => Ok(image),
        _ => Err(HdeError::Malformed("lz4")),
    }
}

fn read_up_to(
    decoder: &mut impl Read,
    codec: &'static str,
    max_bytes: u64,
) -> Result<Vec<u8>, HdeError> {
    let mut image = Vec::new();
    let read = decoder.take(max_bytes.saturating_add(1)).read_to_end(&mut image);
    read.map_err(|_| HdeError::Malformed(codec))?;
    if image.len() as u64 > max_bytes {
        return Err(HdeError::TooLong { what: "unpacked image", limit: max_bytes });
    }
    Ok(image)
}

/// A frame as v1's library writes it: with its size and a checksum of the content.
fn pack_zstd(image: &[u8], level: i32) -> Result<Vec<u8>, HdeError> {
    let start = |error: io::Error| HdeError::Start(error.to_string());
    let mut compressor = zstd::bulk::Compressor::new(level).map_err(start)?;
    compressor.include_checksum(true).map_err(start)?;
    compressor.window_log(WINDOW_LOG_MAX).map_err(start)?;
    compressor.compress(image).map_err(start)
}

/// The next bytes, as many as a peer said.
fn take<'a>(
    fields: &mut Reader<'a>,
    what: &'static str,
    length: u64,
) -> Result<&'a [u8], WireError> {
    fields.bytes(what, usize::try_from(length).unwrap_or(usize::MAX))
}

fn unknown(what: &'static str, value: u8, allowed: &'static str) -> HdeError {
    WireError::Range { what, value: value.into(), allowed }.into()
}

fn flag(what: &'static str, value: u8) -> Result<bool, HdeError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(unknown(what, value, "0 or 1")),
    }
}

/// What was announced must be what there is.
fn exact(what: &'static str, announced: u64, actual: usize) -> Result<(), HdeError> {
    let (found, expected) = (announced as i64, actual as u64);
    if announced == expected { Ok(()) } else { Err(HdeError::Mismatch { what, found, expected }) }
}

/// Kinds of parts.
const COPY: u8 = 0;
const ADD: u8 = 1;
const MODIFY: u8 = 2;
/// Kind, offset and length of a part.
const PART_HEADER_BYTES: usize = 17;
/// The length of parts that v1 writes.
const BLOCK_BYTES: usize = 4096;
/// The first byte of a blob.
const BLOB_VERSION: u8 = 3;
/// Windows that v1's library writes and reads: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;
/// First bytes of a zstd frame.
pub(super) const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

#[cfg(test)]
#[path = "hde_tests.rs"]
mod tests;
