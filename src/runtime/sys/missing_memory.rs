//! Memory of this process in which pages are missing, for a guest that runs before it has them all.
//!
//! Order is what keeps a page from being invented. The range is registered first, so that from then on
//! the kernel fills in nothing by itself, huge pages included; only then stale pages are discarded. It is
//! unregistered when nothing is missing any more. Should pages be missing for ever, the descriptor stays
//! open for as long as the process lives: to close it would let the kernel fill them with zeros.
//!
//! Kinds of memory:
//!
//! * Anonymous memory, private: discarded by `MADV_DONTNEED`.
//! * Shared memory (memfd, tmpfs, shared anonymous): discarded by `MADV_REMOVE`, for all who map it. A
//!   fault shows in this process's mapping alone: another process that maps it (vhost-user) would read
//!   zeros, and must not.
//! * Private mappings of files, and hugetlbfs: refused.

use super::MappedMemory;
use super::dirty_tracking::{aligned_range, host_page_bytes};
use super::event_fd::EventFd;
use super::readiness::wait_readable_either;
use super::tracking_support::TrackingError;
use super::userfaultfd::{FEATURE_MISSING_SHARED, Faults, PLACING, Userfaultfd};
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Why pages of this memory cannot be missing.
#[derive(Debug, thiserror::Error)]
pub enum MissingError {
    /// A filter or policy stands in the way, or the kernel has no userfaultfd.
    #[error(
        "post-copy needs a userfaultfd for faults of the kernel too (system call: {call}; \
         /dev/userfaultfd: {device}): give CAP_SYS_PTRACE, or access to /dev/userfaultfd, or set \
         vm.unprivileged_userfaultfd to 1"
    )]
    Permission {
        /// What the system call answered.
        call: io::Error,
        /// What the device answered.
        device: io::Error,
    },
    /// The guest's pages are smaller than the host's.
    #[error("page size {page_bytes} is no multiple of the host's, {host_bytes}")]
    PageSize {
        /// The guest's.
        page_bytes: usize,
        /// The host's.
        host_bytes: usize,
    },
    /// A region's memory is of a kind in which no page can be missing.
    #[error("region {name:?} at {start:#x}..{end:#x} is {kind}")]
    Kind {
        /// The region.
        name: String,
        /// Where the memory of this kind starts.
        start: usize,
        /// Where it ends.
        end: usize,
        /// What it is.
        kind: &'static str,
    },
    /// A region's border is no page border.
    #[error(transparent)]
    Alignment(#[from] TrackingError),
    /// The kernel refused one region.
    #[error("region {name:?} at {start:#x}..{end:#x}: {call}: {source}{hint}")]
    Region {
        /// The region.
        name: String,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
        /// Which call.
        call: &'static str,
        /// Why.
        source: io::Error,
        /// What that usually means.
        hint: &'static str,
    },
    /// Any other answer.
    #[error("{call}: {source}")]
    System {
        /// Which call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// How a stretch of memory is made to have no pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Anonymous,
    Shared,
}

/// All regions of one guest; see the module's text.
#[derive(Debug)]
pub struct MissingMemory {
    memory: Arc<MappedMemory>,
    userfaultfd: ManuallyDrop<Userfaultfd>,
    ranges: Vec<Range<usize>>,
    kinds: Vec<(Range<usize>, Kind)>,
    woken: EventFd,
    /// Written while the ranges are let go, so that no page is being placed then.
    released: RwLock<bool>,
    abandoned: AtomicBool,
}

impl MissingMemory {
    /// Takes the memory over. Nothing is missing yet.
    ///
    /// # Errors
    /// [`MissingError`]; the memory is then as before.
    pub fn begin(memory: Arc<MappedMemory>) -> Result<Self, MissingError> {
        let (page_bytes, host_bytes) = (memory.layout().page_bytes() as usize, host_page_bytes());
        if !page_bytes.is_multiple_of(host_bytes) {
            return Err(MissingError::PageSize { page_bytes, host_bytes });
        }
        let regions = memory.layout().regions().len();
        let ranges = (0..regions)
            .map(|region| aligned_range(&memory, region))
            .collect::<Result<Vec<_>, _>>()?;
        let kinds = kinds_of(&memory, &ranges)?;
        let userfaultfd = ManuallyDrop::new(open(&kinds)?);
        let woken =
            EventFd::new().map_err(|source| MissingError::System { call: "eventfd", source })?;
        let (released, abandoned) = (RwLock::new(false), AtomicBool::new(false));
        let missing = Self { memory, userfaultfd, ranges, kinds, woken, released, abandoned };
        missing.register()?;
        Ok(missing)
    }

    /// Whether pages could be missing: takes the memory over, discards one page of each region, and
    /// lets go again. To be called while what is in memory does not matter.
    ///
    /// # Errors
    /// As [`Self::begin`] and [`Self::discard`].
    pub fn check(memory: Arc<MappedMemory>) -> Result<(), MissingError> {
        let missing = Self::begin(memory)?;
        let page_bytes = u64::from(missing.memory.layout().page_bytes());
        let regions = missing.ranges.len();
        let discarded = (0..regions).try_for_each(|region| missing.discard(region, 0, page_bytes));
        missing.release();
        discarded
    }

    /// The memory.
    pub fn memory(&self) -> &MappedMemory {
        &self.memory
    }

    /// Takes pages away: whoever touches one waits until it is placed.
    ///
    /// # Errors
    /// The kernel's, such as for locked memory.
    pub fn discard(&self, region: usize, offset: u64, length: u64) -> Result<(), MissingError> {
        let start = self.ranges[region].start + offset as usize;
        let wanted = start..start + length as usize;
        for (stretch, kind) in &self.kinds {
            let part = wanted.start.max(stretch.start)..wanted.end.min(stretch.end);
            if part.is_empty() {
                continue;
            }
            let (call, advice) = match kind {
                Kind::Anonymous => ("madvise(MADV_DONTNEED)", libc::MADV_DONTNEED),
                Kind::Shared => ("madvise(MADV_REMOVE)", libc::MADV_REMOVE),
            };
            let address = std::ptr::without_provenance_mut(part.start);
            // SAFETY: the range is the guest's memory, which nobody holds references into, and whose
            // contents are to be lost.
            if unsafe { libc::madvise(address, part.len(), advice) } != 0 {
                return Err(self.refused(region, call, io::Error::last_os_error()));
            }
        }
        Ok(())
    }

    /// Puts pages where they are missing; those that are there stay as they are.
    ///
    /// # Errors
    /// The kernel's.
    pub fn place(&self, region: usize, offset: u64, from: &[u8]) -> io::Result<()> {
        let start = self.ranges[region].start + offset as usize;
        self.fill(start..start + from.len(), |range| {
            let at = range.start - start;
            self.userfaultfd.copy(range.start, &from[at..at + range.len()])
        })
    }

    /// Puts pages of zeros where pages are missing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn place_zero(&self, region: usize, offset: u64, length: u64) -> io::Result<()> {
        let start = self.ranges[region].start + offset as usize;
        self.fill(start..start + length as usize, |range| self.userfaultfd.zero(range))
    }

    /// Waits for faults and appends the pages touched, numbered through all regions; a page may come
    /// several times.
    ///
    /// # Errors
    /// The descriptor's.
    pub fn wait_for_faults(
        &self,
        faults: &mut Vec<u64>,
        most: usize,
        timeout: Duration,
    ) -> io::Result<()> {
        wait_readable_either(&*self.userfaultfd, &self.woken, timeout);
        self.woken.clear();
        let mut addresses = Vec::new();
        self.userfaultfd.take_faults(most, &mut addresses)?;
        faults.extend(addresses.into_iter().filter_map(|address| self.page_at(address)));
        Ok(())
    }

    /// Ends a wait.
    pub fn wake(&self) {
        self.woken.signal();
    }

    /// Lets go of the memory: what is still missing reads as zero from now on.
    pub fn release(&self) {
        let mut released = self.released.write().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *released, true) {
            for range in &self.ranges {
                // Fails only where the hypervisor has unmapped the range.
                let _ = self.userfaultfd.unregister(range);
            }
        }
    }

    /// What is missing stays so for as long as this process lives.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    fn register(&self) -> Result<(), MissingError> {
        for (region, range) in self.ranges.iter().enumerate() {
            let allowed = self
                .userfaultfd
                .register_missing(range)
                .map_err(|source| self.refused(region, "UFFDIO_REGISTER", source))?;
            if allowed & PLACING != PLACING {
                let kind = "memory in huge pages of hugetlbfs, or of a kind that this kernel cannot \
                            place single pages in";
                let name = self.memory.layout().regions()[region].name.clone();
                let Range { start, end } = range.clone();
                return Err(MissingError::Kind { name, start, end, kind });
            }
        }
        Ok(())
    }

    /// Calls `put` until the whole range is there; it tells how far it came.
    fn fill(
        &self,
        mut range: Range<usize>,
        put: impl Fn(&Range<usize>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let released = self.released.read().unwrap_or_else(PoisonError::into_inner);
        while !range.is_empty() && !*released {
            let done = put(&range)?;
            range.start += done;
            if !range.is_empty() {
                // There already: whoever touched it before it came may not have seen it.
                let there = range.start..range.end.min(range.start + host_page_bytes());
                self.userfaultfd.wake(&there)?;
                range.start = there.end;
            }
        }
        Ok(())
    }

    fn page_at(&self, address: usize) -> Option<u64> {
        let region = self.ranges.iter().position(|range| range.contains(&address))?;
        let layout = self.memory.layout();
        let offset = (address - self.ranges[region].start) as u64;
        Some(layout.pages_of(region).start + offset / u64::from(layout.page_bytes()))
    }

    fn refused(&self, region: usize, call: &'static str, source: io::Error) -> MissingError {
        let name = self.memory.layout().regions()[region].name.clone();
        let Range { start, end } = self.ranges[region].clone();
        let hint = match source.raw_os_error() {
            Some(libc::EBUSY) => " (another userfaultfd already watches it)",
            Some(libc::EINVAL) => " (not all mapped, locked, or of a kind that cannot be watched)",
            Some(libc::EPERM | libc::EACCES) => " (mapped read-only, or sealed)",
            _ => "",
        };
        MissingError::Region { name, start, end, call, source, hint }
    }
}

