//! The parts of the simulator of paths.

pub mod drive;
pub mod path;
