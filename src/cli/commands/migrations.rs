//! `migrations`, `cancel`, `post-copy` and `bandwidth`.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, bytes, row, text};
use serde_json::{Value, json};

pub async fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.get("/v3/migrations").await?;
    if output.json() {
        return output.value(&answer);
    }
    let mut rows = vec![row(["ID", "GUEST", "SIDE", "STATE", "SENT", "DOWNTIME", "GUEST IS AT"])];
    for migration in answer["migrations"].as_array().into_iter().flatten() {
        rows.push(describe(migration));
    }
    output.table(&rows)
}

pub async fn cancel(id: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let id = complete(id, client).await?;
    let migration = client.post(&format!("/v3/migrations/{id}/cancel"), json!({})).await?;
    if output.json() {
        return output.value(&migration);
    }
    match migration["report"].is_null() {
        true => output
            .line(&format!("migration {id} of {} is being cancelled", text(&migration["guest"]))),
        false => output.line(&format!(
            "migration {id} had already ended; the guest is at: {}",
            text(&migration["owner"])
        )),
    }
}

pub async fn post_copy(
    id: &str,
    abandon: bool,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let id = complete(id, client).await?;
    let body = json!({ "abandon": abandon });
    let migration = client.post(&format!("/v3/migrations/{id}/post-copy"), body).await?;
    if output.json() {
        return output.value(&migration);
    }
    let guest = text(&migration["guest"]);
    match abandon {
        true => output.line(&format!("guest {guest} of migration {id} is given up")),
        false => {
            output.line(&format!("guest {guest} of migration {id} goes on at the destination"))
        }
    }
}

pub async fn bandwidth(
    id: &str,
    limit: &str,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let id = complete(id, client).await?;
    let body = json!({ "limit": limit });
    let answer = client.post(&format!("/v3/migrations/{id}/bandwidth"), body).await?;
    if output.json() {
        return output.value(&answer);
    }
    output.line(&format!("migration {id}: bandwidth limit is now {limit}"))
}

fn describe(migration: &Value) -> Vec<String> {
    let (progress, report) = (&migration["progress"], &migration["report"]);
    let ended = !report.is_null();
    let state = if ended { text(&report["status"]) } else { text(&progress["phase"]) };
    let sent = if ended { &report["wire_bytes"] } else { &progress["wire_bytes"] };
    let downtime = report["downtime_ms"].as_f64().map(|ms| format!("{ms:.1} ms"));
    vec![
        text(&migration["id"]),
        text(&migration["guest"]),
        text(&migration["side"]),
        state,
        bytes(sent.as_u64().unwrap_or(0)),
        downtime.unwrap_or_else(|| "-".to_owned()),
        text(&migration["owner"]),
    ]
}

/// The full id of the one migration that begins like this.
pub(super) async fn complete(prefix: &str, client: &Client) -> Result<String, CliError> {
    let answer = client.get("/v3/migrations").await?;
    let list = answer["migrations"].as_array().into_iter().flatten();
    let mut ids: Vec<&str> = list.filter_map(|migration| migration["id"].as_str()).collect();
    ids.retain(|id| !prefix.is_empty() && id.starts_with(prefix));
    ids.dedup();
    match ids.as_slice() {
        [id] => Ok((*id).to_owned()),
        [] => Err(CliError::Argument(format!("no migration {prefix:?}"))),
        several => {
            let text =
                format!("{prefix:?} begins {} migrations: {}", several.len(), several.join(", "));
            Err(CliError::Argument(text))
        }
    }
}
