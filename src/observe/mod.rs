//! L3: what a node tells the outside. Events are declared once; metrics and logs derive from them.

pub mod event;
pub mod pass;

pub use event::{Component, Event, EventKind, Level};
pub use pass::Pass;
