//! Questions about flags that need no node: what rules would decide, and who is among so many percent.

use super::codes::*;
use super::flag_conversions::{decision_out, flag_in, members_in, percent_in, planned_in};
use super::flags::dwcp_flag_decision;
use super::guard::{Failure, guard};
use super::strings;
use super::structs;
use crate::rollout::{Unit, decide, exact_units};
use crate::runtime::rollout::RolloutError;
use std::ffi::c_char;

/// Decides about a unit by flags that need not be in force anywhere. flags_json: all five, as the audit log
/// has them ({"flags":{"hybrid_mode":{"rule":{...},"latch":null},...},"killed":null,"configuration":null}).
/// unit: as it is written in full. peer_can: 1, or 0 if the other end does not take part. now_s: seconds
/// since 1970. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_flag_decide(
    flags_json: *const c_char,
    flag: u32,
    unit: *const c_char,
    peer_can: u32,
    now_s: u64,
    decision: *mut dwcp_flag_decision,
) -> dwcp_status {
    guard(|| {
        let flag = flag_in(flag)?;
        if peer_can > 1 {
            return Err(Failure::invalid(format!("peer_can is {peer_can}; it must be 0 or 1")));
        }
        // SAFETY: the caller vouches for the texts and decision, as the header says.
        unsafe {
            let set = planned_in(flags_json)?;
            let unit = strings::text_in("unit", unit)?;
            let unit = Unit::parse(&unit).map_err(RolloutError::from)?;
            let decided = decide(&set, flag, &unit, peer_can == 1, now_s);
            structs::write(decision, &decision_out(&decided))
        }
    })
}

/// Copies out, as a JSON array by rank, which of `count` known members, up to 65,536, have the feature of a
/// DWCP_FLAG_ at a percentage, in parts of a million: exactly that share of them, rounded up.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_flag_exact_units_json(
    flag: u32,
    seed: u64,
    rollout_ppm: u32,
    members: *const *const c_char,
    count: usize,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    guard(|| {
        let (flag, percent) = (flag_in(flag)?, percent_in(rollout_ppm)?);
        // SAFETY: the caller vouches for members, as the header says.
        let members = unsafe { members_in(members, count)? };
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let chosen = exact_units(seed, flag, percent, &members).map_err(RolloutError::from)?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&strings::json(&chosen)?, buffer, length, needed) }
    })
}
