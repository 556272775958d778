//! A listener's answer to one who asks for this node's metrics, and this node's questions to others.

use crate::base::Networks;
use crate::base::address::check_address;
use crate::base::limits::MAX_ASKED_NODES;
use crate::runtime::asking::{self, Answer, PATIENCE};
use crate::runtime::audience::{Audience, tell};
use crate::runtime::connection::FrameWriter;
use crate::runtime::listener::Refusal;
use crate::runtime::lock::lock;
use crate::runtime::modes::{Modes, PeerError};
use crate::runtime::node::clip;
use crate::wire::{FrameKind, ToldMetrics, WireError};
use crate::{Node, NodeError, Status};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, Weak};

/// Who keeps a node's metrics.
pub trait KeepsMetrics: Send + Sync {
    /// All of them as they stand, of the node of this name.
    fn told(&self, node: String) -> ToldMetrics;
}

/// Tells of this node's metrics.
pub struct MetricsTeller {
    keeper: Mutex<Option<Weak<dyn KeepsMetrics>>>,
    audience: Audience,
}

/// What came of asking one node for its metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeMetrics {
    /// Where it was asked; none: it is this node.
    pub address: Option<String>,
    /// What it told, or why it did not.
    pub told: Result<ToldMetrics, String>,
}

impl Default for MetricsTeller {
    /// Tells nobody, and has nothing to tell.
    fn default() -> Self {
        Self { keeper: Mutex::default(), audience: Audience::new("node.share_metrics_with") }
    }
}

impl MetricsTeller {
    /// Answers one who asked, on a connection on which nothing was written yet.
    ///
    /// # Errors
    /// He is not to know, or asks too often; this node keeps no metrics; or the socket's error.
    pub fn tell(
        &self,
        node: String,
        asker: IpAddr,
        writer: &mut FrameWriter,
    ) -> Result<(), String> {
        let own = || {
            let text = "it keeps no metrics: nobody serves its control socket";
            self.own(node).ok_or_else(|| Refusal::new(Status::Unsupported, text))
        };
        let answer = self.audience.admit(asker).and_then(|()| own());
        tell(writer, FrameKind::Metrics, answer.map(|metrics| metrics.encode()))
    }

    /// What this node would tell; none: nobody keeps its metrics.
    pub fn own(&self, node: String) -> Option<ToldMetrics> {
        let keeper = lock(&self.keeper).as_ref().and_then(Weak::upgrade);
        keeper.map(|keeper| keeper.told(node))
    }
}

impl Answer for ToldMetrics {
    const QUESTION: FrameKind = FrameKind::AskMetrics;
    const KIND: FrameKind = FrameKind::Metrics;
    const SUBJECT: &'static str = "its metrics";

    fn decode(payload: &[u8]) -> Result<Self, WireError> {
        Self::decode(payload)
    }

    fn node(&self) -> &str {
        &self.node
    }

    /// These texts go to terminals and into documents.
    fn check(&self) -> Result<(), String> {
        for family in &self.families {
            let values = family.series.iter().map(|series| &series.label);
            let texts = [&family.name, &family.unit, &family.label].into_iter().chain(values);
            for text in texts {
                if text.chars().any(|char| char.is_control() || char.is_whitespace()) {
                    return Err(format!("{text:?} in a metric holds spaces or control characters"));
                }
            }
            if !family.name.contains('.') {
                return Err(format!("{:?} is no name of a metric", family.name));
            }
        }
        Ok(())
    }
}

impl Node {
    /// Lets nodes at these addresses ask for this node's metrics; nobody may until then.
    pub fn share_metrics_with(&self, networks: Networks) {
        self.tellers().metrics.audience.name(networks);
    }

    /// Who keeps this node's metrics, for those who may ask; the last one that was named counts.
    pub(crate) fn set_metrics_keeper(&self, keeper: Weak<dyn KeepsMetrics>) {
        *lock(&self.tellers().metrics.keeper) = Some(keeper);
    }

    /// The metrics of these nodes, each by its address or by the name of a known peer; this node's own by
    /// its name. Without a list: of this node and of every known peer. Waits for the answers, 15 s at
    /// most; a node that does not answer is told of. v1 peers are not asked.
    ///
    /// # Errors
    /// A name that no known peer has, an address that is out of form, or the node was stopped.
    pub fn metrics_of(&self, nodes: Option<&[String]>) -> Result<Vec<NodeMetrics>, NodeError> {
        if self.modes().is_stopped() {
            return Err(NodeError::Stopped);
        }
        let places = match nodes {
            Some(nodes) => self.places(nodes)?,
            None => {
                let peers = self.modes().views().into_iter().map(|(peer, ..)| Some(peer));
                std::iter::once(None).chain(peers).collect()
            }
        };
        let is_v1 = |place: Option<String>| {
            let is_v1 = place.as_ref().is_some_and(|address| self.modes().is_named_v1(address));
            (place, is_v1)
        };
        let places: Vec<(Option<String>, bool)> = places.into_iter().map(is_v1).collect();
        let wanted =
            places.iter().filter(|(_, is_v1)| !is_v1).filter_map(|(place, _)| place.clone());
        let asked: Vec<String> = wanted.take(MAX_ASKED_NODES).collect();
        let security = self.modes().security();
        let mut answers =
            asked.iter().zip(asking::ask_all::<ToldMetrics>(&asked, security, PATIENCE));
        let row = |(address, is_v1): (Option<String>, bool)| {
            let told = match &address {
                None => self.own_metrics(),
                Some(_) if is_v1 => Err("not asked: it is a v1 peer".to_owned()),
                Some(_) => answers.next().map_or_else(
                    || Err(format!("not asked: {MAX_ASKED_NODES} others were")),
                    |(address, told)| self.noted(address, told),
                ),
            };
            NodeMetrics { address, told }
        };
        Ok(places.into_iter().map(row).collect())
    }

    fn own_metrics(&self) -> Result<ToldMetrics, String> {
        let own = self.tellers().metrics.own(self.name().to_owned());
        own.ok_or_else(|| "nobody keeps this node's metrics".to_owned())
    }

    /// Its name will do the next time.
    fn noted(
        &self,
        address: &str,
        told: Result<ToldMetrics, String>,
    ) -> Result<ToldMetrics, String> {
        told.inspect(|told| self.modes().note_name(address, &told.node))
    }

    /// Where these nodes are, each once; none: here.
    fn places(&self, nodes: &[String]) -> Result<Vec<Option<String>>, NodeError> {
        let own = self.local_address().map(|address| address.to_string());
        let mut places = Vec::new();
        for node in nodes {
            let is_here = node == self.name() || own.as_ref() == Some(node);
            let place = if is_here { None } else { Some(address_of(self.modes(), node)?) };
            if !places.contains(&place) {
                places.push(place);
            }
        }
        Ok(places)
    }
}

/// The address of a node that is given by it, by what the peer there calls itself, or by the host of a
/// known peer's address.
fn address_of(modes: &Arc<Modes>, node: &str) -> Result<String, NodeError> {
    if node.contains(':') {
        let bad = |reason| NodeError::Address { address: clip(node), reason };
        return check_address(node).map(|()| node.to_owned()).map_err(bad);
    }
    if let Some(address) = modes.called(node).into_iter().next() {
        return Ok(address);
    }
    let mut peers = modes.views().into_iter().map(|(peer, ..)| peer);
    let has_host = |peer: &String| peer.rsplit_once(':').is_some_and(|(host, _)| host == node);
    peers.find(has_host).ok_or_else(|| PeerError::UnknownName(clip(node)).into())
}
