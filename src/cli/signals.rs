//! Signals as something to wait for.
//!
//! The runtime's own would do, but for what comes with it: every reactor in the process then keeps
//! two descriptors for ever, also those of the library within a host that unloads it.

pub use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use signal_hook::SigId;
use signal_hook::low_level::{pipe, unregister};
use std::io;
use std::os::unix::net::UnixStream as Socket;
use tokio::net::UnixStream;

/// One signal, caught from [`Signal::catch`] until dropped.
pub struct Signal {
    arrivals: UnixStream,
    registration: SigId,
}

impl Signal {
    /// Catches `signal` from now on.
    ///
    /// # Errors
    /// No descriptor is left, or the signal cannot be caught.
    pub fn catch(signal: i32) -> io::Result<Self> {
        let (arrivals, sender) = Socket::pair()?;
        arrivals.set_nonblocking(true)?;
        let arrivals = UnixStream::from_std(arrivals)?;
        Ok(Self { arrivals, registration: pipe::register(signal, sender)? })
    }

    /// Waits until it has come once more.
    pub async fn recv(&mut self) {
        loop {
            let _ = self.arrivals.readable().await;
            // One byte for each arrival, so that the second of two is not lost.
            if let Ok(1) = self.arrivals.try_read(&mut [0]) {
                return;
            }
        }
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        unregister(self.registration);
    }
}
