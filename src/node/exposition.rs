//! Metrics as text for Prometheus (OpenMetrics) and as JSON for people's scripts.

use super::catalog::{Declaration, Label, Metric, Shape};
use super::metrics::{Metrics, SeriesValue};
use crate::wire::metrics::{COUNTER, GAUGE, HISTOGRAM};
use crate::wire::{ToldFamily, ToldSeries};
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
    chosen.map(|metric| family_json(&told_of(metrics, *metric))).collect()
}

/// All metrics as they are told to other nodes.
pub fn told(metrics: &Metrics) -> Vec<ToldFamily> {
    Metric::ALL.iter().map(|metric| told_of(metrics, *metric)).collect()
}

/// A metric of any node as an object; its help is this library's, and empty where it knows none.
pub fn family_json(family: &ToldFamily) -> Value {
    let known = Metric::named(&family.name).map(Metric::declaration);
    let component = known.map(|known| known.component.name());
    let kind = match family.shape {
        COUNTER => "counter",
        GAUGE => "gauge",
        HISTOGRAM => "histogram",
        _ => "unknown",
    };
    json!({
        "name": family.name,
        "component": component.or_else(|| Some(family.name.split_once('.')?.0)),
        "type": kind,
        "unit": family.unit,
        "help": known.map_or("", |known| known.help),
        "series": family.series.iter().map(|series| series_json(family, series))
            .collect::<Vec<_>>(),
    })
}

fn series_json(family: &ToldFamily, series: &ToldSeries) -> Value {
    let labels = match family.label.as_str() {
        "" => json!({}),
        name => json!({ name: series.label }),
    };
    if family.shape != HISTOGRAM {
        return json!({ "labels": labels, "value": tidy(series.number) });
    }
    let bounds = family.bounds.iter().map(|bound| json!(bound)).chain([Value::Null]);
    let bucket = |(at_most, count)| json!({ "at_most": at_most, "count": count });
    json!({
        "labels": labels,
        "count": series.counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)),
        "sum": series.number,
        "buckets": bounds.zip(&series.counts).map(bucket).collect::<Vec<_>>(),
    })
}

fn told_of(metrics: &Metrics, metric: Metric) -> ToldFamily {
    let declaration = metric.declaration();
    let (shape, bounds) = match declaration.shape {
        Shape::Counter => (COUNTER, &[][..]),
        Shape::Gauge => (GAUGE, &[][..]),
        Shape::Histogram(bounds) => (HISTOGRAM, bounds),
    };
    let series = |(label, value): (&str, &SeriesValue)| {
        let (number, counts) = match value {
            SeriesValue::Number(number) => (*number, Vec::new()),
            SeriesValue::Histogram { buckets, sum } => (*sum, buckets.clone()),
        };
        ToldSeries { label: label.to_owned(), number, counts }
    };
    ToldFamily {
        name: declaration.name.to_owned(),
        unit: declaration.unit.to_owned(),
        label: declaration.label.name().to_owned(),
        shape,
        bounds: bounds.to_vec(),
        series: each(metrics, metric).map(series).collect(),
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
    let unit = declaration.prometheus_unit().map(|unit| Unit::Other(unit.to_owned()));
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
#[path = "openmetrics.rs"]
mod openmetrics;

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::{event, sample};
    use super::*;
    use crate::observe::EventKind;
    use crate::wire::ToldMetrics;

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

    #[test]
    fn the_text_keeps_the_format() {
        let text = prometheus_text(&filled()).unwrap();
        let families = openmetrics::parse(&text).unwrap();
        assert_eq!(families.len(), Metric::ALL.len());
        assert_eq!(families["dwcp_migration_downtime_seconds"].kind, "histogram");
        let value = |name: &str, labels: &str| {
            let mut samples = families.values().flat_map(|family| &family.samples);
            let sample = samples.find(|sample| sample.name == name && sample.labels == labels);
            sample.unwrap_or_else(|| panic!("{name}{{{labels}}} is missing")).value
        };
        assert_eq!(value("dwcp_amst_wire_bytes_total", "side=source"), 12_345.0);
        assert_eq!(value("dwcp_hde_pages_total", "encoding=full"), 253.0);
        let ended = "status=DWCP_ERR_DID_NOT_CONVERGE";
        assert_eq!(value("dwcp_migration_ended_total", ended), 1.0);
        let downtime = "dwcp_migration_downtime_seconds";
        let bucket =
            |le: &str| value(&format!("{downtime}_bucket"), &format!("le={le},side=source"));
        assert_eq!((bucket("0.01"), bucket("0.03"), bucket("+Inf")), (0.0, 1.0, 1.0));
        assert_eq!(value(&format!("{downtime}_count"), "side=source"), 1.0);
        assert_eq!(value(&format!("{downtime}_sum"), "side=source"), 0.025);
        assert_eq!(families["dwcp_hde_saved_bytes"].unit, "bytes");
    }

    #[test]
    fn json_holds_the_same_numbers() {
        let value = json(&filled(), |declaration| declaration.name == "amst.wire");
        assert_eq!(value[0]["series"][0], json!({"labels": {"side": "source"}, "value": 12_345}));
        let value = json(&filled(), |declaration| declaration.name == "migration.downtime");
        assert_eq!(value[0]["series"][0]["count"], 1);
        assert_eq!(value[0]["series"][0]["buckets"][3], json!({"at_most": 0.03, "count": 1}));
        assert_eq!(json(&filled(), |_| true).as_array().unwrap().len(), Metric::ALL.len());
    }

    #[test]
    fn what_is_told_has_room_on_the_wire_and_is_the_same_behind_it() {
        let mut metrics = filled();
        for metric in Metric::ALL {
            let labels = metric.declaration().label.values();
            labels.iter().for_each(|label| metrics.set(*metric, label, 1.5));
        }
        let families = told(&metrics);
        let told = ToldMetrics { families, ..ToldMetrics::default() };
        let again = ToldMetrics::decode(&told.encode()).unwrap();
        assert_eq!(again, told);
        let shown: Value = again.families.iter().map(family_json).collect();
        assert_eq!(shown, json(&metrics, |_| true));
    }

    #[test]
    fn a_metric_of_a_later_version_is_shown_without_help() {
        let family = ToldFamily {
            name: "itp.placements".into(),
            unit: "count".into(),
            shape: 9,
            series: vec![ToldSeries { number: 0.5, ..ToldSeries::default() }],
            ..ToldFamily::default()
        };
        let shown = family_json(&family);
        assert_eq!((&shown["component"], &shown["type"]), (&"itp".into(), &"unknown".into()));
        assert_eq!((&shown["series"][0]["value"], &shown["help"]), (&json!(0.5), &"".into()));
    }
}
