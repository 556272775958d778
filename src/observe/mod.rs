//! L3: what a node tells the outside. Events are declared once; log lines derive from them.

pub mod event;
pub mod log;
pub mod report;

pub use event::{Component, ConnectionState, Event, EventKind, Level};
pub use log::{LogRecord, LogRing};
pub use report::{Owner, Pass, Phase, Progress, Report};
