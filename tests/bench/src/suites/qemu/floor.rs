//! The least that moving a guest could take: its memory, packed once, at the link's full rate.

use super::cases::Link;
use crate::Failure;
use dwcp::encoding::{CodecChoice, Encoder, zero};
use dwcp_qemulab::Vm;
use serde_json::json;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::time::Duration;

/// A guest's memory without its zero pages, packed.
#[derive(Clone, Copy)]
pub struct Floor {
    packed_bytes: u64,
}

impl Floor {
    /// Of a guest that its QEMU pauses for this.
    pub fn of(vm: &Vm) -> Result<Self, Failure> {
        let mut qmp = vm.qmp()?;
        qmp.stop()?;
        let bytes = qmp.machine()?.memory_bytes;
        // Goes with the guest's folder.
        let path = vm.folder().join("memory");
        let arguments = json!({ "val": 0, "size": bytes, "filename": path.display().to_string() });
        qmp.execute_within("pmemsave", arguments, SAVE_TIMEOUT)?;
        let floor = Self { packed_bytes: packed_bytes(File::open(&path)?)? };
        std::fs::remove_file(&path)?;
        Ok(floor)
    }

    /// What is left of it.
    pub fn mib(self) -> f64 {
        self.packed_bytes as f64 / BLOCK_BYTES as f64
    }

    /// The time on a link; none where the link does not limit.
    pub fn seconds(self, link: &Link) -> Option<f64> {
        Some(self.packed_bytes as f64 * 8.0 / (link.mbit_per_s? as f64 * 1e6))
    }
}

fn packed_bytes(mut dump: impl Read) -> Result<u64, Failure> {
    let (mut encoder, mut scratch) = (Encoder::default(), Vec::new());
    let (mut block, mut pages, mut packed_bytes) = (vec![0; BLOCK_BYTES], Vec::new(), 0);
    loop {
        let is_end = match dump.read_exact(&mut block) {
            Ok(()) => false,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => true,
            Err(error) => return Err(error.into()),
        };
        let runs = zero::page_runs(&block, PAGE_BYTES).filter(|run| !run.zero && !is_end);
        for run in runs {
            let (first, bytes) = (run.first * PAGE_BYTES, run.pages * PAGE_BYTES);
            pages.extend_from_slice(&block[first..first + bytes]);
        }
        while pages.len() >= BLOCK_BYTES || is_end && !pages.is_empty() {
            let rest = pages.split_off(pages.len().min(BLOCK_BYTES));
            let packed = encoder.encode(CodecChoice::Zstd(3), &pages, &mut scratch)?;
            packed_bytes += packed.payload.len() as u64;
            pages = rest;
        }
        if is_end {
            return Ok(packed_bytes);
        }
    }
}

const PAGE_BYTES: usize = 4096;
const BLOCK_BYTES: usize = 1 << 20;
const SAVE_TIMEOUT: Duration = Duration::from_secs(120);
