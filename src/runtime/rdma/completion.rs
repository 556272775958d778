//! Where a device says that work is done: polled for a short while, then slept on.

use super::bindings::*;
use super::device::Context;
use super::library::VerbError;
use crate::runtime::sys::readiness::{wait_readable, wait_readable_either};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Completions that are taken at a time.
pub(super) const BATCH: usize = 16;
/// Polling pays for itself below the cost of a wake-up, which is some microseconds.
const SPIN: std::ops::RangeInclusive<Duration> =
    Duration::from_micros(2)..=Duration::from_micros(64);

/// Longer than anybody waits, and short enough to be added to any time.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// A completion queue with the channel on which it can be slept on.
#[derive(Debug)]
pub(super) struct CompletionQueue {
    raw: NonNull<ibv_cq>,
    channel: Channel,
    spin: Spin,
}

// SAFETY: verbs may be called from any thread; the pointers are freed once, by drop.
unsafe impl Send for CompletionQueue {}

impl CompletionQueue {
    /// A queue for so many completions.
    pub(super) fn new(context: &Arc<Context>, room: u32) -> Result<Self, VerbError> {
        let channel = Channel::new(context)?;
        let room = i32::try_from(room).unwrap_or(i32::MAX);
        // SAFETY: context and channel are alive, and this value keeps them so.
        let raw = unsafe {
            let channel = channel.raw.as_ptr();
            context.verbs().ibv_create_cq(context.raw(), room, ptr::null_mut(), channel, 0)
        };
        let raw = context.made("ibv_create_cq", raw)?;
        Ok(Self { raw, channel, spin: Spin::default() })
    }

    pub(super) fn raw(&self) -> *mut ibv_cq {
        self.raw.as_ptr()
    }

    /// What is done by now.
    pub(super) fn poll(&self, into: &mut Vec<ibv_wc>) -> Result<usize, VerbError> {
        let mut entries = [MaybeUninit::<ibv_wc>::zeroed(); BATCH];
        let context = self.context();
        let poll = context.operations().poll_cq.ok_or_else(|| unsupported(context, "poll_cq"))?;
        // SAFETY: the queue is alive, and there is room for as many entries as is said.
        let count = unsafe { poll(self.raw(), BATCH as i32, entries.as_mut_ptr().cast()) };
        let count = usize::try_from(count)
            .map_err(|_| context.failed("ibv_poll_cq", io::Error::from_raw_os_error(libc::EIO)))?;
        // SAFETY: all entries were zeroed and some then filled; any bit pattern is a value.
        into.extend(entries.iter().take(count).map(|entry| unsafe { entry.assume_init() }));
        Ok(count)
    }

    /// Waits until something is done, something can be read of `beside`, or `patience` ends.
    pub(super) fn wait(
        &mut self,
        into: &mut Vec<ibv_wc>,
        beside: Option<BorrowedFd<'_>>,
        patience: Duration,
    ) -> Result<usize, VerbError> {
        let deadline = Instant::now() + patience.min(LONGEST_WAIT);
        loop {
            let spin_end = Instant::now() + self.spin.0;
            loop {
                let count = self.poll(into)?;
                if count > 0 {
                    self.spin.was_worth_it();
                    return Ok(count);
                }
                if Instant::now() >= spin_end.min(deadline) {
                    break;
                }
                std::hint::spin_loop();
            }
            self.spin.was_in_vain();
            self.ask_for_event()?;
            // What came before the question brings no event.
            let count = self.poll(into)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if count > 0 || left.is_zero() {
                return Ok(count);
            }
            let channel = self.channel.descriptor();
            let is_here = wait_readable_either(&channel, &beside.unwrap_or(channel), left);
            if is_here && wait_readable(&channel, Duration::ZERO) {
                self.channel.take_event()?;
            } else if is_here {
                // The event that was asked for comes later, and wakes the next wait.
                return Ok(0);
            }
        }
    }

    fn ask_for_event(&self) -> Result<(), VerbError> {
        let context = self.context();
        let ask = context.operations().req_notify_cq;
        let ask = ask.ok_or_else(|| unsupported(context, "req_notify_cq"))?;
        // SAFETY: the queue is alive.
        context.check("ibv_req_notify_cq", unsafe { ask(self.raw(), 0) })
    }

    fn context(&self) -> &Context {
        &self.channel.context
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue pair that used it is destroyed before, and every event was acknowledged.
        unsafe { self.context().verbs().ibv_destroy_cq(self.raw()) };
    }
}

/// A file descriptor that becomes readable when something is done.
#[derive(Debug)]
struct Channel {
    raw: NonNull<ibv_comp_channel>,
    context: Arc<Context>,
}

impl Channel {
    fn new(context: &Arc<Context>) -> Result<Self, VerbError> {
        // SAFETY: the context is open, and the channel holds it so.
        let raw = unsafe { context.verbs().ibv_create_comp_channel(context.raw()) };
        let raw = context.made("ibv_create_comp_channel", raw)?;
        Ok(Self { raw, context: context.clone() })
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel is alive as long as the borrow, and keeps its descriptor open.
        unsafe { BorrowedFd::borrow_raw(self.raw.as_ref().fd) }
    }

    /// Takes an event that waits, and says so: a queue is not destroyed before that.
    fn take_event(&self) -> Result<(), VerbError> {
        let (mut queue, mut cookie) = (ptr::null_mut(), ptr::null_mut());
        let verbs = self.context.verbs();
        // SAFETY: the channel is alive; there is room for both answers.
        let code =
            unsafe { verbs.ibv_get_cq_event(self.raw.as_ptr(), &raw mut queue, &raw mut cookie) };
        self.context.check("ibv_get_cq_event", code)?;
        // SAFETY: the event is of a queue of this channel, which is alive.
        unsafe { verbs.ibv_ack_cq_events(queue, 1) };
        Ok(())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: its queue is destroyed before: that drop comes first.
        unsafe { self.context.verbs().ibv_destroy_comp_channel(self.raw.as_ptr()) };
    }
}

pub(super) fn unsupported(context: &Context, call: &'static str) -> VerbError {
    context.failed(call, io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// For how long to poll before sleeping: longer where polling finds something, shorter where not.
#[derive(Debug)]
struct Spin(Duration);

impl Default for Spin {
    fn default() -> Self {
        Self(*SPIN.start())
    }
}

impl Spin {
    fn was_worth_it(&mut self) {
        self.0 = (self.0 * 2).min(*SPIN.end());
    }

    fn was_in_vain(&mut self) {
        self.0 = (self.0 / 2).max(*SPIN.start());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_adapts_within_its_bounds() {
        let mut spin = Spin::default();
        (0..20).for_each(|_| spin.was_worth_it());
        assert_eq!(spin.0, *SPIN.end());
        spin.was_in_vain();
        assert_eq!(spin.0, *SPIN.end() / 2);
        (0..20).for_each(|_| spin.was_in_vain());
        assert_eq!(spin.0, *SPIN.start());
    }
}
