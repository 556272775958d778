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
    /// A region's border is no page border, or the kernel's answer.
    #[error(transparent)]
    Kernel(#[from] TrackingError),
}

/// Whether this process may see faults of the kernel too, whatever its memory is.
///
/// # Errors
/// Why it may not.
pub fn probe() -> Result<(), MissingError> {
    open(&[]).map(drop)
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
            EventFd::new().map_err(|source| TrackingError::System { call: "eventfd", source })?;
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
                return Err(self.refused(region, call, io::Error::last_os_error()).into());
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

    fn refused(&self, region: usize, call: &'static str, source: io::Error) -> TrackingError {
        let name = self.memory.layout().regions()[region].name.clone();
        let Range { start, end } = self.ranges[region].clone();
        let hint = match source.raw_os_error() {
            Some(libc::EBUSY) => " (another userfaultfd already watches it)",
            Some(libc::EINVAL) => " (not all mapped, locked, or of a kind that cannot be watched)",
            Some(libc::EPERM | libc::EACCES) => " (mapped read-only, or sealed)",
            _ => "",
        };
        TrackingError::Region { name, start, end, call, source, hint }
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
    opened.enable(features).map_err(|source| TrackingError::System { call, source })?;
    Ok(opened)
}

/// What kinds of memory the regions are, stretch by stretch.
fn kinds_of(
    memory: &MappedMemory,
    ranges: &[Range<usize>],
) -> Result<Vec<(Range<usize>, Kind)>, MissingError> {
    let call = "reading /proc/self/maps";
    let maps = std::fs::read_to_string("/proc/self/maps")
        .map_err(|source| TrackingError::System { call, source })?;
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
    use crate::base::{MemoryLayout, RegionLayout};
    use crate::runtime::sys::Allocation;
    use std::io::{Read, Write};
    use std::os::fd::FromRawFd;

    const PAGE: u64 = 4096;
    const LONG: Duration = Duration::from_secs(60);

    /// Without the right to see faults there is nothing to be tested.
    fn may_not() -> bool {
        probe().inspect_err(|error| eprintln!("skipped: {error}")).is_err()
    }

    fn layout(pages: u64) -> MemoryLayout {
        let length_bytes = pages * PAGE;
        let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes };
        MemoryLayout::new(PAGE as u32, vec![region]).unwrap()
    }

    fn anonymous(pages: u64, huge_pages: bool) -> Arc<MappedMemory> {
        let how = Allocation { huge_pages, prefault: true };
        let memory = MappedMemory::allocate(layout(pages), how).unwrap();
        (0..pages).for_each(|page| memory.write(0, page * PAGE, &[0xee; 8]).unwrap());
        Arc::new(memory)
    }

    /// A mapping of a new file in memory, for as long as the process lives.
    fn mapped(
        pages: u64,
        flags: libc::c_int,
        file_flags: libc::c_uint,
    ) -> Option<Arc<MappedMemory>> {
        let (length, protection) = ((pages * PAGE) as usize, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new file mapped at an address of the kernel's choice, and never unmapped.
        let start = unsafe {
            let fd = libc::memfd_create(c"dwcp-test".as_ptr(), file_flags);
            assert!(fd >= 0 && libc::ftruncate(fd, length as i64) == 0);
            let start = libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, 0);
            libc::close(fd);
            start
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the mapping stays.
        Some(Arc::new(unsafe { MappedMemory::from_raw(layout(pages), &[start.cast()]) }.unwrap()))
    }

    fn read(memory: &MappedMemory, page: u64) -> u8 {
        let mut byte = [0];
        memory.read(0, page * PAGE, &mut byte).unwrap();
        byte[0]
    }

    fn wait_for(missing: &MissingMemory) -> Vec<u64> {
        let mut faults = Vec::new();
        while faults.is_empty() {
            missing.wait_for_faults(&mut faults, 32, LONG).unwrap();
        }
        faults
    }

    /// Pages 1, 3 and 5 are taken away; whoever touches one waits for what is placed, and never sees
    /// what was there, nor zeros.
    fn serves_what_is_touched(memory: Arc<MappedMemory>) {
        let missing = MissingMemory::begin(memory.clone()).unwrap();
        [1, 3, 5].into_iter().for_each(|page| missing.discard(0, page * PAGE, PAGE).unwrap());
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(&memory, 3));
            assert_eq!(wait_for(&missing), [3]);
            assert!(!reader.is_finished());
            missing.place(0, 3 * PAGE, &[7; PAGE as usize]).unwrap();
            assert_eq!(reader.join().unwrap(), 7);
            // A guest that writes to a page that is missing keeps the rest of it.
            let writer = scope.spawn(|| memory.write(0, PAGE + 1, &[9]).unwrap());
            assert_eq!(wait_for(&missing), [1]);
            missing.place(0, PAGE, &[8; PAGE as usize]).unwrap();
            writer.join().unwrap();
            let mut bytes = [0; 3];
            memory.read(0, PAGE, &mut bytes).unwrap();
            assert_eq!(bytes, [8, 9, 8]);
        });
        // What is there stays, whatever comes late; what is missing around it is filled.
        missing.place(0, 0, &[6; 7 * PAGE as usize]).unwrap();
        let found: Vec<u8> = (0..7).map(|page| read(&memory, page)).collect();
        assert_eq!(found, [0xee, 8, 0xee, 7, 0xee, 6, 0xee]);
        missing.release();
        missing.place(0, 0, &[5; PAGE as usize]).unwrap();
        assert_eq!(read(&memory, 0), 0xee, "placed after the end");
    }

    #[test]
    fn anonymous_memory_lacks_pages_until_they_are_placed() {
        if may_not() {
            return;
        }
        serves_what_is_touched(anonymous(16, false));
        // Huge pages of both kinds, present before.
        serves_what_is_touched(anonymous(1024, true));
    }

    #[test]
    fn shared_memory_lacks_pages_until_they_are_placed() {
        if may_not() {
            return;
        }
        let memory = mapped(16, libc::MAP_SHARED, 0).unwrap();
        (0..16).for_each(|page| memory.write(0, page * PAGE, &[0xee; 8]).unwrap());
        serves_what_is_touched(memory);
    }

    #[test]
    fn the_kernel_waits_too_when_it_touches_a_page_for_somebody() {
        if may_not() {
            return;
        }
        let memory = anonymous(4, false);
        let missing = MissingMemory::begin(memory.clone()).unwrap();
        missing.discard(0, 0, PAGE).unwrap();
        let mut fds = [0; 2];
        // SAFETY: two descriptors fit, and each is owned once.
        let (mut from, mut to) = unsafe {
            assert_eq!(libc::pipe(fds.as_mut_ptr()), 0);
            (std::fs::File::from_raw_fd(fds[0]), std::fs::File::from_raw_fd(fds[1]))
        };
        std::thread::scope(|scope| {
            let memory = &memory;
            scope.spawn(move || {
                // SAFETY: the page belongs to the test; nobody writes it but the placement.
                let page = unsafe { std::slice::from_raw_parts(memory.address(0).unwrap(), 8) };
                to.write_all(page).unwrap();
            });
            assert_eq!(wait_for(&missing), [0]);
            missing.place(0, 0, &[4; PAGE as usize]).unwrap();
        });
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [4; 8]);
    }

    #[test]
    fn zero_pages_are_placed_and_a_wait_can_be_ended() {
        if may_not() {
            return;
        }
        let memory = anonymous(8, false);
        let missing = MissingMemory::begin(memory.clone()).unwrap();
        missing.discard(0, 0, 4 * PAGE).unwrap();
        missing.wake();
        let mut faults = Vec::new();
        missing.wait_for_faults(&mut faults, 32, LONG).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        missing.place_zero(0, 0, 8 * PAGE).unwrap();
        let found: Vec<u8> = (0..8).map(|page| read(&memory, page)).collect();
        assert_eq!(found, [0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]);
    }

    #[test]
    fn who_waits_for_a_page_that_is_lost_waits_for_ever() {
        if may_not() {
            return;
        }
        let memory = anonymous(4, false);
        let missing = MissingMemory::begin(memory.clone()).unwrap();
        missing.discard(0, 0, PAGE).unwrap();
        // Left behind when the test ends, with the memory that it holds.
        let lost = std::thread::spawn(move || read(&memory, 0));
        assert_eq!(wait_for(&missing), [0]);
        missing.abandon();
        drop(missing);
        std::thread::sleep(Duration::from_millis(200));
        assert!(!lost.is_finished(), "a page was invented");
    }

    #[test]
    fn memory_in_which_pages_cannot_be_missing_is_refused_with_its_kind() {
        if may_not() {
            return;
        }
        let private = mapped(4, libc::MAP_PRIVATE, 0).unwrap();
        let error = MissingMemory::check(private).unwrap_err().to_string();
        assert!(error.contains("\"ram\"") && error.contains("a private mapping"), "{error}");
        match mapped(512, libc::MAP_SHARED, libc::MFD_HUGETLB) {
            Some(huge) => {
                let error = MissingMemory::check(huge).unwrap_err().to_string();
                assert!(error.contains("hugetlbfs"), "{error}");
            }
            None => eprintln!("skipped: this host has no huge pages reserved"),
        }
        let locked = anonymous(4, false);
        let address = locked.address(0).unwrap().cast();
        // SAFETY: the test's own memory.
        assert_eq!(unsafe { libc::mlock(address, 4 * PAGE as usize) }, 0);
        let error = MissingMemory::check(locked).unwrap_err().to_string();
        assert!(error.contains("MADV_DONTNEED") && error.contains("locked"), "{error}");
        let watched = anonymous(4, false);
        let _first = MissingMemory::begin(watched.clone()).unwrap();
        let error = MissingMemory::begin(watched).unwrap_err().to_string();
        assert!(error.contains("another userfaultfd"), "{error}");
        let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: 4096 };
        let small = MemoryLayout::new(1024, vec![region]).unwrap();
        let small = MappedMemory::allocate(small, Allocation::default()).unwrap();
        let error = MissingMemory::check(Arc::new(small)).unwrap_err().to_string();
        assert!(error.contains("page size 1024 is no multiple"), "{error}");
    }

    #[test]
    fn a_check_leaves_memory_usable() {
        if may_not() {
            return;
        }
        let memory = anonymous(4, false);
        MissingMemory::check(memory.clone()).unwrap();
        MissingMemory::check(memory.clone()).unwrap();
        assert_eq!((read(&memory, 0), read(&memory, 1)), (0, 0xee));
    }

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
