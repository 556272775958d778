//! Reads by RDMA in the guest with soft-RoCE, beside perftest's `ib_read_bw` with messages as long. The
//! kernel does the card's work there, so of the processor's time only the library's own says anything.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use dwcp_qemulab::{Vm, VmConfig};
use dwcp_rdmalab::{GuestImage, Task};
use serde_json::Value;
use std::time::Duration;

/// Boot and all rounds, under a translator on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);
/// What the guest's program is called; it lies beside this one.
const PROGRAM: &str = "dwcp-rdma-guest";
/// Boots the guest, whose program measures.
pub fn run(_: &Plan, results: &mut Results) -> Result<(), Failure> {
    let program = std::env::current_exe()?.with_file_name(PROGRAM);
    let image = GuestImage::build(&program, Task::Bench)?;
    let vm = Vm::start(&VmConfig {
        image: Some(image.image()),
        memory_mib: 768,
        extra_args: ["-cpu", "max"].map(str::to_owned).into(),
        ..VmConfig::default()
    })?;
    vm.wait_for_line("end of scenarios", PATIENCE)?;
    let log = vm.serial();
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line.trim().strip_prefix("bench ")?).ok())
        .collect();
    let samples = |field: &str| {
        let mut samples = Samples::default();
        lines.iter().filter_map(|line| line[field].as_f64()).for_each(|found| samples.push(found));
        samples
    };
    let reads = samples("read_bytes_per_s");
    if reads.len() == 0 {
        return Err(format!("the guest measured nothing:\n{log}").into());
    }
    results.add(Figure {
        suite: "rdma",
        case: "64 KiB reads, soft-RoCE",
        metric: "read",
        unit: "B/s",
        dwcp: reads,
        peer_name: "ib_read_bw",
        peer: samples("ib_read_bw_bytes_per_s"),
        wanted: Wanted::AtLeast(0.9),
    })?;
    results.add(Figure {
        suite: "rdma",
        case: "64 KiB reads, soft-RoCE",
        metric: "user_time",
        unit: "ns/B",
        dwcp: samples("user_ns_per_byte"),
        peer_name: "hashes alone",
        peer: samples("hash_ns_per_byte"),
        wanted: Wanted::AtMost(1.5),
    })
}
