//! v1's feature flags: the file that holds them, and who they let use v3.
//!
//! The file is indented by two spaces and ends without a line break. Where a key is missing it counts as
//! off, also those that are on initially, because v1 replaces all flags by the file's. All features share
//! one percentage and one row of nodes: the features' names are not in the hash.

use crate::wire::v1::json::{self, JsonError};
use serde::{Deserialize, Serialize};

/// The flags, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Flags {
    /// Component `transport`, also `amst`.
    #[serde(default, rename = "enableV3Transport")]
    pub transport: bool,
    /// Component `compression`, also `hde`.
    #[serde(default, rename = "enableV3Compression")]
    pub compression: bool,
    /// Component `prediction`, also `pba`.
    #[serde(default, rename = "enableV3Prediction")]
    pub prediction: bool,
    /// Component `statesync`, also `ass`.
    #[serde(default, rename = "enableV3StateSync")]
    pub state_sync: bool,
    /// Component `consensus`, also `acp`.
    #[serde(default, rename = "enableV3Consensus")]
    pub consensus: bool,
    /// Component `placement`, also `itp`.
    #[serde(default, rename = "enableV3Placement")]
    pub placement: bool,
    /// How many nodes of a hundred use v3. v1 takes any number from a file.
    #[serde(default, rename = "v3RolloutPercentage")]
    pub rollout_percent: i64,
    /// Nothing of v3 anywhere, whatever the others say.
    #[serde(default, rename = "forceV1Mode")]
    pub force_v1: bool,
    /// Datacenter and internet at once.
    #[serde(default, rename = "enableHybridMode")]
    pub hybrid_mode: bool,
    /// The mode follows the network.
    #[serde(default, rename = "enableModeDetection")]
    pub mode_detection: bool,
}

json::objects!(Flags);

impl Flags {
    /// Those that v1 starts with.
    pub const INITIAL: Self = Self { hybrid_mode: true, mode_detection: true, ..Self::ALL_OFF };

    /// Those that its kill switch leaves.
    pub const KILLED: Self = Self { force_v1: true, ..Self::ALL_OFF };

    const ALL_OFF: Self = Self {
        transport: false,
        compression: false,
        prediction: false,
        state_sync: false,
        consensus: false,
        placement: false,
        rollout_percent: 0,
        force_v1: false,
        hybrid_mode: false,
        mode_detection: false,
    };

    /// Reads a file.
    ///
    /// # Errors
    /// [`JsonError`] for a file that is too long, or values of other types.
    pub fn decode(bytes: &[u8]) -> Result<Self, JsonError> {
        json::decode("flags", bytes)
    }

    /// The file.
    ///
    /// # Errors
    /// Never for flags; [`JsonError`] is the encoder's.
    pub fn encode(&self) -> Result<Vec<u8>, JsonError> {
        let reason = |error: serde_json::Error| error.to_string();
        let malformed = |reason| JsonError::Malformed { what: "flags", reason };
        // Names and values have nothing that v1 would spell another way.
        serde_json::to_vec_pretty(self).map_err(reason).map_err(malformed)
    }

    /// Whether a node uses v3. Of v1's two questions this is the one without a component.
    pub fn is_v3(&self, node_id: &str) -> bool {
        !self.force_v1 && i64::from(bucket(node_id)) < self.rollout_percent
    }

    /// Whether a component of v3 is on, by either of its names; false for names that v1 does not know.
    pub fn has_component(&self, name: &str) -> bool {
        let on = match name {
            "transport" | "amst" => self.transport,
            "compression" | "hde" => self.compression,
            "prediction" | "pba" => self.prediction,
            "statesync" | "ass" => self.state_sync,
            "consensus" | "acp" => self.consensus,
            "placement" | "itp" => self.placement,
            _ => false,
        };
        on && !self.force_v1
    }
}

/// FNV-1a in 32 bits.
pub fn hash(node_id: &str) -> u32 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    node_id.as_bytes().iter().fold(0x811c_9dc5, step)
}

/// Where a node stands in the row of a hundred; those below the percentage use v3.
pub fn bucket(node_id: &str) -> u32 {
    hash(node_id) % 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kill_switch_goes_before_everything() {
        let all = Flags { rollout_percent: 100, transport: true, ..Flags::INITIAL };
        assert!(all.is_v3("node-1") && all.has_component("amst"));
        let killed = Flags { force_v1: true, ..all };
        assert!(!killed.is_v3("node-1") && !killed.has_component("amst"));
        assert!(!Flags::KILLED.is_v3("node-2") && !Flags::KILLED.has_component("hde"));
    }

    #[test]
    fn a_percentage_from_a_file_is_not_bounded() {
        let flags = |rollout_percent| Flags { rollout_percent, ..Flags::INITIAL };
        assert!(!flags(-3).is_v3("node-2") && !flags(6).is_v3("node-2"));
        assert!(flags(7).is_v3("node-2") && flags(1000).is_v3("node-1"));
    }

    #[test]
    fn missing_keys_are_off() {
        let read = Flags::decode(b"{\"v3RolloutPercentage\":5}").unwrap();
        assert!(!read.hybrid_mode && !read.mode_detection && read.rollout_percent == 5);
        for bad in ["", "null", "[]", "{\"forceV1Mode\":1}", "{\"v3RolloutPercentage\":0.5}"] {
            assert!(Flags::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_of_nodes_is_near_the_percentage_and_grows_with_it() {
        let share = |percent| {
            let flags = Flags { rollout_percent: percent, ..Flags::INITIAL };
            (0..100_000).filter(|node| flags.is_v3(&format!("node-{node}"))).count()
        };
        assert_eq!([share(0), share(100)], [0, 100_000]);
        assert_eq!([share(1), share(10), share(50)], [1008, 10_028, 49_901]);
    }
}
