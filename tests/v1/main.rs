//! v1 peers over real sockets: both of our ends against each other, and each against a v1 peer by hand,
//! well-behaved and not.
//!
//! Every test ends by asking the same: the guest runs on one side at most, and is lost on neither.

#[path = "../support/mod.rs"]
mod support;

mod arrivals;
mod departures;
mod hand;
mod peers;
mod stage;
mod trips;
