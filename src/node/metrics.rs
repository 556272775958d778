//! Metrics as sums over events and over the progress of migrations.
//!
//! Pure: events and progress are handed in, so the same numbers come out of a node, a simulation
//! or a test.

use super::catalog::{Metric, Shape, codec_label};
use crate::Status;
use crate::base::{MigrationId, TimeCounts};
use crate::encoding::HdeStats;
use crate::migration::encoding_options::BASELINE_PAGES;
use crate::migration::{Phase, PostCopyFigures, Progress, Report};
use crate::observe::{Event, EventKind};
use std::collections::HashMap;

/// One migration as it stands.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its id.
    pub id: MigrationId,
    /// `source` or `destination`.
    pub side: &'static str,
    /// Where it stands.
    pub progress: Progress,
    /// Its report, once it ended.
    pub report: Option<Report>,
    /// How pages were encoded so far; none on the side that decodes.
    pub encoding: Option<HdeStats>,
    /// Pages that are remembered, and their memory.
    pub baselines: (u64, u64),
}

/// The value of one series.
#[derive(Clone, Debug, PartialEq)]
pub enum SeriesValue {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Histogram {
        /// Observations in each bucket, the one without bound last.
        buckets: Vec<u64>,
        /// Sum of all observations.
        sum: f64,
    },
}

/// The values of all metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    series: Vec<Vec<SeriesValue>>,
    last_sequence: u64,
    seen: HashMap<(MigrationId, &'static str), Seen>,
    /// Of all migrations, those included that are no longer listed.
    encoding: HdeStats,
}

