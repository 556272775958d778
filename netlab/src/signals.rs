//! Interrupt and termination as values that a thread waits for, so that whoever holds a laboratory takes
//! it down on every way out.

use crate::sys::{self, SignalSet};

/// Both signals, kept from the process's threads.
pub struct Signals(SignalSet);

impl Signals {
    /// Keeps them from the calling thread, and from those that it starts from now on.
    pub fn block() -> Self {
        Self(SignalSet::block([sys::INTERRUPT, sys::TERMINATE]))
    }

    /// Waits for the next one; none if that is not possible.
    pub fn wait(&self) -> Option<i32> {
        self.0.wait()
    }
}

/// Sends a signal to a child that has not been waited for; that it has ended already is no error.
pub fn send(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        sys::send_signal(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_signal_that_is_sent_arrives_and_one_to_oneself_is_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        send(child.id(), sys::TERMINATE);
        assert_eq!(child.wait().unwrap().signal(), Some(sys::TERMINATE));
        let signals = Signals::block();
        sys::send_signal_to_this_thread(sys::TERMINATE);
        assert_eq!(signals.wait(), Some(sys::TERMINATE));
    }
}
