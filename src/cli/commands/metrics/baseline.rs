//! `metrics --baseline`: now, then, and their ratio.

use super::{another_round, begin_round, fetch, rounded, series_name};
use crate::cli::args::Metrics;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// As many names as a note has room for.
const MAX_NOTED_NAMES: usize = 5;

pub async fn run(
    path: &Path,
    options: &Metrics,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let refuse = |reason| CliError::Baseline { path: path.to_owned(), reason };
    let then = read(path).and_then(|text| Figures::parse(&text)).map_err(refuse)?;
    let all = client.get("/v3/metrics").await?;
    let all = Figures::of_document(&all).map_err(CliError::Answer)?;
    let strangers = then.strangers(&all).map_err(refuse)?;
    if !strangers.is_empty() && !output.json() {
        output.note(&format!("{}: {}", path.display(), no_metrics(&strangers)));
    }
    loop {
        let now = fetch(options, client).await?;
        let now = Figures::of_document(&now).map_err(CliError::Answer)?;
        let rows = compare(&now, &then);
        if rows.is_empty() {
            return Err(refuse("it says nothing of the metrics that are asked for".to_owned()));
        }
        begin_round(options, output)?;
        match output.json() {
            true => output.value(&json!({
                "baseline": path.display().to_string(),
                "then_us": then.times.map(|times| times.taken_us),
                "now_us": now.times.map(|times| times.taken_us),
                "not_metrics": strangers,
                "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            }))?,
            false => output.table(&table(&rows))?,
        }
        if !another_round(options).await {
            return Ok(());
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    match text.len() as u64 > MAX_FILE_BYTES {
        true => Err(format!("it is longer than {MAX_FILE_BYTES} bytes")),
        false => Ok(text),
    }
}

fn no_metrics(names: &[String]) -> String {
    let quoted: Vec<_> =
        names.iter().take(MAX_NOTED_NAMES).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(MAX_NOTED_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("no metric here is called {}{more}", quoted.join(" or "))
}

/// When figures were taken, and since when counters counted, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    since_us: f64,
    taken_us: f64,
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// Of a file that does not say what it is.
    Plain(f64),
    Counter(f64),
    Gauge(f64),
    Histogram {
        count: f64,
        sum: f64,
    },
}

/// Figures by series, as they were at one time.
#[derive(Debug, Default)]
struct Figures {
    times: Option<Times>,
    /// By metric and series; a series without label is called as its metric.
    series: BTreeMap<String, BTreeMap<String, Figure>>,
    units: BTreeMap<String, String>,
}

impl Figures {
    /// Of a file: the document of `metrics --json`, or an object of names and numbers.
    fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let Value::Object(fields) = &value else {
            return Err("it is no JSON object".to_owned());
        };
        if fields.get("metrics").is_some_and(Value::is_array) {
            return Self::of_document(&value);
        }
        let mut figures = Self::default();
        for (name, value) in fields {
            let number = value.as_f64().filter(|number| number.is_finite());
            let number = number.ok_or_else(|| format!("{name:?} is not a number"))?;
            let metric = name.split('{').next().unwrap_or_default();
            figures.add(metric, name, Figure::Plain(number));
        }
        match fields.is_empty() {
            true => Err("it holds no figure".to_owned()),
            false => Ok(figures),
        }
    }

    fn of_document(document: &Value) -> Result<Self, String> {
        let time = |field: &str| document[field].as_f64();
        let times = time("since_us").zip(time("time_us"));
        let times = times.map(|(since_us, taken_us)| Times { since_us, taken_us });
        // One that was taken before it began has a clock that was set back.
        let times = times.filter(|times| times.taken_us > times.since_us);
        let mut figures = Self { times, ..Self::default() };
        for metric in document["metrics"].as_array().into_iter().flatten() {
            let name = metric["name"].as_str().ok_or("a metric has no name")?;
            figures.units.insert(name.to_owned(), text(&metric["unit"]));
            figures.series.entry(name.to_owned()).or_default();
            for series in metric["series"].as_array().into_iter().flatten() {
                let figure = figure(metric, series);
                let figure =
                    figure.ok_or_else(|| format!("{name:?} has a series without value"))?;
                figures.add(name, &series_name(metric, series), figure);
            }
        }
        Ok(figures)
    }

    fn add(&mut self, metric: &str, series: &str, figure: Figure) {
        self.series.entry(metric.to_owned()).or_default().insert(series.to_owned(), figure);
    }

    /// Whether what is not there never counted.
    fn is_document(&self) -> bool {
        !self.units.is_empty()
    }

    /// Names that are none of these metrics'.
    ///
    /// # Errors
    /// All of them are.
    fn strangers(&self, known: &Self) -> Result<Vec<String>, String> {
        let is_stranger = |metric: &&String| !known.series.contains_key(*metric);
        let strangers: Vec<String> = self.series.keys().filter(is_stranger).cloned().collect();
        match strangers.len() == self.series.len() {
            true => Err(no_metrics(&strangers)),
            false => Ok(strangers),
        }
    }

    /// The figure of a series; that of a metric with labels by its bare name is the sum of all.
    fn get(&self, metric: &str, series: &str) -> Option<Figure> {
        let known = self.series.get(metric)?;
        let sum = || known.values().copied().reduce(Figure::plus).filter(|_| metric == series);
        known.get(series).copied().or_else(sum)
    }
}

fn figure(metric: &Value, series: &Value) -> Option<Figure> {
    if let (Some(count), Some(sum)) = (series["count"].as_f64(), series["sum"].as_f64()) {
        return Some(Figure::Histogram { count, sum });
    }
    let value = series["value"].as_f64()?;
    Some(if metric["type"] == "counter" { Figure::Counter(value) } else { Figure::Gauge(value) })
}

impl Figure {
    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Counter(one), Self::Counter(other)) => Self::Counter(one + other),
            (
                Self::Histogram { count, sum },
                Self::Histogram { count: other_count, sum: other_sum },
            ) => Self::Histogram { count: count + other_count, sum: sum + other_sum },
            (one, other) => Self::Gauge(one.plain().unwrap_or(0.0) + other.plain().unwrap_or(0.0)),
        }
    }

    /// Of a histogram, what was observed since the earlier one.
    fn minus(self, earlier: Self) -> Self {
        match (self, earlier) {
            (
                Self::Histogram { count, sum },
                Self::Histogram { count: earlier_count, sum: earlier_sum },
            ) => Self::Histogram { count: count - earlier_count, sum: sum - earlier_sum },
            (now, _) => now,
        }
    }

    /// As one number; none: nothing was observed.
    fn plain(self) -> Option<f64> {
        match self {
            Self::Plain(value) | Self::Counter(value) | Self::Gauge(value) => Some(value),
            Self::Histogram { count, sum } => (count > 0.0).then(|| sum / count),
        }
    }
}

/// One comparison.
#[derive(Debug, PartialEq)]
struct Row {
    series: String,
    unit: String,
    now: Option<f64>,
    then: Option<f64>,
}

impl Row {
    /// None where one of them is missing, or there was nothing then.
    fn ratio(&self) -> Option<f64> {
        self.now.zip(self.then).filter(|(_, then)| *then != 0.0).map(|(now, then)| now / then)
    }

    fn to_json(&self) -> Value {
        let (now, then, ratio) = (self.now, self.then, self.ratio());
        json!({ "name": self.series, "unit": self.unit, "now": now, "then": then, "ratio": ratio })
    }
}

fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let mut table = vec![row(["METRIC", "NOW", "THEN", "RATIO", "UNIT"])];
    let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), rounded);
    for row in rows {
        let ratio = row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let (now, then) = (number(row.now), number(row.then));
        table.push(vec![row.series.clone(), now, then, ratio, row.unit.clone()]);
    }
    table
}

