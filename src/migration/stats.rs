//! Counts of one migration: totals, the pass under way, and how long each phase took.

use crate::base::Time;
use crate::migration::{Pass, Phase};
use std::time::Duration;

/// Pages and bytes, over the whole migration and in the current pass.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Pages sent whole.
    pub full_pages: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Those of them that went by RDMA.
    pub rdma_bytes: u64,
    /// Finished passes.
    pub passes: Vec<Pass>,
    current: Pass,
    /// Zero pages, data pages and bytes since the second pass, for the cost of a dirty page.
    later_pages: u64,
    later_bytes: u64,
}

/// What the streams of a migration did so far, for whoever divides paths among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes handed to the streams.
    pub sent_bytes: u64,
    /// Bytes that the destination acknowledged.
    pub delivered_bytes: u64,
    /// Streams that are up.
    pub streams: u16,
    /// Whether memory is being copied while the guest runs.
    pub is_copying: bool,
    /// Whether the cap held something back since this was last asked.
    pub was_held_back: bool,
    /// Round trip, queues not counted; none while that is not known.
    pub round_trip: Option<Duration>,
    /// What the path lately carried at most; none while that is not known.
    pub rate_bytes_per_s: Option<u64>,
    /// What the migration's owner allows.
    pub limit_bytes_per_s: Option<u64>,
}

/// The phases of one migration on its own clock.
#[derive(Clone, Debug)]
pub struct PhaseClock {
    started: Time,
    entered: Time,
    phase: Phase,
    spent: Vec<(Phase, Duration)>,
}

impl Counts {
    /// Starts pass number `pass`.
    pub fn begin_pass(&mut self, started: Duration) {
        let pass = self.passes.len() as u32 + 1;
        let start_us = started.as_micros() as u64;
        self.current = Pass { pass, start_us, ..Pass::default() };
    }

    /// The pass under way, 0 before the first.
    pub fn pass(&self) -> u32 {
        self.current.pass
    }

    /// Books one encoded chunk.
    pub fn add_chunk(&mut self, zero_pages: u64, full_pages: u64, wire_bytes: u64) {
        self.zero_pages += zero_pages;
        self.full_pages += full_pages;
        self.add_bytes(wire_bytes);
        self.current.pages += zero_pages + full_pages;
        self.current.zero_pages += zero_pages;
        if self.current.pass > 1 {
            self.later_pages += zero_pages + full_pages;
            self.later_bytes += wire_bytes;
        }
    }

    /// Books bytes other than chunks.
    pub fn add_bytes(&mut self, wire_bytes: u64) {
        self.wire_bytes += wire_bytes;
        self.current.wire_bytes += wire_bytes;
    }

    /// Books bytes of a chunk that RDMA carries; [`Self::add_chunk`] counts them too.
    pub fn add_rdma(&mut self, read_bytes: u64) {
        self.rdma_bytes += read_bytes;
    }

    /// What a dirty page costs on the wire: by later passes, else by the first, else its size.
    pub fn wire_bytes_per_page(&self, page_bytes: u32) -> f64 {
        if self.later_pages > 0 {
            return self.later_bytes as f64 / self.later_pages as f64;
        }
        match self.full_pages {
            0 => page_bytes.into(),
            pages => self.wire_bytes as f64 / pages as f64,
        }
    }

    /// Ends the pass; `fill` adds the rates.
    pub fn end_pass(&mut self, now: Duration, fill: impl FnOnce(&mut Pass)) -> Pass {
        let mut pass = std::mem::take(&mut self.current);
        pass.duration_us = (now.as_micros() as u64).saturating_sub(pass.start_us);
        fill(&mut pass);
        self.passes.push(pass.clone());
        pass
    }
}

impl PhaseClock {
    /// Starts in [`Phase::Connect`].
    pub fn new(now: Time) -> Self {
        Self { started: now, entered: now, phase: Phase::Connect, spent: Vec::new() }
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Time since the migration began.
    pub fn elapsed(&self, now: Time) -> Duration {
        now - self.started
    }

    /// Enters a phase; returns how long the one before took.
    pub fn enter(&mut self, phase: Phase, now: Time) -> Duration {
        let took = now - self.entered;
        self.spent.push((self.phase, took));
        (self.phase, self.entered) = (phase, now);
        took
    }

    /// Milliseconds of each phase that was left, by name.
    pub fn milliseconds(&self) -> serde_json::Map<String, serde_json::Value> {
        let entry = |(phase, took): &(Phase, Duration)| {
            (phase.name().to_string(), serde_json::json!(milliseconds(*took)))
        };
        self.spent.iter().map(entry).collect()
    }
}

/// Milliseconds with three decimals.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
