//! L3: the tables that a node keeps, and the metrics derived from its events and migrations.

pub mod catalog;
pub mod event_ring;
pub mod exposition;
pub mod metrics;
pub mod state;

pub use event_ring::EventRing;
