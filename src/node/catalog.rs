//! The table of metrics: each is declared here once, with name, type, unit, labels and meaning.

use crate::Status;
use crate::migration::Phase;
use crate::observe::{Component, ConnectionState};
use crate::transport::Mode;

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

fn savers() -> Vec<&'static str> {
    vec!["zero", "duplicate", "delta", "held", "codec"]
}

fn modes() -> Vec<&'static str> {
    Mode::ALL.map(Mode::name).to_vec()
}

fn connection_states() -> Vec<&'static str> {
    ConnectionState::ALL.map(ConnectionState::name).to_vec()
}

/// All codecs that a configuration can name; of LZ4's accelerations the selector's own alone.
fn codecs() -> Vec<&'static str> {
    CODECS.to_vec()
}

/// The label under which a codec counts.
pub fn codec_label(codec: &str) -> &'static str {
    CODECS.iter().find(|known| **known == codec).copied().unwrap_or(OTHER_CODEC)
}

const OTHER_CODEC: &str = "lz4:other";
const CODECS: &[&str] = &[
    "none",
    "lz4",
    "lz4:8",
    OTHER_CODEC,
    "zstd:-7",
    "zstd:-6",
    "zstd:-5",
    "zstd:-4",
    "zstd:-3",
    "zstd:-2",
    "zstd:-1",
    "zstd:0",
    "zstd:1",
    "zstd:2",
    "zstd:3",
    "zstd:4",
    "zstd:5",
    "zstd:6",
    "zstd:7",
    "zstd:8",
    "zstd:9",
    "zstd:10",
    "zstd:11",
    "zstd:12",
    "zstd:13",
    "zstd:14",
    "zstd:15",
    "zstd:16",
    "zstd:17",
    "zstd:18",
    "zstd:19",
];

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
    AmstStreamsRetired Amst "amst.streams_retired" Shape::Counter, "", Label::None,
        "Data streams that were closed because fewer carry as much";
    AmstReconnects Amst "amst.reconnects" Shape::Counter, "", SIDE,
        "Streams that were lost and made anew";
    AmstWireBytes Amst "amst.wire" Shape::Counter, "bytes", SIDE,
        "Bytes of migrations on the wire";
    AmstBandwidth Amst "amst.bandwidth" Shape::Gauge, "bytes_per_second", SIDE,
        "Measured speed, summed over running migrations";
    AmstPeersRefused Amst "amst.peers_refused" Shape::Counter, "", Label::None,
        "Peers that were turned away";
    AmstV1Connections Amst "amst.v1_connections" Shape::Counter, "", Label::Of("state", connection_states),
        "Connections to and from v1 peers, by what they came to";
    AmstModeSwitches Amst "amst.mode_switches" Shape::Counter, "", Label::Of("to", modes),
        "Changes of the mode of a peer, by the new one";
    AmstNotices Amst "amst.notices" Shape::Counter, "", Label::None,
        "Notices to the operator";
    HdePages Hde "hde.pages" Shape::Counter, "", Label::Of("encoding", encodings),
        "Pages sent by how they were encoded, counted when a migration ends at its source";
    HdeHeldPages Hde "hde.held_pages" Shape::Gauge, "", Label::None,
        "Pages kept of guests that left or came";
    HdeHeldBytes Hde "hde.held_bytes" Shape::Gauge, "bytes", Label::None,
        "What they take, packed";
    HdeAlgorithmUsage Hde "hde.algorithm_usage" Shape::Counter, "", Label::Of("codec", codecs),
        "Blocks of pages by the codec that was chosen for them";
    HdeBytesSaved Hde "hde.bytes_saved" Shape::Counter, "", Label::Of("class", savers),
        "Bytes of pages that need not travel, by what saved them";
    HdeCompressionRatio Hde "hde.compression_ratio" Shape::Gauge, "", Label::None,
        "Bytes of pages for each byte that they took on the wire, since the node's start; 0 before";
    HdeDeltaHitRate Hde "hde.delta_hit_rate" Shape::Gauge, "", Label::None,
        "Pages sent as differences, of those that were sent before and are still remembered";
    HdeBaselines Hde "hde.baselines" Shape::Gauge, "", SIDE,
        "Baselines held by running migrations, 256 pages each";
    HdeBaselineBytes Hde "hde.baseline_bytes" Shape::Gauge, "", SIDE,
        "Memory of these baselines, indexes included";
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
    MigrationPostCopies Migration "migration.post_copies" Shape::Counter, "", Label::None,
        "Guests that came by post-copy and lack no page any more";
    MigrationMissingPages Migration "migration.missing_pages" Shape::Counter, "", Label::None,
        "Pages that they lacked at the switch";
    MigrationFaults Migration "migration.faults" Shape::Counter, "", Label::None,
        "Of these, pages that they had to wait for";
    MigrationFaultP50 Migration "migration.fault_p50" Shape::Gauge, "seconds", Label::None,
        "How long the last of these guests waited for half of its pages";
    MigrationFaultP99 Migration "migration.fault_p99" Shape::Gauge, "seconds", Label::None,
        "How long it waited for all but a hundredth of them";
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
    use crate::encoding::codec::{CodecChoice, LZ4_ACCELERATIONS, ZSTD_LEVELS};
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
    fn every_codec_has_its_label() {
        let accelerations = LZ4_ACCELERATIONS.map(CodecChoice::Lz4Fast);
        let all = [CodecChoice::None, CodecChoice::Lz4].into_iter().chain(accelerations);
        for codec in all.chain(ZSTD_LEVELS.map(CodecChoice::Zstd)).map(|codec| codec.to_string()) {
            let label = codec_label(&codec);
            assert!(label == codec || label == OTHER_CODEC && codec.starts_with("lz4:"), "{codec}");
        }
        for codec in crate::encoding::CostSelector::menu() {
            assert_eq!(codec_label(&codec.to_string()), codec.to_string());
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
