//! `metrics`.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row};
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

pub async fn run(
    name: Option<&str>,
    component: Option<&str>,
    watch: bool,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let mut before = None;
    loop {
        let parameters = [("name", name), ("component", component)];
        let answer = client.query("/v3/metrics", &parameters).await?;
        if watch && output.to_terminal() && !output.json() {
            output.clear()?;
        }
        let values = show(&answer, before.as_ref(), output)?;
        if !watch {
            return Ok(());
        }
        before = Some(values);
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// Prints the metrics; gives the counters' values, for the growth shown next time.
fn show(
    answer: &Value,
    before: Option<&HashMap<String, f64>>,
    output: &Output,
) -> Result<HashMap<String, f64>, CliError> {
    let mut values = HashMap::new();
    if output.json() {
        output.value(answer)?;
        return Ok(values);
    }
    let mut rows = vec![row(["METRIC", "VALUE", "UNIT", "PER SECOND"])];
    for metric in answer["metrics"].as_array().into_iter().flatten() {
        let unit = metric["unit"].as_str().unwrap_or_default();
        for series in metric["series"].as_array().into_iter().flatten() {
            let name = series_name(metric, series);
            let mut growth = String::new();
            if metric["type"] == "counter"
                && let Some(value) = series["value"].as_f64()
            {
                let old = before.and_then(|before| before.get(&name));
                growth =
                    old.map_or(growth, |old| rounded((value - old) / WATCH_INTERVAL.as_secs_f64()));
                values.insert(name.clone(), value);
            }
            rows.push(vec![name, series_value(series), unit.to_owned(), growth]);
        }
    }
    output.table(&rows)?;
    Ok(values)
}

fn series_name(metric: &Value, series: &Value) -> String {
    let name = metric["name"].as_str().unwrap_or_default();
    let labels = series["labels"].as_object().into_iter().flatten();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

fn series_value(series: &Value) -> String {
    if let Some(value) = series["value"].as_f64() {
        return rounded(value);
    }
    let (count, sum) =
        (series["count"].as_f64().unwrap_or(0.0), series["sum"].as_f64().unwrap_or(0.0));
    match count > 0.0 {
        true => format!("{} observed, mean {}", rounded(count), rounded(sum / count)),
        false => "0 observed".to_owned(),
    }
}

fn rounded(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.4}") }
}

const WATCH_INTERVAL: Duration = Duration::from_secs(1);
