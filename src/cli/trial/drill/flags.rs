//! How a drill tells nodes of their flags and asks after them: on their control sockets, as an
//! operator's commands do.

use crate::cli::error::CliError;
use crate::cli::trial::TrialError;
use crate::cli::trial::crowd::{Crowd, Member, at_once};
use crate::rollout::{Flag, Percent, Unit, UnitKind, bucket};
use serde_json::{Value, json};
use std::sync::Arc;

/// Raises or lowers a flag on one node.
///
/// # Errors
/// The node refuses.
pub async fn set_percent(
    member: &Member,
    flag: Flag,
    (percent, seed): (u8, u64),
    why: &str,
) -> Result<(), TrialError> {
    let body = json!({
        "enabled": percent > 0, "rollout_percent": percent, "seed": seed, "who": WHO, "why": why
    });
    member.node.client.post(&format!("/v3/flags/{flag}/set"), body).await?;
    Ok(())
}

/// Raises or lowers a flag on every node.
///
/// # Errors
/// A node refuses.
pub async fn set_everywhere(
    crowd: &Arc<Crowd>,
    flag: Flag,
    percent: (u8, u64),
    why: &str,
) -> Result<(), TrialError> {
    let set = |crowd: Arc<Crowd>, at: usize| {
        let why = why.to_owned();
        async move { set_percent(&crowd.members()[at], flag, percent, &why).await }
    };
    at_once(crowd, 0..crowd.members().len(), set).await.map(drop)
}

/// Whether any path of a node could have a flag as things stand.
///
/// # Errors
/// The node is gone.
pub async fn is_in_force(member: &Member, flag: Flag) -> Result<bool, TrialError> {
    Ok(member.node.client.get(&format!("/v3/flags/{flag}")).await?["is_in_force"] == true)
}

/// Whether a node has a feature for a peer, by the address at which it dials it.
///
/// # Errors
/// The node is gone.
pub async fn is_on(member: &Member, flag: Flag, way: &str) -> Result<bool, TrialError> {
    Ok(explain(member, flag, way).await?["is_on"] == true)
}

/// The same with the reason.
///
/// # Errors
/// The node is gone.
pub async fn explain(member: &Member, flag: Flag, way: &str) -> Result<Value, TrialError> {
    let path = format!("/v3/flags/{flag}/explain");
    Ok(member.node.client.query(&path, &[("unit", Some(way))]).await?)
}

/// Switches every flag of a node off.
///
/// # Errors
/// The node refuses.
pub async fn disable_all(member: &Member, why: &str) -> Result<(), TrialError> {
    let body = json!({ "who": WHO, "why": why });
    member.node.client.post("/v3/flags/disable-all", body).await?;
    Ok(())
}

/// Whether every component of a node does as v1 does, as `status --check-mode` tells.
///
/// # Errors
/// The node is gone.
pub async fn is_v1_compatible(member: &Member) -> Result<bool, TrialError> {
    Ok(member.node.client.get("/v3/modes/check").await?["is_v1_compat"] == true)
}

/// Whether a node's kill switch is on.
///
/// # Errors
/// The node is gone.
pub async fn is_killed(member: &Member) -> Result<bool, TrialError> {
    Ok(!member.node.client.get("/v3/flags").await?["killed"].is_null())
}

/// Ends a rollback on a node; the refusal, if it refuses.
///
/// # Errors
/// The node is gone.
pub async fn clear_latch(
    member: &Member,
    flag: Flag,
    why: &str,
) -> Result<Option<String>, TrialError> {
    let body = json!({ "who": WHO, "why": why });
    match member.node.client.post(&format!("/v3/flags/{flag}/clear-latch"), body).await {
        Ok(_) => Ok(None),
        Err(CliError::Refused { message, .. }) => Ok(Some(message)),
        Err(error) => Err(error.into()),
    }
}

/// The newest changes of a node's flags, newest first.
///
/// # Errors
/// The node is gone.
pub async fn history(member: &Member) -> Result<Vec<Value>, TrialError> {
    let mut answer = member.node.client.get("/v3/flags/history").await?;
    match answer["entries"].take() {
        Value::Array(entries) => Ok(entries),
        _ => Ok(Vec::new()),
    }
}

/// The rollbacks that a node's guards have decided on so far, as events; waits so long for the first.
///
/// # Errors
/// The node is gone.
pub async fn rollbacks(member: &Member, wait_ms: u64) -> Result<Vec<Value>, TrialError> {
    let wait_ms = wait_ms.to_string();
    let parameters =
        [("after", Some("0")), ("wait_ms", Some(&*wait_ms)), ("filter", Some(ROLLED_BACK))];
    let mut answer = member.node.client.query("/v3/events", &parameters).await?;
    match answer["events"].take() {
        Value::Array(events) => Ok(events),
        _ => Ok(Vec::new()),
    }
}

/// What a flag is decided for on the way from one node to another.
pub fn unit_of(crowd: &Crowd, flag: Flag, (from, to): (usize, usize)) -> String {
    let members = crowd.members();
    let other = match flag.unit_kind() {
        UnitKind::Path => crowd.way(from, to),
        _ => members[to].name(),
    };
    format!("{}|{other}", members[from].name())
}

/// A seed with which each of these percentages takes as large a part of few units as of many.
/// Without it, half of 16 units may as well be 4 or 12, and there would be too few on one side.
pub fn even_seed(flag: Flag, units: &[String], percents: &[u8]) -> u64 {
    let is_even = |seed: &u64| {
        percents.iter().all(|percent| {
            let bound = Percent::whole(*percent).parts();
            let is_in = |unit: &&String| bucket(flag, *seed, &Unit::named(unit)) < bound;
            units.iter().filter(is_in).count() == share(units.len(), *percent)
        })
    };
    (0..MOST_SEEDS).find(is_even).unwrap_or(0)
}

/// So many of so many units.
pub fn share(units: usize, percent: u8) -> usize {
    Percent::whole(percent).of(units)
}

/// Who changes flags, in the audit logs of a drill's nodes.
const WHO: &str = "drill";
/// The event of a rollback.
const ROLLED_BACK: &str = "flag_rolled_back";
const MOST_SEEDS: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_splits_few_units_evenly() {
        for count in [3, 4, 16] {
            let units: Vec<_> = (0..count).map(|at| format!("node-00|node-{at:02}")).collect();
            let seed = even_seed(Flag::HybridMode, &units, &[10, 50]);
            for percent in [10, 50, 100] {
                let bound = Percent::whole(percent).parts();
                let is_in =
                    |unit: &&String| bucket(Flag::HybridMode, seed, &Unit::named(unit)) < bound;
                let found = units.iter().filter(is_in).count();
                assert_eq!(found, share(units.len(), percent), "{percent} % of {count}");
            }
        }
    }
}
