//! The typed events of a node.

use crate::base::{MigrationId, TimeCounts};
use crate::transport::mode::Transition;
use crate::transport::stream_tuner::Why;
use crate::wire::v1::json::Json;
use serde::Serialize;

/// Which part of the library speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Streams and peers.
    Amst,
    /// Encoding.
    Hde,
    /// The choice of the transport's mode for each peer.
    ModeDetector,
    /// The migration state machines.
    Migration,
    /// The feature flags.
    Rollout,
    /// The node itself.
    Node,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Detail for a developer.
    Debug,
    /// Normal course.
    Info,
    /// Something an operator may want to look at.
    Warn,
    /// Something failed.
    Error,
}

/// What a connection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// It was made.
    Open,
    /// It ended.
    Closed,
    /// It was turned away.
    Refused,
}

impl ConnectionState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Open, Self::Closed, Self::Refused];

    /// The name as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Refused => "refused",
        }
    }
}

/// One event, as it is stored, streamed and printed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Number of the event on this node, from 1.
    pub sequence: u64,
    /// Wall-clock time, microseconds since 1970.
    pub time_us: u64,
    /// The migration it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationId>,
    /// The guest it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The node listens.
    NodeStarted {
        /// Where it listens, empty if it does not.
        listen: String,
    },
    /// The node was stopped.
    NodeStopped {},
    /// A guest was registered or removed.
    GuestChanged {
        /// `source`, `destination` or `removed`.
        role: String,
    },
    /// A migration entered a phase.
    Phase {
        /// The phase entered; see `migration::Phase`.
        phase: &'static str,
        /// How long the phase before took.
        previous_us: u64,
    },
    /// A pre-copy pass ended.
    PassCompleted {
        /// The pass.
        #[serde(flatten)]
        pass: super::Pass,
    },
    /// The guest is slowed down so that the migration converges.
    Throttled {
        /// Share of its time that the guest is held back.
        percent: u8,
    },
    /// The guest goes on at the destination before all of its memory is there.
    PostCopyBegun {
        /// Pages that the destination lacks, or has in an old version.
        missing_pages: u64,
        /// Who or what asked for it.
        why: &'static str,
    },
    /// No page is missing any more.
    PostCopyCompleted {
        /// How it went.
        #[serde(flatten)]
        figures: super::report::PostCopyFigures,
        /// How long each of these waits was; for metrics alone.
        #[serde(skip)]
        waits: Box<TimeCounts>,
    },
    /// A data stream is connected.
    StreamUp {
        /// Its number.
        stream: u32,
        /// The other end.
        peer: String,
    },
    /// A data stream broke.
    StreamDown {
        /// Its number.
        stream: u32,
        /// Why.
        reason: String,
    },
    /// A data stream that was not needed any more was closed, with nothing lost.
    StreamRetired {
        /// Its number.
        stream: u32,
    },
    /// The number of a migration's data streams was changed.
    StreamsTuned {
        /// Streams before.
        from: u16,
        /// Streams from now on.
        to: u16,
        /// The most that the peer's mode and the migration's options allow.
        limit: u16,
        /// Why.
        why: Why,
        /// What all migrations to the peer together carried with as many as before; zero where that
        /// is not known.
        rate_bytes_per_s: u64,
        /// Of a trial that has ended: what they carried before it; otherwise zero.
        rate_before_bytes_per_s: u64,
    },
    /// A data stream has pages go by RDMA.
    RdmaUp {
        /// The device.
        device: String,
        /// The queue pair's number on this side.
        pair: u32,
    },
    /// Pages go by TCP, though the path to the peer is one for RDMA.
    RdmaUnavailable {
        /// Why.
        reason: String,
    },
    /// A chunk came damaged and will be sent again.
    ChunkDamaged {
        /// Its number.
        chunk: u64,
    },
    /// A peer was turned away.
    PeerRefused {
        /// The peer.
        peer: String,
        /// Why.
        reason: String,
    },
    /// A connection to or from a v1 peer.
    V1Connection {
        /// The peer.
        peer: String,
        /// How memory travels; `none` if it did not come to that.
        dialect: &'static str,
        /// What it has come to.
        state: ConnectionState,
        /// Who made it, or what came of it.
        detail: String,
    },
    /// The way of transport to a peer changed.
    ModeTransition {
        /// The peer.
        peer: String,
        /// From which mode to which, and by what evidence.
        #[serde(flatten)]
        transition: Box<Transition>,
    },
    /// The feature flags were changed.
    FlagsChanged {
        /// Number of the change in the audit log.
        seq: u64,
        /// Who did it.
        who: String,
        /// Why.
        why: String,
        /// What, in a line.
        change: String,
    },
    /// A feature flag was rolled back, and is off until that is cleared.
    FlagRolledBack {
        /// The flag.
        flag: &'static str,
        /// Number of the change in the audit log.
        seq: u64,
        /// Who did it.
        who: String,
        /// Why.
        why: String,
        /// What was measured.
        evidence: Option<Json>,
    },
    /// A feature flag stays at its percentage, though its schedule or its health is looked at.
    FlagHeld {
        /// The flag.
        flag: &'static str,
        /// Why.
        reason: String,
    },
    /// Something the operator should know, such as a missing congestion control.
    Notice {
        /// The text.
        text: String,
    },
    /// A migration ended.
    MigrationEnded {
        /// Status name, `DWCP_OK` when it succeeded.
        status: crate::Status,
        /// Who owns the guest now: `source`, `destination` or `in_doubt`.
        owner: &'static str,
        /// Text of the failure, empty on success.
        reason: String,
        /// Whole duration.
        total_us: u64,
        /// How long the guest stood still.
        downtime_us: u64,
    },
}

impl EventKind {
    /// The component that the event belongs to.
    pub fn component(&self) -> Component {
        match self {
            EventKind::NodeStarted { .. }
            | EventKind::NodeStopped {}
            | EventKind::GuestChanged { .. } => Component::Node,
            EventKind::StreamUp { .. }
            | EventKind::StreamDown { .. }
            | EventKind::StreamRetired { .. }
            | EventKind::StreamsTuned { .. }
            | EventKind::RdmaUp { .. }
            | EventKind::RdmaUnavailable { .. }
            | EventKind::PeerRefused { .. }
            | EventKind::V1Connection { .. }
            | EventKind::Notice { .. } => Component::Amst,
            EventKind::ChunkDamaged { .. } => Component::Hde,
            EventKind::ModeTransition { .. } => Component::ModeDetector,
            EventKind::FlagsChanged { .. }
            | EventKind::FlagRolledBack { .. }
            | EventKind::FlagHeld { .. } => Component::Rollout,
            EventKind::Phase { .. }
            | EventKind::PassCompleted { .. }
            | EventKind::Throttled { .. }
            | EventKind::PostCopyBegun { .. }
            | EventKind::PostCopyCompleted { .. }
            | EventKind::MigrationEnded { .. } => Component::Migration,
        }
    }

    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            EventKind::StreamUp { .. }
            | EventKind::StreamRetired { .. }
            | EventKind::PassCompleted { .. } => Level::Debug,
            EventKind::StreamDown { .. }
            | EventKind::ChunkDamaged { .. }
            | EventKind::PeerRefused { .. }
            | EventKind::Notice { .. }
            | EventKind::FlagRolledBack { .. }
            | EventKind::Throttled { .. } => Level::Warn,
            EventKind::V1Connection { state: ConnectionState::Refused, .. } => Level::Warn,
            EventKind::MigrationEnded { status, .. } if *status != crate::Status::Ok => {
                Level::Error
            }
            _ => Level::Info,
        }
    }
}
