//! What the node's host has for each component, judged in the node's own process.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::status;
use super::vm::{aside, in_json};
use crate::runtime::resources::{Component, Settings, check};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v3/resources?components=all|NAME,...`.
pub(super) async fn answer(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&["components"], &[])?;
    let (components, missing) = chosen(request.query("components").unwrap_or(ALL))?;
    let context = context.clone();
    aside(move || {
        let settings = Settings::of_node(&context.node, (*context.config()).clone());
        Ok(json!({
            "node": context.node.name(),
            "process": std::process::id(),
            "checks": in_json(&check(&components, &settings))?,
            "not_built": missing,
        }))
    })
    .await
}

/// The components of a list, and what is not built yet of them all.
///
/// # Errors
/// A name that is unknown, or of a component that is not built yet.
pub fn chosen(list: &str) -> Result<(Vec<Component>, Value), ApiError> {
    let mut components: Vec<Component> = Vec::new();
    for name in list.split(',').filter(|name| *name != ALL) {
        let component = Component::named(name).ok_or_else(|| {
            let names = Component::ALL.map(Component::name).join(", ");
            let built =
                status::not_built(name).map_or("unknown component", |_| "component not built yet:");
            ApiError::argument(format!("{built} {name:?}; known here: {ALL}, {names}"))
        })?;
        if !components.contains(&component) {
            components.push(component);
        }
    }
    // All of them are no fewer when some are named too.
    if !list.split(',').any(|name| name == ALL) {
        return Ok((components, json!([])));
    }
    let missing = |(name, title): &(&str, &str)| json!({ "name": name, "title": title });
    Ok((Component::ALL.to_vec(), status::NOT_BUILT.iter().map(missing).collect()))
}

/// Every component.
const ALL: &str = "all";
