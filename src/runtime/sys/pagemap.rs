//! `PAGEMAP_SCAN`: asks the page tables which pages were written, and protects them again in the
//! same step, so that no write falls between question and answer. Linux 6.7.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

const IOCTL_SCAN: libc::c_ulong = 0xc060_6610;
const PROTECT_MATCHING: u64 = 1;
const REQUIRE_ASYNC: u64 = 1 << 1;
const IS_WRITTEN: u64 = 1 << 1;
/// Runs of pages fetched by one call.
const BATCH: usize = 512;

/// The calling process's page tables.
#[derive(Debug)]
pub struct Pagemap(File);

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Run {
    start: u64,
    end: u64,
    categories: u64,
}

impl Pagemap {
    /// Opens it.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// Whether the kernel knows the request at all: scans nothing.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 6.7.
    pub fn probe(&self) -> io::Result<()> {
        self.scan(&mut Scan::new(0..0), &mut []).map(drop)
    }

    /// Shows the runs of pages written since they were last protected, protecting them again.
    ///
    /// # Errors
    /// `EPERM`: part of the range is not registered with a userfaultfd.
    pub fn take_written(
        &self,
        range: Range<usize>,
        each: &mut dyn FnMut(Range<usize>),
    ) -> io::Result<()> {
        let mut scan = Scan::new(range);
        scan.flags = PROTECT_MATCHING | REQUIRE_ASYNC;
        // This pair of masks is the kernel's fast path.
        (scan.category_mask, scan.return_mask) = (IS_WRITTEN, IS_WRITTEN);
        let mut runs = [Run::default(); BATCH];
        while scan.start < scan.end {
            let found = self.scan(&mut scan, &mut runs)?;
            for run in &runs[..found.min(BATCH)] {
                each(run.start as usize..run.end as usize);
            }
            if scan.walk_end <= scan.start {
                return Err(io::Error::other("PAGEMAP_SCAN does not move on"));
            }
            scan.start = scan.walk_end;
        }
        Ok(())
    }

    fn scan(&self, scan: &mut Scan, runs: &mut [Run]) -> io::Result<usize> {
        scan.vec = runs.as_mut_ptr() as u64;
        scan.vec_len = runs.len() as u64;
        // SAFETY: `scan` is the structure that the request names and says its own size; the kernel
        // writes at most `vec_len` runs, and protects pages, which changes no memory contents.
        let found = unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_SCAN, scan as *mut Scan) };
        usize::try_from(found).map_err(|_| io::Error::last_os_error())
    }
}

impl Scan {
    fn new(range: Range<usize>) -> Self {
        let (start, end) = (range.start as u64, range.end as u64);
        Self { size: size_of::<Self>() as u64, start, end, ..Self::default() }
    }
}
