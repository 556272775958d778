//! A Python object as a stopped, empty guest at the destination.

use crate::guest::Guest;
use dwcp::migration::GuestError;
use dwcp::migration::guest::Ending;
use dwcp::runtime::mapped_guest::{MappedSink, SinkControl};
use dwcp::runtime::sys::MappedMemory;
use pyo3::types::{PyBytes, PyTuple};
use std::sync::Arc;

/// Methods of `dwcp.DestinationGuest`.
pub const METHODS: &[&str] = &["load_device_state", "resume", "finish"];

/// The sink.
pub fn sink(memory: Arc<MappedMemory>, guest: &Arc<Guest>) -> MappedSink {
    MappedSink::new(memory, Box::new(Control(guest.clone())))
}

struct Control(Arc<Guest>);

impl SinkControl for Control {
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
