//! One TCP connection as frames: prefaces, sequence numbers, chunk payloads straight through.
//!
//! Reading and writing are separate halves over one socket, each used by one thread at a time.

use crate::migration::page_io::EncodedChunk;
use crate::runtime::sys::readiness;
use crate::wire::chunk::{CHUNK_HEADER_BYTES, EXTENT_BYTES};
use crate::wire::frame::{HEADER_BYTES, MINOR, PREFACE_BYTES};
use crate::wire::{ChunkHeader, Frame, FrameHeader, FrameKind, Preface, WireError};
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Enough for the headers of a chunk; payloads bypass it.
pub const READ_BUFFER_BYTES: usize = 16 * 1024;

/// A connection failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket's error.
    #[error("{0}")]
    Io(io::Error),
    /// The peer closed the connection within a frame.
    #[error("closed by the peer within a frame")]
    Cut,
    /// The peer sent nothing for as long as it may.
    #[error("the peer was silent for too long")]
    Silent,
    /// The peer closed the connection between frames.
    #[error("closed by the peer")]
    Closed,
    /// The peer broke the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A frame came where another kind is due.
    #[error("{found:?} frame where {expected:?} is due")]
    Kind {
        /// As received.
        found: FrameKind,
        /// The one due.
        expected: FrameKind,
    },
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Cut,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Io(error),
        }
    }
}

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    /// A whole frame.
    Frame(Frame),
    /// A chunk's header; its payload is next on the stream.
    Chunk(ChunkHeader),
}

/// The reading half.
pub struct FrameReader {
    stream: BufReader<SharedSocket>,
    sequence: u64,
}

/// A socket that a buffered reader can read although others hold it too.
struct SharedSocket(Arc<TcpStream>);

impl Read for SharedSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(into)
    }
}

/// The writing half.
pub struct FrameWriter {
    stream: Arc<TcpStream>,
    sequence: u64,
}

impl FrameReader {
    /// Reads from `socket`, preface first.
    pub fn new(socket: Arc<TcpStream>) -> Self {
        Self {
            stream: BufReader::with_capacity(READ_BUFFER_BYTES, SharedSocket(socket)),
            sequence: 0,
        }
    }

    /// Reads the peer's preface.
    ///
    /// # Errors
    /// Another protocol or version, or the socket's error.
    pub fn preface(&mut self) -> Result<Preface, ConnectionError> {
        let mut bytes = [0; PREFACE_BYTES];
        self.stream.read_exact(&mut bytes)?;
        Ok(Preface::decode(bytes)?)
    }

    /// Reads the next frame; of a chunk only its header. `page_bytes` is the guest's page size.
    ///
    /// # Errors
    /// The socket's error, or bytes that do not follow the protocol.
    pub fn next(&mut self, page_bytes: u32) -> Result<Incoming, ConnectionError> {
        let header = self.header()?;
        if header.kind == FrameKind::Chunk {
            return self.chunk_header(&header, page_bytes).map(Incoming::Chunk);
        }
        let payload = self.body(&header)?;
        Ok(Incoming::Frame(Frame { kind: header.kind, payload }))
    }

    /// Reads the next frame, which must be of this kind.
    ///
    /// # Errors
    /// As [`Self::next`], and any other kind.
    pub fn expect(&mut self, expected: FrameKind) -> Result<Vec<u8>, ConnectionError> {
        let header = self.header()?;
        if header.kind != expected {
            return Err(ConnectionError::Kind { found: header.kind, expected });
        }
        self.body(&header)
    }

    /// The stream behind the frames, for a chunk's payload.
    pub fn payload(&mut self) -> &mut impl Read {
        &mut self.stream
    }

    /// Breaks the connection; both halves fail from now on.
    pub fn shutdown(&self) {
        // An error means that it is broken already.
        let _ = self.stream.get_ref().0.shutdown(Shutdown::Both);
    }

    /// Whether more bytes are here or come within `patience`.
    pub fn has_more(&self, patience: Duration) -> bool {
        let socket = self.stream.get_ref().0.as_ref();
        !self.stream.buffer().is_empty() || readiness::wait_readable(socket, patience)
    }

