//! What came of an image so far, by dialect, and how a connection's bytes become part of it.
//!
//! A header is checked against the image before anything is reserved for what it announces.

use super::arrival::Arrival;
use super::cargo::PLAIN_PIECE_BYTES;
use super::socket::{ReadError, read_within};
use super::{V1Error, cargo};
use crate::Status;
use crate::base::MemoryLayout;
use crate::migration::{Dialect, Failure, V1Options};
use crate::wire::cursor::WireError;
use crate::wire::v1::frames::Header;
use crate::wire::v1::hde::PACKET_HEADER_BYTES;
use crate::wire::v1::{f8, f16, payload};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// The image of one arrival.
pub struct Intake {
    form: Form,
    image_bytes: u64,
    stored_bytes: u64,
}

enum Form {
    F16(f16::Assembler),
    F8(f8::Arrivals),
    /// Whether its length has come.
    Plain(bool),
    /// Nothing more is taken in.
    Over,
}

/// A header that came.
pub enum Start {
    /// A part of a packet.
    F16(f16::ChunkHeader),
    /// A part of memory.
    F8(f8::ChunkHeader),
    /// All of memory follows; how long it says that is.
    Plain([u8; payload::LENGTH_BYTES]),
}

/// What a connection did where a header is due.
pub enum Next {
    /// It came.
    Start(Start),
    /// The peer hung up.
    End,
    /// Nothing came.
    Quiet,
}

impl Intake {
    /// Nothing has come of an image of this shape.
    ///
    /// # Errors
    /// The image is larger than the node takes in.
    pub fn new(layout: &MemoryLayout, options: &V1Options) -> Result<Self, V1Error> {
        cargo::check_size(layout, options)?;
        let image_bytes = layout.total_bytes();
        let form = match options.dialect {
            Dialect::F16 => Form::F16(f16::Assembler::new(largest_packet(image_bytes))),
            Dialect::F8 => {
                let transfer = f8::Transfer::new(image_bytes, options.f8_chunk_bytes)?;
                Form::F8(f8::Arrivals::new(transfer))
            }
            Dialect::Plain => Form::Plain(false),
        };
        Ok(Self { form, image_bytes, stored_bytes: 0 })
    }

    /// Bytes that came, of those that are due.
    pub fn progress(&self) -> (u64, u64) {
        match &self.form {
            Form::F16(assembler) => {
                let (came, due) = assembler.arrived_bytes();
                (came, due.map_or(self.image_bytes, u64::from))
            }
            Form::F8(_) | Form::Plain(_) | Form::Over => (self.stored_bytes, self.image_bytes),
        }
    }

    /// Bytes that wait in memory for others.
    pub fn held_bytes(&self) -> u64 {
        match &self.form {
            Form::F16(assembler) => assembler.arrived_bytes().0,
            Form::F8(_) | Form::Plain(_) | Form::Over => 0,
        }
    }

    /// Lets go of what came, and remembers only how much it was.
    pub fn forget(&mut self) {
        (self.stored_bytes, self.image_bytes) = self.progress();
        self.form = Form::Over;
    }

    /// Admits what a header announces; gives where in the image its bytes belong.
    ///
    /// # Errors
    /// It does not fit the image.
    pub fn claim(&mut self, start: &Start) -> Result<u64, Failure> {
        let claimed = match (&mut self.form, start) {
            (Form::F16(assembler), Start::F16(header)) => assembler.claim(header).map(|()| 0),
            (Form::F8(arrivals), Start::F8(header)) => {
                arrivals.claim(header).map(|range| range.start)
            }
            (Form::Plain(begun), Start::Plain(length)) => {
                if std::mem::replace(begun, true) {
                    return Err(bad_frame("a second image, where one is under way"));
                }
                exact_length(*length, self.image_bytes).map(|()| 0)
            }
            _ => return Err(bad_frame("another dialect than the arrival's")),
        };
        claimed.map_err(refused)
    }

    /// The bytes of a packet's chunk; gives the packet once it is whole.
    ///
    /// # Errors
    /// The chunks do not fit together.
    pub fn fill(&mut self, id: u32, bytes: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        match &mut self.form {
            Form::F16(assembler) => assembler.fill(id, bytes).map_err(refused),
            _ => Err(bad_frame("a packet's chunk, where memory is due")),
        }
    }

