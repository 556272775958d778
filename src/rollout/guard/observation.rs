//! What a node measured of one unit, and whether the unit has the flag.

use crate::rollout::Flag;
use serde::{Deserialize, Serialize};

/// Which side of the comparison a unit is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arm {
    /// It has the flag.
    Treated,
    /// It does not.
    Control,
}

/// What the treated arm is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beside {
    /// Units without the flag, at the same time.
    Control,
    /// What was usual before the flag was raised.
    Past,
}

/// One measurement; where several flags are rolled out, it is reported once for each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// The flag.
    pub flag: Flag,
    /// Whether the unit has it.
    pub arm: Arm,
    /// The unit's hash, as of [`Unit::hash`](crate::rollout::Unit::hash).
    pub unit: u64,
    /// What was measured.
    pub kind: Measured,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measured {
    /// A migration, connection or other request ended.
    Request {
        /// Whether it failed.
        is_failed: bool,
    },
    /// A round trip, or the time that a request took.
    Latency {
        /// In microseconds.
        us: f64,
    },
    /// What a path delivered.
    Throughput {
        /// In bytes per second.
        bytes_per_s: f64,
        /// Whether the sender had no more to send: then it says nothing about the path.
        is_application_limited: bool,
    },
    /// Changes of a peer's mode.
    ModeSwitches {
        /// How many.
        count: u32,
        /// In how long.
        seconds: f64,
    },
    /// A detection of a peer's mode ended.
    Detection {
        /// Whether it failed.
        is_failed: bool,
    },
    /// Bytes arrived that differ from those that were sent.
    Corruption,
}
