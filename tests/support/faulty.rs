//! Memory and dirty log that fail, stall or panic when the test's guest is told to.

use super::Guest;
use dwcp::base::{MemoryLayout, PageBitmap};
use dwcp::migration::{Ending, GuestError, GuestSink, GuestSource, MissingPages};
use std::any::Any;
use std::sync::Arc;

type Done = Result<(), GuestError>;

/// A source whose every call first asks the guest whether it is to fail.
pub struct FaultySource(pub Box<dyn GuestSource>, pub Guest);

/// A sink whose every call first asks the guest whether it is to fail.
pub struct FaultySink(pub Box<dyn GuestSink>, pub Guest);

impl GuestSource for FaultySource {
    fn layout(&self) -> MemoryLayout {
        self.0.layout()
    }

    fn start_dirty_log(&self) -> Done {
        self.1.call("start_dirty_log")?;
        self.0.start_dirty_log()
    }

    fn fetch_dirty(&self, region: usize, log: &mut [u64]) -> Done {
        self.1.call("fetch_dirty")?;
        self.0.fetch_dirty(region, log)
    }

    fn read_pages(&self, region: usize, offset: u64, into: &mut [u8]) -> Done {
        self.1.call("read_pages")?;
        self.0.read_pages(region, offset, into)
    }

    fn mapped(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.0.mapped()
    }

    fn pause(&self) -> Done {
        self.0.pause()
    }

    fn resume(&self) -> Done {
        self.0.resume()
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        self.0.save_device_state()
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        self.0.throttle(percent)
    }

    fn finish(&self, ending: Ending) -> Done {
        self.0.finish(ending)
    }
}

impl GuestSink for FaultySink {
    fn layout(&self) -> MemoryLayout {
        self.0.layout()
    }

    fn write_pages(&self, region: usize, offset: u64, from: &[u8]) -> Done {
        self.1.call("write_pages")?;
        self.0.write_pages(region, offset, from)
    }

    fn zero_pages(&self, region: usize, offset: u64, length: u64) -> Done {
        self.1.call("zero_pages")?;
        self.0.zero_pages(region, offset, length)
    }

    fn read_pages(&self, region: usize, offset: u64, into: &mut [u8]) -> Done {
        self.1.call("read_pages")?;
        self.0.read_pages(region, offset, into)
    }

    fn receive_pages(
        &self,
        region: usize,
        offset: u64,
        length: u64,
        stream: &mut dyn std::io::Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> std::io::Result<()> {
        self.1.call("receive_pages").map_err(std::io::Error::other)?;
        self.0.receive_pages(region, offset, length, stream, inspect)
    }

    fn check_post_copy(&self) -> Done {
        self.1.call("check_post_copy")?;
        self.0.check_post_copy()
    }

    fn begin_post_copy(&self, missing: &PageBitmap) -> Result<Arc<dyn MissingPages>, GuestError> {
        self.1.call("begin_post_copy")?;
        self.1.lack(missing);
        self.0.begin_post_copy(missing)
    }

    fn load_device_state(&self, state: &[u8]) -> Done {
        self.0.load_device_state(state)
    }

    fn resume(&self) -> Done {
        self.0.resume()
    }

    fn finish(&self, ending: Ending) -> Done {
        self.0.finish(ending)
    }
}
