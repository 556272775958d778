//! The memory of a QEMU's guest, read piece by piece while it runs.
//!
//! QEMU writes pages into a file beside its QMP socket, which is the one place where both it and this
//! process may; the file is this user's and QEMU's alone, holds one piece at a time, and goes with
//! this value. Only addresses behind which QEMU says that there is memory are read: devices would
//! notice.

use crate::runtime::compression::sample::{Memory, PAGE_BYTES, SampleError};
use crate::runtime::qemu::Qmp;
use crate::runtime::qemu::guest::QemuGuest;
use crate::runtime::qemu::qmp::excerpt;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// A guest's memory as its processors see it.
pub struct QemuMemory {
    qmp: Qmp,
    file: File,
    path: PathBuf,
    /// Guest addresses, whole pages, ascending.
    ranges: Vec<Range<u64>>,
}

impl QemuMemory {
    /// Opens a conversation with the guest's QEMU; `name` tells the file from others'.
    ///
    /// # Errors
    /// QEMU does not answer, or the file cannot be made.
    pub fn open(guest: &QemuGuest, name: &str) -> Result<Self, SampleError> {
        let mut qmp = guest.connect()?;
        let line = json!({ "command-line": "info mtree -f" });
        let answer = qmp.execute("human-monitor-command", line)?;
        let map = answer.as_str().unwrap_or_default();
        let ranges = memory_ranges(map);
        if ranges.is_empty() {
            return Err(SampleError::NoMap(excerpt(map.as_bytes())));
        }
        let path = guest.qmp_path().with_file_name(format!("dwcp-sample-{name}"));
        let failed = |source| SampleError::Exchange { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let memory = Self { qmp, file: file.map_err(failed)?, path: path.clone(), ranges };
        guest.hand_over(&memory.path).map_err(failed)?;
        Ok(memory)
    }

    fn read_piece(&mut self, address: u64, into: &mut [u8]) -> Result<(), SampleError> {
        let filename = self.path.to_string_lossy();
        let arguments = json!({ "val": address, "size": into.len(), "filename": filename });
        match self.qmp.execute("pmemsave", arguments)? {
            Value::Null | Value::Object(_) => {}
            other => return Err(SampleError::NoMap(other.to_string())),
        }
        let read = self.file.read_exact_at(into, 0);
        read.map_err(|source| SampleError::Exchange { path: self.path.clone(), source })
    }
}

impl Drop for QemuMemory {
    fn drop(&mut self) {
        // It may have gone with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Memory for QemuMemory {
    fn page_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn page_count(&self) -> u64 {
        self.ranges.iter().map(|range| (range.end - range.start) / PAGE_BYTES as u64).sum()
    }

    fn read(&mut self, first_page: u64, into: &mut [u8]) -> Result<(), SampleError> {
        let (mut skip, mut rest) = (first_page * PAGE_BYTES as u64, into);
        for range in self.ranges.clone() {
            let length = range.end - range.start;
            if skip >= length {
                skip -= length;
                continue;
            }
            let piece = (length - skip).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut(piece);
            self.read_piece(range.start + skip, now)?;
            (skip, rest) = (0, later);
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// The memory in QEMU's answer to `info mtree -f`, of the view that the system has.
fn memory_ranges(map: &str) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut is_systems = false;
    for line in map.lines().map(str::trim) {
        if line.starts_with("FlatView") {
            if !ranges.is_empty() {
                break;
            }
            is_systems = false;
        }
        is_systems |= line.starts_with("AS \"memory\"");
        ranges.extend(
            line.contains(", ram):").then(|| range_of(line)).flatten().filter(|_| is_systems),
        );
    }
    ranges
}

/// Of a line such as `0000000000100000-0000000003ffffff (prio 0, ram): pc.ram`.
fn range_of(line: &str) -> Option<Range<u64>> {
    let (first, last) = line.split_once(' ')?.0.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let page = PAGE_BYTES as u64;
    let (start, end) = (address(first)?.next_multiple_of(page), address(last)?.checked_add(1)?);
    let end = end / page * page;
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 7.2 prints it, shortened.
    const MAP: &str = "FlatView #0\r
 AS \"cpu-smm-0\", root: memory\r
  0000000000000000-00000000000fffff (prio 0, ram): pc.ram\r
\r
FlatView #1\r
 AS \"memory\", root: system\r
 Root memory region: system\r
  0000000000000000-00000000000c2fff (prio 0, ram): pc.ram\r
  00000000000c3000-00000000000e7fff (prio 0, rom): pc.ram @00000000000c3000\r
  0000000000100000-0000000003ffffff (prio 0, ram): pc.ram @0000000000100000\r
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic\r
  00000000fed00000-00000000fed003ff (prio 0, ram): too small\r
\r
FlatView #2\r
  0000000004000000-0000000005ffffff (prio 0, ram): another\r
";

    #[test]
    fn only_the_systems_memory_is_read() {
        assert_eq!(memory_ranges(MAP), [0..0xc_3000, 0x10_0000..0x400_0000]);
        assert_eq!(memory_ranges(""), []);
        assert_eq!(
            memory_ranges("AS \"memory\"\n zz-yy (prio 0, ram): x\n 1 (prio 0, ram): y"),
            []
        );
    }
}
