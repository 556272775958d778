//! The one table of configuration keys: name, place in the file, type, default, meaning.
//!
//! A key is named as in `config set` (`amst.mode`); in the file its section may carry the
//! component's version (`amst_v3:`). Both names are accepted in both places.

use super::value::Kind;
use crate::base::limits::{MAX_V1_CONNECTIONS, MAX_V1_PEERS, MIN_HELD_BYTES};
pub use crate::base::text::nearest;
use crate::rollout::Flag;
use crate::transport::addresses::MAX_SOURCE_ADDRESSES;
use crate::transport::path_options::MAX_DSCP;

/// When a change of a key takes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At once.
    Live,
    /// With the next migration that starts.
    NextMigration,
    /// When the daemon is started again.
    Restart,
    /// Checked and kept, but what it steers is not built yet.
    NotInUse,
}

impl Applies {
    /// The name as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Applies::Live => "live",
            Applies::NextMigration => "next_migration",
            Applies::Restart => "restart",
            Applies::NotInUse => "not_in_use_yet",
        }
    }
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// The dotted name.
    pub name: &'static str,
    /// Its type and range.
    pub kind: Kind,
    /// The value that holds where none is written, as text.
    pub default: &'static str,
    /// When a change takes hold.
    pub applies: Applies,
    /// What it does.
    pub doc: &'static str,
}

