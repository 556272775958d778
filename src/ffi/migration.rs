//! Migrations as C sees them: options in, progress and report out, waiting and cancelling.

use super::codes::*;
use super::conversions::{options_in, progress_out, report_out, side_code};
use super::guard::{Failure, Outcome, guard, on, on_unless_in_callback};
use super::handle::{self, Handled, Kind, Object};
use super::node::{NodeHandle, dwcp_node};
use super::queue::owner_code;
use super::strings;
use super::structs;
use crate::migration::{MigrationOptions, Report};
use crate::{Migration, Status};
use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// A migration, outgoing or incoming.
pub struct dwcp_migration {
    _private: [u8; 0],
}

/// Settings of one migration.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_migration_options {
    /// sizeof(dwcp_migration_options).
    pub struct_size: usize,
    /// Data streams, at most, 1 to 64; 0 means 8. How many there are is found out.
    pub streams: u32,
    /// A DWCP_CODEC_.
    pub codec: u32,
    /// Level of DWCP_CODEC_ZSTD.
    pub codec_level: i32,
    /// DWCP_MIGRATION_ bits.
    pub flags: u32,
    /// The guest is paused once the rest is predicted to take no longer; 0 means 300,000.
    pub max_downtime_us: u64,
    /// Give up, guest running at the source, when pre-copy takes longer; 0 means never.
    pub deadline_ms: u64,
    /// Cap on what goes on the wire, at least 65536; 0 means none.
    pub bandwidth_limit_bytes_per_s: u64,
    /// How long to go on trying to get a lost connection back; 0 means 60,000. For the first one it
    /// is 30,000 at most.
    pub reconnect_timeout_ms: u64,
    /// How long the peer may make no progress; 0 means 60,000.
    pub stall_timeout_ms: u64,
    /// Multifd channels, 0 to 16, over which QEMU hands the node a guest's pages; 0: its main stream
    /// alone. For guests of dwcp_node_attach_qemu().
    pub multifd_channels: u32,
    /// A DWCP_POST_COPY_. For guests of dwcp_node_attach_qemu() not together with multifd_channels.
    pub post_copy: u32,
    /// Zero.
    pub reserved: [u64; 7],
}

/// A migration at one instant.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_progress {
    /// sizeof(dwcp_progress), set by the caller.
    pub struct_size: usize,
    /// A DWCP_PHASE_.
    pub phase: u32,
    /// The pre-copy pass, from 1; 0 before the first.
    pub pass: u32,
    /// Connected data streams.
    pub streams: u32,
    /// Streams that were lost and made anew.
    pub reconnects: u32,
    /// How far the guest is held back.
    pub throttle_percent: u32,
    /// Zero.
    pub padding: u32,
    /// Guest memory.
    pub ram_bytes: u64,
    /// Pages of the guest.
    pub pages: u64,
    /// Pages still to be sent in this pass.
    pub remaining_pages: u64,
    /// Bytes sent so far.
    pub wire_bytes: u64,
    /// Measured speed of the link, 0 while unknown.
    pub bandwidth_bytes_per_s: u64,
    /// How fast the guest writes, 0 while unknown.
    pub dirty_rate_bytes_per_s: u64,
    /// Downtime if the guest were paused now, 0 while unknown.
    pub predicted_downtime_us: u64,
    /// Time since the start.
    pub elapsed_us: u64,
    /// Of the bytes sent, those that went by RDMA.
    pub rdma_bytes: u64,
    /// Zero.
    pub reserved: [u64; 7],
}

/// A finished migration; dwcp_migration_report_json() tells more.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_report {
    /// sizeof(dwcp_report), set by the caller.
    pub struct_size: usize,
    /// How it ended.
    pub status: dwcp_status,
    /// A DWCP_OWNER_.
    pub owner: u32,
    /// A DWCP_SIDE_: which side wrote this report.
    pub side: u32,
    /// Passes, the paused one included.
    pub passes: u32,
    /// Streams that were lost and made anew.
    pub reconnects: u32,
    /// Zero.
    pub padding: u32,
    /// Whole duration.
    pub total_us: u64,
    /// How long the guest stood still.
    pub downtime_us: u64,
    /// Guest memory.
    pub ram_bytes: u64,
    /// Bytes on the wire in the data direction, headers included.
    pub wire_bytes: u64,
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Pages sent as a reference to an equal page.
    pub duplicate_pages: u64,
    /// Pages sent as a difference.
    pub delta_pages: u64,
    /// Pages sent whole.
    pub full_pages: u64,
    /// Digest of the whole image, 32 hex digits; empty if it was not reached.
    pub digest: [c_char; 40],
    /// Pages that the destination lacked at a switch to post-copy; 0 if there was none.
    pub missing_pages: u64,
    /// Of these, pages that never came: 0, unless the guest was given up.
    pub lost_pages: u64,
    /// Pages that the guest waited for; at the source, pages that it was asked for.
    pub faults: u64,
    /// How long the guest waited for half of them. Only at the destination.
    pub fault_p50_us: u64,
    /// For all but a hundredth of them.
    pub fault_p99_us: u64,
    /// For the slowest.
    pub fault_max_us: u64,
    /// Of the bytes on the wire, those that went by RDMA.
    pub rdma_bytes: u64,
    /// Zero.
    pub reserved: [u64; 1],
}

