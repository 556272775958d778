//! What encoding did, and what it would do: totals, analyses of memory and round trips over it.

use super::Context;
use super::api::find_migration;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::{aside, in_json};
use crate::encoding::HdeStats;
use crate::runtime::compression::{Sample, round_trips};
use crate::{Node, Status};
use serde_json::{Value, json};
use std::sync::Arc;

/// Pages of each guest that go through a test.
const TESTED_PAGES: u64 = 1000;
/// Guests whose memory goes through a test.
const MOST_TESTED_GUESTS: usize = 8;

/// `GET /v3/compression?migration=ID`.
pub(super) fn stats(context: &Context, request: &Request) -> Result<Value, ApiError> {
    request.allow(&["migration"], &[])?;
    let Some(id) = request.query("migration") else {
        return stats_json(&context.telemetry.encoding(), Value::Null);
    };
    let migration = find_migration(context, id)?;
    let encoding = migration.encoding().ok_or_else(|| {
        let text = format!("migration {id} arrives here; the node that sends it encodes it");
        ApiError::new(Status::BadState, text)
    })?;
    stats_json(&encoding, json!({ "id": migration.id(), "guest": migration.guest() }))
}

fn stats_json(stats: &HdeStats, migration: Value) -> Result<Value, ApiError> {
    let total = stats.total();
    Ok(json!({
        "migration": migration,
        "pages": total.pages,
        "raw_bytes": total.raw_bytes,
        "packed_bytes": total.packed_bytes,
        "compression_ratio": stats.ratio(),
        "delta_hit_rate": stats.delta_hit_rate(),
        "bytes_saved": {
            "zero": stats.zero.saved_bytes(),
            "duplicate": stats.duplicate.saved_bytes(),
            "delta": stats.delta.saved_bytes(),
            "codec": stats.fresh.saved_bytes(),
        },
        "encoding": in_json(stats)?,
    }))
}

/// `POST /v3/compression/analyze` with `guest` and `sample`.
pub(super) async fn analyze(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["guest", "sample"])?;
    let guest = request.scalar("guest")?;
    let pages = match request.scalar("sample")? {
        Some(text) => text.parse().map_err(|_| {
            ApiError::argument(format!("field sample is {text:?}; it must be a whole number"))
        })?,
        None => TESTED_PAGES,
    };
    let node = context.node.clone();
    aside(move || {
        let (guest, sample) = node.sample(guest.as_deref(), pages)?;
        let analysis = crate::runtime::compression::analyze(&sample);
        let analysis =
            analysis.map_err(|error| ApiError::new(Status::Corrupt, error.to_string()))?;
        let mut document = in_json(&analysis)?;
        document["guest"] = guest.into();
        Ok(document)
    })
    .await
}

/// `POST /v3/compression/test`: round trips over the memory of guests that run here.
pub(super) async fn test(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &[])?;
    let node = context.node.clone();
    aside(move || test_guests(&node)).await
}

fn test_guests(node: &Node) -> Result<Value, ApiError> {
    let (mut verdicts, mut skipped) = (Vec::new(), Vec::new());
    let guests = node.guests().into_iter().filter(|guest| guest.role == "source");
    for guest in guests.take(MOST_TESTED_GUESTS) {
        match node.sample(Some(&guest.name), TESTED_PAGES) {
            Ok((name, sample)) => verdicts.extend(test_sample(&name, &sample)?),
            Err(error) => {
                skipped.push(json!({ "guest": guest.name, "reason": error.to_string() }));
            }
        }
    }
    Ok(json!({ "verdicts": verdicts, "skipped": skipped }))
}

fn test_sample(guest: &str, sample: &Sample) -> Result<Vec<Value>, ApiError> {
    let verdicts = round_trips(&format!("guest {guest}"), sample);
    verdicts.iter().map(in_json).collect()
}
