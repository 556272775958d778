//! A chunk's data pages as one compressed block, and back.
//!
//! A block carries no header of ours: codec, raw length and payload length travel in the chunk's
//! header. The encoder stores what does not shrink; the decoder takes nothing but a block that
//! fills the announced length exactly, and allocates nothing beyond it.

use crate::base::limits::MAX_CHUNK_BYTES;
use crate::encoding::sample::BlockSample;
use lz4::block::{self as lz4_block, CompressionMode};
use std::fmt;
use std::io;
use std::str::FromStr;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

/// Levels of zstd that may be asked for.
pub const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = -7..=19;
/// Accelerations of LZ4 that may be asked for; 1 is plain [`CodecChoice::Lz4`].
pub const LZ4_ACCELERATIONS: std::ops::RangeInclusive<i32> = 2..=64;

/// How data pages are encoded. Zero pages never travel as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecChoice {
    /// Stored.
    None,
    /// LZ4, block format.
    Lz4,
    /// LZ4 that looks less closely for matches, by an acceleration of 2 to 64.
    Lz4Fast(i32),
    /// Zstandard at a level, -7 to 19.
    Zstd(i32),
}

/// A codec as the chunk header numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The payload is the pages.
    None = 0,
    /// One LZ4 block.
    Lz4 = 1,
    /// One Zstandard frame with its content size, without dictionary.
    Zstd = 2,
}

/// What goes on the wire for one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded<'a> {
    /// How it was packed, [`Codec::None`] if that did not pay.
    pub codec: Codec,
    /// The bytes: the raw pages themselves, or the packed ones in the caller's buffer.
    pub payload: &'a [u8],
}

/// Packs blocks. One for each sending thread: it keeps the compressor's memory between blocks.
#[derive(Default)]
pub struct Encoder {
    zstd: Option<(i32, Compressor<'static>)>,
}

/// Unpacks blocks. One for each receiving thread.
#[derive(Default)]
pub struct Decoder {
    zstd: Option<Decompressor<'static>>,
}

/// A choice of codec that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// The name.
    #[error("codec {0:?} is none of: auto, none, lz4, lz4:ACCELERATION, zstd, zstd:LEVEL")]
    Name(String),
    /// The level.
    #[error("zstd level is {0}; it must be -7 to 19")]
    Level(i32),
    /// The acceleration.
    #[error("lz4 acceleration is {0}; it must be 2 to 64")]
    Acceleration(i32),
}

/// Why a block could not be packed: memory ran out, or a level that zstd refuses.
#[derive(Debug, thiserror::Error)]
#[error("{codec} could not start: {source}")]
pub struct EncodeError {
    codec: Codec,
    source: io::Error,
}

/// Why a payload was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A codec number from a newer or a broken peer.
    #[error("codec {0} is none of: 0 (none), 1 (lz4), 2 (zstd)")]
    UnknownCodec(u8),
    /// More than a chunk may hold.
    #[error("raw length {0} is over the limit of {MAX_CHUNK_BYTES}")]
    RawTooLong(u64),
    /// A payload longer than what it stands for, or the wrong number of stored bytes.
    #[error("{codec} payload of {payload_bytes} bytes does not fit {raw_bytes} raw bytes")]
    Length {
        /// The codec.
        codec: Codec,
        /// The payload's length.
        payload_bytes: usize,
        /// The announced raw length.
        raw_bytes: u32,
    },
    /// The zstd frame's own header contradicts the chunk's, or asks for what is not allowed.
    #[error("zstd frame {0}")]
    Frame(&'static str),
    /// The codec gave up on the bytes.
    #[error("{0} payload is malformed")]
    Malformed(Codec),
    /// The payload ends early.
    #[error("{codec} payload gives {actual} of {expected} bytes")]
    Short {
        /// The codec.
        codec: Codec,
        /// What came out.
        actual: usize,
        /// What was announced.
        expected: u32,
    },
    /// The decoder could not be set up.
    #[error("zstd could not start: {0}")]
    Start(String),
}

impl Encoder {
    /// Packs `raw`, into `out` if that pays; what `out` held before is lost.
    ///
    /// `out` grows to 15/16 of the largest `raw` so far, and never beyond that of the largest chunk.
    ///
    /// # Errors
    /// [`EncodeError`] if zstd cannot be set up. Data never fail to encode.
    pub fn encode<'a>(
        &mut self,
        choice: CodecChoice,
        raw: &'a [u8],
        out: &'a mut Vec<u8>,
    ) -> Result<Encoded<'a>, EncodeError> {
        let stored = Encoded { codec: Codec::None, payload: raw };
        let limit = raw.len() - raw.len().div_ceil(WORTHWHILE_SHARE);
        if choice == CodecChoice::None || limit == 0 || BlockSample::of(raw).looks_random() {
            return Ok(stored);
        }
        // Only ever longer: to clear it anew for each block would cost a tenth of a fast codec's time.
        out.resize(out.len().max(limit), 0);
        let out = &mut out[..limit];
        let (codec, packed) = match choice {
            CodecChoice::None => return Ok(stored),
            CodecChoice::Lz4 => (Codec::Lz4, lz4_block::compress_to_buffer(raw, None, false, out)),
            CodecChoice::Lz4Fast(acceleration) => {
                let mode = Some(CompressionMode::FAST(acceleration));
                (Codec::Lz4, lz4_block::compress_to_buffer(raw, mode, false, out))
            }
            CodecChoice::Zstd(level) => {
                (Codec::Zstd, self.zstd(level)?.compress_to_buffer(raw, out))
            }
        };
        // Both codecs fail only for want of room: the block did not shrink enough.
        Ok(match packed {
            Ok(bytes) => Encoded { codec, payload: &out[..bytes] },
            Err(_) => stored,
        })
    }

    fn zstd(&mut self, level: i32) -> Result<&mut Compressor<'static>, EncodeError> {
        let error = |source| EncodeError { codec: Codec::Zstd, source };
        let (current, compressor) = match self.zstd.take() {
            Some((current, compressor)) => (current, compressor),
            None => (level, Compressor::new(level).map_err(error)?),
        };
        let (current, compressor) = self.zstd.insert((current, compressor));
        if *current != level {
            compressor.set_compression_level(level).map_err(error)?;
            *current = level;
        }
        Ok(compressor)
    }
}

