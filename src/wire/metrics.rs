//! What a node tells another, on being asked, of its metrics.
//!
//! ```text
//! metrics: node text | time_us u64 | since_us u64 | count u32 | count families
//! family:  name text | unit text | label text | shape u8 | count u32 | count bounds f64
//!          | count u32 | count series
//! series:  label's value text | number f64 | counts u64, one more than there are bounds
//! ```
//! Bounds and counts are a histogram's alone, whose number is the sum of what was observed. A shape
//! that is not in the table is a later version's. No number is infinite or none.

use crate::base::limits::{
    MAX_HISTOGRAM_BOUNDS, MAX_METRIC_NAME_BYTES, MAX_NAME_BYTES, MAX_TOLD_METRICS, MAX_TOLD_SERIES,
};
use crate::wire::cursor::{Reader, WireError, put_numbers, put_text};

/// Code of a family whose numbers only grow.
pub const COUNTER: u8 = 1;
/// Code of a family whose numbers go up and down.
pub const GAUGE: u8 = 2;
/// Code of a family of distributions.
pub const HISTOGRAM: u8 = 3;

const NAME_BYTES: usize = 4 + MAX_METRIC_NAME_BYTES;
const FAMILY_BYTES: usize = 3 * NAME_BYTES + 1 + 4 + 8 * MAX_HISTOGRAM_BOUNDS + 4;
const SERIES_BYTES: usize = NAME_BYTES + 8 + 8 * (MAX_HISTOGRAM_BOUNDS + 1);
/// Longest payload.
pub const MAX_METRICS_BYTES: u32 = (4
    + MAX_NAME_BYTES
    + 8
    + 8
    + 4
    + MAX_TOLD_METRICS * FAMILY_BYTES
    + MAX_TOLD_SERIES * SERIES_BYTES) as u32;

/// The metrics of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToldMetrics {
    /// The node's name.
    pub node: String,
    /// When they were taken, by the node's wall clock: microseconds since 1970.
    pub time_us: u64,
    /// Since when its counters count, by the same clock.
    pub since_us: u64,
    /// The metrics, at most [`MAX_TOLD_METRICS`], with at most [`MAX_TOLD_SERIES`] series together.
    pub families: Vec<ToldFamily>,
}

/// One metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToldFamily {
    /// The dotted name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The label's name; empty: it has none.
    pub label: String,
    /// [`COUNTER`], [`GAUGE`] or [`HISTOGRAM`].
    pub shape: u8,
    /// Of a histogram, the upper bounds of its buckets.
    pub bounds: Vec<f64>,
    /// Its values.
    pub series: Vec<ToldSeries>,
}

/// The value of a metric for one value of its label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToldSeries {
    /// The label's value.
    pub label: String,
    /// The value; of a histogram, the sum.
    pub number: f64,
    /// Of a histogram, how much was observed in each bucket, the one without bound last.
    pub counts: Vec<u64>,
}

impl ToldMetrics {
    /// The payload, of as much as may be told.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let families = &self.families[..self.families.len().min(MAX_TOLD_METRICS)];
        put_text(&mut out, &self.node, MAX_NAME_BYTES);
        out.extend_from_slice(&self.time_us.to_le_bytes());
        out.extend_from_slice(&self.since_us.to_le_bytes());
        out.extend_from_slice(&(families.len() as u32).to_le_bytes());
        let mut room = MAX_TOLD_SERIES;
        families.iter().for_each(|family| family.encode(&mut room, &mut out));
        out
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// Anything out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let node = reader.text("node name", MAX_NAME_BYTES)?;
        let (time_us, since_us) = (reader.u64("time")?, reader.u64("start of counting")?);
        let count = reader.count("metrics", MAX_TOLD_METRICS)?;
        let mut room = MAX_TOLD_SERIES;
        let families = (0..count).map(|_| ToldFamily::decode(&mut room, &mut reader));
        let families = families.collect::<Result<_, _>>()?;
        reader.end("metrics")?;
        Ok(Self { node, time_us, since_us, families })
    }
}

impl ToldFamily {
    fn encode(&self, room: &mut usize, out: &mut Vec<u8>) {
        for text in [&self.name, &self.unit, &self.label] {
            put_text(out, text, MAX_METRIC_NAME_BYTES);
        }
        let bounds = &self.bounds[..self.bounds.len().min(MAX_HISTOGRAM_BOUNDS)];
        let series = &self.series[..self.series.len().min(*room)];
        *room -= series.len();
        out.push(self.shape);
        let bits: Vec<u64> = bounds.iter().map(|bound| finite(*bound).to_bits()).collect();
        put_numbers(out, &bits);
        out.extend_from_slice(&(series.len() as u32).to_le_bytes());
        let counted = if bounds.is_empty() { 0 } else { bounds.len() + 1 };
        for ToldSeries { label, number, counts } in series {
            put_text(out, label, MAX_METRIC_NAME_BYTES);
            out.extend_from_slice(&finite(*number).to_bits().to_le_bytes());
            let counts = counts.iter().copied().chain(std::iter::repeat(0)).take(counted);
            counts.for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
        }
    }

