//! TLS on one socket whose two directions belong to two threads.
//!
//! The state of both directions is one, so it stands behind a lock; nobody holds that while he reads
//! or writes the socket, and a record of 16 KiB is the most that one direction waits for the other.

use crate::runtime::lock::lock;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is read from a socket at once; a record and a half at least, so that reading goes on.
const READ_BYTES: usize = 128 * 1024;
/// Plaintext that is sealed before it is written: few system calls, and still in the cache.
const SEAL_BYTES: usize = 64 * 1024;
/// Plaintext of a record.
const RECORD_BYTES: usize = 16 * 1024;
/// What sealing adds to a record, at most: header, content type, tag, and a key update before it.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// What the handshake's messages may take; certificate chains are the longest.
const MAX_HANDSHAKE_BYTES: usize = READ_BYTES;

/// One side's state.
pub enum State {
    /// Of who connected.
    Client(UnbufferedClientConnection),
    /// Of who accepted.
    Server(UnbufferedServerConnection),
}

/// A handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket's error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// One side does not accept the other.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The peer went away.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer took too long.
    #[error("no handshake within {0:?}")]
    Slow(Duration),
    /// The peer's messages are longer than any certificate chain should be.
    #[error("a handshake of more than {MAX_HANDSHAKE_BYTES} bytes")]
    TooLong,
}

/// A secured connection.
pub struct Session(Mutex<State>);

/// The reading direction.
pub struct SessionReader {
    session: Arc<Session>,
    socket: Arc<TcpStream>,
    sealed: Box<[u8]>,
    start: usize,
    end: usize,
    /// Of the last record, what did not fit where it was asked for.
    plain: Vec<u8>,
    plain_start: usize,
}

/// The writing direction.
pub struct SessionWriter {
    session: Arc<Session>,
    socket: Arc<TcpStream>,
    sealed: Vec<u8>,
    short: Vec<u8>,
}

/// Runs the handshake; `check` sees the state at its end, before anything is exchanged.
///
/// # Errors
/// [`HandshakeError`]; the peer has been told why by an alert.
pub fn open<E: From<HandshakeError>>(
    mut state: State,
    socket: Arc<TcpStream>,
    patience: Duration,
    check: impl FnOnce(&rustls::CommonState) -> Result<(), E>,
) -> Result<(SessionReader, SessionWriter), E> {
    let mut sealed = vec![0; READ_BYTES].into_boxed_slice();
    let mut plain = Vec::new();
    let (sealed_mut, plain_mut) = (&mut sealed[..], &mut plain);
    let end = shake_hands(&mut state, &socket, patience, sealed_mut, plain_mut)?;
    check(state.common())?;
    let session = Arc::new(Session(Mutex::new(state)));
    let (twin, writing) = (session.clone(), socket.clone());
    let reader = SessionReader { session, socket, sealed, start: 0, end, plain, plain_start: 0 };
    let writer =
        SessionWriter { session: twin, socket: writing, sealed: Vec::new(), short: Vec::new() };
    Ok((reader, writer))
}

/// Gives how many bytes that belong to what comes after are in `sealed`.
fn shake_hands(
    state: &mut State,
    socket: &TcpStream,
    patience: Duration,
    sealed: &mut [u8],
    plain: &mut Vec<u8>,
) -> Result<usize, HandshakeError> {
    let deadline = Instant::now() + patience;
    let mut filled = 0;
    let mut outgoing = Vec::new();
    loop {
        let mut sink = |bytes: &[u8]| plain.extend_from_slice(bytes);
        let (discard, step) = state.advance(&mut sealed[..filled], &mut outgoing, &mut sink);
        sealed.copy_within(discard..filled, 0);
        filled -= discard;
        match step {
            Ok(Step::Encoded | Step::Plaintext) => {}
            Ok(Step::Transmit) => {
                (&*socket).write_all(&outgoing)?;
                outgoing.clear();
            }
            Ok(Step::Established) => return Ok(filled),
            Ok(Step::Closed) => return Err(HandshakeError::Closed),
            Ok(Step::ReadMore) => {
                if filled == sealed.len() {
                    return Err(HandshakeError::TooLong);
                }
                filled += read_until(socket, &mut sealed[filled..], (deadline, patience))?;
            }
            Err(error) => {
                state.alert(&mut outgoing);
                // The peer may be gone; the error that counts is the first.
                let _ = (&*socket).write_all(&outgoing);
                return Err(error.into());
            }
        }
    }
}

fn read_until(
    mut socket: &TcpStream,
    into: &mut [u8],
    (deadline, patience): (Instant, Duration),
) -> Result<usize, HandshakeError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(HandshakeError::Slow(patience));
    }
    socket.set_read_timeout(Some(left))?;
    match socket.read(into) {
        Ok(0) => Err(HandshakeError::Closed),
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(HandshakeError::Slow(patience))
        }
        Err(error) => Err(error.into()),
    }
}

