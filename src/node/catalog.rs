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
    /// Its unit, one of [`UNITS`].
    pub unit: &'static str,
    /// Its label.
    pub label: Label,
    /// What it tells.
    pub help: &'static str,
}

/// The unit of how many there are of something.
pub const COUNT: &str = "count";
/// The unit of a quotient of two figures of one kind.
pub const RATIO: &str = "ratio";
/// Every unit that a metric may have.
pub const UNITS: [&str; 6] = [COUNT, RATIO, "bytes", "bytes_per_second", "seconds", "percent"];

impl Declaration {
    /// The name in Prometheus, without the suffixes that the format adds: the unit, which therefore
    /// does not stand within the name as well, and `total`.
    pub fn prometheus_name(&self) -> String {
        let words = self.name.split(['.', '-', '_']);
        let words = words.filter(|word| Some(*word) != self.prometheus_unit());
        words.fold("dwcp".to_owned(), |name, word| name + "_" + word)
    }

    /// The unit as Prometheus has it; numbers and quotients have none.
    pub fn prometheus_unit(&self) -> Option<&'static str> {
        Some(self.unit).filter(|unit| ![COUNT, RATIO].contains(unit))
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

fn outcomes() -> Vec<&'static str> {
    vec!["answered", "failed"]
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

            /// The metric of this dotted name.
            pub fn named(name: &str) -> Option<Metric> {
                Metric::ALL.iter().copied().find(|metric| metric.declaration().name == name)
            }

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

/// Those of [`crate::base::TimeCounts`].
const LATENCY_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];
const SIDE: Label = Label::Of("side", sides);
const PAUSE_SECONDS: &[f64] = &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
const DURATION_SECONDS: &[f64] =
    &[0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0];

