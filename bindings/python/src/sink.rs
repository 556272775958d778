//! A Python object as a stopped, empty guest at the destination.

use crate::guest::Guest;
use dwcp::base::MemoryLayout;
use dwcp::migration::guest::Ending;
use dwcp::migration::{GuestError, GuestSink};
use pyo3::types::{PyBytes, PyTuple};
use std::io::{self, Read};
use std::sync::Arc;

/// Methods of `dwcp.DestinationGuest`.
pub const METHODS: &[&str] = &["load_device_state", "resume", "finish"];

/// The adaptor.
pub struct Sink(pub Arc<Guest>);

impl GuestSink for Sink {
    fn layout(&self) -> MemoryLayout {
        self.0.memory.layout().clone()
    }

    fn write_pages(&self, region: usize, offset: u64, from: &[u8]) -> Result<(), GuestError> {
        self.0.memory.write(region, offset, from)
    }

    fn zero_pages(&self, region: usize, offset: u64, length: u64) -> Result<(), GuestError> {
        self.0.memory.zero(region, offset, length)
    }

    fn read_pages(&self, region: usize, offset: u64, into: &mut [u8]) -> Result<(), GuestError> {
        self.0.memory.read(region, offset, into)
    }

    fn receive_pages(
        &self,
        region: usize,
        offset: u64,
        length: u64,
        stream: &mut dyn Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        self.0.memory.receive((region, offset, length), stream, inspect)
    }

    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        self.0.call(
            "load_device_state",
            |py| PyTuple::new(py, [PyBytes::new(py, state)]),
            |_| Ok(()),
        )
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.0.signal("resume")
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.0.finish(ending)
    }
}