impl SessionReader {
    /// Whether bytes from the peer are here already.
    pub fn has_pending(&self) -> bool {
        self.plain_start < self.plain.len() || self.start < self.end
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// Opens what is here; gives how much went into `into`, none if another record is needed.
    fn open_record(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        self.plain.clear();
        self.plain_start = 0;
        let (plain, mut given) = (&mut self.plain, 0);
        let mut sink = |bytes: &[u8]| {
            let fits = bytes.len().min(into.len() - given);
            into[given..given + fits].copy_from_slice(&bytes[..fits]);
            given += fits;
            plain.extend_from_slice(&bytes[fits..]);
        };
        let mut alert = Vec::new();
        let records = &mut self.sealed[self.start..self.end];
        let (discard, step) = lock(&self.session.0).advance(records, &mut alert, &mut sink);
        self.start += discard;
        match step {
            Ok(Step::Plaintext) => Ok(Some(given).filter(|given| *given > 0)),
            Ok(Step::Established | Step::ReadMore) => Ok(None),
            Ok(Step::Closed) => Ok(Some(0)),
            Ok(Step::Encoded | Step::Transmit) => {
                Err(invalid("a message of the handshake after its end"))
            }
            Err(error) => Err(invalid(error)),
        }
    }

    /// Makes room behind what is here.
    fn compact(&mut self) {
        if self.start > 0 {
            self.sealed.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }
}

impl Read for SessionReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let waiting = &self.plain[self.plain_start..];
        if into.is_empty() || !waiting.is_empty() {
            let count = waiting.len().min(into.len());
            into[..count].copy_from_slice(&waiting[..count]);
            self.plain_start += count;
            return Ok(count);
        }
        loop {
            let before = self.start;
            if self.start < self.end
                && let Some(given) = self.open_record(into)?
            {
                return Ok(given);
            }
            if self.start > before && self.start < self.end {
                continue;
            }
            self.compact();
            let count = (&*self.socket).read(&mut self.sealed[self.end..])?;
            if count == 0 {
                return Ok(0);
            }
            self.end += count;
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
        if bytes <= RECORD_BYTES {
            let mut short = std::mem::take(&mut self.short);
            short.clear();
            pieces.iter().for_each(|piece| short.extend_from_slice(piece));
            let written = self.write_piece(&short);
            self.short = short;
            return written;
        }
        pieces.iter().try_for_each(|piece| self.write_piece(piece))
    }

    fn write_piece(&mut self, piece: &[u8]) -> io::Result<()> {
        for part in piece.chunks(SEAL_BYTES) {
            let room = part.len() + part.len().div_ceil(RECORD_BYTES) * RECORD_OVERHEAD_BYTES;
            if self.sealed.len() < room {
                self.sealed.resize(room, 0);
            }
            let sealed = lock(&self.session.0).seal(part, &mut self.sealed)?;
            (&*self.socket).write_all(&self.sealed[..sealed])?;
        }
        Ok(())
    }
}

/// What a look at the records brought.
enum Step {
    /// Payload went into the sink.
    Plaintext,
    /// A message of ours was encoded.
    Encoded,
    /// What was encoded is to be written.
    Transmit,
    /// More of the peer's handshake is needed.
    ReadMore,
    /// The handshake is done, and nothing whole is left to be read.
    Established,
    /// The peer has said its last.
    Closed,
}

impl State {
    /// Both sides' common part.
    pub fn common(&self) -> &rustls::CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    /// One step; gives how many bytes of `incoming` are done with.
    fn advance(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<Step, rustls::Error>) {
        match self {
            Self::Client(client) => settle(client.process_tls_records(incoming), outgoing, sink),
            Self::Server(server) => settle(server.process_tls_records(incoming), outgoing, sink),
        }
    }

    /// After an error: the alert that tells the peer.
    fn alert(&mut self, outgoing: &mut Vec<u8>) {
        while let (_, Ok(Step::Encoded)) = self.advance(&mut [], outgoing, &mut |_| {}) {}
    }

    /// Seals `plain`; gives the length of what is then in `into`.
    fn seal(&mut self, plain: &[u8], into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Client(client) => seal(client.process_tls_records(&mut []), plain, into),
            Self::Server(server) => seal(server.process_tls_records(&mut []), plain, into),
        }
    }
}

fn settle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    sink: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Step, rustls::Error>) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    sink(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Plaintext),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut message)) => {
            let begin = outgoing.len();
            loop {
                match message.encode(&mut outgoing[begin..]) {
                    Ok(written) => {
                        outgoing.truncate(begin + written);
                        break Ok(Step::Encoded);
                    }
                    Err(EncodeError::InsufficientSize(size)) => {
                        outgoing.resize(begin + size.required_size, 0);
                    }
                    Err(EncodeError::AlreadyEncoded) => break Ok(Step::Encoded),
                }
            }
        }
        Ok(ConnectionState::TransmitTlsData(message)) => {
            message.done();
            Ok(Step::Transmit)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::ReadMore),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Established),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Closed),
        // Early data is off on both sides, since it can be replayed.
        Ok(_) => Err(rustls::Error::General("early data".into())),
    };
    (discard, step)
}

fn seal<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &[u8],
    into: &mut [u8],
) -> io::Result<usize> {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            traffic.encrypt(plain, into).map_err(|error: EncryptError| invalid(error))
        }
        Ok(state) => Err(invalid(format!("{state:?} where there is something to send"))),
        Err(error) => Err(invalid(error)),
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
