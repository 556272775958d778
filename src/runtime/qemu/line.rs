//! Lines over a unix socket, each read and write with a deadline and each line with a bound.

use crate::base::limits::MAX_QMP_LINE_BYTES;
use socket2::SockRef;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Asked for at once; an answer is rarely longer.
const READ_BYTES: usize = 16 * 1024;

/// Why there is no line.
#[derive(Debug)]
pub enum LineError {
    /// The deadline passed; what has arrived of the line is kept.
    TimedOut,
    /// The peer closed.
    Closed,
    /// The line is over [`MAX_QMP_LINE_BYTES`].
    TooLong,
    /// The socket's own error.
    Io(io::Error),
}

/// The socket with what was read from it and is not yet a line.
#[derive(Debug)]
pub struct LineStream {
    socket: UnixStream,
    received: Vec<u8>,
    /// So much of `received` has no line end.
    searched: usize,
}

impl LineStream {
    /// A connected socket from which nothing has been read.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, received: Vec::new(), searched: 0 }
    }

    /// The next line without its end.
    pub fn read(&mut self, deadline: Instant) -> Result<Vec<u8>, LineError> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(line);
            }
            if self.received.len() > MAX_QMP_LINE_BYTES {
                return Err(LineError::TooLong);
            }
            self.receive(deadline)?;
        }
    }

    /// Writes all of it. After an error part of it may have been written.
    pub fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), LineError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.socket.set_write_timeout(Some(left(deadline)?)).map_err(LineError::Io)?;
            // Without a signal: QEMU's end must not be that of a process which did not ask for it.
            match SockRef::from(&self.socket).send_with_flags(rest, libc::MSG_NOSIGNAL) {
                Ok(0) => return Err(LineError::Closed),
                Ok(written) => rest = &rest[written..],
                Err(error) => sort(error)?,
            }
        }
        Ok(())
    }

    /// Ends the conversation; what was received goes too.
    pub fn close(&mut self) {
        self.received = Vec::new();
        self.searched = 0;
        // That the peer was faster is no error.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let found = self.received[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(end) = found.map(|offset| self.searched + offset) else {
            self.searched = self.received.len();
            return None;
        };
        let mut line: Vec<u8> = self.received.drain(..=end).collect();
        self.searched = 0;
        line.pop();
        Some(line)
    }

    fn receive(&mut self, deadline: Instant) -> Result<(), LineError> {
        self.socket.set_read_timeout(Some(left(deadline)?)).map_err(LineError::Io)?;
        let mut bytes = [0; READ_BYTES];
        match self.socket.read(&mut bytes) {
            Ok(0) => Err(LineError::Closed),
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(error) => sort(error),
        }
    }
}

fn left(deadline: Instant) -> Result<Duration, LineError> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A timeout of zero would mean none.
    if left.is_zero() { Err(LineError::TimedOut) } else { Ok(left) }
}

/// An interruption or a timeout of the socket is no failure: the deadline decides.
fn sort(error: io::Error) -> Result<(), LineError> {
    match error.kind() {
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(LineError::Closed),
        _ => Err(LineError::Io(error)),
    }
}
