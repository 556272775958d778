//! Bad input and faults, on real sockets and between real processes.
//!
//! Every test ends by asking the same: one side owns the guest and runs it, each side was told
//! once how it ended, and the two nodes still work.

#[path = "../support/mod.rs"]
mod support;

mod callbacks;
mod child;
mod destination_lies;
mod flags;
mod hand;
mod kills;
mod limits;
mod links;
mod listener;
mod post_copy;
mod post_copy_lies;
mod process;
mod proxy;
mod security;
mod source_lies;
mod stage;
mod storage;
