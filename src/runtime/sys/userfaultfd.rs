//! userfaultfd in two modes.
//!
//! Asynchronous write protection: the kernel itself lifts the protection at the first write and only
//! remembers that it did, so nobody has to answer faults. Since no fault is ever delivered, a
//! descriptor for user-mode faults is enough, and that one needs no privilege; writes by the kernel on
//! the guest's behalf (vhost, `read`) are tracked too.
//!
//! Missing pages: whoever touches one waits until it is placed. Here faults of the kernel must be
//! delivered too, since KVM and system calls touch guest memory in the kernel; a descriptor for
//! user-mode faults alone would make them fail.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `UFFD_FEATURE_WP_HUGETLBFS_SHMEM`: shared memory and huge pages too. Linux 5.19.
pub const FEATURE_SHARED_MEMORY: u64 = 1 << 12;
/// `UFFD_FEATURE_WP_UNPOPULATED`: pages that do not exist yet too. Linux 6.4.
pub const FEATURE_UNPOPULATED: u64 = 1 << 13;
/// `UFFD_FEATURE_WP_ASYNC`: no messages, see above. Linux 6.7.
pub const FEATURE_ASYNC: u64 = 1 << 15;

/// `UFFD_FEATURE_MISSING_SHMEM`: missing pages of shared memory. Linux 4.11.
pub const FEATURE_MISSING_SHARED: u64 = 1 << 5;
/// What a range must allow so that missing pages can be placed in it: `_UFFDIO_WAKE`, `_UFFDIO_COPY`
/// and `_UFFDIO_ZEROPAGE`. Huge pages of hugetlbfs lack the last.
pub const PLACING: u64 = 1 << 2 | 1 << 3 | 1 << 4;

const API_VERSION: u64 = 0xaa;
const USER_MODE_ONLY: libc::c_int = 1;
const REGISTER_MODE_MISSING: u64 = 1;
const REGISTER_MODE_WRITE_PROTECT: u64 = 1 << 1;
const EVENT_PAGE_FAULT: u8 = 0x12;
const MESSAGE_BYTES: usize = 32;
/// Messages taken at once.
const MOST_MESSAGES: usize = 32;
const WRITE_PROTECT: u64 = 1;

const IOCTL_NEW: libc::c_ulong = 0xaa00;
const IOCTL_API: libc::c_ulong = 0xc018_aa3f;
const IOCTL_REGISTER: libc::c_ulong = 0xc020_aa00;
const IOCTL_UNREGISTER: libc::c_ulong = 0x8010_aa01;
const IOCTL_WRITE_PROTECT: libc::c_ulong = 0xc018_aa06;
const IOCTL_WAKE: libc::c_ulong = 0x8010_aa02;
const IOCTL_COPY: libc::c_ulong = 0xc028_aa03;
const IOCTL_ZERO: libc::c_ulong = 0xc020_aa04;

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

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct Zero {
    start: u64,
    length: u64,
    mode: u64,
    zeroed: i64,
}

/// Whose faults a descriptor delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Those of user-mode code; needs no privilege.
    OfUserMode,
    /// Those of the kernel on somebody's behalf too.
    OfAll,
}

impl Faults {
    fn flags(self) -> libc::c_int {
        let mode = if self == Self::OfUserMode { USER_MODE_ONLY } else { 0 };
        libc::O_CLOEXEC | libc::O_NONBLOCK | mode
    }
}

