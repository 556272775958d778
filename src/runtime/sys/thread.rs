//! Threads that disturb no host process: named, and deaf to its signals.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

/// Signals that a thread raises by its own fault: blocked, they would bypass the host's crash
/// handler and kill the process silently.
const OWN_FAULTS: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// Starts a thread that blocks every signal meant for the process; Linux shows 15 bytes of `name`.
///
/// SIGPIPE is among the blocked ones, so a write to a closed socket is only ever an error.
///
/// # Errors
/// The kernel's refusal to make a thread.
pub fn spawn_named<F, T>(name: &str, body: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // The new thread inherits the mask, so there is no moment at which it could take a signal.
    let _mask = SignalMask::block()?;
    Builder::new().name(name.into()).spawn(body)
}

/// The calling thread's signal mask, put back on drop.
struct SignalMask {
    before: libc::sigset_t,
}

impl SignalMask {
    fn block() -> io::Result<Self> {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets are valid for writes; sigfillset initializes `all` before it is read,
        // and pthread_sigmask initializes `before` when it returns 0.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            for signal in OWN_FAULTS {
                libc::sigdelset(all.as_mut_ptr(), signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr()) {
                0 => Ok(Self { before: before.assume_init() }),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        }
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: `before` is an initialized signal set; the old mask is not wanted.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_line(key: &str) -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line[key.len()..].trim().to_owned()
    }

    fn blocks(mask: &str, signal: libc::c_int) -> bool {
        u64::from_str_radix(mask, 16).unwrap() >> (signal - 1) & 1 == 1
    }

    #[test]
    fn the_thread_is_named_and_blocks_signals_and_the_caller_does_not() {
        let before = status_line("SigBlk:");
        let inside = || (status_line("Name:"), status_line("SigBlk:"));
        let (name, mask) = spawn_named("dwcp-test", inside).unwrap().join().unwrap();
        assert_eq!(name, "dwcp-test");
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGPIPE, libc::SIGALRM, libc::SIGCHLD] {
            assert!(blocks(&mask, signal), "signal {signal} in {mask}");
        }
        for signal in OWN_FAULTS {
            assert!(!blocks(&mask, signal), "signal {signal} in {mask}");
        }
        assert_eq!(status_line("SigBlk:"), before);
    }
}