/// A row for each series of both, in order of names.
fn compare(now: &Figures, then: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    for (metric, told) in &then.series {
        let unit = now.units.get(metric).map_or("", String::as_str);
        let Some(known) = now.series.get(metric) else { continue };
        // What never counted is not shown by a node, and is 0.
        for series in told.keys().chain(known.keys().filter(|series| !told.contains_key(*series))) {
            let (after, before) = (now.get(metric, series), then.get(metric, series));
            let after = after.or_else(|| nothing(before?));
            let before = before.or_else(|| nothing(after?).filter(|_| then.is_document()));
            let (Some(after), Some(before)) = (after, before) else { continue };
            rows.push(row_of(series, unit, (after, now.times), (before, then.times)));
        }
    }
    rows
}

/// Of a counter that is not shown.
fn nothing(like: Figure) -> Option<Figure> {
    match like {
        Figure::Plain(_) | Figure::Counter(_) => Some(Figure::Counter(0.0)),
        Figure::Gauge(_) | Figure::Histogram { .. } => None,
    }
}

fn row_of(
    series: &str,
    unit: &str,
    (now, now_times): (Figure, Option<Times>),
    (then, then_times): (Figure, Option<Times>),
) -> Row {
    let series = series.to_owned();
    let times = now_times.zip(then_times);
    // A node that has not begun anew since: what came after the file was written counts.
    let after = times.filter(|(now, then)| now.since_us == then.since_us);
    match (now, then, times) {
        (Figure::Counter(value), Figure::Counter(old), Some((at, was))) => {
            let (from_us, base) = after.map_or((at.since_us, 0.0), |_| (was.taken_us, old));
            Row {
                series,
                unit: format!("{unit} a second"),
                now: per_second(value - base, from_us, at.taken_us),
                then: per_second(old, was.since_us, was.taken_us),
            }
        }
        _ => {
            let newer = after.map_or(now, |_| now.minus(then));
            Row { series, unit: unit.to_owned(), now: newer.plain(), then: then.plain() }
        }
    }
}

