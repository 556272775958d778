//! `status`.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use humantime::format_rfc3339_seconds;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

pub async fn run(verbose: bool, client: &Client, output: &Output) -> Result<(), CliError> {
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
    if verbose { details(&status, output) } else { Ok(()) }
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
    let mut rows = vec![row(["FLAG", "SET TO", "STATE"])];
    for flag in status["flags"].as_array().into_iter().flatten() {
        let in_use = flag["in_use"].as_bool().unwrap_or(false);
        let state = if in_use { "in use" } else { "not in use yet" };
        rows.push(vec![text(&flag["name"]), text(&flag["enabled"]), state.to_owned()]);
    }
    output.table(&rows)
}
