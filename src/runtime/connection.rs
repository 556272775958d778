//! One TCP connection as frames: prefaces, sequence numbers, chunk payloads straight through.
//!
//! Reading and writing are separate halves over one socket, each used by one thread at a time.

use crate::migration::page_io::EncodedChunk;
use crate::runtime::channel::{ChannelReader, ChannelWriter, MOST_PIECES};
use crate::runtime::lane::ReadWindow;
use crate::runtime::rdma::QueuePair;
use crate::runtime::security::SecurityError;
use crate::runtime::security::handshake::HandshakeError;
use crate::runtime::sys::readiness;
use crate::wire::chunk::{CHUNK_HEADER_BYTES, EXTENT_BYTES};
use crate::wire::frame::{HEADER_BYTES, MINOR, PREFACE_BYTES};
use crate::wire::segment::{SEGMENT_HEADER_BYTES, SegmentPayload};
use crate::wire::{ChunkHeader, Frame, FrameHeader, FrameKind, Preface, WireError};
use std::io::{self, BufReader, Read};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Enough for the headers of a chunk; payloads bypass it.
pub const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Of a payload that is written; its frame's header goes before it.
pub const PAYLOAD_PIECES: usize = MOST_PIECES - 1;

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
    /// The peer is not one to talk to.
    #[error(transparent)]
    Security(#[from] SecurityError),
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
        // A peer that does not accept our certificate says so after its part of the handshake.
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Security(HandshakeError::from(tls.clone()).into());
        }
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
    /// A piece of a relayed stream.
    Segment(SegmentPayload),
}

/// The reading half.
pub struct FrameReader {
    stream: BufReader<ChannelReader>,
    sequence: u64,
    /// For the next segment.
    buffer: Vec<u8>,
    /// Reads pages that are announced on this connection.
    window: Option<ReadWindow>,
}

/// The writing half.
pub struct FrameWriter {
    stream: ChannelWriter,
    sequence: u64,
    /// The end by which the peer reads pages that are announced on this connection.
    pair: Option<QueuePair>,
}

impl FrameReader {
    /// Reads from `stream`, preface first.
    pub fn new(stream: ChannelReader) -> Self {
        Self {
            stream: BufReader::with_capacity(READ_BUFFER_BYTES, stream),
            sequence: 0,
            buffer: Vec::new(),
            window: None,
        }
    }

    /// Pages that are announced here are read by this.
    pub fn set_window(&mut self, window: ReadWindow) {
        self.window = Some(window);
    }

    /// What reads pages that are announced here, for whoever reads the frames.
    pub fn take_window(&mut self) -> Option<ReadWindow> {
        self.window.take()
    }

