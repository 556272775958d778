//! What a v1 cluster knows of itself: virtual machines, nodes, who runs what. The nearest thing that v1
//! has to a dump of its state.
//!
//! Records of machines and nodes are JSON within text within registers within maps; see [`Record`].

use crate::wire::v1::crdt::{LwwRegister, OrMap, PnCounter, Value};
use crate::wire::v1::json::{self, Json, JsonError, WallTime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct ClusterMetadata {
    /// The replica's node.
    pub node_id: String,
    /// Virtual machines: [`VmRecord`] in registers.
    pub vm_states: OrMap,
    /// Nodes: [`NodeRecord`] in registers.
    pub node_status: OrMap,
    /// Which node runs which machine.
    pub assignments: OrMap,
    /// Of what was done.
    pub counters: PnCounter,
    /// What is taken of what there is.
    pub resources: OrMap,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct VmRecord {
    /// Its name.
    pub id: String,
    /// Such as `running`.
    pub status: String,
    /// Where it is.
    pub node_id: String,
    /// Its processors.
    pub cpu_cores: i64,
    /// Its memory.
    pub memory_mb: i64,
    /// Its disks.
    pub disk_gb: i64,
    /// Its address.
    pub ip_address: String,
    /// When it was made.
    pub created_at: WallTime,
    /// When the record was.
    pub updated_at: WallTime,
    /// Anything; `null` where nobody ever put something there.
    pub metadata: Option<BTreeMap<String, Json>>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct NodeRecord {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub region: String,
    /// Such as `active`.
    pub status: String,
    /// How busy its processors are.
    #[serde(with = "json::float")]
    pub cpu_usage: f64,
    /// How full its memory is.
    #[serde(with = "json::float")]
    pub memory_usage: f64,
    /// How full its disks are.
    #[serde(with = "json::float")]
    pub disk_usage: f64,
    /// How many machines it runs.
    pub vm_count: i64,
    /// When it was last heard of.
    pub last_heartbeat: WallTime,
    /// When the record was made.
    pub updated_at: WallTime,
}

json::objects!(ClusterMetadata, VmRecord, NodeRecord);

/// A record that v1 keeps as text in a register.
pub trait Record: Serialize + DeserializeOwned {
    /// Reads the record out of a register.
    ///
    /// # Errors
    /// [`JsonError`] for a value that is no text, or text that is no such record.
    fn from_register(register: &LwwRegister) -> Result<Self, JsonError> {
        let text: String = register.value.read("register")?;
        json::decode("record", text.as_bytes())
    }

    /// The record as a register's value.
    ///
    /// # Errors
    /// [`JsonError`] for numbers that JSON does not have.
    fn to_value(&self) -> Result<Json, JsonError> {
        let text = json::encode("record", self)?;
        Json::of("register", &String::from_utf8_lossy(&text))
    }
}

impl Record for VmRecord {}

impl Record for NodeRecord {}

impl ClusterMetadata {
    /// Reads the document.
    ///
    /// # Errors
    /// [`JsonError`] for one that is too long or of another shape.
    pub fn decode(bytes: &[u8]) -> Result<Self, JsonError> {
        json::decode("cluster metadata", bytes)
    }

    /// The document.
    ///
    /// # Errors
    /// [`JsonError`] as the encoder has it.
    pub fn encode(&self) -> Result<Vec<u8>, JsonError> {
        json::encode("cluster metadata", self)
    }
}

/// The records of a map, by key.
///
/// # Errors
/// [`JsonError`] for entries that are no registers with such a record.
pub fn records<T: Record>(map: &OrMap) -> Result<BTreeMap<String, T>, JsonError> {
    let record =
        |entry: &crate::wire::v1::crdt::OrMapEntry| match Value::read(&entry.kind, &entry.data)? {
            Value::LwwRegister(register) => Ok((entry.key.clone(), T::from_register(&register)?)),
            other => Err(JsonError::Value { what: "record's type", value: other.kind().into() }),
        };
    map.values.iter().map(record).collect()
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
