//! RDMA by libibverbs, which is opened when it is asked for: this library loads and works without it,
//! and [`probe()`] says why RDMA is not to be had.
//!
//! * [`Library`] is libibverbs, found at run time; [`Device`] a device of it, opened;
//! * [`MemoryRegion`] is guest memory that the device may reach, of one [`ProtectionDomain`];
//! * [`PendingPair`] is one end of a connection before it knows the other, [`QueuePair`] after.
//!
//! Whatever was made of something holds it alive, and work under way holds its memory, so that
//! nothing can be closed, freed or unmapped too early; the order of drops follows from that.

#[expect(
    non_camel_case_types,
    dead_code,
    clippy::undocumented_unsafe_blocks,
    reason = "written by bindgen"
)]
mod bindings;
mod completion;
mod device;
mod library;
mod memory;
pub mod probe;
mod queue_pair;
mod slots;
mod work;

pub use device::{Device, Gid, GidKind, LinkLayer, Port, PortState};
pub use library::{KERNEL_DEVICES, LIBRARY, Library, Unavailable, VerbError};
pub use memory::{
    Access, MemoryBudget, MemoryRegion, Piece, PieceError, ProtectionDomain, RegisterError,
};
pub use probe::{DeviceReport, probe, probe_with};
pub use queue_pair::{ConnectError, PairOptions, PendingPair, QueuePair};
pub use work::{Completion, Done, Failure, PostError, Target, Work, WorkError};
