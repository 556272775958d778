//! L3: a migration as two state machines, one on each side, over traits.
//!
//! [`source::Source`] and [`destination::Destination`] take events with the time and give actions;
//! they know no socket, thread or clock. [`page_io`] moves the pages of one chunk between a guest
//! and bytes. The runtime and the simulator drive all three in the same way.

pub mod convergence;
pub mod destination;
pub mod encoding_options;
pub mod fault_times;
pub mod guest;
pub mod missing;
pub mod options;
pub mod ownership;
pub mod page_io;
pub mod plan;
pub mod relay;
pub mod source;
pub mod stats;
pub mod v1_options;

pub use encoding_options::EncodingOptions;
pub use guest::{Ending, GuestError, GuestSink, GuestSource, MissingPages};
pub use options::{CodecChoice, CodecPolicy, MigrationOptions, PostCopyRule};
pub use v1_options::{Dialect, V1Options};
// Plain figures, which events and metrics need too; hence a layer below.
pub use crate::observe::report::{Owner, Pass, Phase, PostCopyFigures, Progress, Report};

use crate::Status;
use crate::base::{StreamId, micros};
use crate::observe::EventKind;
use std::time::Duration;

/// Why a migration ended without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub status: Status,
    /// What happened, with the offending value.
    pub reason: String,
}

impl Failure {
    /// A failure with this code and text.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self::new(Status::Callback, error.to_string())
    }
}

/// The last event of a migration, the same on both sides.
pub(crate) fn ended_event(
    failure: Option<&Failure>,
    owner: Owner,
    (total, downtime): (Duration, Duration),
) -> EventKind {
    EventKind::MigrationEnded {
        status: failure.map_or(Status::Ok, |failure| failure.status),
        owner: owner.name(),
        reason: failure.map_or_else(String::new, |failure| failure.reason.clone()),
        total_us: micros(total),
        downtime_us: micros(downtime),
    }
}

/// The event of a stream's end, the same on both sides.
fn stream_ended(stream: StreamId, has_left: bool, reason: &str) -> EventKind {
    match has_left {
        true => EventKind::StreamRetired { stream: stream.0 },
        false => EventKind::StreamDown { stream: stream.0, reason: reason.to_string() },
    }
}
