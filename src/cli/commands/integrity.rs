//! `data-integrity-check`.

use crate::cli::client::Client;
use crate::cli::error::{CliError, FAILED};
use crate::cli::output::{Output, row, text};

pub async fn run(client: &Client, output: &Output) -> Result<u8, CliError> {
    let answer = client.get("/v3/integrity").await?;
    let code = if answer["sound"] == true { 0 } else { FAILED };
    if output.json() {
        output.value(&answer)?;
        return Ok(code);
    }
    let mut rows = vec![row(["WHAT", "CHECKED", "FAILED", "SENT AGAIN", "VERDICT"])];
    let mut details = Vec::new();
    for check in answer["checks"].as_array().into_iter().flatten() {
        let verdict = if check["failed"] == 0 { "ok" } else { "FAILED" };
        let fields = ["what", "checked", "failed", "made_good"].map(|field| text(&check[field]));
        rows.push(fields.into_iter().chain([verdict.to_owned()]).collect());
        details.extend(check["details"].as_array().into_iter().flatten().map(text));
    }
    output.table(&rows)?;
    for detail in details {
        output.line(&detail)?;
    }
    Ok(code)
}
