//! L4: the YAML configuration, read with file and line, and changed key by key.

pub mod edit;
pub mod flag_rule;
pub mod keys;
pub mod load;
pub mod replace;
pub mod scenario;
pub mod store;
pub mod tree;
pub mod units;
pub mod value;

pub use keys::{Applies, Id, Key};
pub use load::{ConfigError, Problem};
pub use store::{ConfigStore, StoreError};
pub use value::{Kind, Value};

use crate::base::Networks;
use crate::migration::{CodecPolicy, EncodingOptions, MigrationOptions, V1Options};
use crate::rollout::guard::Limits;
use crate::rollout::{Flag, FlagRule, FlagRules, FlagSet};
use crate::transport::mode::{ModeEffects, ModePolicy, Thresholds};
use crate::transport::{Mode, PathOptions, RdmaOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody wrote it.
    Default,
    /// The file, at a line.
    File {
        /// The line, from 1.
        line: u64,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { line } => write!(f, "file, line {line}"),
            Origin::Environment { variable } => write!(f, "environment, {variable}"),
        }
    }
}

/// One key's value, and who set it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// Who set it.
    pub origin: Origin,
}

/// A whole, valid configuration: every key has a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    settings: Vec<Setting>,
}

impl Config {
    /// The setting of a key.
    pub fn get(&self, id: Id) -> &Setting {
        &self.settings[id as usize]
    }

    /// Replaces a setting. The value must be of the key's kind.
    pub(crate) fn set(&mut self, id: Id, value: Value, origin: Origin) {
        self.settings[id as usize] = Setting { value, origin };
    }

    /// The keys whose values differ.
    pub fn changed(&self, other: &Config) -> Vec<Id> {
        let differs = |id: &&Id| self.get(**id).value != other.get(**id).value;
        Id::ALL.iter().filter(differs).copied().collect()
    }

    /// A text, word or path.
    pub fn text(&self, id: Id) -> &str {
        match &self.get(id).value {
            Value::Text(text) => text,
            _ => "",
        }
    }

