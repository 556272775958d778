//! Where the process's memory is: what migrations hold, part by part, and the rest.

use super::Context;
use super::error::ApiError;
use crate::Migration;
use crate::Status;
use crate::migration::encoding_options::BASELINE_PAGES;
use crate::runtime::proc_files::process_status;
use serde_json::{Value, json};
use std::path::Path;

/// `GET /v3/baselines`.
pub(super) fn baselines(context: &Context) -> Value {
    let running = running(context);
    let rows: Vec<Value> = running
        .iter()
        .map(|migration| {
            let held = migration.footprint();
            json!({
                "id": migration.id(),
                "guest": migration.guest(),
                "side": migration.side(),
                "baselines": held.baseline_pages.div_ceil(BASELINE_PAGES),
                "limit": held.baseline_pages_limit / BASELINE_PAGES,
                "pages": held.baseline_pages,
                "bytes": held.baseline_bytes,
            })
        })
        .collect();
    let sum = |field: &str| rows.iter().filter_map(|row| row[field].as_u64()).sum::<u64>();
    json!({
        "baselines": sum("baselines"),
        "pages": sum("pages"),
        "bytes": sum("bytes"),
        "max_baselines": context.node.encoding().max_baselines,
        "migrations": rows,
    })
}

/// `GET /v3/memory`.
pub(super) fn breakdown(context: &Context) -> Result<Value, ApiError> {
    let mut parts = Vec::new();
    let mut add = |part: &str, migration: Option<&Migration>, bytes: u64| {
        if bytes > 0 {
            parts.push(json!({
                "part": part,
                "migration": migration.map(Migration::id),
                "guest": migration.map(Migration::guest),
                "bytes": bytes,
            }));
        }
    };
    for migration in &context.node.migrations() {
        let held = migration.footprint();
        add("baselines", Some(migration), held.baseline_bytes);
        add("segments under way", Some(migration), held.under_way_bytes);
        add("early segments", Some(migration), held.early_bytes);
        add("stream buffers", Some(migration), held.stream_bytes);
        add("page tables", Some(migration), held.page_table_bytes);
    }
    add("held pages", None, context.node.held_memory_bytes());
    add("event ring", None, context.node.event_bytes());
    add("log lines", None, context.telemetry.log_bytes());
    let accounted_bytes = parts.iter().filter_map(|part| part["bytes"].as_u64()).sum::<u64>();
    let rss_bytes = process_status(Path::new("/proc/self"), "VmRSS")
        .map_err(|error| ApiError::new(Status::Io, error.to_string()))?;
    Ok(json!({
        "rss_bytes": rss_bytes,
        "accounted_bytes": accounted_bytes,
        // What was taken and never touched is accounted for, but not resident.
        "rest_bytes": rss_bytes.saturating_sub(accounted_bytes),
        "parts": parts,
    }))
}

fn running(context: &Context) -> Vec<Migration> {
    let all = context.node.migrations().into_iter();
    all.filter(|migration| migration.report().is_none()).collect()
}