    fn decode(room: &mut usize, reader: &mut Reader) -> Result<Self, WireError> {
        let mut text = |what| reader.text(what, MAX_METRIC_NAME_BYTES);
        let (name, unit, label) = (text("metric's name")?, text("unit")?, text("label's name")?);
        let shape = reader.u8("metric's shape")?;
        let bounds = reader.numbers("bounds", MAX_HISTOGRAM_BOUNDS)?;
        let bounds: Vec<f64> = bounds.into_iter().map(number).collect::<Result<_, _>>()?;
        let count = reader.count("series of all metrics", *room)?;
        *room -= count;
        let counted = if bounds.is_empty() { 0 } else { bounds.len() + 1 };
        let series = (0..count).map(|_| {
            Ok(ToldSeries {
                label: reader.text("label's value", MAX_METRIC_NAME_BYTES)?,
                number: number(reader.u64("number")?)?,
                counts: (0..counted).map(|_| reader.u64("count")).collect::<Result<_, _>>()?,
            })
        });
        let series = series.collect::<Result<_, WireError>>()?;
        Ok(Self { name, unit, label, shape, bounds, series })
    }
}

fn number(bits: u64) -> Result<f64, WireError> {
    let number = f64::from_bits(bits);
    if number.is_finite() {
        return Ok(number);
    }
    Err(WireError::Range { what: "bits of a number", value: bits, allowed: "a finite number's" })
}

fn finite(number: f64) -> f64 {
    if number.is_finite() { number } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> ToldMetrics {
        let series =
            |label: &str, number, counts| ToldSeries { label: label.into(), number, counts };
        let wire = ToldFamily {
            name: "amst.wire".into(),
            unit: "bytes".into(),
            label: "side".into(),
            shape: COUNTER,
            bounds: Vec::new(),
            series: vec![series("source", 1e15, vec![]), series("destination", 0.0, vec![])],
        };
        let downtime = ToldFamily {
            name: "migration.downtime".into(),
            unit: "seconds".into(),
            shape: HISTOGRAM,
            bounds: vec![0.1, 1.0],
            series: vec![series("", 2.25, vec![3, 0, 1])],
            ..ToldFamily::default()
        };
        ToldMetrics {
            node: "alpha".into(),
            time_us: 9,
            since_us: 7,
            families: vec![wire, downtime],
        }
    }

    #[test]
    fn metrics_round_trip_and_every_truncation_is_an_error() {
        let bytes = metrics().encode();
        assert_eq!(ToldMetrics::decode(&bytes), Ok(metrics()));
        for length in 0..bytes.len() {
            assert!(ToldMetrics::decode(&bytes[..length]).is_err(), "{length}");
        }
        let error = ToldMetrics::decode(&[&bytes[..], &[0]].concat()).unwrap_err();
        assert_eq!(error.to_string(), "metrics: 1 bytes too many");
    }

    #[test]
    fn no_more_is_told_than_fits() {
        let long = || "x".repeat(MAX_METRIC_NAME_BYTES + 9);
        let bounds = vec![1.0; MAX_HISTOGRAM_BOUNDS + 1];
        let counts = vec![1; MAX_HISTOGRAM_BOUNDS + 2];
        let series = vec![ToldSeries { label: long(), number: f64::NAN, counts }; 5];
        let (name, unit, label) = (long(), long(), long());
        let family = ToldFamily { name, unit, label, shape: HISTOGRAM, bounds, series };
        let node = "n".repeat(MAX_NAME_BYTES + 9);
        let families = vec![family; MAX_TOLD_METRICS + 1];
        let many = ToldMetrics { node, time_us: 0, since_us: 0, families };
        let bytes = many.encode();
        assert_eq!(bytes.len(), MAX_METRICS_BYTES as usize);
        let told = ToldMetrics::decode(&bytes).unwrap();
        let all = told.families.iter().flat_map(|family| &family.series);
        assert_eq!((told.families.len(), all.count()), (MAX_TOLD_METRICS, MAX_TOLD_SERIES));
        assert_eq!(told.families[0].series[0].number, 0.0, "what is no number is not told");
    }

    #[test]
    fn counts_and_numbers_are_refused_before_they_are_believed() {
        let changed = |at: usize, by: &[u8]| {
            let mut bytes = metrics().encode();
            bytes[at..at + by.len()].copy_from_slice(by);
            ToldMetrics::decode(&bytes).unwrap_err().to_string()
        };
        // Behind the name, 9 bytes, and two times; then behind the first family's texts and shape.
        let (families, bounds) = (25, 25 + 4 + 13 + 9 + 8 + 1);
        let error = changed(families, &[0xff; 4]);
        assert!(error.contains("metrics is 4294967295 long, the limit is 256"), "{error}");
        assert!(changed(bounds, &[0xff; 4]).contains("bounds is 4294967295 long"));
        let error = changed(bounds + 4, &[0xff; 4]);
        assert!(error.contains("series of all metrics is 4294967295 long"), "{error}");
        let error = changed(bounds + 8 + 10, &f64::INFINITY.to_bits().to_le_bytes());
        assert!(error.contains("a finite number's"), "{error}");
    }

    #[test]
    fn series_are_counted_over_all_metrics() {
        let family = |count| ToldFamily {
            name: "a.b".into(),
            shape: GAUGE,
            series: vec![ToldSeries::default(); count],
            ..ToldFamily::default()
        };
        let two = |count| ToldMetrics {
            families: vec![family(MAX_TOLD_SERIES - 1), family(count)],
            ..ToldMetrics::default()
        };
        let mut bytes = two(1).encode();
        assert!(ToldMetrics::decode(&bytes).is_ok());
        let at = bytes.len() - 12 - 4;
        bytes[at] = 2;
        let error = ToldMetrics::decode(&bytes).unwrap_err().to_string();
        assert_eq!(error, "series of all metrics is 2 long, the limit is 1");
    }
}
