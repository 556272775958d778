//! A node's state, given away as a document and taken in again. Both wait for the disk.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::{aside, in_json};
use crate::config::Id;
use crate::node::state::State;
use crate::runtime::state_transfer::{ImportOptions, Imported};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v3/state`.
pub(super) async fn export(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &[])?;
    let context = context.clone();
    aside(move || {
        let exported = context.node.export_state(context.config.as_deref())?;
        Ok(json!({
            "node": exported.state.origin.node,
            "holds": holds(&exported.state),
            "records_under_way": exported.records_under_way,
            "lost": exported.lost,
            "document": exported.document,
            "compat": exported.compat,
        }))
    })
    .await
}

/// `POST /v3/state/import`.
pub(super) async fn import(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["document", "dry_run", "who", "why"])?;
    let document = request.text("document")?.to_owned();
    let who = request.scalar("who")?.unwrap_or_else(|| super::flags::SOMEBODY.to_owned());
    let why = request.text("why")?.to_owned();
    let options = ImportOptions { who, why, dry_run: request.truth("dry_run")? };
    let context = context.clone();
    aside(move || {
        let config = context.config.as_deref();
        let imported = context.node.import_state(document.as_bytes(), config, &options)?;
        if !options.dry_run && !imported.settings.is_empty() {
            context.config_changed("imported", &imported.settings);
            context.flags_changed()?;
        }
        answer(&imported, options.dry_run)
    })
    .await
}

fn holds(state: &State) -> Value {
    json!({
        "settings": state.settings.as_ref().map(Vec::len),
        "peers": state.peers.len(),
        "records": state.records.len(),
        "guests": state.guests.len(),
        "audit_entries": state.audit.entries.len(),
        "audit_entries_left_out": state.audit.left_out,
    })
}

fn answer(imported: &Imported, dry_run: bool) -> Result<Value, ApiError> {
    let restart = |id: &&Id| id.key().applies == crate::config::Applies::Restart;
    let waits = imported.settings.iter().filter(restart).map(|id| id.key().name);
    Ok(json!({
        "dry_run": dry_run,
        "kind": if imported.origin.is_some() { "state" } else { "v1_flags" },
        "origin": in_json(&imported.origin)?,
        "differences": in_json(&imported.differences)?,
        "waits_for_restart": waits.collect::<Vec<_>>(),
    }))
}
