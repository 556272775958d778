//! QEMU as the hypervisor: its control socket, for guests whose process is not ours.

pub mod commands;
mod line;
pub mod qmp;

pub use commands::{Accelerator, MachineInfo, MigrationInfo, RamInfo, RunState};
pub use qmp::{Event, QemuVersion, Qmp, QmpError};
