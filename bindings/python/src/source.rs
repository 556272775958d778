//! A Python object as a running guest at the source, with its own dirty log or the kernel's.

use crate::guest::Guest;
use dwcp::migration::GuestError;
use dwcp::migration::guest::Ending;
use dwcp::runtime::mapped_guest::{DirtyLog, MappedSource, SourceControl};
use dwcp::runtime::process_memory::process_memory_source;
use dwcp::runtime::sys::MappedMemory;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::sync::Arc;

/// Methods of `dwcp.ProcessMemoryGuest`.
pub const CONTROL_METHODS: &[&str] =
    &["pause", "resume", "save_device_state", "throttle", "finish"];

/// What `dwcp.SourceGuest` has besides.
pub const LOG_METHODS: &[&str] = &["start_dirty_log", "fetch_dirty"];

/// A source whose dirty log is the Python object's.
pub fn logged(memory: Arc<MappedMemory>, guest: &Arc<Guest>) -> MappedSource {
    let log = Log { guest: guest.clone(), memory: memory.clone() };
    MappedSource::new(memory, Box::new(log), Box::new(Control(guest.clone())))
}

/// A source whose writes the kernel tracks.
pub fn tracked(memory: Arc<MappedMemory>, guest: &Arc<Guest>) -> MappedSource {
    process_memory_source(memory, Box::new(Control(guest.clone())))
}

struct Control(Arc<Guest>);

struct Log {
    guest: Arc<Guest>,
    memory: Arc<MappedMemory>,
}

impl SourceControl for Control {
    fn pause(&self) -> Result<(), GuestError> {
        self.0.signal("pause")
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.0.signal("resume")
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        self.0.call("save_device_state", |py| Ok(PyTuple::empty(py)), |result| bytes(&result))
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        let read = |result: Bound<'_, PyAny>| {
            result.extract::<bool>().map_err(|_| wrong_type(&result, "a bool"))
        };
        self.0.call("throttle", |py| PyTuple::new(py, [percent]), read)
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.0.finish(ending)
    }
}

impl DirtyLog for Log {
    fn start(&self) -> Result<(), GuestError> {
        self.guest.signal("start_dirty_log")
    }

    fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        let pages = self.memory.layout().pages_of(region);
        let needed = (pages.end - pages.start).div_ceil(8) as usize;
        self.guest.call(
            "fetch_dirty",
            |py| PyTuple::new(py, [region]),
            |result| copy_bitmap(&result, needed, log),
        )
    }

    fn stop(&self) -> Result<(), GuestError> {
        // A guest written in Python learns this from finish().
        Ok(())
    }
}

/// Copies a bitmap, lowest bit first, into 64-bit words; trailing bytes up to a word are allowed.
fn copy_bitmap(result: &Bound<'_, PyAny>, needed: usize, log: &mut [u64]) -> PyResult<()> {
    let bitmap = bytes(result)?;
    if bitmap.len() < needed || bitmap.len() > needed.next_multiple_of(8) {
        let text = format!("the bitmap has {} bytes; it must have {needed}", bitmap.len());
        return Err(PyValueError::new_err(text));
    }
    for (word, chunk) in log.iter_mut().zip(bitmap.chunks(8)) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(padded);
    }
    Ok(())
}

fn bytes(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let buffer = PyBuffer::<u8>::get(object).map_err(|_| wrong_type(object, "bytes-like"))?;
    buffer.to_vec(object.py())
}

fn wrong_type(object: &Bound<'_, PyAny>, wanted: &str) -> PyErr {
    PyTypeError::new_err(format!("returned {}, not {wanted}", object.get_type()))
}
