//! The routes, and what stands behind each.

use super::Context;
use super::error::ApiError;
use super::http::{Door, Reply};
use super::request::Request;
use super::{
    compression, doubts, flags, integrity, memory, metrics, modes, resources, state, status, v1,
    vm, watch,
};
use crate::config::{Applies, Config, Id, Origin, store};
use crate::migration::MigrationOptions;
use crate::{Migration, Status};
use hyper::Method;
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers a request.
pub(super) async fn handle(
    context: &Arc<Context>,
    door: Door,
    request: Request,
) -> Result<Reply, ApiError> {
    let path = request.path.trim_start_matches('/').to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    if door == Door::Metrics && parts != ["metrics"] {
        return Err(ApiError::new(Status::NotFound, "only /metrics is served here"));
    }
    let get = request.method == Method::GET || request.method == Method::HEAD;
    let (post, put) = (request.method == Method::POST, request.method == Method::PUT);
    match parts.as_slice() {
        ["metrics"] if get => metrics::prometheus(context),
        ["v3", "events"] if get => watch::events(context, &request).await,
        ["v3", "logs"] if get => watch::logs(context, &request).await,
        ["v3", "config", key] if put => set_config(context, key, &request).await,
        ["v3", "vms", "status"] if get => vm::status(context, &request).await,
        ["v3", "vms", "attach"] if post => vm::attach(context, &request).await,
        ["v3", "state"] if get => state::export(context, &request).await,
        ["v3", "state", "import"] if post => state::import(context, &request).await,
        ["v3", "resources"] if get => resources::answer(context, &request).await,
        ["v3", "integrity"] if get => integrity::check(context, &request).await,
        ["v3", "metrics", "nodes"] if post => metrics::of_nodes(context, &request).await,
        ["v3", "modes", action] if post => modes::act(context, action, &request).await,
        ["v3", "compression", "analyze"] if post => compression::analyze(context, &request).await,
        ["v3", "compression", "test"] if post => compression::test(context, &request).await,
        ["v3", "flags", name, action] if post => flags::act(context, name, action, &request).await,
        ["v3", "flags", action] if post => flags::act_on_all(context, action, &request).await,
        ["v3", "doubts"] if get => doubts::list(context, &request).await,
        ["v3", "doubts", "settle"] if post => doubts::settle(context, &request).await,
        ["v3", "compatibility"] if get => v1::compatibility(context, &request),
        ["v3", rest @ ..] if get => read(context, rest, &request).map(Reply::Json),
        ["v3", rest @ ..] if post => change(context, rest, &request).map(Reply::Json),
        _ => Err(no_route(&request)),
    }
}

fn read(context: &Context, path: &[&str], request: &Request) -> Result<Value, ApiError> {
    match path {
        ["status"] => request.allow(&[], &[]).map(|()| status::document(context)),
        ["guests"] => request.allow(&[], &[]).map(|()| json!({ "guests": context.node.guests() })),
        ["held"] => request.allow(&[], &[]).map(|()| json!(context.node.held(None))),
        ["vms"] => request.allow(&[], &[]).and_then(|()| vm::list(context)),
        ["rollout"] => request.allow(&[], &[]).and_then(|()| flags::status(context)),
        ["flags"] => request.allow(&[], &[]).and_then(|()| flags::list(context)),
        ["flags", "history"] => flags::history(context, request),
        ["flags", name] => flags::one(context, name, request),
        ["flags", name, "explain"] => flags::explain(context, name, request),
        ["modes", "check"] => request.allow(&[], &[]).and_then(|()| modes::check(context)),
        ["modes"] => request.allow(&[], &[]).and_then(|()| modes::list(context)),
        ["migrations"] => {
            request.allow(&[], &[])?;
            let list = context.node.migrations();
            Ok(json!({ "migrations": list.iter().map(migration_json).collect::<Vec<_>>() }))
        }
        ["migrations", id] => Ok(migration_json(&find_migration(context, id)?)),
        ["metrics"] => metrics::own(context, request),
        ["compression"] => compression::stats(context, request),
        ["baselines"] => request.allow(&[], &[]).map(|()| memory::baselines(context)),
        ["memory"] => request.allow(&[], &[]).and_then(|()| memory::breakdown(context)),
        ["config"] => list_config(context),
        ["config", key] => {
            let id = store::find(key)?;
            Ok(setting_json(context, &context.config(), id))
        }
        _ => Err(no_route(request)),
    }
}

fn change(context: &Context, path: &[&str], request: &Request) -> Result<Value, ApiError> {
    match path {
        ["vms", "detach"] => vm::detach(context, request),
        ["v1", "listen"] => v1::listen(context, request),
        ["held", "clear"] => vm::clear_held(context, request),
        ["migrations"] => migrate(context, request),
        ["migrations", id, "cancel"] => {
            request.allow(&[], &[])?;
            let migration = find_migration(context, id)?;
            migration.cancel();
            Ok(migration_json(&migration))
        }
        ["migrations", id, "post-copy"] => {
            request.allow(&[], &["abandon"])?;
            let migration = find_migration(context, id)?;
            match request.truth("abandon")? {
                true => migration.abandon_post_copy()?,
                false => migration.start_post_copy()?,
            }
            Ok(migration_json(&migration))
        }
        ["migrations", id, "bandwidth"] => {
            request.allow(&[], &["limit"])?;
            let migration = find_migration(context, id)?;
            let text = request.scalar("limit")?;
            let text = text.ok_or_else(|| ApiError::argument("field limit is missing"))?;
            let mut config = Config::default();
            override_key(&mut config, Id::MigrationBandwidthLimit, "limit", &text)?;
            let limit = config.migration_options().bandwidth_limit_bytes_per_s;
            migration.set_bandwidth_limit(limit);
            Ok(json!({ "id": migration.id(), "bandwidth_limit_bytes_per_s": limit }))
        }
        _ => Err(no_route(request)),
    }
}

