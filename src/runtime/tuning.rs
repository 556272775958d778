//! Socket options of data streams, one place for both sides.

use crate::runtime::proc_files::{setting, word};
use crate::runtime::sys::socket::{self, SocketError};
use crate::transport::StreamShape;
use crate::transport::mode::{Mode, ModeEffects};
use socket2::{Domain, SockRef};
use std::io;
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

/// Data that stays unacknowledged so long costs the connection. A link that was down is then found
/// again by connecting anew, within a second or so; what TCP resends comes ever more seldom.
const SILENT_LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is gone is noticed by a connection that has nothing to say: after this long silence, so
/// many questions, so far apart.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// Of the byte of the IP header that holds the code point, those that are not part of it.
const ECN_BITS: u32 = 2;
/// Linux' own most, where it does not say.
const USUAL_SEND_BUFFER_BYTES: u64 = 4 << 20;

/// Options of the sending side, but for [`choose_congestion_control`].
///
/// # Errors
/// The socket's error.
pub fn tune_sender(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(stall_timeout))?;
    let _ = socket::set_user_timeout(stream, stall_timeout.min(SILENT_LINK_TIMEOUT));
    keep_alive(stream);
    Ok(())
}

/// Marks what a socket sends with a code point of differentiated services.
///
/// # Errors
/// The kernel's refusal.
pub fn mark<'a, S>(stream: &'a S, dscp: u8) -> io::Result<()>
where
    SockRef<'a>: From<&'a S>,
{
    let (socket, class) = (SockRef::from(stream), u32::from(dscp) << ECN_BITS);
    match is_ipv4(&socket)? {
        true => socket.set_tos_v4(class),
        false => socket.set_tclass_v6(class),
    }
}

/// The code point that a socket marks what it sends with, as the kernel says.
///
/// # Errors
/// The kernel's refusal.
pub fn marked(stream: &TcpStream) -> io::Result<u8> {
    let socket = SockRef::from(stream);
    let class = if is_ipv4(&socket)? { socket.tos_v4()? } else { socket.tclass_v6()? };
    Ok((class >> ECN_BITS) as u8)
}

fn is_ipv4(socket: &SockRef<'_>) -> io::Result<bool> {
    Ok(socket.domain()? == Domain::IPV4)
}

/// Gives a stream another shape; `before` is what it was last told, if anything. What the kernel
/// refuses stays as it was: the stream works, only not as well.
pub fn shape(stream: &TcpStream, before: Option<&StreamShape>, after: &StreamShape) {
    if before.map(|before| before.unsent_bytes) != Some(after.unsent_bytes) {
        let _ = socket::set_unsent_low_water(stream, after.unsent_bytes);
    }
    let paced = before.and_then(|before| before.pacing_bytes_per_s);
    if paced != after.pacing_bytes_per_s {
        let _ = socket::set_max_pacing_rate(stream, after.pacing_bytes_per_s);
    }
    if before.map_or(0, |before| before.dscp) != after.dscp {
        let _ = mark(stream, after.dscp);
    }
    let buffer = before.and_then(|before| before.buffer_bytes);
    if let Some(bytes) = after.buffer_bytes.filter(|bytes| buffer.is_none_or(|was| was < *bytes)) {
        let _ = socket::set_send_buffer(stream, bytes);
    }
}

/// What a send buffer grows to by itself.
pub fn own_send_buffer_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let most = setting("net/ipv4/tcp_wmem").and_then(|sizes| sizes.last().copied());
        most.unwrap_or(USUAL_SEND_BUFFER_BYTES)
    })
}

/// The congestion control that a peer's mode asks for; the round trip is the shortest that the
/// connection has seen, at first that of its handshake. Gives the one in use afterwards.
///
/// # Errors
/// The kernel does not have it, or may not use it; its own stays.
pub fn choose_congestion_control(
    stream: &TcpStream,
    mode: Mode,
    effects: &ModeEffects,
) -> Result<String, SocketError> {
    let current = socket::congestion_control(stream)?;
    let info = socket::tcp_info(stream)?;
    let rtt_us = info.min_rtt_us.unwrap_or(info.rtt_us);
    match effects.congestion(mode, rtt_us, &current) {
        Some(wanted) => socket::set_congestion_control(stream, wanted),
        None => Ok(current),
    }
}

/// Gives a connection the congestion control that the system gives to new ones. Gives the one in use
/// afterwards.
///
/// # Errors
/// The kernel's refusal; what was in use stays.
pub fn restore_congestion_control(stream: &TcpStream) -> Result<String, SocketError> {
    let current = socket::congestion_control(stream)?;
    match word("net/ipv4/tcp_congestion_control") {
        Some(own) if own != current => socket::set_congestion_control(stream, &own),
        _ => Ok(current),
    }
}

/// Options of the receiving side.
///
/// # Errors
/// The socket's error.
pub fn tune_receiver(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(stall_timeout))?;
    stream.set_read_timeout(Some(stall_timeout))?;
    let _ = socket::set_user_timeout(stream, stall_timeout);
    keep_alive(stream);
    Ok(())
}

fn keep_alive(stream: &TcpStream) {
    let (idle, interval, probes) = KEEP_ALIVE;
    let _ = socket::set_keepalive(stream, idle, interval, probes);
}
