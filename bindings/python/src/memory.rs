//! Guest memory that Python owns, held through the buffer protocol.
//!
//! A held buffer cannot be resized or unmapped by its owner, so its address stays good. Whoever
//! runs the guest writes the source's memory while it is read: it is only ever reached through
//! raw pointers, never through a reference, and a page torn by such a write is in the dirty log
//! and goes again.

use crate::error;
use dwcp::Status;
use dwcp::base::{MemoryLayout, RegionLayout};
use dwcp::migration::GuestError;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use std::io::{self, Read};

/// A region as `dwcp.Node` passes it: name, buffer, guest address.
pub type RegionArgument<'py> = (String, Bound<'py, PyAny>, u64);

/// The memory of one guest.
pub struct Memory {
    layout: MemoryLayout,
    buffers: Vec<PyUntypedBuffer>,
}

impl Memory {
    /// Holds the buffers; `writable` refuses read-only ones.
    pub fn hold(
        py: Python<'_>,
        page_bytes: u32,
        regions: Vec<RegionArgument<'_>>,
        writable: bool,
    ) -> PyResult<Self> {
        let mut buffers = Vec::with_capacity(regions.len());
        let mut layouts = Vec::with_capacity(regions.len());
        for (name, object, guest_address) in regions {
            let buffer = hold_buffer(&name, &object, writable)?;
            let length_bytes = buffer.len_bytes() as u64;
            layouts.push(RegionLayout { name, guest_address, length_bytes });
            buffers.push(buffer);
        }
        let layout = MemoryLayout::new(page_bytes, layouts).map_err(|failure| {
            error::new(py, Status::InvalidArgument, &format!("memory: {failure}"))
        })?;
        Ok(Self { layout, buffers })
    }

    /// The shape.
    pub fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    /// Copies out of the guest.
    pub fn read(&self, region: usize, offset: u64, into: &mut [u8]) -> Result<(), GuestError> {
        let from = self.locate("read_pages", region, offset, into.len())?;
        // SAFETY: `locate` checked that the range lies in the held buffer, and `into` is not part
        // of it, being exclusively borrowed from the library.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies into the guest.
    pub fn write(&self, region: usize, offset: u64, from: &[u8]) -> Result<(), GuestError> {
        let into = self.locate("write_pages", region, offset, from.len())?;
        // SAFETY: `locate` checked the range, `hold` that the buffer is writable; the guest is
        // stopped, so nobody else writes it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
        Ok(())
    }

    /// Makes a range zero, leaving pages alone that are: they may not be backed by memory yet.
    pub fn zero(&self, region: usize, offset: u64, length: u64) -> Result<(), GuestError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let start = self.locate("zero_pages", region, offset, length)?;
        // SAFETY: checked by `locate` and `hold`; the guest is stopped.
        let range = unsafe { std::slice::from_raw_parts_mut(start, length) };
        for page in range.chunks_mut(self.layout.page_bytes() as usize) {
            if page.iter().any(|byte| *byte != 0) {
                page.fill(0);
            }
        }
        Ok(())
    }

    /// Reads from a stream straight into the guest and shows what came.
    pub fn receive(
        &self,
        (region, offset, length): (usize, u64, u64),
        stream: &mut dyn Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let start =
            self.locate("receive_pages", region, offset, length).map_err(io::Error::other)?;
        // SAFETY: checked by `locate` and `hold`; the guest is stopped, and the library never
        // has two chunks in hand that cover the same page of one pass.
        let range = unsafe { std::slice::from_raw_parts_mut(start, length) };
        stream.read_exact(range)?;
        inspect(range);
        Ok(())
    }

    fn locate(
        &self,
        call: &'static str,
        region: usize,
        offset: u64,
        length: usize,
    ) -> Result<*mut u8, GuestError> {
        let outside = || {
            let text = format!("region {region}, offset {offset}, length {length}: outside memory");
            GuestError::new(call, text)
        };
        let buffer = self.buffers.get(region).ok_or_else(outside)?;
        let offset = usize::try_from(offset).map_err(|_| outside())?;
        let end = offset.checked_add(length).ok_or_else(outside)?;
        if end > buffer.len_bytes() {
            return Err(outside());
        }
        // SAFETY: `offset` lies within the one allocation that the buffer describes.
        Ok(unsafe { buffer.buf_ptr().cast::<u8>().add(offset) })
    }
}

fn hold_buffer(name: &str, object: &Bound<'_, PyAny>, writable: bool) -> PyResult<PyUntypedBuffer> {
    let py = object.py();
    let refuse = |text: String| error::new(py, Status::InvalidArgument, &text);
    let buffer = PyUntypedBuffer::get(object).map_err(|cause| {
        let kind = object.get_type();
        let failure = refuse(format!("region {name:?}: {kind} has no usable buffer: {cause}"));
        failure.set_cause(py, Some(cause));
        failure
    })?;
    if !buffer.is_c_contiguous() {
        return Err(refuse(format!("region {name:?}: the buffer is not contiguous")));
    }
    if writable && buffer.readonly() {
        return Err(refuse(format!("region {name:?}: the buffer is read-only")));
    }
    Ok(buffer)
}
