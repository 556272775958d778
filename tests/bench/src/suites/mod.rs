//! What is measured, one file a suite.

mod abi;
mod downtime;
mod fair;
mod flags;
mod kills;
mod memory;
mod modes;
mod net;
mod post_copy;
pub mod qemu;
mod rdma;
mod relearn;
mod rollout;
mod tls;

use crate::results::Results;
use crate::{Failure, Plan};

/// Runs the suite of that name.
pub fn run(name: &str, plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    match name {
        "net" => net::local(plan, results),
        "wan" => net::wide_area(plan, results),
        "memory" => memory::run(plan, results),
        "tls" => tls::run(plan, results),
        "modes" => modes::run(plan, results),
        "downtime" => downtime::run(plan, results),
        "postcopy" => post_copy::run(plan, results),
        "relearn" => relearn::run(plan, results),
        "fair" => fair::run(plan, results),
        "kills" => kills::run(plan, results),
        "abi" => abi::run(plan, results),
        "flags" => flags::run(plan, results),
        "rdma" => rdma::run(plan, results),
        "rollout" => rollout::run(plan, results),
        "qemu" => qemu::run(plan, results),
        _ => Err(
            "there is no such suite; known: net, wan, relearn, fair, kills, tls, memory, modes, \
                  downtime, postcopy, abi, flags, rollout, rdma, qemu"
                .into(),
        ),
    }
}
