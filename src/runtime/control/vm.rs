//! Guests of QEMUs: attached, listed, asked and let go.
//!
//! What waits for a QEMU does so on a thread of its own, so that a silent one holds up nobody else.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use crate::{Node, NodeError, Status};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// `GET /v3/vms`.
pub(super) fn list(context: &Context) -> Result<Value, ApiError> {
    Ok(json!({ "vms": in_json(&context.node.vms())? }))
}

/// `GET /v3/vms/status?name=NAME`.
pub(super) async fn status(context: &Context, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&["name"], &[])?;
    let name = request.query("name");
    let name = name.ok_or_else(|| ApiError::argument("query parameter name is missing"))?;
    let (node, name) = (context.node.clone(), name.to_owned());
    aside(move || document(&node, &name)).await
}

/// `POST /v3/vms/attach`.
pub(super) async fn attach(context: &Context, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["name", "qmp", "incoming"])?;
    let (name, qmp) = (request.text("name")?.to_owned(), request.text("qmp")?.to_owned());
    let incoming = request.truth("incoming")?;
    if !Path::new(&qmp).is_absolute() {
        // The client's directory is unknown here, and the node's own means nothing to him.
        return Err(ApiError::argument(format!("qmp {qmp:?} is not an absolute path")));
    }
    let node = context.node.clone();
    aside(move || {
        node.attach_qemu(&name, Path::new(&qmp), incoming)?;
        in_json(&node.vms().into_iter().find(|vm| vm.name == name))
    })
    .await
}

/// `POST /v3/vms/detach`.
pub(super) fn detach(context: &Context, request: &Request) -> Result<Value, ApiError> {
    request.allow(&[], &["name"])?;
    let name = request.text("name")?;
    context.node.detach_qemu(name)?;
    Ok(json!({ "name": name, "detached": true }))
}

/// With how its migration goes, if one is under way.
fn document(node: &Node, name: &str) -> Result<Value, ApiError> {
    let status = node.vm_status(name)?;
    let mut document = in_json(&status)?;
    let migration = status.info.migration.map(|id| node.migration(id)).transpose();
    document["progress"] = match migration {
        Ok(migration) => in_json(&migration.map(|migration| migration.progress()))?,
        // It has a guest, but is not kept yet.
        Err(NodeError::UnknownMigration(_)) => Value::Null,
        Err(error) => return Err(error.into()),
    };
    Ok(document)
}

/// Does work that takes its time on a thread of its own.
pub(super) async fn aside<F>(work: F) -> Result<Reply, ApiError>
where
    F: FnOnce() -> Result<Value, ApiError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::new(Status::Panic, error.to_string()))?.map(Reply::Json)
}

pub(super) fn in_json(value: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(value)
        .map_err(|error| ApiError::new(Status::BadState, format!("cannot write JSON: {error}")))
}
