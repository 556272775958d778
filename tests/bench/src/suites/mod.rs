//! What is measured, one file a suite.

mod abi;
mod downtime;
mod memory;
mod modes;
mod net;
pub mod qemu;
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
        "abi" => abi::run(plan, results),
        "qemu" => qemu::run(plan, results),
        _ => {
            Err("there is no such suite; known: net, wan, tls, memory, modes, downtime, abi, qemu"
                .into())
        }
    }
}
