//! A TUN device whose packets carry a virtio_net_hdr.

use crate::{LabError, sys};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// The device; it is gone when this is dropped.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes the device in the namespace of the calling thread.
    ///
    /// # Errors
    /// The name is taken, or the caller may not.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let file = sys::open_tun(name).map_err(LabError::system(format!("TUN device {name}")))?;
        Ok(Self { file })
    }

    /// Takes the next packet that the kernel sends; none waits: `None`.
    ///
    /// # Errors
    /// The device is gone.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(into) {
            Ok(length) => Ok(Some(length)),
            Err(error) if is_transient(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the kernel a packet; false if it does not take it.
    pub fn deliver(&self, packet: &[u8]) -> bool {
        (&self.file).write(packet).is_ok()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
