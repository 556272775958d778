//! Whether what the node keeps and moved is as it was: records, the log of the flags, remembered and held
//! pages, images, arrivals.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::{aside, in_json};
use crate::migration::ownership::Record;
use crate::node::catalog::Metric;
use crate::runtime::held::{DamagedSection, HeldCheck};
use crate::runtime::state_file::StateFile;
use crate::{Node, Status};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// One kind of thing that was looked at.
#[derive(Debug, Default, Serialize)]
struct Check {
    what: &'static str,
    /// How many; none where only failures are counted.
    checked: Option<u64>,
    failed: u64,
    /// Came damaged, was noticed and sent again.
    made_good: u64,
    /// What is known of the failures.
    details: Vec<String>,
}

/// `GET /v3/integrity`.
pub(super) async fn check(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &[])?;
    let context = context.clone();
    aside(move || document(&context)).await
}

fn document(context: &Context) -> Result<Value, ApiError> {
    let checks = [
        records(context.node.state_dir()),
        remembered(&context.node),
        images(context),
        arrivals(context),
        held(&context.node),
        flag_log(&context.node),
    ];
    let sound = checks.iter().all(|check| check.failed == 0);
    Ok(json!({ "sound": sound, "checks": in_json(&checks)? }))
}

/// The ownership records: each has a checksum.
fn records(directory: Option<&Path>) -> Check {
    let mut check = Check { what: "ownership records", checked: Some(0), ..Check::default() };
    let Some(directory) = directory else { return check };
    let files = match StateFile::list(directory) {
        Ok(files) => files,
        Err(error) => return Check { failed: 1, details: vec![error.to_string()], ..check },
    };
    check.checked = Some(files.len() as u64);
    for (migration, side) in files {
        let text = match StateFile::check(directory, migration, side) {
            Ok(Some(content)) => Record::decode(&content).err().map(|error| error.to_string()),
            // Made, and nothing was written yet; or gone since, as when a migration ends.
            Ok(None) => None,
            Err(error) if is_gone(&error) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(text) = text {
            check.failed += 1;
            check.details.push(format!("{migration}, {}: {text}", side.name()));
        }
    }
    check
}

fn is_gone(error: &crate::runtime::state_file::StateFileError) -> bool {
    use crate::runtime::state_file::StateFileError::Io;
    matches!(error, Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// The log of the feature flags: a chain of hashes.
fn flag_log(node: &Node) -> Check {
    let (checked, details) = match node.rollout().verify_log() {
        Ok(entries) => (entries, Vec::new()),
        Err(error) => (0, vec![error.to_string()]),
    };
    let failed = details.len() as u64;
    Check { what: "changes of flags", checked: Some(checked), failed, made_good: 0, details }
}

/// Pages that running migrations remember: at the sending side each has its hash.
fn remembered(node: &Node) -> Check {
    let mut check = Check { what: "remembered pages", ..Check::default() };
    let mut checked = 0;
    for migration in node.migrations() {
        let (pages, differing) = migration.verify_baselines();
        checked += pages;
        check.failed += differing;
        if differing > 0 {
            let guest = migration.guest();
            check.details.push(format!("{differing} of {pages} pages of {guest} have changed"));
        }
    }
    Check { checked: Some(checked), ..check }
}

/// Images: both sides' digests were equal, or the migration failed.
fn images(context: &Context) -> Check {
    let reports = context.node.migrations().into_iter().filter_map(|of| of.report());
    let moved: Vec<_> = reports.filter(|report| report.status == Status::Ok).collect();
    let without = moved.iter().filter(|report| report.digest.is_empty());
    let mut details: Vec<String> =
        without.map(|report| format!("{} of {} has no digest", report.id, report.guest)).collect();
    let unproved = details.len() as u64;
    let differing = ended(context, Status::DigestMismatch);
    if differing > 0 {
        details
            .push(format!("{differing} migrations ended with {}", Status::DigestMismatch.name()));
    }
    Check {
        what: "images that moved",
        checked: Some(moved.len() as u64 + differing),
        failed: unproved + differing,
        made_good: 0,
        details,
    }
}

/// Chunks and segments that came with another checksum than they were sent with.
fn arrivals(context: &Context) -> Check {
    let failed = ended(context, Status::Corrupt);
    let text = format!("{failed} migrations ended with {}", Status::Corrupt.name());
    Check {
        what: "chunks and segments",
        checked: None,
        failed,
        made_good: context.telemetry.value(Metric::HdeChunksDamaged, "") as u64,
        details: (failed > 0).then_some(text).into_iter().collect(),
    }
}

/// Pages that the host keeps of guests that left or came, wherever they are kept.
fn held(node: &Node) -> Check {
    let HeldCheck { checked, damaged } = node.check_held();
    let detail = |of: &DamagedSection| {
        let DamagedSection { guest, number, damaged_pages, pages, reason } = of;
        format!("{damaged_pages} of {pages} pages of {guest}, section {number}: {reason}; dropped")
    };
    Check {
        what: "held pages",
        checked: Some(checked.pages),
        failed: damaged.iter().map(|section| section.damaged_pages).sum(),
        made_good: 0,
        details: damaged.iter().map(detail).collect(),
    }
}

/// Migrations that ended so since the node's start.
fn ended(context: &Context, status: Status) -> u64 {
    context.telemetry.value(Metric::MigrationEnded, status.name()) as u64
}
