//! DWCP v3: moving running virtual machines between hosts.
//!
//! The map, bottom up; a layer imports only the layers below it.
//!
//! * L0 [`base`]: identifiers, units, time, limits, memory layout, the status table.
//! * L1 [`wire`]: frames, hello and feature negotiation, control messages, chunk headers.
//! * L2 [`transport`], [`encoding`], [`qemu`], [`rollout`]: engines without sockets, clocks or threads.
//! * L3 [`observe`], [`migration`], [`node`]: events, the two migration state machines over
//!   traits, and the tables that a node keeps.
//! * L4 [`runtime`], [`config`]: threads, sockets, process memory, files; the facade [`Node`].
//! * L5 [`ffi`], [`cli`]: the C ABI and the command line.
//!
//! Start at [`Node`]: it registers guests, listens for incoming ones, and starts migrations.

pub mod base;
pub mod cli;
pub mod config;
pub mod encoding;
pub mod ffi;
pub mod migration;
pub mod node;
pub mod observe;
pub mod qemu;
pub mod rollout;
pub mod runtime;
pub mod transport;
pub mod wire;

pub use base::status::Status;
pub use runtime::migration_handle::Migration;
pub use runtime::node::{Node, NodeError, NodeOptions};
pub use runtime::security::SecurityOptions;

/// The library's version, as in its package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