/// Starts to move a guest to the node at `to` ("HOST:PORT"), or to the v1 peer that is named by
/// "v1://HOST:PORT", which acknowledges nothing: such a migration ends with DWCP_ERR_IN_DOUBT, the guest
/// staying paused. Returns at once. options may be NULL.
/// Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_migrate(
    node: *mut dwcp_node,
    guest: *const c_char,
    to: *const c_char,
    options: *const dwcp_migration_options,
    migration: *mut *mut dwcp_migration,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_migrate", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for the pointers, as the header says.
        unsafe {
            clear_out(migration)?;
            let guest = strings::text_in("guest", guest)?;
            let to = strings::text_in("to", to)?;
            let started = node.node.migrate(&guest, &to, options_in(options)?)?;
            hand_out(started, migration)
        }
    })
}

/// Opens a handle on a migration of this node, outgoing or incoming, by its id (32 hex digits).
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_migration(
    node: *mut dwcp_node,
    id: *const c_char,
    migration: *mut *mut dwcp_migration,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for the pointers, as the header says.
        unsafe {
            clear_out(migration)?;
            let id = strings::text_in("id", id)?;
            let id = id.parse().map_err(|error| Failure::invalid(format!("{error}")))?;
            hand_out(node.node.migration(id)?, migration)
        }
    })
}

/// Frees the handle; the migration itself goes on. NULL is allowed. Threads: shared.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_migration_free(migration: *mut dwcp_migration) -> dwcp_status {
    guard(|| {
        if !migration.is_null() {
            handle::remove::<MigrationHandle>(migration)?;
        }
        Ok(())
    })
}

/// Waits for the end of the migration: DWCP_OK once it ended, however it did, and then *status
/// (may be NULL) says how; DWCP_ERR_TIMEOUT if it still runs. timeout_ms may be DWCP_FOREVER.
/// Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_wait(
    migration: *mut dwcp_migration,
    timeout_ms: u64,
    status: *mut dwcp_status,
) -> dwcp_status {
    on_unless_in_callback("dwcp_migration_wait", migration, |migration: &Arc<MigrationHandle>| {
        let timeout = (timeout_ms != DWCP_FOREVER).then(|| Duration::from_millis(timeout_ms));
        let Some(report) = migration.0.wait(timeout) else {
            let text = format!("the migration still runs after {timeout_ms} ms");
            return Err(Failure::new(Status::Timeout, text));
        };
        if !status.is_null() {
            // SAFETY: the caller vouches for status.
            unsafe { status.write_unaligned(report.status.code()) };
        }
        Ok(())
    })
}

/// Asks for the end, guest staying at the source; no effect after the commit point. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_cancel(migration: *mut dwcp_migration) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        migration.0.cancel();
        Ok(())
    })
}

/// Changes the bandwidth cap while the migration runs; 0 lifts it, else at least 65536.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_set_bandwidth_limit(
    migration: *mut dwcp_migration,
    bytes_per_s: u64,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        let limit = (bytes_per_s != 0).then_some(bytes_per_s);
        let check = MigrationOptions { bandwidth_limit_bytes_per_s: limit, ..Default::default() };
        check.validate().map_err(|error| Failure::invalid(error.to_string()))?;
        migration.0.set_bandwidth_limit(limit);
        Ok(())
    })
}

/// Lets the guest go on at the destination before all of its memory is there, as soon as it can be
/// done. At the source, with DWCP_POST_COPY_MANUAL or DWCP_POST_COPY_AUTO; DWCP_ERR_BAD_STATE
/// otherwise, or when the guest is being handed over already. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_start_post_copy(
    migration: *mut dwcp_migration,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| Ok(migration.0.start_post_copy()?))
}

/// Gives up a guest that runs at the destination and lacks pages, on the side that is asked, because the
/// other side will not come back. The guest is lost then, and DWCP_ENDING_LOST says so. Nothing else
/// gives it up, however long it takes. DWCP_ERR_BAD_STATE in any other state. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_abandon_post_copy(
    migration: *mut dwcp_migration,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| Ok(migration.0.abandon_post_copy()?))
}

