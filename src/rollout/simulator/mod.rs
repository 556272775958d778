//! A simulated cluster whose rollout is played on virtual time: six weeks in a second.
//!
//! The same flags, decisions, guards and controller as in a node, over links that are made up: each
//! has its own latency and throughput, a busy time of the day and a weather that changes slowly,
//! and requests that fail now and then. Faults are injected by a [`Scenario`]. Everything follows
//! from the seed.

mod cluster;
mod fault;
mod outcome;
mod play;
mod random;
mod scenario;

pub use fault::{Effect, Fault, Reach};
pub use outcome::{ArmPoint, Event, FlagOutcome, FlagPoint, Happening, Outcome, Point};
pub use play::{play, play_watched};
pub use scenario::{LatencyModel, Scenario, ScenarioError, ThroughputModel};

#[cfg(test)]
mod tests;