    /// So many bytes of memory are in the guest; gives whether they were the last.
    pub fn settle(&mut self, length_bytes: u64) -> bool {
        self.stored_bytes += length_bytes;
        match &mut self.form {
            Form::F8(arrivals) => arrivals.settle(),
            _ => self.stored_bytes >= self.image_bytes,
        }
    }
}

impl Next {
    /// Reads a header, which must be whole within a time once it has begun.
    ///
    /// # Errors
    /// [`Failure`] for one that is cut, late, or out of form.
    pub fn read(from: &TcpStream, dialect: Dialect, timeout: Duration) -> Result<Self, Failure> {
        let mut bytes = [0; f16::HEADER_BYTES];
        let head = match dialect {
            Dialect::F16 => &mut bytes[..],
            Dialect::F8 => &mut bytes[..f8::HEADER_BYTES],
            Dialect::Plain => &mut bytes[..payload::LENGTH_BYTES],
        };
        match read_within(from, head, timeout) {
            Ok(()) => {}
            Err(ReadError::Cut(0)) => return Ok(Self::End),
            Err(ReadError::Late(0, _)) => return Ok(Self::Quiet),
            Err(error) => return Err(unread("a header", &error)),
        }
        let start = match dialect {
            Dialect::F16 => f16::ChunkHeader::decode(head).map(Start::F16),
            Dialect::F8 => f8::ChunkHeader::decode(head).map(Start::F8),
            Dialect::Plain => Ok(Start::Plain(head.first_chunk().copied().unwrap_or_default())),
        };
        start.map(Self::Start).map_err(refused)
    }
}

/// Takes in what follows a header that was claimed, to `offset_bytes` of the image; gives how many bytes
/// that were.
///
/// # Errors
/// [`Failure`]: the image cannot become whole any more.
pub fn receive(
    (start, offset_bytes): (&Start, u64),
    from: &TcpStream,
    arrival: &Arc<Arrival>,
    buffer: &mut Vec<u8>,
    timeout: Duration,
) -> Result<u64, Failure> {
    let read = |buffer: &mut Vec<u8>, length: usize| {
        buffer.resize(length, 0);
        read_within(from, buffer, timeout).map_err(|error| unread("a chunk", &error))
    };
    match start {
        Start::F16(header) => {
            let mut bytes = Vec::new();
            read(&mut bytes, header.payload_bytes as usize)?;
            arrival.fill(header.id, bytes)?;
            Ok(header.payload_bytes.into())
        }
        Start::F8(header) => {
            read(buffer, header.payload_bytes as usize)?;
            arrival.store(offset_bytes, buffer)?;
            Ok(header.payload_bytes.into())
        }
        Start::Plain(_) => {
            let length_bytes = arrival.layout().total_bytes();
            for at in (0..length_bytes).step_by(PLAIN_PIECE_BYTES as usize) {
                read(buffer, PLAIN_PIECE_BYTES.min(length_bytes - at) as usize)?;
                arrival.store(at, buffer)?;
            }
            Ok(length_bytes)
        }
    }
}

/// The longest packet that an image of this length can come in: what does not pack is stored in blocks,
/// with some bytes each.
fn largest_packet(image_bytes: u64) -> u32 {
    let most = image_bytes + image_bytes / 128 + (64 << 10) + PACKET_HEADER_BYTES as u64;
    u32::try_from(most).unwrap_or(u32::MAX)
}

fn exact_length(length: [u8; payload::LENGTH_BYTES], due: u64) -> Result<(), WireError> {
    let value = payload::decode_length(length, due)?;
    if value < due {
        let what = "plain image's length";
        return Err(WireError::Range { what, value, allowed: "that of the guest's memory" });
    }
    Ok(())
}

fn refused(error: WireError) -> Failure {
    let status = match error {
        WireError::TooLong { .. } => Status::LimitReached,
        _ => Status::BadFrame,
    };
    Failure::new(status, error.to_string())
}

fn unread(what: &str, error: &ReadError) -> Failure {
    let status = match error {
        ReadError::Late(..) => Status::PeerStalled,
        ReadError::Cut(_) | ReadError::Io(_) => Status::ConnectionLost,
    };
    Failure::new(status, format!("{what}: {error}"))
}

fn bad_frame(text: &str) -> Failure {
    Failure::new(Status::BadFrame, text)
}