/// Copies out the migration's id, 32 hex digits. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_id(
    migration: *const dwcp_migration,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    // SAFETY: the caller vouches for buffer and needed, as the header says.
    on(migration, |migration: &Arc<MigrationHandle>| unsafe {
        strings::copy_out(&migration.0.id().to_string(), buffer, length, needed)
    })
}

/// Copies out the guest's name. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_guest(
    migration: *const dwcp_migration,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    // SAFETY: the caller vouches for buffer and needed, as the header says.
    on(migration, |migration: &Arc<MigrationHandle>| unsafe {
        strings::copy_out(migration.0.guest(), buffer, length, needed)
    })
}

/// Which side of the migration this node is, a DWCP_SIDE_. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_side(
    migration: *const dwcp_migration,
    side: *mut u32,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        // SAFETY: the caller vouches for side.
        unsafe { number_out("side", side, side_code(migration.0.side())) }
    })
}

/// How the migration ended; DWCP_ERR_WOULD_BLOCK while it runs. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_status(
    migration: *const dwcp_migration,
    status: *mut dwcp_status,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        let report = migration.ended()?;
        // SAFETY: the caller vouches for status.
        unsafe { number_out("status", status, report.status.code()) }
    })
}

/// Copies out why the migration failed, empty if it did not; DWCP_ERR_WOULD_BLOCK while it runs.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_reason(
    migration: *const dwcp_migration,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        let report = migration.ended()?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&report.reason, buffer, length, needed) }
    })
}

/// Who owns the guest as far as this side knows, a DWCP_OWNER_. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_owner(
    migration: *const dwcp_migration,
    owner: *mut u32,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        // SAFETY: the caller vouches for owner.
        unsafe { number_out("owner", owner, owner_code(migration.0.owner())) }
    })
}

/// Where the migration stands. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_progress(
    migration: *const dwcp_migration,
    progress: *mut dwcp_progress,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        // SAFETY: the caller vouches for progress, as the header says.
        unsafe { structs::write(progress, &progress_out(&migration.0.progress())) }
    })
}

/// What came of the migration; DWCP_ERR_WOULD_BLOCK while it runs. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_report(
    migration: *const dwcp_migration,
    report: *mut dwcp_report,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        let ended = migration.ended()?;
        // SAFETY: the caller vouches for report, as the header says.
        unsafe { structs::write(report, &report_out(&ended)) }
    })
}

/// Copies out the whole report as one JSON object; DWCP_ERR_WOULD_BLOCK while the migration runs.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_migration_report_json(
    migration: *const dwcp_migration,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(migration, |migration: &Arc<MigrationHandle>| {
        let text = strings::json(&migration.ended()?)?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&text, buffer, length, needed) }
    })
}

/// What a migration handle names.
pub struct MigrationHandle(pub Migration);

impl MigrationHandle {
    fn ended(&self) -> Result<Report, Failure> {
        let running = || Failure::new(Status::WouldBlock, "the migration still runs");
        self.0.report().ok_or_else(running)
    }
}

impl Handled for MigrationHandle {
    type Opaque = dwcp_migration;
    const NAME: &'static str = "dwcp_migration";
    const KIND: Kind = Kind::Migration;

    fn wrap(object: Arc<Self>) -> Object {
        Object::Migration(object)
    }

    fn unwrap(object: &Object) -> Option<&Arc<Self>> {
        match object {
            Object::Migration(migration) => Some(migration),
            _ => None,
        }
    }
}

/// # Safety
/// `migration` is NULL or may be written.
unsafe fn clear_out(migration: *mut *mut dwcp_migration) -> Outcome {
    if migration.is_null() {
        return Err(Failure::null("migration"));
    }
    // SAFETY: the caller vouches for migration.
    unsafe { migration.write_unaligned(ptr::null_mut()) };
    Ok(())
}

/// # Safety
/// `migration` may be written.
unsafe fn hand_out(started: Migration, migration: *mut *mut dwcp_migration) -> Outcome {
    let opaque = handle::insert(MigrationHandle(started))?;
    // SAFETY: the caller vouches for migration, which `clear_out` found not to be NULL.
    unsafe { migration.write_unaligned(opaque) };
    Ok(())
}

/// # Safety
/// `out` is NULL or may be written.
unsafe fn number_out<T>(what: &str, out: *mut T, value: T) -> Outcome {
    if out.is_null() {
        return Err(Failure::null(what));
    }
    // SAFETY: the caller vouches for out.
    unsafe { out.write_unaligned(value) };
    Ok(())
}
