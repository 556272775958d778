//! Whether the running kernel can track this process's memory, and if not, what exactly is missing.
//!
//! Asking and judging are apart, so that every old or locked-down kernel is a test case.

use super::pagemap::Pagemap;
use super::userfaultfd::{
    FEATURE_ASYNC, FEATURE_SHARED_MEMORY, FEATURE_UNPOPULATED, Faults, Userfaultfd,
};
use std::fmt::Write;
use std::io;

/// The features that tracking turns on, by their bits and names.
pub const REQUIRED_FEATURES: [(u64, &str); 3] = [
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

fn ask() -> Answers {
    let code = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let by_call = Userfaultfd::open(Faults::OfUserMode);
    let by_device = match by_call {
        Ok(_) => Err(libc::ENODEV),
        Err(_) => Userfaultfd::open_device(Faults::OfUserMode).map_err(code),
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
    for (_, name) in REQUIRED_FEATURES.iter().filter(|(bit, _)| features & bit == 0) {
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
}
