//! The handshake of TLS on a socket, up to where each direction goes its own way.

use super::records::{self, KeySchedule, Opener, Sealer};
use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{CommonState, Error, ExtractedSecrets, SupportedCipherSuite};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket's error.
    #[error("{0}")]
    Io(io::Error),
    /// One side does not accept the other.
    #[error("{0}")]
    Tls(#[from] Error),
    /// The peer went away.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer took too long.
    #[error("no handshake within {0:?}")]
    Slow(Duration),
}

/// One side of a handshake.
pub trait Side: Sized {
    /// Which of them, in rustls' words.
    type Data;

    /// The next step with what has come.
    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What is known of the peer.
    fn common(&self) -> &CommonState;

    /// The keys, and what makes the next ones.
    ///
    /// # Errors
    /// The handshake is not over.
    fn into_keys(
        self,
    ) -> Result<(ExtractedSecrets, SupportedCipherSuite, Box<dyn KeySchedule>), Error>;
}

/// What is left of a handshake.
pub struct Finished {
    /// For what comes.
    pub opener: Opener,
    /// For what is sent.
    pub sealer: Sealer,
    /// Data that came with the end of the handshake.
    pub early: Vec<u8>,
    /// What was read of the first record after it: so many bytes at the beginning of `incoming`.
    pub unread: usize,
}

/// Runs a handshake; `check` sees the state at its end, before anything is exchanged. What comes is read
/// into `incoming`, which must have room for a record.
///
/// # Errors
/// [`HandshakeError`], of which the peer has been told by an alert, and those of `check`.
pub fn run<S: Side, E: From<HandshakeError>>(
    mut side: S,
    socket: &TcpStream,
    incoming: &mut [u8],
    patience: Duration,
    check: impl FnOnce(&CommonState) -> Result<(), E>,
) -> Result<Finished, E> {
    let deadline = Instant::now() + patience;
    let read = |into: &mut [u8]| read_until(deadline, socket, into);
    let (early, unread) =
        exchange(&mut side, incoming, read, socket).map_err(|error| error.within(patience))?;
    check(side.common())?;
    let (secrets, suite, schedule) = side.into_keys().map_err(HandshakeError::from)?;
    let (opener, sealer) =
        records::halves(suite, secrets, schedule).map_err(HandshakeError::from)?;
    Ok(Finished { opener, sealer, early, unread })
}

/// What to do after a step.
enum Next {
    Step,
    Read,
    Finish,
    Fail(Error),
}

/// Takes steps until data may be sent; gives data that came, and how much of `incoming` is unread.
fn exchange<S: Side>(
    side: &mut S,
    incoming: &mut [u8],
    read: impl Fn(&mut [u8]) -> Result<usize, HandshakeError>,
    mut socket: &TcpStream,
) -> Result<(Vec<u8>, usize), HandshakeError> {
    let (mut outgoing, mut early, mut end) = (Vec::new(), Vec::new(), 0);
    loop {
        let UnbufferedStatus { discard, state } = side.step(&mut incoming[..end]);
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut outgoing)?;
                Next::Step
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                socket.write_all(&outgoing).map_err(HandshakeError::Io)?;
                outgoing.clear();
                data.done();
                Next::Step
            }
            Ok(ConnectionState::ReadTraffic(mut data)) => {
                while let Some(record) = data.next_record() {
                    early.extend_from_slice(record?.payload);
                }
                Next::Step
            }
            Ok(ConnectionState::BlockedHandshake) => Next::Read,
            Ok(ConnectionState::WriteTraffic(_)) => Next::Finish,
            Ok(_) => return Err(HandshakeError::Closed),
            Err(error) => Next::Fail(error),
        };
        incoming.copy_within(discard..end, 0);
        end -= discard;
        match next {
            Next::Step => {}
            Next::Finish => return Ok((early, end)),
            Next::Read if end == incoming.len() => {
                return Err(Error::PeerSentOversizedRecord.into());
            }
            Next::Read => end += read(&mut incoming[end..])?,
            Next::Fail(error) => {
                tell(side, &mut incoming[..end], socket, outgoing);
                return Err(error.into());
            }
        }
    }
}

/// Sends the alert that tells what was wrong; the peer may be gone. What has come must still be there,
/// for rustls remembers where in it it stopped.
fn tell<S: Side>(side: &mut S, incoming: &mut [u8], mut socket: &TcpStream, mut outgoing: Vec<u8>) {
    while side.common().wants_write() {
        let UnbufferedStatus { state, .. } = side.step(incoming);
        let Ok(ConnectionState::EncodeTlsData(data)) = state else { return };
        if encode(data, &mut outgoing).is_err() {
            return;
        }
    }
    let _ = socket.write_all(&outgoing);
}

fn encode<Data>(
    mut data: EncodeTlsData<'_, Data>,
    outgoing: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    let failed = |error: EncodeError| Error::General(error.to_string());
    let start = outgoing.len();
    match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            outgoing.resize(start + required_size, 0);
            data.encode(&mut outgoing[start..]).map_err(failed)?;
        }
        encoded => drop(encoded.map_err(failed)?),
    }
    Ok(())
}

/// All of a handshake has one deadline.
fn read_until(
    deadline: Instant,
    mut socket: &TcpStream,
    into: &mut [u8],
) -> Result<usize, HandshakeError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(HandshakeError::Slow(left));
    }
    socket.set_read_timeout(Some(left)).map_err(HandshakeError::Io)?;
    match socket.read(into) {
        Ok(0) => Err(HandshakeError::Closed),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        read => read.map_err(HandshakeError::Io),
    }
}

impl HandshakeError {
    /// With a word for what sockets say when time is over or the peer is gone.
    fn within(self, patience: Duration) -> Self {
        match self {
            Self::Slow(_) => Self::Slow(patience),
            Self::Io(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Slow(patience),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
                _ => Self::Io(error),
            },
            error => error,
        }
    }
}

impl Side for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(
        self,
    ) -> Result<(ExtractedSecrets, SupportedCipherSuite, Box<dyn KeySchedule>), Error> {
        self.dangerous_into_kernel_connection().map(keys)
    }
}

impl Side for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(
        self,
    ) -> Result<(ExtractedSecrets, SupportedCipherSuite, Box<dyn KeySchedule>), Error> {
        self.dangerous_into_kernel_connection().map(keys)
    }
}

fn keys<Data: Send + 'static>(
    (secrets, schedule): (ExtractedSecrets, KernelConnection<Data>),
) -> (ExtractedSecrets, SupportedCipherSuite, Box<dyn KeySchedule>) {
    (secrets, schedule.negotiated_cipher_suite(), Box::new(schedule))
}
