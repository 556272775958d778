//! The table of metrics: each is declared here once, with name, type, unit, labels and meaning.

use crate::Status;
use crate::migration::Phase;
use crate::observe::Component;

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
    /// A distribution, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Shape {
    /// The name as in JSON and in Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Histogram(_) => "histogram",
        }
    }
}

/// The one label that a metric may have; its values are known beforehand.
#[derive(Clone, Copy, Debug)]
pub enum Label {
    /// No label.
    None,
    /// A name and its values.
    Of(&'static str, fn() -> Vec<&'static str>),
}

impl Label {
    /// The label's values; one empty value where there is no label.
    pub fn values(self) -> Vec<&'static str> {
        match self {
            Label::None => vec![""],
            Label::Of(_, values) => values(),
        }
    }

    /// The label's name, empty where there is none.
    pub fn name(self) -> &'static str {
        match self {
            Label::None => "",
            Label::Of(name, _) => name,
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Declaration {
    /// The dotted name, which begins with its component.
    pub name: &'static str,
    /// The component.
    pub component: Component,
    /// How it moves.
    pub shape: Shape,
    /// Its unit, empty for plain counts.
    pub unit: &'static str,
    /// Its label.
    pub label: Label,
    /// What it tells.
    pub help: &'static str,
}

impl Declaration {
    /// The name in Prometheus, without the suffixes that the format adds.
    pub fn prometheus_name(&self) -> String {
        format!("dwcp_{}", self.name.replace(['.', '-'], "_"))
    }
}

fn sides() -> Vec<&'static str> {
    vec!["source", "destination"]
}

fn levels() -> Vec<&'static str> {
    vec!["debug", "info", "warn", "error"]
}

fn statuses() -> Vec<&'static str> {
    Status::ALL.iter().map(|status| status.name()).collect()
}

fn phases() -> Vec<&'static str> {
    Phase::ALL.iter().filter(|phase| **phase != Phase::Ended).map(|phase| phase.name()).collect()
}

fn encodings() -> Vec<&'static str> {
    vec!["zero", "duplicate", "delta", "full"]
}

macro_rules! metrics {
    ($($id:ident $component:ident $name:literal $shape:expr, $unit:literal, $label:expr, $help:literal;)+) => {
        /// Names a metric in code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Metric { $(#[doc = $help] $id,)+ }

        impl Metric {
            /// Every metric, in the table's order.
            pub const ALL: &'static [Metric] = &[$(Metric::$id),+];

            /// The metric's row.
            pub fn declaration(self) -> &'static Declaration {
                match self {
                    $(Metric::$id => &Declaration {
                        name: $name,
                        component: Component::$component,
                        shape: $shape,
                        unit: $unit,
                        label: $label,
                        help: $help,
                    },)+
                }
            }
        }
    };
}

const SIDE: Label = Label::Of("side", sides);
const PAUSE_SECONDS: &[f64] = &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
const DURATION_SECONDS: &[f64] =
    &[0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0];

