//! L3: a migration as two state machines, one on each side, over traits.

pub mod guest;
pub mod options;
pub mod report;

pub use guest::{GuestError, GuestSink, GuestSource};
pub use options::{CodecChoice, MigrationOptions};
pub use report::{Owner, Pass, Phase, Progress, Report};