fn migrate(context: &Context, request: &Request) -> Result<Value, ApiError> {
    let fields: Vec<&str> =
        ["guest", "to"].into_iter().chain(migration_keys().map(|(name, _)| name)).collect();
    request.allow(&[], &fields)?;
    let (guest, to) = (request.text("guest")?, request.text("to")?);
    let options = migration_options(context, request)?;
    let migration = context.node.migrate(guest, to, options)?;
    Ok(migration_json(&migration))
}

/// The configured options, overridden by the request's fields.
fn migration_options(context: &Context, request: &Request) -> Result<MigrationOptions, ApiError> {
    let mut config = Config::clone(&context.config());
    for (name, id) in migration_keys() {
        if let Some(text) = request.scalar(name)? {
            override_key(&mut config, id, name, &text)?;
        }
    }
    Ok(config.migration_options())
}

/// The fields of a migration request are the keys of the `migration` section.
fn migration_keys() -> impl Iterator<Item = (&'static str, Id)> {
    Id::ALL.iter().filter_map(|id| Some((id.key().name.strip_prefix("migration.")?, *id)))
}

fn override_key(config: &mut Config, id: Id, name: &str, text: &str) -> Result<(), ApiError> {
    let value = id.key().kind.parse(text);
    let value = value.map_err(|reason| ApiError::argument(format!("{name}: {reason}")))?;
    config.set(id, value, Origin::Default);
    Ok(())
}

pub(super) fn find_migration(context: &Context, id: &str) -> Result<Migration, ApiError> {
    let id = id.parse().map_err(|error| ApiError::argument(format!("{error}")))?;
    Ok(context.node.migration(id)?)
}

fn migration_json(migration: &Migration) -> Value {
    json!({
        "id": migration.id(),
        "guest": migration.guest(),
        "side": migration.side(),
        "owner": migration.owner(),
        "progress": migration.progress(),
        "report": migration.report(),
        "encoding": migration.encoding(),
    })
}

fn list_config(context: &Context) -> Result<Value, ApiError> {
    let config = context.config();
    let keys: Vec<_> = Id::ALL.iter().map(|id| setting_json(context, &config, *id)).collect();
    let path = context.config.as_ref().map(|store| store.path().display().to_string());
    Ok(json!({ "path": path, "keys": keys }))
}

fn setting_json(context: &Context, config: &Config, id: Id) -> Value {
    let (key, setting) = (id.key(), config.get(id));
    let waits = context.config.as_ref().is_some_and(|store| store.waits_for_restart(id));
    json!({
        "key": key.name,
        "value": setting.value.to_json(),
        "text": setting.value.to_string(),
        "origin": setting.origin.to_string(),
        "default": key.default,
        "type": key.kind.describe(),
        "doc": key.doc,
        "applies": key.applies.name(),
        // A node without a configuration got its settings from its program.
        "in_use": key.applies != Applies::NotInUse
            && (context.config.is_some() || !key.name.starts_with("node.")),
        "waits_for_restart": waits,
    })
}

async fn set_config(
    context: &Arc<Context>,
    key: &str,
    request: &Request,
) -> Result<Reply, ApiError> {
    request.allow(&[], &["value"])?;
    let store = context.config.clone().ok_or_else(|| {
        ApiError::new(Status::Unsupported, "this node was not started from a configuration file")
    })?;
    let id = store::find(key)?;
    let text = request.scalar("value")?;
    let text = text.ok_or_else(|| ApiError::argument("field value is missing"))?;
    let (key, before) = (key.to_owned(), context.config().get(id).value.to_string());
    // It waits for the disk, which must not hold up everyone else.
    let set = tokio::task::spawn_blocking(move || store.set(&key, &text)).await;
    let changed = set.map_err(|error| ApiError::new(Status::Panic, error.to_string()))??;
    context.config_changed("set", &changed);
    if changed.iter().any(|id| id.flag().is_some() || *id == Id::RolloutMembers) {
        let shared = context.clone();
        let applied = tokio::task::spawn_blocking(move || shared.take_up_flags(id, &before)).await;
        applied.map_err(|error| ApiError::new(Status::Panic, error.to_string()))??;
    }
    let mut answer = setting_json(context, &context.config(), id);
    answer["changed"] = changed.iter().map(|id| id.key().name).collect();
    Ok(Reply::Json(answer))
}

pub(super) fn no_route(request: &Request) -> ApiError {
    let text = format!("no route {} {}", request.method, request.path);
    ApiError::new(Status::NotFound, text)
}
