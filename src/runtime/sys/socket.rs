//! What std does not offer for TCP sockets: options that are read back, and the kernel's own view
//! of a connection.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The kernel did not take a socket option.
#[derive(Debug, thiserror::Error)]
#[error("socket option {option} = {value}: {source}")]
pub struct SocketError {
    /// The option's name.
    pub option: &'static str,
    /// The value asked for; empty when reading.
    pub value: String,
    /// Why.
    pub source: io::Error,
}

/// What TCP knows about a connection. Later fields are none where the kernel is too old for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time.
    pub rtt_us: u32,
    /// Its mean deviation.
    pub rtt_variation_us: u32,
    /// Smallest round-trip time seen lately.
    pub min_rtt_us: Option<u32>,
    /// Congestion window in segments.
    pub congestion_window: u32,
    /// Segment size.
    pub segment_bytes: u32,
    /// Segments sent and not yet acknowledged.
    pub unacked_segments: u32,
    /// Segments retransmitted since the start.
    pub total_retransmits: u32,
    /// Bytes acknowledged by the peer.
    pub acked_bytes: Option<u64>,
    /// Bytes written by us and not yet sent.
    pub unsent_bytes: Option<u32>,
    /// Rate at which data was last delivered.
    pub delivery_rate_bytes_per_s: Option<u64>,
    /// Whether that rate was limited by us rather than by the path.
    pub application_limited: bool,
    /// Time during which there was something to send.
    pub busy_us: Option<u64>,
    /// Part of the busy time in which the peer's window held us back.
    pub window_limited_us: Option<u64>,
    /// Part of the busy time in which our send buffer held us back.
    pub buffer_limited_us: Option<u64>,
    /// Bytes sent, retransmissions included.
    pub sent_bytes: Option<u64>,
    /// Bytes of these that were retransmissions.
    pub retransmitted_bytes: Option<u64>,
}

/// Whether small writes leave at once.
///
/// # Errors
/// [`SocketError`].
pub fn set_nodelay(socket: &impl AsFd, on: bool) -> Result<(), SocketError> {
    set(socket, "TCP_NODELAY", libc::IPPROTO_TCP, libc::TCP_NODELAY, i32::from(on))
}

/// Chooses a congestion control and returns the one in use afterwards.
///
/// # Errors
/// [`SocketError`], `ENOENT` where the kernel does not have it; the old one then stays.
pub fn set_congestion_control(socket: &impl AsFd, name: &str) -> Result<String, SocketError> {
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_CONGESTION);
    set_bytes(socket, level, option, name.as_bytes()).map_err(|source| SocketError {
        option: "TCP_CONGESTION",
        value: name.into(),
        source,
    })?;
    congestion_control(socket)
}

