//! Connections to and from v1 peers: never to public addresses, and no write or read without an end.

use super::V1Error;
use crate::base::address::is_public;
use crate::runtime::dial;
use crate::runtime::sys::socket::{self, unacknowledged_bytes};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// v1's own keepalive.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 3;
/// How often the send queue is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// A peer cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It must not be.
    #[error(transparent)]
    Refused(#[from] V1Error),
    /// It does not answer.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A read that came to an end before the bytes did.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer hung up, so many bytes into it.
    #[error("it hung up {0} bytes into it")]
    Cut(usize),
    /// The time is over, so many bytes into it.
    #[error("{0} bytes of it came within {1:?}")]
    Late(usize, Duration),
    /// The connection broke.
    #[error("{0}")]
    Io(io::Error),
}

/// Refuses a peer that is dialed by a public address; names are looked at once they are known.
///
/// # Errors
/// [`V1Error::Public`].
pub fn check_literal(to: &str) -> Result<(), V1Error> {
    to.parse::<SocketAddr>().map_or(Ok(()), check_peer)
}

/// Refuses a public address.
///
/// # Errors
/// [`V1Error::Public`].
pub fn check_peer(peer: SocketAddr) -> Result<(), V1Error> {
    if is_public(peer.ip()) { Err(V1Error::Public(peer.ip())) } else { Ok(()) }
}

/// Connects to the first of a name's addresses that answers; all must be local.
///
/// # Errors
/// A public address among them, or the last address's error.
pub fn connect(to: &str) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<_> = to.to_socket_addrs()?.collect();
    addresses.iter().try_for_each(|address| check_peer(*address))?;
    let connect = |to| TcpStream::connect_timeout(&to, dial::CONNECT_TIMEOUT);
    let connected = dial::connect_first(addresses.into_iter(), to, &connect)?;
    // The way there may lead over a public address of ours.
    check_peer(connected.local_addr()?)?;
    Ok(connected)
}

/// Options of either end, as v1 sets them.
///
/// # Errors
/// The socket's error.
pub fn tune(connected: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    connected.set_nodelay(true)?;
    let _ = socket::set_keepalive(connected, KEEPALIVE, KEEPALIVE, KEEPALIVE_PROBES);
    let _ = socket::set_user_timeout(connected, stall_timeout);
    Ok(())
}

/// Writes all bytes within a time.
///
/// # Errors
/// The kernel has taken fewer.
pub fn write_within(mut to: &TcpStream, bytes: &[u8], timeout: Duration) -> io::Result<()> {
    let (deadline, mut written) = (Instant::now() + timeout, 0);
    while written < bytes.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let step = match left.is_zero() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => to.set_write_timeout(Some(left)).and_then(|()| to.write(&bytes[written..])),
        };
        match step {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until a buffer is full, which must be within a time.
///
/// # Errors
/// [`ReadError`]; nothing at all before the peer hung up is `Cut(0)`.
pub fn read_within(
    mut from: &TcpStream,
    into: &mut [u8],
    timeout: Duration,
) -> Result<(), ReadError> {
    let (deadline, mut read) = (Instant::now() + timeout, 0);
    while read < into.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReadError::Late(read, timeout));
        }
        let step = from.set_read_timeout(Some(left)).and_then(|()| from.read(&mut into[read..]));
        match step {
            Ok(0) => return Err(ReadError::Cut(read)),
            Ok(count) => read += count,
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    return Err(ReadError::Late(read, timeout));
                }
                _ => return Err(ReadError::Io(error)),
            },
        }
    }
    Ok(())
}

/// Waits until the peer's kernel has everything that was written.
///
/// # Errors
/// It does not take more within the timeout, or has gone.
pub fn wait_delivered(
    connected: &TcpStream,
    timeout: Duration,
    is_cancelled: &dyn Fn() -> bool,
) -> io::Result<()> {
    let (mut left, mut moved) = (u32::MAX, Instant::now());
    loop {
        if let Some(error) = connected.take_error()? {
            return Err(error);
        }
        match unacknowledged_bytes(connected).map_err(|error| error.source)? {
            0 => return Ok(()),
            queued if queued < left => (left, moved) = (queued, Instant::now()),
            _ if moved.elapsed() >= timeout => return Err(io::ErrorKind::TimedOut.into()),
            _ if is_cancelled() => return Err(io::ErrorKind::Interrupted.into()),
            _ => {}
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether the peer has hung up; what it says is passed over, as nothing is expected from it.
pub fn has_hung_up(mut connected: &TcpStream, timeout: Duration) -> io::Result<bool> {
    connected.set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
    let deadline = Instant::now() + timeout;
    loop {
        match connected.read(&mut [0; 256]) {
            Ok(0) => return Ok(true),
            Ok(_) if Instant::now() >= deadline => return Ok(false),
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(false),
                _ => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sys::socket::{set_receive_buffer, set_send_buffer};
    use std::net::TcpListener;

    const SOON: Duration = Duration::from_millis(50);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_receive_buffer(&listener, 4096).unwrap();
        let near = connect(&listener.local_addr().unwrap().to_string()).unwrap();
        set_send_buffer(&near, 4096).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn a_read_tells_how_far_it_came() {
        let (near, far) = pair();
        let mut bytes = [0; 4];
        assert!(matches!(read_within(&far, &mut bytes, SOON), Err(ReadError::Late(0, _))));
        write_within(&near, &[1, 2], SOON).unwrap();
        assert!(matches!(read_within(&far, &mut bytes, SOON), Err(ReadError::Late(2, _))));
        write_within(&near, &[3; 5], SOON).unwrap();
        read_within(&far, &mut bytes, SOON).unwrap();
        drop(near);
        assert!(matches!(read_within(&far, &mut bytes, SOON), Err(ReadError::Cut(1))));
        assert!(matches!(read_within(&far, &mut bytes, SOON), Err(ReadError::Cut(0))));
    }

    #[test]
    fn a_peer_that_does_not_read_holds_up_nobody_for_ever() {
        let (near, _far) = pair();
        let much = vec![0; 64 << 20];
        let late = |error: io::Error| {
            assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock));
        };
        late(write_within(&near, &much, SOON).unwrap_err());
        late(wait_delivered(&near, SOON, &|| false).unwrap_err());
        let cancelled = wait_delivered(&near, Duration::from_secs(600), &|| true).unwrap_err();
        assert_eq!(cancelled.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn words_are_no_end_and_an_end_is() {
        let (near, mut far) = pair();
        wait_delivered(&near, SOON, &|| false).unwrap();
        assert!(!has_hung_up(&near, Duration::ZERO).unwrap());
        far.write_all(b"OK").unwrap();
        assert!(!has_hung_up(&near, SOON).unwrap());
        drop(far);
        assert!(has_hung_up(&near, Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn no_name_leads_to_a_public_address() {
        let error = connect("8.8.8.8:9876").unwrap_err();
        assert!(matches!(error, ConnectError::Refused(V1Error::Public(_))), "{error}");
        assert!(check_literal("8.8.8.8:9876").is_err() && check_literal("a-name:9876").is_ok());
    }
}
