//! How a hypervisor registers guests: their memory, and callbacks or none.

use super::codes::dwcp_status;
use super::guard::on_unless_in_callback;
use super::node::{NodeHandle, dwcp_node};
use super::registration::{add_destination, add_process_memory_source, add_source, attach_qemu};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// One region of guest memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_region {
    /// sizeof(dwcp_region), in every element of the array.
    pub struct_size: usize,
    /// Name that source and destination agree on, such as "ram".
    pub name: *const c_char,
    /// Where the guest sees it; compared with the other side, never used as a pointer.
    pub guest_address: u64,
    /// Length; a multiple of the page size.
    pub length_bytes: u64,
    /// Where this process has it mapped, readable and writable, until the guest's drop callback
    /// has run or dwcp_node_free() has returned. NULL in all regions: pages go through read_pages
    /// and write_pages.
    pub host: *mut c_void,
    /// Zero.
    pub reserved: [u64; 3],
}

/// Takes the device state that save_device_state hands out; valid during that callback.
pub struct dwcp_writer {
    _private: [u8; 0],
}

/// A running guest that may be migrated away.
///
/// Callbacks return 0 for success; any other number is a failure and is quoted, with the text of
/// dwcp_callback_set_error(), in the migration's reason. One callback runs at a time, except
/// read_pages, which several threads call at once. With start_dirty_log, fetch_dirty, pause, resume,
/// save_device_state, throttle and finish all NULL the guest is driven by DWCP_COMPLETION_REQUEST.
/// Otherwise start_dirty_log, fetch_dirty, pause and resume are required.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_source {
    /// sizeof(dwcp_source).
    pub struct_size: usize,
    /// The guest's memory.
    pub regions: *const dwcp_region,
    /// How many regions there are, 1 to 1024.
    pub region_count: usize,
    /// Page size of the dirty log; 0 means 4096.
    pub page_bytes: u32,
    /// Zero.
    pub flags: u32,
    /// Given to every callback.
    pub ctx: *mut c_void,
    /// Called once, when the library will not use ctx, memory or callbacks any more: soon after the
    /// guest moved away or was removed, at the latest in dwcp_node_stop() or dwcp_node_free(). Not
    /// called when the registration is refused: everything then stays the caller's.
    pub drop: Option<unsafe extern "C" fn(ctx: *mut c_void)>,
    /// Begin to log the guest's writes.
    pub start_dirty_log: Option<unsafe extern "C" fn(ctx: *mut c_void) -> i32>,
    /// Set in log one bit for each page of the region written since the last call, lowest bit
    /// first; begin anew. The log comes zeroed.
    pub fetch_dirty: Option<
        unsafe extern "C" fn(ctx: *mut c_void, region: u32, log: *mut u64, words: usize) -> i32,
    >,
    /// Stop the guest; on return no virtual CPU or device writes memory.
    pub pause: Option<unsafe extern "C" fn(ctx: *mut c_void) -> i32>,
    /// Let the paused guest go on: the migration failed before its commit point.
    pub resume: Option<unsafe extern "C" fn(ctx: *mut c_void) -> i32>,
    /// Give the state of CPUs and devices to dwcp_writer_write(). NULL: there is none.
    pub save_device_state:
        Option<unsafe extern "C" fn(ctx: *mut c_void, writer: *mut dwcp_writer) -> i32>,
    /// Hold the guest back for percent of its time, 0 for full speed. NULL, or
    /// DWCP_ERR_UNSUPPORTED: it cannot be.
    pub throttle: Option<unsafe extern "C" fn(ctx: *mut c_void, percent: u32) -> i32>,
    /// The last callback of a migration: stop logging; ending is a DWCP_ENDING_. NULL: no need.
    pub finish: Option<unsafe extern "C" fn(ctx: *mut c_void, ending: u32) -> i32>,
    /// Copy memory out; required if the regions have no host pointer. May be called outside of a
    /// migration too, when an operator asks what codecs would do to it.
    pub read_pages: Option<
        unsafe extern "C" fn(
            ctx: *mut c_void,
            region: u32,
            offset_bytes: u64,
            into: *mut c_void,
            length_bytes: usize,
        ) -> i32,
    >,
    /// Zero.
    pub reserved: [u64; 8],
}