/// What was already counted of a migration.
#[derive(Clone, Debug, Default)]
struct Seen {
    wire_bytes: u64,
    reconnects: u32,
    reported: bool,
    encoding: HdeStats,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        Self {
            series: Metric::ALL.iter().map(|metric| blank(*metric)).collect(),
            last_sequence: 0,
            seen: HashMap::new(),
            encoding: HdeStats::default(),
        }
    }

    /// The number of the last event counted.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The values of a metric, in the order of its label's values.
    pub fn series(&self, metric: Metric) -> &[SeriesValue] {
        &self.series[metric as usize]
    }

    /// How pages were encoded by all migrations that were sampled.
    pub fn encoding(&self) -> &HdeStats {
        &self.encoding
    }

    /// The value of a counter or gauge; 0 where there is none.
    pub fn value(&self, metric: Metric, label: &str) -> f64 {
        let values = metric.declaration().label.values();
        let series = values.iter().zip(self.series(metric)).find(|(value, _)| **value == label);
        match series {
            Some((_, SeriesValue::Number(number))) => *number,
            _ => 0.0,
        }
    }

    /// Counts an event; one that was counted before is passed over.
    pub fn apply(&mut self, event: &Event) {
        if event.sequence <= self.last_sequence {
            return;
        }
        let missed = event.sequence - self.last_sequence - 1;
        self.add(Metric::NodeEventsMissed, "", missed as f64);
        self.last_sequence = event.sequence;
        self.add(Metric::NodeEvents, event.kind.level().name(), 1.0);
        self.apply_kind(&event.kind);
    }

    fn apply_kind(&mut self, kind: &EventKind) {
        match kind {
            EventKind::StreamUp { .. } => self.add(Metric::AmstStreamsOpened, "", 1.0),
            EventKind::StreamDown { .. } => self.add(Metric::AmstStreamsLost, "", 1.0),
            EventKind::StreamRetired { .. } => self.add(Metric::AmstStreamsRetired, "", 1.0),
            EventKind::ChunkDamaged { .. } => self.add(Metric::HdeChunksDamaged, "", 1.0),
            EventKind::PeerRefused { .. } => self.add(Metric::AmstPeersRefused, "", 1.0),
            EventKind::V1Connection { state, .. } => {
                self.add(Metric::AmstV1Connections, state.name(), 1.0);
            }
            EventKind::ModeTransition { transition, .. } => {
                self.add(Metric::AmstModeSwitches, transition.to.name(), 1.0);
            }
            EventKind::Notice { .. } => self.add(Metric::AmstNotices, "", 1.0),
            EventKind::PassCompleted { pass } => {
                self.add(Metric::MigrationPasses, "", 1.0);
                self.add(Metric::MigrationPassPages, "", pass.pages as f64);
                self.add(Metric::MigrationPassZeroPages, "", pass.zero_pages as f64);
            }
            EventKind::PostCopyCompleted { figures, waits } => self.count_post_copy(figures, waits),
            EventKind::MigrationEnded { status, .. } => {
                self.add(Metric::MigrationEnded, status.name(), 1.0);
            }
            EventKind::NodeStarted { .. }
            | EventKind::NodeStopped {}
            | EventKind::GuestChanged { .. }
            | EventKind::StreamsTuned { .. }
            | EventKind::RdmaUp { .. }
            | EventKind::RdmaUnavailable { .. }
            | EventKind::FlagsChanged { .. }
            | EventKind::FlagRolledBack { .. }
            | EventKind::FlagHeld { .. }
            | EventKind::Phase { .. }
            | EventKind::Throttled { .. }
            | EventKind::PostCopyBegun { .. } => {}
        }
    }

    fn count_post_copy(&mut self, figures: &PostCopyFigures, waits: &TimeCounts) {
        self.add(Metric::MigrationPostCopies, "", 1.0);
        self.add(Metric::MigrationMissingPages, "", figures.missing_pages as f64);
        self.add(Metric::MigrationFaults, "", figures.faults as f64);
        self.observe_all(Metric::MigrationFaultWait, waits);
        self.set(Metric::MigrationFaultP50, "", figures.fault_p50_us as f64 / 1e6);
        self.set(Metric::MigrationFaultP99, "", figures.fault_p99_us as f64 / 1e6);
    }

    /// Takes the state of all migrations that the node lists.
    pub fn sample(&mut self, samples: &[Sample]) {
        for metric in SAMPLED {
            self.series[*metric as usize] = blank(*metric);
        }
        for sample in samples {
            self.count_growth(sample);
            if sample.report.is_none() && sample.progress.phase != Phase::Ended {
                self.gauge_running(sample);
            }
        }
        self.count_encoding();
        self.seen.retain(|(id, side), _| {
            samples.iter().any(|sample| sample.id == *id && sample.side == *side)
        });
    }

    /// Sets a gauge.
    pub fn set(&mut self, metric: Metric, label: &str, value: f64) {
        if let Some(SeriesValue::Number(number)) = self.find(metric, label) {
            *number = value;
        }
    }

    /// Sets a counter whose total is kept elsewhere; it never falls.
    pub fn set_total(&mut self, metric: Metric, label: &str, total: u64) {
        self.raise_series(metric, label, total as f64);
    }

    /// Sets a histogram that is kept elsewhere.
    pub fn set_times(&mut self, metric: Metric, label: &str, times: &TimeCounts) {
        if let Some(SeriesValue::Histogram { buckets, sum }) = self.find(metric, label) {
            *sum = times.sum_us() as f64 / 1e6;
            buckets.copy_from_slice(times.counts());
        }
    }

    fn count_growth(&mut self, sample: &Sample) {
        let key = (sample.id, sample.side);
        if !self.seen.contains_key(&key) {
            self.add(Metric::MigrationStarted, sample.side, 1.0);
        }
        let mut seen = self.seen.remove(&key).unwrap_or_default();
        let report = sample.report.as_ref();
        let wire_bytes = report.map_or(sample.progress.wire_bytes, |report| report.wire_bytes);
        let reconnects = report.map_or(sample.progress.reconnects, |report| report.reconnects);
        let grown = wire_bytes.saturating_sub(seen.wire_bytes);
        self.add(Metric::AmstWireBytes, sample.side, grown as f64);
        let more = reconnects.saturating_sub(seen.reconnects);
        self.add(Metric::AmstReconnects, sample.side, f64::from(more));
        if let Some(report) = report.filter(|_| !seen.reported) {
            self.count_report(sample.side, report);
            seen.reported = true;
        }
        seen.wire_bytes = seen.wire_bytes.max(wire_bytes);
        seen.reconnects = seen.reconnects.max(reconnects);
        if let Some(encoding) = &sample.encoding {
            self.encoding.merge(&encoding.since(&seen.encoding));
            seen.encoding = encoding.clone();
        }
        self.seen.insert(key, seen);
    }

    /// From totals, since a ratio of sums is not a sum of ratios.
    fn count_encoding(&mut self) {
        let stats = self.encoding.clone();
        for (codec, usage) in &stats.algorithm_usage {
            self.add(Metric::HdeAlgorithmUsage, codec_label(codec), usage.blocks as f64);
        }
        for (class, totals) in [
            ("zero", stats.zero),
            ("duplicate", stats.duplicate),
            ("held", stats.held),
            ("delta", stats.delta),
            ("codec", stats.fresh),
        ] {
            // Headers may outweigh for a while what they stand for; a counter never falls.
            self.raise_series(Metric::HdeBytesSaved, class, totals.saved_bytes() as f64);
        }
        self.set(Metric::HdeCompressionRatio, "", stats.ratio().unwrap_or(0.0));
        self.set(Metric::HdeDeltaHitRate, "", stats.delta_hit_rate().unwrap_or(0.0));
    }

    fn count_report(&mut self, side: &str, report: &Report) {
        if report.status == Status::Ok {
            self.observe(Metric::MigrationDowntime, side, report.downtime_ms / 1e3);
            self.observe(Metric::MigrationDuration, side, report.total_ms / 1e3);
        }
        if side != "source" {
            return;
        }
        for (encoding, pages) in [
            ("zero", report.zero_pages),
            ("duplicate", report.duplicate_pages),
            ("delta", report.delta_pages),
            ("full", report.full_pages),
        ] {
            self.add(Metric::HdePages, encoding, pages as f64);
        }
        for (phase, milliseconds) in &report.phases {
            if let Some(milliseconds) = milliseconds.as_f64() {
                self.observe(Metric::MigrationPhase, phase, milliseconds / 1e3);
            }
        }
    }

    fn gauge_running(&mut self, sample: &Sample) {
        let (side, progress) = (sample.side, &sample.progress);
        self.add(Metric::MigrationRunning, side, 1.0);
        let (pages, bytes) = sample.baselines;
        self.add(Metric::HdeBaselines, side, pages.div_ceil(BASELINE_PAGES) as f64);
        self.add(Metric::HdeBaselineBytes, side, bytes as f64);
        self.add(Metric::AmstStreams, side, f64::from(progress.streams));
        self.add(Metric::AmstBandwidth, side, progress.bandwidth_bytes_per_s as f64);
        self.add(Metric::MigrationRemainingPages, side, progress.remaining_pages as f64);
        if side == "source" {
            self.add(Metric::MigrationDirtyRate, "", progress.dirty_rate_bytes_per_s as f64);
            let downtime = progress.predicted_downtime_us as f64 / 1e6;
            self.raise(Metric::MigrationPredictedDowntime, downtime);
            self.raise(Metric::MigrationThrottle, f64::from(progress.throttle_percent));
        }
    }

    fn add(&mut self, metric: Metric, label: &str, amount: f64) {
        if let Some(SeriesValue::Number(number)) = self.find(metric, label) {
            *number += amount;
        }
    }

    fn raise(&mut self, metric: Metric, value: f64) {
        self.raise_series(metric, "", value);
    }

    fn raise_series(&mut self, metric: Metric, label: &str, value: f64) {
        if let Some(SeriesValue::Number(number)) = self.find(metric, label) {
            *number = number.max(value);
        }
    }

    fn observe(&mut self, metric: Metric, label: &str, value: f64) {
        let Shape::Histogram(bounds) = metric.declaration().shape else { return };
        let bucket = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        if let Some(SeriesValue::Histogram { buckets, sum }) = self.find(metric, label) {
            buckets[bucket] += 1;
            *sum += value;
        }
    }

    fn observe_all(&mut self, metric: Metric, times: &TimeCounts) {
        if let Some(SeriesValue::Histogram { buckets, sum }) = self.find(metric, "") {
            *sum += times.sum_us() as f64 / 1e6;
            buckets.iter_mut().zip(times.counts()).for_each(|(bucket, count)| *bucket += count);
        }
    }

    fn find(&mut self, metric: Metric, label: &str) -> Option<&mut SeriesValue> {
        let values = metric.declaration().label.values();
        let index = values.iter().position(|value| *value == label)?;
        self.series[metric as usize].get_mut(index)
    }
}

