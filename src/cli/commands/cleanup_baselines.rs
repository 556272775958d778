//! `cleanup-baselines`: lets go of pages that the node keeps of earlier migrations.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, bytes};
use serde_json::{Map, Value};

pub async fn run(
    older_than: Option<String>,
    guest: Option<String>,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let fields = [("older_than", older_than), ("guest", guest)];
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let body: Map<String, Value> = given.map(|(name, value)| (name, value.into())).collect();
    let gone = client.post("/v3/held/clear", body.into()).await?;
    if output.json() {
        return output.value(&gone);
    }
    let number = |field: &str| gone[field].as_u64().unwrap_or(0);
    let (pages, size) = (number("pages"), bytes(number("bytes")));
    output.line(&format!("let go of {pages} pages, {size}, of {} migrations", number("sections")))
}
