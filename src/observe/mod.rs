//! L3: what a node tells the outside. Events are declared once; metrics and logs derive from them.

pub mod catalog;
pub mod event;
pub mod exposition;
pub mod log;
pub mod metrics;
pub mod report;

pub use event::{Component, Event, EventKind, Level};
pub use log::{LogRecord, LogRing};
pub use metrics::{Metrics, Sample};
pub use report::{Owner, Pass, Phase, Progress, Report};
