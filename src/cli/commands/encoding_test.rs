//! `encoding-test`.

use crate::cli::client::Client;
use crate::cli::error::{CliError, FAILED};
use crate::cli::output::{Output, bytes, number, row, text};
use crate::runtime::compression::round_trip::{generated, round_trips};
use serde_json::{Value, json};

pub async fn run(enable_ml: bool, client: &Client, output: &Output) -> Result<u8, CliError> {
    let mut verdicts = Vec::new();
    for (memory, sample) in generated() {
        for verdict in round_trips(memory, &sample) {
            let verdict = serde_json::to_value(verdict);
            verdicts.push(verdict.map_err(|error| CliError::Answer(error.to_string()))?);
        }
    }
    let (guests, node) = match client.post("/v3/compression/test", json!({})).await {
        Ok(answer) => (answer, Value::Null),
        Err(CliError::Unreachable { socket, .. }) => (Value::Null, json!(socket)),
        Err(error) => return Err(error),
    };
    let skipped = guests["skipped"].as_array().cloned().unwrap_or_default();
    verdicts.extend(guests["verdicts"].as_array().cloned().unwrap_or_default());
    let failed = verdicts.iter().filter(|verdict| !verdict["failure"].is_null()).count();
    if output.json() {
        output.value(&json!({
            "passed": failed == 0,
            "failed": failed,
            "selector": "cost",
            "learned_selector": enable_ml.then_some(NO_LEARNED_SELECTOR),
            "no_node_at": node,
            "skipped": skipped,
            "verdicts": verdicts,
        }))?;
        return Ok(if failed == 0 { 0 } else { FAILED });
    }
    output.table(&rows(&verdicts))?;
    for guest in skipped {
        output.line(&format!(
            "guest {} was left out: {}",
            text(&guest["guest"]),
            text(&guest["reason"])
        ))?;
    }
    if !node.is_null() {
        output.note(&format!("no node answers at {}: generated memory only", text(&node)));
    }
    if enable_ml {
        output.line(NO_LEARNED_SELECTOR)?;
    }
    match failed {
        0 => output.line(&format!("{} of {} came back equal", verdicts.len(), verdicts.len()))?,
        failed => output.line(&format!("{failed} of {} FAILED", verdicts.len()))?,
    }
    Ok(if failed == 0 { 0 } else { FAILED })
}

const NO_LEARNED_SELECTOR: &str =
    "no learned selector is built yet; the cost selector chose in its place";

fn rows(verdicts: &[Value]) -> Vec<Vec<String>> {
    let titles = ["MEMORY", "WHAT", "BYTES", "PACKED", "ENCODE MB/S", "DECODE MB/S", "VERDICT"];
    let mut rows = vec![row(titles)];
    for verdict in verdicts {
        let count = |field: &str| bytes(verdict[field].as_u64().unwrap_or(0));
        rows.push(vec![
            text(&verdict["memory"]),
            text(&verdict["what"]),
            count("raw_bytes"),
            count("packed_bytes"),
            number(&verdict["encode_mb_per_s"], 0),
            number(&verdict["decode_mb_per_s"], 0),
            verdict["failure"].as_str().map_or("ok".to_owned(), |why| format!("FAILED: {why}")),
        ]);
    }
    rows
}
