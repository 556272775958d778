//! Feature flags: listed, explained, changed. Changes wait for the disk, so they run on threads of their own.

use super::Context;
use super::api::no_route;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::{aside, in_json};
use crate::base::limits::MAX_FLAG_HISTORY;
use crate::rollout::{Change, ChangeAction, Flag, RuleEdit, Schedule};
use crate::runtime::rollout::RolloutError;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Who is told to have changed something where nobody is named.
pub(super) const SOMEBODY: &str = "operator";
/// Entries of the history that are given where no number is asked for.
const SOME_ENTRIES: usize = 20;
/// Fields of a request that are not the rule's.
const WHO_AND_WHY: [&str; 2] = ["who", "why"];

/// `GET /v3/flags`.
pub(super) fn list(context: &Context) -> Result<Value, ApiError> {
    let flags = context.node.flags();
    let killed = flags.first().and_then(|flag| flag.killed.clone());
    Ok(json!({
        "node": context.node.name(),
        "killed": killed,
        "is_written_down": context.node.are_flags_recorded(),
        "flags": in_json(&flags)?,
    }))
}

/// `GET /v3/rollout`.
pub(super) fn status(context: &Context) -> Result<Value, ApiError> {
    let node = &context.node;
    let mut answer = list(context)?;
    answer["limits"] = in_json(&node.rollback_limits())?;
    answer["rollouts"] = in_json(&node.rollouts())?;
    answer["members"] = context.config().rollout_members().into();
    Ok(answer)
}

/// `GET /v3/flags/NAME`.
pub(super) fn one(context: &Context, name: &str, request: &Request) -> Result<Value, ApiError> {
    request.allow(&[], &[])?;
    in_json(&context.node.flag(flag(name)?))
}

/// `GET /v3/flags/NAME/explain?unit=UNIT`.
pub(super) fn explain(context: &Context, name: &str, request: &Request) -> Result<Value, ApiError> {
    request.allow(&["unit"], &[])?;
    let (flag, unit) = (flag(name)?, request.query("unit"));
    let unit = unit.ok_or_else(|| ApiError::argument("query parameter unit is missing"))?;
    let mut answer = in_json(&context.node.explain_flag(flag, unit)?)?;
    answer["flag"] = flag.name().into();
    answer["unit"] = unit.into();
    Ok(answer)
}

/// `GET /v3/flags/history?limit=N`.
pub(super) fn history(context: &Context, request: &Request) -> Result<Value, ApiError> {
    request.allow(&["limit"], &[])?;
    let limit = match request.query_number("limit")? {
        0 => SOME_ENTRIES,
        limit => usize::try_from(limit).unwrap_or(MAX_FLAG_HISTORY),
    };
    Ok(json!({ "entries": in_json(&context.node.flag_history(limit))? }))
}

/// `POST /v3/flags/NAME/ACTION`.
pub(super) async fn act(
    context: &Arc<Context>,
    name: &str,
    action: &str,
    request: &Request,
) -> Result<Reply, ApiError> {
    let flag = flag(name)?;
    if matches!(action, "start-schedule" | "stop-schedule") {
        return schedule(context, flag, action == "start-schedule", request).await;
    }
    let action = match action {
        "set" => ChangeAction::Edit(vec![(flag, edit(request)?)]),
        "clear-latch" => {
            request.allow(&[], &WHO_AND_WHY)?;
            ChangeAction::ClearLatch(flag)
        }
        _ => return Err(no_route(request)),
    };
    let (change, node) = (change(request, action)?, context.node.clone());
    aside(move || {
        node.change_flags(&change)?;
        in_json(&node.flag(flag))
    })
    .await
}

async fn schedule(
    context: &Arc<Context>,
    flag: Flag,
    is_start: bool,
    request: &Request,
) -> Result<Reply, ApiError> {
    let fields: &[&str] = if is_start { &["schedule", "who", "why"] } else { &WHO_AND_WHY };
    request.allow(&[], fields)?;
    let bad = |error: serde_json::Error| ApiError::argument(format!("schedule: {error}"));
    let schedule = request.body().get("schedule").cloned();
    let schedule = schedule.map(|json| serde_json::from_value::<Schedule>(json).map_err(bad));
    let (schedule, (who, why)) = (schedule.transpose()?, who_and_why(request)?);
    let node = context.node.clone();
    aside(move || match is_start {
        true => in_json(&node.start_schedule(flag, schedule, &who, &why)?),
        false => in_json(&node.stop_schedule(flag, &who, &why)?),
    })
    .await
}

/// `POST /v3/flags/ACTION`.
pub(super) async fn act_on_all(
    context: &Arc<Context>,
    action: &str,
    request: &Request,
) -> Result<Reply, ApiError> {
    request.allow(&[], &WHO_AND_WHY)?;
    let (who, why) = who_and_why(request)?;
    let context = context.clone();
    match action {
        "disable-all" => {
            aside(move || {
                context.node.disable_all_flags(&who, &why)?;
                list(&context)
            })
            .await
        }
        "kill" => {
            aside(move || {
                context.node.set_kill_switch(&who, Some(&why))?;
                list(&context)
            })
            .await
        }
        "lift-kill" => {
            aside(move || {
                context.node.set_kill_switch(&who, None)?;
                list(&context)
            })
            .await
        }
        _ => Err(no_route(request)),
    }
}

fn flag(name: &str) -> Result<Flag, ApiError> {
    name.parse::<Flag>().map_err(|error| RolloutError::from(error).into())
}

/// The fields of a request are those of a rule, and who and why.
fn edit(request: &Request) -> Result<RuleEdit, ApiError> {
    request.allow(&[], &[&WHO_AND_WHY[..], &crate::rollout::FlagRule::FIELDS].concat())?;
    let fields = request.body().iter().filter(|(name, _)| !WHO_AND_WHY.contains(&name.as_str()));
    let fields: Map<String, Value> =
        fields.map(|(name, value)| (name.clone(), value.clone())).collect();
    // One by one first, so that what is wrong is told with its name.
    for (name, value) in &fields {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        serde_json::from_value::<RuleEdit>(Value::Object(alone))
            .map_err(|error| ApiError::argument(format!("{name}: {error}")))?;
    }
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| ApiError::argument(error.to_string()))
}

fn change(request: &Request, action: ChangeAction) -> Result<Change, ApiError> {
    let (who, why) = who_and_why(request)?;
    Ok(Change { who, why, evidence: None, action })
}

fn who_and_why(request: &Request) -> Result<(String, String), ApiError> {
    let who = request.scalar("who")?.unwrap_or_else(|| SOMEBODY.to_owned());
    Ok((who, request.text("why")?.to_owned()))
}
