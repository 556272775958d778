//! `metrics`: this node's, those of other nodes, and against a baseline.

mod baseline;
mod nodes;

use crate::cli::args::Metrics;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Gives the exit code.
pub async fn run(options: &Metrics, client: &Client, output: &Output) -> Result<u8, CliError> {
    if let Some(nodes) = &options.nodes {
        return nodes::run(nodes, options, client, output).await;
    }
    if let Some(path) = &options.save {
        save(path, options, client, output).await?;
    } else if let Some(path) = &options.baseline {
        baseline::run(path, options, client, output).await?;
    } else {
        own(options, client, output).await?;
    }
    Ok(0)
}

async fn own(options: &Metrics, client: &Client, output: &Output) -> Result<(), CliError> {
    let mut growth = Growth::default();
    loop {
        let answer = fetch(options, client).await?;
        begin_round(options, output)?;
        match output.json() {
            true => output.value(&answer)?,
            false => output.table(&table(&answer, &mut growth))?,
        }
        if !another_round(options).await {
            return Ok(());
        }
    }
}

/// This node's metrics, with the times that belong to them.
async fn fetch(options: &Metrics, client: &Client) -> Result<Value, CliError> {
    let parameters =
        [("name", options.name.as_deref()), ("component", options.component.as_deref())];
    client.query("/v3/metrics", &parameters).await
}

/// Writes what `metrics --json` prints, for `--baseline`.
async fn save(
    path: &Path,
    options: &Metrics,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let answer = fetch(options, client).await?;
    std::fs::write(path, format!("{answer}\n"))
        .map_err(|source| CliError::File { path: path.to_owned(), source })?;
    match output.json() {
        true => output.value(&answer),
        false => output.line(&format!("written to {}", path.display())),
    }
}

/// A person who watches sees the latest figures alone.
fn begin_round(options: &Metrics, output: &Output) -> Result<(), CliError> {
    match options.watch && output.to_terminal() && !output.json() {
        true => output.clear(),
        false => Ok(()),
    }
}

/// Waits for the next round, if there is to be one.
async fn another_round(options: &Metrics) -> bool {
    if options.watch {
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
    options.watch
}

/// How fast counters of one node grow.
#[derive(Default)]
struct Growth {
    before: HashMap<String, f64>,
    before_us: Option<f64>,
    now: HashMap<String, f64>,
    now_us: Option<f64>,
}

impl Growth {
    /// Figures of this time follow.
    fn begin(&mut self, time_us: Option<f64>) {
        self.before = std::mem::take(&mut self.now);
        self.before_us = std::mem::replace(&mut self.now_us, time_us);
    }

    /// Takes a counter's value; by how much it grew in a second since the last figures.
    fn per_second(&mut self, name: &str, value: f64) -> Option<f64> {
        self.now.insert(name.to_owned(), value);
        let seconds = (self.now_us? - self.before_us?) / 1e6;
        let grown = value - self.before.get(name)?;
        // A clock that was set back, or a node that began anew, tells nothing.
        (seconds > 0.0 && grown >= 0.0).then_some(grown / seconds)
    }
}

fn table(answer: &Value, growth: &mut Growth) -> Vec<Vec<String>> {
    let mut rows = vec![row(["METRIC", "VALUE", "UNIT", "PER SECOND"])];
    rows.extend(rows_of(answer, growth));
    rows
}

/// A row for each series: name, value, unit, growth.
fn rows_of(answer: &Value, growth: &mut Growth) -> Vec<Vec<String>> {
    growth.begin(answer["time_us"].as_f64());
    let mut rows = Vec::new();
    for metric in answer["metrics"].as_array().into_iter().flatten() {
        let unit = metric["unit"].as_str().unwrap_or_default();
        for series in metric["series"].as_array().into_iter().flatten() {
            let name = series_name(metric, series);
            let counted = series["value"].as_f64().filter(|_| metric["type"] == "counter");
            let grown = counted.and_then(|value| growth.per_second(&name, value));
            let grown = grown.map_or_else(String::new, rounded);
            rows.push(vec![name, series_value(series), unit.to_owned(), grown]);
        }
    }
    rows
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

/// Whole numbers as they are, others with four decimals, or as many digits where they are small.
fn rounded(value: f64) -> String {
    match value {
        value if value.fract() == 0.0 => format!("{value:.0}"),
        value if value.abs() < 0.01 => format!("{value:.7}"),
        value => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(time_us: u64, value: u64) -> Value {
        let series = json!([{ "labels": { "side": "source" }, "value": value }]);
        let wire =
            json!({ "name": "amst.wire", "type": "counter", "unit": "bytes", "series": series });
        json!({ "time_us": time_us, "metrics": [wire] })
    }

    #[test]
    fn counters_grow_by_the_nodes_own_clock() {
        let mut growth = Growth::default();
        let mut grown =
            |time_us, value| rows_of(&answer(time_us, value), &mut growth)[0][3].clone();
        assert_eq!(grown(1_000_000, 100), "");
        assert_eq!(grown(5_000_000, 140), "10");
        assert_eq!(grown(4_000_000, 150), "", "the clock was set back");
        assert_eq!(grown(6_000_000, 3), "", "it began anew");
        assert_eq!(grown(8_000_000, 4), "0.5000");
    }

    #[test]
    fn small_figures_keep_their_digits() {
        assert_eq!(["3", "0.5000", "0.0000912"], [3.0, 0.5, 0.000_091_2].map(rounded)[..]);
    }
}