fn blank(metric: Metric) -> Vec<SeriesValue> {
    let declaration = metric.declaration();
    let value = match declaration.shape {
        Shape::Histogram(bounds) => {
            SeriesValue::Histogram { buckets: vec![0; bounds.len() + 1], sum: 0.0 }
        }
        Shape::Counter | Shape::Gauge => SeriesValue::Number(0.0),
    };
    vec![value; declaration.label.values().len()]
}

/// What each sample computes anew.
const SAMPLED: &[Metric] = &[
    Metric::AmstStreams,
    Metric::AmstBandwidth,
    // Its values are totals, which only grow.
    Metric::HdeAlgorithmUsage,
    Metric::HdeBaselines,
    Metric::HdeBaselineBytes,
    Metric::MigrationRunning,
    Metric::MigrationDirtyRate,
    Metric::MigrationRemainingPages,
    Metric::MigrationPredictedDowntime,
    Metric::MigrationThrottle,
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::encoding::{ClassCounts, CodecChoice};
    use crate::observe::{Owner, Pass};

    pub(crate) fn event(sequence: u64, kind: EventKind) -> Event {
        Event { sequence, time_us: 0, migration: None, guest: None, kind }
    }

    fn progress(wire_bytes: u64) -> Progress {
        Progress {
            phase: Phase::Precopy,
            pass: 1,
            ram_bytes: 1 << 20,
            pages: 256,
            remaining_pages: 10,
            wire_bytes,
            rdma_bytes: 0,
            bandwidth_bytes_per_s: 1000,
            dirty_rate_bytes_per_s: 50,
            predicted_downtime_us: 2_000_000,
            elapsed_us: 5,
            streams: 4,
            reconnects: 0,
            throttle_percent: 20,
        }
    }

    fn report(wire_bytes: u64) -> Report {
        Report {
            id: MigrationId([1; 16]),
            guest: "g".to_owned(),
            side: "source",
            status: Status::Ok,
            reason: String::new(),
            owner: Owner::Destination,
            total_ms: 1500.0,
            downtime_ms: 25.0,
            phases: [("precopy".to_owned(), 1200.0.into())].into_iter().collect(),
            ram_bytes: 1 << 20,
            wire_bytes,
            rdma_bytes: 0,
            zero_pages: 3,
            duplicate_pages: 0,
            delta_pages: 0,
            full_pages: 253,
            passes: 2,
            reconnects: 1,
            digest: String::new(),
            post_copy: None,
            pass_details: Vec::new(),
        }
    }

    pub(crate) fn sample(wire_bytes: u64, ended: bool) -> Sample {
        Sample {
            id: MigrationId([1; 16]),
            side: "source",
            progress: progress(wire_bytes),
            report: ended.then(|| report(wire_bytes)),
            encoding: None,
            baselines: (257, 2 << 20),
        }
    }

    fn number(metrics: &Metrics, metric: Metric, label: usize) -> f64 {
        match &metrics.series(metric)[label] {
            SeriesValue::Number(number) => *number,
            SeriesValue::Histogram { buckets, .. } => buckets.iter().sum::<u64>() as f64,
        }
    }

    #[test]
    fn events_count_once_and_gaps_are_told() {
        let mut metrics = Metrics::new();
        let down = || EventKind::StreamDown { stream: 1, reason: String::new() };
        let pass = Pass { pages: 7, zero_pages: 2, ..Default::default() };
        for event in [
            event(1, down()),
            event(1, down()),
            event(5, EventKind::PassCompleted { pass }),
            event(6, EventKind::ChunkDamaged { chunk: 1 }),
        ] {
            metrics.apply(&event);
        }
        assert_eq!(number(&metrics, Metric::AmstStreamsLost, 0), 1.0);
        assert_eq!(number(&metrics, Metric::NodeEventsMissed, 0), 3.0);
        assert_eq!(number(&metrics, Metric::MigrationPassPages, 0), 7.0);
        assert_eq!(number(&metrics, Metric::HdeChunksDamaged, 0), 1.0);
        assert_eq!(metrics.last_sequence(), 6);
    }

    #[test]
    fn waits_for_pages_are_those_of_the_last_guest_and_their_number_of_all() {
        let mut metrics = Metrics::new();
        for (sequence, p99_us) in [(1, 40_000), (2, 12_000)] {
            let figures = PostCopyFigures {
                missing_pages: 100,
                faults: 7,
                fault_p50_us: 10_000,
                fault_p99_us: p99_us,
                ..PostCopyFigures::default()
            };
            let mut waits = Box::<TimeCounts>::default();
            (0..7).for_each(|_| waits.add_us(p99_us));
            metrics.apply(&event(sequence, EventKind::PostCopyCompleted { figures, waits }));
        }
        let [SeriesValue::Histogram { buckets, sum }] = metrics.series(Metric::MigrationFaultWait)
        else {
            panic!("no histogram")
        };
        assert_eq!((buckets.iter().sum::<u64>(), buckets[7], buckets[8]), (14, 7, 7));
        assert!((sum - 0.364).abs() < 1e-9, "{sum}");
        assert_eq!(metrics.value(Metric::MigrationPostCopies, ""), 2.0);
        assert_eq!(metrics.value(Metric::MigrationMissingPages, ""), 200.0);
        assert_eq!(metrics.value(Metric::MigrationFaults, ""), 14.0);
        assert_eq!(metrics.value(Metric::MigrationFaultP50, ""), 0.01);
        assert_eq!(metrics.value(Metric::MigrationFaultP99, ""), 0.012);
    }

    #[test]
    fn encoding_adds_up_over_migrations_that_come_and_go() {
        let mut stats = HdeStats::default();
        let counts =
            ClassCounts { zero: 2, duplicate: 1, delta: 3, fresh: 4, held: 0, with_baseline: 4 };
        stats.add_segment(&counts, 10, 8192, 288);
        stats.add_block(CodecChoice::Zstd(1), 4 * 4096, 8192, 5);
        stats.add_block(CodecChoice::Lz4Fast(9), 4096, 4096, 5);
        let with = |number: u8, stats: &HdeStats| Sample {
            id: MigrationId([number; 16]),
            encoding: Some(stats.clone()),
            ..sample(1, false)
        };
        let mut metrics = Metrics::new();
        assert_eq!(number(&metrics, Metric::HdeCompressionRatio, 0), 0.0);
        metrics.sample(&[with(1, &HdeStats::default())]);
        metrics.sample(&[with(1, &stats)]);
        metrics.sample(&[with(1, &stats), with(2, &stats)]);
        assert_eq!(number(&metrics, Metric::HdeBaselines, 0), 4.0, "two in each");
        assert_eq!(number(&metrics, Metric::HdeBaselineBytes, 0), f64::from(4 << 20));
        metrics.sample(&[with(2, &stats)]);
        metrics.sample(&[]);
        assert_eq!(number(&metrics, Metric::HdeDeltaHitRate, 0), 0.75);
        assert_eq!(number(&metrics, Metric::HdeCompressionRatio, 0), 40_960.0 / 8490.0);
        let saved = [0, 1, 2, 3, 4].map(|class| number(&metrics, Metric::HdeBytesSaved, class));
        assert_eq!(saved, [16_384.0, 8172.0, 24_000.0, 0.0, 16_384.0]);
        let labels = Metric::HdeAlgorithmUsage.declaration().label.values();
        let at = |codec: &str| labels.iter().position(|label| *label == codec).unwrap();
        assert_eq!(number(&metrics, Metric::HdeAlgorithmUsage, at("zstd:1")), 2.0);
        assert_eq!(number(&metrics, Metric::HdeAlgorithmUsage, at("lz4:other")), 2.0);
    }

    #[test]
    fn a_label_has_the_values_that_were_declared_and_no_others() {
        let mut metrics = Metrics::new();
        let before = metrics.clone();
        metrics.add(Metric::MigrationEnded, "a peer's word", 1.0);
        metrics.set(Metric::NodeGuests, "a peer's word", 1.0);
        metrics.set_total(Metric::ModeDetectorProbes, "a peer's word", 1);
        metrics.set_times(Metric::AmstRoundTrip, "a peer's word", &TimeCounts::default());
        metrics.observe(Metric::MigrationPhase, "a peer's word", 1.0);
        assert_eq!(metrics.series, before.series);
    }

    #[test]
    fn what_is_kept_elsewhere_replaces_and_totals_never_fall() {
        let mut metrics = Metrics::new();
        let mut times = TimeCounts::default();
        for us in [90, 20_000_000] {
            times.add_us(us);
            metrics.set_times(Metric::AmstRoundTrip, "internet", &times);
        }
        let SeriesValue::Histogram { buckets, sum } = &metrics.series(Metric::AmstRoundTrip)[2]
        else {
            panic!("no histogram")
        };
        assert_eq!((buckets[0], buckets[15], *sum), (1, 1, 20.00009));
        for total in [5, 3] {
            metrics.set_total(Metric::ModeDetectorProbes, "answered", total);
        }
        assert_eq!(metrics.value(Metric::ModeDetectorProbes, "answered"), 5.0);
    }

    #[test]
    fn bytes_grow_by_what_is_new_and_reports_count_once() {
        let mut metrics = Metrics::new();
        metrics.sample(&[sample(100, false)]);
        assert_eq!(number(&metrics, Metric::AmstStreams, 0), 4.0);
        assert_eq!(number(&metrics, Metric::MigrationPredictedDowntime, 0), 2.0);
        metrics.sample(&[sample(150, true)]);
        metrics.sample(&[sample(150, true)]);
        assert_eq!(number(&metrics, Metric::AmstWireBytes, 0), 150.0);
        assert_eq!(number(&metrics, Metric::AmstReconnects, 0), 1.0);
        assert_eq!(number(&metrics, Metric::AmstStreams, 0), 0.0);
        assert_eq!(number(&metrics, Metric::HdePages, 3), 253.0);
        assert_eq!(number(&metrics, Metric::MigrationDowntime, 0), 1.0);
        assert_eq!(number(&metrics, Metric::MigrationPhase, 1), 1.0);
        assert_eq!(number(&metrics, Metric::MigrationStarted, 0), 1.0);
        assert_eq!(number(&metrics, Metric::HdeBaselines, 0), 0.0, "it has ended");
        metrics.sample(&[]);
        assert!(metrics.seen.is_empty());
        assert_eq!(number(&metrics, Metric::AmstWireBytes, 0), 150.0);
    }
}
