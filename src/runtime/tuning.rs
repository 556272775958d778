//! Socket options of data streams, one place for both sides.

use crate::runtime::sys::socket;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// Unsent bytes that the kernel may hold for a stream. Little, because what waits there when the
/// guest is paused is downtime; enough that the kernel never runs dry while a chunk is encoded.
const UNSENT_LOW_WATER_BYTES: u32 = 512 * 1024;
/// Data that stays unacknowledged so long costs the connection. A link that was down is then found
/// again by connecting anew, within a second or so; what TCP resends comes ever more seldom.
const SILENT_LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// Round trips below this stay within a site, where loss is rare and the sender's own processor is
/// what limits it. BBR's paced sending costs a third of the throughput there.
const SITE_RTT_US: u32 = 2_000;

/// Options of the sending side.
///
/// # Errors
/// The socket's error. A missing congestion control is none: the system's own is kept.
pub fn tune_sender(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(stall_timeout))?;
    choose_congestion_control(stream);
    let _ = socket::set_unsent_low_water(stream, UNSENT_LOW_WATER_BYTES);
    let _ = socket::set_user_timeout(stream, stall_timeout.min(SILENT_LINK_TIMEOUT));
    Ok(())
}

/// BBR over distance; within a site what the system has, unless that is BBR. The round trip is that
/// of the connection's handshake. Where the kernel does not take the choice, its own stays.
fn choose_congestion_control(stream: &TcpStream) {
    let within_site = socket::tcp_info(stream)
        .is_ok_and(|info| info.min_rtt_us.unwrap_or(info.rtt_us) < SITE_RTT_US);
    if !within_site {
        let _ = socket::set_congestion_control(stream, "bbr");
    } else if socket::congestion_control(stream).is_ok_and(|name| name == "bbr") {
        let _ = socket::set_congestion_control(stream, "cubic");
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
