//! Migrations of which no record says for certain who has the guest: listed, and settled.
//!
//! Records are read and written to the disk, which may take its time, so on threads of their own.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::aside;
use crate::migration::Owner;
use crate::runtime::record_keeper::InDoubt;
use serde_json::{Value, json};

/// `GET /v3/doubts`.
pub(super) async fn list(context: &Context, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &[])?;
    let node = context.node.clone();
    aside(move || {
        let doubts: Vec<_> = node.in_doubt()?.iter().map(in_json).collect();
        let directory = node.state_dir().map(|path| path.display().to_string());
        Ok(json!({ "state_dir": directory, "doubts": doubts }))
    })
    .await
}

/// `POST /v3/doubts/settle`.
pub(super) async fn settle(context: &Context, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["migration", "owner"])?;
    let id = request.text("migration")?.parse();
    let id = id.map_err(|error| ApiError::argument(format!("{error}")))?;
    let owner = match request.text("owner")? {
        "source" => Owner::Source,
        "destination" => Owner::Destination,
        other => {
            let text = format!("owner {other:?} is neither source nor destination");
            return Err(ApiError::argument(text));
        }
    };
    let node = context.node.clone();
    aside(move || {
        let settled: Vec<_> = node.settle(id, owner)?.iter().map(in_json).collect();
        Ok(json!({ "owner": owner, "settled": settled }))
    })
    .await
}

fn in_json(doubt: &InDoubt) -> Value {
    let InDoubt { migration, side, record } = doubt;
    json!({
        "migration": migration,
        "side": side.name(),
        "guest": record.guest,
        "peer": record.peer,
        "mark": record.mark,
        "advice": record.mark.advice(),
    })
}
