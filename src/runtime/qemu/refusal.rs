//! How QEMU gives up a migration that it has switched to post-copy, and whose guest was never handed over.
//!
//! It is not cancelled: QEMU 7.2 shuts its connection before its threads can know why. Where one of them is
//! quick it takes that for a broken link and waits for a recovery, and the migration stays in between for
//! ever, with a guest that nobody can start. So QEMU is let write all that it has, as fast as it can, to
//! nobody; only then it hears that this was of no use, and ends by itself.

use crate::runtime::sys::readiness::wait_readable;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked whether QEMU has written all.
const TICK: Duration = Duration::from_millis(20);
/// So long QEMU may write nothing, though it has more.
const STALLED: Duration = Duration::from_secs(30);
/// Bytes read from QEMU at once.
const READ_BYTES: usize = 128 * 1024;
/// Begins the footer of a section.
const FOOTER: u8 = 0x7e;
/// Ends the stream.
const EOF: u8 = 0x00;

/// The last bytes of a stream: of one that is whole, its last section's footer and the end behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastBytes([u8; 6]);

impl LastBytes {
    /// More went by.
    pub fn feed(&mut self, bytes: &[u8]) {
        let kept = self.0.len();
        match bytes.last_chunk() {
            Some(last) => self.0 = *last,
            None => {
                self.0.rotate_left(bytes.len());
                self.0[kept - bytes.len()..].copy_from_slice(bytes);
            }
        }
    }

    /// Whether a stream could end so.
    fn is_end(self) -> bool {
        matches!(self.0, [FOOTER, _, _, _, _, EOF])
    }
}

/// The rest of a stream that nobody wants.
#[derive(Debug, Default)]
pub struct Unwanted {
    bytes: AtomicU64,
    is_whole: AtomicBool,
    is_closed: AtomicBool,
}

impl Unwanted {
    /// Reads all that still comes, on the thread of who read it before, until the connection ends.
    pub fn read(&self, mut socket: &UnixStream, mut last: LastBytes) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if !wait_readable(socket, TICK) {
                self.is_whole.store(last.is_end(), Ordering::Relaxed);
                continue;
            }
            match socket.read(&mut buffer) {
                Ok(length) if length > 0 => {
                    last.feed(&buffer[..length]);
                    self.bytes.fetch_add(length as u64, Ordering::Relaxed);
                }
                _ => break,
            }
        }
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Waits until QEMU has written all. False: it does not, or its connection has ended.
    pub fn wait_until_whole(&self) -> bool {
        let (mut seen, mut since) = (0, Instant::now());
        while !self.is_whole.load(Ordering::Relaxed) {
            let bytes = self.bytes.load(Ordering::Relaxed);
            if bytes != seen {
                (seen, since) = (bytes, Instant::now());
            }
            if self.is_closed.load(Ordering::Relaxed) || since.elapsed() > STALLED {
                return false;
            }
            std::thread::sleep(TICK);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::Shutdown;

    #[test]
    fn the_end_is_known_however_it_came() {
        let stream = [&[1, 2, 3, 0, 0][..], &[FOOTER, 0, 0, 0, 2, EOF]].concat();
        for at_once in 1..=stream.len() {
            let mut last = LastBytes::default();
            let mut fed = 0;
            for bytes in stream.chunks(at_once) {
                assert!(!last.is_end(), "{fed} by {at_once}");
                last.feed(bytes);
                fed += bytes.len();
            }
            assert!(last.is_end(), "by {at_once}");
        }
    }

    #[test]
    fn a_stream_is_whole_when_its_end_is_the_last_that_comes() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let unwanted = Unwanted::default();
        std::thread::scope(|scope| {
            let mut last = LastBytes::default();
            last.feed(&[FOOTER, 0, 0]);
            let (unwanted, far) = (&unwanted, &far);
            scope.spawn(move || unwanted.read(far, last));
            near.write_all(&vec![9; 3 << 20]).unwrap();
            assert!(!unwanted.is_whole.load(Ordering::Relaxed));
            near.write_all(&[FOOTER, 0, 0, 0, 2, EOF]).unwrap();
            assert!(unwanted.wait_until_whole());
            assert_eq!(unwanted.bytes.load(Ordering::Relaxed), (3 << 20) + 6);
            near.shutdown(Shutdown::Both).unwrap();
        });
        let unwanted = Unwanted::default();
        unwanted.read(&far, LastBytes::default());
        assert!(!unwanted.wait_until_whole(), "a connection that ended wrote all");
    }
}
