//! `events`.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, text};
use serde_json::Value;

pub async fn run(
    filter: Option<&str>,
    follow: bool,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let mut after = 0;
    let mut wait_ms = "0";
    loop {
        let position = u64::to_string(&after);
        let parameters =
            [("after", Some(&*position)), ("wait_ms", Some(wait_ms)), ("filter", filter)];
        let answer = client.query("/v3/events", &parameters).await?;
        let events = answer["events"].as_array().map_or(&[][..], Vec::as_slice);
        for event in events {
            show(event, output)?;
        }
        let last = answer["last"].as_u64().unwrap_or(after);
        // Without --follow, pages are read until there are no more.
        if !follow && events.is_empty() {
            return Ok(());
        }
        if events.is_empty() || last == after {
            wait_ms = FOLLOW_WAIT_MS;
        }
        after = last;
    }
}

fn show(event: &Value, output: &Output) -> Result<(), CliError> {
    if output.json() {
        return output.value(event);
    }
    let guest = event["guest"].as_str().map(|guest| format!(" guest={guest}"));
    output.line(&format!(
        "{} {:5} {} {}{}: {}",
        super::logs::time(event),
        text(&event["level"]),
        text(&event["component"]),
        text(&event["event"]),
        guest.unwrap_or_default(),
        text(&event["message"])
    ))
}

/// How long one request waits for news.
pub const FOLLOW_WAIT_MS: &str = "20000";