    /// A path, if there is one.
    pub fn path(&self, id: Id) -> Option<PathBuf> {
        Some(self.text(id)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// An address, if there is one.
    pub fn address(&self, id: Id) -> Option<SocketAddr> {
        self.text(id).parse().ok()
    }

    /// A truth.
    pub fn truth(&self, id: Id) -> bool {
        self.get(id).value == Value::Bool(true)
    }

    /// A whole number, size or rate; none: 0.
    pub fn integer(&self, id: Id) -> u64 {
        match self.get(id).value {
            Value::Integer(number) | Value::Bytes(number) | Value::Rate(number) => number,
            _ => 0,
        }
    }

    /// A duration, if there is one.
    pub fn duration(&self, id: Id) -> Option<Duration> {
        match self.get(id).value {
            Value::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    /// A number or percentage; none: 0.
    pub fn number(&self, id: Id) -> f64 {
        match self.get(id).value {
            Value::Number(number) => number,
            _ => 0.0,
        }
    }

    /// How relayed guests are encoded.
    pub fn encoding_options(&self) -> EncodingOptions {
        let default = EncodingOptions::default();
        EncodingOptions {
            delta: self.truth(Id::HdeEnableDeltaEncoding),
            max_baselines: self.integer(Id::HdeMaxBaselines),
            max_memory_percent: self.number(Id::HdeMaxMemoryPercent),
            baseline_refresh_interval: self
                .duration(Id::HdeBaselineRefreshInterval)
                .unwrap_or(default.baseline_refresh_interval),
            aggressive_cleanup: self.truth(Id::HdeBaselineCleanupAggressive),
            learning_rate: self.number(Id::HdeSelectorLearningRate),
        }
    }

    /// How modes are chosen. What `amst.mode` says without `amst.auto_mode` comes before
    /// `network_mode`, which is the coarser of the two.
    pub fn mode_policy(&self) -> ModePolicy {
        let default = ModePolicy::default();
        let forced = match self.truth(Id::AmstAutoMode) {
            false => self.text(Id::AmstMode).parse().ok(),
            true => self.text(Id::NetworkMode).parse().ok().filter(|mode| *mode != Mode::Hybrid),
        };
        let micros = |id, default| {
            let micros = self.duration(id).map(|duration| duration.as_micros());
            micros.and_then(|micros| u32::try_from(micros).ok()).unwrap_or(default)
        };
        let thresholds = default.thresholds;
        ModePolicy {
            forced,
            allow_datacenter: self.truth(Id::AmstEnableDatacenter),
            allow_internet: self.truth(Id::AmstEnableInternet),
            thresholds: Thresholds {
                internet_rtt_us: micros(Id::ModeLatencyThreshold, thresholds.internet_rtt_us),
                internet_jitter_us: micros(Id::ModeJitterThreshold, thresholds.internet_jitter_us),
                ..thresholds
            },
            ..default
        }
    }

    /// Who may ask for the paths from this node.
    pub fn paths_shared_with(&self) -> Networks {
        self.text(Id::ModeShareWith).parse().unwrap_or_default()
    }

    /// Who may ask for this node's metrics.
    pub fn metrics_shared_with(&self) -> Networks {
        self.text(Id::NodeShareMetricsWith).parse().unwrap_or_default()
    }

    /// What modes change.
    pub fn mode_effects(&self) -> ModeEffects {
        let default = ModeEffects::default();
        let streams = |id, default| u16::try_from(self.integer(id)).unwrap_or(default);
        ModeEffects {
            datacenter_streams: streams(Id::AmstDatacenterStreams, default.datacenter_streams),
            internet_streams: streams(Id::AmstInternetStreams, default.internet_streams),
            congestion: self
                .text(Id::AmstCongestionAlgorithm)
                .parse()
                .unwrap_or(default.congestion),
        }
    }

    /// What holds for the paths of all migrations that leave the node.
    pub fn path_options(&self) -> PathOptions {
        PathOptions {
            bandwidth_limit_bytes_per_s: Some(self.integer(Id::NodeBandwidthLimit))
                .filter(|rate| *rate > 0),
            pacing: self.truth(Id::AmstPacingEnabled),
            dscp: u8::try_from(self.integer(Id::AmstDscp)).unwrap_or(0),
            source_addresses: value::addresses(self.text(Id::AmstSourceAddresses))
                .unwrap_or_default(),
        }
    }

    /// How pages go by RDMA.
    pub fn rdma_options(&self) -> RdmaOptions {
        RdmaOptions {
            enabled: self.truth(Id::AmstEnableRdma),
            max_memory_bytes: self.integer(Id::AmstRdmaMaxMemory),
        }
    }

    /// What holds for v1 peers.
    pub fn v1_options(&self) -> V1Options {
        let default = V1Options::default();
        let peers = self.text(Id::V1Peers).split(',').filter(|peer| !peer.is_empty());
        let chunk_bytes = u32::try_from(self.integer(Id::V1F8ChunkSize));
        let duration = |id, default| self.duration(id).unwrap_or(default);
        V1Options {
            peers: peers.map(str::to_owned).collect(),
            dialect: self.text(Id::V1Dialect).parse().unwrap_or(default.dialect),
            f8_chunk_bytes: chunk_bytes.unwrap_or(default.f8_chunk_bytes),
            guest: self.text(Id::V1Guest).to_owned(),
            max_image_bytes: self.integer(Id::V1MaxImage),
            max_connections: self.integer(Id::V1MaxConnections) as usize,
            idle_timeout: duration(Id::V1IdleTimeout, default.idle_timeout),
            transfer_timeout: duration(Id::V1TransferTimeout, default.transfer_timeout),
        }
    }

    /// The rule of each feature flag, in the order of the flags.
    pub fn flag_rules(&self) -> FlagRules {
        let rule = |flag| {
            let setting = Id::of_flag(flag).map(|id| &self.get(id).value);
            match setting {
                Some(Value::Rule(rule)) => (flag, FlagRule::clone(rule)),
                _ => (flag, FlagRule::off()),
            }
        };
        FlagRules { rules: Flag::ALL.into_iter().map(rule).collect() }
    }

    /// The feature flags as this says, nothing else having happened.
    pub fn flag_set(&self) -> FlagSet {
        let mut set = FlagSet::all_off();
        for (flag, rule) in self.flag_rules().rules {
            set.state_mut(flag).rule = rule;
        }
        set
    }

    /// The nodes among whom percentages are exact.
    pub fn rollout_members(&self) -> Vec<String> {
        let members = self.text(Id::RolloutMembers).split(',').map(str::trim);
        members.filter(|member| !member.is_empty()).map(str::to_owned).collect()
    }

    /// What a rollout of a feature flag may not exceed.
    pub fn rollback_limits(&self) -> Limits {
        Limits {
            max_error_rate: self.number(Id::RollbackMaxErrorRate),
            max_latency_increase: self.number(Id::RollbackMaxLatencyIncrease),
            min_throughput_ratio: self.number(Id::RollbackMinThroughputRatio),
            max_mode_switch_rate: self.number(Id::RollbackMaxModeSwitchRate),
            ..Limits::default()
        }
    }

    /// What a migration starts with.
    pub fn migration_options(&self) -> MigrationOptions {
        let default = MigrationOptions::default();
        MigrationOptions {
            streams: u16::try_from(self.integer(Id::MigrationStreams)).unwrap_or(default.streams),
            codec: self.text(Id::MigrationCodec).parse().unwrap_or(CodecPolicy::Auto),
            max_downtime: self.duration(Id::MigrationMaxDowntime).unwrap_or(default.max_downtime),
            deadline: self.duration(Id::MigrationDeadline),
            bandwidth_limit_bytes_per_s: Some(self.integer(Id::MigrationBandwidthLimit))
                .filter(|rate| *rate > 0),
            throttle: self.truth(Id::MigrationThrottle),
            multifd_channels: u8::try_from(self.integer(Id::MigrationMultifdChannels))
                .unwrap_or(default.multifd_channels),
            post_copy: self.text(Id::MigrationPostCopy).parse().unwrap_or(default.post_copy),
            reconnect_timeout: self
                .duration(Id::MigrationReconnectTimeout)
                .unwrap_or(default.reconnect_timeout),
            stall_timeout: self
                .duration(Id::MigrationStallTimeout)
                .unwrap_or(default.stall_timeout),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let setting = |id: &Id| Setting {
            // A test reads every default; `none` stands in for one that could not be read.
            value: id.key().kind.parse(id.key().default).unwrap_or(Value::None),
            origin: Origin::Default,
        };
        Self { settings: Id::ALL.iter().map(setting).collect() }
    }
}
