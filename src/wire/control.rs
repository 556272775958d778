//! Control messages: numbered, acknowledged, delivered once and in order over any stream.

use crate::base::limits::{
    MAX_ANNOUNCED_PIECE_PAGES, MAX_CONTROL_BYTES, MAX_REASON_BYTES, MAX_STREAM_CHUNKS,
};
use crate::base::{ChunkId, StreamId};
use crate::wire::cursor::{Reader, WireError, put_numbers, put_text};

/// A message between the two state machines. S: from the source, D: from the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// S: stream is lost; take nothing more from it and say what had arrived.
    Fence {
        /// The stream.
        stream: StreamId,
    },
    /// D: the answer to a fence.
    Fenced {
        /// The stream.
        stream: StreamId,
        /// The last chunks that arrived whole on it, a window's worth.
        arrived: Vec<ChunkId>,
    },
    /// S: a piece of the device state, in order.
    DeviceState {
        /// Bytes before this piece.
        offset_bytes: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// S: the image is sent; this is what it must be.
    Finalize {
        /// Digest of every page.
        digest: [u8; 16],
        /// Length of the device state.
        device_state_bytes: u64,
        /// CRC-32 of the device state.
        device_state_crc: u32,
    },
    /// S: every chunk has been acknowledged, so the digest must match now.
    AllArrived,
    /// D: image and device state are loaded and match.
    Verified {
        /// Digest of every page, as stored.
        digest: [u8; 16],
    },
    /// S: the guest is yours. The source will not run it again unless it is told to by an abort.
    Commit,
    /// D: the guest is mine, and that is written down.
    Committed,
    /// D: the guest runs, or its start failed.
    Resumed {
        /// Status code of the start.
        status: i32,
        /// Why it failed.
        reason: String,
    },
    /// S: the relayed stream has ended; if this is what you have, the guest is yours.
    StreamEnd {
        /// Segments.
        segments: u64,
        /// Bytes of the stream.
        bytes: u64,
        /// Their digest.
        digest: u64,
    },
    /// D: a piece of what it holds of earlier migrations, in order, before the stream begins.
    Held {
        /// What the pages are hashed under; the same in all pieces.
        key: [u8; 32],
        /// No more pieces follow.
        last: bool,
        /// The pages' hashes.
        hashes: Vec<u64>,
    },
    /// S: a piece of the map of pages that the destination lacks, or has in an old version, at the
    /// switch to post-copy. A piece covers `MAX_MISSING_PIECE_PAGES`; one without pages is left out.
    Missing {
        /// The first page that it covers.
        first_page: u64,
        /// How the bitmap is packed; `encoding` knows the numbers.
        codec: u8,
        /// The bitmap, lowest bit first.
        bytes: Vec<u8>,
    },
    /// S: device state and map are sent; run the guest as soon as you may, and ask for what it lacks.
    Switch {
        /// Digest of the pages that are not missing.
        digest: [u8; 16],
        /// How many are.
        missing_pages: u64,
        /// Length of the device state.
        device_state_bytes: u64,
        /// CRC-32 of the device state.
        device_state_crc: u32,
    },
    /// S: after the switch every page was acknowledged; this is the digest of the image as it was then.
    Whole {
        /// Digest of every page.
        digest: [u8; 16],
    },
    /// D: no page is missing any more, and that is written down: the source may let go.
    Completed {
        /// Digest of every page as it came.
        digest: [u8; 16],
    },
    /// S: the relayed stream has come to where the hypervisor switches to post-copy; if this is what you
    /// have, the guest is yours, and the rest of its memory follows.
    StreamSwitch {
        /// Segments.
        segments: u64,
        /// Bytes of the stream.
        bytes: u64,
        /// Their digest.
        digest: u64,
    },
    /// D: what the hypervisor there answers to the one at the source, in order; whole messages of its.
    Return {
        /// The messages.
        bytes: Vec<u8>,
    },
    /// Either, after the switch: somebody gave the guest up on this side.
    Abandon {
        /// Why, for people.
        reason: String,
    },
    /// Either: the migration is off. From the destination never after `Committed`.
    Abort {
        /// Status code.
        status: i32,
        /// Why, for people.
        reason: String,
    },
}

