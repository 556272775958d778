//! L3: what a node tells the outside. Events are declared once; log lines derive from them.

pub mod event;
pub mod log;
pub mod pass;

pub use event::{Component, Event, EventKind, Level};
pub use log::{LogRecord, LogRing};
pub use pass::Pass;