metrics! {
    AmstStreams Amst "amst.streams" Shape::Gauge, "", SIDE,
        "Connected data streams of running migrations";
    AmstStreamsOpened Amst "amst.streams_opened" Shape::Counter, "", Label::None,
        "Data streams that were connected";
    AmstStreamsLost Amst "amst.streams_lost" Shape::Counter, "", Label::None,
        "Data streams that broke";
    AmstReconnects Amst "amst.reconnects" Shape::Counter, "", SIDE,
        "Streams that were lost and made anew";
    AmstWireBytes Amst "amst.wire" Shape::Counter, "bytes", SIDE,
        "Bytes of migrations on the wire";
    AmstBandwidth Amst "amst.bandwidth" Shape::Gauge, "bytes_per_second", SIDE,
        "Measured speed, summed over running migrations";
    AmstPeersRefused Amst "amst.peers_refused" Shape::Counter, "", Label::None,
        "Peers that were turned away";
    AmstNotices Amst "amst.notices" Shape::Counter, "", Label::None,
        "Notices to the operator";
    HdePages Hde "hde.pages" Shape::Counter, "", Label::Of("encoding", encodings),
        "Pages sent by how they were encoded, counted when a migration ends at its source";
    HdeHeldPages Hde "hde.held_pages" Shape::Gauge, "", Label::None,
        "Pages kept of guests that left or came";
    HdeHeldBytes Hde "hde.held_bytes" Shape::Gauge, "bytes", Label::None,
        "What they take, packed";
    HdeChunksDamaged Hde "hde.chunks_damaged" Shape::Counter, "", Label::None,
        "Chunks that came damaged and were sent again";
    MigrationRunning Migration "migration.running" Shape::Gauge, "", SIDE,
        "Migrations under way";
    MigrationStarted Migration "migration.started" Shape::Counter, "", SIDE,
        "Migrations that were begun";
    MigrationEnded Migration "migration.ended" Shape::Counter, "", Label::Of("status", statuses),
        "Migrations that ended, by outcome";
    MigrationPasses Migration "migration.passes" Shape::Counter, "", Label::None,
        "Passes over dirty pages";
    MigrationPassPages Migration "migration.pass_pages" Shape::Counter, "", Label::None,
        "Pages sent in completed passes, zero pages included";
    MigrationPassZeroPages Migration "migration.pass_zero_pages" Shape::Counter, "", Label::None,
        "Zero pages in completed passes";
    MigrationDowntime Migration "migration.downtime" Shape::Histogram(PAUSE_SECONDS), "seconds", SIDE,
        "How long guests stood still in migrations that succeeded";
    MigrationDuration Migration "migration.duration" Shape::Histogram(DURATION_SECONDS), "seconds", SIDE,
        "How long migrations took that succeeded";
    MigrationPhase Migration "migration.phase" Shape::Histogram(DURATION_SECONDS), "seconds", Label::Of("phase", phases),
        "How long each phase took at the source";
    MigrationDirtyRate Migration "migration.dirty_rate" Shape::Gauge, "bytes_per_second", Label::None,
        "How fast guests write, summed over migrations away from here";
    MigrationRemainingPages Migration "migration.remaining_pages" Shape::Gauge, "", SIDE,
        "Pages still to be moved in the current passes";
    MigrationPredictedDowntime Migration "migration.predicted_downtime" Shape::Gauge, "seconds", Label::None,
        "Longest downtime if guests were paused now";
    MigrationThrottle Migration "migration.throttle" Shape::Gauge, "percent", Label::None,
        "How far the most throttled guest is held back";
    NodeGuests Node "node.guests" Shape::Gauge, "", Label::Of("role", sides),
        "Registered guests";
    NodeEvents Node "node.events" Shape::Counter, "", Label::Of("level", levels),
        "Events by level";
    NodeEventsMissed Node "node.events_missed" Shape::Counter, "", Label::None,
        "Events that left the ring before they were counted here";
    NodeUptime Node "node.uptime" Shape::Gauge, "seconds", Label::None,
        "Time since these metrics began";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_begin_with_their_component_and_are_unique() {
        let mut names = BTreeSet::new();
        for declaration in Metric::ALL.iter().map(|metric| metric.declaration()) {
            let component = declaration.component.name();
            assert!(declaration.name.starts_with(&format!("{component}.")), "{}", declaration.name);
            assert!(names.insert(declaration.prometheus_name()));
        }
    }

    #[test]
    fn buckets_ascend_and_labels_are_bounded() {
        for declaration in Metric::ALL.iter().map(|metric| metric.declaration()) {
            if let Shape::Histogram(bounds) = declaration.shape {
                assert!(bounds.is_sorted(), "{}", declaration.name);
            }
            let values = declaration.label.values().len();
            assert!((1..=64).contains(&values), "{} has {values} series", declaration.name);
        }
    }
}