fn per_second(grown: f64, from_us: f64, to_us: f64) -> Option<f64> {
    (to_us > from_us).then(|| grown / ((to_us - from_us) / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(since_us: u64, time_us: u64, wire: u64, waits: (u64, f64)) -> Value {
        let labels = |value: &str| json!({ "side": value });
        json!({ "since_us": since_us, "time_us": time_us, "metrics": [
            { "name": "amst.wire", "type": "counter", "unit": "bytes", "series": [
                { "labels": labels("source"), "value": wire },
                { "labels": labels("destination"), "value": 0 } ] },
            { "name": "migration.downtime", "type": "histogram", "unit": "seconds", "series": [
                { "labels": labels("source"), "count": waits.0, "sum": waits.1 } ] },
            { "name": "hde.compression_ratio", "type": "gauge", "unit": "ratio", "series": [
                { "labels": {}, "value": 3 } ] },
        ] })
    }

    fn rows(now: &Value, then: &str) -> Vec<Row> {
        compare(&Figures::of_document(now).unwrap(), &Figures::parse(then).unwrap())
    }

    fn found(rows: &[Row], series: &str) -> (Option<f64>, Option<f64>, Option<f64>) {
        let row = rows.iter().find(|row| row.series == series).unwrap();
        (row.now, row.then, row.ratio())
    }

    #[test]
    fn counters_are_compared_as_rates_and_histograms_by_their_means() {
        let then = document(1_000_000, 11_000_000, 1_000, (4, 1.0)).to_string();
        let other_run = document(50_000_000, 55_000_000, 1_000, (2, 1.0));
        let compared = rows(&other_run, &then);
        let wire = "amst.wire{side=source}";
        assert_eq!(found(&compared, wire), (Some(200.0), Some(100.0), Some(2.0)));
        let downtime = "migration.downtime{side=source}";
        assert_eq!(found(&compared, downtime), (Some(0.5), Some(0.25), Some(2.0)));
        assert_eq!(found(&compared, "hde.compression_ratio"), (Some(3.0), Some(3.0), Some(1.0)));
        let idle = found(&compared, "amst.wire{side=destination}");
        assert_eq!(idle, (Some(0.0), Some(0.0), None), "nothing of nothing is no ratio");
        assert_eq!(compared[0].unit, "bytes a second");
    }

    #[test]
    fn of_a_node_that_went_on_only_what_came_since_counts() {
        let then = document(1_000_000, 11_000_000, 1_000, (4, 1.0)).to_string();
        let same_run = document(1_000_000, 21_000_000, 1_500, (5, 3.0));
        let compared = rows(&same_run, &then);
        let wire = found(&compared, "amst.wire{side=source}");
        assert_eq!(wire, (Some(50.0), Some(100.0), Some(0.5)));
        let downtime = found(&compared, "migration.downtime{side=source}");
        assert_eq!(downtime, (Some(2.0), Some(0.25), Some(8.0)));
        let at_once = rows(&document(1_000_000, 11_000_000, 1_000, (4, 1.0)), &then);
        assert_eq!(found(&at_once, "amst.wire{side=source}").0, None, "no time has gone by");
    }

    #[test]
    fn a_flat_file_has_plain_numbers_by_series_or_by_metric() {
        let now = document(1, 2_000_001, 300, (2, 1.0));
        let flat = r#"{"amst.wire": 100, "migration.downtime{side=source}": 0.25, "hde.gone": 7,
            "amst.wire{side=destination}": 5, "amst.wire{side=nowhere}": 9}"#;
        let compared = rows(&now, flat);
        assert_eq!(found(&compared, "amst.wire"), (Some(300.0), Some(100.0), Some(3.0)));
        let downtime = found(&compared, "migration.downtime{side=source}");
        assert_eq!(downtime, (Some(0.5), Some(0.25), Some(2.0)));
        assert_eq!(found(&compared, "amst.wire{side=nowhere}").0, Some(0.0), "never counted");
        assert_eq!(compared.len(), 4, "{compared:?}");
        let known = Figures::of_document(&now).unwrap();
        assert_eq!(Figures::parse(flat).unwrap().strangers(&known).unwrap(), ["hde.gone"]);
        let error = Figures::parse(r#"{"latency": 1}"#).unwrap().strangers(&known).unwrap_err();
        assert_eq!(error, "no metric here is called \"latency\"");
    }

    #[test]
    fn what_is_no_baseline_says_why() {
        for (text, reason) in [
            ("", "EOF while parsing"),
            ("{\"a\": 1", "EOF while parsing"),
            ("[1]", "no JSON object"),
            ("{}", "no figure"),
            ("{\"a.b\": \"x\"}", "\"a.b\" is not a number"),
            ("{\"a.b\": 1e999}", "number out of range"),
            ("{\"metrics\": [{\"series\": []}]}", "has no name"),
            ("{\"metrics\": [{\"name\": \"a.b\", \"series\": [{}]}]}", "without value"),
        ] {
            let error = Figures::parse(text).unwrap_err();
            assert!(error.contains(reason), "{error:?} lacks {reason:?}");
        }
        let many: Vec<String> = (0..7).map(|number| format!("n{number}")).collect();
        assert!(no_metrics(&many).ends_with("\"n4\" and 2 more"));
    }

    #[test]
    fn what_a_document_leaves_out_never_counted() {
        let now = document(50_000_000, 60_000_000, 1_000, (0, 0.0));
        let mut then = document(1_000_000, 11_000_000, 0, (0, 0.0));
        then["metrics"][0]["series"] = json!([]);
        let compared = rows(&now, &then.to_string());
        assert_eq!(found(&compared, "amst.wire{side=source}"), (Some(100.0), Some(0.0), None));
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_plain_numbers() {
        let then = document(9_000_000, 1_000_000, 100, (0, 0.0)).to_string();
        let compared = rows(&document(1, 2_000_001, 300, (0, 0.0)), &then);
        assert_eq!(found(&compared, "amst.wire{side=source}").2, Some(3.0));
        assert_eq!(found(&compared, "migration.downtime{side=source}"), (None, None, None));
    }
}
