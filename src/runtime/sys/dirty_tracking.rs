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
use super::userfaultfd::{FEATURE_ASYNC, FEATURE_SHARED_MEMORY, FEATURE_UNPOPULATED, Userfaultfd};
use std::fmt::Write;
use std::io;
use std::ops::Range;
use std::sync::Arc;

const REQUIRED: [(u64, &str); 3] = [
    (FEATURE_SHARED_MEMORY, "WP_HUGETLBFS_SHMEM"),
    (FEATURE_UNPOPULATED, "WP_UNPOPULATED"),
    (FEATURE_ASYNC, "WP_ASYNC"),
];

/// Why the kernel cannot track writes for this process.
#[derive(Debug, thiserror::Error)]
pub enum TrackingError {
    /// The kernel is too old, or was built without.
    #[error(
        "tracking process memory needs Linux 6.7 or later with CONFIG_USERFAULTFD and \
         CONFIG_PTE_MARKER_UFFD_WP; this is Linux {release}, which lacks {missing}"
    )]
    Kernel {
        /// `uname -r`.
        release: String,
        /// What was not found.
        missing: String,
    },
    /// A filter or policy stands in the way.
    #[error(
        "userfaultfd is not permitted to this process (system call: {call}; /dev/userfaultfd: \
         {device}; vm.unprivileged_userfaultfd: {sysctl}): allow the system call in the seccomp \
         or security policy, or give access to /dev/userfaultfd, or CAP_SYS_PTRACE"
    )]
    Permission {
        /// What the system call answered.
        call: io::Error,
        /// What the device answered.
        device: io::Error,
        /// The setting's value.
        sysctl: String,
    },
    /// The page map cannot be opened.
    #[error("cannot open /proc/self/pagemap: {0}")]
    Pagemap(io::Error),
    /// A region does not start or end at a page border.
    #[error("region {name:?} at {start:#x}..{end:#x} is not aligned to the page size {page_bytes}")]
    Alignment {
        /// The region.
        name: String,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
        /// The host's page size.
        page_bytes: usize,
    },
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

/// What the kernel answered when asked what it can do; the errors are `errno` values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// `uname -r`.
    pub release: String,
    /// The userfaultfd system call.
    pub call: Result<(), i32>,
    /// `/dev/userfaultfd`, asked where the call was refused.
    pub device: Result<(), i32>,
    /// The feature bits, asked where one of the two worked.
    pub features: Result<u64, i32>,
    /// Opening the page map.
    pub pagemap: Result<(), i32>,
    /// The scan request.
    pub scan: Result<(), i32>,
    /// `vm.unprivileged_userfaultfd`.
    pub sysctl: String,
}

/// Which way to a userfaultfd works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The system call.
    Call,
    /// The device.
    Device,
}

/// Whether the running kernel can track this process's memory.
///
/// # Errors
/// [`TrackingError`] says what is missing and what was found.
pub fn probe() -> Result<Support, TrackingError> {
    judge(&ask())
}

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
            Support::Call => Userfaultfd::open(),
            Support::Device => Userfaultfd::open_device(),
        };
        let userfaultfd =
            userfaultfd.map_err(|source| TrackingError::System { call: "userfaultfd", source })?;
        let wanted = REQUIRED.iter().fold(0, |all, (bit, _)| all | bit);
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

