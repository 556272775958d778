//! What a node would lose by talking to its peers as v1, and by which protocol it talks to each.

use super::facade::Route;
use crate::migration::Dialect;
use crate::transport::Mode;
use crate::wire::v1::compatibility::{Feature, Loss, losses, needs_consent};
use crate::{Node, NodeError};
use serde::Serialize;
use std::net::SocketAddr;

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compatibility {
    /// What v1 peers do without, of what is switched on here; worst first.
    pub losses: Vec<Loss>,
    /// Whether safety is among it, so that an operator must name each v1 peer.
    pub needs_consent: bool,
    /// How memory travels to and from v1 peers.
    pub dialect: &'static str,
    /// Where v1 peers may connect.
    pub listen: Option<SocketAddr>,
    /// Each peer.
    pub peers: Vec<PeerCompatibility>,
}

/// How a node talks to one peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerCompatibility {
    /// Its address, as it is dialed.
    pub peer: String,
    /// Its mode.
    pub mode: Mode,
    /// `v1`, `v3`, or `none`: a migration is refused.
    pub migrates_by: &'static str,
    /// Why it is refused.
    pub reason: Option<String>,
    /// What is lost; empty for v3.
    pub lost: Vec<Feature>,
}

/// Looks at one peer, or at all that are known.
///
/// # Errors
/// The peer's address is out of form.
pub(super) fn check(node: &Node, peer: Option<&str>) -> Result<Compatibility, NodeError> {
    let on = switched_on(node);
    let known = match peer {
        Some(peer) => vec![peer.to_string()],
        None => node.peers().into_iter().map(|peer| peer.peer).collect(),
    };
    let peers = known.into_iter().map(|peer| of_peer(node, peer, &on));
    Ok(Compatibility {
        losses: losses(&on),
        needs_consent: needs_consent(&on),
        dialect: node.v1_options().dialect.name(),
        listen: node.v1_address(),
        peers: peers.collect::<Result<_, _>>()?,
    })
}

fn of_peer(node: &Node, peer: String, on: &[Feature]) -> Result<PeerCompatibility, NodeError> {
    let (migrates_by, reason) = match node.v1().route(&peer) {
        Ok(Route::V3(_)) => ("v3", None),
        Ok(Route::V1(_)) => ("v1", None),
        Err(NodeError::V1(error)) => ("none", Some(error.to_string())),
        Err(error) => return Err(error),
    };
    let is_v1 = migrates_by == "v1";
    let lost = losses(on).into_iter().filter(|_| is_v1).map(|loss| loss.feature);
    let mode = if is_v1 { Mode::V1Compat } else { node.modes().mode(&peer) };
    Ok(PeerCompatibility { mode, migrates_by, reason, lost: lost.collect(), peer })
}

/// What this node does for its migrations, as it is set, and what they may ask for. Not among it: RDMA,
/// which no migration uses.
fn switched_on(node: &Node) -> Vec<Feature> {
    let mut on = vec![
        Feature::Digest,
        Feature::ChunkChecksums,
        Feature::Handover,
        Feature::PreCopy,
        Feature::PostCopy,
        Feature::DeviceState,
        Feature::Resume,
        Feature::Negotiation,
        Feature::Relay,
        Feature::AdaptiveCodecs,
    ];
    let options = node.v1_options();
    let is_measured = node.transport().policy.forced.is_none();
    // The other dialects have no limit but the one that is configured.
    let optional = [
        (Feature::Encryption, node.certificate().is_some()),
        (Feature::Identity, node.certificate().is_some()),
        (Feature::LargeImages, options.dialect == Dialect::F16),
        (Feature::Delta, node.encoding().delta),
        (Feature::HeldPages, node.holds_departed_guests()),
        (Feature::AdaptiveTransport, is_measured),
    ];
    on.extend(optional.into_iter().filter(|(_, is_on)| *is_on).map(|(feature, _)| feature));
    on
}