    /// The socket below, to be waited for.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().socket().as_fd()
    }

    /// Whether a buffer is there for the next segment.
    pub fn has_buffer(&self) -> bool {
        self.buffer.capacity() > 0
    }

    /// Memory for the pages of the next segment; what is in it does not matter.
    pub fn offer_buffer(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
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
        match header.kind {
            FrameKind::Chunk => self.chunk_header(&header, page_bytes).map(Incoming::Chunk),
            FrameKind::Segment => self.segment(&header).map(Incoming::Segment),
            kind => Ok(Incoming::Frame(Frame { kind, payload: self.body(&header)? })),
        }
    }

    /// Reads the next frame, which must be of this kind.
    ///
    /// # Errors
    /// As [`Self::next`], and any other kind.
    pub fn expect(&mut self, expected: FrameKind) -> Result<Vec<u8>, ConnectionError> {
        self.expect_or(expected, &[]).map(|frame| frame.payload)
    }

    /// Reads the next frame, which must be of one of these kinds.
    ///
    /// # Errors
    /// As [`Self::next`], and any other kind.
    pub fn expect_or(
        &mut self,
        expected: FrameKind,
        or: &[FrameKind],
    ) -> Result<Frame, ConnectionError> {
        let header = self.header()?;
        let kind = header.kind;
        if kind != expected && !or.contains(&kind) {
            return Err(ConnectionError::Kind { found: kind, expected });
        }
        Ok(Frame { kind, payload: self.body(&header)? })
    }

    /// The stream behind the frames, for a chunk's payload.
    pub fn payload(&mut self) -> &mut impl Read {
        &mut self.stream
    }

    /// Breaks the connection; both halves fail from now on.
    pub fn shutdown(&self) {
        // An error means that it is broken already.
        let _ = self.stream.get_ref().socket().shutdown(Shutdown::Both);
    }

    /// Whether more bytes are here or come within `patience`.
    pub fn has_more(&mut self, patience: Duration) -> bool {
        let is_buffered = !self.stream.buffer().is_empty();
        let stream = self.stream.get_mut();
        is_buffered
            || stream.has_pending()
            || readiness::wait_readable(stream.socket().as_ref(), patience)
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
        let payload = self.fill(header.payload_bytes as usize, Vec::new())?;
        header.check_body(&[&payload])?;
        Ok(payload)
    }

    /// The large piece goes straight to where it stays.
    fn segment(&mut self, frame: &FrameHeader) -> Result<SegmentPayload, ConnectionError> {
        let mut fixed = [0; SEGMENT_HEADER_BYTES];
        let short = fixed.len().min(frame.payload_bytes as usize);
        self.stream.read_exact(&mut fixed[..short])?;
        let lengths = SegmentPayload::piece_lengths(&fixed[..short], frame.payload_bytes)?;
        let [head_bytes, fresh_bytes, tail_bytes] = lengths;
        let mut head = vec![0; head_bytes];
        let (begun, rest) = head.split_at_mut(fixed.len());
        begun.copy_from_slice(&fixed);
        self.stream.read_exact(rest)?;
        let buffer = std::mem::take(&mut self.buffer);
        let fresh = self.fill(fresh_bytes, buffer)?;
        let tail = self.fill(tail_bytes, Vec::new())?;
        let payload = SegmentPayload { head, fresh, tail };
        frame.check_body(&payload.pieces())?;
        Ok(payload)
    }

    /// So many bytes of the stream, in a buffer whose content is lost.
    fn fill(&mut self, bytes: usize, mut buffer: Vec<u8>) -> Result<Vec<u8>, ConnectionError> {
        buffer.resize(bytes, 0);
        self.stream.read_exact(&mut buffer)?;
        Ok(buffer)
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
        frame.check_body(&[&bytes])?;
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
    /// Writes to `stream`.
    pub fn new(stream: ChannelWriter) -> Self {
        Self { stream, sequence: 0, pair: None }
    }

    /// Pages that are announced here may be read by the other end of this.
    pub fn set_pair(&mut self, pair: QueuePair) {
        self.pair = Some(pair);
    }

    /// Whether pages may be announced here.
    pub fn has_pair(&self) -> bool {
        self.pair.is_some()
    }

    /// This end's address; none if the connection is broken.
    pub fn local_address(&self) -> Option<IpAddr> {
        Some(self.stream.socket().local_addr().ok()?.ip())
    }

    /// Writes our preface and a first frame.
    ///
    /// # Errors
    /// The socket's error.
    pub fn open(&mut self, first: &Frame) -> io::Result<()> {
        let header = first.header(self.sequence).encode();
        self.sequence += 1;
        self.stream.write_all(&[&Preface { minor: MINOR }.encode(), &header, &first.payload])
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// The socket's error; the connection is of no use then.
    pub fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        self.payload(frame.kind, &[&frame.payload])
    }

    /// Writes a frame whose payload lies elsewhere, in at most [`PAYLOAD_PIECES`] pieces.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn payload(&mut self, kind: FrameKind, payload: &[&[u8]]) -> io::Result<()> {
        let header = FrameHeader::of(kind, payload, self.sequence).encode();
        let mut all = [&header[..]; MOST_PIECES];
        all[1..].fill(&[]);
        all[1..].iter_mut().zip(payload).for_each(|(to, piece)| *to = piece);
        self.all(&all)
    }

    /// Breaks the connection; both halves fail from now on.
    pub fn shutdown(&self) {
        // An error means that it is broken already.
        let _ = self.stream.socket().shutdown(Shutdown::Both);
    }

    /// Breaks the connection as [`Self::shutdown`] does, from another thread.
    pub fn closer(&self) -> Box<dyn Fn() + Send> {
        let socket = self.stream.socket().clone();
        Box::new(move || drop(socket.shutdown(Shutdown::Both)))
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
        self.all(&[chunk.head, chunk.payload])
    }

    fn all(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        self.sequence += 1;
        self.stream.write_all(pieces)
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
            ConnectionError::Security(error) => error.status(),
            ConnectionError::Kind { .. } => crate::Status::UnexpectedMessage,
        }
    }
}
