//! TLS on one socket whose two directions belong to two threads: after the handshake they share nothing
//! but what makes their next keys.

use super::handshake::{self, Finished, HandshakeError, Side};
use super::records::{Opened, Opener, RECORD_BYTES, Sealer};
use crate::runtime::channel::write_slices;
use rustls::CommonState;
use rustls::crypto::cipher::OutboundChunks;
use std::io::{self, IoSlice, Read};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What is read from a socket at once.
const READ_BYTES: usize = 128 * 1024;
/// Records that are sealed before they are written: few system calls, and still in the cache.
const RECORDS_AT_ONCE: usize = 4;

/// The reading direction.
pub struct SessionReader {
    socket: Arc<TcpStream>,
    opener: Opener,
    /// Records, as read from the socket; each is opened where it lies.
    bytes: Box<[u8]>,
    /// Of the records that are not opened yet.
    unopened: Range<usize>,
    /// Of data that nobody has taken yet.
    data: Range<usize>,
    /// The first data of all.
    early: io::Cursor<Vec<u8>>,
    ended: Option<Ended>,
}

/// Why no more comes.
enum Ended {
    Closed,
    Failed(rustls::Error),
}

/// The writing direction.
pub struct SessionWriter {
    socket: Arc<TcpStream>,
    sealer: Sealer,
    records: Vec<Vec<u8>>,
}

/// Runs the handshake; `check` sees the state at its end, before anything is exchanged.
///
/// # Errors
/// [`HandshakeError`], of which the peer has been told by an alert, and those of `check`.
pub fn open<E: From<HandshakeError>>(
    side: impl Side,
    socket: Arc<TcpStream>,
    patience: Duration,
    check: impl FnOnce(&CommonState) -> Result<(), E>,
) -> Result<(SessionReader, SessionWriter), E> {
    let mut bytes = vec![0; READ_BYTES].into_boxed_slice();
    let Finished { opener, sealer, early, unread } =
        handshake::run(side, &socket, &mut bytes, patience, check)?;
    let writer = SessionWriter { socket: socket.clone(), sealer, records: Vec::new() };
    let (unopened, early) = (0..unread, io::Cursor::new(early));
    let reader = SessionReader { socket, opener, bytes, unopened, data: 0..0, early, ended: None };
    Ok((reader, writer))
}

impl SessionReader {
    /// Whether something can be read without waiting for the socket.
    pub fn has_pending(&mut self) -> bool {
        self.has_early() || self.open_records().is_some()
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    fn has_early(&self) -> bool {
        self.early.position() < self.early.get_ref().len() as u64
    }

    /// Opens records until there is data, or an end; none if more must be read first.
    fn open_records(&mut self) -> Option<()> {
        while self.data.is_empty() && self.ended.is_none() {
            match self.opener.open(&mut self.bytes[self.unopened.clone()]) {
                Ok(Opened::Part) => return None,
                Ok(Opened::Data { bytes, data }) => {
                    let start = self.unopened.start;
                    self.data = start + data.start..start + data.end;
                    self.unopened.start += bytes;
                }
                Ok(Opened::Idle(bytes)) => self.unopened.start += bytes,
                Ok(Opened::Closed) => self.ended = Some(Ended::Closed),
                Err(error) => self.ended = Some(Ended::Failed(error)),
            }
        }
        Some(())
    }

    /// Reads more records; false if the peer has closed.
    fn fill(&mut self) -> io::Result<bool> {
        self.bytes.copy_within(self.unopened.clone(), 0);
        self.unopened = 0..self.unopened.len();
        let read = (&*self.socket).read(&mut self.bytes[self.unopened.end..])?;
        self.unopened.end += read;
        Ok(read > 0)
    }
}

impl Read for SessionReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.has_early() {
            return self.early.read(into);
        }
        while self.open_records().is_none() {
            // That no alert came before it proves nothing here: frames say themselves where they
            // end, and the messages of a migration which is the last.
            if !self.fill()? {
                return Ok(0);
            }
        }
        if self.data.is_empty() {
            return match &self.ended {
                Some(Ended::Failed(error)) => Err(invalid(error.clone())),
                _ => Ok(0),
            };
        }
        let count = into.len().min(self.data.len());
        into[..count].copy_from_slice(&self.bytes[self.data.start..self.data.start + count]);
        self.data.start += count;
        Ok(count)
    }
}

impl SessionWriter {
    /// The socket.
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// Seals and writes all pieces.
    ///
    /// # Errors
    /// The socket's error; the connection is of no use then.
    pub fn write_all(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut rest = OutboundChunks::new(pieces);
        while !rest.is_empty() {
            let (part, more) = rest.split_at(rest.len().min(RECORDS_AT_ONCE * RECORD_BYTES));
            self.sealer.seal(part, &mut self.records).map_err(invalid)?;
            let mut slices: Vec<_> = self.records.iter().map(|one| IoSlice::new(one)).collect();
            write_slices(&self.socket, &mut slices)?;
            self.records.clear();
            rest = more;
        }
        Ok(())
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
