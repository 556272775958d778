//! The preface that opens a connection, and the header in front of every frame.
//!
//! ```text
//! preface:  "DWCP" | major u16 | minor u16
//! header:   kind u8 | flags u8 | reserved u16 | payload_length u32 | sequence u64
//!           | body_crc u32 | header_crc u32
//! ```
//! The sequence counts the frames of one direction of one connection, so a lost, doubled or
//! swapped frame ends the connection and is made good by a new one. `body_crc` covers the payload;
//! of a chunk frame only the chunk's own header, because its pages carry a stronger checksum.

use crate::base::limits::{
    MAX_CONTROL_BYTES, MAX_FILLER_BYTES, MAX_FRAME_BYTES, MAX_HELLO_BYTES, MAX_SEGMENT_BYTES,
};
use crate::wire::cursor::{Reader, WireError};
use crate::wire::metrics::MAX_METRICS_BYTES;
use crate::wire::page_request::MAX_PAGE_REQUEST_BYTES;
use crate::wire::paths::MAX_PATHS_BYTES;
use crate::wire::rdma::{MAX_ANSWER_BYTES, MAX_OFFER_BYTES};

/// First bytes of every connection.
pub const MAGIC: [u8; 4] = *b"DWCP";
/// Protocol version that must match.
pub const MAJOR: u16 = 3;
/// Protocol version that may differ.
pub const MINOR: u16 = 0;
/// Length of a preface.
pub const PREFACE_BYTES: usize = 8;
/// Payload of a probe and of its answer.
pub const PROBE_BYTES: u32 = 8;
/// Length of a frame header.
pub const HEADER_BYTES: usize = 24;

/// Opens a connection, each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// The sender's minor version.
    pub minor: u16,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Opens or joins a migration.
    Hello = 1,
    /// Answers a hello.
    HelloReply = 2,
    /// A numbered control message.
    Control = 3,
    /// How many control messages have arrived.
    ControlAck = 4,
    /// Pages.
    Chunk = 5,
    /// Which chunks have arrived, whole or damaged.
    ChunkAck = 6,
    /// Shows that the sender is alive.
    Ping = 7,
    /// A piece of a relayed stream.
    Segment = 8,
    /// A number to be sent back, on a connection that belongs to no migration.
    Probe = 9,
    /// The number of a probe; all that came before it has been read.
    ProbeReply = 10,
    /// Bytes that nobody keeps, after a probe: they show what a path carries.
    Filler = 11,
    /// The source's last frame on a connection that it does not need any more.
    Goodbye = 12,
    /// Pages that the guest at the destination waits for.
    PageRequest = 13,
    /// Asks for the paths to the other's peers, on a connection that belongs to no migration.
    AskPaths = 14,
    /// They; the answer to one that is not to know is a refusing `HelloReply`.
    Paths = 15,
    /// The source's end of a queue pair for this connection, and its memory (`wire::rdma`).
    RdmaOffer = 16,
    /// The destination's end.
    RdmaAnswer = 17,
    /// Asks for the other's metrics, on a connection that belongs to no migration.
    AskMetrics = 18,
    /// They; the answer to one that is not to know is a refusing `HelloReply`.
    Metrics = 19,
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: FrameKind,
    /// Length of the payload.
    pub payload_bytes: u32,
    /// Number of the frame on this direction of this connection.
    pub sequence: u64,
    /// CRC-32 of the payload, or of a chunk's header.
    pub body_crc: u32,
}

/// A frame other than a chunk, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Preface {
    /// The bytes.
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let mut out = [0; PREFACE_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&MAJOR.to_le_bytes());
        out[6..].copy_from_slice(&self.minor.to_le_bytes());
        out
    }

    /// Reads a preface.
    ///
    /// # Errors
    /// Wrong magic or major version.
    pub fn decode(bytes: [u8; PREFACE_BYTES]) -> Result<Self, WireError> {
        let mut reader = Reader::new(&bytes);
        let magic = reader.array("magic")?;
        if magic != MAGIC {
            return Err(WireError::Magic(magic));
        }
        let (major, minor) = (reader.u16("major version")?, reader.u16("minor version")?);
        if major != MAJOR {
            return Err(WireError::Version { major, minor, ours: "3.0" });
        }
        Ok(Self { minor })
    }
}

