//! The five feature flags: their names, what each is decided for, and what is built.

use super::unit::{Unit, UnitError};
use crate::base::text::{nearest, quoted};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// One feature of v3 that can be rolled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    /// The mode of a peer follows the network.
    HybridMode,
    /// The learned selector chooses codecs.
    MlCompression,
    /// Replicated state without coordination.
    CrdtSync,
    /// Byzantine consensus.
    PbftConsensus,
    /// Pacing, stream tuning and several paths.
    InternetOptimization,
}

/// What a flag is decided for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnitKind {
    /// Two nodes, `NODE|NODE` in either order.
    NodePair,
    /// A node and the peer that it sends to, `NODE|PEER`.
    Link,
    /// A node and an address of its peer, `NODE|HOST:PORT`.
    Path,
    /// A group of replicas, by its name.
    ReplicaGroup,
    /// A whole cluster, by its name: part of one that runs another consensus is a split brain.
    Cluster,
}

/// No flag has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no feature flag {}{}; known: {}", quoted(.name), hint(.nearest), known())]
pub struct UnknownFlag {
    /// What was asked for.
    pub name: String,
    /// The flag that may have been meant.
    pub nearest: Option<Flag>,
}

/// A flag was asked to do something, but nothing stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not built yet: the switch is there, the component is not")]
pub struct NotBuilt(pub Flag);

impl Flag {
    /// Every flag, in the order of the guide.
    pub const ALL: [Flag; 5] = [
        Flag::HybridMode,
        Flag::MlCompression,
        Flag::CrdtSync,
        Flag::PbftConsensus,
        Flag::InternetOptimization,
    ];

    /// The name as in files and commands, such as `hybrid_mode`.
    pub const fn name(self) -> &'static str {
        match self {
            Flag::HybridMode => "hybrid_mode",
            Flag::MlCompression => "ml_compression",
            Flag::CrdtSync => "crdt_sync",
            Flag::PbftConsensus => "pbft_consensus",
            Flag::InternetOptimization => "internet_optimization",
        }
    }

    /// The place in [`Flag::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// What the flag is decided for.
    pub const fn unit_kind(self) -> UnitKind {
        match self {
            Flag::HybridMode => UnitKind::NodePair,
            Flag::MlCompression => UnitKind::Link,
            Flag::CrdtSync => UnitKind::ReplicaGroup,
            Flag::PbftConsensus => UnitKind::Cluster,
            Flag::InternetOptimization => UnitKind::Path,
        }
    }

    /// Whether a component stands behind the switch.
    pub const fn is_built(self) -> bool {
        !matches!(self, Flag::CrdtSync | Flag::PbftConsensus)
    }

    /// Refuses a flag without a component.
    ///
    /// # Errors
    /// [`NotBuilt`].
    pub fn demand_built(self) -> Result<(), NotBuilt> {
        if self.is_built() { Ok(()) } else { Err(NotBuilt(self)) }
    }
}

impl UnitKind {
    /// The name as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            UnitKind::NodePair => "node_pair",
            UnitKind::Link => "link",
            UnitKind::Path => "path",
            UnitKind::ReplicaGroup => "replica_group",
            UnitKind::Cluster => "cluster",
        }
    }

    /// How a unit of this kind is written.
    pub const fn form(self) -> &'static str {
        match self {
            UnitKind::NodePair => "NODE|NODE",
            UnitKind::Link => "NODE|PEER",
            UnitKind::Path => "NODE|HOST:PORT",
            UnitKind::ReplicaGroup => "GROUP",
            UnitKind::Cluster => "CLUSTER",
        }
    }

    /// Whether a unit of this kind has two members.
    pub const fn is_pair(self) -> bool {
        matches!(self, UnitKind::NodePair | UnitKind::Link | UnitKind::Path)
    }

    /// Reads a unit of this kind as somebody wrote it.
    ///
    /// # Errors
    /// [`UnitError`] for text that is no unit, or one of another kind.
    pub fn parse(self, text: &str) -> Result<Unit<'_>, UnitError> {
        let unit = Unit::parse(text)?;
        if unit.is_pair() != self.is_pair() {
            return Err(UnitError::Kind { kind: self, text: text.to_owned() });
        }
        Ok(unit)
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(self.name())
    }
}

impl FromStr for Flag {
    type Err = UnknownFlag;

    fn from_str(name: &str) -> Result<Self, UnknownFlag> {
        let named = |name: &str| Flag::ALL.into_iter().find(|flag| flag.name() == name);
        named(name).ok_or_else(|| UnknownFlag {
            name: name.to_owned(),
            nearest: nearest(name, Flag::ALL.iter().map(|flag| flag.name())).and_then(named),
        })
    }
}

impl Serialize for Flag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(from)?;
        name.parse().map_err(de::Error::custom)
    }
}

fn hint(nearest: &Option<Flag>) -> String {
    nearest.map_or_else(String::new, |flag| format!(", did you mean {flag}?"))
}

fn known() -> String {
    Flag::ALL.map(Flag::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_stand_in_order() {
        for (place, flag) in Flag::ALL.into_iter().enumerate() {
            assert_eq!(flag.name().parse(), Ok(flag));
            assert_eq!(flag.index(), place);
            let json = serde_json::to_string(&flag).unwrap();
            assert_eq!(serde_json::from_str::<Flag>(&json).unwrap(), flag);
        }
    }

    #[test]
    fn an_unknown_name_brings_the_nearest() {
        let error = "hybrid_mod".parse::<Flag>().unwrap_err();
        assert_eq!(error.nearest, Some(Flag::HybridMode));
        assert_eq!(
            error.to_string(),
            "there is no feature flag \"hybrid_mod\", did you mean hybrid_mode?; known: hybrid_mode, \
             ml_compression, crdt_sync, pbft_consensus, internet_optimization"
        );
        let error = "x".repeat(1000).parse::<Flag>().unwrap_err();
        assert_eq!(error.nearest, None);
        assert!(error.to_string().len() < 300, "{error}");
    }

    #[test]
    fn what_is_not_built_says_so() {
        let unbuilt: Vec<_> =
            Flag::ALL.into_iter().filter_map(|flag| flag.demand_built().err()).collect();
        assert_eq!(unbuilt, [NotBuilt(Flag::CrdtSync), NotBuilt(Flag::PbftConsensus)]);
        assert!(unbuilt[0].to_string().starts_with("crdt_sync is not built yet"));
    }

    #[test]
    fn a_unit_must_be_of_the_flags_kind() {
        assert!(UnitKind::NodePair.parse("a|b").is_ok());
        let error = UnitKind::NodePair.parse("a").unwrap_err().to_string();
        assert_eq!(error, "unit \"a\" is not a node_pair, which is written NODE|NODE");
        assert!(UnitKind::Cluster.parse("a|b").is_err());
    }
}
