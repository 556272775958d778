//! Guests in memory of the calling process, tracked by the kernel instead of the hypervisor.

use super::mapped_guest::{DirtyLog, MappedSource, SourceControl};
use super::sys::{DirtyTracker, MappedMemory};
use crate::migration::GuestError;
use std::sync::{Arc, Mutex, PoisonError};

/// The kernel's dirty log of mapped memory; see [`super::sys::dirty_tracking`].
#[derive(Debug)]
pub struct KernelDirtyLog {
    memory: Arc<MappedMemory>,
    tracker: Mutex<Option<DirtyTracker>>,
}

/// A source whose writes the kernel tracks: the hypervisor supplies nothing but control.
///
/// Whether the kernel can is known before any migration by
/// [`probe`](super::sys::tracking_support::probe).
pub fn process_memory_source(
    memory: Arc<MappedMemory>,
    control: Box<dyn SourceControl>,
) -> MappedSource {
    MappedSource::new(memory.clone(), Box::new(KernelDirtyLog::new(memory)), control)
}

impl KernelDirtyLog {
    /// A log that is not started.
    pub fn new(memory: Arc<MappedMemory>) -> Self {
        Self { memory, tracker: Mutex::new(None) }
    }
}

impl DirtyLog for KernelDirtyLog {
    fn start(&self) -> Result<(), GuestError> {
        let mut tracker = self.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        // A log left over from a migration that was not finished would keep the memory busy.
        *tracker = None;
        let started = DirtyTracker::start(self.memory.clone());
        *tracker = Some(started.map_err(|error| GuestError::new("start_dirty_log", error))?);
        Ok(())
    }

    fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        let tracker = self.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tracker) = &*tracker else {
            return Err(GuestError::new("fetch_dirty", "the dirty log is not started"));
        };
        tracker.fetch(region, log).map_err(|error| GuestError::new("fetch_dirty", error))
    }

    fn stop(&self) -> Result<(), GuestError> {
        *self.tracker.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}
