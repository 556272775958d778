//! Deciders: one flag for one unit, asked all the time.

use super::codes::*;
use super::flag_conversions::{decision_out, flag_in};
use super::flags::dwcp_flag_decision;
use super::guard::{Failure, answer, guard, on};
use super::handle::{self, Handled, Kind, Object};
use super::node::{NodeHandle, dwcp_node};
use super::strings;
use super::structs;
use crate::runtime::rollout::Decider;
use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

/// Answers again and again whether a unit has a feature.
pub struct dwcp_decider {
    _private: [u8; 0],
}

/// Makes what answers again and again, in some nanoseconds, whether a unit has the feature of a DWCP_FLAG_
/// on this node. Units as for dwcp_node_explain_flag(). It may outlive the node, whose last word it keeps.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_decider(
    node: *mut dwcp_node,
    flag: u32,
    unit: *const c_char,
    decider: *mut *mut dwcp_decider,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        if decider.is_null() {
            return Err(Failure::null("decider"));
        }
        // SAFETY: the caller vouches for unit and decider, as the header says.
        unsafe {
            decider.write_unaligned(ptr::null_mut());
            let unit = strings::text_in("unit", unit)?;
            let made = node.node.decider(flag_in(flag)?, &unit)?;
            decider.write_unaligned(handle::insert(DeciderHandle(made))?);
        }
        Ok(())
    })
}

/// 1 if the feature is on, 0 if it is off. It neither waits nor fails: where the handle names nothing the
/// answer is 0, and dwcp_last_error() says so. Threads: shared; also from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_decider_is_on(decider: *const dwcp_decider) -> i32 {
    answer(decider, 0, |decider: &DeciderHandle| i32::from(decider.0.is_on()))
}

/// What a decider answers now, with the reason. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_decider_explain(
    decider: *const dwcp_decider,
    decision: *mut dwcp_flag_decision,
) -> dwcp_status {
    on(decider, |decider: &Arc<DeciderHandle>| {
        // SAFETY: the caller vouches for decision, as the header says.
        unsafe { structs::write(decision, &decision_out(&decider.0.decision())) }
    })
}

/// Frees a decider. NULL is allowed. Threads: shared.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_decider_free(decider: *mut dwcp_decider) -> dwcp_status {
    guard(|| {
        if !decider.is_null() {
            handle::remove::<DeciderHandle>(decider)?;
        }
        Ok(())
    })
}

/// What a decider handle names.
pub struct DeciderHandle(pub Decider);

impl Handled for DeciderHandle {
    type Opaque = dwcp_decider;
    const NAME: &'static str = "dwcp_decider";
    const KIND: Kind = Kind::Decider;

    fn wrap(object: Arc<Self>) -> Object {
        Object::Decider(object)
    }

    fn unwrap(object: &Object) -> Option<&Arc<Self>> {
        match object {
            Object::Decider(decider) => Some(decider),
            _ => None,
        }
    }
}
