//! L4: where the engines meet threads, sockets, process memory and files.

pub mod mapped_guest;
pub mod node;
pub mod process_memory;
pub mod state_file;
pub mod sys;
