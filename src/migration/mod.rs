//! L3: a migration as two state machines, one on each side, over traits.
//!
//! [`source::Source`] and [`destination::Destination`] take events with the time and give actions;
//! they know no socket, thread or clock. [`page_io`] moves the pages of one chunk between a guest
//! and bytes. The runtime and the simulator drive all three in the same way.

pub mod convergence;
pub mod destination;
pub mod guest;
pub mod options;
pub mod ownership;
pub mod page_io;
pub mod plan;
pub mod source;
pub mod stats;

pub use guest::{Ending, GuestError, GuestSink, GuestSource};
pub use options::{CodecChoice, MigrationOptions};
// Plain figures, which events and metrics need too; hence a layer below.
pub use crate::observe::report::{Owner, Pass, Phase, Progress, Report};

use crate::Status;

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
