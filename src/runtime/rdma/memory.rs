//! Memory that a device may reach: registered, pinned, counted against a budget.

use super::bindings::*;
use super::device::{Context, Device};
use super::library::VerbError;
use crate::runtime::sys::{MappedMemory, RangeError};
use crate::wire::rdma::RemoteMemory;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one node pins at most. Pinned memory can neither be swapped nor moved, and is taken from all
/// guests of the host.
#[derive(Debug)]
pub struct MemoryBudget {
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self { limit_bytes: AtomicU64::new(limit_bytes), used_bytes: AtomicU64::new(0) })
    }

    /// Changes it; what is registered stays so.
    pub fn set_limit(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Bytes that are registered now.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    fn take(self: &Arc<Self>, length_bytes: u64) -> Result<Lease, RegisterError> {
        let limit_bytes = self.limit_bytes.load(Ordering::Relaxed);
        let grown = |used: u64| used.checked_add(length_bytes).filter(|sum| *sum <= limit_bytes);
        let taken = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        match taken {
            Ok(_) => Ok(Lease { budget: self.clone(), length_bytes }),
            Err(used_bytes) => {
                Err(RegisterError::OverBudget { length_bytes, used_bytes, limit_bytes })
            }
        }
    }
}

/// A part of a budget; given back on drop.
#[derive(Debug)]
struct Lease {
    budget: Arc<MemoryBudget>,
    length_bytes: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.length_bytes, Ordering::Relaxed);
    }
}

/// Memory cannot be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// No such memory.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The node's own limit.
    #[error(
        "{length_bytes} bytes would go over the budget for registered memory: {used_bytes} of \
         {limit_bytes} bytes are in use"
    )]
    OverBudget {
        /// What was asked for.
        length_bytes: u64,
        /// What is in use.
        used_bytes: u64,
        /// The budget.
        limit_bytes: u64,
    },
    /// The process's limit.
    #[error(
        "{length_bytes} bytes cannot be locked: RLIMIT_MEMLOCK is {limit_bytes} bytes, of which \
         {pinned_bytes} are in use; `ulimit -l` or LimitMEMLOCK= raises it"
    )]
    MemoryLock {
        /// What was asked for.
        length_bytes: u64,
        /// The limit.
        limit_bytes: u64,
        /// What this process has pinned.
        pinned_bytes: u64,
    },
    /// The device refused.
    #[error("{length_bytes} bytes cannot be registered: {source}")]
    Verb {
        /// What was asked for.
        length_bytes: u64,
        /// Why.
        source: VerbError,
    },
}

/// Queue pairs and memory that may be used together.
#[derive(Clone, Debug)]
pub struct ProtectionDomain(pub(super) Arc<Domain>);

#[derive(Debug)]
pub(super) struct Domain {
    raw: NonNull<ibv_pd>,
    pub(super) device: Device,
}

// SAFETY: verbs may be called from any thread; the pointer is freed once, by drop.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl ProtectionDomain {
    /// A new domain of the device.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(device: &Device) -> Result<Self, VerbError> {
        let context = &device.0;
        // SAFETY: the context is open, and the domain holds it so.
        let raw = unsafe { context.verbs().ibv_alloc_pd(context.raw()) };
        let raw = context.made("ibv_alloc_pd", raw)?;
        Ok(Self(Arc::new(Domain { raw, device: device.clone() })))
    }

    /// The device that it is of.
    pub fn device(&self) -> &Device {
        &self.0.device
    }
}

impl Domain {
    pub(super) fn raw(&self) -> *mut ibv_pd {
        self.raw.as_ptr()
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.device.0
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: memory and queue pairs of the domain hold it alive, so none is left.
        unsafe { self.context().verbs().ibv_dealloc_pd(self.raw()) };
    }
}

/// What the other side may do with registered memory; this side may do everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// It may read.
    pub remote_read: bool,
    /// It may write. Nobody here may form references into the memory meanwhile, as nobody may while
    /// a guest runs.
    pub remote_write: bool,
}

/// A range of guest memory that the device may reach; the memory stays mapped for as long.
#[derive(Debug)]
pub struct MemoryRegion {
    raw: NonNull<ibv_mr>,
    address: u64,
    local_key: u32,
    remote_key: u32,
    length_bytes: u64,
    pub(super) domain: Arc<Domain>,
    memory: Arc<MappedMemory>,
    lease: Option<Lease>,
}

