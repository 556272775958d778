//! `v1`, and `status --check-compatibility`.

use crate::cli::args::V1;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use serde_json::{Value, json};

pub async fn run(command: V1, client: &Client, output: &Output) -> Result<(), CliError> {
    let V1::Listen { address, guest, dialect } = command;
    let mut body = json!({ "address": address });
    for (field, value) in [("guest", guest), ("dialect", dialect)] {
        value.into_iter().for_each(|value| body[field] = value.into());
    }
    let answer = client.post("/v3/v1/listen", body).await?;
    if output.json() {
        return output.value(&answer);
    }
    let (listen, dialect) = (text(&answer["listen"]), text(&answer["dialect"]));
    output.line(&format!("v1 peers may connect at {listen}, by dialect {dialect}, in plain"))
}

/// `status --check-compatibility`.
pub async fn compatibility(
    peer: Option<&str>,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let answer = client.query("/v3/compatibility", &[("peer", peer)]).await?;
    if output.json() {
        return output.value(&answer);
    }
    let losses: Vec<_> = answer["losses"].as_array().into_iter().flatten().collect();
    output.line(&format!(
        "node {}: a v1 peer does without {} of what is switched on here",
        text(&answer["node"]),
        losses.len()
    ))?;
    let mut rows = vec![row(["LOST", "MATTERS FOR", "WITHOUT IT"])];
    for loss in losses {
        rows.push(["feature", "severity", "consequence"].map(|field| text(&loss[field])).to_vec());
    }
    output.table(&rows)?;
    output.line("")?;
    output.line(&match answer["listen"].as_str() {
        Some(listen) => format!("v1 peers may connect at {listen} ({})", text(&answer["dialect"])),
        None => "v1 peers may not connect here: no v1 port is open".to_owned(),
    })?;
    peers(&answer, output)
}

fn peers(answer: &Value, output: &Output) -> Result<(), CliError> {
    let mut rows = vec![row(["PEER", "MODE", "MIGRATES BY", "LOST", "FLAGS", "WHY NOT"])];
    for peer in answer["peers"].as_array().into_iter().flatten() {
        let by = match peer["migrates_by"].as_str() {
            Some("none") => "refused".to_owned(),
            _ => text(&peer["migrates_by"]),
        };
        let lost = peer["lost"].as_array().map_or(0, Vec::len);
        let why = peer["reason"].as_str().unwrap_or_default().to_owned();
        let flags = peer["flags"].as_object().into_iter().flatten();
        let on = flags.filter(|(_, decision)| decision["is_on"] == true);
        let on: Vec<_> = on.map(|(name, _)| name.as_str()).collect();
        let on = if on.is_empty() { "none".to_owned() } else { on.join(" ") };
        rows.push(vec![text(&peer["peer"]), text(&peer["mode"]), by, lost.to_string(), on, why]);
    }
    if rows.len() == 1 {
        output.note("no peer is known yet; name one by --peer HOST:PORT");
        return Ok(());
    }
    output.table(&rows)
}
