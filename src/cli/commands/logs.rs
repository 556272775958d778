//! `logs`.

use super::events::FOLLOW_WAIT_MS;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, text};
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

pub async fn run(
    component: Option<&str>,
    level: Option<&str>,
    follow: bool,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let mut after = 0;
    loop {
        let position = u64::to_string(&after);
        let wait_ms = if after > 0 && follow { FOLLOW_WAIT_MS } else { "0" };
        let parameters = [
            ("after", Some(&*position)),
            ("wait_ms", Some(wait_ms)),
            ("component", component),
            ("level", level),
        ];
        let answer = client.query("/v3/logs", &parameters).await?;
        for record in answer["records"].as_array().into_iter().flatten() {
            show(record, output)?;
        }
        if !follow {
            return Ok(());
        }
        after = answer["last"].as_u64().unwrap_or(after).max(1);
    }
}

/// The time of an event or log line, as text.
pub fn time(record: &Value) -> String {
    let time_us = record["time_us"].as_u64().unwrap_or(0);
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(time_us)).to_string()
}

fn show(record: &Value, output: &Output) -> Result<(), CliError> {
    if output.json() {
        return output.value(record);
    }
    let about = ["guest", "migration"]
        .into_iter()
        .filter_map(|field| record[field].as_str().map(|value| format!(" {field}={value}")));
    output.line(&format!(
        "{} {:5} {}{}: {}",
        time(record),
        text(&record["level"]),
        text(&record["component"]),
        about.collect::<String>(),
        text(&record["message"])
    ))
}
