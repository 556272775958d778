//! `guests`.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, bytes, row, text};

pub async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.get("/v3/guests").await?;
    if output.json() {
        return output.value(&answer);
    }
    let mut rows = vec![row(["GUEST", "ROLE", "MEMORY", "MIGRATION"])];
    for guest in answer["guests"].as_array().into_iter().flatten() {
        let memory = bytes(guest["ram_bytes"].as_u64().unwrap_or(0));
        let [name, role, migration] =
            ["name", "role", "migration"].map(|field| text(&guest[field]));
        rows.push(vec![name, role, memory, migration]);
    }
    if rows.len() == 1 {
        output.note("no guest is registered on this node");
    }
    output.table(&rows)
}
