//! RDMA by libibverbs, which is opened when it is asked for: this library loads and works without it,
//! and [`probe`](probe::probe) says why RDMA is not to be had.
//!
//! * [`Library`] is libibverbs, found at run time; [`Device`] a device of it, opened.
#[expect(
    non_camel_case_types,
    dead_code,
    clippy::undocumented_unsafe_blocks,
    reason = "written by bindgen"
)]
mod bindings;
mod device;
mod library;
pub mod probe;

pub use device::{Device, Gid, GidKind, LinkLayer, Port, PortState};
pub use library::{LIBRARY, Library, Unavailable};
pub use probe::{DeviceReport, probe, probe_with};
