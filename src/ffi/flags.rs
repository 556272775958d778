//! Feature flags as C sees them: listed, set, explained, rolled back; the kill switch.

use super::codes::*;
use super::flag_conversions::*;
use super::guard::{Failure, on, on_unless_in_callback};
use super::node::{NodeHandle, dwcp_node};
use super::strings;
use super::structs;
use crate::runtime::rollout::RolloutError;
use std::ffi::c_char;
use std::sync::Arc;

/// One feature flag as it stands on a node.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_flag_state {
    /// sizeof(dwcp_flag_state), set by the caller.
    pub struct_size: usize,
    /// The DWCP_FLAG_.
    pub flag: u32,
    /// A DWCP_UNIT_: what it is decided for.
    pub unit: u32,
    /// DWCP_FLAG_STATE_ bits.
    pub bits: u32,
    /// How many units have it, besides those on the allow list, in parts of a million: 10 % are 100,000.
    pub rollout_ppm: u32,
    /// Names on its allow list; dwcp_node_flags_json() has them.
    pub allow_count: u32,
    /// Names on its deny list.
    pub deny_count: u32,
    /// Flags that must be on for the same unit: for each DWCP_FLAG_ the bit 1 << DWCP_FLAG_.
    pub prerequisites: u32,
    /// Zero.
    pub padding: u32,
    /// What the units of a percentage are drawn by.
    pub seed: u64,
    /// From when on it is off, in seconds since 1970; 0: never.
    pub expires_s: u64,
    /// When it was rolled back, in microseconds since 1970; 0: it was not.
    pub rolled_back_us: u64,
    /// Whom to ask about it; empty: nobody is named.
    pub owner: [c_char; 136],
    /// Why it was rolled back; empty: it was not.
    pub rollback_reason: [c_char; 256],
    /// Why the kill switch is on; empty: it is off.
    pub kill_reason: [c_char; 256],
    /// Zero.
    pub reserved: [u64; 8],
}

/// What is to become of one feature flag; what is not set stays as it is.
///
/// A rollout_ppm above 0 enables the flag too, and takes it off its schedule, unless the same change says
/// otherwise.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_flag_change {
    /// sizeof(dwcp_flag_change).
    pub struct_size: usize,
    /// The DWCP_FLAG_ that is meant.
    pub flag: u32,
    /// DWCP_FLAG_CHANGE_ bits: which of the numbers below are set.
    pub fields: u32,
    /// 1: enabled; 0: off for everybody, whatever the rest says.
    pub enabled: u32,
    /// How many units have it, besides those on the allow list, in parts of a million: 10 % are 100,000.
    pub rollout_ppm: u32,
    /// Another seed draws the units of a percentage anew.
    pub seed: u64,
    /// From when on it is off, in seconds since 1970; 0: never.
    pub expires_s: u64,
    /// Nodes and units that have it before all others, with commas between them; "": none; NULL: as it is.
    pub allow_list: *const c_char,
    /// Nodes and units that never have it, likewise.
    pub deny_list: *const c_char,
    /// Names of flags that must be on for the same unit, likewise.
    pub prerequisites: *const c_char,
    /// How its percentage is to grow: "guide" for the upgrade guide's six weeks, "none", or stages as JSON
    /// such as [{"after_s":0,"percent":1},{"after_s":3600,"percent":10}]; NULL: as it is.
    pub schedule: *const c_char,
    /// Whom to ask about it; NULL: as it is.
    pub owner: *const c_char,
    /// Zero.
    pub reserved: [u64; 8],
}

/// Whether a unit has a feature, and why.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_flag_decision {
    /// sizeof(dwcp_flag_decision), set by the caller.
    pub struct_size: usize,
    /// 1: the feature is on; 0: it is off.
    pub is_on: u32,
    /// A DWCP_REASON_.
    pub reason: u32,
    /// With DWCP_REASON_PERCENTAGE and DWCP_REASON_BELOW_PERCENTAGE where the unit stands, from 0 to 999,999.
    pub bucket: u32,
    /// Likewise the percentage, in parts of a million.
    pub rollout_ppm: u32,
    /// With DWCP_REASON_PREREQUISITE_UNMET the DWCP_FLAG_ that is off.
    pub prerequisite: u32,
    /// With DWCP_REASON_RANKED and DWCP_REASON_NOT_RANKED how many members have the feature.
    pub chosen: u32,
    /// Likewise of how many.
    pub members: u32,
    /// Zero.
    pub padding: u32,
    /// The reason in words.
    pub text: [c_char; 256],
    /// Zero.
    pub reserved: [u64; 8],
}

