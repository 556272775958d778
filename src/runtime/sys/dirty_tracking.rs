//! A dirty log for memory of this process, kept by the kernel: userfaultfd write protection plus
//! `PAGEMAP_SCAN`. For hypervisors that have no log of their own.
//!
//! What the kernel does with each kind of memory:
//!
//! * Anonymous memory, populated or not, swapped or not: exact to the host's page.
//! * Transparent huge pages: protected as a whole without being split; the first write splits the
//!   one that it hits and marks just the written small page. The guest loses huge pages at the rate
//!   at which it writes, as with KVM's own log; khugepaged puts them back after the migration.
//! * Shared memory (memfd, tmpfs): exact, as seen through this process's mapping: writes by
//!   another process (vhost-user back ends) do not show and need that process's own log.
//! * hugetlbfs: whole huge pages, for they cannot be split; a write dirties all its small pages.
//! * Discarded memory (`MADV_DONTNEED`, a balloon) counts as written.

use super::MappedMemory;
use super::pagemap::Pagemap;
use super::tracking_support::{REQUIRED_FEATURES, Support, TrackingError, probe};
use super::userfaultfd::{Faults, Userfaultfd};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Tracks every region of one guest until dropped.
#[derive(Debug)]
pub struct DirtyTracker {
    userfaultfd: Userfaultfd,
    pagemap: Pagemap,
    memory: Arc<MappedMemory>,
    ranges: Vec<Range<usize>>,
}

impl DirtyTracker {
    /// Begins to track: every write from now on shows in some later [`Self::fetch`].
    ///
    /// # Errors
    /// [`TrackingError`]; nothing is tracked then.
    pub fn start(memory: Arc<MappedMemory>) -> Result<Self, TrackingError> {
        let userfaultfd = match probe()? {
            Support::Call => Userfaultfd::open(Faults::OfUserMode),
            Support::Device => Userfaultfd::open_device(Faults::OfUserMode),
        };
        let userfaultfd =
            userfaultfd.map_err(|source| TrackingError::System { call: "userfaultfd", source })?;
        let wanted = REQUIRED_FEATURES.iter().fold(0, |all, (bit, _)| all | bit);
        userfaultfd
            .enable(wanted)
            .map_err(|source| TrackingError::System { call: "UFFDIO_API", source })?;
        let pagemap = Pagemap::open().map_err(TrackingError::Pagemap)?;
        let ranges = (0..memory.layout().regions().len())
            .map(|region| aligned_range(&memory, region))
            .collect::<Result<_, _>>()?;
        let mut tracker = Self { userfaultfd, pagemap, memory, ranges: Vec::new() };
        tracker.protect(ranges)?;
        Ok(tracker)
    }

    /// Adds the pages written since the last call to `log`, one bit a page, and begins anew.
    ///
    /// # Errors
    /// The kernel's refusal: part of the region was unmapped or mapped anew.
    pub fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), TrackingError> {
        let Some(range) = self.ranges.get(region) else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(TrackingError::System { call: "region of the dirty log", source });
        };
        let page_bytes = self.memory.layout().page_bytes() as usize;
        let mut mark = |run: Range<usize>| {
            let (from, to) = (run.start - range.start, run.end - range.start);
            set_bits(log, from / page_bytes..to.div_ceil(page_bytes));
        };
        self.pagemap
            .take_written(range.clone(), &mut mark)
            .map_err(|source| self.error(region, range, "PAGEMAP_SCAN", source))
    }

    fn protect(&mut self, ranges: Vec<Range<usize>>) -> Result<(), TrackingError> {
        for (region, range) in ranges.into_iter().enumerate() {
            self.userfaultfd
                .register(&range)
                .map_err(|source| self.error(region, &range, "UFFDIO_REGISTER", source))?;
            self.ranges.push(range.clone());
            self.userfaultfd
                .write_protect(&range)
                .map_err(|source| self.error(region, &range, "UFFDIO_WRITEPROTECT", source))?;
        }
        Ok(())
    }

    fn error(
        &self,
        region: usize,
        range: &Range<usize>,
        call: &'static str,
        source: io::Error,
    ) -> TrackingError {
        let name = self.memory.layout().regions()[region].name.clone();
        let hint = match source.raw_os_error() {
            Some(libc::EBUSY) => " (another userfaultfd already watches it)",
            Some(libc::EINVAL) => " (not all mapped, or huge pages not aligned to their size)",
            Some(libc::EPERM) => " (mapped read-only, or mapped anew since tracking began)",
            _ => "",
        };
        TrackingError::Region { name, start: range.start, end: range.end, call, source, hint }
    }
}

impl Drop for DirtyTracker {
    fn drop(&mut self) {
        for range in &self.ranges {
            // Fails only where the hypervisor has unmapped the range; closing ends the rest.
            let _ = self.userfaultfd.unregister(range);
        }
    }
}

/// Where a region is mapped.
///
/// # Errors
/// It does not start and end at page borders.
pub(super) fn aligned_range(
    memory: &MappedMemory,
    region: usize,
) -> Result<Range<usize>, TrackingError> {
    let declared = &memory.layout().regions()[region];
    let start = memory.address(region).map_or(0, |start| start.addr());
    let end = start + declared.length_bytes as usize;
    let page_bytes = host_page_bytes();
    if !start.is_multiple_of(page_bytes) || !end.is_multiple_of(page_bytes) {
        let name = declared.name.clone();
        return Err(TrackingError::Alignment { name, start, end, page_bytes });
    }
    Ok(start..end)
}

/// Sets the bits of a range of pages; those past the log's end are dropped.
fn set_bits(log: &mut [u64], pages: Range<usize>) {
    let end = pages.end.min(log.len() * 64);
    let mut page = pages.start;
    while page < end {
        let (word, bit) = (page / 64, page % 64);
        let count = (64 - bit).min(end - page);
        log[word] |= (u64::MAX >> (64 - count)) << bit;
        page += count;
    }
}

pub(super) fn host_page_bytes() -> usize {
    // SAFETY: sysconf has no memory arguments.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_from_any_page_to_any_other() {
        for (from, to) in [(0, 0), (0, 1), (3, 64), (63, 65), (0, 128), (64, 192), (100, 500)] {
            let mut log = [0; 3];
            set_bits(&mut log, from..to);
            for page in 0..192 {
                let set = log[page / 64] >> (page % 64) & 1 == 1;
                assert_eq!(set, (from..to).contains(&page), "page {page} of {from}..{to}");
            }
        }
    }
}
