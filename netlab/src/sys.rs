//! The raw system calls of the laboratory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Moves the calling thread into a network namespace; its later threads and children follow.
pub fn enter_network_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which the borrow keeps open, and touches no memory.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Makes `command` start inside a network namespace, with no signal blocked.
pub fn start_inside(command: &mut Command, namespace: OwnedFd) -> &mut Command {
    let prepare = move || {
        // SAFETY: a zeroed sigset_t is a valid empty set, and sigprocmask only reads it.
        check(unsafe {
            let none: libc::sigset_t = std::mem::zeroed();
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
        })?;
        // SAFETY: the closure owns the descriptor, and setns touches no memory.
        check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
    };
    // SAFETY: between fork and exec the closure only makes async-signal-safe system calls; it
    // neither allocates nor takes locks.
    unsafe { command.pre_exec(prepare) }
}

/// Opens a TUN device of the calling thread's namespace, made anew, with segmentation offload.
pub fn open_tun(name: &str) -> io::Result<File> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("name {name:?} is long")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    set_offload(&file)?;
    Ok(file)
}

/// Asks for TCP and UDP super-packets; kernels before 6.2 know only those of TCP.
fn set_offload(tun: &File) -> io::Result<()> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let set = |offload: libc::c_uint| {
        let offload = libc::c_ulong::from(offload);
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, offload) })
    };
    set(tcp | udp).or_else(|_| set(tcp)).map(drop)
}

/// Waits until one of two descriptors is readable or the time is over; tells for each.
pub fn wait_readable(fds: [BorrowedFd<'_>; 2], timeout: Option<Duration>) -> io::Result<[bool; 2]> {
    let mut polled =
        fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    });
    let time = time.as_ref().map_or(std::ptr::null(), |time| time as *const libc::timespec);
    // SAFETY: both pointers are to locals that outlive the call, and the count is the array's.
    let ready = unsafe { libc::ppoll(polled.as_mut_ptr(), 2, time, std::ptr::null()) };
    match check(ready) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(polled.map(|fd| fd.revents != 0)),
    }
}

/// Gives the calling thread precise timers and a larger share of the processor.
pub fn make_thread_punctual() {
    // SAFETY: PR_SET_TIMERSLACK takes its argument by value.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
    // SAFETY: setpriority takes its arguments by value; on Linux 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, PUNCTUAL_NICE) };
}

/// A pair of descriptors: the first becomes readable when the second is written or closed.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: pipe2 writes two descriptors into the array.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: pipe2 has just made both, and nothing else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Kills one process; that it is gone already is no error.
pub fn kill_process(pid: i32) {
    send_signal(pid, libc::SIGKILL);
}

/// Sends a signal to one process; that it is gone already is no error.
pub fn send_signal(pid: i32, signal: i32) {
    if pid > 1 {
        // SAFETY: kill takes its arguments by value.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Sends a signal to the calling thread alone.
#[cfg(test)]
pub fn send_signal_to_this_thread(signal: i32) {
    // SAFETY: raise takes its argument by value.
    unsafe { libc::raise(signal) };
}

/// Signals that a thread waits for instead of being interrupted.
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Blocks these signals for the calling thread, and for those that it starts from now on.
    pub fn block<const N: usize>(signals: [i32; N]) -> Self {
        // SAFETY: all bytes zero is a valid, empty set.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        for signal in signals {
            // SAFETY: the call only changes the local set.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: the call only reads the local set; the old mask is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        Self(set)
    }

    /// Waits for one of them.
    pub fn wait(&self) -> Option<i32> {
        let mut signal = 0;
        // SAFETY: both pointers are to values that outlive the call.
        let code = unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
        (code == 0).then_some(signal)
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Ctrl-C.
pub const INTERRUPT: i32 = libc::SIGINT;
/// What service managers send.
pub const TERMINATE: i32 = libc::SIGTERM;
const PUNCTUAL_NICE: libc::c_int = -10;
