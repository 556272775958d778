//! Guests whose memory is mapped here: one source and one sink over three small parts.
//!
//! Memory, dirty log and control are independent, so that a hypervisor with callbacks, KVM's log
//! and kernel-tracked process memory share everything but the part in which they differ:
//!
//! ```text
//! MappedSource = MappedMemory + DirtyLog + SourceControl
//! MappedSink   = MappedMemory            + SinkControl
//! ```

use crate::base::{MemoryLayout, PageBitmap};
use crate::migration::guest::{Ending, GuestError, GuestSink, GuestSource, MissingPages};
use crate::runtime::sys::{MappedMemory, MissingMemory};
use std::any::Any;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

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

    fn mapped(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.memory.clone())
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

    fn mapped(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.memory.clone())
    }

    fn inspect_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> Result<(), GuestError> {
        let inspected = self.memory.inspect(region, offset_bytes, length_bytes, inspect);
        inspected.map_err(|error| GuestError::new("inspect_pages", error))
    }

    fn check_post_copy(&self) -> Result<(), GuestError> {
        let checked = MissingMemory::check(self.memory.clone());
        checked.map_err(|error| GuestError::new("check_post_copy", error))
    }

    fn begin_post_copy(&self, missing: &PageBitmap) -> Result<Arc<dyn MissingPages>, GuestError> {
        let failed = |error| GuestError::new("begin_post_copy", error);
        let memory = MissingMemory::begin(self.memory.clone()).map_err(failed)?;
        let pages = MappedPages { memory, layout: self.memory.layout().clone() };
        for run in missing.runs() {
            for range in pages.layout.ranges(run) {
                let (offset, length) = (range.offset_bytes, range.length_bytes);
                pages.memory.discard(range.region, offset, length).map_err(failed)?;
            }
        }
        Ok(Arc::new(pages))
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

/// The missing pages of a guest whose memory is mapped.
struct MappedPages {
    memory: MissingMemory,
    layout: MemoryLayout,
}

impl MappedPages {
    fn check(&self, region: usize, offset_bytes: u64, length_bytes: u64) -> Result<(), GuestError> {
        let checked = self.memory.memory().check_range(region, offset_bytes, length_bytes);
        checked.map_err(|error| GuestError::new("place", error))
    }
}

impl MissingPages for MappedPages {
    fn place(&self, region: usize, offset_bytes: u64, from: &[u8]) -> Result<(), GuestError> {
        self.check(region, offset_bytes, from.len() as u64)?;
        let placed = self.memory.place(region, offset_bytes, from);
        placed.map_err(|error| GuestError::new("place", error))
    }

    fn place_zero(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), GuestError> {
        self.check(region, offset_bytes, length_bytes)?;
        let placed = self.memory.place_zero(region, offset_bytes, length_bytes);
        placed.map_err(|error| GuestError::new("place_zero", error))
    }

    fn wait_for_faults(
        &self,
        faults: &mut Vec<u64>,
        most: usize,
        timeout: Duration,
    ) -> Result<(), GuestError> {
        let waited = self.memory.wait_for_faults(faults, most, timeout);
        waited.map_err(|error| GuestError::new("wait_for_faults", error))
    }

    fn wake(&self) {
        self.memory.wake();
    }

    fn release(&self) {
        self.memory.release();
    }

    fn abandon(&self) {
        self.memory.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RegionLayout;
    use crate::runtime::sys::Allocation;
    use std::sync::Mutex;

    /// Writes down every call; the calls named in `failing` fail.
    #[derive(Clone, Default)]
    struct Recorder {
        calls: Arc<Mutex<Vec<String>>>,
        failing: &'static [&'static str],
    }

    impl Recorder {
        fn call(&self, name: &'static str, detail: &str) -> Result<(), GuestError> {
            self.calls.lock().unwrap().push(format!("{name}{detail}"));
            let failing = self.failing.contains(&name);
            if failing { Err(GuestError::new(name, "as asked")) } else { Ok(()) }
        }
    }

    impl DirtyLog for Recorder {
        fn start(&self) -> Result<(), GuestError> {
            self.call("log start", "")
        }

        fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
            self.call("log fetch", &format!(" {region} into {}", log.len()))
        }

        fn stop(&self) -> Result<(), GuestError> {
            self.call("log stop", "")
        }
    }

    impl SourceControl for Recorder {
        fn pause(&self) -> Result<(), GuestError> {
            self.call("pause", "")
        }

        fn resume(&self) -> Result<(), GuestError> {
            self.call("resume", "")
        }

        fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
            self.call("save", "").map(|()| vec![1, 2])
        }

        fn finish(&self, ending: Ending) -> Result<(), GuestError> {
            self.call("finish", &format!(" {ending:?}"))
        }
    }

    fn source(failing: &'static [&'static str]) -> (MappedSource, Recorder) {
        let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: 65 * 4096 };
        let layout = MemoryLayout::new(4096, vec![region]).unwrap();
        let memory = Arc::new(MappedMemory::allocate(layout, Allocation::default()).unwrap());
        let recorder = Recorder { failing, ..Recorder::default() };
        let (log, control) = (Box::new(recorder.clone()), Box::new(recorder.clone()));
        (MappedSource::new(memory, log, control), recorder)
    }

    #[test]
    fn each_call_reaches_its_part() {
        let (source, recorder) = source(&[]);
        source.start_dirty_log().unwrap();
        source.fetch_dirty(0, &mut [0; 2]).unwrap();
        assert!(!source.throttle(50).unwrap());
        source.pause().unwrap();
        assert_eq!(source.save_device_state().unwrap(), [1, 2]);
        source.resume().unwrap();
        source.finish(Ending::Keep).unwrap();
        let calls = recorder.calls.lock().unwrap().join(", ");
        assert_eq!(
            calls,
            "log start, log fetch 0 into 2, pause, save, resume, log stop, finish Keep"
        );
    }

    #[test]
    fn a_log_of_the_wrong_shape_never_reaches_the_hypervisor() {
        let (source, recorder) = source(&[]);
        for (region, words, text) in [(0, 1, "1 words for the 65 pages"), (7, 2, "no region 7")] {
            let error = source.fetch_dirty(region, &mut vec![0; words]).unwrap_err();
            assert!(error.text.contains(text), "{error}");
        }
        assert!(recorder.calls.lock().unwrap().is_empty());
    }

    #[test]
    fn the_hypervisor_hears_the_ending_even_if_the_log_cannot_be_stopped() {
        let (source, recorder) = source(&["log stop"]);
        assert_eq!(source.finish(Ending::Discard).unwrap_err().call, "log stop");
        assert_eq!(*recorder.calls.lock().unwrap(), ["log stop", "finish Discard"]);
    }
}
