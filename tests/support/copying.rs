//! A sink that has what every sink must have and nothing more.

use dwcp::migration::{Ending, GuestError, GuestSink};
use std::sync::Arc;

/// Leaves all that is mapped memory's at its default.
pub struct Copying(pub Arc<dyn GuestSink>);

impl GuestSink for Copying {
    fn layout(&self) -> dwcp::base::MemoryLayout {
        self.0.layout()
    }

    fn write_pages(&self, region: usize, offset: u64, from: &[u8]) -> Result<(), GuestError> {
        self.0.write_pages(region, offset, from)
    }

    fn zero_pages(&self, region: usize, offset: u64, length: u64) -> Result<(), GuestError> {
        self.0.zero_pages(region, offset, length)
    }

    fn read_pages(&self, region: usize, offset: u64, into: &mut [u8]) -> Result<(), GuestError> {
        self.0.read_pages(region, offset, into)
    }

    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        self.0.load_device_state(state)
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.0.resume()
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.0.finish(ending)
    }
}
