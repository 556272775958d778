//! Turns a node's events and migrations into metrics, log lines and a log file, when asked to.
//!
//! It has no thread of its own: whoever wants fresh numbers calls [`Telemetry::refresh`].

use super::log_file::LogFile;
use crate::encoding::HdeStats;
use crate::node::catalog::{Declaration, Metric};
use crate::node::exposition;
use crate::node::metrics::{Metrics, Sample};
use crate::observe::{Level, LogRecord, LogRing};
use crate::runtime::clock::wall_clock_us;
use crate::runtime::metrics_teller::KeepsMetrics;
use crate::wire::ToldMetrics;
use crate::{Migration, Node};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The numbers and lines of one node.
pub struct Telemetry {
    node: Node,
    started: Instant,
    /// The same by the wall clock, in microseconds since 1970.
    since_us: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    metrics: Metrics,
    ring: LogRing,
    file: Option<LogFile>,
    least_level: Option<Level>,
    write_failed: bool,
}

impl Telemetry {
    /// Begins with the events that the node still holds.
    pub fn new(node: &Node) -> Self {
        let (started, since_us) = (Instant::now(), wall_clock_us());
        Self { node: node.clone(), started, since_us, state: Mutex::default() }
    }

    /// Takes up what happened since the last call.
    pub fn refresh(&self) {
        let mut state = self.lock();
        for event in self.node.events(state.metrics.last_sequence()) {
            state.metrics.apply(&event);
            let record = state.ring.push_event(&event).clone();
            state.write(&record);
        }
        let samples: Vec<Sample> = self.node.migrations().iter().map(sample).collect();
        state.metrics.sample(&samples);
        let guests = self.node.guests();
        for role in ["source", "destination"] {
            let count = guests.iter().filter(|guest| guest.role == role).count();
            state.metrics.set(Metric::NodeGuests, role, count as f64);
        }
        let held = self.node.held(None);
        state.metrics.set(Metric::HdeHeldPages, "", held.pages as f64);
        state.metrics.set(Metric::HdeHeldBytes, "", held.bytes as f64);
        for (mode, times) in self.node.modes().round_trips() {
            state.metrics.set_times(Metric::AmstRoundTrip, mode.name(), &times);
        }
        let probes = self.node.modes().probe_counts();
        for (outcome, total) in [("answered", probes.answered), ("failed", probes.failed)] {
            state.metrics.set_total(Metric::ModeDetectorProbes, outcome, total);
        }
        let uptime = self.started.elapsed();
        state.metrics.set(Metric::NodeUptime, "", uptime.as_secs_f64());
    }

    /// Adds a log line that no event stands behind.
    pub fn log(&self, level: Level, message: String) {
        let time_us = wall_clock_us();
        let mut state = self.lock();
        let record = state.ring.push_text(time_us, level, message).clone();
        state.write(&record);
    }

    /// Log lines numbered above `after` that `wanted` accepts.
    pub fn records(&self, after: u64, wanted: impl Fn(&LogRecord) -> bool) -> Vec<LogRecord> {
        self.lock().ring.after(after).filter(|record| wanted(record)).cloned().collect()
    }

    /// Memory of the kept log lines.
    pub fn log_bytes(&self) -> u64 {
        let state = self.lock();
        let bytes = state.ring.after(0).map(|line| size_of::<LogRecord>() + line.message.len());
        bytes.sum::<usize>() as u64
    }

    /// The number of the newest log line.
    pub fn last_record(&self) -> u64 {
        self.lock().ring.last_sequence()
    }

    /// From now on, lines of at least this level go to this file too.
    pub fn set_log_file(&self, file: LogFile, least_level: Level) {
        let mut state = self.lock();
        state.file = Some(file);
        state.least_level = Some(least_level);
    }

    /// Changes the bounds of the log file.
    pub fn set_log_bounds(&self, max_bytes: u64, keep: u64, least_level: Level) {
        let mut state = self.lock();
        state.least_level = Some(least_level);
        if let Some(file) = &mut state.file {
            (file.max_bytes, file.keep) = (max_bytes, keep);
        }
    }

    /// The metrics in the format that Prometheus reads.
    ///
    /// # Errors
    /// Never in practice.
    pub fn prometheus_text(&self) -> Result<String, std::fmt::Error> {
        self.refresh();
        let metrics = self.lock().metrics.clone();
        exposition::prometheus_text(&metrics)
    }

    /// How pages were encoded by all migrations since this began.
    pub fn encoding(&self) -> HdeStats {
        self.refresh();
        self.lock().metrics.encoding().clone()
    }

    /// The value of a counter or gauge.
    pub fn value(&self, metric: Metric, label: &str) -> f64 {
        self.refresh();
        self.lock().metrics.value(metric, label)
    }

    /// The metrics that `wanted` accepts, as JSON.
    pub fn metrics_json(&self, wanted: impl Fn(&Declaration) -> bool) -> serde_json::Value {
        self.refresh();
        exposition::json(&self.lock().metrics, wanted)
    }

    /// Since when counters count, by the wall clock in microseconds since 1970.
    pub fn since_us(&self) -> u64 {
        self.since_us
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeepsMetrics for Telemetry {
    fn told(&self, node: String) -> ToldMetrics {
        self.refresh();
        let families = exposition::told(&self.lock().metrics);
        ToldMetrics { node, time_us: wall_clock_us(), since_us: self.since_us, families }
    }
}

impl State {
    fn write(&mut self, record: &LogRecord) {
        if self.least_level.is_some_and(|least| record.level < least) {
            return;
        }
        let Some(file) = &mut self.file else { return };
        let failed = file.write_line(&record.line()).err();
        // Told once, until a line is written again: a full disk must not fill the ring as well.
        if let Some(error) = failed.as_ref().filter(|_| !self.write_failed) {
            let text = format!("cannot write {}: {error}", file.path().display());
            self.ring.push_text(record.time_us, Level::Error, text);
        }
        self.write_failed = failed.is_some();
    }
}

fn sample(migration: &Migration) -> Sample {
    let footprint = migration.footprint();
    Sample {
        id: migration.id(),
        side: migration.side(),
        progress: migration.progress(),
        report: migration.report(),
        encoding: migration.encoding(),
        baselines: (footprint.baseline_pages, footprint.baseline_bytes),
    }
}
