//! The daemon, its control server and the command line, driven as processes and over real sockets.

mod chaos;
mod compression;
mod config_disk;
mod control;
mod daemon;
mod drill;
mod flags;
mod guest;
mod help;
mod identity;
mod interrupts;
mod metrics;
mod modes;
#[path = "../../src/node/openmetrics.rs"]
mod openmetrics;
mod operator;
mod resources;
mod rollout;
mod soak;
mod stage;
mod state;
mod v1;
mod vm;