/// A stopped, empty guest that waits for an incoming migration.
///
/// Callbacks as in dwcp_source; read_pages and write_pages run on several threads at once. With
/// load_device_state, resume and finish all NULL the guest is driven by DWCP_COMPLETION_REQUEST.
/// Otherwise resume is required.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_destination {
    /// sizeof(dwcp_destination).
    pub struct_size: usize,
    /// The guest's memory; must equal the source's but for the host pointers.
    pub regions: *const dwcp_region,
    /// How many regions there are, 1 to 1024.
    pub region_count: usize,
    /// Page size; 0 means 4096.
    pub page_bytes: u32,
    /// Zero.
    pub flags: u32,
    /// Given to every callback.
    pub ctx: *mut c_void,
    /// As in dwcp_source.
    pub drop: Option<unsafe extern "C" fn(ctx: *mut c_void)>,
    /// Restore CPUs and devices; the guest stays stopped. NULL: device state is refused.
    pub load_device_state: Option<
        unsafe extern "C" fn(ctx: *mut c_void, state: *const c_void, length_bytes: usize) -> i32,
    >,
    /// Start the guest: it belongs to this side now.
    pub resume: Option<unsafe extern "C" fn(ctx: *mut c_void) -> i32>,
    /// The last callback of a migration; ending is a DWCP_ENDING_. NULL: nothing to do.
    pub finish: Option<unsafe extern "C" fn(ctx: *mut c_void, ending: u32) -> i32>,
    /// Copy memory out; required if the regions have no host pointer.
    pub read_pages: Option<
        unsafe extern "C" fn(
            ctx: *mut c_void,
            region: u32,
            offset_bytes: u64,
            into: *mut c_void,
            length_bytes: usize,
        ) -> i32,
    >,
    /// Copy memory in; required if the regions have no host pointer.
    pub write_pages: Option<
        unsafe extern "C" fn(
            ctx: *mut c_void,
            region: u32,
            offset_bytes: u64,
            from: *const c_void,
            length_bytes: usize,
        ) -> i32,
    >,
    /// Zero.
    pub reserved: [u64; 8],
}

/// Registers a running guest, so that it can be migrated away. The registration ends after a
/// migration that moved it. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_add_source(
    node: *mut dwcp_node,
    guest: *const c_char,
    source: *const dwcp_source,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_add_source", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for guest and source, as the header says.
        unsafe { add_source(node, guest, source) }
    })
}

/// Registers a running guest whose writes the kernel tracks (userfaultfd write protection and
/// PAGEMAP_SCAN, Linux 6.7): for a hypervisor without a dirty log. start_dirty_log, fetch_dirty and
/// read_pages must be NULL, all regions need a host pointer and page_bytes is 0 or the host's page
/// size. DWCP_ERR_UNSUPPORTED where the kernel cannot; the text says why. Threads: shared, not from
/// a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_add_process_memory_source(
    node: *mut dwcp_node,
    guest: *const c_char,
    source: *const dwcp_source,
) -> dwcp_status {
    let name = "dwcp_node_add_process_memory_source";
    on_unless_in_callback(name, node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for guest and source, as the header says.
        unsafe { add_process_memory_source(node, guest, source) }
    })
}

/// Registers an empty guest: one incoming migration of that name is accepted. The registration
/// stays after a failed one and ends after a successful one. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_add_destination(
    node: *mut dwcp_node,
    guest: *const c_char,
    destination: *const dwcp_destination,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_add_destination", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for guest and destination, as the header says.
        unsafe { add_destination(node, guest, destination) }
    })
}

/// Registers the guest of an unmodified QEMU by the path of its QMP socket, which must be for this
/// node alone; sockets of migrations are made beside it. flags is 0 for a guest that runs there, or
/// DWCP_QEMU_INCOMING for a QEMU that was started with -incoming defer. A guest that has arrived
/// stays registered, as one that runs here; one that has left is not. A QEMU that is paused in
/// post-copy, since the node that carried it ended, waits for the rest of its migration instead. Asks
/// QEMU, which may take seconds if it does not answer. DWCP_ERR_CONNECT: nobody listens there;
/// DWCP_ERR_INVALID_ARGUMENT: it is no QMP socket; DWCP_ERR_BAD_STATE: QEMU waits for a guest where it
/// should run one, or the other way round. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_attach_qemu(
    node: *mut dwcp_node,
    guest: *const c_char,
    qmp_path: *const c_char,
    flags: u32,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_attach_qemu", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for guest and qmp_path, as the header says.
        unsafe { attach_qemu(node, guest, qmp_path, flags) }
    })
}
