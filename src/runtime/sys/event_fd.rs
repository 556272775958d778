//! The one file descriptor through which a caller's event loop learns that something waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A non-blocking eventfd: readable from [`EventFd::signal`] until [`EventFd::clear`].
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one that is not readable.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call has no memory arguments.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it readable; cheap and harmless when it already is.
    pub fn signal(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the buffer is 8 readable bytes. The only failure is EAGAIN on a full counter,
        // and then it is readable as wanted.
        unsafe { libc::write(self.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable. True if it was readable.
    ///
    /// Clear first, then look for work: a signal that comes in between is not lost.
    pub fn clear(&self) -> bool {
        let mut count = [0; 8];
        // SAFETY: the buffer is 8 writable bytes. The only failure is EAGAIN: it was not readable.
        unsafe { libc::read(self.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) == 8 }
    }

    /// Waits until it is readable. False on timeout; none waits forever.
    ///
    /// # Errors
    /// The kernel's, other than an interruption by a signal.
    pub fn wait(&self, timeout: Option<std::time::Duration>) -> io::Result<bool> {
        let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
        let mut poll = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            let left_ms = deadline.map_or(-1, |deadline| {
                let left = deadline.saturating_duration_since(std::time::Instant::now());
                // Rounded up, so that the last millisecond is not spent spinning.
                i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
            });
            // SAFETY: one valid pollfd.
            match unsafe { libc::poll(&mut poll, 1, left_ms) } {
                0 => return Ok(false),
                1.. => return Ok(true),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn readable_from_signal_to_clear() {
        let event = EventFd::new().unwrap();
        assert!(!event.wait(Some(Duration::ZERO)).unwrap());
        assert!(!event.clear());
        event.signal();
        event.signal();
        assert!(event.wait(None).unwrap());
        assert!(event.clear());
        assert!(!event.clear());
        assert!(!event.wait(Some(Duration::from_millis(1))).unwrap());
    }

    #[test]
    fn a_signal_from_another_thread_wakes_the_waiter() {
        let event = std::sync::Arc::new(EventFd::new().unwrap());
        let other = event.clone();
        let thread = std::thread::spawn(move || other.signal());
        assert!(event.wait(Some(Duration::from_secs(60))).unwrap());
        thread.join().unwrap();
    }
}