/// The name of a DWCP_FLAG_, such as "hybrid_mode"; a constant, "unknown" for another number.
/// Threads: shared.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_flag_name(flag: u32) -> *const c_char {
    name_with_nul(flag).as_ptr()
}

/// Copies out the feature flags as a JSON array, with their lists and schedules. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_flags_json(
    node: *const dwcp_node,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        let text = strings::json(&node.node.flags())?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&text, buffer, length, needed) }
    })
}

/// One feature flag, a DWCP_FLAG_, as it stands. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_flag(
    node: *const dwcp_node,
    flag: u32,
    state: *mut dwcp_flag_state,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        let flag = flag_in(flag)?;
        // SAFETY: the caller vouches for state, as the header says.
        unsafe { structs::write(state, &state_out(flag, &node.node.flag(flag))) }
    })
}

/// Changes `count` feature flags, 1 to 5: all of it is written to the audit log and in force on return, or
/// nothing of it. Migrations under way follow at their next segment, chunk or connection. who: a person or
/// a program, for the log; NULL: this process. why: 1 to 1024 bytes. DWCP_ERR_UNSUPPORTED where a flag is
/// to be on whose component is not built yet. Waits for the disk. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_set_flags(
    node: *mut dwcp_node,
    changes: *const dwcp_flag_change,
    count: usize,
    who: *const c_char,
    why: *const c_char,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_set_flags", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for changes, who and why, as the header says.
        let change = unsafe { change_in(changes, count, who, why)? };
        done(node.node.change_flags(&change))
    })
}

/// Switches every feature flag off, at 0 % and without a schedule; lists stay as they are. who and why as
/// for dwcp_node_set_flags(). Waits for the disk. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_disable_all_flags(
    node: *mut dwcp_node,
    who: *const c_char,
    why: *const c_char,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_disable_all_flags", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for who and why, as the header says.
        let (who, why) = unsafe { (who_in(who)?, strings::text_in("why", why)?) };
        done(node.node.disable_all_flags(&who, &why))
    })
}

/// Ends the rollback of a DWCP_FLAG_, which then is as its rule says; DWCP_ERR_BAD_STATE if it was not
/// rolled back. who and why as for dwcp_node_set_flags(). Waits for the disk. Threads: shared, not from a
/// callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_clear_latch(
    node: *mut dwcp_node,
    flag: u32,
    who: *const c_char,
    why: *const c_char,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_clear_latch", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for who and why, as the header says.
        let (who, why) = unsafe { (who_in(who)?, strings::text_in("why", why)?) };
        done(node.node.clear_latch(flag_in(flag)?, &who, &why))
    })
}

/// Throws the kill switch, which has every feature flag off for everybody, at once and also where that
/// cannot be written down; why NULL takes it back. who as for dwcp_node_set_flags(). DWCP_ERR_BAD_STATE to
/// take back what is not on, or is held by the switch's file or environment variable. Threads: shared; also
/// from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_set_kill_switch(
    node: *mut dwcp_node,
    who: *const c_char,
    why: *const c_char,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for who and why, as the header says.
        let (who, why) = unsafe { (who_in(who)?, strings::optional_text_in("why", why)?) };
        done(node.node.set_kill_switch(&who, why.as_deref()))
    })
}

/// Whether a unit has the feature of a DWCP_FLAG_ on this node, and why. unit: as the flag's DWCP_UNIT_ is
/// written; of a pair the other end is enough: a peer's name, or its address as it is dialed. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_explain_flag(
    node: *const dwcp_node,
    flag: u32,
    unit: *const c_char,
    decision: *mut dwcp_flag_decision,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for unit and decision, as the header says.
        unsafe {
            let unit = strings::text_in("unit", unit)?;
            let decided = node.node.explain_flag(flag_in(flag)?, &unit)?;
            structs::write(decision, &decision_out(&decided))
        }
    })
}

/// Copies out a JSON array of at most `limit` changes of the feature flags, newest first, as the audit log
/// has them; 1024 are at hand. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_flag_history_json(
    node: *const dwcp_node,
    limit: usize,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        let text = strings::json(&node.node.flag_history(limit))?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&text, buffer, length, needed) }
    })
}

/// Names the `count` nodes, up to 65,536, of which percentages are taken, so that 10 % of 20 of them is 2;
/// count 0: each unit by its hash alone, as in the beginning. Of a pair the node that sends counts.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_set_rollout_members(
    node: *mut dwcp_node,
    members: *const *const c_char,
    count: usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for members, as the header says.
        let members = unsafe { members_in(members, count)? };
        done(node.node.set_rollout_members(&members))
    })
}

fn done<T>(result: Result<T, RolloutError>) -> Result<(), Failure> {
    result.map(|_| ()).map_err(Failure::from)
}
