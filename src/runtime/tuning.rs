//! Socket options of data streams, one place for both sides.

use crate::runtime::sys::socket;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// Unsent bytes that the kernel may hold for a stream. Little, because what waits there when the
/// guest is paused is downtime; enough that the kernel never runs dry while a chunk is encoded.
const UNSENT_LOW_WATER_BYTES: u32 = 512 * 1024;

/// Options of the sending side.
///
/// # Errors
/// The socket's error. A missing congestion control is none: the system's own is kept.
pub fn tune_sender(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(stall_timeout))?;
    let _ = socket::set_congestion_control(stream, "bbr");
    let _ = socket::set_unsent_low_water(stream, UNSENT_LOW_WATER_BYTES);
    let _ = socket::set_user_timeout(stream, stall_timeout);
    Ok(())
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
