//! Completions: what waits behind a node's file descriptor, and how it is reaped.

use super::codes::*;
use super::guard::{Failure, Outcome, on};
use super::node::{NodeHandle, dwcp_node};
use super::strings;
use super::structs::{self, SizedStruct};
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::Arc;

/// One thing that waited behind a node's file descriptor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_completion {
    /// sizeof(dwcp_completion); set by the caller in the first element of the array, by the library
    /// in each that it fills.
    pub struct_size: usize,
    /// A DWCP_COMPLETION_.
    pub kind: u32,
    /// DWCP_REQUEST_ or DWCP_EVENT_, by kind; 0 for an ended migration.
    pub code: u32,
    /// How a migration ended; DWCP_OK otherwise.
    pub status: dwcp_status,
    /// Region, percentage, ending, owner or phase: see the code's comment.
    pub value: u32,
    /// For a request its number, for dwcp_request_complete(); otherwise the event's sequence, for
    /// dwcp_node_events_json().
    pub id: u64,
    /// For FETCH_DIRTY the log to fill in, for LOAD_DEVICE_STATE the state to read. Valid until the
    /// request is completed or the node freed.
    pub buffer: *mut c_void,
    /// Length of buffer in bytes.
    pub buffer_bytes: usize,
    /// The migration, 32 hex digits; empty if there is none.
    pub migration: [c_char; 40],
    /// The guest's name; empty if there is none.
    pub guest: [c_char; 136],
    /// Zero.
    pub reserved: [u64; 4],
}

/// Takes up to `max` completions out of the node's queue, oldest first, and sets *count; never
/// waits. *count is 0 when none wait. Threads: shared; each completion is handed out once.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_reap(
    node: *mut dwcp_node,
    completions: *mut dwcp_completion,
    max: usize,
    count: *mut usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for completions and count, as the header says.
        unsafe { reap(node, completions, max, count) }
    })
}

/// Answers a request. status 0 is success, anything else is quoted in the migration's reason. data
/// is the device state of SAVE_DEVICE_STATE, NULL otherwise; it is copied. DWCP_ERR_NOT_FOUND for a
/// request that is not open; DWCP_ERR_TIMEOUT for one that the library gave up on: undo what was
/// done for it. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_request_complete(
    node: *mut dwcp_node,
    request: u64,
    status: i32,
    data: *const c_void,
    length_bytes: usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for data, as the header says.
        unsafe { complete(node, request, status, data, length_bytes) }
    })
}

impl dwcp_completion {
    pub(crate) const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        kind: 0,
        code: 0,
        status: DWCP_OK,
        value: 0,
        id: 0,
        buffer: ptr::null_mut(),
        buffer_bytes: 0,
        migration: [0; 40],
        guest: [0; 136],
        reserved: [0; 4],
    };
}

// SAFETY: integers, a pointer and byte arrays of whole words; the layout golden file shows no gap.
unsafe impl SizedStruct for dwcp_completion {
    const NAME: &'static str = "dwcp_completion";
    const FIRST_SIZE: usize = size_of::<Self>();

    fn reserved_is_zero(&self) -> bool {
        self.reserved == [0; 4]
    }
}

/// # Safety
/// `completions` holds `max` elements of the struct_size that the first one says.
unsafe fn reap(
    node: &NodeHandle,
    completions: *mut dwcp_completion,
    max: usize,
    count: *mut usize,
) -> Outcome {
    if count.is_null() {
        return Err(Failure::null("count"));
    }
    // SAFETY: the caller vouches for count.
    unsafe { count.write_unaligned(0) };
    if max == 0 {
        return Ok(());
    }
    if completions.is_null() {
        return Err(Failure::null("completions"));
    }
    // SAFETY: with max above 0 the caller vouches for the first element.
    let size = unsafe { structs::size_of_caller(completions)? };
    let taken = node.queue.reap(max, |index, completion| {
        // SAFETY: index is below max, and the caller vouches for max elements of this size.
        unsafe { fill(completions.cast::<u8>().add(index * size), size, completion) };
    });
    // SAFETY: the caller vouches for count.
    unsafe { count.write_unaligned(taken) };
    Ok(())
}

/// # Safety
/// `element` holds `size` bytes, at least a whole first version.
unsafe fn fill(element: *mut u8, size: usize, completion: &dwcp_completion) {
    // SAFETY: the caller vouches for `size` bytes, which are at least a whole first version.
    unsafe {
        element.cast::<usize>().write_unaligned(size);
        structs::write_element(element, size, completion);
    }
}

/// # Safety
/// `data` is NULL or holds `length_bytes`.
unsafe fn complete(
    node: &NodeHandle,
    request: u64,
    status: i32,
    data: *const c_void,
    length_bytes: usize,
) -> Outcome {
    // SAFETY: the caller vouches for data.
    let data = unsafe { strings::bytes_in("data", data, length_bytes)? };
    node.requests.complete(request, status, data)
}
