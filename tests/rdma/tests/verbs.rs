//! The library's RDMA over real verbs, in a guest; skipped where QEMU cannot run.

use dwcp_qemulab::{Vm, VmConfig};
use dwcp_rdmalab::{GuestImage, Task};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Boot, and every scenario, under a translator on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);
const SCENARIOS: [&str; 17] = [
    "probe",
    "write",
    "read",
    "message",
    "foreign-memory",
    "kill-target",
    "kill-source",
    "budget",
    "memory-lock",
    "permission",
    "link-down",
    "migrate",
    "migrate-limited-here",
    "migrate-limited-there",
    "migrate-kill-target",
    "migrate-kill-source",
    "migrate-link-down",
];

#[test]
fn every_scenario_passes_in_a_guest_with_soft_roce() -> Outcome {
    if let Err(error) = Command::new("qemu-system-x86_64").arg("--version").output() {
        eprintln!("skipped: qemu-system-x86_64 cannot run: {error}");
        return Ok(());
    }
    let image =
        GuestImage::build(Path::new(env!("CARGO_BIN_EXE_dwcp-rdma-guest")), Task::Scenarios)?;
    let vm = Vm::start(&VmConfig {
        image: Some(image.image()),
        memory_mib: 768,
        extra_args: ["-cpu", "max"].map(str::to_owned).into(),
        ..VmConfig::default()
    })?;
    vm.wait_for_line("end of scenarios", PATIENCE)?;
    let log = vm.serial();
    let lines = || log.lines().map(str::trim_end);
    let told =
        lines().filter(|line| ["pass ", "FAIL ", "note "].iter().any(|w| line.starts_with(w)));
    told.for_each(|line| eprintln!("{line}"));
    let passed = |name: &&str| lines().any(|line| line.starts_with(&format!("pass {name}: ")));
    let missing: Vec<&str> = SCENARIOS.into_iter().filter(|name| !passed(name)).collect();
    assert!(missing.is_empty(), "{missing:?} did not pass:\n{log}");
    Ok(())
}
