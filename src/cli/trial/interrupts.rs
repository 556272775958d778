//! Whatever asks a trial to end: Ctrl-C, or a service manager.

use crate::cli::signals::{SIGINT, SIGTERM, Signal};
use std::io;

/// Both signals, caught until this is dropped.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Catches them from now on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn catch() -> io::Result<Self> {
        Ok(Self { interrupt: Signal::catch(SIGINT)?, terminate: Signal::catch(SIGTERM)? })
    }

    /// Waits until one has come once more.
    pub async fn recv(&mut self) {
        tokio::select! {
            () = self.interrupt.recv() => {}
            () = self.terminate.recv() => {}
        }
    }
}
