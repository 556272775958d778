//! What std cannot do with a socket: wait for bytes without taking them, see that it was shut, and stop
//! listening.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Waits up to `patience` for something to read: bytes, the end, or an error to be reported.
pub fn wait_readable(socket: &impl AsFd, patience: Duration) -> bool {
    wait_readable_either(socket, socket, patience)
}

/// Waits up to `patience` until one of two descriptors has something to read.
pub fn wait_readable_either(one: &impl AsFd, other: &impl AsFd, patience: Duration) -> bool {
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let fds = [one.as_fd().as_raw_fd(), other.as_fd().as_raw_fd()];
    let mut entries = fds.map(entry);
    let timeout = libc::timespec {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_nsec: patience.subsec_nanos().into(),
    };
    // SAFETY: two entries and one timeout, all live for the call; no signal mask is given.
    let ready =
        unsafe { libc::ppoll(entries.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
    ready > 0
}

/// Whether a connection has ended in both directions, or is broken, whatever is still to be read.
pub fn is_hung_up(socket: &impl AsFd) -> bool {
    let mut entry = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one entry, live for the call.
    let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
    ready > 0 && entry.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Wakes a thread that waits in `accept`, and lets no further connection in.
///
/// # Errors
/// The descriptor is no listening socket.
pub fn stop_listening(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: shutdown takes no pointer; the descriptor is borrowed and open.
    match unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), libc::SHUT_RDWR) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn waiting_ends_with_bytes_or_with_patience() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        assert!(!wait_readable(&far, Duration::from_micros(200)));
        near.write_all(b"abc").unwrap();
        assert!(wait_readable(&far, Duration::from_secs(30)));
    }

    #[test]
    fn a_connection_is_hung_up_when_it_was_shut_even_with_bytes_to_be_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.write_all(b"abc").unwrap();
        assert!(wait_readable(&far, Duration::from_secs(30)) && !is_hung_up(&far));
        far.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(is_hung_up(&far));
    }

    #[test]
    fn a_stopped_listener_returns_from_accept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let twin = listener.try_clone().unwrap();
        let waiting = std::thread::spawn(move || twin.accept().map(|_| ()));
        stop_listening(&listener).unwrap();
        assert!(waiting.join().unwrap().is_err());
    }
}