metrics! {
    AmstStreams Amst "amst.streams" Shape::Gauge, "count", SIDE,
        "Connected data streams of running migrations";
    AmstStreamsOpened Amst "amst.streams_opened" Shape::Counter, "count", Label::None,
        "Data streams that were connected";
    AmstStreamsLost Amst "amst.streams_lost" Shape::Counter, "count", Label::None,
        "Data streams that broke";
    AmstStreamsRetired Amst "amst.streams_retired" Shape::Counter, "count", Label::None,
        "Data streams that were closed because fewer carry as much";
    AmstReconnects Amst "amst.reconnects" Shape::Counter, "count", SIDE,
        "Streams that were lost and made anew";
    AmstWireBytes Amst "amst.wire" Shape::Counter, "bytes", SIDE,
        "Bytes of migrations on the wire";
    AmstBandwidth Amst "amst.bandwidth" Shape::Gauge, "bytes_per_second", SIDE,
        "Measured speed, summed over running migrations";
    AmstRoundTrip Amst "amst.round_trip" Shape::Histogram(LATENCY_SECONDS), "seconds", Label::Of("mode", modes),
        "Round trips to peers, by the peer's mode: those of probes, and what TCP measured on streams";
    AmstPeersRefused Amst "amst.peers_refused" Shape::Counter, "count", Label::None,
        "Peers that were turned away";
    AmstV1Connections Amst "amst.v1_connections" Shape::Counter, "count", Label::Of("state", connection_states),
        "Connections to and from v1 peers, by what they came to";
    AmstModeSwitches Amst "amst.mode_switches" Shape::Counter, "count", Label::Of("to", modes),
        "Changes of the mode of a peer, by the new one";
    AmstNotices Amst "amst.notices" Shape::Counter, "count", Label::None,
        "Notices to the operator";
    ModeDetectorProbes ModeDetector "mode-detector.probes" Shape::Counter, "count", Label::Of("outcome", outcomes),
        "Probes of the paths to peers, by what came of them";
    HdePages Hde "hde.pages" Shape::Counter, "count", Label::Of("encoding", encodings),
        "Pages sent by how they were encoded, counted when a migration ends at its source";
    HdeHeldPages Hde "hde.held_pages" Shape::Gauge, "count", Label::None,
        "Pages kept of guests that left or came";
    HdeHeldBytes Hde "hde.held_bytes" Shape::Gauge, "bytes", Label::None,
        "What pages kept of guests that left or came take, packed";
    HdeAlgorithmUsage Hde "hde.algorithm_usage" Shape::Counter, "count", Label::Of("codec", codecs),
        "Blocks of pages by the codec that was chosen for them";
    HdeBytesSaved Hde "hde.bytes_saved" Shape::Counter, "bytes", Label::Of("class", savers),
        "Bytes of pages that need not travel, by what saved them";
    HdeCompressionRatio Hde "hde.compression_ratio" Shape::Gauge, "ratio", Label::None,
        "Bytes of pages for each byte that they took on the wire, since the node's start; 0 before";
    HdeDeltaHitRate Hde "hde.delta_hit_rate" Shape::Gauge, "ratio", Label::None,
        "Pages sent as differences, of those that were sent before and are still remembered";
    HdeBaselines Hde "hde.baselines" Shape::Gauge, "count", SIDE,
        "Baselines held by running migrations, 256 pages each";
    HdeBaselineBytes Hde "hde.baseline_bytes" Shape::Gauge, "bytes", SIDE,
        "Memory of baselines held by running migrations, indexes included";
    HdeChunksDamaged Hde "hde.chunks_damaged" Shape::Counter, "count", Label::None,
        "Chunks that came damaged and were sent again";
    MigrationRunning Migration "migration.running" Shape::Gauge, "count", SIDE,
        "Migrations under way";
    MigrationStarted Migration "migration.started" Shape::Counter, "count", SIDE,
        "Migrations that were begun";
    MigrationEnded Migration "migration.ended" Shape::Counter, "count", Label::Of("status", statuses),
        "Migrations that ended, by outcome";
    MigrationPasses Migration "migration.passes" Shape::Counter, "count", Label::None,
        "Passes over dirty pages";
    MigrationPassPages Migration "migration.pass_pages" Shape::Counter, "count", Label::None,
        "Pages sent in completed passes, zero pages included";
    MigrationPassZeroPages Migration "migration.pass_zero_pages" Shape::Counter, "count", Label::None,
        "Zero pages in completed passes";
    MigrationDowntime Migration "migration.downtime" Shape::Histogram(PAUSE_SECONDS), "seconds", SIDE,
        "How long guests stood still in migrations that succeeded";
    MigrationDuration Migration "migration.duration" Shape::Histogram(DURATION_SECONDS), "seconds", SIDE,
        "How long migrations took that succeeded";
    MigrationPhase Migration "migration.phase" Shape::Histogram(DURATION_SECONDS), "seconds", Label::Of("phase", phases),
        "How long each phase took at the source";
    MigrationDirtyRate Migration "migration.dirty_rate" Shape::Gauge, "bytes_per_second", Label::None,
        "How fast guests write, summed over migrations away from here";
    MigrationRemainingPages Migration "migration.remaining_pages" Shape::Gauge, "count", SIDE,
        "Pages still to be moved in the current passes";
    MigrationPredictedDowntime Migration "migration.predicted_downtime" Shape::Gauge, "seconds", Label::None,
        "Longest downtime if guests were paused now";
    MigrationThrottle Migration "migration.throttle" Shape::Gauge, "percent", Label::None,
        "How far the most throttled guest is held back";
    MigrationPostCopies Migration "migration.post_copies" Shape::Counter, "count", Label::None,
        "Guests that came by post-copy and lack no page any more";
    MigrationMissingPages Migration "migration.missing_pages" Shape::Counter, "count", Label::None,
        "Pages that such guests lacked at the switch to post-copy";
    MigrationFaults Migration "migration.faults" Shape::Counter, "count", Label::None,
        "Pages that guests had to wait for after a switch to post-copy";
    MigrationFaultWait Migration "migration.fault_wait" Shape::Histogram(LATENCY_SECONDS), "seconds", Label::None,
        "How long guests waited for a page after a switch, from the fault to the page in its place";
    MigrationFaultP50 Migration "migration.fault_p50" Shape::Gauge, "seconds", Label::None,
        "How long the last guest by post-copy waited for half of its pages at most";
    MigrationFaultP99 Migration "migration.fault_p99" Shape::Gauge, "seconds", Label::None,
        "How long the last guest by post-copy waited for all but a hundredth of its pages";
    NodeGuests Node "node.guests" Shape::Gauge, "count", Label::Of("role", sides),
        "Registered guests";
    NodeEvents Node "node.events" Shape::Counter, "count", Label::Of("level", levels),
        "Events by level";
    NodeEventsMissed Node "node.events_missed" Shape::Counter, "count", Label::None,
        "Events that left the ring before they were counted here";
    NodeUptime Node "node.uptime" Shape::Gauge, "seconds", Label::None,
        "Time since these metrics began";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TimeCounts;
    use crate::base::limits::{
        MAX_HISTOGRAM_BOUNDS, MAX_METRIC_NAME_BYTES, MAX_TOLD_METRICS, MAX_TOLD_SERIES,
    };
    use crate::encoding::codec::{CodecChoice, LZ4_ACCELERATIONS, ZSTD_LEVELS};
    use std::collections::BTreeSet;

    fn declarations() -> impl Iterator<Item = &'static Declaration> {
        Metric::ALL.iter().map(|metric| metric.declaration())
    }

    fn is_word(text: &str) -> bool {
        let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
        text.starts_with(|char: char| char.is_ascii_lowercase())
            && text.chars().all(|char| fits(char) || char == '_')
            && text.len() <= MAX_METRIC_NAME_BYTES
    }

    #[test]
    fn names_begin_with_their_component_and_are_unique() {
        let mut names = BTreeSet::new();
        for declaration in declarations() {
            let component = declaration.component.name();
            let name = declaration.name.strip_prefix(component).and_then(|n| n.strip_prefix('.'));
            assert!(name.is_some_and(is_word), "{}", declaration.name);
            let prometheus = declaration.prometheus_name();
            assert!(is_word(&prometheus) && prometheus.starts_with("dwcp_"), "{prometheus}");
            // What the format appends belongs to no name.
            for suffix in ["_total", "_created", "_bucket", "_count", "_sum", "_info"] {
                assert!(!prometheus.ends_with(suffix), "{prometheus}");
            }
            assert!(names.insert(prometheus), "{} is there twice", declaration.name);
        }
    }

    #[test]
    fn every_metric_has_its_help_and_its_unit() {
        for Declaration { name, unit, help, shape, .. } in declarations() {
            assert!(UNITS.contains(unit), "{name} has unit {unit:?}");
            assert!((10..=120).contains(&help.len()) && !help.ends_with('.'), "{name}: {help:?}");
            assert!(help.starts_with(char::is_uppercase), "{name}: {help:?}");
            assert!(!help.contains(['\n', '\\', '"', '|']), "{name}: {help:?}");
            let tells_bytes = name.contains("bytes");
            assert!(!tells_bytes || *unit == "bytes", "{name} is in {unit}");
            assert!(*shape != Shape::Counter || *unit != RATIO, "{name}: a quotient is no counter");
            let is_histogram = matches!(shape, Shape::Histogram(_));
            assert!(!is_histogram || *unit == "seconds", "{name}: no histogram of {unit} yet");
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
        let mut all_series = 0;
        for Declaration { name, shape, label, .. } in declarations() {
            if let Shape::Histogram(bounds) = shape {
                assert!(bounds.is_sorted_by(|one, next| one < next), "{name}");
                assert!(bounds.len() <= MAX_HISTOGRAM_BOUNDS, "{name}");
            }
            let values = label.values();
            assert!((1..=64).contains(&values.len()), "{name} has {} series", values.len());
            let unique: BTreeSet<_> = values.iter().collect();
            assert_eq!(unique.len(), values.len(), "{name}: a label's value is there twice");
            all_series += values.len();
            let Label::Of(label, _) = label else { continue };
            // Histograms keep `le` for themselves.
            assert!(is_word(label) && *label != "le", "{name} has label {label:?}");
            for value in values {
                let fits = |char: char| char.is_ascii_alphanumeric() || "_-:".contains(char);
                let is_short = (1..=MAX_METRIC_NAME_BYTES).contains(&value.len());
                assert!(is_short && value.chars().all(fits), "{name}: {value:?}");
            }
        }
        assert!(Metric::ALL.len() <= MAX_TOLD_METRICS && all_series <= MAX_TOLD_SERIES);
    }

    #[test]
    fn latencies_have_the_bounds_by_which_they_are_counted() {
        let bounds_us = LATENCY_SECONDS.iter().map(|bound| (bound * 1e6).round() as u64);
        assert!(bounds_us.eq(TimeCounts::BOUNDS_US));
    }
}