impl Key {
    /// The names from the file's root down to the value.
    pub fn path(&self) -> Vec<&'static str> {
        let mut parts: Vec<_> = self.name.split('.').collect();
        if let Some(first) = parts.first_mut() {
            *first = file_section(first);
        }
        parts
    }

    /// The environment variable that overrides it, such as `DWCP_MIGRATION_STREAMS`.
    pub fn variable(&self) -> String {
        format!("DWCP_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

/// The key of this name, by either name of its section.
pub fn find(name: &str) -> Option<Id> {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let section = short_section(first);
    let matches = |key: &Key| match key.name.split_once('.') {
        Some((head, tail)) => head == section && tail == rest,
        None => key.name == name,
    };
    Id::ALL.iter().copied().find(|id| matches(id.key()))
}

impl Id {
    /// The key that holds a feature flag's rule.
    pub fn of_flag(flag: Flag) -> Option<Id> {
        Id::ALL.iter().copied().find(|id| id.key().kind == Kind::Rule(flag))
    }

    /// Whether it says what this host is to its fleet, and so means nothing on another one: its name, its
    /// addresses, its directories, how it is secured.
    pub fn is_of_host(self) -> bool {
        matches!(
            self,
            Id::NodeName
                | Id::NodeListen
                | Id::NodeStateDir
                | Id::NodeControlSocket
                | Id::NodeMetricsListen
                | Id::NodeLogDir
                | Id::SecurityTransport
                | Id::SecurityIdentityDir
                | Id::AmstSourceAddresses
                | Id::V1Listen
                | Id::RolloutKillSwitchFile
        )
    }

    /// The feature flag whose rule the key holds.
    pub fn flag(self) -> Option<Flag> {
        match self.key().kind {
            Kind::Rule(flag) => Some(flag),
            _ => None,
        }
    }
}

/// The name that a section has in `config set`.
pub fn short_section(section: &str) -> &str {
    let pair = SECTIONS.iter().find(|(_, file)| *file == section);
    pair.map_or(section, |(short, _)| short)
}

/// The name that a section gets in a file.
pub fn file_section(section: &str) -> &str {
    let pair = SECTIONS.iter().find(|(short, _)| *short == section);
    pair.map_or(section, |(_, file)| file)
}

/// Sections whose name in the file differs.
const SECTIONS: &[(&str, &str)] = &[
    ("amst", "amst_v3"),
    ("hde", "hde_v3"),
    ("pba", "pba_v3"),
    ("ass", "ass_v3"),
    ("acp", "acp_v3"),
    ("itp", "itp_v3"),
];

macro_rules! keys {
    ($($id:ident $name:literal $kind:expr, $default:literal, $applies:ident, $doc:literal;)+) => {
        /// Names a key in code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Id { $(#[doc = $doc] $id,)+ }

        impl Id {
            /// Every key, in the table's order.
            pub const ALL: &'static [Id] = &[$(Id::$id),+];

            /// The key's row.
            pub fn key(self) -> &'static Key {
                match self {
                    $(Id::$id => &Key {
                        name: $name,
                        kind: $kind,
                        default: $default,
                        applies: Applies::$applies,
                        doc: $doc,
                    },)+
                }
            }
        }
    };
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const MODES: &[&str] = &["datacenter", "internet", "hybrid"];
const FORCED_MODES: &[&str] = &["datacenter", "internet", "hybrid", "v1-compat"];

keys! {
    NodeName "node.name" Kind::Text(128), "", Restart,
        "Name shown to peers; empty: the host's name.";
    NodeListen "node.listen" Kind::OptionalAddress, "none", Restart,
        "Where incoming migrations are accepted.";
    NodeStateDir "node.state_dir" Kind::OptionalPath, "/var/lib/dwcp", Restart,
        "Where ownership records are kept; none: lost with the process.";
    NodeControlSocket "node.control_socket" Kind::Path, "/run/dwcp/dwcp.sock", Restart,
        "The unix socket that dwcp-v3-cli talks to.";
    NodeMetricsListen "node.metrics_listen" Kind::OptionalAddress, "127.0.0.1:9090", Restart,
        "Where Prometheus may read /metrics.";
    NodeShareMetricsWith "node.share_metrics_with" Kind::Networks, "none", Live,
        "Addresses of nodes that may ask for the metrics of this one, and networks of such.";
    NodeBandwidthLimit "node.bandwidth_limit" Kind::OptionalRate(65_536), "none", Live,
        "Cap on what all migrations that leave the node send together, shared evenly.";
    NodeLogDir "node.log_dir" Kind::OptionalPath, "/var/log/dwcp/v3", Restart,
        "Where dwcp.log is written; where it cannot be, the state directory is used.";
    NodeLogLevel "node.log_level" Kind::Choice(&["debug", "info", "warn", "error"]), "info", Live,
        "Least level that is written to the log file.";
    NodeLogMaxSize "node.log_max_size" Kind::Bytes(64 << 10, 1 << 30), "16MiB", Live,
        "A log file of this size is closed and the next begun.";
    NodeLogKeep "node.log_keep" Kind::Integer(0, 100), "4", Live,
        "Closed log files that are kept.";

    SecurityTransport "security.transport" Kind::Choice(&["tls", "plain"]), "tls", Restart,
        "How connections between nodes are secured; plain: not at all, and never over public addresses.";
    SecurityIdentityDir "security.identity_dir" Kind::Path, "/etc/dwcp/identity", Restart,
        "Where the node's key and certificate are, and what it trusts.";
    SecurityAllowedPeers "security.allowed_peers" Kind::Text(8192), "", Restart,
        "Names of the nodes that are talked to, separated by commas; empty: all that are trusted.";

    MigrationStreams "migration.streams" Kind::Integer(1, 64), "8", NextMigration,
        "Data streams of a migration, at most; how many there are is found out.";
    MigrationCodec "migration.codec" Kind::Codec, "auto", NextMigration,
        "How pages are encoded.";
    MigrationMaxDowntime "migration.max_downtime" Kind::Duration(1, HOUR_MS), "300ms", NextMigration,
        "The guest is paused once the rest is predicted to take no longer.";
    MigrationDeadline "migration.deadline" Kind::OptionalDuration(1, 30 * DAY_MS), "none", NextMigration,
        "Give up, guest running at the source, when pre-copy takes longer.";
    MigrationBandwidthLimit "migration.bandwidth_limit" Kind::OptionalRate(65_536), "none", NextMigration,
        "Cap on what one migration sends.";
    MigrationThrottle "migration.throttle" Kind::Bool, "true", NextMigration,
        "Whether a guest may be slowed down to converge.";
    MigrationMultifdChannels "migration.multifd_channels" Kind::Integer(0, 16), "0", NextMigration,
        "Channels beside its main stream over which QEMU hands on a guest's pages.";
    MigrationPostCopy "migration.post_copy" Kind::Choice(&["never", "manual", "auto"]), "never", NextMigration,
        "Whether a guest may go on at the destination before all of its memory is there: on command, or also when it does not converge.";
    MigrationReconnectTimeout "migration.reconnect_timeout" Kind::Duration(1, DAY_MS), "60s", NextMigration,
        "How long a first or lost connection is tried for.";
    MigrationStallTimeout "migration.stall_timeout" Kind::Duration(1, DAY_MS), "60s", NextMigration,
        "How long a peer may go without any progress.";

    FlagHybridMode "feature_flags.hybrid_mode" Kind::Rule(Flag::HybridMode), "true", Live,
        "Detect and switch the transport's mode; off: it stays datacenter.";
    FlagMlCompression "feature_flags.ml_compression" Kind::Rule(Flag::MlCompression), "true", Live,
        "Choose the codec by a learned selector; off: zstd.";
    FlagCrdtSync "feature_flags.crdt_sync" Kind::Rule(Flag::CrdtSync), "false", Live,
        "Replicate state by CRDTs over the internet; not built yet.";
    FlagPbftConsensus "feature_flags.pbft_consensus" Kind::Rule(Flag::PbftConsensus), "false", Live,
        "Order commands by PBFT over the internet; not built yet.";
    FlagInternetOptimization "feature_flags.internet_optimization" Kind::Rule(Flag::InternetOptimization), "true", Live,
        "Congestion control, pacing, numbers of streams and local addresses for long paths; off: the system's.";
    RolloutKillSwitchFile "rollout.kill_switch_file" Kind::OptionalPath, "none", Restart,
        "While this file is there, every feature flag is off; none: kill-switch in the state directory.";
    RolloutMembers "rollout.members" Kind::Text(8192), "", Live,
        "Names of the nodes that percentages are taken of, separated by commas, so that 10 % of 20 is 2; empty: by hash alone.";
    NetworkMode "network_mode" Kind::Choice(MODES), "hybrid", Live,
        "Kind of network between nodes; hybrid: detect and switch.";

    AmstEnableDatacenter "amst.enable_datacenter" Kind::Bool, "true", Live,
        "Allow datacenter mode.";
    AmstEnableInternet "amst.enable_internet" Kind::Bool, "true", Live,
        "Allow internet mode.";
    AmstAutoMode "amst.auto_mode" Kind::Bool, "true", Live,
        "Choose the mode by measurement.";
    AmstMode "amst.mode" Kind::Choice(FORCED_MODES), "hybrid", Live,
        "The mode when auto_mode is false.";
    AmstDatacenterStreams "amst.datacenter_streams" Kind::Integer(1, 64), "64", Live,
        "Streams of a migration to a peer in datacenter mode, at most.";
    AmstInternetStreams "amst.internet_streams" Kind::Integer(1, 64), "8", Live,
        "Streams of a migration to a peer in internet mode, at most.";
    AmstCongestionAlgorithm "amst.congestion_algorithm" Kind::Choice(&["bbr", "cubic", "reno", "system"]), "bbr", Live,
        "TCP congestion control of long paths; short ones keep the system's, unless that is bbr.";
    AmstPacingEnabled "amst.pacing_enabled" Kind::Bool, "true", Live,
        "Pace each stream on a long path by what the path was found to carry.";
    AmstDscp "amst.dscp" Kind::Integer(0, MAX_DSCP as u64), "0", Live,
        "Code point of differentiated services that data streams are marked with; 0: not marked.";
    AmstSourceAddresses "amst.source_addresses" Kind::Addresses(MAX_SOURCE_ADDRESSES), "none", NextMigration,
        "Local addresses, separated by commas, that a migration's streams are spread over; none: the system's choice.";
    AmstEnableRdma "amst.enable_rdma" Kind::Bool, "false", NextMigration,
        "Have pages of guests that are not QEMU's go by RDMA in datacenter mode, where both hosts can: not encrypted, and the guest's memory is pinned meanwhile.";
    AmstRdmaMaxMemory "amst.rdma_max_memory" Kind::Bytes(1 << 20, 1 << 44), "16384GiB", NextMigration,
        "Guest memory that may be pinned for RDMA at a time; larger guests go by TCP.";

    HdeEnableMlCompression "hde.enable_ml_compression" Kind::Bool, "true", NotInUse,
        "Choose the codec by a learned selector.";
    HdeEnableDeltaEncoding "hde.enable_delta_encoding" Kind::Bool, "true", NextMigration,
        "Send pages of QEMUs' guests as differences from what was sent before, where that is shorter.";
    HdeEnableCrdt "hde.enable_crdt" Kind::Bool, "true", NotInUse,
        "Share baselines between nodes.";
    HdeBaselineRefreshInterval "hde.baseline_refresh_interval" Kind::Duration(1_000, DAY_MS), "5m", NextMigration,
        "A page that travelled as differences alone for so long travels whole once more.";
    HdeMaxBaselines "hde.max_baselines" Kind::Integer(1, 1_000_000), "1000", NextMigration,
        "Baselines that a migration of a QEMU's guest may hold on each side, 1 MiB of pages each.";
    HdeMaxMemoryPercent "hde.max_memory_percent" Kind::Percent(1.0, 100.0), "25", NextMigration,
        "Memory of a migration on each side, in percent of its guest's; half is for baselines. The stricter bound counts.";
    HdeBaselineCleanupAggressive "hde.baseline_cleanup_aggressive" Kind::Bool, "false", NextMigration,
        "Hold half of the baselines that the two bounds allow.";
    HdeSelectorLearningRate "hde.selector.learning_rate" Kind::Number(0.000_001, 1.0), "0.03", NextMigration,
        "Least weight of a new observation in what the selector of codecs knows; higher forgets sooner.";
    HdeHoldDepartedGuests "hde.hold_departed_guests" Kind::Bool, "true", Restart,
        "Whether pages of guests that left or came are kept, so that they need not travel again.";
    HdeHeldBytes "hde.held_bytes" Kind::Bytes(MIN_HELD_BYTES, 1 << 44), "4GiB", Restart,
        "How much of them is kept, in the state directory.";

    PbaEnableHybridMode "pba.enable_hybrid_mode" Kind::Bool, "true", NotInUse,
        "Use a model for each mode.";
    PbaDatacenterAccuracyTarget "pba.datacenter_accuracy_target" Kind::Number(0.0, 1.0), "0.85", NotInUse,
        "Accuracy wanted in datacenter mode.";
    PbaInternetAccuracyTarget "pba.internet_accuracy_target" Kind::Number(0.0, 1.0), "0.7", NotInUse,
        "Accuracy wanted in internet mode.";
    PbaDatacenterSequenceLength "pba.datacenter_sequence_length" Kind::Integer(1, 10_000), "10", NotInUse,
        "Samples that the datacenter model sees.";
    PbaInternetSequenceLength "pba.internet_sequence_length" Kind::Integer(1, 10_000), "60", NotInUse,
        "Samples that the internet model sees.";

    AssEnableAdaptiveSync "ass.enable_adaptive_sync" Kind::Bool, "true", NotInUse,
        "Choose the replication by mode.";
    AssDatacenterTargetLatency "ass.datacenter_target_latency" Kind::Duration(1, HOUR_MS), "100ms", NotInUse,
        "Replication delay wanted in datacenter mode.";
    AssInternetTargetLatency "ass.internet_target_latency" Kind::Duration(1, HOUR_MS), "5s", NotInUse,
        "Replication delay wanted in internet mode.";

    AcpEnableAdaptiveConsensus "acp.enable_adaptive_consensus" Kind::Bool, "true", NotInUse,
        "Choose the consensus by mode.";
    AcpDatacenterAlgorithm "acp.datacenter_algorithm" Kind::Choice(&["raft", "pbft"]), "raft", NotInUse,
        "Consensus in datacenter mode.";
    AcpInternetAlgorithm "acp.internet_algorithm" Kind::Choice(&["raft", "pbft"]), "pbft", NotInUse,
        "Consensus in internet mode.";
    AcpConsensusTimeout "acp.consensus_timeout" Kind::Duration(1, HOUR_MS), "5s", NotInUse,
        "How long a command may take to be agreed on.";
    AcpPbftBatchSize "acp.pbft.batch_size" Kind::Integer(1, 100_000), "64", NotInUse,
        "Commands agreed on at once.";
    AcpForceRaft "acp.force_raft" Kind::Bool, "false", NotInUse,
        "Use Raft in every mode.";

    ItpEnableDqnPlacement "itp.enable_dqn_placement" Kind::Bool, "true", NotInUse,
        "Let the learned policy choose hosts.";
    ItpEnableGeographicOptimization "itp.enable_geographic_optimization" Kind::Bool, "true", NotInUse,
        "Weigh distance between hosts.";

    ModeLatencyThreshold "mode_detector.latency_threshold" Kind::Duration(1, HOUR_MS), "50ms", Live,
        "A longer round trip means internet.";
    ModeJitterThreshold "mode_detector.jitter_threshold" Kind::Duration(1, HOUR_MS), "10ms", Live,
        "More jitter means internet.";
    ModeShareWith "mode_detector.share_with" Kind::Networks, "none", Live,
        "Addresses of nodes that may ask for the paths from this one, and networks of such.";

    V1Listen "v1.listen" Kind::OptionalLocalAddress, "none", Restart,
        "Where v1 peers may connect to send a guest, in plain.";
    V1Peers "v1.peers" Kind::LocalPeers(MAX_V1_PEERS), "none", Live,
        "Peers that speak v1 alone; migrations to them go by v1, in plain and without acknowledgement.";
    V1Guest "v1.guest" Kind::Text(128), "", NextMigration,
        "The guest that comes from v1 peers, which name none; empty: the only one that is expected.";
    V1Dialect "v1.dialect" Kind::Choice(&["f16", "f8", "plain"]), "f16", NextMigration,
        "How memory travels to and from v1 peers: the same as there.";
    V1F8ChunkSize "v1.f8_chunk_size" Kind::Bytes(4096, 16 << 20), "256KiB", NextMigration,
        "How dialect f8 cuts: the same as there.";
    V1MaxImage "v1.max_image" Kind::Bytes(1 << 20, 1 << 44), "256MiB", NextMigration,
        "The largest guest that comes or goes by v1.";
    V1MaxConnections "v1.max_connections" Kind::Integer(1, MAX_V1_CONNECTIONS as u64), "256", Live,
        "Connections to the v1 port at a time.";
    V1IdleTimeout "v1.idle_timeout" Kind::Duration(1_000, HOUR_MS), "60s", NextMigration,
        "How long a chunk from a v1 peer may take, and how long none may come.";
    V1TransferTimeout "v1.transfer_timeout" Kind::Duration(1_000, 7 * DAY_MS), "1h", NextMigration,
        "How long a guest may take to come from a v1 peer.";

    RollbackMaxErrorRate "rollback_triggers.max_error_rate" Kind::Percent(0.01, 90.0), "1", Live,
        "A flag is rolled back where more requests fail with it, in percent.";
    RollbackMaxLatencyIncrease "rollback_triggers.max_latency_increase" Kind::Percent(1.0, 10_000.0), "50", Live,
        "A flag is rolled back where it makes round trips longer by more, in percent.";
    RollbackMinThroughputRatio "rollback_triggers.min_throughput_ratio" Kind::Number(0.01, 0.99), "0.8", Live,
        "A flag is rolled back where paths carry a smaller share of what they usually do.";
    RollbackMaxModeSwitchRate "rollback_triggers.max_mode_switch_rate" Kind::Number(0.01, 10_000.0), "10", Live,
        "A flag is rolled back where modes of its peers change more often in a minute.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_default_is_valid() {
        for key in Id::ALL.iter().map(|id| id.key()) {
            let value = key.kind.parse(key.default);
            assert!(value.is_ok(), "{}: {value:?}", key.name);
        }
    }

    #[test]
    fn names_and_variables_are_unique_and_found() {
        let mut seen = BTreeSet::new();
        for id in Id::ALL {
            assert_eq!(find(id.key().name), Some(*id));
            assert!(seen.insert(id.key().variable()), "{:?}", id);
            assert!(find(&id.key().path().join(".")) == Some(*id));
        }
        assert_eq!(find("amst"), None);
        assert_eq!(find(""), None);
        assert_eq!(find("migration.streams.x"), None);
    }

    #[test]
    fn migration_defaults_are_the_librarys() {
        let options = crate::config::Config::default().migration_options();
        assert_eq!(options, crate::migration::MigrationOptions::default());
        let encoding = crate::config::Config::default().encoding_options();
        assert_eq!(encoding, crate::migration::EncodingOptions::default());
        let limits = crate::config::Config::default().rollback_limits();
        assert_eq!(limits, crate::rollout::guard::Limits::default());
        let v1 = crate::config::Config::default().v1_options();
        assert_eq!(v1, crate::migration::V1Options::default());
    }

    #[test]
    fn what_modes_change_is_the_librarys_and_configurable() {
        use crate::transport::mode::{Congestion, ModeEffects};
        let effects = |text| crate::config::load::from_text("f", text).unwrap().mode_effects();
        assert_eq!(effects(""), ModeEffects::default());
        let text = "amst_v3:\n  datacenter_streams: 16\n  internet_streams: 2\n  \
                    congestion_algorithm: system\n  mode: v1-compat";
        let congestion = Congestion::System;
        let expected = ModeEffects { datacenter_streams: 16, internet_streams: 2, congestion };
        assert_eq!(effects(text), expected);
    }

    #[test]
    fn paths_are_the_librarys_and_configurable() {
        use crate::transport::PathOptions;
        let paths = |text| crate::config::load::from_text("f", text).unwrap().path_options();
        assert_eq!(paths(""), PathOptions::default());
        let text = "node:\n  bandwidth_limit: 8mbit\namst_v3:\n  pacing_enabled: false\n  dscp: 10\n  \
                    source_addresses: 10.0.0.1, fd00::1";
        let found = paths(text);
        assert_eq!(found.bandwidth_limit_bytes_per_s, Some(1_000_000));
        assert_eq!((found.pacing, found.dscp), (false, 10));
        let addresses: Vec<_> = found.source_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn mode_defaults_are_the_librarys_and_the_nearer_key_forces() {
        use crate::transport::mode::{Mode, ModePolicy};
        let policy = |text| crate::config::load::from_text("f", text).unwrap().mode_policy();
        assert_eq!(policy(""), ModePolicy::default());
        assert_eq!(policy("network_mode: internet").forced, Some(Mode::Internet));
        let auto_off = "network_mode: internet\namst_v3:\n  auto_mode: false\n  mode: hybrid";
        assert_eq!(policy(auto_off).forced, Some(Mode::Hybrid));
        assert_eq!(policy("amst_v3:\n  mode: datacenter").forced, None);
        assert!(!policy("amst_v3:\n  enable_internet: false").allow_internet);
        let longest = "mode_detector:\n  latency_threshold: 1h\n  jitter_threshold: 20ms";
        let thresholds = policy(longest).thresholds;
        assert_eq!(thresholds.internet_rtt_us, 3_600_000_000);
        assert_eq!(thresholds.internet_jitter_us, 20_000);
    }

    #[test]
    fn misspellings_find_their_key() {
        let names = || Id::ALL.iter().map(|id| id.key().name);
        assert_eq!(nearest("migration.stream", names()), Some("migration.streams"));
        assert_eq!(nearest("hde.max_baseline", names()), Some("hde.max_baselines"));
        assert_eq!(nearest("zzz", names()), None);
    }
}
