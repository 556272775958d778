//! Guest memory that Python owns, held through the buffer protocol.
//!
//! A held buffer cannot be resized or unmapped by its owner, so its address stays good. Whoever
//! runs the guest writes the source's memory while it is read; the library's mapped memory is
//! made for that.

use crate::error;
use dwcp::base::{MemoryLayout, RegionLayout};
use dwcp::runtime::sys::MappedMemory;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use std::sync::Arc;

/// A region as `dwcp.Node` passes it: name, buffer, guest address.
pub type RegionArgument<'py> = (String, Bound<'py, PyAny>, u64);

/// Keeps the buffers under a [`MappedMemory`] from being resized or unmapped.
pub struct Hold {
    _buffers: Vec<PyUntypedBuffer>,
}

/// Holds the buffers of all regions and maps them as one guest's memory.
///
/// The memory must not be used after the [`Hold`] is dropped.
pub fn hold(
    py: Python<'_>,
    page_bytes: u32,
    regions: Vec<RegionArgument<'_>>,
) -> PyResult<(Arc<MappedMemory>, Hold)> {
    let mut buffers = Vec::with_capacity(regions.len());
    let mut layouts = Vec::with_capacity(regions.len());
    for (name, object, guest_address) in regions {
        let buffer = writable_buffer(&name, &object)?;
        let length_bytes = buffer.len_bytes() as u64;
        layouts.push(RegionLayout { name, guest_address, length_bytes });
        buffers.push(buffer);
    }
    let refuse = |text: String| error::invalid(py, text);
    let layout = MemoryLayout::new(page_bytes, layouts);
    let layout = layout.map_err(|failure| refuse(format!("memory: {failure}")))?;
    if let Some((first, second)) = overlapping(&buffers) {
        let (first, second) = (&layout.regions()[first].name, &layout.regions()[second].name);
        return Err(refuse(format!("regions {first:?} and {second:?} share memory")));
    }
    let starts: Vec<*mut u8> = buffers.iter().map(|buffer| buffer.buf_ptr().cast()).collect();
    // SAFETY: the buffers are contiguous, writable and do not overlap, as checked above; they
    // stay mapped because they are held, and the caller drops them after the memory. Python code
    // has no Rust references into them.
    let memory = unsafe { MappedMemory::from_raw(layout, &starts) };
    let memory = memory.map_err(|failure| refuse(format!("memory: {failure}")))?;
    Ok((Arc::new(memory), Hold { _buffers: buffers }))
}

fn writable_buffer(name: &str, object: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    let py = object.py();
    let refuse = |text: String| error::invalid(py, text);
    let buffer = PyUntypedBuffer::get(object).map_err(|cause| {
        let kind = object.get_type();
        let failure = refuse(format!("region {name:?}: {kind} has no usable buffer: {cause}"));
        failure.set_cause(py, Some(cause));
        failure
    })?;
    if !buffer.is_c_contiguous() {
        return Err(refuse(format!("region {name:?}: the buffer is not contiguous")));
    }
    if buffer.readonly() {
        return Err(refuse(format!("region {name:?}: the buffer is read-only")));
    }
    Ok(buffer)
}

/// Two buffers that share bytes, by index.
fn overlapping(buffers: &[PyUntypedBuffer]) -> Option<(usize, usize)> {
    let start = |index: usize| buffers[index].buf_ptr() as usize;
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|index| start(*index));
    let overlap = |pair: &&[usize]| start(pair[0]) + buffers[pair[0]].len_bytes() > start(pair[1]);
    order.windows(2).find(overlap).map(|pair| (pair[0], pair[1]))
}
