//! When the proof is made: on a snapshot at arrival, while the guest already runs on, and again on
//! the paused guest.

use crate::guest::Guest;
use crate::options::Verify;
use crate::program::{Memory, Proof};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

/// A proof that is done, or under way in a process of its own.
pub enum Verification {
    Done(Proof),
    Snapshot { pid: libc::pid_t, result: std::io::PipeReader },
}

/// Checks a stopped guest that was just loaded: its counters must be those that it was saved with.
/// Memory is checked here and now, or on a copy-on-write snapshot (fork) that costs no downtime.
pub fn arrival(guest: &Guest, how: Verify) -> Verification {
    let (saved, now) = (guest.loaded(), guest.counters());
    let mut proof =
        Proof { holds: true, counter: now.writes, first_bad_page: -1, ..Proof::default() };
    if saved != now {
        proof.holds = false;
        proof.text = format!(
            "stopped at write {}, tick {}; memory says {}, {}",
            saved.writes, saved.ticks, now.writes, now.ticks
        );
        return Verification::Done(proof);
    }
    match how {
        Verify::Off => Verification::Done(proof),
        Verify::Paused => Verification::Done(guest.memory().prove()),
        Verify::Snapshot => {
            snapshot(guest.memory()).unwrap_or_else(|_| Verification::Done(guest.memory().prove()))
        }
    }
}

fn snapshot(memory: Memory) -> std::io::Result<Verification> {
    let (result, writer) = std::io::pipe()?;
    // SAFETY: the child only reads memory, formats one text and leaves; the C library makes its
    // allocator usable after a fork.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => prove_in_child(memory, writer),
        pid => Ok(Verification::Snapshot { pid, result }),
    }
}

/// In the child: the snapshot is its memory. It must not keep the parent's sockets open.
fn prove_in_child(memory: Memory, mut writer: std::io::PipeWriter) -> ! {
    let keep = writer.as_raw_fd() as libc::c_uint;
    // SAFETY: closes descriptors of this process, which uses none of them.
    unsafe {
        libc::close_range(0, keep.saturating_sub(1), 0);
        libc::close_range(keep + 1, libc::c_uint::MAX, 0);
    }
    let text = serde_json::to_vec(&memory.prove()).unwrap_or_default();
    let code = i32::from(writer.write_all(&text).is_err());
    // SAFETY: ends the process without running the parent's exit handlers.
    unsafe { libc::_exit(code) }
}

impl Verification {
    /// Waits for the end of the proof.
    pub fn result(self) -> Proof {
        let (pid, mut result) = match self {
            Verification::Done(proof) => return proof,
            Verification::Snapshot { pid, result } => (pid, result),
        };
        let mut text = Vec::new();
        let read = result.read_to_end(&mut text);
        // SAFETY: waits for a child that nobody else waits for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        let proof = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
        proof.unwrap_or_else(|| Proof {
            text: "the process that checks the snapshot died".into(),
            ..Proof::default()
        })
    }
}

/// Checks all of the guest's memory while it stands still.
pub fn running(guest: &Guest) -> Result<Proof, String> {
    guest.held(|| guest.memory().prove())
}