fn aligned_range(memory: &MappedMemory, region: usize) -> Result<Range<usize>, TrackingError> {
    let declared = &memory.layout().regions()[region];
    let start = memory.address(region).map_or(0, |start| start.addr());
    let end = start + declared.length_bytes as usize;
    let page_bytes = host_page_bytes();
    if start % page_bytes != 0 || end % page_bytes != 0 {
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

fn ask() -> Answers {
    let code = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let by_call = Userfaultfd::open();
    let by_device = match by_call {
        Ok(_) => Err(libc::ENODEV),
        Err(_) => Userfaultfd::open_device().map_err(code),
    };
    let features = match (&by_call, &by_device) {
        (Ok(opened), _) | (_, Ok(opened)) => opened.enable(0).map_err(code),
        _ => Err(libc::ENODEV),
    };
    let pagemap = Pagemap::open();
    Answers {
        release: kernel_release(),
        scan: pagemap.as_ref().map_or(Ok(()), |pagemap| pagemap.probe().map_err(code)),
        call: by_call.map(drop).map_err(code),
        device: by_device.map(drop),
        features,
        pagemap: pagemap.map(drop).map_err(code),
        sysctl: std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd")
            .map_or_else(|_| "not there".to_owned(), |text| text.trim().to_owned()),
    }
}

fn judge(answers: &Answers) -> Result<Support, TrackingError> {
    let lacks =
        |missing: String| Err(TrackingError::Kernel { release: answers.release.clone(), missing });
    let support = match (answers.call, answers.device) {
        (Ok(()), _) => Support::Call,
        (_, Ok(())) => Support::Device,
        (Err(libc::ENOSYS), Err(libc::ENOENT)) => return lacks("userfaultfd".into()),
        (Err(call), Err(device)) => {
            return Err(TrackingError::Permission {
                call: io::Error::from_raw_os_error(call),
                device: io::Error::from_raw_os_error(device),
                sysctl: answers.sysctl.clone(),
            });
        }
    };
    let features = answers.features.map_err(|code| TrackingError::System {
        call: "UFFDIO_API",
        source: io::Error::from_raw_os_error(code),
    })?;
    let mut missing = String::new();
    for (_, name) in REQUIRED.iter().filter(|(bit, _)| features & bit == 0) {
        let _ =
            write!(missing, "{}UFFD_FEATURE_{name}", if missing.is_empty() { "" } else { ", " });
    }
    if !missing.is_empty() {
        return lacks(missing);
    }
    if let Err(code) = answers.pagemap {
        return Err(TrackingError::Pagemap(io::Error::from_raw_os_error(code)));
    }
    match answers.scan {
        Ok(()) => Ok(support),
        Err(libc::ENOTTY) => lacks("ioctl PAGEMAP_SCAN".into()),
        Err(code) => Err(TrackingError::System {
            call: "PAGEMAP_SCAN",
            source: io::Error::from_raw_os_error(code),
        }),
    }
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn host_page_bytes() -> usize {
    // SAFETY: sysconf has no memory arguments.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLDER: &str = "6.1.0-13-amd64";

    fn able() -> Answers {
        Answers {
            release: OLDER.into(),
            call: Ok(()),
            device: Err(libc::ENODEV),
            features: Ok(FEATURE_ASYNC | FEATURE_UNPOPULATED | FEATURE_SHARED_MEMORY | 1),
            pagemap: Ok(()),
            scan: Ok(()),
            sysctl: "0".into(),
        }
    }

    fn refusal(answers: &Answers) -> String {
        judge(answers).unwrap_err().to_string()
    }

    #[test]
    fn either_way_to_a_descriptor_will_do() {
        assert_eq!(judge(&able()).unwrap(), Support::Call);
        let by_device = Answers { call: Err(libc::EPERM), device: Ok(()), ..able() };
        assert_eq!(judge(&by_device).unwrap(), Support::Device);
    }

    #[test]
    fn an_old_kernel_is_named_with_what_it_lacks_and_what_is_needed() {
        let none = Answers { call: Err(libc::ENOSYS), device: Err(libc::ENOENT), ..able() };
        let wp_only = Answers { features: Ok(FEATURE_SHARED_MEMORY), ..able() };
        let no_scan = Answers { scan: Err(libc::ENOTTY), ..able() };
        for (answers, missing) in [
            (none, "lacks userfaultfd"),
            (wp_only, "lacks UFFD_FEATURE_WP_UNPOPULATED, UFFD_FEATURE_WP_ASYNC"),
            (no_scan, "lacks ioctl PAGEMAP_SCAN"),
        ] {
            let text = refusal(&answers);
            for part in [missing, "Linux 6.7 or later", OLDER] {
                assert!(text.contains(part), "{text} lacks {part}");
            }
        }
    }

    #[test]
    fn a_refusal_names_every_way_out() {
        let (call, device) = (Err(libc::EPERM), Err(libc::EACCES));
        let text = refusal(&Answers { call, device, ..able() });
        for part in ["Operation not permitted", "Permission denied", "seccomp", "CAP_SYS_PTRACE"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
        assert!(text.contains("vm.unprivileged_userfaultfd: 0"), "{text}");
    }

    #[test]
    fn other_answers_are_passed_on() {
        let cases = [
            (Answers { features: Err(libc::EINVAL), ..able() }, "UFFDIO_API: Invalid argument"),
            (Answers { pagemap: Err(libc::ENOENT), ..able() }, "/proc/self/pagemap: No such file"),
            (Answers { scan: Err(libc::EFAULT), ..able() }, "PAGEMAP_SCAN: Bad address"),
        ];
        for (answers, part) in cases {
            assert!(refusal(&answers).contains(part), "{}", refusal(&answers));
        }
    }

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
