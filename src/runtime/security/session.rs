//! TLS on one socket whose two directions belong to two threads.
//!
//! The state of both directions is one, so it stands behind a lock; nobody holds that while he reads
//! or writes the socket.

use crate::runtime::lock::lock;
use rustls::Connection;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is read from a socket at once.
const READ_BYTES: usize = 128 * 1024;
/// Plaintext that is sealed before it is written: few system calls, and still in the cache.
const SEAL_BYTES: usize = 128 * 1024;

/// A handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket's error.
    #[error("{0}")]
    Io(io::Error),
    /// One side does not accept the other.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The peer went away.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer took too long.
    #[error("no handshake within {0:?}")]
    Slow(Duration),
}

/// The reading direction.
pub struct SessionReader {
    session: Arc<Mutex<Connection>>,
    socket: Arc<TcpStream>,
    sealed: Box<[u8]>,
    start: usize,
    end: usize,
}

/// The writing direction.
pub struct SessionWriter {
    session: Arc<Mutex<Connection>>,
    socket: Arc<TcpStream>,
    sealed: Vec<u8>,
}

/// Runs the handshake; `check` sees the state at its end, before anything is exchanged.
///
/// # Errors
/// [`HandshakeError`], of which the peer has been told by an alert, and those of `check`.
pub fn open<E: From<HandshakeError>>(
    mut session: Connection,
    socket: Arc<TcpStream>,
    patience: Duration,
    check: impl FnOnce(&rustls::CommonState) -> Result<(), E>,
) -> Result<(SessionReader, SessionWriter), E> {
    let mut timed = Timed { socket: &socket, deadline: Instant::now() + patience };
    while session.is_handshaking() || session.wants_write() {
        session.complete_io(&mut timed).map_err(|error| HandshakeError::new(error, patience))?;
    }
    check(&session)?;
    // What is sealed at a time is bounded by what it is given.
    session.set_buffer_limit(None);
    let session = Arc::new(Mutex::new(session));
    let (twin, writing) = (session.clone(), socket.clone());
    let sealed = vec![0; READ_BYTES].into_boxed_slice();
    let reader = SessionReader { session, socket, sealed, start: 0, end: 0 };
    Ok((reader, SessionWriter { session: twin, socket: writing, sealed: Vec::new() }))
}

impl HandshakeError {
    fn new(error: io::Error, patience: Duration) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Slow(patience),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => match error.downcast::<rustls::Error>() {
                Ok(error) => Self::Tls(error),
                Err(error) => Self::Io(error),
            },
        }
    }
}

/// A socket during the handshake: all of it has one deadline.
struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.read(into)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.write(from)
    }

    /// An alert is written by one call, and what is due before it must not be all that it takes.
    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SessionReader {
    /// Whether bytes from the peer are here that the socket no longer has.
    pub fn has_pending(&self) -> bool {
        let mut session = lock(&self.session);
        self.start < self.end
            || session.process_new_packets().map_or(true, |io| io.plaintext_bytes_to_read() > 0)
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// Opens records until one has something for `into`; none if more must be read first.
    fn open_records(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let mut session = lock(&self.session);
        loop {
            match session.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(Some),
            }
            if self.start == self.end {
                return Ok(None);
            }
            let mut records = &self.sealed[self.start..self.end];
            self.start += session.read_tls(&mut records)?;
            session.process_new_packets().map_err(invalid)?;
        }
    }
}

impl Read for SessionReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(read) = self.open_records(into)? {
                return Ok(read);
            }
            self.start = 0;
            self.end = 0;
            self.end = (&*self.socket).read(&mut self.sealed)?;
            // That no alert came before it proves nothing here: frames say themselves where they
            // end, and the messages of a migration which is the last.
            if self.end == 0 {
                return Ok(0);
            }
        }
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
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if bytes <= SEAL_BYTES {
            return self.write_at_once(pieces);
        }
        let mut parts = pieces.iter().flat_map(|piece| piece.chunks(SEAL_BYTES));
        parts.try_for_each(|part| self.write_at_once(&[part]))
    }

    /// At most [`SEAL_BYTES`].
    fn write_at_once(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        self.sealed.clear();
        let mut session = lock(&self.session);
        // Without a limit it takes all.
        let _ = session.writer().write_vectored(&slices)?;
        while session.wants_write() {
            session.write_tls(&mut self.sealed)?;
        }
        drop(session);
        (&*self.socket).write_all(&self.sealed)
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
