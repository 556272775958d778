//! All raw system calls and raw memory of the runtime; nothing above it says `unsafe` (the C ABI
//! aside).

pub mod guest_memory;

pub use guest_memory::{Allocation, MapError, MappedMemory, RangeError};
