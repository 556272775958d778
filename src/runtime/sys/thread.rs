//! Threads that disturb no host process: named, and deaf to its signals.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

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
    let builder = Builder::new().name(name.into());
    on_passing_thread(move || builder.spawn(body))?
}

/// Runs `body` on a bare thread that ends with it.
///
/// `Builder::spawn` leaves a thread-local with a destructor on the thread that calls it, and that
/// would keep `dlclose` from unmapping the library for as long as the host's thread lives.
fn on_passing_thread<F: FnOnce() -> R + Send, R: Send>(body: F) -> io::Result<R> {
    let mut errand = Errand { body: Some(body), result: None };
    let mut thread = MaybeUninit::uninit();
    // SAFETY: `run` gets the errand it is made for, which outlives the thread: it is joined here.
    let code = unsafe {
        let argument = (&raw mut errand).cast();
        match libc::pthread_create(thread.as_mut_ptr(), ptr::null(), run::<F, R>, argument) {
            0 => libc::pthread_join(thread.assume_init(), ptr::null_mut()),
            code => code,
        }
    };
    errand.result.ok_or_else(|| io::Error::from_raw_os_error(code))
}

struct Errand<F, R> {
    body: Option<F>,
    result: Option<R>,
}

extern "C" fn run<F: FnOnce() -> R, R>(argument: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `on_passing_thread` passes its errand and does not touch it before the join.
    let errand = unsafe { &mut *argument.cast::<Errand<F, R>>() };
    errand.result = errand.body.take().map(|body| body());
    ptr::null_mut()
}

/// Leaves the processor to others from now on: for work that nobody waits for.
pub fn stand_back() {
    // SAFETY: setpriority takes its arguments by value; on Linux 0 is the calling thread. Nothing
    // depends on whether the kernel agrees.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, BACKGROUND_NICE) };
}

const BACKGROUND_NICE: libc::c_int = 15;

/// Processor time that the calling thread has had; not the time in which it was put aside.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, and `time` is one.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    debug_assert_eq!(code, 0, "every thread has this clock");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Whether the thread is the calling one.
///
/// `std::thread::current` would do, but for the reason at `on_passing_thread`.
pub fn is_current<T>(thread: &JoinHandle<T>) -> bool {
    // SAFETY: two thread numbers are compared; the handle was not joined, so its own is valid.
    unsafe { libc::pthread_equal(thread.as_pthread_t(), libc::pthread_self()) != 0 }
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
    fn time_in_which_a_thread_waits_is_not_its_own() {
        let before = processor_time();
        std::thread::sleep(Duration::from_millis(50));
        let waited = processor_time() - before;
        let begun = std::time::Instant::now();
        while processor_time() - before <= 2 * waited {
            assert!(begun.elapsed() < Duration::from_secs(30), "a busy thread's time stands still");
        }
        assert!(waited < Duration::from_millis(50));
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
