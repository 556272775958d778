//! What peers have said of themselves: their names, and in which flags they do not take part.

use super::bit;
use crate::base::Time;
use crate::base::limits::MAX_PEERS;
use crate::rollout::{Flag, Unit, UnitKind};
use std::collections::BTreeMap;
use std::time::Duration;

/// Connections that break within so long of each other have one cause.
const ONE_CAUSE: Duration = Duration::from_secs(1);

/// Peers by their addresses, as they are dialed.
#[derive(Default)]
pub struct Peers {
    known: BTreeMap<Box<str>, Peer>,
}

struct Peer {
    name: Box<str>,
    /// Flags in which it does not take part, a bit each.
    refused: u32,
    /// When a connection to it last broke.
    broke_at: Option<Time>,
}

impl Peers {
    /// A peer has answered; whether that is news. Who comes when there is no room is not remembered.
    pub fn heard(&mut self, address: &str, name: &str, refused: u32) -> bool {
        if let Some(peer) = self.known.get_mut(address) {
            let is_news = *peer.name != *name || peer.refused != refused;
            (peer.name, peer.refused) = (name.into(), refused);
            return is_news;
        }
        let has_room = self.known.len() < MAX_PEERS;
        if has_room {
            let peer = Peer { name: name.into(), refused, broke_at: None };
            self.known.insert(address.into(), peer);
        }
        has_room
    }

    /// A connection to a peer broke; whether that is a cause of its own, for all that break at one time
    /// have one.
    pub fn breaks(&mut self, address: &str, now: Time) -> bool {
        let Some(peer) = self.known.get_mut(address) else { return false };
        let before = peer.broke_at.replace(now);
        before.is_none_or(|before| now.since(before) >= ONE_CAUSE)
    }

    /// Whether a peer, by its address or its name, does not take part in a flag.
    pub fn refuses(&self, peer: &str, flag: Flag) -> bool {
        let by_name = || self.known.values().find(|known| *known.name == *peer);
        let known = self.known.get(peer).or_else(by_name);
        known.is_some_and(|peer| peer.refused & bit(flag) != 0)
    }

    /// What a flag is decided for, between this node and a peer: by its address until its name is known.
    pub fn unit<'a>(&'a self, flag: Flag, node: &'a str, address: &'a str) -> Unit<'a> {
        let name = self.known.get(address).map_or(address, |peer| &peer.name);
        match flag.unit_kind() {
            UnitKind::NodePair | UnitKind::Link => Unit::pair(node, name),
            _ => Unit::pair(node, address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_goes_by_its_name_once_that_is_known() {
        let mut peers = Peers::default();
        let unit = |peers: &Peers, flag| peers.unit(flag, "a", "10.0.0.2:1").to_string();
        assert_eq!(unit(&peers, Flag::HybridMode), "10.0.0.2:1|a");
        assert!(peers.heard("10.0.0.2:1", "b", bit(Flag::MlCompression)));
        assert!(!peers.heard("10.0.0.2:1", "b", bit(Flag::MlCompression)));
        assert_eq!(unit(&peers, Flag::HybridMode), "a|b");
        assert_eq!(unit(&peers, Flag::InternetOptimization), "10.0.0.2:1|a");
        assert!(peers.refuses("10.0.0.2:1", Flag::MlCompression));
        assert!(!peers.refuses("10.0.0.2:1", Flag::HybridMode));
        assert!(!peers.refuses("10.0.0.3:1", Flag::MlCompression));
        assert!(peers.refuses("b", Flag::MlCompression));
    }

    #[test]
    fn connections_that_break_together_count_once() {
        let mut peers = Peers::default();
        assert!(!peers.breaks("b:1", Time(0)), "nobody has answered there");
        peers.heard("b:1", "b", 0);
        let counted = [0, 1, 900_000, 1_500_000, 3_000_000].map(|at| peers.breaks("b:1", Time(at)));
        assert_eq!(counted, [true, false, false, false, true]);
    }

    #[test]
    fn there_is_room_for_as_many_as_a_node_has_peers() {
        let mut peers = Peers::default();
        let known = (0..MAX_PEERS + 10).filter(|peer| peers.heard(&peer.to_string(), "n", 0));
        assert_eq!(known.count(), MAX_PEERS);
    }
}
