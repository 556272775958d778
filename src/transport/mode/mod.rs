//! Which way of transport suits the path to a peer: measured, slow to change its mind, and with
//! evidence for every change.
//!
//! Readings of TCP streams become a [`PathSample`] in a [`PathMeter`], samples become figures in a
//! [`PathEstimate`], figures become a verdict ([`verdict`]), and a [`ModeDetector`] follows the
//! verdicts once they have lasted. A [`ModeTable`] holds the detectors of all peers and says whose
//! path is to be probed next. Sockets, clock and random numbers are the caller's.

mod cases;
pub mod detector;
pub mod effects;
pub mod estimate;
pub mod kind;
pub mod meter;
pub mod policy;
pub mod probes;
pub mod sample;
mod slots;
pub mod table;
pub mod transition;
pub mod verdict;

pub use detector::ModeDetector;
pub use effects::{Congestion, ModeEffects, ParseCongestionError};
pub use estimate::{PathEstimate, PathFigures};
pub use kind::Mode;
pub use meter::{PathMeter, StreamReading};
pub use policy::{ModePolicy, Thresholds};
pub use sample::{PathSample, Reachability};
pub use table::{ModeTable, PeerView, TableError};
pub use transition::{Cause, Ground, Transition};
