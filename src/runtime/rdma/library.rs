//! libibverbs, opened at run time, and every reason for which there is no RDMA here.

use super::bindings::{Functions, ibv_device};
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The library's name, as the loader knows it.
pub const LIBRARY: &str = "libibverbs.so.1";
/// Where the kernel lists RDMA devices, whether or not libibverbs can drive them.
pub const KERNEL_DEVICES: &str = "/sys/class/infiniband";

/// RDMA is not to be had on this host; a normal answer. Reads well behind "unavailable, because".
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The library cannot be loaded.
    #[error("{library} cannot be loaded (Debian has it in libibverbs1): {reason}")]
    LibraryMissing {
        /// What was asked for.
        library: PathBuf,
        /// The loader's reason.
        reason: String,
    },
    /// The library is too old, or another one.
    #[error("{library} lacks a function; rdma-core 32 is the oldest that will do: {reason}")]
    SymbolMissing {
        /// What was asked for.
        library: PathBuf,
        /// The loader's reason, with the function's name.
        reason: String,
    },
    /// The kernel has no RDMA, or its module is not loaded.
    #[error("the kernel has no RDMA, or ib_uverbs is not loaded: {0}")]
    NoKernelSupport(#[source] io::Error),
    /// No list of devices, for another reason.
    #[error("devices cannot be listed: {0}")]
    NoList(#[source] io::Error),
    /// Neither the kernel nor the library knows a device.
    #[error("there is no RDMA device")]
    NoDevices,
    /// The kernel knows devices that the library cannot drive.
    #[error("libibverbs has no driver for {devices} (Debian has them in ibverbs-providers)")]
    NoDriver {
        /// The kernel's names, with commas.
        devices: String,
    },
    /// This user may not open the device.
    #[error("this user may not open {device} (/dev/infiniband): {source}")]
    NoPermission {
        /// The device.
        device: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A device does not answer.
    #[error(transparent)]
    Device(#[from] VerbError),
    /// Devices are there and answer, but no port is active.
    #[error("no port is active: {ports}")]
    PortDown {
        /// Every port with its state, with commas.
        ports: String,
    },
}

/// A verb failed.
#[derive(Debug, thiserror::Error)]
#[error("{device}: {call}: {source}")]
pub struct VerbError {
    /// The device.
    pub device: String,
    /// The verb.
    pub call: &'static str,
    /// Why.
    pub source: io::Error,
}

/// libibverbs with all functions that are used; stays loaded while anything made by it lives.
pub struct Library(Functions);

impl std::fmt::Debug for Library {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(LIBRARY)
    }
}

impl Library {
    /// Opens the library: [`LIBRARY`], or one at another place.
    ///
    /// # Errors
    /// It is missing, or lacks a function.
    pub fn load(library: &Path) -> Result<Arc<Self>, Unavailable> {
        // SAFETY: libibverbs' constructors only set up its own tables; who names another library
        // answers for that one.
        let opened = unsafe { libloading::Library::new(library) }.map_err(|error| {
            Unavailable::LibraryMissing { library: library.into(), reason: reason_of(&error) }
        })?;
        // SAFETY: the declarations are those of rdma-core's header, whose ABI is stable behind the
        // library's name; symbols stay in this struct, which keeps the library open.
        let functions = unsafe { Functions::from_library(opened) }.map_err(|error| {
            Unavailable::SymbolMissing { library: library.into(), reason: reason_of(&error) }
        })?;
        Ok(Arc::new(Self(functions)))
    }

    pub(super) fn verbs(&self) -> &Functions {
        &self.0
    }

    /// The devices that it can drive; at least one.
    pub(super) fn list(&self) -> Result<DeviceList<'_>, Unavailable> {
        let mut count = 0;
        // SAFETY: the count is a live integer; the list that comes back is ours to free.
        let entries = unsafe { self.0.ibv_get_device_list(&raw mut count) };
        let Some(entries) = NonNull::new(entries) else {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::ENOSYS) => Unavailable::NoKernelSupport(error),
                _ => Unavailable::NoList(error),
            });
        };
        let list =
            DeviceList { library: self, entries, count: usize::try_from(count).unwrap_or(0) };
        if list.count > 0 {
            return Ok(list);
        }
        match kernel_devices(Path::new(KERNEL_DEVICES)) {
            devices if devices.is_empty() => Err(Unavailable::NoDevices),
            devices => Err(Unavailable::NoDriver { devices: devices.join(", ") }),
        }
    }
}

/// Devices that may be opened while the list lives.
pub(super) struct DeviceList<'a> {
    library: &'a Library,
    entries: NonNull<*mut ibv_device>,
    count: usize,
}

impl DeviceList<'_> {
    pub(super) fn entries(&self) -> &[*mut ibv_device] {
        // SAFETY: the library gave an array of so many pointers, which stands until it is freed.
        unsafe { ptr::slice_from_raw_parts(self.entries.as_ptr(), self.count).as_ref() }
            .unwrap_or_default()
    }
}

impl Drop for DeviceList<'_> {
    fn drop(&mut self) {
        // SAFETY: the list came from this library and is freed once.
        unsafe { self.library.0.ibv_free_device_list(self.entries.as_ptr()) };
    }
}

/// The loader's own words, which lie behind the error.
fn reason_of(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn kernel_devices(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_library_says_so() {
        let error = Library::load(Path::new("/no-such-folder/libibverbs.so.1")).unwrap_err();
        assert!(matches!(error, Unavailable::LibraryMissing { .. }), "{error}");
        assert!(error.to_string().starts_with("/no-such-folder/libibverbs.so.1 cannot"), "{error}");
    }

    #[test]
    fn a_library_without_verbs_is_told_from_none() {
        // Every process here has this one, and it knows nothing of RDMA.
        let error = Library::load(Path::new("libc.so.6")).unwrap_err();
        assert!(matches!(error, Unavailable::SymbolMissing { .. }), "{error}");
        assert!(error.to_string().contains("ibv_get_device_list"), "{error}");
    }

    #[test]
    fn devices_of_the_kernel_are_listed_by_name() {
        let folder = std::env::temp_dir().join(format!("dwcp-rdma-{}", std::process::id()));
        for name in ["mlx5_1", "mlx5_0"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        assert_eq!(kernel_devices(&folder), ["mlx5_0", "mlx5_1"]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(kernel_devices(&folder).is_empty());
    }
}