impl Userfaultfd {
    /// Opens one by the system call.
    ///
    /// # Errors
    /// `ENOSYS` or `EPERM` where the kernel or a filter does not have it.
    pub fn open(faults: Faults) -> io::Result<Self> {
        let flags = faults.flags();
        // SAFETY: the call has no memory arguments.
        own(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
    }

    /// Opens one by `/dev/userfaultfd`, for containers whose filter refuses the system call.
    ///
    /// # Errors
    /// The device is missing (Linux < 6.1) or not accessible.
    pub fn open_device(faults: Faults) -> io::Result<Self> {
        let device = std::fs::File::open("/dev/userfaultfd")?;
        let flags = faults.flags();
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

    /// Lets pages of the range be missing: whoever touches one waits until it is placed. Returns what
    /// can be done with the range, which should cover [`PLACING`].
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn register_missing(&self, range: &Range<usize>) -> io::Result<u64> {
        let (start, length) = (range.start as u64, range.len() as u64);
        let mut register = Register { start, length, mode: REGISTER_MODE_MISSING, ioctls: 0 };
        self.ioctl(IOCTL_REGISTER, &mut register)?;
        Ok(register.ioctls)
    }

    /// Copies pages to where they are missing and wakes who waits; returns how many bytes were copied
    /// before the first page that is there already.
    ///
    /// # Errors
    /// The kernel's, such as `ENOENT`: the range is not registered.
    pub fn copy(&self, to: usize, from: &[u8]) -> io::Result<usize> {
        let (length, from) = (from.len() as u64, from.as_ptr() as u64);
        let mut copy = Copy { to: to as u64, from, length, mode: 0, copied: 0 };
        let done = self.ioctl(IOCTL_COPY, &mut copy);
        progress(done, copy.copied, length)
    }

    /// Places pages of zeros, as [`Self::copy`] does.
    ///
    /// # Errors
    /// As [`Self::copy`].
    pub fn zero(&self, range: &Range<usize>) -> io::Result<usize> {
        let (start, length) = (range.start as u64, range.len() as u64);
        let mut zero = Zero { start, length, mode: 0, zeroed: 0 };
        let done = self.ioctl(IOCTL_ZERO, &mut zero);
        progress(done, zero.zeroed, length)
    }

    /// Lets those touch the range again who wait in it.
    ///
    /// # Errors
    /// The range is not registered.
    pub fn wake(&self, range: &Range<usize>) -> io::Result<()> {
        self.ioctl(IOCTL_WAKE, &mut [range.start as u64, range.len() as u64])
    }

    /// Takes the addresses that were touched, without waiting for one.
    ///
    /// # Errors
    /// The descriptor's.
    pub fn take_faults(&self, most: usize, addresses: &mut Vec<usize>) -> io::Result<()> {
        let mut messages = [[0_u8; MESSAGE_BYTES]; MOST_MESSAGES];
        let length = most.min(MOST_MESSAGES) * MESSAGE_BYTES;
        if length == 0 {
            return Ok(());
        }
        // SAFETY: the buffer has at least `length` bytes and lives for the call.
        let read = unsafe { libc::read(self.0.as_raw_fd(), messages.as_mut_ptr().cast(), length) };
        let Ok(read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            let none = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
            return if none.contains(&error.kind()) { Ok(()) } else { Err(error) };
        };
        for message in &messages[..read / MESSAGE_BYTES] {
            let mut address = [0; 8];
            address.copy_from_slice(&message[16..24]);
            if message[0] == EVENT_PAGE_FAULT {
                addresses.push(u64::from_ne_bytes(address) as usize);
            }
        }
        Ok(())
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
                // The address space is changing at this moment. What was done before is done again,
                // which a placement answers by `EEXIST`.
                Some(libc::EAGAIN) => std::thread::yield_now(),
                _ => return Err(error),
            }
        }
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A page that is there already ends a placement, which is no failure.
fn progress(result: io::Result<()>, done: i64, length: u64) -> io::Result<usize> {
    match result {
        Ok(()) => Ok(length as usize),
        Err(_) if done > 0 => Ok(done as usize),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(0),
        Err(error) => Err(error),
    }
}

fn own(fd: libc::c_long) -> io::Result<Userfaultfd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(Userfaultfd(unsafe { OwnedFd::from_raw_fd(fd) })),
        _ => Err(io::Error::last_os_error()),
    }
}
