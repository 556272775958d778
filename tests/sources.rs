//! The sources and sinks of this library under the conformance suites, and what only kernel-tracked
//! memory can get wrong.

mod conformance;
#[path = "support/copying.rs"]
mod copying;

use conformance::sources::{Rig, fetch};
use conformance::{PAGE, layout, sinks, sources};
use copying::Copying;
use dwcp::migration::guest::Ending;
use dwcp::migration::{GuestError, GuestSource};
use dwcp::runtime::mapped_guest::{DirtyLog, MappedSink, MappedSource, SinkControl, SourceControl};
use dwcp::runtime::process_memory::process_memory_source;
use dwcp::runtime::sys::{Allocation, MappedMemory};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const HUGE: u64 = 2 << 20;
const HUGE_PAGES: u64 = HUGE / PAGE;

struct Inert;

impl SourceControl for Inert {
    fn pause(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        Ok(Vec::new())
    }

    fn finish(&self, _ending: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

impl SinkControl for Inert {
    fn load_device_state(&self, _state: &[u8]) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn finish(&self, _ending: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

/// A log that the guest itself keeps, as an emulator would.
struct SoftwareLog(Vec<Vec<AtomicU64>>);

impl SoftwareLog {
    fn mark(&self, region: usize, offset: u64, length: usize) {
        for page in offset / PAGE..=(offset + length as u64 - 1) / PAGE {
            self.0[region][(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
    }
}

struct SharedLog(Arc<SoftwareLog>);

impl DirtyLog for SharedLog {
    fn start(&self) -> Result<(), GuestError> {
        self.0.0.iter().flatten().for_each(|word| word.store(0, Ordering::SeqCst));
        Ok(())
    }

    fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        for (word, bits) in log.iter_mut().zip(&self.0.0[region]) {
            *word = bits.swap(0, Ordering::SeqCst);
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), GuestError> {
        Ok(())
    }
}

#[test]
fn a_software_log_conforms() {
    let memory = Arc::new(MappedMemory::allocate(layout(&[130, 64]), how(false)).unwrap());
    let words = |pages: u64| (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    let log = Arc::new(SoftwareLog(vec![words(130), words(64)]));
    let shared = Box::new(SharedLog(log.clone()));
    let source = MappedSource::new(memory.clone(), shared, Box::new(Inert));
    let guest = |region, offset, bytes: &[u8]| {
        memory.write(region, offset, bytes).unwrap();
        log.mark(region, offset, bytes.len());
    };
    sources::suite(&Rig { source: &source, guest: &guest, granule_pages: 1 });
}

#[test]
#[should_panic = "round 2"]
fn the_suite_notices_one_lost_page() {
    let memory = Arc::new(MappedMemory::allocate(layout(&[64]), how(false)).unwrap());
    let log = Arc::new(SoftwareLog(vec![vec![AtomicU64::new(0)]]));
    let shared = Box::new(SharedLog(log.clone()));
    let source = MappedSource::new(memory.clone(), shared, Box::new(Inert));
    let writes = AtomicU64::new(0);
    let guest = |region, offset, bytes: &[u8]| {
        memory.write(region, offset, bytes).unwrap();
        // The log misses a single write of the third round.
        if offset < PAGE && bytes[0] == 3 && writes.fetch_add(1, Ordering::SeqCst) < 2 {
            return;
        }
        log.mark(region, offset, bytes.len());
    };
    sources::suite(&Rig { source: &source, guest: &guest, granule_pages: 1 });
}

#[test]
fn small_pages_of_this_process_conform() {
    conforms(allocated(&[1000, 64, 3], how(false)), 1);
}

#[test]
fn transparent_huge_pages_conform_to_the_small_page() {
    let populated = Allocation { huge_pages: true, prefault: true };
    conforms(allocated(&[4 * HUGE_PAGES], populated), 1);
    conforms(allocated(&[4 * HUGE_PAGES], how(true)), 1);
}

#[test]
fn shared_memory_conforms() {
    let mapping = Mapping::memfd(300 * PAGE, 0).unwrap();
    conforms(mapping.memory(), 1);
}

#[test]
fn hugetlb_pages_conform_in_whole_pages() {
    match Mapping::memfd(2 * HUGE, libc::MFD_HUGETLB) {
        Ok(mapping) => conforms(mapping.memory(), HUGE_PAGES),
        Err(error) => eprintln!("skipped: this host has no huge pages reserved: {error}"),
    }
}

#[test]
fn mapped_sinks_conform() {
    for huge in [false, true] {
        let memory = Arc::new(MappedMemory::allocate(layout(&[300, 64]), how(huge)).unwrap());
        sinks::suite(&MappedSink::new(memory, Box::new(Inert)));
    }
}

#[test]
fn a_sink_without_mapped_memory_conforms() {
    let memory = Arc::new(MappedMemory::allocate(layout(&[300, 64]), how(false)).unwrap());
    sinks::suite(&Copying(Arc::new(MappedSink::new(memory, Box::new(Inert)))));
}

#[test]
fn writes_by_the_kernel_for_us_show() {
    let memory = allocated(&[64], how(false));
    let source = process_memory_source(memory.clone(), Box::new(Inert));
    source.start_dirty_log().unwrap();
    // read(2) stores straight into the pages.
    let mut file = std::fs::File::open("/dev/zero").unwrap();
    memory.receive(0, 5 * PAGE, 3 * PAGE, &mut file, &mut |_| ()).unwrap();
    assert_eq!(fetch(&source, 0), BTreeSet::from([5, 6, 7]));
}

#[test]
fn tracking_needs_no_privilege() {
    // SAFETY: the call has no arguments.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: without root, the other tests show it");
    }
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["--exact", "writes_by_the_kernel_for_us_show"]);
    let output = command.uid(65_534).gid(65_534).env_clear().output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn discarded_memory_shows_once() {
    for huge_pages in [false, true] {
        let how = Allocation { huge_pages, prefault: true };
        let memory = allocated(&[4 * HUGE_PAGES], how);
        let source = process_memory_source(memory.clone(), Box::new(Inert));
        source.start_dirty_log().unwrap();
        // A range that covers at least one whole page table, which the kernel may free.
        discard(&memory, PAGE, 3 * HUGE);
        let expected = (1..1 + 3 * HUGE_PAGES).collect();
        assert!(fetch(&source, 0) == expected, "huge pages: {huge_pages}");
        assert_eq!(fetch(&source, 0), BTreeSet::new());
        memory.write(0, HUGE, &[1]).unwrap();
        assert_eq!(fetch(&source, 0), BTreeSet::from([HUGE_PAGES]));
    }
}

#[test]
fn only_one_tracker_can_watch_a_region() {
    let memory = allocated(&[64], how(false));
    let first = process_memory_source(memory.clone(), Box::new(Inert));
    let second = process_memory_source(memory.clone(), Box::new(Inert));
    first.start_dirty_log().unwrap();
    let error = second.start_dirty_log().unwrap_err().to_string();
    assert!(error.contains("\"ram0\"") && error.contains("another userfaultfd"), "{error}");
    first.finish(Ending::Keep).unwrap();
    second.start_dirty_log().unwrap();
    second.start_dirty_log().unwrap();
    assert!(first.fetch_dirty(0, &mut [0]).unwrap_err().to_string().contains("not started"));
}

#[test]
fn memory_mapped_anew_is_an_error_and_not_a_clean_log() {
    let mapping = Mapping::memfd(64 * PAGE, 0).unwrap();
    let source = process_memory_source(mapping.memory(), Box::new(Inert));
    source.start_dirty_log().unwrap();
    let start = mapping.start.wrapping_add(8 * PAGE as usize).cast();
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: replaces a part of the test's own mapping.
    let anew = unsafe { libc::mmap(start, PAGE as usize, libc::PROT_READ, flags, -1, 0) };
    assert_eq!(anew, start);
    let error = source.fetch_dirty(0, &mut [0]).unwrap_err().to_string();
    assert!(error.contains("PAGEMAP_SCAN") && error.contains("mapped anew"), "{error}");
    source.finish(Ending::Keep).unwrap();
}

#[test]
fn memory_that_cannot_be_tracked_is_named() {
    let mapping = Mapping::memfd(64 * PAGE, 0).unwrap();
    let crooked = mapping.at(1, 2 * PAGE);
    let error = start(crooked).unwrap_err();
    assert!(error.contains("\"ram0\"") && error.contains("not aligned"), "{error}");

    // Nothing is ever mapped so low unless asked for.
    let unmapped = std::ptr::without_provenance_mut(0x1000_0000);
    // SAFETY: the memory is never read or written; this address range is not even mapped.
    let memory = unsafe { MappedMemory::from_raw(layout(&[64]), &[unmapped]) }.unwrap();
    let error = start(Arc::new(memory)).unwrap_err();
    assert!(error.contains("UFFDIO_REGISTER") && error.contains("not all mapped"), "{error}");
}

fn how(huge_pages: bool) -> Allocation {
    Allocation { huge_pages, prefault: false }
}

fn allocated(pages: &[u64], how: Allocation) -> Arc<MappedMemory> {
    Arc::new(MappedMemory::allocate(layout(pages), how).unwrap())
}

fn conforms(memory: Arc<MappedMemory>, granule_pages: u64) {
    let source = process_memory_source(memory.clone(), Box::new(Inert));
    let guest = |region, offset, bytes: &[u8]| memory.write(region, offset, bytes).unwrap();
    sources::suite(&Rig { source: &source, guest: &guest, granule_pages });
}

fn start(memory: Arc<MappedMemory>) -> Result<(), String> {
    let source = process_memory_source(memory, Box::new(Inert));
    source.start_dirty_log().map_err(|error| error.to_string())
}

fn discard(memory: &MappedMemory, offset: u64, length: u64) {
    let start = memory.address(0).unwrap().wrapping_add(offset as usize);
    // SAFETY: the range is the test's own anonymous memory, which reads as zero afterwards.
    assert_eq!(unsafe { libc::madvise(start.cast(), length as usize, libc::MADV_DONTNEED) }, 0);
}

/// Shared memory, mapped until dropped.
struct Mapping {
    start: *mut u8,
    length: u64,
}

impl Mapping {
    fn memfd(length: u64, flags: libc::c_uint) -> std::io::Result<Self> {
        let (bytes, protection) = (length as usize, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new file mapped at an address of the kernel's choice.
        unsafe {
            let fd = libc::memfd_create(c"dwcp-test".as_ptr(), flags);
            assert!(fd >= 0 && libc::ftruncate(fd, length as i64) == 0);
            let start =
                libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0);
            let error = std::io::Error::last_os_error();
            libc::close(fd);
            if start == libc::MAP_FAILED {
                return Err(error);
            }
            Ok(Self { start: start.cast(), length })
        }
    }

    fn memory(&self) -> Arc<MappedMemory> {
        self.at(0, self.length)
    }

    fn at(&self, offset: usize, length: u64) -> Arc<MappedMemory> {
        let start = self.start.wrapping_add(offset);
        // SAFETY: the tests keep the mapping until they are done with the memory.
        let memory = unsafe { MappedMemory::from_raw(layout(&[length / PAGE]), &[start]) };
        Arc::new(memory.unwrap())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the test's own mapping, no longer used.
        unsafe { libc::munmap(self.start.cast(), self.length as usize) };
    }
}
