//! Guests whose memory is mapped here: one source and one sink over three small parts.
//!
//! Memory, dirty log and control are independent, so that a hypervisor with callbacks, KVM's log
//! and kernel-tracked process memory share everything but the part in which they differ:
//!
//! ```text
//! MappedSource = MappedMemory + DirtyLog + SourceControl
//! MappedSink   = MappedMemory            + SinkControl
//! ```

use crate::base::MemoryLayout;
use crate::migration::guest::{Ending, GuestError, GuestSink, GuestSource};
use crate::runtime::sys::MappedMemory;
use std::io::{self, Read};
use std::sync::Arc;

/// Who wrote which pages. The calls come one at a time; a log can be started again after a stop.
pub trait DirtyLog: Send + Sync {
    /// Begins to log: every write from now on is reported by some later [`Self::fetch`].
    ///
    /// # Errors
    /// Whatever keeps the log from working; nothing is logged then.
    fn start(&self) -> Result<(), GuestError>;

    /// Takes the pages written since the last call; see [`GuestSource::fetch_dirty`].
    ///
    /// # Errors
    /// Whatever the log reports.
    fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError>;

    /// Ends logging. Also called when it was never started.
    ///
    /// # Errors
    /// Whatever the log reports.
    fn stop(&self) -> Result<(), GuestError>;
}

/// What only the hypervisor can do for a guest that leaves; see [`GuestSource`] for each call.
#[allow(clippy::missing_errors_doc, reason = "all of them: whatever the hypervisor reports")]
pub trait SourceControl: Send + Sync {
    /// Stops the guest; on return nothing writes its memory.
    fn pause(&self) -> Result<(), GuestError>;

    /// Lets a paused guest go on.
    fn resume(&self) -> Result<(), GuestError>;

    /// The state of CPUs and devices of the paused guest.
    fn save_device_state(&self) -> Result<Vec<u8>, GuestError>;

    /// Holds the guest back for `percent` of its time. False, the default: it cannot.
    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        let _ = percent;
        Ok(false)
    }

    /// The last call of a migration; the dirty log has been stopped.
    fn finish(&self, ending: Ending) -> Result<(), GuestError>;
}

/// What only the hypervisor can do for a guest that arrives; see [`GuestSink`] for each call.
#[allow(clippy::missing_errors_doc, reason = "all of them: whatever the hypervisor reports")]
pub trait SinkControl: Send + Sync {
    /// Restores CPUs and devices; the guest stays stopped.
    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError>;

    /// Starts the guest.
    fn resume(&self) -> Result<(), GuestError>;

    /// The last call of a migration.
    fn finish(&self, ending: Ending) -> Result<(), GuestError>;
}

/// A running guest with mapped memory.
pub struct MappedSource {
    memory: Arc<MappedMemory>,
    log: Box<dyn DirtyLog>,
    control: Box<dyn SourceControl>,
}

/// A stopped guest with mapped memory, to be filled.
pub struct MappedSink {
    memory: Arc<MappedMemory>,
    control: Box<dyn SinkControl>,
}

impl MappedSource {
    /// Puts the parts together.
    pub fn new(
        memory: Arc<MappedMemory>,
        log: Box<dyn DirtyLog>,
        control: Box<dyn SourceControl>,
    ) -> Self {
        Self { memory, log, control }
    }
}

impl MappedSink {
    /// Puts the parts together.
    pub fn new(memory: Arc<MappedMemory>, control: Box<dyn SinkControl>) -> Self {
        Self { memory, control }
    }
}

impl GuestSource for MappedSource {
    fn layout(&self) -> MemoryLayout {
        self.memory.layout().clone()
    }

    fn start_dirty_log(&self) -> Result<(), GuestError> {
        self.log.start()
    }

    fn fetch_dirty(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        let layout = self.memory.layout();
        let Some(declared) = layout.regions().get(region) else {
            let text =
                format!("there is no region {region}; the guest has {}", layout.regions().len());
            return Err(GuestError::new("fetch_dirty", text));
        };
        let pages = declared.length_bytes / u64::from(layout.page_bytes());
        if log.len() as u64 != pages.div_ceil(64) {
            let text = format!("{} words for the {pages} pages of region {region}", log.len());
            return Err(GuestError::new("fetch_dirty", text));
        }
        self.log.fetch(region, log)
    }

    fn read_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), GuestError> {
        let read = self.memory.read(region, offset_bytes, into);
        read.map_err(|error| GuestError::new("read_pages", error))
    }

    fn pause(&self) -> Result<(), GuestError> {
        self.control.pause()
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.control.resume()
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        self.control.save_device_state()
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        self.control.throttle(percent)
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        // The hypervisor must hear who has the guest even if the log cannot be stopped.
        let stopped = self.log.stop();
        self.control.finish(ending).and(stopped)
    }
}

impl GuestSink for MappedSink {
    fn layout(&self) -> MemoryLayout {
        self.memory.layout().clone()
    }

    fn write_pages(&self, region: usize, offset_bytes: u64, from: &[u8]) -> Result<(), GuestError> {
        let written = self.memory.write(region, offset_bytes, from);
        written.map_err(|error| GuestError::new("write_pages", error))
    }

    fn zero_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), GuestError> {
        let zeroed = self.memory.zero(region, offset_bytes, length_bytes);
        zeroed.map_err(|error| GuestError::new("zero_pages", error))
    }

    fn read_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), GuestError> {
        let read = self.memory.read(region, offset_bytes, into);
        read.map_err(|error| GuestError::new("read_pages", error))
    }

    fn receive_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
        stream: &mut dyn Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        self.memory.receive(region, offset_bytes, length_bytes, stream, inspect)
    }

    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        self.control.load_device_state(state)
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.control.resume()
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.control.finish(ending)
    }
}
