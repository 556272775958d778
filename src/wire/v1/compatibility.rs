//! What is lost by talking to a peer as v1, for what is switched on at this node.

use serde::Serialize;

/// Something that a node of ours does and a v1 peer does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// TLS on every connection.
    Encryption,
    /// A certificate says who the peer is.
    Identity,
    /// A digest of the whole image is compared before the guest runs.
    Digest,
    /// Every chunk has a checksum, and is asked for again where it does not fit.
    ChunkChecksums,
    /// The guest changes owner by an acknowledged message that both sides write down.
    Handover,
    /// The guest runs while its memory is copied.
    PreCopy,
    /// The guest runs at the destination before all of its memory is there.
    PostCopy,
    /// Devices of the guest go along.
    DeviceState,
    /// A broken stream costs what was under way.
    Resume,
    /// Both sides agree on what they can do.
    Negotiation,
    /// QEMU's own stream, carried.
    Relay,
    /// Pages as differences from earlier ones.
    Delta,
    /// Pages that the peer holds from before are not sent.
    HeldPages,
    /// Codecs of ours, chosen block by block.
    AdaptiveCodecs,
    /// RDMA.
    Rdma,
    /// The number of streams and the length of chunks follow the network.
    AdaptiveTransport,
    /// Images over v1's limits.
    LargeImages,
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Data or the guest may be read, damaged or lost without anybody noticing.
    Safety,
    /// Something cannot be done at all.
    Function,
    /// It takes longer or sends more.
    Speed,
}

/// A feature that a v1 peer does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Which.
    pub feature: Feature,
    /// How much it matters.
    pub severity: Severity,
    /// What happens in its place, for operators.
    pub consequence: &'static str,
}

impl Feature {
    /// Every feature, those whose loss is worst first.
    pub const ALL: [Self; 17] = [
        Self::Encryption,
        Self::Identity,
        Self::Digest,
        Self::ChunkChecksums,
        Self::Handover,
        Self::PreCopy,
        Self::PostCopy,
        Self::DeviceState,
        Self::Resume,
        Self::Negotiation,
        Self::Relay,
        Self::LargeImages,
        Self::Delta,
        Self::HeldPages,
        Self::AdaptiveCodecs,
        Self::Rdma,
        Self::AdaptiveTransport,
    ];

    /// What its loss means.
    pub fn loss(self) -> Loss {
        let (severity, consequence) = match self {
            Self::Encryption => (
                Severity::Safety,
                "guest memory crosses the network in plain; v1 wires TLS into none of its transports",
            ),
            Self::Identity => {
                (Severity::Safety, "the peer is whoever answers; v1 announces the name \"local\"")
            }
            Self::Digest => (Severity::Safety, "nobody compares the image; v1 sends no hash of it"),
            Self::ChunkChecksums => (
                Severity::Safety,
                "TCP's checksum and that of a zstd frame alone find damage, and nothing is repaired",
            ),
            Self::Handover => (
                Severity::Safety,
                "v1 acknowledges nothing, so the guest's owner must be settled by hand",
            ),
            Self::PreCopy => {
                (Severity::Function, "whole images only: the guest stands still while one is sent")
            }
            Self::PostCopy => {
                (Severity::Function, "the guest cannot start before its memory is there")
            }
            Self::DeviceState => {
                (Severity::Function, "memory and disks only; the peer must boot the guest itself")
            }
            Self::Resume => {
                (Severity::Function, "a broken stream fails the transfer, which starts again")
            }
            Self::Negotiation => (
                Severity::Function,
                "the length of chunks and of the transfer must be set alike on both sides",
            ),
            Self::Relay => (Severity::Function, "QEMU's own migrations cannot be carried"),
            Self::LargeImages => (
                Severity::Function,
                "transfers end at 4 GiB and packets at 256 MiB of contents; more must be split",
            ),
            Self::Delta => (
                Severity::Speed,
                "v1 reads differences and never applies them, so every image is sent whole",
            ),
            Self::HeldPages => (Severity::Speed, "a returning guest is sent whole"),
            Self::AdaptiveCodecs => (Severity::Speed, "zstd at one level for all, no dictionary"),
            Self::Rdma => (Severity::Speed, "v1 never connects its RDMA; everything goes over TCP"),
            Self::AdaptiveTransport => {
                (Severity::Speed, "streams and chunks stay as configured for the peer")
            }
        };
        Loss { feature: self, severity, consequence }
    }
}

/// What would be lost of `switched_on`, worst first; each feature once.
pub fn losses(switched_on: &[Feature]) -> Vec<Loss> {
    let on = Feature::ALL.into_iter().filter(|feature| switched_on.contains(feature));
    on.map(Feature::loss).collect()
}

/// Whether a transfer to a v1 peer would give up safety that is switched on, so that an operator must
/// have allowed it by name.
pub fn needs_consent(switched_on: &[Feature]) -> bool {
    losses(switched_on).iter().any(|loss| loss.severity == Severity::Safety)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_switched_on_is_lost_worst_first_and_once() {
        assert_eq!(losses(&[]), []);
        let on = [Feature::Rdma, Feature::Encryption, Feature::Resume, Feature::Rdma];
        let lost: Vec<_> = losses(&on).into_iter().map(|loss| loss.feature).collect();
        assert_eq!(lost, [Feature::Encryption, Feature::Resume, Feature::Rdma]);
        let severities = losses(&Feature::ALL).into_iter().map(|loss| loss.severity);
        assert!(severities.is_sorted());
    }

    #[test]
    fn every_feature_is_listed_once() {
        let mut seen = Feature::ALL.to_vec();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), Feature::ALL.len());
        assert_eq!(*seen.last().unwrap() as usize + 1, Feature::ALL.len());
    }

    #[test]
    fn safety_needs_consent_and_speed_does_not() {
        assert!(needs_consent(&[Feature::Rdma, Feature::Digest]));
        assert!(!needs_consent(&[Feature::Rdma, Feature::Delta, Feature::Resume]));
    }

    #[test]
    fn losses_are_data_for_a_report() {
        let json = serde_json::to_value(losses(&[Feature::PostCopy])).unwrap();
        assert_eq!(json[0]["feature"], "post_copy");
        assert_eq!(json[0]["severity"], "function");
        assert!(!json[0]["consequence"].as_str().unwrap().is_empty());
    }
}