impl Decoder {
    /// Unpacks `payload` into `out`, which then has exactly `raw_bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] for lengths over the limits, before anything is allocated; for bytes that
    /// the codec refuses; and for payloads that hold less or more than announced. `out` is then
    /// unspecified.
    pub fn decode(
        &mut self,
        codec: Codec,
        payload: &[u8],
        raw_bytes: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        if raw_bytes > MAX_CHUNK_BYTES {
            return Err(DecodeError::RawTooLong(raw_bytes.into()));
        }
        let raw_length = raw_bytes as usize;
        let fits = match codec {
            Codec::None => payload.len() == raw_length,
            Codec::Lz4 | Codec::Zstd => payload.len() < raw_length,
        };
        if !fits {
            let payload_bytes = payload.len();
            return Err(DecodeError::Length { codec, payload_bytes, raw_bytes });
        }
        out.resize(raw_length, 0);
        let unpacked = match codec {
            Codec::None => {
                out.copy_from_slice(payload);
                Ok(raw_length)
            }
            Codec::Lz4 => lz4_block::decompress_to_buffer(payload, Some(raw_bytes as i32), out),
            Codec::Zstd => {
                self.zstd(payload, raw_bytes)?.decompress_to_buffer(payload, &mut out[..])
            }
        };
        match unpacked.map_err(|_| DecodeError::Malformed(codec))? {
            actual if actual == raw_length => Ok(()),
            actual => Err(DecodeError::Short { codec, actual, expected: raw_bytes }),
        }
    }

    /// The decompressor, once the frame's header is known to be what our encoder writes.
    ///
    /// The content size bounds zstd's memory too: one-shot decoding uses `out` as its window.
    fn zstd(
        &mut self,
        payload: &[u8],
        raw_bytes: u32,
    ) -> Result<&mut Decompressor<'static>, DecodeError> {
        check_frame(payload, raw_bytes)?;
        if self.zstd.is_none() {
            let start = |error: io::Error| DecodeError::Start(error.to_string());
            self.zstd = Some(Decompressor::new().map_err(start)?);
        }
        self.zstd.as_mut().ok_or_else(|| DecodeError::Start("no decompressor".into()))
    }
}

fn check_frame(payload: &[u8], raw_bytes: u32) -> Result<(), DecodeError> {
    let malformed = DecodeError::Malformed(Codec::Zstd);
    if !payload.starts_with(&ZSTD_MAGIC) {
        return Err(DecodeError::Frame("does not begin with zstd's magic number"));
    }
    match zstd_safe::get_frame_content_size(payload) {
        Ok(Some(size)) if size == u64::from(raw_bytes) => {}
        Ok(Some(_)) => return Err(DecodeError::Frame("has another size than the chunk says")),
        Ok(None) => return Err(DecodeError::Frame("does not say its size")),
        Err(_) => return Err(malformed),
    }
    if zstd_safe::get_dict_id_from_frame(payload).is_some() {
        return Err(DecodeError::Frame("needs a dictionary"));
    }
    match zstd_safe::find_frame_compressed_size(payload) {
        Ok(bytes) if bytes == payload.len() => Ok(()),
        Ok(_) => Err(DecodeError::Frame("is followed by other bytes")),
        Err(_) => Err(malformed),
    }
}

impl CodecChoice {
    /// The codec that unpacks what this choice packs.
    pub fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Lz4 | Self::Lz4Fast(_) => Codec::Lz4,
            Self::Zstd(_) => Codec::Zstd,
        }
    }

    /// Checks the level or the acceleration.
    ///
    /// # Errors
    /// [`ChoiceError::Level`] outside [`ZSTD_LEVELS`], [`ChoiceError::Acceleration`] outside
    /// [`LZ4_ACCELERATIONS`].
    pub fn validate(self) -> Result<(), ChoiceError> {
        match self {
            Self::Zstd(level) if !ZSTD_LEVELS.contains(&level) => Err(ChoiceError::Level(level)),
            Self::Lz4Fast(acceleration) if !LZ4_ACCELERATIONS.contains(&acceleration) => {
                Err(ChoiceError::Acceleration(acceleration))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for CodecChoice {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd(1)),
            _ => text
                .split_once(':')
                .and_then(|(name, number)| Some((name, number.parse().ok()?)))
                .and_then(|(name, number)| match name {
                    "lz4" => Some(Self::Lz4Fast(number)),
                    "zstd" => Some(Self::Zstd(number)),
                    _ => None,
                })
                .ok_or_else(|| ChoiceError::Name(text.chars().take(32).collect())),
        }
    }
}

impl fmt::Display for CodecChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Lz4Fast(acceleration) => write!(f, "lz4:{acceleration}"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl TryFrom<u8> for Codec {
    type Error = DecodeError;

    fn try_from(number: u8) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            other => Err(DecodeError::UnknownCodec(other)),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// A packed block must save at least one part in this many.
const WORTHWHILE_SHARE: usize = 16;
/// First bytes of a zstd frame; skippable frames and older formats begin differently.
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
