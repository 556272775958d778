//! A connection before it speaks of frames: bytes each way, over TLS or over the bare socket.

use super::security::session::{SessionReader, SessionWriter};
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Pieces that are written at once, at most.
pub const MOST_PIECES: usize = 4;

/// A connection whose peer is known, or need not be.
pub struct Channel {
    /// To read from.
    pub reader: ChannelReader,
    /// To write to.
    pub writer: ChannelWriter,
    /// The peer's name as its certificate has it; none over a bare socket.
    pub peer: Option<String>,
}

/// The reading half.
pub enum ChannelReader {
    /// Of a bare socket.
    Plain(Arc<TcpStream>),
    /// Over TLS.
    Secured(Box<SessionReader>),
}

/// The writing half.
pub enum ChannelWriter {
    /// Of a bare socket.
    Plain(Arc<TcpStream>),
    /// Over TLS.
    Secured(Box<SessionWriter>),
}

impl Channel {
    /// Over a bare socket.
    pub fn plain(socket: Arc<TcpStream>) -> Self {
        let writer = ChannelWriter::Plain(socket.clone());
        Self { reader: ChannelReader::Plain(socket), writer, peer: None }
    }

    /// Over TLS with this node.
    pub fn secured(reader: SessionReader, writer: SessionWriter, peer: String) -> Self {
        let reader = ChannelReader::Secured(Box::new(reader));
        Self { reader, writer: ChannelWriter::Secured(Box::new(writer)), peer: Some(peer) }
    }

    /// The socket below.
    pub fn socket(&self) -> &Arc<TcpStream> {
        self.reader.socket()
    }
}

impl ChannelReader {
    /// The socket below.
    pub fn socket(&self) -> &Arc<TcpStream> {
        match self {
            Self::Plain(socket) => socket,
            Self::Secured(session) => session.socket(),
        }
    }

    /// Whether bytes are here that the socket no longer has.
    pub fn has_pending(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secured(session) => session.has_pending(),
        }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => (&**socket).read(into),
            Self::Secured(session) => session.read(into),
        }
    }
}

impl ChannelWriter {
    /// The socket below.
    pub fn socket(&self) -> &Arc<TcpStream> {
        match self {
            Self::Plain(socket) => socket,
            Self::Secured(session) => session.socket(),
        }
    }

    /// Writes all of at most [`MOST_PIECES`] pieces.
    ///
    /// # Errors
    /// The socket's error; the connection is of no use then.
    pub fn write_all(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => write_pieces(socket, pieces),
            Self::Secured(session) => session.write_all(pieces),
        }
    }
}

fn write_pieces(socket: &TcpStream, pieces: &[&[u8]]) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); MOST_PIECES];
    slices.iter_mut().zip(pieces).for_each(|(slice, piece)| *slice = IoSlice::new(piece));
    write_slices(socket, &mut slices)
}

/// Writes all of these, by as few calls as the kernel takes.
///
/// # Errors
/// The socket's error.
pub fn write_slices(mut socket: &TcpStream, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut rest = slices;
    // Leaves out what is empty.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match socket.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
