//! userfaultfd reduced to asynchronous write protection: the kernel itself lifts the protection at
//! the first write and only remembers that it did, so nobody has to answer faults.
//!
//! Since no fault is ever delivered, a descriptor for user-mode faults is enough, and that one
//! needs no privilege; writes by the kernel on the guest's behalf (vhost, `read`) are tracked too.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `UFFD_FEATURE_WP_HUGETLBFS_SHMEM`: shared memory and huge pages too. Linux 5.19.
pub const FEATURE_SHARED_MEMORY: u64 = 1 << 12;
/// `UFFD_FEATURE_WP_UNPOPULATED`: pages that do not exist yet too. Linux 6.4.
pub const FEATURE_UNPOPULATED: u64 = 1 << 13;
/// `UFFD_FEATURE_WP_ASYNC`: no messages, see above. Linux 6.7.
pub const FEATURE_ASYNC: u64 = 1 << 15;

const API_VERSION: u64 = 0xaa;
const USER_MODE_ONLY: libc::c_int = 1;
const REGISTER_MODE_WRITE_PROTECT: u64 = 1 << 1;
const WRITE_PROTECT: u64 = 1;

const IOCTL_NEW: libc::c_ulong = 0xaa00;
const IOCTL_API: libc::c_ulong = 0xc018_aa3f;
const IOCTL_REGISTER: libc::c_ulong = 0xc020_aa00;
const IOCTL_UNREGISTER: libc::c_ulong = 0x8010_aa01;
const IOCTL_WRITE_PROTECT: libc::c_ulong = 0xc018_aa06;

/// An open userfaultfd.
#[derive(Debug)]
pub struct Userfaultfd(OwnedFd);

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    version: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtect {
    start: u64,
    length: u64,
    mode: u64,
}

impl Userfaultfd {
    /// Opens one by the system call.
    ///
    /// # Errors
    /// `ENOSYS` or `EPERM` where the kernel or a filter does not have it.
    pub fn open() -> io::Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
        // SAFETY: the call has no memory arguments.
        own(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
    }

    /// Opens one by `/dev/userfaultfd`, for containers whose filter refuses the system call.
    ///
    /// # Errors
    /// The device is missing (Linux < 6.1) or not accessible.
    pub fn open_device() -> io::Result<Self> {
        let device = std::fs::File::open("/dev/userfaultfd")?;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
        // SAFETY: the request takes its flags by value.
        own(unsafe { libc::ioctl(device.as_raw_fd(), IOCTL_NEW, flags) }.into())
    }

    /// Agrees on features and returns all that the kernel has; none asked for, none is refused.
    ///
    /// # Errors
    /// `EINVAL` for a feature that the kernel lacks.
    pub fn enable(&self, features: u64) -> io::Result<u64> {
        let mut api = Api { version: API_VERSION, features, ioctls: 0 };
        self.ioctl(IOCTL_API, &mut api)?;
        Ok(api.features)
    }

    /// Lets the range be write-protected.
    ///
    /// # Errors
    /// `EBUSY`: another userfaultfd has it; `EINVAL`: it is not all mapped or not aligned.
    pub fn register(&self, range: &Range<usize>) -> io::Result<()> {
        let (start, length) = (range.start as u64, range.len() as u64);
        let mode = REGISTER_MODE_WRITE_PROTECT;
        self.ioctl(IOCTL_REGISTER, &mut Register { start, length, mode, ioctls: 0 })
    }

    /// Lifts the protection and forgets the range.
    ///
    /// # Errors
    /// The range was never registered.
    pub fn unregister(&self, range: &Range<usize>) -> io::Result<()> {
        self.ioctl(IOCTL_UNREGISTER, &mut [range.start as u64, range.len() as u64])
    }

    /// Protects a registered range: from now on each page remembers its first write.
    ///
    /// # Errors
    /// The range is not registered.
    pub fn write_protect(&self, range: &Range<usize>) -> io::Result<()> {
        let (start, length) = (range.start as u64, range.len() as u64);
        self.ioctl(IOCTL_WRITE_PROTECT, &mut WriteProtect { start, length, mode: WRITE_PROTECT })
    }

    fn ioctl<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        loop {
            // SAFETY: each caller passes the structure that its request names; the kernel checks
            // the addresses in it and changes no memory but the structure itself.
            let code = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument as *mut T) };
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                _ if code == 0 => return Ok(()),
                // The address space is changing at this moment; nothing was done.
                Some(libc::EAGAIN) => std::thread::yield_now(),
                _ => return Err(error),
            }
        }
    }
}

fn own(fd: libc::c_long) -> io::Result<Userfaultfd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(Userfaultfd(unsafe { OwnedFd::from_raw_fd(fd) })),
        _ => Err(io::Error::last_os_error()),
    }
}
