//! Socket options of data streams, one place for both sides.

use crate::runtime::sys::socket::{self, SocketError};
use crate::transport::mode::{Mode, ModeEffects};
use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// Unsent bytes that the kernel may hold for a stream. Little, because what waits there when the
/// guest is paused is downtime; enough that the kernel never runs dry while a chunk is encoded.
const UNSENT_LOW_WATER_BYTES: u32 = 512 * 1024;
/// Data that stays unacknowledged so long costs the connection. A link that was down is then found
/// again by connecting anew, within a second or so; what TCP resends comes ever more seldom.
const SILENT_LINK_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of the sending side, but for [`choose_congestion_control`].
///
/// # Errors
/// The socket's error.
pub fn tune_sender(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(stall_timeout))?;
    let _ = socket::set_unsent_low_water(stream, UNSENT_LOW_WATER_BYTES);
    let _ = socket::set_user_timeout(stream, stall_timeout.min(SILENT_LINK_TIMEOUT));
    Ok(())
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

/// Options of the receiving side.
///
/// # Errors
/// The socket's error.
pub fn tune_receiver(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(stall_timeout))?;
    stream.set_read_timeout(Some(stall_timeout))?;
    let _ = socket::set_user_timeout(stream, stall_timeout);
    Ok(())
}
