//! L3: the tables that a node keeps.

pub mod event_ring;

pub use event_ring::EventRing;