    fn header(&mut self) -> Result<FrameHeader, ConnectionError> {
        let mut bytes = [0; HEADER_BYTES];
        // The first byte tells a peer that closed between frames from one that broke off.
        match self.stream.read(&mut bytes[..1]) {
            Ok(0) => return Err(ConnectionError::Closed),
            Ok(_) => self.stream.read_exact(&mut bytes[1..])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.stream.read_exact(&mut bytes)?;
            }
            Err(error) => return Err(error.into()),
        }
        let header = FrameHeader::decode(bytes)?;
        header.check_sequence(self.sequence)?;
        self.sequence += 1;
        Ok(header)
    }

    fn body(&mut self, header: &FrameHeader) -> Result<Vec<u8>, ConnectionError> {
        let mut payload = vec![0; header.payload_bytes as usize];
        self.stream.read_exact(&mut payload)?;
        header.check_body(&payload)?;
        Ok(payload)
    }

    fn chunk_header(
        &mut self,
        frame: &FrameHeader,
        page_bytes: u32,
    ) -> Result<ChunkHeader, ConnectionError> {
        let mut fixed = [0; CHUNK_HEADER_BYTES];
        self.stream.read_exact(&mut fixed)?;
        let extents = ChunkHeader::extent_count(&fixed)?;
        let mut bytes = fixed.to_vec();
        bytes.resize(CHUNK_HEADER_BYTES + extents * EXTENT_BYTES, 0);
        self.stream.read_exact(&mut bytes[CHUNK_HEADER_BYTES..])?;
        frame.check_body(&bytes)?;
        let header = ChunkHeader::decode(&bytes, page_bytes)?;
        if bytes.len() as u64 + u64::from(header.payload_bytes) != u64::from(frame.payload_bytes) {
            let value = frame.payload_bytes.into();
            let what = "chunk frame's length";
            return Err(WireError::Range { what, value, allowed: "header and payload" }.into());
        }
        Ok(header)
    }
}

impl FrameWriter {
    /// Writes to `socket`.
    pub fn new(socket: Arc<TcpStream>) -> Self {
        Self { stream: socket, sequence: 0 }
    }

    /// Writes our preface and a first frame.
    ///
    /// # Errors
    /// The socket's error.
    pub fn open(&mut self, first: &Frame) -> io::Result<()> {
        (&*self.stream).write_all(&Preface { minor: MINOR }.encode())?;
        self.frame(first)
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// The socket's error; the connection is of no use then.
    pub fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        self.payload(frame.kind, &frame.payload)
    }

    /// Writes a frame whose payload lies elsewhere.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn payload(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        let header = FrameHeader::of(kind, payload, self.sequence).encode();
        self.both(&header, payload)
    }

    /// Breaks the connection; both halves fail from now on.
    pub fn shutdown(&self) {
        // An error means that it is broken already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Breaks the connection as [`Self::shutdown`] does, from another thread.
    pub fn closer(&self) -> Box<dyn Fn() + Send> {
        let stream = self.stream.clone();
        Box::new(move || drop(stream.shutdown(Shutdown::Both)))
    }

    /// The number that the next frame gets.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Writes a chunk that was encoded for [`Self::sequence`].
    ///
    /// # Errors
    /// The socket's error; the connection is of no use then.
    pub fn chunk(&mut self, chunk: &EncodedChunk) -> io::Result<()> {
        self.both(chunk.head, chunk.payload)
    }

    fn both(&mut self, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        while !head.is_empty() {
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            match (&*self.stream).write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    let of_head = written.min(head.len());
                    head = &head[of_head..];
                    body = &body[written - of_head..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        (&*self.stream).write_all(body)
    }
}

impl ConnectionError {
    /// The status code of this error.
    pub fn status(&self) -> crate::Status {
        match self {
            ConnectionError::Io(_)
            | ConnectionError::Closed
            | ConnectionError::Cut
            | ConnectionError::Silent => crate::Status::ConnectionLost,
            ConnectionError::Wire(error) => error.status(),
            ConnectionError::Kind { .. } => crate::Status::UnexpectedMessage,
        }
    }
}
