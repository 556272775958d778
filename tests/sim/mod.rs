//! The parts of the simulator.

pub mod channels;
pub mod guest;
pub mod network;
pub mod relay;
pub mod switch;
pub mod weather;
pub mod world;