impl Drop for MissingMemory {
    fn drop(&mut self) {
        if self.abandoned.load(Ordering::Acquire) {
            return;
        }
        // SAFETY: dropped once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.userfaultfd) };
    }
}

fn open(kinds: &[(Range<usize>, Kind)]) -> Result<Userfaultfd, MissingError> {
    let opened = Userfaultfd::open(Faults::OfAll).or_else(|call| {
        let refused = |device| MissingError::Permission { call, device };
        Userfaultfd::open_device(Faults::OfAll).map_err(refused)
    })?;
    let is_shared = kinds.iter().any(|(_, kind)| *kind == Kind::Shared);
    let features = if is_shared { FEATURE_MISSING_SHARED } else { 0 };
    let call = "UFFDIO_API";
    opened.enable(features).map_err(|source| MissingError::System { call, source })?;
    Ok(opened)
}

/// What kinds of memory the regions are, stretch by stretch.
fn kinds_of(
    memory: &MappedMemory,
    ranges: &[Range<usize>],
) -> Result<Vec<(Range<usize>, Kind)>, MissingError> {
    let call = "reading /proc/self/maps";
    let maps = std::fs::read_to_string("/proc/self/maps")
        .map_err(|source| MissingError::System { call, source })?;
    let stretches: Vec<_> = maps.lines().filter_map(mapping).collect();
    let mut kinds = Vec::new();
    for (region, range) in memory.layout().regions().iter().zip(ranges) {
        for (stretch, kind) in &stretches {
            let (start, end) = (range.start.max(stretch.start), range.end.min(stretch.end));
            if start >= end {
                continue;
            }
            match kind {
                Ok(kind) => kinds.push((start..end, *kind)),
                Err(kind) => {
                    let name = region.name.clone();
                    return Err(MissingError::Kind { name, start, end, kind });
                }
            }
        }
    }
    Ok(kinds)
}

/// One line of the maps: `start-end permissions offset device inode path`.
fn mapping(line: &str) -> Option<(Range<usize>, Result<Kind, &'static str>)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (permissions, inode) = (fields.next()?, fields.nth(2)?);
    let kind = match (permissions.ends_with('s'), inode == "0") {
        (true, _) => Ok(Kind::Shared),
        (false, true) => Ok(Kind::Anonymous),
        (false, false) => Err("a private mapping of a file, whose pages would come from the file"),
    };
    Some((address(start)?..address(end)?, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let line = |rest: &str| mapping(&format!("7f00-7f80 {rest}")).unwrap();
        let (range, kind) = line("rw-p 00000000 00:00 0 ");
        assert_eq!((range, kind), (0x7f00..0x7f80, Ok(Kind::Anonymous)));
        assert_eq!(line("rw-s 00000000 00:01 2054 /memfd:ram (deleted)").1, Ok(Kind::Shared));
        assert!(line("rw-p 00000000 fe:00 77 /var/ram").1.unwrap_err().contains("private"));
        assert_eq!(mapping("nonsense"), None);
    }
}
