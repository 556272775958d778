//! The replicated types of v1, as JSON.
//!
//! v1 lists the members of its sets in the random order of its maps, so equal states have different
//! documents and checksums; here they are written in the order in which they are held. It also keys a
//! set's additions by a time value that does not survive JSON, hence its own removals cancel nothing
//! after a round trip; that is no matter of the bytes, which are kept. A clock in the range of UTF-16's
//! surrogates makes the name of a list's element end in U+FFFD, which then is not unique.

use crate::wire::v1::json::{self, Json, JsonError, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far each node has come, as far as the writer knows.
pub type VectorClock = BTreeMap<String, u64>;

/// When and where something was done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Timestamp {
    /// By whom.
    pub node: String,
    /// Its count of what it did.
    pub clock: u64,
    /// Its wall clock.
    pub wall: WallTime,
}

/// A counter that grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct GCounter {
    /// The replica's node.
    pub node_id: String,
    /// What each node has counted.
    pub payload: BTreeMap<String, u64>,
}

/// A counter that grows and shrinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct PnCounter {
    /// The replica's node.
    pub node_id: String,
    /// What was added.
    pub pos: GCounter,
    /// What was taken away.
    pub neg: GCounter,
}

/// A set that grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GSet(pub Vec<String>);

/// A set from which a member can be taken once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct TwoPhaseSet {
    /// Ever added.
    pub added: GSet,
    /// Ever removed.
    pub removed: GSet,
}

/// A set from which what was seen can be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct OrSet {
    /// The replica's node.
    pub node_id: String,
    /// Additions of each member.
    pub adds: BTreeMap<String, Vec<Timestamp>>,
    /// Additions that were removed.
    pub removes: BTreeMap<String, Vec<Timestamp>>,
    /// The replica's count of what it did.
    pub clock: u64,
}

/// A value of which the last one written stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct LwwRegister {
    /// The replica's node.
    pub node_id: String,
    /// Anything.
    pub value: Json,
    /// Of the value.
    pub timestamp: Timestamp,
}

/// A value of which all that were written at once stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct MvRegister {
    /// The replica's node.
    pub node_id: String,
    /// In any order.
    pub values: Vec<MvValue>,
    /// What the values have seen.
    pub vector_clock: VectorClock,
}

/// One of several values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct MvValue {
    /// Of the value.
    pub timestamp: Timestamp,
    /// Anything.
    pub value: Json,
}

/// A map of replicated values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct OrMap {
    /// The replica's node.
    pub node_id: String,
    /// Which keys there are.
    pub keys: OrSet,
    /// What they stand for, in any order.
    pub values: Vec<OrMapEntry>,
}

/// What a key of a map stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct OrMapEntry {
    /// The key.
    pub key: String,
    /// The type's name, `unknown` for those that v1 forgot. [`Value::read`] takes it.
    #[serde(rename = "type")]
    pub kind: String,
    /// A document of that type.
    pub data: Json,
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Rga {
    /// The replica's node.
    pub node_id: String,
    /// All elements that ever were, in order.
    pub sequence: Vec<Vertex>,
    /// Names of removed elements, in any order.
    pub tombstones: Vec<String>,
    /// The replica's count of what it did.
    pub clock: u64,
}

/// An element of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Vertex {
    /// Its name: its node, a dash, and its clock as one character.
    pub id: String,
    /// Anything.
    pub element: Json,
    /// What it was inserted behind; none at the front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_origin: Option<String>,
    /// Of its insertion.
    pub timestamp: Timestamp,
}

json::objects!(
    Timestamp,
    GCounter,
    PnCounter,
    TwoPhaseSet,
    OrSet,
    LwwRegister,
    MvRegister,
    MvValue,
    OrMap,
    OrMapEntry,
    Rga,
    Vertex
);

/// Any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `g_counter`.
    GCounter(GCounter),
    /// `pn_counter`.
    PnCounter(PnCounter),
    /// `g_set`.
    GSet(GSet),
    /// `2p_set`.
    TwoPhaseSet(TwoPhaseSet),
    /// `or_set`.
    OrSet(OrSet),
    /// `lww_register`.
    LwwRegister(LwwRegister),
    /// `mv_register`.
    MvRegister(MvRegister),
    /// `or_map`.
    OrMap(OrMap),
    /// `rga`.
    Rga(Rga),
}

impl Value {
    /// Reads a document of the type of this name.
    ///
    /// # Errors
    /// [`JsonError`] for an unknown name, and for a document of another shape.
    pub fn read(kind: &str, data: &Json) -> Result<Self, JsonError> {
        match kind {
            "g_counter" => data.read("g_counter").map(Self::GCounter),
            "pn_counter" => data.read("pn_counter").map(Self::PnCounter),
            "g_set" => data.read("g_set").map(Self::GSet),
            "2p_set" => data.read("2p_set").map(Self::TwoPhaseSet),
            "or_set" => data.read("or_set").map(Self::OrSet),
            "lww_register" => data.read("lww_register").map(Self::LwwRegister),
            "mv_register" => data.read("mv_register").map(Self::MvRegister),
            "or_map" => data.read("or_map").map(Self::OrMap),
            "rga" => data.read("rga").map(Self::Rga),
            _ => Err(JsonError::Value { what: "replicated type", value: kind.into() }),
        }
    }

    /// The type's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::GCounter(_) => "g_counter",
            Self::PnCounter(_) => "pn_counter",
            Self::GSet(_) => "g_set",
            Self::TwoPhaseSet(_) => "2p_set",
            Self::OrSet(_) => "or_set",
            Self::LwwRegister(_) => "lww_register",
            Self::MvRegister(_) => "mv_register",
            Self::OrMap(_) => "or_map",
            Self::Rga(_) => "rga",
        }
    }

    /// The document.
    ///
    /// # Errors
    /// [`JsonError`] for numbers that JSON does not have.
    pub fn to_json(&self) -> Result<Json, JsonError> {
        let what = self.kind();
        match self {
            Self::GCounter(value) => Json::of(what, value),
            Self::PnCounter(value) => Json::of(what, value),
            Self::GSet(value) => Json::of(what, value),
            Self::TwoPhaseSet(value) => Json::of(what, value),
            Self::OrSet(value) => Json::of(what, value),
            Self::LwwRegister(value) => Json::of(what, value),
            Self::MvRegister(value) => Json::of(what, value),
            Self::OrMap(value) => Json::of(what, value),
            Self::Rga(value) => Json::of(what, value),
        }
    }
}