/// The congestion control in use.
///
/// # Errors
/// [`SocketError`].
pub fn congestion_control(socket: &impl AsFd) -> Result<String, SocketError> {
    let mut name = [0; 16];
    let length = get_bytes(socket, libc::IPPROTO_TCP, libc::TCP_CONGESTION, &mut name)
        .map_err(|source| reading("TCP_CONGESTION", source))?;
    let text = name[..length].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Lets the socket count as writable only while fewer bytes than this wait unsent.
///
/// # Errors
/// [`SocketError`].
pub fn set_unsent_low_water(socket: &impl AsFd, bytes: u32) -> Result<(), SocketError> {
    set(socket, "TCP_NOTSENT_LOWAT", libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// Sets the send buffer and returns what the kernel made of it: twice the value, within its limits,
/// which do not bind who may administer the network.
///
/// # Errors
/// [`SocketError`].
pub fn set_send_buffer(socket: &impl AsFd, bytes: u32) -> Result<u32, SocketError> {
    let level = libc::SOL_SOCKET;
    set(socket, "SO_SNDBUFFORCE", level, libc::SO_SNDBUFFORCE, bytes)
        .or_else(|_| set(socket, "SO_SNDBUF", level, libc::SO_SNDBUF, bytes))?;
    get_u32(socket, "SO_SNDBUF", libc::SOL_SOCKET, libc::SO_SNDBUF)
}

/// Sets the receive buffer and returns what the kernel made of it (twice the value, within limits).
///
/// # Errors
/// [`SocketError`].
pub fn set_receive_buffer(socket: &impl AsFd, bytes: u32) -> Result<u32, SocketError> {
    set(socket, "SO_RCVBUF", libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    get_u32(socket, "SO_RCVBUF", libc::SOL_SOCKET, libc::SO_RCVBUF)
}

/// Caps the rate at which TCP sends; none lifts the cap.
///
/// # Errors
/// [`SocketError`].
pub fn set_max_pacing_rate(
    socket: &impl AsFd,
    bytes_per_s: Option<u64>,
) -> Result<(), SocketError> {
    // The kernel takes eight bytes since 4.20; all ones means no cap.
    let rate = bytes_per_s.unwrap_or(u64::MAX);
    set(socket, "SO_MAX_PACING_RATE", libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, rate)
}

/// Breaks the connection when sent data stays unacknowledged for so long.
///
/// # Errors
/// [`SocketError`].
pub fn set_user_timeout(socket: &impl AsFd, timeout: Duration) -> Result<(), SocketError> {
    let ms = u32::try_from(timeout.as_millis()).unwrap_or(i32::MAX as u32).min(i32::MAX as u32);
    set(socket, "TCP_USER_TIMEOUT", libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, ms)
}

/// Probes an idle connection after `idle`, then every `interval`, and breaks it after `probes`
/// unanswered ones. Times are whole seconds, at least one.
///
/// # Errors
/// [`SocketError`].
pub fn set_keepalive(
    socket: &impl AsFd,
    idle: Duration,
    interval: Duration,
    probes: u32,
) -> Result<(), SocketError> {
    let seconds = |time: Duration| u32::try_from(time.as_secs().clamp(1, 32_767)).unwrap_or(1);
    let tcp = libc::IPPROTO_TCP;
    set(socket, "TCP_KEEPIDLE", tcp, libc::TCP_KEEPIDLE, seconds(idle))?;
    set(socket, "TCP_KEEPINTVL", tcp, libc::TCP_KEEPINTVL, seconds(interval))?;
    set(socket, "TCP_KEEPCNT", tcp, libc::TCP_KEEPCNT, probes)?;
    set(socket, "SO_KEEPALIVE", libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1_u32)
}

/// Bytes in the send queue: written and not yet acknowledged by the peer's kernel.
///
/// # Errors
/// [`SocketError`].
pub fn unacknowledged_bytes(socket: &impl AsFd) -> Result<u32, SocketError> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, the same number as TIOCOUTQ, stores one int at the pointer given.
    match unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(u32::try_from(bytes).unwrap_or(0)),
        _ => Err(reading("SIOCOUTQ", io::Error::last_os_error())),
    }
}

/// The kernel's figures for a TCP connection.
///
/// # Errors
/// [`SocketError`].
pub fn tcp_info(socket: &impl AsFd) -> Result<TcpInfo, SocketError> {
    let mut bytes = [0; 512];
    let length = get_bytes(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)
        .map_err(|source| reading("TCP_INFO", source))?;
    Ok(TcpInfo::parse(&bytes[..length]))
}

impl TcpInfo {
    /// Reads `struct tcp_info`, which grows at its end from kernel to kernel, as far as it goes.
    fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            let field = bytes.get(at..at + 4)?;
            field.try_into().ok().map(u32::from_ne_bytes)
        };
        let long = |at: usize| {
            let field = bytes.get(at..at + 8)?;
            field.try_into().ok().map(u64::from_ne_bytes)
        };
        Self {
            application_limited: bytes.get(7).is_some_and(|bits| bits & 1 == 1),
            segment_bytes: word(16).unwrap_or(0),
            unacked_segments: word(24).unwrap_or(0),
            rtt_us: word(68).unwrap_or(0),
            rtt_variation_us: word(72).unwrap_or(0),
            congestion_window: word(80).unwrap_or(0),
            total_retransmits: word(100).unwrap_or(0),
            acked_bytes: long(120),
            unsent_bytes: word(144),
            min_rtt_us: word(148),
            delivery_rate_bytes_per_s: long(160),
            busy_us: long(168),
            window_limited_us: long(176),
            buffer_limited_us: long(184),
            sent_bytes: long(200),
            retransmitted_bytes: long(208),
        }
    }
}

