//! `metrics --nodes`: figures of several nodes, one after another.

use super::{Growth, another_round, begin_round, rows_of};
use crate::cli::args::Metrics;
use crate::cli::client::Client;
use crate::cli::error::{CliError, FAILED};
use crate::cli::output::{Output, row, text};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Gives the exit code: it is a failure where nobody answers.
pub async fn run(
    nodes: &[String],
    options: &Metrics,
    client: &Client,
    output: &Output,
) -> Result<u8, CliError> {
    let mut body = json!({ "nodes": nodes.join(",") });
    for (field, value) in [("name", &options.name), ("component", &options.component)] {
        value.iter().for_each(|value| body[field] = value.as_str().into());
    }
    let mut growths = HashMap::new();
    loop {
        let answer = client.post("/v3/metrics/nodes", body.clone()).await?;
        begin_round(options, output)?;
        match output.json() {
            true => output.value(&answer)?,
            false => output.table(&table(&answer, &mut growths))?,
        }
        if !another_round(options).await {
            return Ok(if has_answer(&answer) { 0 } else { FAILED });
        }
    }
}

/// Whether any of them told something.
fn has_answer(answer: &Value) -> bool {
    answer["rows"].as_array().into_iter().flatten().any(|told| told["failure"].is_null())
}

/// A row for each series of each node, and one for each node that told nothing.
fn table(answer: &Value, growths: &mut HashMap<String, Growth>) -> Vec<Vec<String>> {
    let mut table = vec![row(["NODE", "METRIC", "VALUE", "UNIT", "PER SECOND"])];
    for told in answer["rows"].as_array().into_iter().flatten() {
        if let Some(failure) = told["failure"].as_str() {
            let failure = format!("no answer: {failure}");
            table.push(row([&place(told), "-", "-", "-", &failure]));
            continue;
        }
        let growth = growths.entry(text(&told["address"])).or_default();
        for figures in rows_of(told, growth) {
            table.push([vec![place(told)], figures].concat());
        }
    }
    table
}

fn place(told: &Value) -> String {
    match (told["node"].as_str(), told["address"].as_str()) {
        (Some(node), Some(address)) => format!("{node} at {address}"),
        (Some(node), None) => node.to_owned(),
        (None, Some(address)) => address.to_owned(),
        (None, None) => "this node".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_a_row_between_the_others() {
        let told = |address: Value, value: u64| {
            let series = json!([{ "labels": {}, "value": value }]);
            let metric =
                json!({ "name": "a.b", "type": "gauge", "unit": "count", "series": series });
            json!({ "node": "n", "address": address, "time_us": 1, "metrics": [metric] })
        };
        let dead = json!({ "address": "h:1", "failure": "Connection refused" });
        assert!(!has_answer(&json!({ "rows": [dead] })));
        let answer = json!({ "rows": [told(Value::Null, 1), dead, told("h:2".into(), 2)] });
        assert!(has_answer(&answer));
        let table = table(&answer, &mut HashMap::new());
        assert_eq!(table[1][..3], ["n", "a.b", "1"]);
        assert_eq!(table[2], ["h:1", "-", "-", "-", "no answer: Connection refused"]);
        assert_eq!(table[3][..3], ["n at h:2", "a.b", "2"]);
    }
}
