//! Guarded rollouts as C sees them: schedules, what takes a flag back, and how each rollout stands.

use super::codes::*;
use super::flag_conversions::{flag_in, plan_in, who_in};
use super::guard::{Failure, on, on_unless_in_callback};
use super::node::{NodeHandle, dwcp_node};
use super::strings;
use super::structs::{self, SizedStruct};
use crate::rollout::Percent;
use crate::rollout::guard::{Limits, StageLimits};
use std::ffi::c_char;
use std::sync::Arc;

/// What a rollout may not exceed, or else its flag is taken back.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_rollback_limits {
    /// sizeof(dwcp_rollback_limits).
    pub struct_size: usize,
    /// DWCP_ROLLBACK_ bits.
    pub flags: u32,
    /// Requests that may fail, in parts of a million; 0 means 10,000, which is 1 %.
    pub max_error_rate_ppm: u32,
    /// How much more latency there may be, in parts of a million; 0 means 500,000, which is 50 %.
    pub max_latency_increase_ppm: u32,
    /// Which part of the usual throughput is enough, in parts of a million; 0 means 800,000.
    pub min_throughput_ppm: u32,
    /// Mode switches of a pair of nodes in an hour; 0 means 600.
    pub max_mode_switches_per_h: u32,
    /// How many tighter limits there are for small percentages, up to 4; 0 means one, the upgrade guide's:
    /// up to 10 % errors of 0.5 %, 10 % more latency, and 5 % of detections that fail.
    pub stage_count: u32,
    /// The largest percentage at which each of these holds, in parts of a million.
    pub stage_up_to_ppm: [u32; 4],
    /// As max_error_rate_ppm, but 0 is no default.
    pub stage_max_error_rate_ppm: [u32; 4],
    /// As max_latency_increase_ppm, but 0 is no default.
    pub stage_max_latency_increase_ppm: [u32; 4],
    /// Detections of a peer's mode that may fail, in parts of a million.
    pub stage_max_detection_failures_ppm: [u32; 4],
    /// Zero.
    pub reserved: [u64; 8],
}

/// What a rollout on this node may not exceed, defaults filled in; where there are more than 4 stages, the
/// first 4 of them. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_rollback_limits(
    node: *const dwcp_node,
    limits: *mut dwcp_rollback_limits,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for limits, as the header says.
        unsafe { structs::write(limits, &limits_out(&node.node.rollback_limits())) }
    })
}

/// Sets what a rollout on this node may not exceed; NULL: all defaults. Rollouts in flight are judged anew.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_set_rollback_limits(
    node: *mut dwcp_node,
    limits: *const dwcp_rollback_limits,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for limits, as the header says.
        let limits = unsafe { limits_in(limits)? };
        Ok(node.node.set_rollback_limits(limits)?)
    })
}

/// Copies out, as a JSON array, how the rollout of each feature flag stands: what the guards have counted,
/// and why they hold it or have taken it back. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_rollouts_json(
    node: *const dwcp_node,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        let text = strings::json(&node.node.rollouts())?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&text, buffer, length, needed) }
    })
}

/// Enables a DWCP_FLAG_ at the first percentage of a schedule, and lets it grow from there, as long as the
/// guards find nothing. schedule: as in dwcp_flag_change; NULL: the flag's own, or "guide". who and why as
/// for dwcp_node_set_flags(). Waits for the disk. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_start_schedule(
    node: *mut dwcp_node,
    flag: u32,
    schedule: *const c_char,
    who: *const c_char,
    why: *const c_char,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_start_schedule", node, |node: &Arc<NodeHandle>| {
        let flag = flag_in(flag)?;
        // SAFETY: the caller vouches for the texts, as the header says.
        let (schedule, who, why) =
            unsafe { (plan_in(flag, schedule)?, who_in(who)?, strings::text_in("why", why)?) };
        let schedule = match schedule {
            Some(None) => return Err(Failure::invalid("there is no schedule \"none\" to start")),
            given => given.flatten(),
        };
        node.node.start_schedule(flag, schedule, &who, &why)?;
        Ok(())
    })
}

/// Ends the schedule of a DWCP_FLAG_, whose percentage stays; DWCP_ERR_BAD_STATE if it has none. who and
/// why as for dwcp_node_set_flags(). Waits for the disk. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_stop_schedule(
    node: *mut dwcp_node,
    flag: u32,
    who: *const c_char,
    why: *const c_char,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_stop_schedule", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for the texts, as the header says.
        let (who, why) = unsafe { (who_in(who)?, strings::text_in("why", why)?) };
        node.node.stop_schedule(flag_in(flag)?, &who, &why)?;
        Ok(())
    })
}

/// The limits; NULL means all defaults.
///
/// # Safety
/// As for [`structs::read`].
unsafe fn limits_in(limits: *const dwcp_rollback_limits) -> Result<Limits, Failure> {
    let defaults = Limits::default();
    if limits.is_null() {
        return Ok(defaults);
    }
    // SAFETY: the caller vouches for limits.
    let limits = unsafe { structs::read(limits)? };
    if limits.flags & !DWCP_ROLLBACK_NO_STAGES != 0 {
        let text = format!("flags {:#x} holds unknown DWCP_ROLLBACK_ bits", limits.flags);
        return Err(Failure::invalid(text));
    }
    let or = |parts: u32, unit: f64, default| match parts {
        0 => default,
        parts => f64::from(parts) / unit,
    };
    Ok(Limits {
        max_error_rate: or(limits.max_error_rate_ppm, PERCENT, defaults.max_error_rate),
        max_latency_increase: or(
            limits.max_latency_increase_ppm,
            PERCENT,
            defaults.max_latency_increase,
        ),
        min_throughput_ratio: or(limits.min_throughput_ppm, WHOLE, defaults.min_throughput_ratio),
        max_mode_switch_rate: or(
            limits.max_mode_switches_per_h,
            MINUTES_PER_HOUR,
            defaults.max_mode_switch_rate,
        ),
        stages: stages_in(&limits, defaults.stages)?,
    })
}