impl FrameKind {
    fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Self::Hello,
            2 => Self::HelloReply,
            3 => Self::Control,
            4 => Self::ControlAck,
            5 => Self::Chunk,
            6 => Self::ChunkAck,
            7 => Self::Ping,
            8 => Self::Segment,
            9 => Self::Probe,
            10 => Self::ProbeReply,
            11 => Self::Filler,
            12 => Self::Goodbye,
            13 => Self::PageRequest,
            14 => Self::AskPaths,
            15 => Self::Paths,
            16 => Self::RdmaOffer,
            17 => Self::RdmaAnswer,
            18 => Self::AskMetrics,
            19 => Self::Metrics,
            _ => {
                let value = byte.into();
                return Err(WireError::Range { what: "frame kind", value, allowed: "1 to 19" });
            }
        })
    }

    /// The longest payload of this kind.
    pub fn max_payload_bytes(self) -> u32 {
        match self {
            Self::Hello | Self::HelloReply => MAX_HELLO_BYTES as u32,
            Self::Control => MAX_CONTROL_BYTES as u32 + 64,
            Self::ControlAck => 8,
            Self::Chunk => MAX_FRAME_BYTES,
            Self::ChunkAck => 16 * 1024,
            Self::Ping | Self::Goodbye | Self::AskPaths | Self::AskMetrics => 0,
            Self::Segment => MAX_SEGMENT_BYTES,
            Self::Probe | Self::ProbeReply => PROBE_BYTES,
            Self::Filler => MAX_FILLER_BYTES,
            Self::PageRequest => MAX_PAGE_REQUEST_BYTES,
            Self::Paths => MAX_PATHS_BYTES,
            Self::Metrics => MAX_METRICS_BYTES,
            Self::RdmaOffer => MAX_OFFER_BYTES,
            Self::RdmaAnswer => MAX_ANSWER_BYTES,
        }
    }
}

impl FrameHeader {
    /// The header of a frame that is no chunk; its payload may lie in pieces.
    pub fn of(kind: FrameKind, payload: &[&[u8]], sequence: u64) -> Self {
        let payload_bytes = payload.iter().map(|piece| piece.len() as u32).sum();
        Self { kind, payload_bytes, sequence, body_crc: crc_of(payload) }
    }

    /// The bytes, checksum included.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0] = self.kind as u8;
        out[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..20]);
        out[20..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// A checksum that does not match, an unknown kind, a payload over its kind's limit.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let found = crc32fast::hash(&bytes[..20]);
        let mut reader = Reader::new(&bytes);
        let kind = reader.u8("frame kind")?;
        reader.array::<3>("frame flags")?;
        let payload_bytes = reader.u32("payload length")?;
        let sequence = reader.u64("frame sequence")?;
        let body_crc = reader.u32("body checksum")?;
        let expected = reader.u32("header checksum")?;
        if found != expected {
            return Err(WireError::Checksum { what: "frame header", found, expected });
        }
        let kind = FrameKind::from_byte(kind)?;
        let limit = kind.max_payload_bytes();
        if payload_bytes > limit {
            let (value, limit) = (payload_bytes.into(), limit.into());
            return Err(WireError::TooLong { what: "frame payload", value, limit });
        }
        Ok(Self { kind, payload_bytes, sequence, body_crc })
    }

    /// Checks that `body` is what the sender summed.
    ///
    /// # Errors
    /// [`WireError::Checksum`].
    pub fn check_body(&self, body: &[&[u8]]) -> Result<(), WireError> {
        let found = crc_of(body);
        if found != self.body_crc {
            return Err(WireError::Checksum { what: "frame body", found, expected: self.body_crc });
        }
        Ok(())
    }

    /// Checks that this is the frame due.
    ///
    /// # Errors
    /// [`WireError::Sequence`].
    pub fn check_sequence(&self, expected: u64) -> Result<(), WireError> {
        if self.sequence != expected {
            return Err(WireError::Sequence { found: self.sequence, expected });
        }
        Ok(())
    }
}

impl Frame {
    /// The header of this frame, as number `sequence`.
    pub fn header(&self, sequence: u64) -> FrameHeader {
        FrameHeader::of(self.kind, &[&self.payload], sequence)
    }
}

fn crc_of(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preface_refuses_other_protocols_and_versions() {
        assert_eq!(Preface::decode(Preface { minor: 7 }.encode()), Ok(Preface { minor: 7 }));
        let error = Preface::decode(*b"GET / HT").unwrap_err().to_string();
        assert!(error.contains("47, 45, 54, 20"), "{error}");
        let error = Preface::decode(*b"DWCP\x04\0\x01\0").unwrap_err().to_string();
        assert!(error.contains("4.1"), "{error}");
    }

    #[test]
    fn header_round_trips_and_any_flipped_bit_is_seen() {
        let header =
            FrameHeader { kind: FrameKind::Chunk, payload_bytes: 70_000, sequence: 9, body_crc: 3 };
        let bytes = header.encode();
        assert_eq!(FrameHeader::decode(bytes), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_oversized_payload_names_its_length() {
        let header =
            FrameHeader { kind: FrameKind::Ping, payload_bytes: 1, sequence: 0, body_crc: 0 };
        let error = FrameHeader::decode(header.encode()).unwrap_err().to_string();
        assert_eq!(error, "frame payload is 1 long, the limit is 0");
    }
}
