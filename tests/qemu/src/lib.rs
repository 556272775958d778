//! A laboratory of QEMU guests for tests, the demo and the benchmark.
//!
//! A guest is Debian's kernel and one static program (`guest/guestload.c`) that fills memory,
//! dirties it at a rate and prints every second whether its pages are what it wrote. It runs
//! under TCG, so it needs neither root nor /dev/kvm, and is up in about three seconds.
//!
//! * [`Image`] is the kernel and the program, built once and kept in `target/qemulab`: the kernel
//!   comes from Debian's archive, unless `DWCP_QEMULAB_KERNEL` names a file;
//! * [`Vm`] is one QEMU, gone when dropped, also if this process is killed;
//! * [`memory_digest`] compares the memory of two stopped guests;
//! * [`packages`] and [`Archive`] are for guests of another kind;
//! * [`baseline`] has QEMU migrate by its own means and measures that.
//!
//! ```no_run
//! use dwcp_qemulab::{Image, Load, Vm, VmConfig};
//! use std::time::Duration;
//!
//! let image = Image::cached()?;
//! let load = Load::Text { mib: 32, rate_mib: 4 };
//! let vm = Vm::start(&VmConfig { image: Some(&image), load, ..VmConfig::default() })?;
//! vm.wait_for_tick(3, Duration::from_secs(60))?;
//! assert!(vm.qmp()?.status()?.running);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod baseline;
mod cpio;
mod digest;
mod error;
mod image;
mod kernel;
pub mod packages;
mod process;
mod serial;
mod vm;

pub use cpio::Archive;
pub use digest::memory_digest;
pub use error::LabError;
pub use image::{Image, cache_dir, libraries_of};
pub use kernel::newest_kernel;
pub use process::output_of;
pub use serial::SerialLog;
pub use vm::{Load, Vm, VmConfig, kernel_command_line};