impl Control {
    /// The payload of a control frame, as number `sequence`.
    pub fn encode(&self, sequence: u64) -> Vec<u8> {
        let mut out = sequence.to_le_bytes().to_vec();
        match self {
            Self::Fence { stream } => {
                out.push(1);
                out.extend_from_slice(&stream.0.to_le_bytes());
            }
            Self::Fenced { stream, arrived } => {
                out.push(2);
                out.extend_from_slice(&stream.0.to_le_bytes());
                put_numbers(&mut out, &arrived.iter().map(|id| id.0).collect::<Vec<_>>());
            }
            Self::DeviceState { offset_bytes, bytes } => {
                out.push(3);
                out.extend_from_slice(&offset_bytes.to_le_bytes());
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Finalize { digest, device_state_bytes, device_state_crc } => {
                out.push(4);
                out.extend_from_slice(digest);
                out.extend_from_slice(&device_state_bytes.to_le_bytes());
                out.extend_from_slice(&device_state_crc.to_le_bytes());
            }
            Self::AllArrived => out.push(5),
            Self::Verified { digest } => {
                out.push(6);
                out.extend_from_slice(digest);
            }
            Self::Commit => out.push(7),
            Self::Committed => out.push(8),
            Self::Resumed { status, reason } => put_failure(&mut out, 9, *status, reason),
            Self::Abort { status, reason } => put_failure(&mut out, 10, *status, reason),
            Self::StreamEnd { segments, bytes, digest } => {
                out.push(11);
                for number in [segments, bytes, digest] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Self::Held { key, last, hashes } => {
                out.push(12);
                out.extend_from_slice(key);
                out.push((*last).into());
                put_numbers(&mut out, hashes);
            }
            _ => self.encode_post_copy(&mut out),
        }
        out
    }

    /// The messages of post-copy.
    fn encode_post_copy(&self, out: &mut Vec<u8>) {
        match self {
            Self::Missing { first_page, codec, bytes } => {
                out.push(13);
                out.extend_from_slice(&first_page.to_le_bytes());
                out.push(*codec);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Switch { digest, missing_pages, device_state_bytes, device_state_crc } => {
                out.push(14);
                out.extend_from_slice(digest);
                out.extend_from_slice(&missing_pages.to_le_bytes());
                out.extend_from_slice(&device_state_bytes.to_le_bytes());
                out.extend_from_slice(&device_state_crc.to_le_bytes());
            }
            Self::Whole { digest } => {
                out.push(15);
                out.extend_from_slice(digest);
            }
            Self::Completed { digest } => {
                out.push(16);
                out.extend_from_slice(digest);
            }
            Self::Abandon { reason } => {
                out.push(17);
                put_text(out, reason, MAX_REASON_BYTES);
            }
            Self::StreamSwitch { segments, bytes, digest } => {
                out.push(18);
                for number in [segments, bytes, digest] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Self::Return { bytes } => {
                out.push(19);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            _ => {}
        }
    }

    /// Reads a control frame's payload: its number and message.
    ///
    /// # Errors
    /// An unknown message, anything out of bounds, trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<(u64, Self), WireError> {
        let mut reader = Reader::new(bytes);
        let sequence = reader.u64("control sequence")?;
        let message = Self::decode_message(&mut reader)?;
        reader.end("control message")?;
        Ok((sequence, message))
    }

    fn decode_message(reader: &mut Reader) -> Result<Self, WireError> {
        Ok(match reader.u8("control message")? {
            1 => Self::Fence { stream: StreamId(reader.u32("stream id")?) },
            2 => Self::Fenced {
                stream: StreamId(reader.u32("stream id")?),
                arrived: reader
                    .numbers("arrived chunks", MAX_STREAM_CHUNKS)?
                    .into_iter()
                    .map(ChunkId)
                    .collect(),
            },
            3 => Self::DeviceState {
                offset_bytes: reader.u64("device state offset")?,
                bytes: {
                    let length = reader.count("device state piece", MAX_CONTROL_BYTES)?;
                    reader.bytes("device state piece", length)?.to_vec()
                },
            },
            4 => Self::Finalize {
                digest: reader.array("digest")?,
                device_state_bytes: reader.u64("device state length")?,
                device_state_crc: reader.u32("device state checksum")?,
            },
            5 => Self::AllArrived,
            6 => Self::Verified { digest: reader.array("digest")? },
            7 => Self::Commit,
            8 => Self::Committed,
            9 => {
                let (status, reason) = take_failure(reader)?;
                Self::Resumed { status, reason }
            }
            10 => {
                let (status, reason) = take_failure(reader)?;
                Self::Abort { status, reason }
            }
            11 => Self::StreamEnd {
                segments: reader.u64("segments")?,
                bytes: reader.u64("stream length")?,
                digest: reader.u64("stream digest")?,
            },
            12 => Self::Held {
                key: reader.array("key of held pages")?,
                last: take_bool(reader, "last piece of held pages")?,
                hashes: reader.numbers("held pages", MAX_ANNOUNCED_PIECE_PAGES)?,
            },
            other => Self::decode_post_copy(other, reader)?,
        })
    }

    fn decode_post_copy(kind: u8, reader: &mut Reader) -> Result<Self, WireError> {
        Ok(match kind {
            13 => Self::Missing {
                first_page: reader.u64("first page of missing pages")?,
                codec: reader.u8("codec of missing pages")?,
                bytes: {
                    let length = reader.count("missing pages", MAX_CONTROL_BYTES)?;
                    reader.bytes("missing pages", length)?.to_vec()
                },
            },
            14 => Self::Switch {
                digest: reader.array("digest")?,
                missing_pages: reader.u64("missing page count")?,
                device_state_bytes: reader.u64("device state length")?,
                device_state_crc: reader.u32("device state checksum")?,
            },
            15 => Self::Whole { digest: reader.array("digest")? },
            16 => Self::Completed { digest: reader.array("digest")? },
            17 => Self::Abandon { reason: reader.text("reason", MAX_REASON_BYTES)? },
            18 => Self::StreamSwitch {
                segments: reader.u64("segments")?,
                bytes: reader.u64("stream length")?,
                digest: reader.u64("stream digest")?,
            },
            19 => Self::Return {
                bytes: {
                    let length = reader.count("returned bytes", MAX_CONTROL_BYTES)?;
                    reader.bytes("returned bytes", length)?.to_vec()
                },
            },
            other => {
                let value = other.into();
                return Err(WireError::Range {
                    what: "control message",
                    value,
                    allowed: "1 to 19",
                });
            }
        })
    }
}

fn take_bool(reader: &mut Reader, what: &'static str) -> Result<bool, WireError> {
    match reader.u8(what)? {
        byte @ 0..=1 => Ok(byte == 1),
        other => Err(WireError::Range { what, value: other.into(), allowed: "0 or 1" }),
    }
}

fn put_failure(out: &mut Vec<u8>, kind: u8, status: i32, reason: &str) {
    out.push(kind);
    out.extend_from_slice(&status.to_le_bytes());
    put_text(out, reason, MAX_REASON_BYTES);
}

fn take_failure(reader: &mut Reader) -> Result<(i32, String), WireError> {
    let status = i32::from_le_bytes(reader.array("status")?);
    Ok((status, reader.text("reason", MAX_REASON_BYTES)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_round_trips_and_no_prefix_decodes() {
        let reason = "why".to_string();
        let messages = [
            Control::Fence { stream: StreamId(4) },
            Control::Fenced { stream: StreamId(4), arrived: vec![ChunkId(1), ChunkId(9)] },
            Control::DeviceState { offset_bytes: 5, bytes: vec![1, 2, 3] },
            Control::Finalize { digest: [2; 16], device_state_bytes: 8, device_state_crc: 3 },
            Control::AllArrived,
            Control::Verified { digest: [7; 16] },
            Control::Commit,
            Control::Committed,
            Control::Resumed { status: 0, reason: String::new() },
            Control::Abort { status: -9, reason },
            Control::StreamEnd { segments: 3, bytes: 2, digest: u64::MAX },
            Control::Held { key: [4; 32], last: true, hashes: vec![5, 6] },
            Control::Held { key: [4; 32], last: false, hashes: vec![0; MAX_ANNOUNCED_PIECE_PAGES] },
            Control::Missing { first_page: 1 << 20, codec: 1, bytes: vec![7; 9] },
            Control::Switch {
                digest: [2; 16],
                missing_pages: 5,
                device_state_bytes: 8,
                device_state_crc: 3,
            },
            Control::Whole { digest: [3; 16] },
            Control::Completed { digest: [4; 16] },
            Control::Abandon { reason: "gone".into() },
            Control::StreamSwitch { segments: 3, bytes: 2, digest: u64::MAX },
            Control::Return { bytes: vec![0, 2, 0, 4, 0, 0, 0, 1] },
        ];
        for message in messages {
            let bytes = message.encode(11);
            assert!(bytes.len() <= crate::wire::FrameKind::Control.max_payload_bytes() as usize);
            for length in (0..bytes.len()).rev().take(300) {
                assert!(Control::decode(&bytes[..length]).is_err(), "{length}");
            }
            assert_eq!(Control::decode(&bytes), Ok((11, message)));
        }
    }

    #[test]
    fn an_unknown_message_is_named() {
        let error = Control::decode(&[0, 0, 0, 0, 0, 0, 0, 0, 99]).unwrap_err().to_string();
        assert!(error.contains("99"), "{error}");
    }
}