// SAFETY: verbs may be called from any thread; the pointer is freed once, by drop.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above; all else is read only.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers a range of one region of a guest's memory, which pins it.
    ///
    /// # Errors
    /// The range is not within the region, or goes over the budget, the process's limit, or what the
    /// device can do.
    pub fn register(
        domain: &ProtectionDomain,
        memory: &Arc<MappedMemory>,
        (region, offset_bytes, length_bytes): (usize, u64, u64),
        access: Access,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Arc<Self>, RegisterError> {
        let start = memory.range(region, offset_bytes, length_bytes)?;
        let lease = budget.take(length_bytes)?;
        let domain = domain.0.clone();
        let mut flags = IBV_ACCESS_LOCAL_WRITE;
        flags |= if access.remote_read { IBV_ACCESS_REMOTE_READ } else { 0 };
        flags |= if access.remote_write { IBV_ACCESS_REMOTE_WRITE } else { 0 };
        // SAFETY: the range is mapped, and stays so until the registration is gone, because this
        // value holds the memory. What the device writes there races with copies only, like what a
        // guest writes: see `MappedMemory`.
        let raw = unsafe {
            let start = start.as_ptr().cast();
            let length = length_bytes as usize;
            domain.context().verbs().ibv_reg_mr(domain.raw(), start, length, flags as i32)
        };
        let raw = domain.context().made("ibv_reg_mr", raw);
        let raw = raw.map_err(|source| refused(length_bytes, source))?;
        // SAFETY: the registration was just made; its keys do not change.
        let (local_key, remote_key) = unsafe { (raw.as_ref().lkey, raw.as_ref().rkey) };
        let memory = memory.clone();
        let address = start.as_ptr().addr() as u64;
        Ok(Arc::new(Self {
            raw,
            address,
            local_key,
            remote_key,
            length_bytes,
            domain,
            memory,
            lease: Some(lease),
        }))
    }

    /// A piece of it, to be read or written by this side's work.
    ///
    /// # Errors
    /// It reaches outside.
    pub fn piece(self: &Arc<Self>, offset: u64, length: u32) -> Result<Piece<'_>, PieceError> {
        let (offset_bytes, length_bytes) = (offset, length);
        match offset_bytes.checked_add(length_bytes.into()) {
            Some(end) if end <= self.length_bytes => {
                Ok(Piece { region: self, offset_bytes, length_bytes })
            }
            _ => Err(PieceError { offset_bytes, length_bytes, memory_bytes: self.length_bytes }),
        }
    }

    /// What the other side has to know to reach it.
    pub fn remote(&self) -> RemoteMemory {
        let Self { address, length_bytes, remote_key: key, .. } = *self;
        RemoteMemory { address, length_bytes, key }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: work under way holds the registration, so none of it is left.
        let code = unsafe { self.domain.context().verbs().ibv_dereg_mr(self.raw.as_ptr()) };
        if code != 0 {
            // The device may still write there: the memory stays for as long as the process.
            std::mem::forget((self.memory.clone(), self.lease.take()));
        }
    }
}

/// A piece of registered memory.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub(super) region: &'a Arc<MemoryRegion>,
    offset_bytes: u64,
    pub(super) length_bytes: u32,
}

impl Piece<'_> {
    pub(super) fn entry(&self) -> ibv_sge {
        ibv_sge {
            addr: self.region.address + self.offset_bytes,
            length: self.length_bytes,
            lkey: self.region.local_key,
        }
    }
}

/// A piece reaches outside its memory, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{length_bytes} bytes at offset {offset_bytes} reach outside registered memory of \
     {memory_bytes} bytes"
)]
pub struct PieceError {
    /// Where the piece would start.
    pub offset_bytes: u64,
    /// How long it would be.
    pub length_bytes: u32,
    /// How long the memory is.
    pub memory_bytes: u64,
}

fn refused(length_bytes: u64, source: VerbError) -> RegisterError {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let pinned_bytes = pinned_bytes(&status);
    let over = |limit: &u64| pinned_bytes.saturating_add(length_bytes) > *limit;
    match memory_lock_limit_bytes().filter(over) {
        Some(limit_bytes) if source.source.raw_os_error() == Some(libc::ENOMEM) => {
            RegisterError::MemoryLock { length_bytes, limit_bytes, pinned_bytes }
        }
        _ => RegisterError::Verb { length_bytes, source },
    }
}

/// What this process may lock; none if that is without limit.
fn memory_lock_limit_bytes() -> Option<u64> {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: there is room for the answer.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, limit.as_mut_ptr()) };
    // SAFETY: zeroed, and filled if the call succeeded; any bit pattern is a value.
    let limit_bytes = unsafe { limit.assume_init() }.rlim_cur;
    (code == 0 && limit_bytes != libc::RLIM_INFINITY).then_some(limit_bytes)
}

/// `VmPin` in /proc/self/status: what drivers hold, devices for RDMA among them.
fn pinned_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_budget_is_given_back_and_never_overdrawn() {
        let budget = MemoryBudget::new(100);
        let first = budget.take(60).unwrap();
        let error = budget.take(41).unwrap_err().to_string();
        assert_eq!(
            error,
            "41 bytes would go over the budget for registered memory: 60 of 100 bytes are in use"
        );
        let second = budget.take(40).unwrap();
        assert_eq!(budget.used_bytes(), 100);
        drop((first, second));
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.take(u64::MAX).is_err());
    }

    #[test]
    fn pinned_memory_is_read_from_the_status() {
        assert_eq!(pinned_bytes("VmLck:\t       0 kB\nVmPin:\t     132 kB\n"), 132 << 10);
        assert_eq!(pinned_bytes("Name:\tx\n"), 0);
    }

    #[test]
    fn a_refusal_within_the_limit_is_the_devices_own() {
        let source = io::Error::from_raw_os_error(libc::ENOMEM);
        let error = VerbError { device: "rxe0".into(), call: "ibv_reg_mr", source };
        let text = refused(1, error).to_string();
        let is_limited = memory_lock_limit_bytes() == Some(0);
        assert_eq!(text.contains("RLIMIT_MEMLOCK"), is_limited, "{text}");
        assert_eq!(text.contains("rxe0: ibv_reg_mr"), !is_limited, "{text}");
    }
}
