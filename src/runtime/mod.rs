//! L4: where the engines meet threads, sockets, process memory and files.

pub mod clock;
pub mod compression;
pub mod connection;
pub mod connections;
pub mod control;
pub mod dial;
pub mod footprint;
pub mod guarded;
pub mod handle;
pub mod incoming;
pub mod journal;
pub mod listener;
pub mod lock;
mod log_file;
pub mod mapped_guest;
pub mod node;
pub mod outcome;
pub mod outgoing;
pub mod process_memory;
pub mod qemu;
pub mod record_keeper;
pub mod registry;
pub mod state_file;
pub mod stream_slots;
pub mod sys;
pub mod telemetry;
pub mod tuning;
