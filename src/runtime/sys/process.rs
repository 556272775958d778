//! Other processes, held by a descriptor that still means them when their number means another.

use super::readiness::wait_readable;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A process that somebody else started.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The one that listened where this socket was connected to.
    ///
    /// # Errors
    /// It has ended, or is in a namespace that cannot be seen into, or Linux is older than 5.3.
    pub fn behind(socket: &UnixStream) -> io::Result<Self> {
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `peer`; the descriptor is open.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut peer).cast(),
                &raw mut length,
            )
        };
        match result {
            0 => Self::numbered(peer.pid.unsigned_abs()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The one with this number now.
    ///
    /// # Errors
    /// As of [`Self::behind`].
    pub fn numbered(pid: u32) -> io::Result<Self> {
        // SAFETY: the call takes two integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match RawFd::try_from(fd) {
            // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
            Ok(fd) if fd >= 0 => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether it has ended, or does so in that time; also if its parent has not yet asked.
    pub fn ends_within(&self, patience: Duration) -> bool {
        wait_readable(&self.0, patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::process::{Command, Stdio};

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_process_has_ended_before_anybody_waits_for_it() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::numbered(child.id()).unwrap();
        assert!(!process.ends_within(Duration::from_millis(1)));
        child.kill().unwrap();
        assert!(process.ends_within(LONG));
        child.wait().unwrap();
        assert!(process.ends_within(Duration::ZERO));
    }

    #[test]
    fn the_one_behind_a_socket_is_the_one_that_listens() {
        let path = std::env::temp_dir().join(format!("dwcp-peer-{}.sock", std::process::id()));
        let _listener = UnixListener::bind(&path).unwrap();
        let socket = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!Process::behind(&socket).unwrap().ends_within(Duration::ZERO));
        assert!(Process::numbered(0).is_err());
    }
}
