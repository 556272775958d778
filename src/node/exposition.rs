//! Metrics as text for Prometheus (OpenMetrics) and as JSON for people's scripts.

use super::catalog::{Declaration, Label, Metric, Shape};
use super::metrics::{Metrics, SeriesValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Value, json};
use std::fmt;

/// The content type of [`prometheus_text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics in the OpenMetrics text format.
///
/// # Errors
/// Never in practice: a `String` takes everything.
pub fn prometheus_text(metrics: &Metrics) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(metrics.clone())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The metrics that `wanted` accepts, as an array of objects.
pub fn json(metrics: &Metrics, wanted: impl Fn(&Declaration) -> bool) -> Value {
    let chosen = Metric::ALL.iter().filter(|metric| wanted(metric.declaration()));
    chosen.map(|metric| metric_json(metrics, *metric)).collect()
}

fn metric_json(metrics: &Metrics, metric: Metric) -> Value {
    let declaration = metric.declaration();
    json!({
        "name": declaration.name,
        "component": declaration.component.name(),
        "type": declaration.shape.name(),
        "unit": declaration.unit,
        "help": declaration.help,
        "series": each(metrics, metric).map(|(label, value)| series_json(declaration, label, value))
            .collect::<Vec<_>>(),
    })
}

fn series_json(declaration: &Declaration, label: &str, value: &SeriesValue) -> Value {
    let labels = match declaration.label {
        Label::None => json!({}),
        Label::Of(name, _) => json!({ name: label }),
    };
    match (value, declaration.shape) {
        (SeriesValue::Histogram { buckets, sum }, Shape::Histogram(bounds)) => json!({
            "labels": labels,
            "count": buckets.iter().sum::<u64>(),
            "sum": sum,
            "buckets": bounds.iter().map(|bound| json!(bound)).chain([Value::Null])
                .zip(buckets).map(|(at_most, count)| json!({"at_most": at_most, "count": count}))
                .collect::<Vec<_>>(),
        }),
        (SeriesValue::Number(number), _) => json!({ "labels": labels, "value": tidy(*number) }),
        _ => Value::Null,
    }
}

/// Whole numbers without a decimal point.
fn tidy(number: f64) -> Value {
    if number.fract() == 0.0 && (0.0..9e15).contains(&number) {
        return json!(number as u64);
    }
    json!(number)
}

/// Each series worth showing. A label with many values shows those that ever counted.
fn each(metrics: &Metrics, metric: Metric) -> impl Iterator<Item = (&'static str, &SeriesValue)> {
    let values = metric.declaration().label.values();
    let sparse = values.len() > MAX_DENSE_SERIES;
    let shown = move |(index, (_, value)): &(usize, (&str, &SeriesValue))| {
        !sparse || *index == 0 || **value != SeriesValue::Number(0.0)
    };
    values.into_iter().zip(metrics.series(metric)).enumerate().filter(shown).map(|(_, pair)| pair)
}

#[derive(Debug)]
struct Snapshot(Metrics);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        Metric::ALL.iter().try_for_each(|metric| encode_metric(&self.0, *metric, &mut encoder))
    }
}

fn encode_metric(
    metrics: &Metrics,
    metric: Metric,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let declaration = metric.declaration();
    let unit = Some(declaration.unit).filter(|unit| !unit.is_empty());
    let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
    let kind = match declaration.shape {
        Shape::Counter => MetricType::Counter,
        Shape::Gauge => MetricType::Gauge,
        Shape::Histogram(_) => MetricType::Histogram,
    };
    let name = declaration.prometheus_name();
    let mut encoder = encoder.encode_descriptor(&name, declaration.help, unit.as_ref(), kind)?;
    each(metrics, metric).try_for_each(|(label, value)| match declaration.label {
        Label::None => encode_value(declaration, value, &mut encoder),
        Label::Of(name, _) => {
            let labels = [(name, label)];
            let mut series = encoder.encode_family(&labels)?;
            encode_value(declaration, value, &mut series)
        }
    })
}

fn encode_value(
    declaration: &Declaration,
    value: &SeriesValue,
    encoder: &mut MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    match (value, declaration.shape) {
        (SeriesValue::Number(number), Shape::Counter) => {
            encoder.encode_counter::<NoLabelSet, f64, f64>(number, None)
        }
        (SeriesValue::Number(number), _) => encoder.encode_gauge(number),
        (SeriesValue::Histogram { buckets, sum }, Shape::Histogram(bounds)) => {
            let upper = bounds.iter().copied().chain([f64::INFINITY]);
            let pairs: Vec<_> = upper.zip(buckets.iter().copied()).collect();
            encoder.encode_histogram::<NoLabelSet>(*sum, buckets.iter().sum(), &pairs, None)
        }
        _ => Ok(()),
    }
}

const MAX_DENSE_SERIES: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::{event, sample};
    use super::*;
    use crate::observe::EventKind;
    use std::collections::HashMap;

    fn filled() -> Metrics {
        let mut metrics = Metrics::new();
        metrics.sample(&[sample(12_345, true)]);
        metrics.apply(&event(
            1,
            EventKind::MigrationEnded {
                status: crate::Status::DidNotConverge,
                owner: "source",
                reason: String::new(),
                total_us: 1,
                downtime_us: 0,
            },
        ));
        metrics
    }

    /// Reads the text back: types by family, values by series.
    fn parse(text: &str) -> (HashMap<String, String>, HashMap<String, f64>) {
        let (mut types, mut values) = (HashMap::new(), HashMap::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(values.insert(series.to_owned(), value.parse().unwrap()).is_none());
            }
        }
        (types, values)
    }

    #[test]
    fn the_text_reads_back() {
        let text = prometheus_text(&filled()).unwrap();
        assert!(text.ends_with("# EOF\n"));
        let (types, values) = parse(&text);
        assert_eq!(types.len(), Metric::ALL.len());
        assert_eq!(types["dwcp_migration_downtime_seconds"], "histogram");
        assert_eq!(values["dwcp_amst_wire_bytes_total{side=\"source\"}"], 12_345.0);
        assert_eq!(values["dwcp_hde_pages_total{encoding=\"full\"}"], 253.0);
        let ended = "dwcp_migration_ended_total{status=\"DWCP_ERR_DID_NOT_CONVERGE\"}";
        assert_eq!(values[ended], 1.0);
        let bucket = |le: &str| {
            values
                [&format!("dwcp_migration_downtime_seconds_bucket{{le=\"{le}\",side=\"source\"}}")]
        };
        assert_eq!((bucket("0.01"), bucket("0.03"), bucket("+Inf")), (0.0, 1.0, 1.0));
        assert_eq!(values["dwcp_migration_downtime_seconds_count{side=\"source\"}"], 1.0);
    }

    #[test]
    fn json_holds_the_same_numbers() {
        let value = json(&filled(), |declaration| declaration.name == "amst.wire");
        assert_eq!(value[0]["series"][0], json!({"labels": {"side": "source"}, "value": 12_345}));
        let value = json(&filled(), |declaration| declaration.name == "migration.downtime");
        assert_eq!(value[0]["series"][0]["count"], 1);
        assert_eq!(json(&filled(), |_| true).as_array().unwrap().len(), Metric::ALL.len());
    }
}