fn stages_in(
    limits: &dwcp_rollback_limits,
    default: Vec<StageLimits>,
) -> Result<Vec<StageLimits>, Failure> {
    let has_none = limits.flags & DWCP_ROLLBACK_NO_STAGES != 0;
    match limits.stage_count as usize {
        0 if has_none => return Ok(Vec::new()),
        0 => return Ok(default),
        1..=MAX_STAGES if !has_none => {}
        count => {
            let text =
                format!("stage_count is {count}; it must be 0 to {MAX_STAGES}, 0 without stages");
            return Err(Failure::invalid(text));
        }
    }
    let stage = |index: usize| {
        let up_to = Percent::from_parts(limits.stage_up_to_ppm[index]);
        Ok(StageLimits {
            up_to_percent: up_to.map_err(|error| Failure::invalid(error.to_string()))?,
            max_error_rate: f64::from(limits.stage_max_error_rate_ppm[index]) / PERCENT,
            max_latency_increase: f64::from(limits.stage_max_latency_increase_ppm[index]) / PERCENT,
            max_detection_failure_rate: f64::from(limits.stage_max_detection_failures_ppm[index])
                / PERCENT,
        })
    };
    (0..limits.stage_count as usize).map(stage).collect()
}

fn limits_out(limits: &Limits) -> dwcp_rollback_limits {
    let parts = |value: f64, unit: f64| (value * unit).round() as u32;
    let of_stages = |read: &dyn Fn(&StageLimits) -> u32| {
        let mut values = [0; MAX_STAGES];
        values.iter_mut().zip(&limits.stages).for_each(|(to, stage)| *to = read(stage));
        values
    };
    dwcp_rollback_limits {
        struct_size: size_of::<dwcp_rollback_limits>(),
        flags: if limits.stages.is_empty() { DWCP_ROLLBACK_NO_STAGES } else { 0 },
        max_error_rate_ppm: parts(limits.max_error_rate, PERCENT),
        max_latency_increase_ppm: parts(limits.max_latency_increase, PERCENT),
        min_throughput_ppm: parts(limits.min_throughput_ratio, WHOLE),
        max_mode_switches_per_h: parts(limits.max_mode_switch_rate, MINUTES_PER_HOUR),
        stage_count: limits.stages.len().min(MAX_STAGES) as u32,
        stage_up_to_ppm: of_stages(&|stage| stage.up_to_percent.parts()),
        stage_max_error_rate_ppm: of_stages(&|stage| parts(stage.max_error_rate, PERCENT)),
        stage_max_latency_increase_ppm: of_stages(&|stage| {
            parts(stage.max_latency_increase, PERCENT)
        }),
        stage_max_detection_failures_ppm: of_stages(&|stage| {
            parts(stage.max_detection_failure_rate, PERCENT)
        }),
        reserved: [0; 8],
    }
}

// SAFETY: integers of whole words; the layout golden file shows no gap.
unsafe impl SizedStruct for dwcp_rollback_limits {
    const NAME: &'static str = "dwcp_rollback_limits";
    const FIRST_SIZE: usize = size_of::<Self>();

    fn reserved_is_zero(&self) -> bool {
        self.reserved == [0; 8]
    }
}

/// Stages that the struct has room for.
const MAX_STAGES: usize = 4;
/// Parts of a million in a percent.
const PERCENT: f64 = 10_000.0;
const WHOLE: f64 = 1_000_000.0;
const MINUTES_PER_HOUR: f64 = 60.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn zero() -> dwcp_rollback_limits {
        // SAFETY: the struct holds only integers.
        let zero: dwcp_rollback_limits = unsafe { std::mem::zeroed() };
        dwcp_rollback_limits { struct_size: size_of_val(&zero), ..zero }
    }

    fn read(limits: &dwcp_rollback_limits) -> Result<Limits, String> {
        // SAFETY: a whole struct of ours.
        unsafe { limits_in(limits) }.map_err(|failure| failure.text)
    }

    #[test]
    fn zero_means_default_and_what_goes_out_comes_in_again() {
        assert_eq!(read(&zero()), Ok(Limits::default()));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { limits_in(std::ptr::null()) }, Ok(Limits::default()));
        let stage = Limits::default().stages[0];
        for stages in [vec![], vec![stage], vec![stage; 4]] {
            let limits = Limits {
                max_error_rate: 2.5,
                max_latency_increase: 12.0,
                min_throughput_ratio: 0.75,
                max_mode_switch_rate: 3.0,
                stages,
            };
            assert_eq!(read(&limits_out(&limits)), Ok(limits));
        }
        let many = Limits { stages: vec![stage; 9], ..Limits::default() };
        assert_eq!(limits_out(&many).stage_count, 4);
    }

    #[test]
    fn unknown_values_are_named() {
        for (limits, text) in [
            (dwcp_rollback_limits { flags: 2, ..zero() }, "flags 0x2"),
            (dwcp_rollback_limits { stage_count: 5, ..zero() }, "stage_count is 5"),
            (dwcp_rollback_limits { stage_count: 1, flags: 1, ..zero() }, "0 without stages"),
            (
                dwcp_rollback_limits { stage_count: 1, stage_up_to_ppm: [1_000_001; 4], ..zero() },
                "100.0001",
            ),
            (dwcp_rollback_limits { reserved: [1; 8], ..zero() }, "reserved"),
        ] {
            let error = read(&limits).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