fn set<T: Copy + ToString>(
    socket: &impl AsFd,
    name: &'static str,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> Result<(), SocketError> {
    // SAFETY: the callers pass plain integers; every byte of one is initialized and readable.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const value).cast(), size_of::<T>()) };
    set_bytes(socket, level, option, bytes).map_err(|source| SocketError {
        option: name,
        value: value.to_string(),
        source,
    })
}

fn get_u32(
    socket: &impl AsFd,
    name: &'static str,
    level: libc::c_int,
    option: libc::c_int,
) -> Result<u32, SocketError> {
    let mut bytes = [0; 4];
    get_bytes(socket, level, option, &mut bytes).map_err(|source| reading(name, source))?;
    Ok(u32::from_ne_bytes(bytes))
}

fn reading(option: &'static str, source: io::Error) -> SocketError {
    SocketError { option, value: String::new(), source }
}

fn set_bytes(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let (fd, length) = (socket.as_fd().as_raw_fd(), value.len() as libc::socklen_t);
    // SAFETY: pointer and length are those of a live slice.
    match unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn get_bytes(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut [u8],
) -> io::Result<usize> {
    let (fd, mut length) = (socket.as_fd().as_raw_fd(), value.len() as libc::socklen_t);
    // SAFETY: pointer and length are those of a live slice; the kernel writes no more than that.
    let code =
        unsafe { libc::getsockopt(fd, level, option, value.as_mut_ptr().cast(), &mut length) };
    match code {
        0 => Ok((length as usize).min(value.len())),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn options_are_taken_and_read_back() {
        let (near, _far) = pair();
        set_nodelay(&near, true).unwrap();
        assert!(near.nodelay().unwrap());
        assert_eq!(set_congestion_control(&near, "reno").unwrap(), "reno");
        set_unsent_low_water(&near, 65_536).unwrap();
        assert!(set_send_buffer(&near, 65_536).unwrap() >= 65_536);
        assert!(set_receive_buffer(&near, 65_536).unwrap() >= 65_536);
        set_max_pacing_rate(&near, Some(1_000_000)).unwrap();
        set_max_pacing_rate(&near, None).unwrap();
        set_user_timeout(&near, Duration::from_secs(30)).unwrap();
        set_keepalive(&near, Duration::from_secs(10), Duration::from_millis(1), 3).unwrap();
    }

    #[test]
    fn a_refused_option_names_itself_and_the_value() {
        let (near, _far) = pair();
        let before = congestion_control(&near).unwrap();
        let error = set_congestion_control(&near, "no-such").unwrap_err();
        assert!(error.to_string().starts_with("socket option TCP_CONGESTION = no-such: "));
        assert_eq!(congestion_control(&near).unwrap(), before);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(tcp_info(&file).unwrap_err().to_string().contains("TCP_INFO"));
    }

    #[test]
    fn figures_follow_the_data() {
        let (mut near, mut far) = pair();
        near.write_all(&[7; 100_000]).unwrap();
        far.read_exact(&mut [0; 100_000]).unwrap();
        far.write_all(&[1]).unwrap();
        near.read_exact(&mut [0]).unwrap();
        let info = tcp_info(&near).unwrap();
        assert!(info.rtt_us > 0 && info.congestion_window > 0 && info.segment_bytes > 0);
        assert_eq!(info.sent_bytes, Some(100_000));
        assert_eq!(info.acked_bytes.map(|bytes| bytes >= 100_000), Some(true), "{info:?}");
        assert_eq!(unacknowledged_bytes(&near).unwrap(), 0);
    }

    #[test]
    fn unread_data_shows_in_the_send_queue() {
        let (near, _far) = pair();
        near.set_nonblocking(true).unwrap();
        while (&near).write(&[0; 65_536]).is_ok() {}
        let queued = unacknowledged_bytes(&near).unwrap();
        let info = tcp_info(&near).unwrap();
        assert!(queued > 0);
        assert!(info.unsent_bytes.is_some_and(|unsent| unsent > 0 && unsent <= queued), "{info:?}");
    }

    #[test]
    fn an_older_kernels_shorter_struct_is_read_as_far_as_it_goes() {
        let mut bytes = [0_u8; 104];
        bytes[68..72].copy_from_slice(&1500_u32.to_ne_bytes());
        let info = TcpInfo::parse(&bytes);
        assert_eq!((info.rtt_us, info.acked_bytes, info.unsent_bytes), (1500, None, None));
        assert_eq!(TcpInfo::parse(&[]), TcpInfo::default());
    }
}
