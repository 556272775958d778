//! Whether the host's time of day is kept right by somebody.

use std::io;
use std::mem::MaybeUninit;

/// What the kernel knows of its time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Whether somebody keeps it in step.
    pub is_synchronised: bool,
    /// By how much it is wrong at most, as far as is known.
    pub most_error_us: u64,
}

/// Asks the kernel; changes nothing.
///
/// # Errors
/// A policy forbids the call.
pub fn wall_clock() -> io::Result<WallClock> {
    // SAFETY: all bytes zero is a valid timex; its `modes` of zero asks and sets nothing.
    let mut times: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel reads and writes one timex, and `times` is one.
    let state = unsafe { libc::adjtimex(&raw mut times) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_synchronised = state != libc::TIME_ERROR && times.status & libc::STA_UNSYNC == 0;
    Ok(WallClock { is_synchronised, most_error_us: times.maxerror.unsigned_abs() })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_answers() {
        let clock = super::wall_clock().unwrap();
        assert!(!clock.is_synchronised || clock.most_error_us < 60_000_000, "{clock:?}");
    }
}
