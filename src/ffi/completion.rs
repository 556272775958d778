//! Completions: what waits behind a node's file descriptor, and how it is reaped.

use super::codes::*;
use std::ffi::{c_char, c_void};

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
