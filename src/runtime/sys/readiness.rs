//! Two questions to a socket that std does not ask: how much can be read, and stop listening.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes that can be read without waiting.
///
/// # Errors
/// The descriptor is no socket or is closed.
pub fn readable_bytes(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which `bytes` is; the descriptor is borrowed and open.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &mut bytes) };
    match result {
        0 => Ok(usize::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
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
    fn waiting_bytes_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        assert_eq!(readable_bytes(&far).unwrap(), 0);
        near.write_all(b"abc").unwrap();
        far.peek(&mut [0; 3]).unwrap();
        assert_eq!(readable_bytes(&far).unwrap(), 3);
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
