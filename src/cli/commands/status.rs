//! `status`, and what it checks instead: modes, and compatibility with v1.

use super::{modes, v1};
use crate::cli::args::Status;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use humantime::format_rfc3339_seconds;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

pub async fn run(options: &Status, client: &Client, output: &Output) -> Result<(), CliError> {
    if options.check_compatibility {
        return v1::compatibility(options.peer.as_deref(), client, output).await;
    }
    if options.check_mode {
        return modes::check(client, output).await;
    }
    let status = client.get("/v3/status").await?;
    if output.json() {
        return output.value(&status);
    }
    let node = &status["node"];
    output.line(&format!(
        "node {}, libdwcp {}, process {}, up {:.0} s",
        text(&node["name"]),
        text(&status["version"]),
        node["process"],
        node["uptime_ms"].as_f64().unwrap_or(0.0) / 1e3
    ))?;
    output.line(&format!("accepts migrations at: {}", text(&node["listen"])))?;
    let security = &node["security"];
    let until = security["certificate"]["not_after_s"].as_u64().map_or(String::new(), |until_s| {
        let until = UNIX_EPOCH + Duration::from_secs(until_s);
        format!(", certificate valid until {}", format_rfc3339_seconds(until))
    });
    output.line(&format!("connections: {}{until}", text(&security["transport"])))?;
    output.line(&format!("guests: {}", status["guests"]))?;
    let migrations = &status["migrations"];
    output.line(&format!(
        "migrations: {} running, {} ended",
        migrations["running"], migrations["ended"]
    ))?;
    output.line(&format!("configuration: {}", text(&status["config"])))?;
    if options.verbose { details(&status, output) } else { Ok(()) }
}

fn details(status: &Value, output: &Output) -> Result<(), CliError> {
    output.line("")?;
    let mut rows = vec![row(["COMPONENT", "PURPOSE", "STATE"])];
    for component in status["components"].as_array().into_iter().flatten() {
        let fields = ["name", "title", "state"].map(|field| text(&component[field]));
        rows.push(fields.to_vec());
    }
    output.table(&rows)?;
    output.line("")?;
    let mut rows = vec![row(["FLAG", "ENABLED", "PERCENT", "STATE"])];
    for flag in status["flags"].as_array().into_iter().flatten() {
        let state = match (&flag["in_use"], &flag["is_latched"], &flag["is_in_force"]) {
            (Value::Bool(false), ..) => "not built yet",
            (_, Value::Bool(true), _) => "rolled back",
            (.., Value::Bool(true)) => "in force",
            _ => "off",
        };
        let fields = ["name", "enabled", "rollout_percent"].map(|field| text(&flag[field]));
        rows.push([&fields[..], &[state.to_owned()]].concat());
    }
    output.table(&rows)
}
