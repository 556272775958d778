//! QEMU as the hypervisor: its control socket, for guests whose process is not ours.

pub mod codec_choice;
pub mod commands;
mod door;
pub mod guest;
pub mod incoming;
mod intake;
mod line;
pub mod memory;
pub mod outgoing;
pub mod qmp;
mod refusal;
mod replay;
mod returns;
pub mod watch;

pub use commands::{Accelerator, MachineInfo, MigrationInfo, RamInfo, RunState};
pub use guest::{VmInfo, VmStatus};
pub use qmp::{Event, QemuVersion, Qmp, QmpError};
